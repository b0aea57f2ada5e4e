//! Whole nodes on the real mesh, several in this process: roles by placement, calls by streams, and an end that leaves
//! nothing behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use greylag_governance::quota::{CREDIT, Usage};
use greylag_protocol::{
    ErrorCode, NodeId, SourceName,
    messages::control::{CONTROL_BYTES_MAX, ControlReply, ControlRequest},
    principal::{Principal, PrincipalKind},
    state::{Command, Period, QuotaCommand, QuotaKey, Role, SourceSpec},
};

use crate::{
    NodeCtx,
    fixture::{IGNORE, PATIENCE, answered_by, config, free_ports, mesh, node, panic_now, parts, until, who_are_you},
    node::{Node, PeersKind},
    peers::Peers,
};

const EVERY: [Role; 3] = [Role::Coordinator, Role::Planner, Role::Policy];
const TIMEOUT: Duration = Duration::from_secs(5);

struct Pair {
    nodes: [Node; 2],
    _dir: tempfile::TempDir,
}

impl Pair {
    async fn start() -> Self {
        let (dir, ports) = (tempfile::tempdir().unwrap(), free_ports(2));
        let (one, two) = tokio::join!(mesh(config(dir.path(), &ports, 0)), mesh(config(dir.path(), &ports, 1)));
        let mut nodes = [node(one, PeersKind::Stream).await, node(two, PeersKind::Stream).await];
        nodes.sort_by_key(|node| node.ctx().node);
        for node in &nodes {
            tokio::time::timeout(PATIENCE, node.wait_ready(&EVERY)).await.expect("no roles");
        }
        Self { nodes, _dir: dir }
    }

    fn peers(&self, which: usize) -> Arc<dyn Peers> {
        self.nodes[which].ctx().peers().unwrap()
    }

    async fn both_see_both(&self) {
        for which in [0, 1] {
            let peers = self.peers(which);
            until("both are members", || peers.members(&Role::Policy) == [NodeId(1), NodeId(2)]).await;
        }
    }

    async fn stop(self) {
        for node in &self.nodes {
            node.shutdown().await;
            node.ctx().mesh.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_reach_the_role_they_are_for_on_either_node() {
    let pair = Pair::start().await;
    pair.both_see_both().await;
    for (from, to) in [(0, 1), (1, 0), (0, 0), (1, 1)] {
        let to = pair.nodes[to].ctx().node;
        let reply = pair.peers(from).call(to, &Role::Policy, who_are_you(""), TIMEOUT).await.unwrap();
        assert_eq!(answered_by(&reply), to);
    }
    // An actor that is asked may ask on.
    let reply = pair.peers(0).call(NodeId(2), &Role::Coordinator, who_are_you("ask n1"), TIMEOUT).await.unwrap();
    assert_eq!(answered_by(&reply), NodeId(1));
    // What cannot be: a role that nobody has, a request over the limit, an answer that never comes.
    let nobody = Role::Edge(SourceName::new("nowhere").unwrap());
    for to in [NodeId(1), NodeId(2), NodeId(9)] {
        let error = pair.peers(0).call(to, &nobody, ControlRequest::Probe, TIMEOUT).await.unwrap_err();
        assert_eq!((error.code, error.node), (ErrorCode::PeerUnreachable, Some(to)), "{error}");
    }
    let long = "x".repeat(CONTROL_BYTES_MAX);
    let error = pair.peers(0).call(NodeId(2), &Role::Policy, who_are_you(&long), TIMEOUT).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::FrameTooLarge);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_panics_fails_one_call_and_is_back() {
    let pair = Pair::start().await;
    pair.both_see_both().await;
    for from in [0, 1] {
        let began = Instant::now();
        let error = pair.peers(from).call(NodeId(2), &Role::Policy, panic_now(), TIMEOUT).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::PeerUnreachable, "{error}");
        assert!(began.elapsed() < TIMEOUT, "the caller was told, not left to wait");
        let node = &pair.nodes[1];
        let row = || node.ctx().tree().snapshot().into_iter().find(|row| row.name == "policy").unwrap();
        until("it is back", || row().state == "running" && row().restarts == from as u32 + 1).await;
        assert_eq!(row().supervisor, "roles");
        assert!(row().last_failure.is_some_and(|failure| failure.contains("told to panic")));
        let reply = pair.peers(from).call(NodeId(2), &Role::Policy, who_are_you(""), TIMEOUT).await.unwrap();
        assert_eq!(answered_by(&reply), NodeId(2));
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_gone_is_no_member_and_answers_nothing() {
    let pair = Pair::start().await;
    pair.both_see_both().await;
    let peers = pair.peers(0);
    pair.nodes[1].shutdown().await;
    let began = Instant::now();
    let error = peers.call(NodeId(2), &Role::Policy, who_are_you(""), Duration::from_secs(2)).await.unwrap_err();
    let expected = [ErrorCode::PeerUnreachable, ErrorCode::Deadline, ErrorCode::ShuttingDown];
    assert!(expected.contains(&error.code), "{error}");
    assert!(began.elapsed() < Duration::from_secs(3));
    pair.nodes[1].ctx().mesh.shutdown().await;
    until("it is gone", || peers.members(&Role::Policy) == [NodeId(1)]).await;
    let error = peers.call(NodeId(2), &Role::Policy, who_are_you(""), TIMEOUT).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::PeerUnreachable);
    pair.nodes[0].shutdown().await;
    pair.nodes[0].ctx().mesh.shutdown().await;
}

/// A mesh of one, with its node.
async fn alone(dir: &tempfile::TempDir) -> Node {
    let mut config = config(dir.path(), &free_ports(1), 0);
    (config.dev, config.seeds) = (true, Vec::new());
    let node = node(mesh(config).await, PeersKind::Stream).await;
    tokio::time::timeout(PATIENCE, node.wait_ready(&EVERY)).await.expect("no roles");
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_comes_with_its_source_changes_with_it_and_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = alone(&dir).await;
    let (ctx, name) = (node.ctx(), SourceName::new("orders").unwrap());
    let role = Role::Edge(name.clone());
    let mut spec = SourceSpec {
        name: name.clone(),
        kind: "files".into(),
        options: Default::default(),
        labels: Default::default(),
        replicas: 1,
    };
    ctx.mesh.propose(Command::ApplySource { spec: spec.clone(), expect_version: None }).await.unwrap();
    until("the edge runs", || ctx.directory.actor(&role).is_some()).await;
    let first = ctx.directory.actor(&role).unwrap().get_id();
    spec.options.insert("path".into(), "/elsewhere".into());
    ctx.mesh.propose(Command::ApplySource { spec, expect_version: None }).await.unwrap();
    until("a new edge runs", || ctx.directory.actor(&role).is_some_and(|actor| actor.get_id() != first)).await;
    assert_eq!(ctx.tree().snapshot().iter().filter(|row| row.name == "edge/orders").count(), 1);
    ctx.mesh.propose(Command::DropSource { name }).await.unwrap();
    until("no edge runs", || ctx.tree().snapshot().iter().all(|row| row.name != "edge/orders")).await;
    assert!(ctx.directory.actor(&role).is_none());
    node.shutdown().await;
    ctx.mesh.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_come_back_when_their_supervisor_or_the_reconciler_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let node = alone(&dir).await;
    let ctx = node.ctx();
    for victim in ["roles", "placement", "peers"] {
        let actor = || ctx.directory.actor(&Role::Policy).map(|actor| actor.get_id());
        let before = actor();
        ractor::registry::where_is(ctx.name(victim)).unwrap().kill();
        let row = |name: &str| ctx.tree().snapshot().into_iter().find(|row| row.name == name);
        until("it was restarted", || row(victim).is_some_and(|row| row.restarts >= 1 && row.state == "running")).await;
        if victim != "placement" {
            until("the roles are new", || actor().is_some() && actor() != before).await;
        }
        until("all run", || EVERY.iter().all(|role| ctx.directory.actor(role).is_some())).await;
        let peers = ctx.peers().unwrap();
        let reply = peers.call(ctx.node, &Role::Policy, who_are_you(""), TIMEOUT).await.unwrap();
        assert_eq!(answered_by(&reply), ctx.node);
    }
    node.shutdown().await;
    ctx.mesh.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_spends_what_its_log_has_granted_and_gives_the_rest_back_when_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let key = QuotaKey { organisation: "clinic".into(), agent: None, period: Period::Month };
    let attributes = BTreeMap::from([("organisation".to_owned(), "clinic".to_owned())]);
    let principal = Principal { id: "ada".into(), kind: PrincipalKind::Person, roles: Vec::new(), attributes };
    let rows = |rows_returned| Usage { rows_returned, ..Usage::default() };
    let mut incarnation = 0;
    for start in 1..=2 {
        let node = alone(&dir).await;
        let ctx = node.ctx();
        let now_unix_ms = ctx.seams.clock.unix_ms();
        let limit = QuotaCommand::SetLimit { key: key.clone(), limit: Some(5 * CREDIT), now_unix_ms };
        ctx.mesh.propose(Command::Quota(limit)).await.unwrap();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut charge = ctx.quota.reserve(&principal, &rows(CREDIT), deadline).await.unwrap();
        charge.charge(&rows(2 * CREDIT)).await.unwrap();
        let known = || ctx.mesh.state().governance.quotas.quotas[&key].current.clone();
        assert!(known().committed() > 2 * CREDIT, "{:?}", known());
        let error = charge.charge(&rows(9 * CREDIT)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::QuotaExceeded);
        drop(charge);
        node.shutdown().await;
        assert_eq!((known().settled, known().open.len()), (start * 2 * CREDIT, 0));
        ctx.mesh.shutdown().await;
        let file = dir.path().join("node0").join("quota.incarnation");
        let kept: u64 = std::fs::read_to_string(file).unwrap().parse().unwrap();
        assert!(kept > incarnation, "{kept} after {incarnation}");
        // The next process thinks that it is the day before.
        incarnation = kept + 86_400_000;
        std::fs::write(dir.path().join("node0").join("quota.incarnation"), incarnation.to_string()).unwrap();
    }
}

/// Runs a scenario that ends with its node shut down, and waits until nothing of it is left.
fn leaves_nothing(scenario: impl Future<Output = Weak<NodeCtx>>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ctx = runtime.block_on(scenario);
    runtime.block_on(async {
        until("the context is gone", || ctx.upgrade().is_none()).await;
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        until("no task is left", || tasks() == 0).await;
    });
}

async fn end(node: Node) -> Weak<NodeCtx> {
    node.shutdown().await;
    let ctx = node.ctx().clone();
    assert!(ctx.tree().snapshot().is_empty(), "{:?}", ctx.tree().snapshot());
    assert!(ctx.directory.roles().is_empty());
    ctx.mesh.shutdown().await;
    Arc::downgrade(&ctx)
}

#[test]
fn nothing_outlives_a_node() {
    let dir = tempfile::tempdir().unwrap();
    leaves_nothing(async {
        let node = alone(&dir).await;
        let ctx = node.ctx().clone();
        let peers = ctx.peers().unwrap();
        // A call that is under way when the node stops.
        let asking = peers.clone();
        let hanging = tokio::spawn(async move { asking.call(NodeId(1), &Role::Policy, IGNORE, PATIENCE).await });
        let observed = peers.call(NodeId(1), &Role::Coordinator, ControlRequest::ObserveActors, TIMEOUT).await;
        let Ok(ControlReply::Actors { rows, .. }) = observed else { panic!("{observed:?}") };
        let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
        for name in ["node", "peers", "roles", "placement", "coordinator", "planner", "policy"] {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
        until("all run", || ctx.tree().snapshot().iter().all(|row| row.state == "running")).await;
        let weak = end(node).await;
        assert!(hanging.await.unwrap().is_err());
        weak
    });
}

#[test]
fn nothing_outlives_a_node_with_its_real_roles() {
    let dir = tempfile::tempdir().unwrap();
    leaves_nothing(async {
        let mut config = config(dir.path(), &free_ports(1), 0);
        (config.dev, config.seeds) = (true, Vec::new());
        let node = Node::start(parts(mesh(config).await, PeersKind::Cluster)).await.unwrap();
        let ctx = node.ctx().clone();
        // An edge whose source cannot be opened, so that it is kept busy with trying.
        let name = SourceName::new("orders").unwrap();
        let spec = SourceSpec {
            name: name.clone(),
            kind: "files".into(),
            options: Default::default(),
            labels: Default::default(),
            replicas: 1,
        };
        ctx.mesh.propose(Command::ApplySource { spec, expect_version: None }).await.unwrap();
        let roles = [&EVERY[..], &[Role::Edge(name)]].concat();
        tokio::time::timeout(PATIENCE, node.wait_ready(&roles)).await.expect("no roles");
        let doors = node.statements();
        let weak = end(node).await;
        drop((ctx, doors));
        weak
    });
}
