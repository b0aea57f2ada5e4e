//! Statements on whole nodes: the real mesh, roles, streams and supervision, with a made-up engine and made-up sources
//! that fail when they are told to. Rows are compared as multisets: a row lost and another doubled would fool a count.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod admin_test;
mod audit_test;
mod engine;
mod governance_test;
mod limits_test;
mod quota_test;
mod restart_test;
mod source;
mod steps_test;
mod wire_test;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::Int64Type,
};
use futures::StreamExt;
use greylag_config::{Audit as AuditConfig, AuditMode, Limits};
use greylag_governance::audit::MemoryStorage;
use greylag_protocol::{
    ErrorCode, MeshError, Result, SourceName,
    frame::StreamTag,
    messages::join::Authority,
    principal::{Principal, PrincipalKind},
    state::{Command, GovernCommand, Role, SourceSpec},
    statement::{AdminCall, AdminReply, Delivery, RunningStatement, Session, SessionOptions, StatementService},
};

use self::{
    engine::FakeEngine,
    source::{FakeConnectors, FakeSource, NoSecrets, value},
};
use crate::{
    audit::{AuditParts, MemoryPlace},
    coordinator::{self, port::BearerIssuer},
    edge,
    fixture::{PATIENCE, config, free_ports, mesh, until},
    node::{Node, NodeParts, PeersKind, context},
    placement::RoleSpecs,
    planner, policy,
};

/// Rows in a batch of these tests.
const BATCH_ROWS: u32 = 100;
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

/// Its tokens say what they are for.
struct PlainIssuer;

impl BearerIssuer for PlainIssuer {
    fn issue(&self, _: &Authority, principal: &Principal, ttl_secs: u64, _: u64) -> Result<String> {
        Ok(format!("{} {} {ttl_secs}", principal.id, principal.roles.join(",")))
    }
}

/// Nodes 0.. of one mesh, in the order of their configuration. Node 0 coordinates; nodes from 1 on may be edges.
struct World {
    nodes: Vec<Option<Node>>,
    source: Arc<FakeSource>,
    /// Of each node, for its audit chain.
    disks: Vec<MemoryStorage>,
    _dir: tempfile::TempDir,
}

/// What may be different in a world.
struct Setup {
    limits: Limits,
    drain_grace_ms: u64,
    /// The edge door of this node is the test's.
    impostor: Option<(usize, Streams)>,
    audit: AuditMode,
}

impl Default for Setup {
    fn default() -> Self {
        Self { limits: Limits::default(), drain_grace_ms: 2_000, impostor: None, audit: AuditMode::default() }
    }
}

impl World {
    async fn start(nodes: usize, rows: u64, limits: Limits) -> Self {
        Self::start_with(nodes, rows, Setup { limits, ..Setup::default() }).await
    }

    async fn start_with(nodes: usize, rows: u64, setup: Setup) -> Self {
        let Setup { limits, drain_grace_ms, impostor, audit } = setup;
        let (dir, ports) = (tempfile::tempdir().unwrap(), free_ports(nodes));
        let disks: Vec<MemoryStorage> = (0..nodes).map(|_| MemoryStorage::default()).collect();
        let source = FakeSource::new(rows);
        let meshes = (0..nodes).map(|which| {
            let mut config = config(dir.path(), &ports, which);
            config.labels.insert("edge".into(), if which > 0 { "yes" } else { "no" }.into());
            config.timing.drain_grace_ms = drain_grace_ms;
            if nodes == 1 {
                (config.dev, config.seeds) = (true, Vec::new());
                config.labels.insert("edge".into(), "yes".into());
            }
            mesh(config)
        });
        let meshes = futures::future::join_all(meshes).await;
        let mut world = Self { nodes: Vec::new(), source: source.clone(), disks, _dir: dir };
        for (which, mesh) in meshes.into_iter().enumerate() {
            let parts = NodeParts {
                mesh,
                engine: Arc::new(FakeEngine),
                connectors: Arc::new(FakeConnectors { edge: which, source: source.clone() }),
                secrets: Arc::new(NoSecrets),
                bearer: Some(Arc::new(PlainIssuer)),
                hooks: Default::default(),
                limits: limits.clone(),
                timing: Default::default(),
                peers: PeersKind::Stream,
                audit: AuditParts {
                    config: AuditConfig { mode: audit, ..AuditConfig::default() },
                    place: Arc::new(MemoryPlace(world.disks[which].clone())),
                },
            };
            let node = match &impostor {
                Some((at, streams)) if *at == which => {
                    // It holds the role in the state, and answers as it likes.
                    let data = parts.mesh.serve(StreamTag::Data).unwrap();
                    streams.send(data).unwrap_or_else(|_| panic!("nobody plays the impostor"));
                    let roles: RoleSpecs = Arc::new(|ctx, role| match role {
                        Role::Coordinator => coordinator::child_spec(ctx),
                        Role::Planner => planner::child_spec(ctx),
                        Role::Policy => policy::child_spec(ctx),
                        Role::Edge(source) => edge::child_spec(ctx, source.clone()),
                    });
                    Node::assemble(context(&parts), parts.peers, Vec::new(), roles).await.unwrap()
                }
                _ => Node::start(parts).await.unwrap(),
            };
            world.nodes.push(Some(node));
        }
        for node in world.nodes.iter().flatten() {
            let ready = node.wait_ready(&[Role::Coordinator, Role::Planner, Role::Policy]);
            tokio::time::timeout(PATIENCE, ready).await.expect("no roles");
        }
        world.all_linked().await;
        world.put_policy("anybody-reads", "permit (principal, action, resource);").await;
        world
    }

    /// Stores a policy, and waits until every node knows it.
    async fn put_policy(&self, id: &str, text: &str) {
        let (id, text, by) = (id.to_owned(), text.to_owned(), "tests".to_owned());
        let put = GovernCommand::PutPolicy { id, text, by, now_unix_ms: 1, expect_version: None };
        self.node(0).ctx().mesh.propose(Command::Govern(put)).await.unwrap();
        self.node(0).ctx().mesh.catch_up().await.unwrap();
        let since = self.node(0).ctx().mesh.state().governance.decided_since;
        until("all know the policy", || {
            self.nodes.iter().flatten().all(|n| n.ctx().mesh.state().governance.decided_since >= since)
        })
        .await;
    }

    /// A world whose source `a` has this many edges, on nodes 1...
    async fn with_edges(edges: usize, rows: u64, limits: Limits) -> Self {
        let world = Self::start(edges + 1, rows, limits).await;
        world.apply("a", edges as u32).await;
        world
    }

    fn node(&self, which: usize) -> &Node {
        self.nodes[which].as_ref().unwrap()
    }

    fn id(&self, which: usize) -> greylag_protocol::NodeId {
        self.node(which).ctx().node
    }

    async fn all_linked(&self) {
        let links = self.node(0).ctx().mesh.links();
        let others = self.nodes.len() - 1;
        until("all are linked", || {
            links.borrow().values().filter(|l| **l == greylag_cluster::LinkState::Connected).count() == others
        })
        .await;
    }

    /// Declares a source and waits for its edges.
    async fn apply(&self, name: &str, replicas: u32) {
        let spec = SourceSpec {
            name: SourceName::new(name).unwrap(),
            kind: "fake".into(),
            options: BTreeMap::new(),
            labels: BTreeMap::from([("edge".into(), "yes".into())]),
            replicas,
        };
        let role = Role::Edge(spec.name.clone());
        let reply = self.statements().admin(&admin(), AdminCall::ApplySource { spec, expect_version: Some(0) }).await;
        assert!(matches!(reply.unwrap(), AdminReply::Applied { version: 1, changed: true }));
        until("the edges run", || {
            let running = self.nodes.iter().flatten().filter(|n| n.ctx().directory.actor(&role).is_some());
            let known = self.node(0).ctx().mesh.state().live_holders(&role);
            running.count() == replicas as usize && known.len() == replicas as usize
        })
        .await;
    }

    fn statements(&self) -> Arc<dyn StatementService> {
        self.node(0).statements()
    }

    async fn run(&self, session: &Session, sql: &str) -> Result<RunningStatement> {
        let statements = self.statements();
        let running = statements.execute(session, sql, None);
        tokio::time::timeout(PATIENCE, running).await.expect("the statement hangs")
    }

    /// The rows of a statement, all of them, or its error.
    async fn rows(&self, session: &Session, sql: &str) -> Result<Vec<RecordBatch>> {
        let running = self.run(session, sql).await?;
        read(running).await
    }

    /// Attempts of the last statements, newest first: rule and state.
    async fn attempts(&self) -> Vec<(String, String)> {
        let batches = self.rows(&anybody(), "system subqueries").await.unwrap();
        let text = |batch: &RecordBatch, name: &str, row| {
            batch.column_by_name(name).unwrap().as_string::<i32>().value(row).to_owned()
        };
        let rows = batches.iter().flat_map(|b| (0..b.num_rows()).map(move |row| (b, row)));
        rows.map(|(b, row)| (text(b, "rule", row), text(b, "state", row))).collect()
    }

    /// Stops all nodes, and waits until nothing of them is left.
    async fn stop(self) {
        let mut left = Vec::new();
        for node in self.nodes.into_iter().flatten() {
            node.shutdown().await;
            node.ctx().mesh.shutdown().await;
            left.push(Arc::downgrade(node.ctx()));
        }
        until("nothing of the nodes is left", || left.iter().all(|ctx| ctx.upgrade().is_none())).await;
    }
}

/// Where the data streams of an impostor go.
type Streams = tokio::sync::mpsc::UnboundedSender<tokio::sync::mpsc::Receiver<greylag_cluster::Incoming>>;

/// Reads a statement to its end.
async fn read(mut running: RunningStatement) -> Result<Vec<RecordBatch>> {
    let reading = async {
        let mut batches = Vec::new();
        while let Some(batch) = running.batches.next().await {
            batches.push(batch?);
        }
        Ok(batches)
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the rows hang")
}

fn session(id: &str, roles: &[&str], options: SessionOptions) -> Session {
    let roles = roles.iter().map(ToString::to_string).collect();
    let principal = Principal { id: id.into(), kind: PrincipalKind::Person, roles, attributes: BTreeMap::new() };
    Session { principal, client: Some(CLIENT), door: "test", options }
}

fn options() -> SessionOptions {
    SessionOptions { batch_rows: BATCH_ROWS, ..SessionOptions::default() }
}

fn anybody() -> Session {
    session("ada", &[], options())
}

fn admin() -> Session {
    session("root", &["admin"], options())
}

fn spooled() -> Session {
    session("ada", &[], SessionOptions { delivery: Delivery::Spooled, ..options() })
}

/// How often each row came.
fn multiset(batches: &[RecordBatch]) -> BTreeMap<(i64, Option<String>), u64> {
    let mut rows = BTreeMap::new();
    for batch in batches {
        let (keys, values) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_string::<i32>());
        for row in 0..batch.num_rows() {
            let value = values.is_valid(row).then(|| values.value(row).to_owned());
            *rows.entry((keys.value(row), value)).or_default() += 1;
        }
    }
    rows
}

/// Every row of a source of this size, `times` times.
/// The first column.
fn in_order(batches: &[RecordBatch]) -> Vec<i64> {
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

fn whole(rows: u64, times: u64) -> BTreeMap<(i64, Option<String>), u64> {
    (0..rows as i64).map(|k| ((k, value(k)), times)).collect()
}

fn transient() -> MeshError {
    MeshError::new(ErrorCode::SourceUnreachable, "told to fail")
}

fn window(bytes: u64) -> Limits {
    Limits { hold_back_bytes_max: bytes, ..Limits::default() }
}

/// How long something took.
async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    (work.await, began.elapsed())
}
