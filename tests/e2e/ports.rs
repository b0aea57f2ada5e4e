//! Nothing listens on TCP beyond the doors: the one listening socket of every node process is its Flight SQL door.

use std::{collections::BTreeSet, fs};

use greylag_node::demo::Databases;
use greylag_tests::Stage;

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
