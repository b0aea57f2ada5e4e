//! For tests: one log in memory, and between it and each node a network that loses, delays, repeats and cuts, by seed.
//! What is granted is checked at each command.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use greylag_governance::quota::{LeaseId, Period, QuotaCommand, QuotaKey, QuotaOutcome, Usage};
use greylag_protocol::{
    ErrorCode, MeshError, NodeId, NodeUuid, Result,
    principal::{Principal, PrincipalKind},
    state::{ControlState, Member, MemberStatus},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use super::{Charge, QuotaLog, Quotas, drive};

/// Noon, so that hours and days of a test do not end by chance.
pub const T0: u64 = 1_700_049_600_000;
/// As `Mesh::propose` gives up.
pub const PROPOSE_MAX: Duration = Duration::from_secs(5);

pub fn key(agent: Option<&str>, period: Period) -> QuotaKey {
    QuotaKey { organisation: "clinic".into(), agent: agent.map(str::to_owned), period }
}

pub fn principal(organisation: &str, agent: &str) -> Principal {
    let attributes = [("organisation", organisation), ("agent_id", agent)];
    let attributes = attributes.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Principal { id: "ada".into(), kind: PrincipalKind::Person, roles: Vec::new(), attributes }
}

/// Rows whose default price is this.
pub fn rows(microcredits: u64) -> Usage {
    Usage { rows_returned: microcredits, ..Usage::default() }
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Percent, and milliseconds at most.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub lost: u32,
    pub repeated: u32,
    pub delay_ms_max: u64,
}

pub struct World {
    inner: Mutex<Inner>,
    began: Instant,
}

pub struct Inner {
    pub state: Arc<ControlState>,
    pub dice: StdRng,
    pub faults: Faults,
    /// With the state as they knew it when they were cut off.
    cut: BTreeMap<NodeId, Arc<ControlState>>,
    skew_ms: BTreeMap<NodeId, i64>,
    incarnations: BTreeMap<NodeId, u64>,
    granted: BTreeMap<(QuotaKey, LeaseId), u64>,
    under_way: BTreeSet<(QuotaKey, LeaseId, bool, bool)>,
    pub proposals: usize,
}

impl World {
    pub fn new(seed: u64, nodes: u64, limits: &[(QuotaKey, u64)]) -> Arc<Self> {
        let mut state = ControlState::default();
        for node in 1..=nodes {
            state.members.insert(NodeId(node), member(node));
        }
        for (key, limit) in limits {
            let (key, limit) = (key.clone(), Some(*limit));
            state.governance.quotas.apply(&QuotaCommand::SetLimit { key, limit, now_unix_ms: T0 });
        }
        let inner = Inner {
            state: Arc::new(state),
            dice: StdRng::seed_from_u64(seed),
            faults: Faults::default(),
            cut: BTreeMap::new(),
            skew_ms: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            granted: BTreeMap::new(),
            under_way: BTreeSet::new(),
            proposals: 0,
        };
        Arc::new(Self { inner: Mutex::new(inner), began: Instant::now() })
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub fn node(self: &Arc<Self>, node: u64) -> TestNode {
        let log = Arc::new(NodeLog { world: self.clone(), node: NodeId(node) });
        let quotas = Arc::new(Quotas::new(log, PROPOSE_MAX));
        TestNode { driver: tokio::spawn(drive(quotas.clone())), quotas }
    }

    pub fn cut(&self, node: u64) {
        let mut inner = self.lock();
        let state = inner.state.clone();
        inner.cut.insert(NodeId(node), state);
    }

    pub fn heal(&self, node: u64) {
        self.lock().cut.remove(&NodeId(node));
    }

    pub fn skew(&self, node: u64, ms: i64) {
        self.lock().skew_ms.insert(NodeId(node), ms);
    }

    pub fn set_status(&self, node: u64, status: MemberStatus) {
        let mut inner = self.lock();
        Arc::make_mut(&mut inner.state).members.get_mut(&NodeId(node)).unwrap().status = status;
    }

    pub fn set_limit(&self, key: &QuotaKey, limit: Option<u64>) {
        self.lock().apply(&QuotaCommand::SetLimit { key: key.clone(), limit, now_unix_ms: T0 });
    }

    /// Settled, number of open leases, and what these amount to, in the period that the log grants from.
    pub fn known(&self, key: &QuotaKey) -> (u64, usize, u64) {
        let current = &self.lock().state.governance.quotas.quotas[key].current;
        (current.settled, current.open.len(), current.committed() - current.settled)
    }
}

impl Inner {
    /// INVARIANT: what is granted never exceeds the limit, and no lease is granted twice.
    pub fn apply(&mut self, command: &QuotaCommand) -> QuotaOutcome {
        let outcome = Arc::make_mut(&mut self.state).governance.quotas.apply(command);
        if let (QuotaCommand::Lease { key, lease, .. }, QuotaOutcome::Granted { amount, .. }) = (command, &outcome) {
            let first = *self.granted.entry((key.clone(), *lease)).or_insert(*amount);
            assert_eq!(first, *amount, "a lease is granted once");
        }
        for (key, quota) in &self.state.governance.quotas.quotas {
            if let Some(limit) = quota.limit {
                assert!(quota.current.committed() <= limit, "{key}: {quota:?}");
            }
        }
        outcome
    }
}

fn member(id: u64) -> Member {
    Member {
        id: NodeId(id),
        uuid: NodeUuid(uuid::Uuid::from_u128(id.into())),
        name: format!("node{id}"),
        address: String::new(),
        door: None,
        labels: BTreeMap::new(),
        outbound_only: false,
        voter: true,
        status: MemberStatus::Up,
        status_since_unix_ms: 0,
        public_key: Vec::new(),
        allowed: None,
        certified_by: Vec::new(),
    }
}

/// A node's quotas with their driver. Dropped, it is a process that was killed.
pub struct TestNode {
    pub quotas: Arc<Quotas>,
    driver: JoinHandle<Result<()>>,
}

impl TestNode {
    /// As `Node::shutdown` does it.
    pub async fn shutdown(self) {
        self.driver.abort();
        self.quotas.give_back().await;
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

struct NodeLog {
    world: Arc<World>,
    node: NodeId,
}

impl NodeLog {
    /// Time on the way; `None` if it never arrives.
    fn way(&self) -> Option<Duration> {
        let mut inner = self.world.lock();
        let Faults { lost, delay_ms_max, .. } = inner.faults;
        let is_lost = inner.cut.contains_key(&self.node) || inner.dice.random_range(0..100) < lost;
        let delay = inner.dice.random_range(0..=delay_ms_max);
        (!is_lost).then(|| Duration::from_millis(delay))
    }

    fn arrived(&self) -> bool {
        !self.world.lock().cut.contains_key(&self.node)
    }
}

/// One proposal under way.
struct Flight(Arc<World>, (QuotaKey, LeaseId, bool, bool));

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.lock().under_way.remove(&self.1);
    }
}

fn flight(world: &Arc<World>, command: &QuotaCommand) -> Flight {
    let of = match command {
        QuotaCommand::Lease { key, lease, .. } => (key.clone(), *lease, true, false),
        QuotaCommand::Report { key, lease, closed, .. } => (key.clone(), *lease, false, *closed),
        QuotaCommand::SetLimit { .. } => panic!("a node sets no limits"),
    };
    assert!(world.lock().under_way.insert(of.clone()), "two proposals of one kind under way: {of:?}");
    Flight(world.clone(), of)
}

#[async_trait]
impl QuotaLog for NodeLog {
    fn node(&self) -> NodeId {
        self.node
    }

    fn state(&self) -> Arc<ControlState> {
        let inner = self.world.lock();
        inner.cut.get(&self.node).unwrap_or(&inner.state).clone()
    }

    fn unix_ms(&self) -> u64 {
        let skew = self.world.lock().skew_ms.get(&self.node).copied().unwrap_or_default();
        (T0 + self.world.began.elapsed().as_millis() as u64).saturating_add_signed(skew)
    }

    async fn propose(&self, command: QuotaCommand) -> Result<QuotaOutcome> {
        let _flight = flight(&self.world, &command);
        self.world.lock().proposals += 1;
        let gives_up = Instant::now() + PROPOSE_MAX;
        let silence = async {
            sleep_until(gives_up).await;
            Err(MeshError::new(ErrorCode::NoLeader, "no leader has answered"))
        };
        let Some(there) = self.way() else { return silence.await };
        sleep(there).await;
        if !self.arrived() {
            return silence.await;
        }
        let outcome = self.world.lock().apply(&command);
        let repeated = {
            let mut inner = self.world.lock();
            inner.dice.random_range(0..100) < inner.faults.repeated
        };
        if repeated && let Some(late) = self.way() {
            let world = self.world.clone();
            tokio::spawn(async move {
                sleep(late * 20).await;
                world.lock().apply(&command);
            });
        }
        match self.way() {
            Some(back) => sleep(back).await,
            None => return silence.await,
        }
        if self.arrived() { Ok(outcome) } else { silence.await }
    }

    async fn incarnation(&self) -> Result<u64> {
        let mut inner = self.world.lock();
        let last = inner.incarnations.entry(self.node).or_default();
        *last += 1;
        Ok(*last)
    }
}

impl Quotas {
    pub async fn reserve_of(self: Arc<Self>, organisation: &str, amount: u64) -> Result<Charge> {
        self.reserve(&principal(organisation, ""), &rows(amount), soon()).await
    }
}

impl World {
    /// The next process of this node has the same number again, as if its disk had forgotten.
    pub fn forget_incarnation(&self, node: u64) {
        self.lock().incarnations.insert(NodeId(node), 0);
    }
}
