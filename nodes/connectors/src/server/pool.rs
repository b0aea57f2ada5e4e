//! A bounded set of connections to one source. A lease is the right to hold one connection; who wants more than there
//! are waits a bounded time and is then told that the source is busy. The pool neither opens nor checks connections:
//! its user does.
//!
//! INVARIANT: never more than `connections_max` leases at a time, and every connection belongs to one of them or is
//! idle.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use greylag_actors::bounds::{Bound, Taken};
use greylag_protocol::{ErrorCode, MeshError, Result, SourceName};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// An idle connection older than this is closed rather than used.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// Longest wait for a lease, whatever the statement's own time limit.
pub(crate) const LEASE_WAIT_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Pool<C> {
    leases: Arc<Semaphore>,
    /// Connections in use.
    bound: Arc<Bound>,
    idle: Mutex<Vec<(C, Instant)>>,
}

/// The right to one connection. Dropping it gives the right back, and closes the connection if it has not been put
/// back.
#[derive(Debug)]
pub(crate) struct Lease<C> {
    /// Given back before the permit.
    _taken: Taken,
    _permit: OwnedSemaphorePermit,
    pool: Arc<Pool<C>>,
}

impl<C> Pool<C> {
    pub(crate) fn new(source: &SourceName, connections_max: usize) -> Arc<Self> {
        Arc::new(Self {
            leases: Arc::new(Semaphore::new(connections_max)),
            bound: Bound::named("source.connections_max", source.to_string(), connections_max as u64),
            idle: Mutex::new(Vec::new()),
        })
    }

    pub(crate) fn bound(&self) -> Arc<Bound> {
        self.bound.clone()
    }

    /// GL3010 when every connection stays in use for `wait` (at most [`LEASE_WAIT_MAX`]).
    pub(crate) async fn lease(self: &Arc<Self>, wait: Duration) -> Result<Lease<C>> {
        let wait = wait.min(LEASE_WAIT_MAX);
        match tokio::time::timeout(wait, self.leases.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Lease { _taken: self.bound.taken(), _permit: permit, pool: self.clone() }),
            Ok(Err(_)) => Err(MeshError::internal("a connection pool was closed")),
            Err(_) => {
                self.bound.refuse();
                let (all, waited) = (self.bound.max(), wait.as_millis());
                let message = format!("all {all} connections stayed in use for {waited} ms");
                Err(MeshError::new(ErrorCode::SourceBusy, message))
            }
        }
    }

    /// Closes what is idle: after one connection turned out dead, its neighbours are not trusted either.
    pub(crate) fn forget_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl<C> Lease<C> {
    /// The connection used last, if one is idle. It may have died meanwhile.
    pub(crate) fn take_idle(&self) -> Option<C> {
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < IDLE_MAX);
        idle.pop().map(|(connection, _)| connection)
    }

    /// Gives connection and right back.
    pub(crate) fn put_back(self, connection: C) {
        self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push((connection, Instant::now()));
    }

    pub(crate) fn pool(&self) -> &Pool<C> {
        &self.pool
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use greylag_actors::bounds::Bounds;
    use greylag_protocol::NodeId;

    use super::*;

    fn shop() -> SourceName {
        SourceName::new("shop").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_bound_holds_and_the_wait_ends() {
        let pool: Arc<Pool<u32>> = Pool::new(&shop(), 2);
        let first = pool.lease(Duration::from_secs(1)).await.unwrap();
        let second = pool.lease(Duration::from_secs(1)).await.unwrap();
        let error = pool.lease(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::SourceBusy);
        let listed = Bounds::default();
        listed.list(&pool.bound());
        let row = || listed.rows(NodeId(1)).remove(0);
        assert_eq!((row().name.as_str(), row().of.as_str()), ("source.connections_max", "shop"));
        assert_eq!((row().max, row().used, row().peak, row().refused), (2, 2, 2, 1));
        first.put_back(7);
        assert_eq!((row().used, row().peak), (1, 2));
        let third = pool.lease(Duration::from_secs(1)).await.unwrap();
        assert_eq!(third.take_idle(), Some(7));
        assert_eq!(third.take_idle(), None);
        drop(second);
        assert_eq!(pool.lease(Duration::ZERO).await.unwrap().take_idle(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn old_and_distrusted_connections_are_closed() {
        let pool: Arc<Pool<u32>> = Pool::new(&shop(), 1);
        pool.lease(Duration::ZERO).await.unwrap().put_back(1);
        tokio::time::advance(IDLE_MAX).await;
        pool.lease(Duration::ZERO).await.unwrap().put_back(2);
        let lease = pool.lease(Duration::ZERO).await.unwrap();
        assert_eq!(lease.take_idle(), Some(2));
        assert_eq!(lease.take_idle(), None, "the first one had been idle for too long");
        lease.put_back(3);
        pool.forget_idle();
        assert_eq!(pool.lease(Duration::ZERO).await.unwrap().take_idle(), None);
    }
}
