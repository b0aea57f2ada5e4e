//! Records that wait to be written, in order, and why nothing new is admitted.
//!
//! It is bounded by the seats that are taken before a record is handed in, by one more for each of them in strict mode,
//! and by the few records that the node writes of its own accord.

use std::{collections::VecDeque, sync::Arc};

use greylag_governance::audit::AuditRecord;
use greylag_protocol::{MeshError, Result};
use tokio::sync::oneshot;

use crate::bounds::Bound;

/// Statements and calls that are under way or whose records wait.
pub const WAITING_RECORDS_MAX: u64 = 2_048;

/// Room for one record, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat(Arc<Bound>);

impl Seat {
    pub(super) fn take(bound: &Arc<Bound>) -> Option<Self> {
        bound.reserve(1).then(|| Self(bound.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.release(1);
    }
}

pub(super) struct Waiting {
    pub record: AuditRecord,
    /// Told what came of it. Who waits so is told of a failure at once, and the record is gone.
    pub done: Option<oneshot::Sender<Result<()>>>,
    pub seat: Option<Seat>,
}

#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    trouble: Option<MeshError>,
    /// The trouble is for people to end.
    lasting: bool,
    closed: bool,
}

impl Queue {
    /// Hands it back if nobody will write it any more.
    pub(super) fn push(&mut self, waiting: Waiting) -> Option<Waiting> {
        if self.closed {
            return Some(waiting);
        }
        self.waiting.push_back(waiting);
        None
    }

    /// The first records, which stay where they are.
    pub(super) fn first(&self, count: usize) -> Vec<AuditRecord> {
        self.waiting.iter().take(count).map(|waiting| waiting.record.clone()).collect()
    }

    /// There is no sign of trouble any more.
    pub(super) fn settle(&mut self) {
        if !self.lasting {
            self.trouble = None;
        }
    }

    /// The first `count` are durable. Returns their records.
    pub(super) fn written(&mut self, count: usize) -> Vec<AuditRecord> {
        self.settle();
        let count = count.min(self.waiting.len());
        let tell = |waiting: Waiting| {
            if let Some(done) = waiting.done {
                // Whoever has asked may have gone.
                let _ = done.send(Ok(()));
            }
            waiting.record
        };
        self.waiting.drain(..count).map(tell).collect()
    }

    /// Nothing can be written now.
    pub(super) fn failed(&mut self, error: &MeshError) {
        if !self.lasting {
            self.trouble = Some(error.clone());
        }
        let (told, kept) = std::mem::take(&mut self.waiting).into_iter().partition(|waiting| waiting.done.is_some());
        self.waiting = kept;
        let told: VecDeque<Waiting> = told;
        for done in told.into_iter().filter_map(|waiting| waiting.done) {
            let _ = done.send(Err(error.clone()));
        }
    }

    /// Nothing is admitted from now on, whatever the disk does.
    pub(super) fn stop_for_good(&mut self, error: MeshError) {
        (self.trouble, self.lasting) = (Some(error), true);
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn trouble(&self) -> Option<&MeshError> {
        self.trouble.as_ref()
    }
}
