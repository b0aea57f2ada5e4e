//! The task behind the chain: writes what waits, commits and writes down heads, removes what is old; and what is done when
//! the node starts and stops.

use std::{sync::Arc, time::Duration};

use greylag_config::AuditMode;
use greylag_protocol::{ErrorClass, Result};
use tokio::time::{sleep, timeout};

use super::{
    Audit, lock,
    queue::Waiting,
    writer::{Wrote, heads_records},
};

/// Until a disk that refuses is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Longest that the last commit may take when the node stops.
const LAST_COMMIT_MAX: Duration = Duration::from_secs(2);

/// Runs for as long as the node does.
pub(crate) async fn drive(audit: Arc<Audit>) -> Result<()> {
    if audit.mode() == AuditMode::Off {
        return std::future::pending().await;
    }
    tokio::select! {
        biased;
        () = write(&audit) => {}
        () = tell(&audit) => {}
    }
    Ok(())
}

async fn write(audit: &Arc<Audit>) {
    loop {
        match audit.on_disk(|audit| audit.write_now()).await {
            Some(Wrote::Some) => {}
            Some(Wrote::Nothing) => audit.wake.notified().await,
            Some(Wrote::Failed) | None => sleep(RETRY_PAUSE).await,
        }
    }
}

async fn tell(audit: &Arc<Audit>) {
    let pause = Duration::from_millis(audit.config.heads_ms);
    loop {
        sleep(pause).await;
        audit.look_at_heads();
        audit.commit().await;
        if let Some(Err(error)) = audit.on_disk(|audit| audit.retire_now()).await {
            tracing::warn!(%error, "old audit files could not be removed");
        }
    }
}

impl Audit {
    /// Opens the chain. If that cannot be done the node runs all the same, and admits nothing.
    pub(crate) async fn open(self: &Arc<Self>) {
        if self.mode() == AuditMode::Off {
            return;
        }
        if let Some(Err(error)) = self.on_disk(|audit| audit.open_now()).await {
            tracing::error!(%error, "the audit log cannot be opened: this node answers no statements");
            // Whoever writes tries again.
            self.wake.notify_one();
        }
    }

    fn look_at_heads(&self) {
        let heads = self.log.heads();
        let mut told = lock(&self.told);
        if let Some(error) = told.contradiction(&heads) {
            drop(told);
            tracing::error!(%error, "this node answers no statements");
            lock(&self.queue).stop_for_good(error);
            return;
        }
        let to_write = told.news(&heads);
        drop(told);
        for record in heads_records(self.log.unix_ms(), &to_write) {
            self.push(Waiting { record, done: None, _seat: None });
        }
    }

    async fn commit(&self) {
        let Some(head) = lock(&self.told).due() else { return };
        if let Err(error) = self.log.commit(head).await {
            lock(&self.told).not_committed();
            if error.class() == ErrorClass::Permanent {
                tracing::warn!(%error, "the head of the audit chain was refused");
            } else {
                tracing::debug!(%error, "the head of the audit chain could not be committed");
            }
        }
    }

    /// The node stops and nothing runs on it any more: writes what waits and that the chain ends here, and commits that.
    /// Its task must have ended.
    pub(crate) async fn close(self: &Arc<Self>) {
        if self.mode() == AuditMode::Off {
            return;
        }
        lock(&self.queue).close();
        while self.on_disk(|audit| audit.write_now()).await == Some(Wrote::Some) {}
        if !lock(&self.queue).is_empty() {
            tracing::error!("the node stops with audit records that could not be written");
            return;
        }
        if let Some(Err(error)) = self.on_disk(|audit| audit.close_now()).await {
            tracing::error!(%error, "the audit log could not be closed");
        }
        if timeout(LAST_COMMIT_MAX, self.commit()).await.is_err() {
            tracing::warn!("the last head of the audit chain could not be committed");
        }
    }
}
