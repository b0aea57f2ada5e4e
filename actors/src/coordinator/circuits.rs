//! Circuit breakers: which source, behind which edge, has failed so often in a row that it is left alone for a moment.
//! One for each pair, at each coordinator. While a circuit is open nobody asks; when its rest is over one sub-query may
//! try, and closes it or opens it for longer.
//!
//! INVARIANT: an open circuit lets at most one sub-query through per rest.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use greylag_protocol::{ErrorCode, MeshError, NodeId, SourceName, messages::control::CircuitRow};
use tokio::time::Instant;

/// Failures in a row that open a circuit.
pub const FAILURES_MAX: u32 = 5;
/// First rest of an open circuit; doubled whenever the one that tries after it fails.
pub const REST_MIN: Duration = Duration::from_millis(250);
/// Longest rest: a source that is back is found again within it.
pub const REST_MAX: Duration = Duration::from_secs(1);

/// What is known of a source behind an edge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Condition {
    /// Time for which it is left alone yet, milliseconds; 0 if it may be asked.
    pub rest_ms: u64,
    /// Time since its first failure in a row, milliseconds.
    pub failing_ms: u64,
}

#[derive(Debug, Default)]
pub struct Circuits(Mutex<BTreeMap<(SourceName, NodeId), Circuit>>);

#[derive(Debug)]
struct Circuit {
    failures: u32,
    /// Of those who tried after a rest.
    tries: u32,
    trying: bool,
    since: Instant,
    /// Nobody asks before this.
    until: Instant,
    error: String,
}

impl Circuit {
    fn is_open(&self) -> bool {
        self.failures >= FAILURES_MAX
    }

    fn rest(&self) -> Duration {
        REST_MIN.saturating_mul(1 << self.tries.min(16)).min(REST_MAX)
    }

    fn rest_left(&self, now: Instant) -> Duration {
        if self.is_open() { self.until.saturating_duration_since(now) } else { Duration::ZERO }
    }
}

impl Circuits {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(SourceName, NodeId), Circuit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn condition(&self, source: &SourceName, edge: NodeId, now: Instant) -> Condition {
        match self.lock().get(&(source.clone(), edge)) {
            None => Condition::default(),
            Some(circuit) => Condition {
                rest_ms: circuit.rest_left(now).as_micros().div_ceil(1_000) as u64,
                failing_ms: now.saturating_duration_since(circuit.since).as_millis() as u64,
            },
        }
    }

    /// Whether a sub-query may ask now. With the circuit open it is then the one that tries, and the others rest on.
    #[must_use]
    pub fn may_ask(&self, source: &SourceName, edge: NodeId, now: Instant) -> bool {
        let mut circuits = self.lock();
        let Some(circuit) = circuits.get_mut(&(source.clone(), edge)).filter(|circuit| circuit.is_open()) else {
            return true;
        };
        let may = circuit.until <= now;
        if may {
            circuit.trying = true;
            circuit.until = now + circuit.rest();
        }
        may
    }

    /// The source has answered.
    pub fn answered(&self, source: &SourceName, edge: NodeId) {
        self.lock().remove(&(source.clone(), edge));
    }

    /// An attempt has failed. Only what the edge says of its source counts: a lost node or network is told by the mesh.
    pub fn failed(&self, source: &SourceName, edge: NodeId, error: &MeshError, now: Instant) {
        if error.code != ErrorCode::SourceUnreachable {
            return;
        }
        let mut circuits = self.lock();
        let circuit = circuits.entry((source.clone(), edge)).or_insert_with(|| Circuit {
            failures: 0,
            tries: 0,
            trying: false,
            since: now,
            until: now,
            error: String::new(),
        });
        circuit.error = error.to_string();
        circuit.failures = circuit.failures.saturating_add(1);
        let tried = std::mem::take(&mut circuit.trying);
        circuit.tries = circuit.tries.saturating_add(tried.into());
        // Those that were under way when it opened are no news.
        if tried || circuit.failures <= FAILURES_MAX {
            circuit.until = now + circuit.rest();
        }
    }

    /// Those that have failed lately and have not answered since.
    pub fn rows(&self, coordinator: NodeId, now: Instant) -> Vec<CircuitRow> {
        let row = |((source, edge), circuit): (&(SourceName, NodeId), &Circuit)| CircuitRow {
            coordinator,
            source: source.to_string(),
            edge: *edge,
            state: if circuit.is_open() { "open" } else { "closed" }.to_owned(),
            failures: circuit.failures,
            failing_ms: now.saturating_duration_since(circuit.since).as_millis() as u64,
            next_try_ms: circuit.rest_left(now).as_millis() as u64,
            error: circuit.error.clone(),
        };
        self.lock().iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const EDGE: NodeId = NodeId(2);

    fn source() -> SourceName {
        SourceName::new("orders").unwrap()
    }

    fn down() -> MeshError {
        MeshError::new(ErrorCode::SourceUnreachable, "no route")
    }

    fn after(circuits: &Circuits, failures: u32, now: Instant) -> Condition {
        (0..failures).for_each(|_| circuits.failed(&source(), EDGE, &down(), now));
        circuits.condition(&source(), EDGE, now)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_rests_longer_each_time() {
        let (circuits, now) = (Circuits::default(), Instant::now());
        assert_eq!(after(&circuits, FAILURES_MAX - 1, now).rest_ms, 0);
        assert_eq!(after(&circuits, 1, now).rest_ms, 250);
        assert_eq!(after(&circuits, 20, now).rest_ms, 250, "those that were under way do not lengthen it");
        let mut now = now;
        let mut rest_after = |ms| {
            now += Duration::from_millis(ms);
            assert!(circuits.may_ask(&source(), EDGE, now));
            after(&circuits, 1, now).rest_ms
        };
        assert_eq!([250, 500, 1_000, 1_000].map(&mut rest_after), [500, 1_000, 1_000, 1_000]);
        assert_eq!(
            circuits.condition(&source(), NodeId(3), now),
            Condition::default(),
            "another edge is not concerned"
        );
    }

    #[test]
    fn one_tries_after_the_rest_and_closes_it_or_not() {
        let (circuits, now) = (Circuits::default(), Instant::now());
        after(&circuits, FAILURES_MAX, now);
        let later = now + REST_MIN;
        assert_eq!(circuits.condition(&source(), EDGE, later), Condition { rest_ms: 0, failing_ms: 250 });
        assert!(!circuits.may_ask(&source(), EDGE, now), "not before its time");
        assert!(circuits.may_ask(&source(), EDGE, later));
        assert!(!circuits.may_ask(&source(), EDGE, later), "one alone");
        assert_eq!(circuits.condition(&source(), EDGE, later).rest_ms, 250, "the others rest on");
        assert_eq!(after(&circuits, 1, later).rest_ms, 500);
        circuits.answered(&source(), EDGE);
        assert_eq!(circuits.condition(&source(), EDGE, later), Condition::default());
        assert_eq!(after(&circuits, 1, later), Condition::default(), "it counts from the start again");
    }

    #[test]
    fn what_is_not_the_sources_fault_does_not_count() {
        let (circuits, now) = (Circuits::default(), Instant::now());
        for code in [ErrorCode::PeerUnreachable, ErrorCode::SourceRefused, ErrorCode::SourceBusy] {
            let error = MeshError::new(code, "other");
            (0..10).for_each(|_| circuits.failed(&source(), EDGE, &error, now));
        }
        assert!(circuits.rows(NodeId(1), now).is_empty());
    }

    #[test]
    fn rows_tell_the_state_and_the_last_error() {
        let (circuits, now) = (Circuits::default(), Instant::now());
        after(&circuits, FAILURES_MAX, now);
        let rows = circuits.rows(NodeId(1), now + Duration::from_millis(100));
        let expected = CircuitRow {
            coordinator: NodeId(1),
            source: "orders".to_owned(),
            edge: EDGE,
            state: "open".to_owned(),
            failures: FAILURES_MAX,
            failing_ms: 100,
            next_try_ms: 150,
            error: down().to_string(),
        };
        assert_eq!(rows, [expected]);
    }
}
