//! Answers that wait for their coordinator to come back after a connection was lost. Each waits for a moment, a shorter
//! one once the coordinator's node is down; then it is dropped, which stops the source's statement.
//!
//! INVARIANT: an answer is handed to one stream at a time, and only to a sub-query that is the same but for the attempt.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use greylag_cluster::Mesh;
use greylag_protocol::{
    NodeId, SubqueryId,
    messages::edge::Subquery,
    state::{ControlState, MemberStatus},
};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::tail::Tail;
use crate::{bounds::Bound, task::TaskGuard};

/// Longest time that an answer waits.
pub const PARKED_MAX: Duration = Duration::from_secs(5);
/// Time that an answer outlives its coordinator's place among the members that are up: on a busy machine a connection
/// can take longer to be made anew than the leader waits before it calls the node lost.
const RETURN_MAX: Duration = Duration::from_secs(1);
/// Longest wait for a stream that still serves the answer to notice that it is wanted elsewhere.
const HANDOVER_MAX: Duration = Duration::from_millis(500);

/// Who asked for what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    coordinator: NodeId,
    subquery: SubqueryId,
    partition: u32,
}

/// What has to be the same for another attempt to be given the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    attempt: u32,
    sql: String,
    principal: String,
    batch_rows: u32,
}

enum Spot {
    /// On its way, over a stream that gives it up when told to.
    Serving {
        attempt: u32,
        give_up: CancellationToken,
    },
    Parked {
        tail: Tail,
        facts: Facts,
        _timer: TaskGuard,
    },
}

pub struct Parking {
    spots: Mutex<BTreeMap<Key, Spot>>,
    changed: Notify,
    /// Room for batches kept, over all answers.
    pub room: Arc<Bound>,
}

impl Parking {
    pub fn new(room: Arc<Bound>) -> Arc<Self> {
        Arc::new(Self { spots: Mutex::default(), changed: Notify::new(), room })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Spot>> {
        self.spots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer is on its way. What is returned says when another stream wants it.
    pub fn serving(self: &Arc<Self>, coordinator: NodeId, subquery: &Subquery) -> Serving {
        let (key, facts, give_up) = (key(coordinator, subquery), facts(subquery), CancellationToken::new());
        let spot = Spot::Serving { attempt: facts.attempt, give_up: give_up.clone() };
        let before = self.lock().insert(key.clone(), spot);
        drop(before);
        Serving { parking: self.clone(), key, facts, give_up, parked: false }
    }

    /// The answer to the attempt that this one follows, or to a later one, at the batch from which it is wanted.
    pub async fn take(&self, coordinator: NodeId, subquery: &Subquery) -> Option<Tail> {
        let (key, since) = (key(coordinator, subquery), subquery.reattach?);
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                match self.try_take(&key, since, &facts(subquery)) {
                    Ok(found) => return found,
                    Err(give_up) => give_up.cancel(),
                }
                changed.await;
            }
        };
        let tail = timeout(HANDOVER_MAX, waiting).await.ok().flatten()?;
        tail.rewound(subquery.resume.batches).ok()
    }

    /// The token of a stream that still serves it, if there is one.
    fn try_take(&self, key: &Key, since: u32, wanted: &Facts) -> Result<Option<Tail>, CancellationToken> {
        let mut spots = self.lock();
        match spots.remove(key) {
            Some(Spot::Serving { attempt, give_up }) => {
                spots.insert(key.clone(), Spot::Serving { attempt, give_up: give_up.clone() });
                Err(give_up)
            }
            Some(Spot::Parked { tail, facts, .. }) => {
                let same = Facts { attempt: facts.attempt, ..wanted.clone() } == facts;
                Ok((same && facts.attempt >= since && facts.attempt < wanted.attempt).then_some(tail))
            }
            None => Ok(None),
        }
    }
}

fn key(coordinator: NodeId, subquery: &Subquery) -> Key {
    let id = subquery.attempt;
    Key { coordinator, subquery: id.subquery, partition: id.partition }
}

fn facts(subquery: &Subquery) -> Facts {
    Facts {
        attempt: subquery.attempt.attempt,
        sql: subquery.sql.clone(),
        principal: subquery.principal.clone(),
        batch_rows: subquery.batch_rows,
    }
}

/// One answer while a stream serves it. Dropped without [`Serving::park`], the answer is over.
pub struct Serving {
    parking: Arc<Parking>,
    key: Key,
    facts: Facts,
    give_up: CancellationToken,
    parked: bool,
}

impl Serving {
    /// Returns when another stream wants the answer.
    pub async fn wanted_elsewhere(&self) {
        self.give_up.cancelled().await;
    }

    /// Leaves the answer for whoever comes for it.
    pub fn park(mut self, tail: Tail, mesh: &Mesh) {
        self.parked = true;
        let (parking, key) = (Arc::downgrade(&self.parking), self.key.clone());
        let timer = TaskGuard::control(expire(parking, key.clone(), mesh.watch()));
        let mut spots = self.parking.lock();
        // Once a later attempt has begun, its rows may be in another order: this answer is nobody's.
        let own = matches!(spots.get(&key), Some(Spot::Serving { attempt, .. }) if *attempt == self.facts.attempt);
        let spot = Spot::Parked { tail, facts: self.facts.clone(), _timer: timer };
        let over = if own { spots.insert(key, spot) } else { Some(spot) };
        drop(spots);
        drop(over);
        self.parking.changed.notify_waiters();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !self.parked {
            let mut spots = self.parking.lock();
            let own =
                matches!(spots.get(&self.key), Some(Spot::Serving { attempt, .. }) if *attempt == self.facts.attempt);
            let over = own.then(|| spots.remove(&self.key));
            drop(spots);
            drop(over);
            self.parking.changed.notify_waiters();
        }
    }
}

type States = watch::Receiver<Arc<ControlState>>;

async fn expire(parking: Weak<Parking>, key: Key, mut states: States) {
    // At the latest then, whatever becomes of the coordinator.
    let _ = timeout(PARKED_MAX, lost(key.coordinator, &mut states)).await;
    let Some(parking) = parking.upgrade() else { return };
    // Its guard ends this very task, at its next wait: there is none.
    let over = parking.lock().remove(&key);
    drop(over);
}

/// Returns when the node has been down for a moment, or the mesh is closing.
async fn lost(node: NodeId, states: &mut States) {
    let down = |state: &Arc<ControlState>| state.member(node).is_none_or(|m| m.status == MemberStatus::Down);
    loop {
        if states.wait_for(down).await.is_err() {
            return;
        }
        if !matches!(timeout(RETURN_MAX, states.wait_for(|state| !down(state))).await, Ok(Ok(_))) {
            return;
        }
    }
}
