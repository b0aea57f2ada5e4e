//! The release gate: the one place where rows leave the network's side and become the plan's, once. A producer
//! pushes batches of one attempt and waits while there is no room; the consumer reads a stream that knows nothing of
//! attempts. The same gate stands between a plan and the door, where a run of the whole plan is the attempt.
//!
//! Owned by a sub-query (or query) actor; batches pass through it and never through a mailbox.

pub mod check;
pub mod core;
pub mod share;

#[cfg(test)]
mod check_test;
#[cfg(test)]
mod core_test;
#[cfg(test)]
mod spill_test;

use std::{
    fmt,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use arrow::array::RecordBatch;
use futures::{Stream, future::BoxFuture, task::AtomicWaker};
use greylag_protocol::{MeshError, Result, SourceName, prefix::Prefix};
use tokio::sync::Notify;

use self::{
    check::Verified,
    core::{Fenced, GateCore, Hold, Mark, Offer, Parcel, Refusal, Take},
    share::MemoryShare,
};
use crate::coordinator::spill::{SpillFile, SpillSpace};

/// Where a query's rows may wait.
#[derive(Debug, Clone)]
pub struct Room {
    pub share: Arc<MemoryShare>,
    pub disk: Arc<SpillSpace>,
}

/// The producer's and the supervisor's side. Clones are the same gate.
#[derive(Clone)]
pub struct ReleaseGate {
    inner: Arc<Inner>,
}

struct Inner {
    core: Mutex<GateCore>,
    disk: SpillFile,
    /// Told whenever the consumer has made room, or nothing more will be let in.
    space: Notify,
    reader: AtomicWaker,
}

impl Inner {
    fn core(&self) -> MutexGuard<'_, GateCore> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReleaseGate {
    /// A gate and its consumer's end. `on_close` is called when the consumer drops it, with whether the gate had been
    /// completed by then.
    pub fn new(
        hold: Hold,
        room: &Room,
        source: Option<SourceName>,
        on_close: impl FnOnce(bool) + Send + 'static,
    ) -> (Self, Released) {
        Self::of(GateCore::new(hold, room.share.clone(), source), room, on_close)
    }

    /// As [`ReleaseGate::new`], for a consumer that has these rows already.
    pub fn after(taken: Prefix, room: &Room, on_close: impl FnOnce(bool) + Send + 'static) -> (Self, Released) {
        Self::of(GateCore::new(Hold::Nothing, room.share.clone(), None).after(taken), room, on_close)
    }

    fn of(core: GateCore, room: &Room, on_close: impl FnOnce(bool) + Send + 'static) -> (Self, Released) {
        let (core, disk) = (Mutex::new(core), room.disk.file());
        let inner = Arc::new(Inner { core, disk, space: Notify::new(), reader: AtomicWaker::new() });
        let released =
            Released { inner: inner.clone(), over: false, reading: None, on_close: Some(Box::new(on_close)) };
        (Self { inner }, released)
    }

    /// See [`GateCore::fence`].
    pub fn fence(&self, attempt: u32) -> Fenced {
        let found = self.inner.core().fence(attempt);
        self.inner.space.notify_waiters();
        found
    }

    /// See [`GateCore::resume`].
    pub fn resume(&self, attempt: u32) {
        self.inner.core().resume(attempt);
    }

    /// See [`GateCore::reads`].
    pub fn reads(&self, attempt: u32, snapshot: Option<String>) {
        self.inner.core().reads(attempt, snapshot);
    }

    /// See [`GateCore::mark`].
    pub fn mark(&self) -> Option<Mark> {
        self.inner.core().mark()
    }

    /// Hands over a batch, waiting for room.
    pub async fn push(&self, attempt: u32, mut parcel: Parcel) -> Result<(), Refusal> {
        loop {
            let mut space = pin!(self.inner.space.notified());
            space.as_mut().enable();
            let mut offer = self.inner.core().offer(attempt, parcel);
            if let Offer::Spill(parcel) = offer {
                let written = self.inner.disk.write(parcel.batch.clone()).await;
                offer = self.inner.core().spilled(attempt, parcel, written);
            }
            match offer {
                Offer::Stored { readable } => {
                    if readable {
                        self.inner.reader.wake();
                    }
                    return Ok(());
                }
                Offer::Full(back) | Offer::Spill(back) => parcel = back,
                Offer::Refused(refusal) => {
                    self.inner.reader.wake();
                    return Err(refusal);
                }
            }
            space.await;
        }
    }

    /// See [`GateCore::complete`].
    pub fn complete(&self, verified: Verified) -> Result<(), Refusal> {
        let outcome = self.inner.core().complete(verified);
        self.inner.reader.wake();
        outcome
    }

    /// See [`GateCore::fail`].
    pub fn fail(&self, error: MeshError) {
        self.inner.core().fail(error);
        self.inner.space.notify_waiters();
        self.inner.reader.wake();
    }

    /// Rows that the consumer has taken.
    pub fn taken_rows(&self) -> u64 {
        self.inner.core().taken_rows()
    }

    /// Bytes waiting in it.
    pub fn queued_bytes(&self) -> u64 {
        self.inner.core().queued_bytes()
    }

    /// Whether the consumer has gone.
    pub fn is_closed(&self) -> bool {
        self.inner.core().is_closed()
    }
}

impl fmt::Debug for ReleaseGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReleaseGate").finish_non_exhaustive()
    }
}

/// The consumer's side: rows in order, each once, then the end or one error.
pub struct Released {
    inner: Arc<Inner>,
    over: bool,
    /// The batch that is on its way from disk.
    reading: Option<BoxFuture<'static, Result<RecordBatch>>>,
    on_close: Option<Box<dyn FnOnce(bool) + Send>>,
}

impl Stream for Released {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        self.inner.reader.register(cx.waker());
        if self.reading.is_none() {
            let take = self.inner.core().take();
            match take {
                Take::Read(place) => {
                    let disk = self.inner.disk.clone();
                    self.reading = Some(Box::pin(async move { disk.read(place).await }));
                }
                Take::Batch(batch) => {
                    self.inner.space.notify_waiters();
                    return Poll::Ready(Some(Ok(batch)));
                }
                Take::Pending => return Poll::Pending,
                Take::Done => {
                    self.over = true;
                    return Poll::Ready(None);
                }
                Take::Failed(error) => {
                    self.over = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        let Some(reading) = &mut self.reading else { return Poll::Pending };
        let read = ready!(reading.as_mut().poll(cx));
        self.reading = None;
        self.over = read.is_err();
        Poll::Ready(Some(read))
    }
}

impl Drop for Released {
    fn drop(&mut self) {
        let complete = self.inner.core().close();
        self.inner.space.notify_waiters();
        if let Some(on_close) = self.on_close.take() {
            on_close(complete);
        }
    }
}
