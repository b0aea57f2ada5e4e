//! One statement in the background: it runs whether somebody reads it or not, its batches wait on disk, and any number of
//! readers go through them, from the beginning or from where they had got to.
//!
//! INVARIANT: batches are numbered as they left the statement, and a reader gets each of them once, in order.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::SchemaRef;
use futures::{StreamExt, stream};
use greylag_protocol::{
    ErrorCode, MeshError, NodeId, QueryId, Result,
    prefix::{Prefix, content},
    statement::{BatchStream, JobState, Progress, RunningStatement},
};
use tokio::{sync::Notify, time::Instant};

use super::spill::{Place, SpillFile};

/// Clones are the same job.
#[derive(Clone)]
pub struct Job {
    inner: Arc<Inner>,
}

struct Inner {
    file: SpillFile,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    begun: Option<(QueryId, SchemaRef)>,
    batches: Vec<Kept>,
    rows: u64,
    end: Option<Result<()>>,
    /// When somebody last asked for it, or it ended.
    touched: Instant,
}

#[derive(Clone, Copy)]
struct Kept {
    place: Place,
    /// The result up to and with this batch.
    prefix: Prefix,
}

impl Job {
    pub fn new(file: SpillFile) -> Self {
        let state = State { begun: None, batches: Vec::new(), rows: 0, end: None, touched: Instant::now() };
        Self { inner: Arc::new(Inner { file, state: Mutex::new(state), changed: Notify::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the statement to its end.
    pub async fn run(&self, starting: impl Future<Output = Result<RunningStatement>>) {
        let end = self.keep_all(starting).await;
        let mut state = self.state();
        state.touched = Instant::now();
        state.end = Some(end);
        drop(state);
        self.inner.changed.notify_waiters();
    }

    async fn keep_all(&self, starting: impl Future<Output = Result<RunningStatement>>) -> Result<()> {
        let RunningStatement { query, schema, mut batches } = starting.await?;
        self.state().begun = Some((query, schema));
        self.inner.changed.notify_waiters();
        let mut prefix = Prefix::default();
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            prefix.extend(batch.num_rows(), content(&batch));
            let place = self.inner.file.write(batch).await?;
            let mut state = self.state();
            state.batches.push(Kept { place, prefix });
            state.rows = prefix.rows;
            drop(state);
            self.inner.changed.notify_waiters();
        }
        Ok(())
    }

    /// It is not run any further. Readers that wait for more are told.
    pub fn abandon(&self) {
        let forgotten =
            || Err(MeshError::new(ErrorCode::Cancelled, "the statement was stopped, or its rows forgotten"));
        self.state().end.get_or_insert_with(forgotten);
        self.inner.changed.notify_waiters();
    }

    pub fn progress(&self, node: NodeId) -> Progress {
        let mut state = self.state();
        state.touched = Instant::now();
        let job_state = match &state.end {
            None => JobState::Running,
            Some(Ok(())) => JobState::Done,
            Some(Err(error)) => JobState::Failed(error.clone()),
        };
        Progress { node, rows: state.rows, state: job_state }
    }

    /// Since when it has been over and nobody has asked for it.
    pub fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        state.end.is_some().then_some(state.touched)
    }

    pub async fn ended(&self) {
        self.wait(|state| state.end.is_some().then_some(())).await
    }

    async fn wait<T>(&self, found: impl Fn(&mut State) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.inner.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = found(&mut self.state()) {
                return found;
            }
            changed.await;
        }
    }

    /// The rows after `resume`. GL3012 if they do not begin with it; the statement's own error once all that it gave has
    /// been read.
    pub async fn results(&self, resume: Prefix) -> Result<RunningStatement> {
        let begun = self.wait(|state| match (&state.begun, &state.end) {
            (Some(begun), _) => Some(Ok(begun.clone())),
            (None, Some(Err(error))) => Some(Err(error.clone())),
            (None, Some(Ok(()))) => Some(Err(MeshError::internal("a job has ended without having begun"))),
            (None, None) => None,
        });
        let (query, schema) = begun.await?;
        let next = usize::try_from(resume.batches).unwrap_or(usize::MAX);
        let held = self.wait(|state| match next.checked_sub(1).map(|last| state.batches.get(last)) {
            None => Some(Ok(Prefix::default())),
            Some(Some(kept)) => Some(Ok(kept.prefix)),
            Some(None) => match state.end.clone()? {
                Ok(()) => Some(Ok(Prefix { rows: state.rows, ..Prefix::default() })),
                Err(error) => Some(Err(error)),
            },
        });
        if held.await? != resume {
            let message = "the rows that are there already are not the beginning of this result";
            return Err(MeshError::new(ErrorCode::ReplayDiffers, message));
        }
        Ok(RunningStatement { query, schema, batches: self.read_from(next) })
    }

    fn read_from(&self, next: usize) -> BatchStream {
        stream::unfold(Some((self.clone(), next)), |reading| async move {
            let (job, next) = reading?;
            match job.wait(|state| state.step(next)).await {
                Step::Read(place) => {
                    let batch = job.inner.file.read(place).await;
                    let more = batch.is_ok().then_some((job, next + 1));
                    Some((batch, more))
                }
                Step::End => None,
                Step::Failed(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }
}

enum Step {
    Read(Place),
    End,
    Failed(MeshError),
}

impl State {
    fn step(&mut self, next: usize) -> Option<Step> {
        self.touched = Instant::now();
        match (self.batches.get(next), &self.end) {
            (Some(kept), _) => Some(Step::Read(kept.place)),
            (None, Some(Ok(()))) => Some(Step::End),
            (None, Some(Err(error))) => Some(Step::Failed(error.clone())),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
    use arrow::datatypes::Int64Type;
    use tokio::sync::mpsc;

    use super::*;
    use crate::coordinator::spill::fixture;

    fn batch(n: i64) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![n; 4]));
        RecordBatch::try_from_iter([("n", numbers)]).unwrap()
    }

    type Feed = mpsc::UnboundedSender<Result<RecordBatch>>;

    /// A job that runs as it is fed.
    fn job() -> (Job, Feed, impl Future<Output = ()>) {
        let job = Job::new(fixture::space(1 << 20).file());
        let (feed, mut food) = mpsc::unbounded_channel();
        let batches = stream::poll_fn(move |cx| food.poll_recv(cx)).boxed();
        let running = RunningStatement { query: QueryId(uuid::Uuid::from_u128(1)), schema: batch(0).schema(), batches };
        let runs = job.clone();
        (job, feed, async move { runs.run(async { Ok(running) }).await })
    }

    async fn read(job: &Job, resume: Prefix) -> Result<Vec<i64>> {
        let batches: Vec<_> = job.results(resume).await?.batches.collect().await;
        batches.into_iter().map(|batch| batch.map(|b| b.column(0).as_primitive::<Int64Type>().value(0))).collect()
    }

    fn prefix(batches: i64) -> Prefix {
        let mut prefix = Prefix::default();
        (0..batches).for_each(|n| prefix.extend(4, content(&batch(n))));
        prefix
    }

    #[tokio::test]
    async fn many_read_it_while_it_runs_and_after_from_where_they_want() {
        let (job, feed, running) = job();
        let feeding = async {
            for n in 0..5 {
                feed.send(Ok(batch(n))).unwrap();
                tokio::task::yield_now().await;
            }
            drop(feed);
        };
        let (_, _, early, other) = tokio::join!(running, feeding, read(&job, Prefix::default()), read(&job, prefix(3)));
        assert_eq!((early.unwrap(), other.unwrap()), (vec![0, 1, 2, 3, 4], vec![3, 4]));
        assert_eq!(read(&job, prefix(5)).await.unwrap(), Vec::<i64>::new());
        assert_eq!(job.progress(NodeId(1)), Progress { node: NodeId(1), rows: 20, state: JobState::Done });
        for wrong in [prefix(6), Prefix { rows: 1, ..prefix(2) }] {
            assert_eq!(read(&job, wrong).await.unwrap_err().code, ErrorCode::ReplayDiffers);
        }
    }

    #[tokio::test]
    async fn its_error_comes_after_its_rows() {
        let (job, feed, running) = job();
        feed.send(Ok(batch(0))).unwrap();
        feed.send(Err(MeshError::new(ErrorCode::Deadline, "late"))).unwrap();
        running.await;
        let mut rows = job.results(Prefix::default()).await.unwrap().batches;
        assert!(rows.next().await.unwrap().is_ok());
        assert_eq!(rows.next().await.unwrap().unwrap_err().code, ErrorCode::Deadline);
        assert!(rows.next().await.is_none());
        assert!(matches!(job.progress(NodeId(1)).state, JobState::Failed(error) if error.code == ErrorCode::Deadline));
    }

    #[tokio::test]
    async fn whoever_waits_for_one_that_is_stopped_is_told() {
        let (job, feed, running) = job();
        feed.send(Ok(batch(0))).unwrap();
        let reading = async {
            let mut rows = job.results(Prefix::default()).await.unwrap().batches;
            assert!(rows.next().await.unwrap().is_ok());
            job.abandon();
            assert_eq!(rows.next().await.unwrap().unwrap_err().code, ErrorCode::Cancelled);
        };
        tokio::select! {
            () = running => unreachable!("it is still fed"),
            () = reading => {}
        }
    }

    #[tokio::test]
    async fn one_that_cannot_start_says_why() {
        let job = Job::new(fixture::space(1 << 20).file());
        job.run(async { Err(MeshError::new(ErrorCode::QueueFull, "full")) }).await;
        assert_eq!(read(&job, Prefix::default()).await.unwrap_err().code, ErrorCode::QueueFull);
    }
}
