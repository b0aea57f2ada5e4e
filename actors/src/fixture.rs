//! For tests: nodes over the real mesh on loopback, with roles that only answer control calls.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use greylag_cluster::{Mesh, MeshStart, Seams};
use greylag_config::NodeConfig;
use greylag_protocol::{
    ErrorCode, MeshError, NodeId, QueryId, Result,
    messages::control::{Action, ControlReply, ControlRequest, DecideRequest, Decision, Verdict},
    principal::{Principal, PrincipalKind},
    state::{Role, SourceSpec},
};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::{
    NodeCtx, RoleMessage, Wire,
    audit::{AuditParts, MemoryPlace},
    directory::RoleGuard,
    edge::port::{Connector, ConnectorFactory, Secrets},
    node::{Node, NodeParts, PeersKind, context},
    placement::RoleSpecs,
    planner::port::{Catalog, ExecutablePlan, PlanRequest, QueryEngine, Touched},
    supervision::ChildSpec,
};

/// Longest wait for anything in a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

struct Nothing;

fn nothing<T>() -> Result<T> {
    Err(MeshError::internal("not in this test"))
}

#[async_trait]
impl QueryEngine for Nothing {
    fn touched(&self, _: &str, _: &Catalog) -> Result<Touched> {
        nothing()
    }
    async fn plan(&self, _: PlanRequest) -> Result<Arc<dyn ExecutablePlan>> {
        nothing()
    }
}

#[async_trait]
impl ConnectorFactory for Nothing {
    fn kinds(&self) -> Vec<&'static str> {
        Vec::new()
    }
    fn validate(&self, _: &SourceSpec) -> Result<()> {
        nothing()
    }
    async fn open(&self, _: &SourceSpec, _: &dyn Secrets) -> Result<Arc<dyn Connector>> {
        nothing()
    }
}

impl Secrets for Nothing {
    fn resolve(&self, _: &str) -> Result<String> {
        nothing()
    }
}

/// Ports that were free a moment ago.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    let sockets: Vec<_> = (0..count).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect()
}

/// One of the nodes that found a mesh on these ports.
pub(crate) fn config(dir: &Path, ports: &[u16], which: usize) -> NodeConfig {
    NodeConfig {
        name: format!("test{which}"),
        data_dir: dir.join(format!("node{which}")),
        listen: ([127, 0, 0, 1], ports[which]).into(),
        seeds: ports.iter().map(|port| format!("127.0.0.1:{port}")).collect(),
        expect: ports.len() as u32,
        join_token: Some("gl1.-.test.00112233445566778899".into()),
        ..NodeConfig::default()
    }
}

pub(crate) async fn mesh(config: NodeConfig) -> Mesh {
    // Another test of the process may have done it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let seams = Seams::real(config.data_dir.clone()).unwrap();
    let start = Mesh::start(MeshStart { config, seams });
    tokio::time::timeout(PATIENCE, start).await.expect("the mesh never formed").unwrap()
}

/// Parts of a node that can do nothing but be there.
pub(crate) fn parts(mesh: Mesh, peers: PeersKind) -> NodeParts {
    NodeParts {
        mesh,
        engine: Arc::new(Nothing),
        connectors: Arc::new(Nothing),
        secrets: Arc::new(Nothing),
        bearer: None,
        hooks: Default::default(),
        limits: Default::default(),
        timing: Default::default(),
        peers,
        audit: AuditParts::in_memory(MemoryPlace::default()),
    }
}

/// A node whose roles are [`TestRole`]s.
pub(crate) async fn node(mesh: Mesh, peers: PeersKind) -> Node {
    let parts = parts(mesh, peers);
    let specs: RoleSpecs = Arc::new(|ctx, role| {
        let (name, ctx, role) = (role.to_string(), ctx.clone(), role.clone());
        ChildSpec::of(name.clone(), ctx.name(&name), move || (TestRole, (ctx.clone(), role.clone())))
    });
    Node::assemble(context(&parts), peers, Vec::new(), specs).await.unwrap()
}

/// Waits for a condition on a node's own clock.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Says which node answered it; for a principal called `ask n1` it asks node 1 and passes its answer on.
pub(crate) fn who_are_you(ask: &str) -> ControlRequest {
    let principal =
        Principal { id: ask.into(), kind: PrincipalKind::Service, roles: Vec::new(), attributes: Default::default() };
    let query = QueryId(uuid::Uuid::nil());
    ControlRequest::Decide(DecideRequest {
        query,
        principal,
        action: Action::Select,
        origin: "test".into(),
        tables: Vec::new(),
        asked: Vec::new(),
    })
}

pub(crate) fn answered_by(reply: &ControlReply) -> NodeId {
    match reply {
        ControlReply::Decision(decision) => decision.decided_by,
        other => panic!("not a decision: {other:?}"),
    }
}

/// A request at which a role's handler panics.
pub(crate) fn panic_now() -> ControlRequest {
    let ControlRequest::Decide(DecideRequest { query, principal, .. }) = who_are_you("") else { unreachable!() };
    ControlRequest::Cancel { query, principal }
}

/// A request that a role takes and never answers.
pub(crate) const IGNORE: ControlRequest = ControlRequest::ObserveQueries;

struct TestRole;

struct TestState {
    ctx: Arc<NodeCtx>,
    _entered: RoleGuard,
}

impl Actor for TestRole {
    type Msg = RoleMessage;
    type State = TestState;
    type Arguments = (Arc<NodeCtx>, Role);

    async fn pre_start(
        &self,
        me: ActorRef<RoleMessage>,
        (ctx, role): Self::Arguments,
    ) -> Result<TestState, ActorProcessingErr> {
        let entered = ctx.directory.enter(role, me);
        Ok(TestState { ctx, _entered: entered })
    }

    async fn handle(
        &self,
        _: ActorRef<RoleMessage>,
        RoleMessage::Call(Wire(request), port): RoleMessage,
        state: &mut TestState,
    ) -> Result<(), ActorProcessingErr> {
        let reply = match request {
            Ok(ControlRequest::Decide(request)) => match request.principal.id.strip_prefix("ask n") {
                Some(node) => {
                    let node = NodeId(node.parse()?);
                    state.ctx.peers()?.call(node, &Role::Policy, who_are_you(""), Duration::from_secs(5)).await
                }
                None => {
                    let epoch = state.ctx.mesh.state().epoch;
                    Ok(ControlReply::Decision(Decision::plain(request, Verdict::Permit, epoch, state.ctx.node)))
                }
            },
            Ok(ControlRequest::Cancel { .. }) => panic!("told to panic"),
            Ok(ControlRequest::ObserveQueries) => return Ok(()),
            Ok(ControlRequest::ObserveActors) => {
                Ok(ControlReply::Actors { rows: state.ctx.tree().snapshot(), truncated: false })
            }
            Ok(_) => Err(MeshError::new(ErrorCode::Unsupported, "not in this test")),
            Err(error) => Err(error),
        };
        let _ = port.send(Wire(reply));
        Ok(())
    }
}
