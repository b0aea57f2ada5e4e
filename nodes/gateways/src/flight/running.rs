//! Which statements this door is streaming, by the ticket they were redeemed with: what `CancelFlightInfo` names.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use greylag_protocol::{ErrorCode, MeshError, QueryId, Result};
use uuid::Uuid;

/// Most statements that one door streams at the same time.
pub const RUNNING_MAX: usize = 4096;

/// A ticket's nonce, and a number that tells its redemptions apart.
type Key = (Uuid, u64);

#[derive(Clone, Default)]
pub(super) struct Running {
    queries: Arc<Mutex<BTreeMap<Key, QueryId>>>,
    next: Arc<AtomicU64>,
}

/// Keeps a statement listed as long as it lives.
pub(super) struct RunningGuard {
    running: Running,
    key: Key,
}

impl Running {
    /// GL5001 when the door streams as many as it can.
    pub(super) fn enter(&self, ticket: Uuid, query: QueryId) -> Result<RunningGuard> {
        let mut queries = self.lock();
        if queries.len() >= RUNNING_MAX {
            return Err(MeshError::new(
                ErrorCode::QueueFull,
                format!("this door streams {RUNNING_MAX} statements already"),
            ));
        }
        let key = (ticket, self.next.fetch_add(1, Ordering::Relaxed));
        queries.insert(key, query);
        Ok(RunningGuard { running: self.clone(), key })
    }

    /// Statements that run on this ticket: more than one if it was redeemed more than once.
    pub(super) fn of(&self, ticket: Uuid) -> Vec<QueryId> {
        self.lock().range((ticket, 0)..=(ticket, u64::MAX)).map(|(_, query)| *query).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, QueryId>> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_has_ended_is_not_listed() {
        let running = Running::default();
        let (ticket, query) = (Uuid::from_u128(1), QueryId(Uuid::from_u128(2)));
        let first = running.enter(ticket, query).unwrap();
        let second = running.enter(ticket, query).unwrap();
        let _other = running.enter(Uuid::from_u128(3), query).unwrap();
        assert_eq!(running.of(ticket).len(), 2);
        drop(first);
        assert_eq!(running.of(ticket), [query]);
        drop(second);
        assert!(running.of(ticket).is_empty() && running.lock().len() == 1);
    }

    #[test]
    fn there_is_a_most() {
        let running = Running::default();
        let enter = |n| running.enter(Uuid::from_u128(n), QueryId(Uuid::nil()));
        let _all: Vec<_> = (0..RUNNING_MAX as u128).map(|n| enter(n).unwrap()).collect();
        assert_eq!(enter(u128::MAX).err().map(|e| e.code), Some(ErrorCode::QueueFull));
    }
}
