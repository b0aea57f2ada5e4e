//! Connections of one source: how many at once, and those kept for the next sub-query.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use greylag_actors::bounds::{Bound, Taken};
use greylag_protocol::{ErrorCode, MeshError, Result, SourceName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    session::{FileIdentity, Session},
    stop::held,
};

/// Threads, and so connections, that one source uses at once. More than the sub-queries that an edge runs at once: the
/// readers of one plan may wait for each other, and must not wait for a thread too.
pub(super) const THREADS_MAX: usize = 64;
/// Connections kept open while nobody needs them.
const IDLE_MAX: usize = 8;
/// How long a sub-query waits for a thread before the source counts as busy.
const THREAD_WAIT: Duration = Duration::from_secs(5);

pub(super) struct Pool {
    path: PathBuf,
    idle: Mutex<Vec<Session>>,
    threads: Arc<Semaphore>,
    /// Threads in use.
    bound: Arc<Bound>,
}

/// The right to use a thread, until it is dropped.
pub(super) type Thread = (Taken, OwnedSemaphorePermit);

impl Pool {
    pub(super) fn new(source: &SourceName, path: PathBuf) -> Self {
        let bound = Bound::named("source.threads_max", source.to_string(), THREADS_MAX as u64);
        Self { path, idle: Mutex::default(), threads: Arc::new(Semaphore::new(THREADS_MAX)), bound }
    }

    pub(super) fn bound(&self) -> Arc<Bound> {
        self.bound.clone()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The right to use one of the source's threads; GL3010 if none gets free in time.
    pub(super) async fn thread(&self) -> Result<Thread> {
        match tokio::time::timeout(THREAD_WAIT, self.threads.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok((self.bound.taken(), permit)),
            Ok(Err(_)) => Err(MeshError::internal("the threads of an SQLite source are gone")),
            Err(_) => {
                self.bound.refuse();
                Err(MeshError::new(ErrorCode::SourceBusy, format!("all {THREADS_MAX} threads are in use")))
            }
        }
    }

    /// Threads in use.
    #[cfg(test)]
    pub(super) fn busy(&self) -> usize {
        THREADS_MAX - self.threads.available_permits()
    }

    /// A connection to the file that the path names now. Blocks.
    pub(super) fn checkout(&self) -> Result<Session> {
        let identity = FileIdentity::of(&self.path)?;
        loop {
            let Some(session) = held(&self.idle).pop() else { return Session::open(&self.path) };
            // A file renamed over the old one leaves idle connections reading what is no longer there.
            if session.identity() == identity {
                return Ok(session);
            }
        }
    }

    /// Takes back a connection that has no statement and no transaction open.
    pub(super) fn checkin(&self, session: Session) {
        session.disarm();
        let mut idle = held(&self.idle);
        if session.connection().is_autocommit() && idle.len() < IDLE_MAX {
            idle.push(session);
        }
    }
}
