//! What a mesh outlives, with real processes and the command line: another authority taking over under load, the loss of
//! every disk with a snapshot saved before, voters that leave. And what a token's roles and a register's versions promise.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use greylag_config::NodeConfig;
use greylag_node::{
    assembly::ADMIN_TOKEN_FILE,
    demo::{Databases, DemoMesh, NodeProcess, first_integer, free_port, texts},
};
use greylag_protocol::statement::{AdminCall, AdminReply};
use greylag_tests::{Stage, binary, greylag, stderr_of_failure, stdout_of};
use tokio::task::JoinSet;

use crate::membership::{at, joiner, mesh, refused, token_with};

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
/// One statement that every source has a part in.
const SQL: &str = "SELECT count(*) FROM lineitem JOIN orders ON l_orderkey = o_orderkey JOIN nation ON n_nationkey = 1";

/// Asks one door again and again, every other time by a new connection, until told to stop. Returns how often.
async fn keep_asking(door: String, bearer: String, expected: i64, stop: Arc<AtomicBool>) -> anyhow::Result<u64> {
    let options = greylag_protocol::statement::SessionOptions::default();
    let connect = || greylag_node::cli::Connection::with_options(&door, &bearer, options.clone());
    let (mut connection, mut asked) = (connect().await?, 0);
    while !stop.load(Ordering::Relaxed) {
        if asked % 2 == 0 {
            connection = connect().await.with_context(|| format!("{door}, after {asked} answers"))?;
        }
        let rows = connection.query(SQL).await.with_context(|| format!("{door}, after {asked} answers"))?;
        anyhow::ensure!(first_integer(&rows) == Some(expected), "{door}: another answer after {asked}");
        asked += 1;
    }
    Ok(asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_takes_over_twice_and_no_statement_at_any_door_fails() -> anyhow::Result<()> {
    let mut stage = Stage::set(&Databases::default()).await?;
    let old_token = token_with(&stage.mesh, &["--uses", "5"]);
    let expected = first_integer(&stage.mesh.connection(0).await?.query(SQL).await?).context("no count")?;
    let (bearer, stop, mut asking) = (stage.mesh.token()?, Arc::new(AtomicBool::new(false)), JoinSet::new());
    for index in 0..3 {
        asking.spawn(keep_asking(stage.mesh.door(index)?, bearer.clone(), expected, stop.clone()));
    }
    let rotate = ["ca", "rotate", "--overlap-secs", "3"];
    assert!(at(&stage.mesh, &rotate).contains("a new authority takes over"));
    let door = stage.mesh.door(0)?;
    let again = || greylag(&[&rotate[..], &["--server", &door, "--token", &bearer]].concat());
    assert!(stderr_of_failure(&again()).contains("GL4014"), "one is taking over already");
    // The next may follow once every member has a certificate of the first and the former is trusted no more.
    let began = Instant::now();
    while !again().status.success() {
        anyhow::ensure!(began.elapsed() < PATIENCE, "the first rotation does not end");
        anyhow::ensure!(asking.try_join_next().is_none(), "a statement has failed");
        tokio::time::sleep(LOOK).await;
    }
    println!("rotation_ended_ms={}", began.elapsed().as_millis());
    let fresh = joiner(&stage.mesh, stage.dir.path(), "fresh", &token_with(&stage.mesh, &[]))?;
    let mut fresh = NodeProcess::prepare(fresh, &binary())?;
    fresh.start()?;
    let joined = "SELECT 1 FROM system.roles r JOIN system.nodes n ON n.id = r.node \
                  WHERE n.name = 'fresh' AND n.status = 'up' AND r.role = 'coordinator' AND r.held";
    stage.mesh.wait_rows(joined).await?;
    // It serves what the others serve, through its own door.
    let door = fresh.config.flight.context("no door")?.to_string();
    stage.mesh.processes.push(fresh);
    stage.mesh.wait_rows_at(3, SQL).await?;
    let answer = greylag(&["sql", "-c", SQL, "--format", "csv", "--server", &door, "--token", &bearer]);
    assert!(stdout_of(&answer).lines().any(|line| line == expected.to_string()));
    // A token of two authorities ago pins one that nobody can prove any more.
    let late = refused(joiner(&stage.mesh, stage.dir.path(), "late", &old_token)?);
    assert!(late.contains("GL4002") || late.contains("GL4004"), "{late}");

    stop.store(true, Ordering::Relaxed);
    let mut counts = Vec::new();
    while let Some(asked) = asking.join_next().await {
        counts.push(asked??);
    }
    println!("statements at each door: {counts:?}");
    anyhow::ensure!(counts.len() == 3 && counts.iter().all(|asked| *asked >= 5), "too few to tell: {counts:?}");
    Ok(())
}

/// What `snapshot restore` has to bring back, as SQL and the command line tell it.
async fn told(mesh: &DemoMesh) -> anyhow::Result<Vec<String>> {
    let connection = mesh.connection(0).await?;
    let sources = "SELECT name || ' ' || kind || ' ' || CAST(version AS VARCHAR) || ' ' || options || ' ' || labels \
                   FROM system.sources ORDER BY name";
    let mut told = texts(&connection.query(sources).await?, 0)?;
    told.push(at(mesh, &["register", "get", "motto"]));
    told.push(at(mesh, &["register", "get", "flights"]));
    let AdminReply::Tokens(tokens) = connection.admin(&AdminCall::ListJoinTokens).await? else {
        anyhow::bail!("an unexpected answer")
    };
    told.extend(tokens.iter().map(|token| format!("{token:?}")));
    told.push(format!("{:?}", first_integer(&connection.query(SQL).await?)));
    Ok(told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_whose_disks_are_all_lost_is_restored_from_a_snapshot() -> anyhow::Result<()> {
    let mut stage = Stage::set(&Databases::default()).await?;
    at(&stage.mesh, &["register", "set", "motto", "geese fly far"]);
    at(&stage.mesh, &["register", "add", "flights", "41"]);
    at(&stage.mesh, &["register", "add", "flights"]);
    let join = token_with(&stage.mesh, &["--uses", "3"]);
    let (before, bearer) = (told(&stage.mesh).await?, stage.mesh.token()?);
    let (file, name) = (stage.dir.path().join("saved"), stage.dir.path().join("saved").to_string_lossy().into_owned());
    assert!(at(&stage.mesh, &["snapshot", "save", &name]).contains("3 sources, 3 members"));
    let again = greylag(&["snapshot", "save", &name, "--server", &stage.mesh.door(0)?, "--token", &bearer]);
    assert!(stderr_of_failure(&again).contains("saved"), "it is not written over");
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    }
    for process in &mut stage.mesh.processes {
        process.kill()?;
        std::fs::remove_dir_all(&process.config.data_dir)?;
    }

    let data_dir = stage.dir.path().join("reborn");
    let restore = |dir: &Path| greylag(&["snapshot", "restore", &name, "--data-dir", &dir.to_string_lossy()]);
    assert!(stdout_of(&restore(&data_dir)).contains("with 3 sources is ready to begin"));
    assert!(!restore(&data_dir).status.success(), "it is not empty any more");
    let first = NodeConfig {
        name: "reborn".into(),
        mesh: "demo".into(),
        data_dir,
        listen: ([127, 0, 0, 1], free_port()?).into(),
        flight: Some(([127, 0, 0, 1], free_port()?).into()),
        ..NodeConfig::default()
    };
    let mut mesh = DemoMesh { processes: vec![NodeProcess::prepare(first, &binary())?] };
    mesh.processes[0].start()?;
    mesh.wait_up(1).await?;
    mesh.wait_rows(SQL).await?;
    assert_eq!(told(&mesh).await?, before);
    // Bearer tokens and join tokens of before are good: it has the same keys.
    let asked = greylag(&["sql", "-c", "SELECT 1", "--server", &mesh.door(0)?, "--token", &bearer]);
    stdout_of(&asked);
    let mut second = NodeProcess::prepare(joiner(&mesh, stage.dir.path(), "second", &join)?, &binary())?;
    second.start()?;
    let ids = "SELECT CAST(id AS VARCHAR) FROM system.nodes WHERE name = 'second' AND status = 'up'";
    assert_eq!(texts(&mesh.wait_rows(ids).await?, 0)?, ["n5"], "no id is given again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_does_nothing_but_what_its_token_allows() -> anyhow::Result<()> {
    let mut stage = Stage::set(&Databases::default()).await?;
    let token = token_with(&stage.mesh, &["--role", "edge:shop"]);
    let config = joiner(&stage.mesh, stage.dir.path(), "limited", &token)?;
    let door = config.flight.context("no door")?.to_string();
    let mut limited = NodeProcess::prepare(config, &binary())?;
    limited.start()?;
    let up = "SELECT CAST(id AS VARCHAR) FROM system.nodes WHERE name = 'limited' AND status = 'up'";
    let id = texts(&stage.mesh.wait_rows(up).await?, 0)?.remove(0);
    // Every source wants as many edges as there are nodes, and two of the other three nodes leave.
    let connection = stage.mesh.connection(0).await?;
    for placed in &mut stage.placed {
        placed.spec.replicas = 4;
        connection.admin(&AdminCall::ApplySource { spec: placed.spec.clone(), expect_version: None }).await?;
    }
    let held = format!("SELECT role FROM system.roles WHERE node = '{id}' AND held ORDER BY role");
    assert_eq!(texts(&stage.mesh.wait_rows(&held).await?, 0)?, ["edge/shop"]);
    let others = "SELECT CAST(id AS VARCHAR) FROM system.nodes WHERE name IN ('node2', 'node3') ORDER BY name";
    for other in texts(&connection.query(others).await?, 0)? {
        assert_eq!(at(&stage.mesh, &["node", "drain", &other]).trim(), format!("drained {other}"));
    }
    assert_eq!(texts(&connection.query(&held).await?, 0)?, ["edge/shop"]);
    let votes = format!("SELECT 1 FROM system.nodes WHERE id = '{id}' AND NOT voter");
    assert_eq!(connection.query(&votes).await?.iter().map(|batch| batch.num_rows()).sum::<usize>(), 1);
    assert!(first_integer(&connection.query("SELECT count(*) FROM orders").await?) > Some(0));
    // Its door is open, and no coordinator is behind it.
    let bearer = stage.mesh.token()?;
    let options = greylag_protocol::statement::SessionOptions::default();
    let connection = greylag_node::cli::Connection::with_options(&door, &bearer, options).await;
    let connection = connection.with_context(|| limited.ended().unwrap_or_else(|| "it runs".into()))?;
    assert_eq!(connection.query("SELECT 1").await.unwrap_err().code, greylag_protocol::ErrorCode::ShuttingDown);
    assert!(!limited.config.data_dir.join(ADMIN_TOKEN_FILE).exists(), "it does not keep the authority");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_votes_later_writes_its_admin_token_then() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut mesh = mesh(dir.path()).await?;
    let mut fourth = NodeProcess::prepare(joiner(&mesh, dir.path(), "fourth", &token_with(&mesh, &[]))?, &binary())?;
    fourth.start()?;
    mesh.wait_rows("SELECT 1 FROM system.nodes WHERE name = 'fourth' AND status = 'up' AND NOT voter").await?;
    let file = fourth.config.data_dir.join(ADMIN_TOKEN_FILE);
    assert!(!file.exists());
    // A voter leaves for good, and its seat goes to the one that does not vote yet.
    let leaving = "SELECT CAST(id AS VARCHAR) FROM system.nodes WHERE name = 'node3'";
    let id = texts(&mesh.wait_rows(leaving).await?, 0)?.remove(0);
    at(&mesh, &["node", "remove", &id]);
    mesh.processes.truncate(2);
    mesh.wait_rows("SELECT 1 FROM system.nodes WHERE name = 'fourth' AND voter").await?;
    let began = Instant::now();
    while !file.exists() {
        anyhow::ensure!(began.elapsed() < PATIENCE, "a voter has written no admin token");
        tokio::time::sleep(LOOK).await;
    }
    // It is good for an administrator's work, at the node's own door.
    let (door, data_dir) = (fourth.config.flight.context("no door")?.to_string(), file.parent().context("no folder")?);
    let target = ["--server", door.as_str(), "--data-dir", &data_dir.to_string_lossy()];
    assert_eq!(stdout_of(&greylag(&[&["register", "add", "seen"][..], &target].concat())), "1\t1\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn registers_are_one_for_all_doors() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mesh = mesh(dir.path()).await?;
    let bearer = mesh.token()?;
    let doors = [0, 1, 2].map(|index| mesh.door(index).unwrap());
    let run = |index: usize, what: &[&str]| {
        greylag(&[&["register"], what, &["--server", &doors[index], "--token", &bearer]].concat())
    };
    let said = |index: usize, what: &[&str]| stdout_of(&run(index, what));
    assert!(!run(0, &["get", "motto"]).status.success(), "there is none yet");
    assert_eq!(said(0, &["cas", "motto", "fly", "--version", "0"]), "fly\t1\n");
    assert!(stderr_of_failure(&run(1, &["cas", "motto", "swim", "--version", "0"])).contains("GL4008"));
    assert_eq!(said(1, &["cas", "motto", "fly far", "--value-is", "fly"]), "fly far\t2\n");
    for index in 0..3 {
        assert_eq!(said(index, &["get", "motto"]), "fly far\t2\n", "what was written is read at once, everywhere");
    }
    // Counted at all doors at once, nothing is lost and nothing is counted twice.
    let counting: Vec<_> = (0..12)
        .map(|n| {
            let (door, bearer) = (doors[n % 3].clone(), bearer.clone());
            std::thread::spawn(move || {
                stdout_of(&greylag(&["register", "add", "flights", "5", "--server", &door, "--token", &bearer]))
            })
        })
        .collect();
    counting.into_iter().for_each(|thread| drop(thread.join().unwrap()));
    assert!(said(2, &["get", "flights"]).starts_with("60\t"));
    assert!(said(0, &["add", "flights", "-61"]).starts_with("-1\t"));
    assert_eq!(said(1, &["remove", "motto"]), "removed\n");
    assert!(!run(2, &["get", "motto"]).status.success());
    let reader = at(&mesh, &["token", "bearer", "reader"]).trim().to_owned();
    let denied = greylag(&["register", "set", "motto", "no", "--server", &doors[0], "--token", &reader]);
    assert!(stderr_of_failure(&denied).contains("GL2003"));
    Ok(())
}
