//! Work that belongs to an actor but must not run in its mailbox: a task that ends with the guard its owner keeps, and
//! whose panics are errors.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use greylag_cluster::Seams;
use greylag_protocol::{MeshError, Result};
use tokio::task::AbortHandle;

/// Aborts its task when dropped.
#[derive(Debug)]
#[must_use = "the task ends with its guard"]
pub struct TaskGuard(AbortHandle);

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl TaskGuard {
    /// Runs work that only waits and passes on, beside the actors.
    pub fn control(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work).abort_handle())
    }

    /// Runs query work where it cannot starve heartbeats.
    pub fn query(seams: &Seams, work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(seams.queries.spawn(Box::pin(work)))
    }
}

/// The outcome of `work`; GL9001 naming `what` if it panics. (The panic's own text may hold values and stays in the
/// panic hook's output.)
pub async fn caught<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(_) => {
            tracing::error!(what, "query work panicked");
            Err(MeshError::internal(format!("{what} panicked")))
        }
    }
}
