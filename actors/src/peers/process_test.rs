//! ractor_cluster between operating system processes: this one, and a child that is this test binary again. (Its
//! registries are global, so nodes that share a process prove nothing.)

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    io::Read,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Weak,
    time::{Duration, Instant},
};

use greylag_protocol::{
    ErrorCode, NodeId,
    messages::control::{CONTROL_BYTES_MAX, ControlRequest},
    state::Role,
};

use crate::{
    NodeCtx,
    fixture::{IGNORE, PATIENCE, answered_by, config, free_ports, mesh, node, panic_now, until, who_are_you},
    node::{Node, PeersKind},
};

/// Tells the child where its data is and which ports the mesh has.
const CHILD: &str = "GREYLAG_TEST_PEER";
const TIMEOUT: Duration = Duration::from_secs(5);

async fn start(dir: &Path, ports: &[u16], which: usize) -> Node {
    let node = node(mesh(config(dir, ports, which)).await, PeersKind::Cluster).await;
    tokio::time::timeout(PATIENCE, node.wait_ready(&[Role::Policy])).await.expect("no roles");
    node
}

/// Not a test: the other process. It ends when its parent does, or is killed.
#[test]
#[ignore = "the child of the test below"]
fn peer() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (dir, ports) = told.split_once(' ').unwrap();
    let ports: Vec<u16> = ports.split(' ').map(|port| port.parse().unwrap()).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let node = runtime.block_on(start(Path::new(dir), &ports, 1));
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(node);
}

struct Peer(Child);

impl Peer {
    fn start(dir: &Path, ports: &[u16]) -> Self {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "peers::process_test::peer", "--ignored", "--nocapture"])
            .env(CHILD, format!("{} {}", dir.display(), ports.join(" ")))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// TCP sockets that a process listens on, as `/proc/net/tcp` writes their addresses.
fn listening(pid: u32) -> Vec<String> {
    let sockets: BTreeSet<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    assert!(!sockets.is_empty(), "a node has at least its UDP socket");
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        for line in std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default().lines().skip(1) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            if columns[3] == "0A" && sockets.contains(columns[9]) {
                found.push(columns[1].to_owned());
            }
        }
    }
    found
}

#[test]
fn calls_between_processes_survive_kills_and_nothing_is_left_of_them() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ctx = runtime.block_on(call_and_kill());
    runtime.block_on(async {
        until("the context is gone", || ctx.upgrade().is_none()).await;
        until("no task is left", || tokio::runtime::Handle::current().metrics().num_alive_tasks() == 0).await;
    });
}

async fn call_and_kill() -> Weak<NodeCtx> {
    let (dir, ports) = (tempfile::tempdir().unwrap(), free_ports(2));
    let mut child = Peer::start(dir.path(), &ports);
    let node = start(dir.path(), &ports, 0).await;
    let peers = node.ctx().peers().unwrap();
    let me = node.ctx().node;
    let other = NodeId(3 - me.0);
    let both = [NodeId(1), NodeId(2)];
    until("both are members", || peers.members(&Role::Policy) == both).await;

    // Both ways, and to itself.
    let ask = |to, role: &'static Role, request| peers.call(to, role, request, TIMEOUT);
    assert_eq!(answered_by(&ask(other, &Role::Policy, who_are_you("")).await.unwrap()), other);
    assert_eq!(answered_by(&ask(me, &Role::Policy, who_are_you("")).await.unwrap()), me);
    let back = who_are_you(&format!("ask {me}"));
    assert_eq!(answered_by(&ask(other, &Role::Coordinator, back).await.unwrap()), me);

    // Nothing but the mesh's UDP port.
    assert_eq!(listening(std::process::id()), [] as [String; 0]);
    assert_eq!(listening(child.0.id()), [] as [String; 0]);

    // A panic over there fails one call, at once, and the role comes back.
    let began = Instant::now();
    let error = ask(other, &Role::Policy, panic_now()).await.unwrap_err();
    assert_eq!((error.code, error.node), (ErrorCode::PeerUnreachable, Some(other)), "{error}");
    assert!(began.elapsed() < TIMEOUT);
    until("it is back", || peers.members(&Role::Policy) == both).await;
    assert_eq!(answered_by(&ask(other, &Role::Policy, who_are_you("")).await.unwrap()), other);

    // What is too long is refused here; what is never answered ends in time.
    let long = who_are_you(&"x".repeat(CONTROL_BYTES_MAX));
    assert_eq!(ask(other, &Role::Policy, long).await.unwrap_err().code, ErrorCode::FrameTooLarge);
    let error = peers.call(other, &Role::Policy, IGNORE, Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Deadline, "{error}");

    // Killed with a call under way.
    for round in 0..2 {
        let pending = {
            let peers = peers.clone();
            tokio::spawn(async move { peers.call(other, &Role::Policy, IGNORE, Duration::from_secs(10)).await })
        };
        tokio::task::yield_now().await;
        let began = Instant::now();
        child.kill();
        until("it is gone", || peers.members(&Role::Policy) == [me]).await;
        eprintln!("round {round}: loss noticed after {:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(8));
        let error = pending.await.unwrap().unwrap_err();
        assert!(matches!(error.code, ErrorCode::PeerUnreachable | ErrorCode::Deadline), "{error}");
        let error = ask(other, &Role::Policy, ControlRequest::Probe).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::PeerUnreachable);

        let began = Instant::now();
        child = Peer::start(dir.path(), &ports);
        until("it is back", || peers.members(&Role::Policy) == both).await;
        eprintln!("round {round}: back after {:?}", began.elapsed());
        assert_eq!(answered_by(&ask(other, &Role::Policy, who_are_you("")).await.unwrap()), other);
        let back = who_are_you(&format!("ask {me}"));
        assert_eq!(answered_by(&ask(other, &Role::Coordinator, back).await.unwrap()), me);
    }
    node.shutdown().await;
    node.ctx().mesh.shutdown().await;
    assert_eq!(peers.members(&Role::Policy), []);
    std::sync::Arc::downgrade(node.ctx())
}
