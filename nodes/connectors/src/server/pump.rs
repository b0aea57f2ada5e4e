//! Carries batches from a database to whoever reads them, on a task of its own: the next batch is made while the last
//! one is used, and a deadline or a cancel is obeyed even when nobody polls.
//!
//! INVARIANT: the stream ends well only if the producer said so. A task that dies leaves an error behind.

use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use futures::stream;
use greylag_protocol::{MeshError, Result, statement::BatchStream};
use tokio::sync::mpsc;

use super::Expiry;

/// Batches that wait for the reader. One more is held by the task.
const BATCHES_AHEAD_MAX: usize = 1;

/// Makes batches. Dropping it stops the source.
pub(crate) trait Producer: Send + 'static {
    /// `None` after the last. Dropping the future and calling again is allowed.
    fn next_batch(&mut self) -> impl Future<Output = Result<Option<RecordBatch>>> + Send;

    /// What an error really means, given why the statement may have been stopped.
    fn explain(&mut self, error: MeshError, expiry: &Expiry) -> MeshError;
}

/// The producer's batches. Dropping the stream drops the producer.
pub(crate) fn pump<P: Producer>(mut producer: P, mut expiry: Expiry) -> BatchStream {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD_MAX);
    let outcome = Arc::new(OnceLock::new());
    let end = outcome.clone();
    tokio::spawn(async move {
        let ended = feed(&mut producer, &mut expiry, &sender).await;
        let ended = ended.map_err(|error| producer.explain(error, &expiry));
        drop(producer);
        // The reader looks here once the channel is closed.
        let _ = end.set(ended);
    });
    Box::pin(stream::try_unfold(receiver, move |mut receiver| {
        let outcome = outcome.clone();
        async move {
            match (receiver.recv().await, outcome.get()) {
                (Some(batch), _) => Ok(Some((batch, receiver))),
                (None, Some(Ok(()))) => Ok(None),
                (None, Some(Err(error))) => Err(error.clone()),
                (None, None) => Err(MeshError::internal("the task that reads a source died")),
            }
        }
    }))
}

async fn feed<P: Producer>(producer: &mut P, expiry: &mut Expiry, sender: &mpsc::Sender<RecordBatch>) -> Result<()> {
    loop {
        if let Some(over) = expiry.check() {
            return Err(over);
        }
        let batch = tokio::select! {
            biased;
            () = sender.closed() => return Ok(()),
            batch = expiry.bound(producer.next_batch()) => batch?,
        };
        let Some(batch) = batch else { return Ok(()) };
        if !expiry.bound(async { Ok(sender.send(batch).await.is_ok()) }).await? {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        time::Duration,
    };

    use arrow::{array::RecordBatchOptions, datatypes::Schema};
    use futures::{StreamExt, TryStreamExt};
    use greylag_protocol::ErrorCode;
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// As many batches as said, then what `last` says.
    struct Scripted {
        left: usize,
        last: Last,
        dropped: Arc<AtomicBool>,
    }

    enum Last {
        End,
        Hang,
        Panic,
    }

    impl Producer for Scripted {
        async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
            match (self.left, &self.last) {
                (0, Last::End) => Ok(None),
                (0, Last::Hang) => std::future::pending().await,
                (0, Last::Panic) => panic!("a defect"),
                _ => {
                    self.left -= 1;
                    let options = RecordBatchOptions::new().with_row_count(Some(1));
                    Ok(Some(RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap()))
                }
            }
        }

        fn explain(&mut self, error: MeshError, _expiry: &Expiry) -> MeshError {
            error
        }
    }

    impl Drop for Scripted {
        fn drop(&mut self) {
            self.dropped.store(true, Ordering::SeqCst);
        }
    }

    fn start(left: usize, last: Last, expiry: Expiry) -> (BatchStream, Arc<AtomicBool>) {
        let dropped = Arc::new(AtomicBool::new(false));
        (pump(Scripted { left, last, dropped: dropped.clone() }, expiry), dropped)
    }

    fn patient() -> Expiry {
        Expiry::new(Duration::from_secs(60), CancellationToken::new())
    }

    /// Lets the paused clock run, so that deadlines come.
    async fn until(dropped: &AtomicBool) {
        while !dropped.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_batches_come_and_the_stream_ends() {
        let (stream, dropped) = start(7, Last::End, patient());
        assert_eq!(stream.try_collect::<Vec<_>>().await.unwrap().len(), 7);
        until(&dropped).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_is_kept_for_a_reader_who_does_not_read() {
        let (mut stream, dropped) = start(7, Last::End, patient());
        assert!(stream.next().await.unwrap().is_ok());
        until(&dropped).await;
        let outcome = stream.try_collect::<Vec<_>>().await;
        assert_eq!(outcome.unwrap_err().code, ErrorCode::Deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancel_and_a_drop_reach_a_producer_that_hangs() {
        let token = CancellationToken::new();
        let (mut stream, dropped) = start(1, Last::Hang, Expiry::new(Duration::from_secs(60), token.clone()));
        assert!(stream.next().await.unwrap().is_ok());
        token.cancel();
        assert_eq!(stream.next().await.unwrap().unwrap_err().code, ErrorCode::Cancelled);
        until(&dropped).await;
        let (stream, dropped) = start(0, Last::Hang, patient());
        drop(stream);
        until(&dropped).await;
    }

    #[tokio::test]
    async fn a_task_that_dies_is_an_error() {
        let (stream, _) = start(2, Last::Panic, patient());
        assert_eq!(stream.try_collect::<Vec<_>>().await.unwrap_err().code, ErrorCode::Internal);
    }
}
