//! The command line as a person uses it, on a mesh of one, and every example of the README.

use std::{
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use greylag_node::demo::free_port;
use greylag_tests::{binary, greylag, stderr_of_failure, stdout_of};

const PATIENCE: Duration = Duration::from_secs(60);

/// `greylag node --dev`, killed with the test.
struct DevNode {
    child: Child,
    door: String,
    data_dir: String,
}

impl DevNode {
    fn start(dir: &Path) -> Self {
        let (door, mesh) = (free_port().unwrap(), free_port().unwrap());
        let data_dir = dir.join("node").to_string_lossy().into_owned();
        let child = Command::new(binary())
            .args(["node", "--dev", "--data-dir", &data_dir])
            .args(["--set", &format!("flight=127.0.0.1:{door}"), "--set", &format!("listen=127.0.0.1:{mesh}")])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.join("node.log")).unwrap())
            .spawn()
            .unwrap();
        let node = Self { child, door: format!("127.0.0.1:{door}"), data_dir };
        let started = Instant::now();
        while !node.sql("SELECT 1", "csv").status.success() {
            assert!(started.elapsed() < PATIENCE, "{}", std::fs::read_to_string(dir.join("node.log")).unwrap());
            std::thread::sleep(Duration::from_millis(50));
        }
        node
    }

    fn sql(&self, sql: &str, format: &str) -> std::process::Output {
        greylag(&["sql", "-c", sql, "--format", format, "--server", &self.door, "--data-dir", &self.data_dir])
    }

    /// What statements from standard input print, one after the other in one session.
    fn script(&self, statements: &str) -> String {
        let mut child = Command::new(binary())
            .args(["sql", "--format", "csv", "--server", &self.door, "--data-dir", &self.data_dir])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(statements.as_bytes()).unwrap();
        stdout_of(&child.wait_with_output().unwrap())
    }

    fn wait_rows(&self, sql: &str) {
        let started = Instant::now();
        loop {
            let output = self.sql(sql, "csv");
            if output.status.success() && String::from_utf8_lossy(&output.stdout).lines().count() > 1 {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{sql}: {}", String::from_utf8_lossy(&output.stderr));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for DevNode {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn formats_status_apply_and_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let node = DevNode::start(dir.path());
    let lake = dir.path().join("lake");
    std::fs::create_dir(&lake).unwrap();
    std::fs::write(lake.join("pets.csv"), "name,legs\ncat,4\nhen,2\n\"a \"\"b\"\"\",\n").unwrap();
    let yaml = dir.path().join("sources.yaml");
    std::fs::write(
        &yaml,
        format!("kind: Source\nname: farm\nconnector: files\noptions:\n  path: {}\n", lake.display()),
    )
    .unwrap();
    let apply = ["apply", "-f", yaml.to_str().unwrap(), "--server", &node.door, "--data-dir", &node.data_dir];
    assert!(stdout_of(&greylag(&apply)).contains("source farm: applied, version 1"));
    assert!(stdout_of(&greylag(&apply)).contains("unchanged"));
    node.wait_rows("SELECT 1 FROM system.tables WHERE source = 'farm' AND error IS NULL");

    let sql = "SELECT name, legs FROM pets ORDER BY name";
    assert_eq!(stdout_of(&node.sql(sql, "csv")), "name,legs\n\"a \"\"b\"\"\",\ncat,4\nhen,2\n");
    let json = stdout_of(&node.sql(sql, "json"));
    assert_eq!(json.lines().nth(1), Some(r#"{"name":"cat","legs":4}"#));
    assert!(stdout_of(&node.sql(sql, "table")).contains("│ hen"));
    let arrow = node.sql(sql, "arrow");
    let reader = arrow::ipc::reader::StreamReader::try_new(arrow.stdout.as_slice(), None).unwrap();
    assert_eq!(reader.map(|b| b.unwrap().num_rows()).sum::<usize>(), 3);

    let status = stdout_of(&greylag(&["status", "--server", &node.door, "--data-dir", &node.data_dir]));
    for word in ["nodes", "coordinator", "edge/farm", "farm"] {
        assert!(status.contains(word), "{status}");
    }
    // As with `| head`: whoever has read enough is no error.
    for command in [&["status"][..], &["sql", "-c", "SELECT * FROM system.actors", "--format", "csv"]] {
        let mut child = Command::new(binary())
            .args(command)
            .args(["--server", &node.door, "--data-dir", &node.data_dir])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(141), "{command:?}");
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "", "{command:?}");
    }
    for table in ["nodes", "roles", "sources", "tables", "queries", "subqueries", "actors", "bounds"] {
        let rows = stdout_of(&node.sql(&format!("SELECT * FROM system.{table}"), "csv"));
        assert!(rows.lines().count() > 1, "system.{table} is empty");
    }
    let explained = stdout_of(&node.sql("EXPLAIN SELECT name FROM pets WHERE legs = 4", "table"));
    for word in ["farm", "SELECT", "R0"] {
        assert!(explained.contains(word), "{explained}");
    }
    assert_eq!(stdout_of(&node.sql("SELECT * FROM system.circuits", "csv")).lines().count(), 1, "no source has failed");
    let settings =
        "SET greylag.delivery = 'spooled'; SHOW greylag.delivery; RESET greylag.delivery; SHOW greylag.delivery";
    assert_eq!(node.script(settings), "greylag.delivery\nspooled\ngreylag.delivery\nstreamed\n");
    let job = |what: &[&str]| {
        let target = ["--server", &node.door, "--data-dir", &node.data_dir];
        greylag(&[&["job"], what, &target].concat())
    };
    let handle = stdout_of(&job(&["submit", "-c", sql])).trim().to_owned();
    assert_eq!(stdout_of(&job(&["poll", &handle, "--wait"])), "done: 3 rows\n");
    assert_eq!(stdout_of(&job(&["fetch", &handle, "--format", "csv"])), stdout_of(&node.sql(sql, "csv")));
    assert_eq!(stdout_of(&job(&["cancel", &handle])), "cancelled\n");
    assert!(stderr_of_failure(&job(&["submit", "-c", "SELEC 1"])).contains("GL1001"));
    for (sql, code) in [("SELEC 1", "GL1001"), ("SELECT * FROM nope", "GL1002"), ("DROP TABLE pets", "GL1006")] {
        let said = stderr_of_failure(&node.sql(sql, "csv"));
        assert!(said.contains(code), "{said}");
    }
    // A bearer of no role may ask what a policy permits, but not change anything.
    let bearer = ["token", "bearer", "reader", "--server", &node.door, "--data-dir", &node.data_dir];
    let reader = stdout_of(&greylag(&bearer)).trim().to_owned();
    let ask = || greylag(&["sql", "-c", sql, "--server", &node.door, "--token", &reader]);
    assert!(stderr_of_failure(&ask()).contains("GL2003"));
    let policy = dir.path().join("policy.yaml");
    let text = "permit (principal == User::\"reader\", action == Action::\"select\", resource);";
    std::fs::write(&policy, format!("kind: Policy\nname: readers\ntext: '{text}'\n")).unwrap();
    let target = ["--server", &node.door, "--data-dir", &node.data_dir];
    stdout_of(&greylag(&[&["apply", "-f", policy.to_str().unwrap()][..], &target].concat()));
    assert!(stdout_of(&ask()).contains("cat"));
    let denied = greylag(&["apply", "-f", yaml.to_str().unwrap(), "--server", &node.door, "--token", &reader]);
    assert!(stderr_of_failure(&denied).contains("GL2003"));
    let nobody = greylag(&["sql", "-c", sql, "--server", &node.door, "--token", "nonsense"]);
    assert!(stderr_of_failure(&nobody).contains("GL2001"));
}

#[test]
fn a_configuration_mistake_is_named() {
    let said = stderr_of_failure(&greylag(&["node", "--set", "limits.queue_statement_max=1"]));
    assert!(said.contains("GL6001") && said.contains("did you mean `limits.queue_statements_max`?"), "{said}");
}

/// The README's `sh` blocks after `<!-- tested -->`, run as one script in an empty folder with `greylag` in the path.
#[test]
fn the_readme_examples_work() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let blocks: Vec<&str> =
        readme.split("<!-- tested -->\n```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!blocks.is_empty(), "the README has no tested example");
    let dir = tempfile::tempdir().unwrap();
    let path = format!("{}:{}", binary().parent().unwrap().display(), std::env::var("PATH").unwrap());
    let script = format!("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null' EXIT\n{}", blocks.join("\n"));
    let output = Command::new("bash").args(["-c", &script]).current_dir(dir.path()).env("PATH", path).output().unwrap();
    let printed = stdout_of(&output);
    assert!(printed.contains("Ada"), "{printed}");
}
