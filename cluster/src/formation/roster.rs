//! The other fresh nodes that this one has heard of, with their last words.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use greylag_protocol::{
    NodeUuid,
    messages::join::{Candidate, JOIN_BYTES_MAX},
    wire,
};
use tokio::{sync::watch, time::Instant};

/// Without a word for so long, a node is taken for gone.
const STALE: Duration = Duration::from_secs(5);
/// Most nodes kept; more are not heard. (A mesh is founded by a handful.)
const CANDIDATES_MAX: usize = 128;
/// Most nodes that found a mesh together: all of them fit into one answer.
pub(crate) const FOUNDERS_MAX: usize = 32;
/// Bytes of candidates in one answer, which must fit its frame with the node's own.
const PASSED_ON_BYTES_MAX: usize = JOIN_BYTES_MAX / 2;

pub(super) struct Roster {
    me: Candidate,
    heard: Mutex<BTreeMap<NodeUuid, Heard>>,
    changed: watch::Sender<u64>,
}

struct Heard {
    candidate: Candidate,
    /// When it spoke to us, or another passed its words on.
    itself: Option<Instant>,
    passed_on: Option<Instant>,
}

impl Heard {
    fn is_recent(&self, now: Instant) -> bool {
        self.itself.max(self.passed_on).is_some_and(|at| now - at < STALE)
    }
}

impl Roster {
    pub(super) fn new(me: Candidate) -> Self {
        Self { me, heard: Mutex::default(), changed: watch::channel(0).0 }
    }

    /// This node, with whom it knows.
    pub(super) fn me(&self) -> Candidate {
        let known = self.known();
        let mut knows: Vec<NodeUuid> = known.into_keys().chain([self.me.uuid]).collect();
        knows.sort();
        Candidate { knows, ..self.me.clone() }
    }

    /// Everybody else heard of lately.
    pub(super) fn known(&self) -> BTreeMap<NodeUuid, Candidate> {
        let now = Instant::now();
        self.heard().iter().filter(|(_, h)| h.is_recent(now)).map(|(id, h)| (*id, h.candidate.clone())).collect()
    }

    /// Those heard themselves lately: only their words are passed on, so that nobody lives on in hearsay.
    pub(super) fn to_pass_on(&self) -> Vec<Candidate> {
        let now = Instant::now();
        let heard = self.heard();
        let themselves = heard.values().filter(|h| h.itself.is_some_and(|at| now - at < STALE));
        let mut room = PASSED_ON_BYTES_MAX;
        let mut passed_on = Vec::new();
        for candidate in themselves.map(|h| &h.candidate).take(FOUNDERS_MAX) {
            // What does not fit is heard of by asking its node itself.
            let size = wire::encode(candidate, JOIN_BYTES_MAX).map_or(usize::MAX, |bytes| bytes.len());
            if let Some(left) = room.checked_sub(size) {
                room = left;
                passed_on.push(candidate.clone());
            }
        }
        passed_on
    }

    /// Wakes when somebody has come or has learnt something.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A node has spoken to this one.
    pub(super) fn hear(&self, candidate: Candidate) {
        self.note(candidate, |heard, now| heard.itself = Some(now));
    }

    /// A node's words have been passed on.
    pub(super) fn hear_of(&self, candidate: Candidate) {
        let now = Instant::now();
        let first_hand = self.heard().get(&candidate.uuid).is_some_and(|h| h.itself.is_some_and(|at| now - at < STALE));
        if !first_hand {
            self.note(candidate, |heard, now| heard.passed_on = Some(now));
        }
    }

    fn note(&self, candidate: Candidate, stamp: impl FnOnce(&mut Heard, Instant)) {
        if candidate.uuid == self.me.uuid {
            return;
        }
        let now = Instant::now();
        let mut heard = self.heard();
        let is_new = !heard.get(&candidate.uuid).is_some_and(|h| h.is_recent(now) && h.candidate == candidate);
        heard.retain(|_, h| h.is_recent(now));
        if heard.len() >= CANDIDATES_MAX && !heard.contains_key(&candidate.uuid) {
            return;
        }
        let entry = heard.entry(candidate.uuid).or_insert_with(|| Heard {
            candidate: candidate.clone(),
            itself: None,
            passed_on: None,
        });
        entry.candidate = candidate;
        stamp(entry, now);
        drop(heard);
        if is_new {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<NodeUuid, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use greylag_protocol::messages::join::JoinReplyBody;
    use uuid::Uuid;

    use super::*;

    fn candidate(n: u128) -> Candidate {
        Candidate {
            mesh_name: "m".into(),
            expect: 3,
            uuid: NodeUuid(Uuid::from_u128(n)),
            name: format!("node-{n}"),
            address: format!("10.0.0.{n}:7400"),
            labels: BTreeMap::new(),
            door: None,
            outbound_only: false,
            knows: Vec::new(),
        }
    }

    fn knows(roster: &Roster) -> Vec<u128> {
        roster.me().knows.iter().map(|uuid| uuid.0.as_u128()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_falls_silent_is_forgotten_and_hearsay_does_not_keep_anybody_alive() {
        let roster = Roster::new(candidate(2));
        let mut changes = roster.watch();
        roster.hear(candidate(1));
        roster.hear_of(candidate(3));
        roster.hear(candidate(2));
        assert_eq!(knows(&roster), [1, 2, 3]);
        assert_eq!(roster.to_pass_on(), [candidate(1)], "3 was not heard itself");
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();

        tokio::time::advance(STALE - Duration::from_secs(1)).await;
        roster.hear(candidate(1));
        assert!(!changes.has_changed().unwrap(), "it said nothing new");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(knows(&roster), [1, 2]);
        tokio::time::advance(STALE).await;
        assert_eq!(knows(&roster), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_kept_than_the_bound() {
        let roster = Roster::new(candidate(0));
        for n in 1..=2 * CANDIDATES_MAX as u128 {
            roster.hear(candidate(n));
        }
        assert_eq!(roster.known().len(), CANDIDATES_MAX);
        assert_eq!(roster.to_pass_on().len(), FOUNDERS_MAX);
        let wordy = |n| Candidate { labels: [("l".to_owned(), "x".repeat(8000))].into(), ..candidate(n) };
        let roster = Roster::new(wordy(0));
        (1..=20).for_each(|n| roster.hear(wordy(n)));
        let passed_on = roster.to_pass_on();
        assert_eq!(passed_on.len(), 4);
        let answer = JoinReplyBody::Fresh { me: roster.me(), others: passed_on };
        wire::encode(&answer, JOIN_BYTES_MAX).unwrap();
    }
}
