//! The rows of one sub-query as they leave the edge: canonical batches, until the source ends, fails, is stopped or
//! runs out of time. It pulls: nothing is read from the source before somebody wants it.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use futures::Stream;
use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result, SourceName,
    prefix::{Prefix, Replay},
    statement::BatchStream,
};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use crate::{recut::Recutter, rest::Busy, turnstile::Slot};

/// Fires its token when dropped, unless all went well.
pub struct CancelOnDrop {
    token: CancellationToken,
    guard: Option<DropGuard>,
}

impl CancelOnDrop {
    pub fn new(token: CancellationToken) -> Self {
        Self { guard: Some(token.clone().drop_guard()), token }
    }

    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Nothing is left to cancel.
    fn disarm(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.disarm();
        }
    }
}

/// The form in which rows are wanted.
pub struct Wanted {
    pub schema: SchemaRef,
    /// Rows in every batch but the last.
    pub batch_rows: usize,
    /// What is not wanted again.
    pub resume: Prefix,
}

pub struct EdgeStream {
    /// `None` once it has ended, in whatever way.
    rows: Option<BatchStream>,
    recutter: Recutter,
    /// Leaves out what an earlier attempt has delivered.
    replay: Replay,
    last: Option<RecordBatch>,
    deadline: Pin<Box<Sleep>>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    owner: (SourceName, NodeId),
    /// Dropped before the slot is given back.
    cancel: CancelOnDrop,
    _held: (Slot, Busy),
}

impl EdgeStream {
    pub fn new(
        rows: BatchStream,
        wanted: Wanted,
        deadline: Instant,
        owner: (SourceName, NodeId),
        cancel: CancelOnDrop,
        held: (Slot, Busy),
    ) -> Self {
        Self {
            rows: Some(rows),
            recutter: Recutter::new(wanted.schema, wanted.batch_rows),
            replay: Replay::new(wanted.resume),
            last: None,
            deadline: Box::pin(sleep_until(deadline)),
            stopped: Box::pin(cancel.token().cancelled_owned()),
            owner,
            cancel,
            _held: held,
        }
    }

    /// The next batch that is wanted.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<RecordBatch>>> {
        loop {
            match self.cut(cx) {
                Poll::Ready(Ok(Some(batch))) => {
                    if let Some(batch) = self.replay.pass(batch)? {
                        return Poll::Ready(Ok(Some(batch)));
                    }
                }
                Poll::Ready(Ok(None)) => return Poll::Ready(self.replay.finish().map(|()| None)),
                other => return other,
            }
        }
    }

    /// The next canonical batch, in terms of the source's own.
    fn cut(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<RecordBatch>>> {
        loop {
            if let Some(batch) = self.recutter.next() {
                return Poll::Ready(Ok(Some(batch)));
            }
            let Some(rows) = &mut self.rows else { return Poll::Ready(Ok(self.last.take())) };
            match rows.as_mut().poll_next(cx) {
                Poll::Ready(Some(batch)) => {
                    if let Some(batch) = self.recutter.push(batch?)? {
                        return Poll::Ready(Ok(Some(batch)));
                    }
                }
                Poll::Ready(None) => {
                    self.rows = None;
                    self.cancel.disarm();
                    self.last = self.recutter.finish()?;
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn over(&mut self, cx: &mut Context<'_>) -> Option<MeshError> {
        self.rows.as_ref()?;
        if self.stopped.as_mut().poll(cx).is_ready() {
            return Some(MeshError::new(ErrorCode::ShuttingDown, "the edge is stopping"));
        }
        let late = self.deadline.as_mut().poll(cx).is_ready();
        late.then(|| MeshError::new(ErrorCode::Deadline, "the sub-query's deadline has passed"))
    }
}

impl Stream for EdgeStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let step = match this.over(cx) {
            Some(error) => Poll::Ready(Err(error)),
            None => this.step(cx),
        };
        match step {
            Poll::Ready(Ok(batch)) => Poll::Ready(batch.map(Ok)),
            Poll::Ready(Err(error)) => {
                this.rows = None;
                this.recutter = Recutter::new(this.recutter.schema(), 1);
                let (source, node) = this.owner.clone();
                Poll::Ready(Some(Err(error.of_source(source).at_node(node))))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
