//! What touches the disk, synchronously: opening the chain, writing what waits, removing what is old.
//!
//! Each runs to its end whether anybody still waits for it or not, so whoever is dropped in the middle loses nothing.

use std::sync::Arc;

use greylag_governance::audit::{
    AuditLog, AuditRecord, BATCH_RECORDS_MAX, HEADS_MAX, HeadsRecord, Opening, Retention, Rotation,
};
use greylag_protocol::{ErrorCode, MeshError, Result, state::AuditHead};

use super::{Audit, RECENT_RECORDS_MAX, Recorded, lock};
use crate::measure;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// What came of a look at the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrote {
    Nothing,
    Some,
    Failed,
}

impl Audit {
    /// Runs blocking work on the chain where such work goes. `None` if it panicked, or the node's threads have ended.
    pub(super) async fn on_disk<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Option<T> {
        let (audit, (done, outcome)) = (self.clone(), tokio::sync::oneshot::channel());
        let run = move || {
            let _ = done.send(work(&audit));
        };
        self.log.blocking().run(Box::new(run)).await;
        outcome.await.ok()
    }

    /// Opens the chain if it is not open. The error is also what admissions are refused with.
    pub(super) fn open_now(&self) -> Result<()> {
        let mut chain = lock(&self.chain);
        if chain.is_some() {
            return Ok(());
        }
        let opened = self.open_log();
        match opened {
            Ok(log) => {
                lock(&self.told).opened(log.head());
                *chain = Some(log);
                Ok(())
            }
            Err(error) => {
                lock(&self.queue).failed(&error);
                Err(error)
            }
        }
    }

    fn open_log(&self) -> Result<AuditLog> {
        let chain = self.log.chain();
        let storage = self.place.storage().map_err(|error| {
            let message = format!("the audit folder cannot be opened: {error}");
            MeshError::new(ErrorCode::AuditUnavailable, message)
        });
        let opening = Opening {
            chain,
            known: self.log.heads().get(&chain.node).copied(),
            rotation: Rotation { bytes_max: self.config.file_bytes_max, age_ms_max: self.config.file_age_ms_max },
            release: env!("CARGO_PKG_VERSION").into(),
            now_unix_ms: self.log.unix_ms(),
        };
        storage.and_then(|storage| AuditLog::open(storage, opening)).map_err(|error| error.at_node(chain.node))
    }

    /// Writes the records that wait, as many as go at once.
    pub(super) fn write_now(&self) -> Wrote {
        if self.open_now().is_err() {
            return Wrote::Failed;
        }
        let mut chain = lock(&self.chain);
        let Some(log) = chain.as_mut() else { return Wrote::Failed };
        let batch = lock(&self.queue).first(BATCH_RECORDS_MAX);
        if batch.is_empty() {
            // Whether the disk takes records again, the next one will tell.
            lock(&self.queue).settle();
            return Wrote::Nothing;
        }
        let count = batch.len();
        match log.append(self.log.unix_ms(), batch) {
            Ok(head) => {
                let records = lock(&self.queue).written(count);
                self.keep(records, head);
                Wrote::Some
            }
            Err(error) => {
                lock(&self.queue).failed(&error.at_node(self.node()));
                Wrote::Failed
            }
        }
    }

    fn keep(&self, records: Vec<AuditRecord>, head: AuditHead) {
        let says_more = records.iter().any(|record| !matches!(record, AuditRecord::Heads(_)));
        lock(&self.told).wrote(head, says_more);
        let mut recent = lock(&self.recent);
        // A file's first record is none of these, so they are counted from the end.
        let first = head.sequence + 1 - records.len() as u64;
        for (sequence, record) in (first..).zip(records) {
            measure::audit_written();
            if recent.len() >= RECENT_RECORDS_MAX {
                recent.pop_front();
            }
            recent.push_back(Recorded { sequence, record: Arc::new(record) });
        }
    }

    /// Removes what need not be kept any more. What those files say of other chains is written down again before.
    pub(super) fn retire_now(&self) -> Result<usize> {
        let config = &self.config;
        let retention = Retention {
            age_ms_max: config.keep_days.map(|days| u64::from(days) * DAY_MS),
            bytes_max: config.keep_bytes_max,
        };
        let (now, heads) = (self.log.unix_ms(), self.log.heads());
        let anchored = heads.get(&self.node()).map_or(0, |head| head.sequence);
        let mut chain = lock(&self.chain);
        let Some(log) = chain.as_mut() else { return Ok(0) };
        if !log.may_retire(now, anchored, retention) {
            return Ok(0);
        }
        let heads: Vec<AuditHead> = heads.into_values().collect();
        log.append(now, heads_records(now, &heads))?;
        let removed = log.retire(now, anchored, retention)?;
        lock(&self.told).wrote(log.head(), true);
        Ok(removed)
    }

    /// Writes that the chain ends here. `None` if it never was open.
    pub(super) fn close_now(&self) -> Result<Option<AuditHead>> {
        let mut chain = lock(&self.chain);
        let Some(log) = chain.as_mut() else { return Ok(None) };
        let head = log.close(self.log.unix_ms())?;
        lock(&self.told).wrote(head, true);
        *chain = None;
        Ok(Some(head))
    }
}

pub(super) fn heads_records(now_unix_ms: u64, heads: &[AuditHead]) -> Vec<AuditRecord> {
    let record = |heads: &[AuditHead]| {
        let heads = heads.iter().copied().map(Into::into).collect();
        AuditRecord::Heads(HeadsRecord { at_unix_ms: now_unix_ms, heads })
    };
    heads.chunks(HEADS_MAX).map(record).collect()
}
