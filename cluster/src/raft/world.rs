//! A small world for tests: disks that lose and tear what was not synced, calls between nodes in memory, links that can
//! be cut, and a clock that stands still unless the test lets time pass.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use greylag_config::Timing;
use greylag_protocol::NodeId;
use quinn::AsyncUdpSocket;
use redb::StorageBackend;
use tokio::sync::watch;

use super::{RaftLink, RaftNode, lead};
use crate::mesh::LinkState;
use crate::seams::{Blocking, Clock, Disk, QuerySpawner, Seams, SocketFactory};

/// Bytes that a real disk writes whole.
const SECTOR: usize = 512;

#[derive(Debug)]
enum Op {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

/// One node's disk with one file: what reads see, what is durable, and what lies between.
#[derive(Debug, Default)]
struct Platter {
    /// Small files, whole or not at all.
    files: BTreeMap<String, Vec<u8>>,
    view: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Op>,
    /// Handles of an older incarnation are dead.
    incarnation: u64,
    off: bool,
    /// Takes nothing more.
    full: bool,
    /// The power fails at this many further operations.
    off_after: Option<u64>,
    syncs: u64,
    rng: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct MemoryDisk(Arc<Mutex<Platter>>);

#[derive(Debug)]
struct Handle {
    disk: MemoryDisk,
    incarnation: u64,
}

impl MemoryDisk {
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Platter { rng: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, ..Platter::default() })))
    }

    /// From here on everything fails. Must come before the software is dropped, which would write and sync.
    pub fn power_off(&self) {
        self.0.lock().unwrap().off = true;
    }

    pub fn set_full(&self, full: bool) {
        self.0.lock().unwrap().full = full;
    }

    pub fn power_off_after(&self, operations: u64) {
        self.0.lock().unwrap().off_after = Some(operations);
    }

    pub fn is_off(&self) -> bool {
        self.0.lock().unwrap().off
    }

    pub fn syncs(&self) -> u64 {
        self.0.lock().unwrap().syncs
    }

    /// What was synced is there; of the rest, each sector survives by chance.
    pub fn power_on(&self) {
        let mut guard = self.0.lock().unwrap();
        let platter = &mut *guard;
        for op in std::mem::take(&mut platter.pending) {
            match op {
                Op::SetLen(len) if coin(&mut platter.rng) => platter.durable.resize(len as usize, 0),
                Op::SetLen(_) => {}
                Op::Write(at, data) => {
                    for (i, piece) in data.chunks(SECTOR).enumerate() {
                        let from = at as usize + i * SECTOR;
                        if from + piece.len() <= platter.durable.len() && coin(&mut platter.rng) {
                            platter.durable[from..from + piece.len()].copy_from_slice(piece);
                        }
                    }
                }
            }
        }
        platter.view = platter.durable.clone();
        platter.incarnation += 1;
        platter.off = false;
        platter.off_after = None;
    }
}

fn coin(rng: &mut u64) -> bool {
    *rng ^= *rng << 13;
    *rng ^= *rng >> 7;
    *rng ^= *rng << 17;
    rng.is_multiple_of(2)
}

fn carry_out(bytes: &mut Vec<u8>, op: &Op) {
    match op {
        Op::SetLen(len) => bytes.resize(*len as usize, 0),
        Op::Write(at, data) => {
            let end = *at as usize + data.len();
            bytes.resize(bytes.len().max(end), 0);
            bytes[*at as usize..end].copy_from_slice(data);
        }
    }
}

impl Handle {
    fn with<T>(&self, changes: bool, f: impl FnOnce(&mut Platter) -> io::Result<T>) -> io::Result<T> {
        let mut platter = self.disk.0.lock().unwrap();
        if changes && let Some(left) = &mut platter.off_after {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => platter.off = true,
            }
        }
        if platter.off || platter.incarnation != self.incarnation {
            return Err(io::Error::other("the power is off"));
        }
        f(&mut platter)
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        self.with(false, |p| Ok(p.view.len() as u64))
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(false, |p| {
            let from = offset as usize;
            let bytes = p.view.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(bytes);
            Ok(())
        })
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Op::SetLen(len))
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Op::Write(offset, data.to_vec()))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.with(true, |p| {
            for op in std::mem::take(&mut p.pending) {
                carry_out(&mut p.durable, &op);
            }
            p.syncs += 1;
            Ok(())
        })
    }
}

impl Handle {
    fn change(&self, op: Op) -> io::Result<()> {
        self.with(true, |p| {
            if p.full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            carry_out(&mut p.view, &op);
            p.pending.push(op);
            Ok(())
        })
    }
}

impl Disk for MemoryDisk {
    fn database(&self, name: &str) -> io::Result<Box<dyn StorageBackend>> {
        assert_eq!(name, "raft.redb");
        let incarnation = self.0.lock().unwrap().incarnation;
        Ok(Box::new(Handle { disk: self.clone(), incarnation }))
    }
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock().unwrap().files.get(name).cloned())
    }
    fn write(&self, name: &str, content: &[u8], _secret: bool) -> io::Result<()> {
        let mut platter = self.0.lock().unwrap();
        if platter.off {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        platter.files.insert(name.to_owned(), content.to_vec());
        Ok(())
    }
}

/// Blocking work right here, as in simulation.
#[derive(Debug)]
struct Inline;

impl Blocking for Inline {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move { work() })
    }
}

#[derive(Debug)]
struct Nothing;

#[async_trait::async_trait]
impl SocketFactory for Nothing {
    async fn bind(&self, _listen: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn runtime(&self) -> Arc<dyn quinn::Runtime> {
        Arc::new(quinn::TokioRuntime)
    }
}

impl QuerySpawner for Nothing {
    fn spawn(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>) -> tokio::task::AbortHandle {
        tokio::spawn(work).abort_handle()
    }
}

impl Clock for Nothing {
    fn unix_ms(&self) -> u64 {
        1_800_000_000_000
    }
}

pub(super) fn seams(disk: impl Disk) -> Seams {
    Seams {
        clock: Arc::new(Nothing),
        sockets: Arc::new(Nothing),
        neighbourhood: Arc::new(crate::seams::Alone),
        disk: Arc::new(disk),
        scratch: Arc::new(crate::seams::MemoryScratch),
        blocking: Arc::new(Inline),
        queries: Arc::new(Nothing),
        seed: 1,
    }
}

/// Nodes that reach each other in memory, one millisecond away.
#[derive(Default)]
pub(super) struct World {
    nodes: Mutex<BTreeMap<NodeId, RaftNode>>,
    disks: Mutex<BTreeMap<NodeId, MemoryDisk>>,
    cut: Mutex<BTreeSet<NodeId>>,
    /// Cannot be called, can call.
    deaf: Mutex<BTreeSet<NodeId>>,
    links: Mutex<BTreeMap<NodeId, watch::Sender<BTreeMap<NodeId, LinkState>>>>,
    duties: Mutex<BTreeMap<NodeId, tokio::task::AbortHandle>>,
    /// For measurements.
    pub no_delay: AtomicBool,
    pub snapshots: AtomicU64,
}

struct Link {
    me: NodeId,
    world: Arc<World>,
}

#[async_trait::async_trait]
impl RaftLink for Link {
    async fn call(&self, to: NodeId, request: Vec<u8>, _timeout: Duration) -> io::Result<Vec<u8>> {
        let world = &self.world;
        if !world.no_delay.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        world.snapshots.fetch_add(u64::from(request.first() == Some(&4)), Ordering::Relaxed);
        let peer = world.reach(self.me, to)?;
        let answer = peer.serve(&request).await.map_err(io::Error::other)?;
        // The answer can be lost as well.
        world.reach(self.me, to)?;
        Ok(answer)
    }
}

impl World {
    fn reach(&self, from: NodeId, to: NodeId) -> io::Result<RaftNode> {
        let cut = self.cut.lock().unwrap();
        let node = self.nodes.lock().unwrap().get(&to).cloned();
        match node {
            Some(node) if !cut.contains(&from) && !cut.contains(&to) && !self.deaf.lock().unwrap().contains(&to) => {
                Ok(node)
            }
            _ => Err(io::ErrorKind::HostUnreachable.into()),
        }
    }

    pub fn link(self: &Arc<Self>, me: u64) -> Arc<dyn RaftLink> {
        Arc::new(Link { me: NodeId(me), world: self.clone() })
    }

    pub fn disk(&self, id: u64) -> MemoryDisk {
        self.disks.lock().unwrap().entry(NodeId(id)).or_insert_with(|| MemoryDisk::seeded(id)).clone()
    }

    pub async fn start(self: &Arc<Self>, id: u64) -> RaftNode {
        self.start_on(id, &seams(self.disk(id))).await
    }

    pub async fn start_on(self: &Arc<Self>, id: u64, seams: &Seams) -> RaftNode {
        let node = RaftNode::open(NodeId(id), seams, &timing(), "flock", self.link(id)).await.unwrap();
        self.nodes.lock().unwrap().insert(NodeId(id), node.clone());
        self.mend(id);
        node
    }

    /// Starts a node that also does a leader's duties.
    pub async fn start_with_duties(self: &Arc<Self>, id: u64) -> RaftNode {
        let node = self.start(id).await;
        self.take_up_duties(&node);
        node
    }

    pub fn take_up_duties(&self, node: &RaftNode) {
        let links = self.links.lock().unwrap().entry(node.id()).or_default().subscribe();
        let task = tokio::spawn(lead(node.clone(), links, Arc::new(Nothing), timing()));
        self.duties.lock().unwrap().insert(node.id(), task.abort_handle());
        self.relink();
    }

    /// Tells everybody what the links are now, as the transport would once it has noticed.
    fn relink(&self) {
        let nodes: BTreeSet<NodeId> = self.nodes.lock().unwrap().keys().copied().collect();
        let cut = self.cut.lock().unwrap();
        let all: BTreeSet<NodeId> = self.disks.lock().unwrap().keys().copied().collect();
        for (me, links) in self.links.lock().unwrap().iter() {
            let there = |node: &NodeId| nodes.contains(node) && !cut.contains(node) && !cut.contains(me);
            let link = |node: &NodeId| if there(node) { LinkState::Connected } else { LinkState::Lost };
            links.send_replace(all.iter().filter(|node| *node != me).map(|node| (*node, link(node))).collect());
        }
    }

    /// Loses the power of a node: its disk first, then its part in the world.
    pub async fn kill(&self, id: u64) {
        if let Some(duties) = self.duties.lock().unwrap().remove(&NodeId(id)) {
            duties.abort();
        }
        self.disk(id).power_off();
        self.cut(id);
        let node = self.nodes.lock().unwrap().remove(&NodeId(id));
        self.relink();
        if let Some(node) = node {
            node.shutdown().await;
        }
        self.disk(id).power_on();
    }

    pub async fn stop(&self, id: u64) {
        let node = self.nodes.lock().unwrap().remove(&NodeId(id)).unwrap();
        self.relink();
        node.shutdown().await;
    }

    pub fn cut(&self, id: u64) {
        self.cut.lock().unwrap().insert(NodeId(id));
        self.relink();
    }

    /// Nobody reaches the node any more; it still reaches everybody.
    pub fn deafen(&self, id: u64) {
        self.deaf.lock().unwrap().insert(NodeId(id));
    }

    pub fn mend(&self, id: u64) {
        self.deaf.lock().unwrap().remove(&NodeId(id));
        self.cut.lock().unwrap().remove(&NodeId(id));
        self.relink();
    }

    pub fn nodes(&self) -> Vec<RaftNode> {
        self.nodes.lock().unwrap().values().cloned().collect()
    }

    /// Nodes `1..=count`, all voters, with a leader that has formed the mesh.
    pub async fn formed(count: u64) -> (Arc<Self>, RaftNode) {
        let world = Arc::new(Self::default());
        for id in 1..=count {
            world.start(id).await;
        }
        let leader = world.form().await;
        (world, leader)
    }

    /// Founds a mesh of the nodes that there are, all voters.
    pub async fn form(&self) -> RaftNode {
        let count = self.nodes().len() as u64;
        let voters = (1..=count).map(|id| (NodeId(id), format!("n{id}:7400"))).collect();
        self.nodes()[0].initialize(voters).await.unwrap();
        let leader = self.leader().await;
        leader.ensure_linearizable().await.unwrap();
        leader.propose(crate::state::fixture::form(1..=count)).await.unwrap();
        leader
    }

    /// The leader that a majority follows, once there is one.
    pub async fn leader(&self) -> RaftNode {
        for _ in 0..1000 {
            for node in self.nodes() {
                let followers =
                    self.nodes().iter().filter(|n| n.leader() == (Some(node.id()), node.leader().1)).count();
                let cut = self.cut.lock().unwrap().contains(&node.id());
                if !cut && node.is_leader() && followers * 2 > node.membership().0.len() {
                    return node;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no leader");
    }
}

pub(super) fn timing() -> Timing {
    Timing {
        heartbeat_ms: 50,
        election_ms_min: 200,
        election_ms_max: 400,
        voter_grace_ms: 10_000,
        call_timeout_ms: 2000,
        ..Timing::default()
    }
}
