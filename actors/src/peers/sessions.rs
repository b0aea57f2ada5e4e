//! Which sessions this node has with which peers, and what is to be done about it: whom to dial, which to close. The
//! lower node id of a pair opens the session, so that two never cross.
//!
//! `DialPlan` is pure; `Sessions` is the table that the switchboard writes and the others read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use greylag_protocol::NodeId;
use ractor::ActorCell;
use tokio::{sync::watch, time::Instant};

/// Longest that a session may take to become ready.
pub(super) const HANDSHAKE_MAX: Duration = Duration::from_secs(3);
/// Wait before a peer is dialled again, at first and at most.
const REDIAL_MIN: Duration = Duration::from_millis(50);
const REDIAL_MAX: Duration = Duration::from_secs(1);

/// Number of a session: what ractor_cluster calls a node id. Never used twice in a process.
pub(super) type SessionNo = u64;

#[derive(Debug, Clone)]
pub(super) struct Session {
    pub peer: NodeId,
    pub ready: bool,
    pub opened: Instant,
    pub cell: ActorCell,
}

#[derive(Debug)]
pub(super) struct Sessions {
    table: Mutex<Table>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Table {
    last: SessionNo,
    open: BTreeMap<SessionNo, Session>,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self { table: Mutex::default(), changed: watch::Sender::new(0) }
    }

    pub(super) fn next_number(&self) -> SessionNo {
        let mut table = self.lock();
        table.last += 1;
        table.last
    }

    pub(super) fn opened(&self, number: SessionNo, session: Session) {
        self.lock().open.insert(number, session);
        self.wake();
    }

    pub(super) fn ready(&self, number: SessionNo) {
        if let Some(session) = self.lock().open.get_mut(&number) {
            session.ready = true;
        }
        self.wake();
    }

    pub(super) fn closed(&self, number: SessionNo) {
        self.lock().open.remove(&number);
        self.wake();
    }

    pub(super) fn clear(&self) {
        self.lock().open.clear();
        self.wake();
    }

    /// The peer at the other end of a session that can be used.
    pub(super) fn peer_of_ready(&self, number: SessionNo) -> Option<NodeId> {
        self.lock().open.get(&number).filter(|session| session.ready).map(|session| session.peer)
    }

    pub(super) fn open(&self) -> BTreeMap<SessionNo, Session> {
        self.lock().open.clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn wake(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the plan is made from.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    pub members: BTreeSet<NodeId>,
    /// Members with a live connection.
    pub linked: BTreeSet<NodeId>,
    /// Peers that are being dialled.
    pub dialling: BTreeSet<NodeId>,
    /// Peer, whether it is ready, and its age.
    pub sessions: BTreeMap<SessionNo, (NodeId, bool, Duration)>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    pub dial: Vec<NodeId>,
    pub close: Vec<SessionNo>,
    /// When to look again even if nothing happens.
    pub wake_after: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct DialPlan {
    me: NodeId,
    tries: BTreeMap<NodeId, Tries>,
}

#[derive(Debug, Default)]
struct Tries {
    in_a_row: u32,
    not_before: Duration,
}

impl DialPlan {
    pub(super) fn new(me: NodeId) -> Self {
        Self { me, tries: BTreeMap::new() }
    }

    /// `now` counts from any fixed point; `dice` is any number.
    pub(super) fn step(&mut self, now: Duration, dice: u64, view: &View) -> Steps {
        let mut steps = Steps::default();
        self.tries.retain(|peer, _| view.members.contains(peer));
        for (number, (peer, ready, age)) in &view.sessions {
            if !view.members.contains(peer) || (!ready && *age >= HANDSHAKE_MAX) {
                steps.close.push(*number);
            } else if *ready {
                self.tries.remove(peer);
            } else {
                soonest(&mut steps.wake_after, HANDSHAKE_MAX - *age);
            }
        }
        let busy: BTreeSet<NodeId> = view.sessions.values().map(|(peer, ..)| *peer).collect();
        for peer in view.linked.range((std::ops::Bound::Excluded(self.me), std::ops::Bound::Unbounded)) {
            if !view.members.contains(peer) || busy.contains(peer) || view.dialling.contains(peer) {
                continue;
            }
            let tries = self.tries.entry(*peer).or_default();
            if now < tries.not_before {
                soonest(&mut steps.wake_after, tries.not_before - now);
                continue;
            }
            let doubled = REDIAL_MIN.saturating_mul(1 << tries.in_a_row.min(16)).min(REDIAL_MAX);
            tries.not_before = now + doubled - doubled.mul_f64((dice % 1024) as f64 / 2048.0);
            tries.in_a_row += 1;
            steps.dial.push(*peer);
        }
        steps
    }
}

fn soonest(wake: &mut Option<Duration>, after: Duration) {
    *wake = Some(wake.map_or(after, |wake| wake.min(after)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(members: &[u64], linked: &[u64]) -> View {
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
        View { members: ids(members), linked: ids(linked), ..View::default() }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_lower_id_dials_members_it_has_a_link_to() {
        let mut plan = DialPlan::new(NodeId(2));
        let steps = plan.step(ms(0), 0, &view(&[1, 2, 3, 4], &[1, 3]));
        assert_eq!(steps.dial, [NodeId(3)], "1 dials us, 4 cannot be reached");
        let mut left = view(&[1, 2], &[1, 3]);
        assert_eq!(plan.step(ms(0), 0, &left), Steps::default(), "3 is no member any more");
        left.sessions.insert(7, (NodeId(3), true, ms(10)));
        assert_eq!(plan.step(ms(0), 0, &left).close, [7]);
    }

    #[test]
    fn a_peer_is_dialled_again_after_growing_waits() {
        let mut plan = DialPlan::new(NodeId(1));
        let view = view(&[1, 2], &[2]);
        let mut now = ms(0);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let steps = plan.step(now, 0, &view);
            assert_eq!(steps.dial, [NodeId(2)]);
            let steps = plan.step(now, 0, &view);
            assert_eq!(steps.dial, []);
            let wait = steps.wake_after.unwrap_or_default();
            waits.push(wait.as_millis());
            now += wait;
        }
        assert_eq!(waits, [50, 100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn a_session_or_a_dial_under_way_is_enough_and_a_ready_one_makes_the_next_wait_short() {
        let mut plan = DialPlan::new(NodeId(1));
        let mut view = view(&[1, 2], &[2]);
        for _ in 0..5 {
            plan.step(ms(60_000), 0, &view);
        }
        view.dialling.insert(NodeId(2));
        assert_eq!(plan.step(ms(120_000), 0, &view), Steps::default());
        view.dialling.clear();
        view.sessions.insert(1, (NodeId(2), false, ms(100)));
        assert_eq!(
            plan.step(ms(120_000), 0, &view),
            Steps { wake_after: Some(HANDSHAKE_MAX - ms(100)), ..Steps::default() }
        );
        view.sessions.insert(1, (NodeId(2), true, ms(100)));
        assert_eq!(plan.step(ms(120_000), 0, &view), Steps::default());
        view.sessions.clear();
        assert_eq!(plan.step(ms(120_000), 0, &view).dial, [NodeId(2)]);
        assert_eq!(plan.step(ms(120_000), 0, &view).wake_after, Some(REDIAL_MIN));
    }

    #[test]
    fn a_handshake_that_takes_too_long_is_closed() {
        let mut plan = DialPlan::new(NodeId(5));
        let mut view = view(&[1, 5], &[1]);
        view.sessions.insert(3, (NodeId(1), false, HANDSHAKE_MAX));
        assert_eq!(plan.step(ms(0), 0, &view).close, [3]);
    }
}
