//! Memory of one query, taken out of the node's. A query that would go over its own share, or over what the node has
//! left, spills or fails alone, by name (GL5004).
//!
//! INVARIANT: what a query holds is counted at the node until it is given back; dropping a query gives back all.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use datafusion::{
    common::{Result, resources_datafusion_err},
    execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation},
};

/// Bytes that all queries of a node may hold together.
#[derive(Debug)]
pub(crate) struct NodeBudget {
    used: AtomicUsize,
    limit: usize,
}

impl NodeBudget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn try_take(&self, bytes: usize) -> bool {
        let take = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// One query's share: divided fairly among what can spill, and counted at the node.
#[derive(Debug)]
pub(crate) struct QueryPool {
    share: FairSpillPool,
    node: Arc<NodeBudget>,
}

impl QueryPool {
    pub(crate) fn new(limit: usize, node: Arc<NodeBudget>) -> Self {
        Self { share: FairSpillPool::new(limit), node }
    }
}

impl fmt::Display for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "query memory ({})", self.share)
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.share.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.share.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.node.take(additional);
        self.share.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.share.shrink(reservation, shrink);
        self.node.give_back(shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        if !self.node.try_take(additional) {
            return Err(resources_datafusion_err!(
                "the node's queries hold {} of {} bytes, and `{}` needs {} more",
                self.node.used(),
                self.node.limit,
                reservation.consumer().name(),
                additional
            ));
        }
        self.share.try_grow(reservation, additional).inspect_err(|_| self.node.give_back(additional))
    }

    fn reserved(&self) -> usize {
        self.share.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.share.memory_limit()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_query_is_held_to_its_share_and_to_the_nodes() {
        let node = Arc::new(NodeBudget::new(1000));
        let pools: Vec<Arc<dyn MemoryPool>> =
            (0..2).map(|_| Arc::new(QueryPool::new(700, Arc::clone(&node))) as Arc<dyn MemoryPool>).collect();
        let first = MemoryConsumer::new("first").register(&pools[0]);
        let second = MemoryConsumer::new("second").register(&pools[1]);
        first.try_grow(600).unwrap();
        assert!(first.try_grow(101).unwrap_err().to_string().contains("first"), "over its own share");
        assert_eq!(node.used(), 600);
        let refused = second.try_grow(401).unwrap_err();
        assert!(matches!(refused, datafusion::error::DataFusionError::ResourcesExhausted(_)));
        second.try_grow(400).unwrap();
        assert_eq!(node.used(), 1000);
        drop(first);
        assert_eq!(node.used(), 400);
        drop(second);
        assert_eq!(node.used(), 0);
    }
}
