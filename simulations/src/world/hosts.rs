//! Hosts of a simulation: each runs a whole node, without doors, and works off the statements that the scenario puts on
//! its board. A host that crashes and comes back starts again from its disk.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use greylag_actors::{
    audit::{AuditParts, MemoryPlace},
    edge::port::Secrets,
    node::{Node, NodeParts, PeersKind},
};
use greylag_cluster::{
    Mesh, MeshStart, Seams,
    seams::{Alone, MemoryScratch},
};
use greylag_config::NodeConfig;
use greylag_engine::{Engine, EngineConfig};
use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    principal::{ADMIN_ROLE, Principal, PrincipalKind},
    statement::{AdminCall, Session, SessionOptions},
};

use super::{
    clock::SimClock,
    disk::SimDisk,
    memory::MemoryConnectors,
    socket::SimSockets,
    trace,
    work::{HostTasks, Inline},
};

/// UDP port of every host's endpoint.
pub const PORT: u16 = 7400;
/// How often a host looks at its board.
const LOOK: Duration = Duration::from_millis(5);
/// Token that the hosts form their mesh with.
const TOKEN: &str = "gl1.-.formation.00112233445566778899aabbccddeeff";

/// Something for a host to do.
#[derive(Debug, Clone)]
pub enum Task {
    Query(String),
    Admin(AdminCall),
}

pub type TaskResult = Result<Vec<RecordBatch>>;

/// What scenario and hosts share. Everything runs on one thread.
#[derive(Default)]
pub struct Board {
    pub tasks: BTreeMap<String, VecDeque<(u64, Task)>>,
    pub results: BTreeMap<u64, TaskResult>,
    /// Hosts whose node is a member, with its id and the leader as it sees it.
    pub up: BTreeMap<String, (NodeId, Option<NodeId>)>,
    next: u64,
}

impl Board {
    /// Puts a task up for a host; its number names the result.
    pub fn post(&mut self, host: &str, task: Task) -> u64 {
        self.next += 1;
        self.tasks.entry(host.to_owned()).or_default().push_back((self.next, task));
        self.next
    }
}

/// All hosts and what outlives their crashes.
pub struct Hosts {
    pub names: Vec<String>,
    pub disks: BTreeMap<String, SimDisk>,
    /// Audit folders.
    pub audits: BTreeMap<String, MemoryPlace>,
    pub board: Rc<RefCell<Board>>,
}

impl Hosts {
    /// Adds `count` hosts to a simulation.
    pub fn add(sim: &mut turmoil::Sim<'_>, count: usize, seed: u64, sources: &MemoryConnectors) -> Self {
        let names: Vec<String> = (1..=count).map(|i| format!("n{i}")).collect();
        let disks: BTreeMap<String, SimDisk> =
            names.iter().zip(1u64..).map(|(n, i)| (n.clone(), SimDisk::new(n, seed ^ i))).collect();
        let audits: BTreeMap<String, MemoryPlace> =
            names.iter().map(|name| (name.clone(), MemoryPlace::default())).collect();
        let board = Rc::new(RefCell::new(Board::default()));
        for (name, index) in names.iter().zip(0u64..) {
            let host = Host {
                name: name.clone(),
                seeds: names.iter().map(|n| format!("{n}:{PORT}")).collect(),
                disk: disks[name].clone(),
                audit: audits[name].clone(),
                board: board.clone(),
                sources: sources.clone(),
                seed: seed.wrapping_mul(31).wrapping_add(index),
            };
            sim.host(name.as_str(), move || {
                let host = host.clone();
                async move {
                    if let Err(error) = host.run().await {
                        trace::note(format!("{} ends: {error}", host.name));
                    }
                    std::future::pending().await
                }
            });
        }
        Self { names, disks, audits, board }
    }
}

#[derive(Clone)]
struct Host {
    name: String,
    seeds: Vec<String>,
    disk: SimDisk,
    audit: MemoryPlace,
    board: Rc<RefCell<Board>>,
    sources: MemoryConnectors,
    seed: u64,
}

impl Host {
    async fn run(&self) -> Result<()> {
        self.board.borrow_mut().up.remove(&self.name);
        let config = NodeConfig {
            name: self.name.clone(),
            mesh: "simulated".into(),
            listen: ([0, 0, 0, 0], PORT).into(),
            advertise: Some(format!("{}:{PORT}", self.name)),
            expect: u32::try_from(self.seeds.len()).unwrap_or(1),
            seeds: self.seeds.clone(),
            join_token: Some(TOKEN.into()),
            ..NodeConfig::default()
        };
        let seams = Seams {
            clock: Arc::new(SimClock),
            sockets: Arc::new(SimSockets { ip: turmoil::lookup(self.name.as_str()) }),
            neighbourhood: Arc::new(Alone),
            disk: Arc::new(self.disk.clone()),
            scratch: Arc::new(MemoryScratch),
            blocking: Arc::new(Inline),
            queries: Arc::new(HostTasks),
            seed: self.seed,
        };
        let (limits, timing) = (config.limits.clone(), config.timing.clone());
        let mesh = Mesh::start(MeshStart { config, seams }).await?;
        trace::note(format!("{} is {}", self.name, mesh.node()));
        let node = Node::start(NodeParts {
            mesh: mesh.clone(),
            engine: Arc::new(Engine::new(EngineConfig { target_partitions: 2, ..EngineConfig::default() })?),
            connectors: Arc::new(self.sources.clone()),
            secrets: Arc::new(NoSecrets),
            limits,
            timing,
            peers: PeersKind::Stream,
            bearer: None,
            hooks: Default::default(),
            audit: AuditParts::in_memory(self.audit.clone()),
        })
        .await?;
        self.work(&mesh, &node).await
    }

    /// Works off the board until the host crashes.
    async fn work(&self, mesh: &Mesh, node: &Node) -> Result<()> {
        let service = node.statements();
        let session = Session {
            principal: Principal {
                id: "scenario".into(),
                kind: PrincipalKind::Service,
                roles: vec![ADMIN_ROLE.into()],
                attributes: BTreeMap::new(),
            },
            client: None,
            door: "simulation",
            options: SessionOptions::default(),
        };
        loop {
            self.board.borrow_mut().up.insert(self.name.clone(), (mesh.node(), mesh.leader().0));
            let task = self.board.borrow_mut().tasks.get_mut(&self.name).and_then(VecDeque::pop_front);
            let Some((number, task)) = task else {
                tokio::time::sleep(LOOK).await;
                continue;
            };
            let result = match task {
                Task::Query(sql) => match service.execute(&session, &sql, None).await {
                    Ok(running) => running.batches.try_collect().await,
                    Err(error) => Err(error),
                },
                Task::Admin(call) => service.admin(&session, call).await.map(|_| Vec::new()),
            };
            self.board.borrow_mut().results.insert(number, result);
        }
    }
}

struct NoSecrets;

impl Secrets for NoSecrets {
    fn resolve(&self, reference: &str) -> Result<String> {
        Err(MeshError::new(ErrorCode::InvalidResource, format!("`{reference}`: a simulation has no secrets")))
    }
}
