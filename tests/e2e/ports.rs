//! Nothing listens on TCP beyond the doors: the one listening socket of every node process is its Flight SQL door, and
//! the page of figures where that is configured.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use greylag_config::NodeConfig;
use greylag_node::demo::{Databases, NodeProcess, free_port};
use greylag_tests::{Stage, binary};

/// State of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// 127.0.0.1, as the kernel prints it.
const LOOPBACK: &str = "0100007F";

/// Addresses (as the kernel prints them) on which a process listens.
fn listening(pid: u32) -> BTreeSet<(String, u16)> {
    let inodes: BTreeSet<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
        .collect();
    let mut found = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[3] == LISTEN && inodes.contains(fields[9]) {
                let (address, port) = fields[1].rsplit_once(':').unwrap();
                found.insert((address.to_owned(), u16::from_str_radix(port, 16).unwrap()));
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_listens_on_tcp_but_the_doors() -> anyhow::Result<()> {
    let stage = Stage::set(&Databases::default()).await?;
    for process in &stage.mesh.processes {
        let door = process.config.flight.unwrap().port();
        let sockets = listening(process.pid().unwrap());
        assert_eq!(sockets, BTreeSet::from([(LOOPBACK.to_owned(), door)]));
    }
    Ok(())
}

/// What the page says; nothing while it does not answer.
fn page(port: u16) -> String {
    let mut reply = String::new();
    let asked = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
        stream.read_to_string(&mut reply)
    });
    if asked.is_ok() { reply } else { String::new() }
}

#[test]
fn the_page_of_figures_opens_only_where_it_is_configured() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (door, figures) = (free_port()?, free_port()?);
    let config = NodeConfig {
        name: "figures".into(),
        data_dir: dir.path().join("figures"),
        listen: ([127, 0, 0, 1], free_port()?).into(),
        flight: Some(([127, 0, 0, 1], door).into()),
        metrics: Some(([127, 0, 0, 1], figures).into()),
        dev: true,
        ..NodeConfig::default()
    };
    let mut process = NodeProcess::prepare(config, &binary())?;
    process.start()?;
    let started = Instant::now();
    let shown = loop {
        let shown = page(figures);
        // The address is taken before the node runs, and the limits of a role are there once it has been taken.
        if shown.contains("limits.queue_statements_max") {
            break shown;
        }
        anyhow::ensure!(started.elapsed() < Duration::from_secs(60), "{shown}\n{:?}", process.ended());
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(shown.starts_with("HTTP/1.1 200 OK\r\n"), "{shown}");
    assert!(shown.contains(r#"greylag_bound_max{name="limits.queue_statements_max",of=""} 256"#), "{shown}");
    assert!(shown.contains("# TYPE greylag_waiting_statements gauge"), "{shown}");
    let expected = [door, figures].map(|port| (LOOPBACK.to_owned(), port));
    assert_eq!(listening(process.pid().unwrap()), BTreeSet::from(expected));
    Ok(())
}
