//! A node's audit chain while it runs: a queue of records, the task that writes them, and the heads of all nodes' chains
//! in the replicated log.
//!
//! What a record says is its writer's; what a chain proves is `governance::audit`. A statement is admitted first: that
//! takes the room for its record, so that the record of whatever has begun can be kept even while the disk refuses. While
//! it does, nothing new is admitted.
//!
//! The head of this node's chain is committed every `heads_ms` if anything but heads was written, and the heads of the
//! others are written into the chain whenever they have changed: nodes that do nothing fall silent.
//!
//! INVARIANT: nothing is admitted that could not be recorded, and no record is skipped: it is written, or whoever asked
//! for it to be durable is told that it is not. (audit_test.rs)

mod drive;
mod heads;
mod port;
mod queue;
mod writer;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use greylag_config::{Audit as AuditConfig, AuditMode};
use greylag_governance::audit::{AuditLog, AuditRecord};
use greylag_protocol::{ErrorCode, MeshError, NodeId, Result, state::AuditHead};
use tokio::sync::{Notify, oneshot};

use crate::{bounds::Bound, measure};

pub(crate) use self::{drive::drive, port::HeadLog, port::MeshHeads};
use self::{
    heads::Told,
    queue::{Queue, Seat, Waiting},
};
pub use self::{
    port::{AuditPlace, FolderPlace, MemoryPlace},
    queue::WAITING_RECORDS_MAX,
};

/// Written records that are kept for `system.audit`.
pub const RECENT_RECORDS_MAX: usize = 500;

/// How a node keeps its chain, and where.
#[derive(Clone)]
pub struct AuditParts {
    pub config: AuditConfig,
    pub place: Arc<dyn AuditPlace>,
}

impl AuditParts {
    /// By default, in a folder that outlives the node.
    pub fn in_memory(place: MemoryPlace) -> Self {
        Self { config: AuditConfig::default(), place: Arc::new(place) }
    }

    /// Nothing is kept.
    pub fn off() -> Self {
        let config = AuditConfig { mode: AuditMode::Off, ..AuditConfig::default() };
        Self { config, place: Arc::new(MemoryPlace::default()) }
    }
}

/// A record of this node's chain that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    pub sequence: u64,
    pub record: Arc<AuditRecord>,
}

/// One for each node.
pub struct Audit {
    config: AuditConfig,
    place: Arc<dyn AuditPlace>,
    log: Arc<dyn HeadLog>,
    /// `None` until it could be opened. Held while it is written: never within async code.
    chain: Mutex<Option<AuditLog>>,
    queue: Mutex<Queue>,
    recent: Mutex<VecDeque<Recorded>>,
    told: Mutex<Told>,
    waiting: Arc<Bound>,
    /// Something waits to be written.
    wake: Notify,
}

/// Room for the record of one statement, or of one administrator's call. It must be used, whatever becomes of it.
#[must_use = "what was admitted has to be recorded"]
pub struct Admission {
    /// `None` where nothing is kept, and after it was used.
    kept: Option<(Arc<Audit>, Seat)>,
}

impl Audit {
    pub(crate) fn new(parts: &AuditParts, log: Arc<dyn HeadLog>, waiting: Arc<Bound>) -> Self {
        Self {
            config: parts.config.clone(),
            place: parts.place.clone(),
            log,
            chain: Mutex::default(),
            queue: Mutex::default(),
            recent: Mutex::default(),
            told: Mutex::default(),
            waiting,
            wake: Notify::new(),
        }
    }

    pub fn mode(&self) -> AuditMode {
        self.config.mode
    }

    /// Before anything else is done for a statement or a call. GL5006 or GL5008 while the log cannot be written or too
    /// many records wait, GL5005 once the node stops.
    pub fn admit(self: &Arc<Self>) -> Result<Admission> {
        if self.mode() == AuditMode::Off {
            return Ok(Admission { kept: None });
        }
        let seat = self.seat().inspect_err(|_| measure::audit_refused())?;
        Ok(Admission { kept: Some((self.clone(), seat)) })
    }

    /// Admits and records at once, for what needs no more than one record.
    pub fn record(self: &Arc<Self>, record: AuditRecord) -> Result<()> {
        self.admit()?.record(record);
        Ok(())
    }

    /// Like [`Self::record`], and waits until it is durable. After an error nothing of it is kept.
    pub async fn record_durably(self: &Arc<Self>, record: AuditRecord) -> Result<()> {
        let Some((_, seat)) = self.admit()?.kept.take() else { return Ok(()) };
        self.durably(record, Some(seat)).await
    }

    /// Records that were written since the node has started, oldest first; at most [`RECENT_RECORDS_MAX`].
    pub fn recent(&self) -> Vec<Recorded> {
        lock(&self.recent).iter().cloned().collect()
    }

    /// The last durable record. `None` while the chain is not open.
    pub fn head(&self) -> Option<AuditHead> {
        lock(&self.told).head
    }

    /// Why nothing is admitted.
    pub fn trouble(&self) -> Option<MeshError> {
        lock(&self.queue).trouble().cloned()
    }

    fn node(&self) -> NodeId {
        self.log.chain().node
    }

    fn seat(&self) -> Result<Seat> {
        let queue = lock(&self.queue);
        if queue.is_closed() {
            return Err(MeshError::new(ErrorCode::ShuttingDown, "the audit log is closed").at_node(self.node()));
        }
        if let Some(trouble) = queue.trouble() {
            self.waiting.refuse();
            return Err(trouble.clone());
        }
        Seat::take(&self.waiting).ok_or_else(|| {
            let message = format!("{WAITING_RECORDS_MAX} audit records wait to be written");
            MeshError::new(ErrorCode::AuditUnavailable, message).at_node(self.node())
        })
    }

    fn push(&self, waiting: Waiting) {
        match lock(&self.queue).push(waiting) {
            None => self.wake.notify_one(),
            // Its sender goes, and whoever waits for it sees that.
            Some(Waiting { record, .. }) => {
                tracing::error!(kind = record.kind(), "an audit record came after the log was closed and is lost");
            }
        }
    }

    async fn durably(&self, record: AuditRecord, seat: Option<Seat>) -> Result<()> {
        let (done, written) = oneshot::channel();
        self.push(Waiting { record, done: Some(done), seat });
        written.await.unwrap_or_else(|_| {
            Err(MeshError::new(ErrorCode::ShuttingDown, "the node has stopped before the record was written")
                .at_node(self.node()))
        })
    }
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("mode", &self.config.mode).field("head", &self.head()).finish_non_exhaustive()
    }
}

impl Admission {
    /// Hands in the record. It is written as soon as the disk takes it.
    pub fn record(mut self, record: AuditRecord) {
        if let Some((audit, seat)) = self.kept.take() {
            audit.push(Waiting { record, done: None, seat: Some(seat) });
        }
    }

    /// A record besides the one that there is room for, durable on return: before the first row leaves. After an error
    /// nothing of it is kept.
    pub async fn record_durably(&self, record: AuditRecord) -> Result<()> {
        match &self.kept {
            Some((audit, _)) => audit.durably(record, None).await,
            None => Ok(()),
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.kept.is_some() {
            tracing::error!("something that was admitted has ended without an audit record");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod audit_test;
