//! Puts a node together: mesh, engine, connectors, role actors, doors. Started in this order and stopped in the
//! reverse one; a part that fails to start takes the earlier ones down with it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use greylag_actors::{
    audit::{AuditParts, FolderPlace},
    bounds::Bound,
    coordinator::port::BearerIssuer,
    node::{Node, NodeParts, PeersKind},
};
use greylag_cluster::{Mesh, MeshStart, Seams};
use greylag_config::NodeConfig;
use greylag_connectors::{Connectors, NodeSecrets};
use greylag_engine::{Engine, EngineConfig};
use greylag_gateways::{bearer, flight};
use greylag_protocol::{
    ErrorCode, MeshError, MeshId, NodeId, Result,
    messages::join::Authority,
    principal::{ADMIN_ROLE, Principal, PrincipalKind},
    state::{ControlState, Member, MemberStatus},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    figures::Page,
    identity::{DoorIdentity, report_key_uses},
};

/// File in the data directory with a bearer token for the machine's administrator, mode 0600.
pub const ADMIN_TOKEN_FILE: &str = "admin.token";
/// Life of that token; it is written anew at every start.
const ADMIN_TOKEN_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// Longest wait for open calls of the door when the node stops.
const DOOR_DRAIN: Duration = Duration::from_secs(5);

/// A node with everything that belongs to it.
pub struct Greylag {
    pub mesh: Mesh,
    pub node: Arc<Node>,
    /// The administrator's first token, if this start has founded the mesh.
    pub bootstrap: Option<String>,
    door: Option<JoinHandle<Result<()>>>,
    page: Option<JoinHandle<()>>,
    closing: CancellationToken,
}

impl Greylag {
    /// Returns once the node is a member, its actors run and its door is open.
    pub async fn start(config: NodeConfig) -> Result<Self> {
        let page = match config.metrics {
            Some(address) => Some(Page::take(address).await?),
            None => None,
        };
        let seams = Seams::real(config.data_dir.clone()).map_err(|e| opening(&config.data_dir, &e))?;
        let limits = config.limits.clone();
        let timing = config.timing.clone();
        let (flight, advertised) = (config.flight, config.advertised_door());
        let identity = DoorIdentity::open(&config.door, &config.identity)?;
        let spill = config.data_dir.join("spill");
        let data_dir = config.data_dir.clone();
        let audit = AuditParts { config: config.audit.clone(), place: Arc::new(FolderPlace(config.audit_dir())) };
        let mesh = Mesh::start(MeshStart { config, seams }).await?;
        let engine = Engine::new(EngineConfig {
            target_partitions: std::thread::available_parallelism().map_or(1, usize::from),
            query_memory_bytes_max: limits.query_memory_bytes_max,
            node_memory_bytes_max: limits.node_memory_bytes_max,
            spill_dir: Some(spill),
            ..EngineConfig::default()
        })?;
        let issuer = MeshIssuer { mesh: mesh.id() };
        let token = write_admin_token(&data_dir, &mesh, &issuer)?;
        let bootstrap = token.filter(|_| mesh.founded());
        let closing = CancellationToken::new();
        tokio::spawn(closing.clone().run_until_cancelled_owned(write_later(data_dir, mesh.clone())));
        let node = Node::start(NodeParts {
            mesh: mesh.clone(),
            engine: Arc::new(engine),
            connectors: Arc::new(Connectors::new()),
            secrets: Arc::new(NodeSecrets),
            limits,
            timing,
            peers: PeersKind::Cluster,
            bearer: Some(Arc::new(issuer)),
            hooks: Default::default(),
            audit,
        })
        .await?;
        let node = Arc::new(node);
        let door = match flight {
            Some(address) => Some(open_door(address, advertised, identity, &mesh, &node, closing.clone()).await?),
            None => None,
        };
        let page = page.map(|page| page.open(node.clone(), closing.clone()));
        Ok(Self { mesh, node, bootstrap, door, page, closing })
    }

    /// Closes the door, stops the actors, leaves the mesh cleanly.
    pub async fn stop(mut self) {
        self.closing.cancel();
        if let Some(door) = self.door.take() {
            let _ = tokio::time::timeout(DOOR_DRAIN, door).await;
        }
        if let Some(page) = self.page.take() {
            let _ = page.await;
        }
        self.node.shutdown().await;
        self.mesh.shutdown().await;
    }
}

fn opening(dir: &Path, error: &std::io::Error) -> MeshError {
    MeshError::new(ErrorCode::InvalidConfig, format!("data directory `{}` cannot be opened: {error}", dir.display()))
}

/// Seals tickets with the node's own key: every door of the mesh honours them as long as the node is a member.
struct MeshSealer(Mesh);

impl flight::ticket::Sealer for MeshSealer {
    fn seal(&self, payload: &[u8]) -> Result<Vec<u8>> {
        Ok([self.0.node().0.to_le_bytes().as_slice(), &self.0.sign(&sealed(payload))].concat())
    }

    fn is_genuine(&self, payload: &[u8], seal: &[u8]) -> bool {
        seal.split_first_chunk().is_some_and(|(node, signature)| {
            self.0.verify(NodeId(u64::from_le_bytes(*node)), &sealed(payload), signature).is_ok()
        })
    }
}

/// Clients of a door, as `system.bounds` shows them.
struct DoorSeats(Arc<Bound>);

impl flight::Seats for DoorSeats {
    fn max(&self) -> u64 {
        self.0.max()
    }

    fn take(&self) -> bool {
        self.0.reserve(1)
    }

    fn release(&self) {
        self.0.release(1);
    }
}

/// Doors of members that are up, as far as a client of `own` reaches them. A door on loopback is one of its own machine
/// only: elsewhere the same address is somebody else's, who must not be sent a client's token.
fn reachable_doors(state: &ControlState, own: NodeId) -> Vec<String> {
    let machine = |member: &Member| member.address.rsplit_once(':').map(|(host, _)| host.to_owned());
    let here = state.member(own).and_then(machine);
    let is_loopback = |door: &str| door.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback());
    let up = state.members.values().filter(|member| member.status == MemberStatus::Up);
    let doors = up.filter_map(|member| {
        let door = member.door.as_deref()?;
        (!is_loopback(door) || machine(member) == here).then(|| door.to_owned())
    });
    doors.collect()
}

/// What is signed: the purpose first, so that nothing else that the key signs is good for a seal.
fn sealed(payload: &[u8]) -> Vec<u8> {
    [b"greylag ticket\0".as_slice(), payload].concat()
}

/// Signs bearer tokens with the mesh's own key, where the coordinator has it.
struct MeshIssuer {
    mesh: MeshId,
}

impl BearerIssuer for MeshIssuer {
    fn issue(&self, authority: &Authority, principal: &Principal, ttl_secs: u64, now_unix_ms: u64) -> Result<String> {
        let issuer = bearer::Issuer::new(&authority.bearer_key, self.mesh)?;
        issuer.issue(principal, Duration::from_secs(ttl_secs), now_unix_ms / 1000)
    }
}

/// The token of this machine's administrator, on nodes that keep the mesh's keys.
fn write_admin_token(data_dir: &Path, mesh: &Mesh, issuer: &MeshIssuer) -> Result<Option<String>> {
    let Some(authority) = mesh.authority() else { return Ok(None) };
    let (now, ttl) = (mesh.seams().clock.unix_ms(), ADMIN_TOKEN_TTL.as_secs());
    let admin = Principal {
        id: "admin".into(),
        kind: PrincipalKind::Person,
        roles: vec![ADMIN_ROLE.to_owned()],
        attributes: BTreeMap::new(),
    };
    let token = issuer.issue(&authority, &admin, ttl, now)?;
    mesh.seams().disk.write(ADMIN_TOKEN_FILE, token.as_bytes(), true).map_err(|e| opening(data_dir, &e))?;
    Ok(Some(token))
}

/// A node that becomes a voter later is given the keys then, and needs no restart to have the token.
async fn write_later(data_dir: PathBuf, mesh: Mesh) {
    if mesh.authority().is_some() {
        return;
    }
    mesh.authority_given().await;
    let issuer = MeshIssuer { mesh: mesh.id() };
    if let Err(error) = write_admin_token(&data_dir, &mesh, &issuer) {
        tracing::warn!(%error, "the admin token could not be written");
    }
}

async fn open_door(
    address: SocketAddr,
    advertised: Option<String>,
    identity: DoorIdentity,
    mesh: &Mesh,
    node: &Arc<Node>,
    closing: CancellationToken,
) -> Result<JoinHandle<Result<()>>> {
    let listener = TcpListener::bind(address).await.map_err(|e| {
        MeshError::new(ErrorCode::InvalidConfig, format!("`flight` = `{address}` cannot be listened on: {e}"))
    })?;
    let tls = identity.tls.clone();
    let authenticator = identity.authenticator(mesh)?;
    let reporting = report_key_uses(mesh.clone(), authenticator.clone());
    tokio::spawn(closing.clone().run_until_cancelled_owned(reporting));
    let others = mesh.clone();
    let ctx = node.ctx();
    let seats = ctx.bounds.open("limits.door_connections_max", "flight", ctx.limits.door_connections_max.into());
    let parts = flight::DoorParts {
        service: node.statements(),
        authenticator,
        tls,
        sealer: Arc::new(MeshSealer(mesh.clone())),
        doors: Arc::new(move || reachable_doors(&others.state(), others.node())),
        advertised,
        seats: Arc::new(DoorSeats(seats)),
    };
    tracing::info!(%address, "flight sql door open");
    Ok(tokio::spawn(flight::serve(listener, parts, closing)))
}

#[cfg(test)]
mod tests {
    use greylag_protocol::NodeUuid;

    use super::*;

    fn member(id: u64, address: &str, door: Option<&str>) -> (NodeId, Member) {
        let member = Member {
            id: NodeId(id),
            uuid: NodeUuid(uuid::Uuid::from_u128(id.into())),
            name: format!("node{id}"),
            address: address.to_owned(),
            door: door.map(str::to_owned),
            labels: BTreeMap::new(),
            outbound_only: false,
            voter: true,
            status: MemberStatus::Up,
            status_since_unix_ms: 0,
            public_key: Vec::new(),
            allowed: None,
            certified_by: Vec::new(),
        };
        (NodeId(id), member)
    }

    #[test]
    fn a_door_on_another_machines_loopback_is_not_named() {
        let mut state = ControlState::default();
        state.members.extend([
            member(1, "a.example:7400", Some("127.0.0.1:50051")),
            member(2, "a.example:7401", Some("127.0.0.1:50052")),
            member(3, "b.example:7400", Some("127.0.0.1:50053")),
            member(4, "b.example:7401", Some("10.0.0.4:50051")),
            member(5, "a.example:7402", None),
            member(6, "a.example:7403", Some("127.0.0.1:50056")),
        ]);
        if let Some(lost) = state.members.get_mut(&NodeId(6)) {
            lost.status = MemberStatus::Down;
        }
        assert_eq!(reachable_doors(&state, NodeId(1)), ["127.0.0.1:50051", "127.0.0.1:50052", "10.0.0.4:50051"]);
        assert_eq!(reachable_doors(&state, NodeId(4)), ["127.0.0.1:50053", "10.0.0.4:50051"]);
    }
}
