//! Runs one sub-query on a thread of its own and hands its batches over through a short channel.
//!
//! The thread ends, and gives its connection back, as soon as the rows have run out, an error has come up, or nobody
//! wants the rows any more (stream dropped, cancelled, out of time), whether it is computing or waiting to hand over.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use greylag_actors::edge::port::ConnectorQuery;
use greylag_protocol::{ErrorCode, MeshError, Result, statement::BatchStream};
use rusqlite::Statement;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Source,
    fault::fault,
    session::Session,
    stop::{Reason, Stop},
    value::Column,
};

/// Batches between the thread and whoever reads them.
const CHANNEL_BATCHES: usize = 2;
/// A batch is handed over early once its values take this many bytes, so that wide rows stay within memory.
const BATCH_BYTES: usize = 4 << 20;

/// Starts it; returns once SQLite has accepted the statement.
pub(super) async fn run(source: Arc<Source>, query: ConnectorQuery) -> Result<BatchStream> {
    let stop = Arc::new(Stop::new(Instant::now() + query.timeout));
    let wanted = query.cancel.child_token();
    let guard = wanted.clone().drop_guard();
    let ended = CancellationToken::new();
    tokio::spawn(watch(stop.clone(), wanted, ended.clone(), query.timeout));
    let thread_over = ended.drop_guard();

    let permit = tokio::select! {
        permit = source.pool.thread() => permit?,
        () = stop.halted() => return Err(halted(&stop)),
    };
    let (started, start) = oneshot::channel();
    let (batches, mut receiver) = mpsc::channel(CHANNEL_BATCHES);
    let outcome = Arc::new(OnceLock::new());
    let work = Work { source, sql: query.sql, schema: query.schema, rows: query.batch_rows.max(1), stop, batches };
    let result = outcome.clone();
    tokio::task::spawn_blocking(move || {
        let ended = work.run(started);
        // Before the channel closes, so that whoever finds it closed finds this.
        let _ = result.set(ended);
        drop(work);
        drop(thread_over);
        drop(permit);
    });
    match start.await {
        Ok(()) => Ok(rows(receiver, outcome, guard)),
        // It never started. The channel closes once the reason is in the outcome, or the thread has panicked.
        Err(_) => {
            let _ = receiver.recv().await;
            Err(failure(&outcome).unwrap_or_else(lost))
        }
    }
}

/// Turns what happens outside into the wish to stop, until the thread is over.
async fn watch(stop: Arc<Stop>, wanted: CancellationToken, ended: CancellationToken, timeout: std::time::Duration) {
    tokio::select! {
        () = ended.cancelled() => {}
        () = wanted.cancelled() => stop.halt(Reason::Cancelled),
        () = tokio::time::sleep(timeout) => stop.halt(Reason::Deadline),
    }
}

/// How a thread ended.
type Outcome = Arc<OnceLock<Result<()>>>;

/// The batches, and after the last one the thread's own word that it was the last.
fn rows(receiver: mpsc::Receiver<RecordBatch>, outcome: Outcome, guard: DropGuard) -> BatchStream {
    Box::pin(futures::stream::unfold(Some((receiver, outcome, guard)), |state| async {
        let (mut receiver, outcome, guard) = state?;
        match receiver.recv().await {
            Some(batch) => Some((Ok(batch), Some((receiver, outcome, guard)))),
            None if outcome.get().is_some_and(Result::is_ok) => None,
            None => Some((Err(failure(&outcome).unwrap_or_else(lost)), None)),
        }
    }))
}

fn failure(outcome: &Outcome) -> Option<MeshError> {
    outcome.get().and_then(|ended| ended.clone().err())
}

fn lost() -> MeshError {
    MeshError::internal("the thread of an SQLite sub-query died")
}

fn halted(stop: &Stop) -> MeshError {
    stop.wish().unwrap_or_else(|| MeshError::new(ErrorCode::Cancelled, "the sub-query was cancelled"))
}

/// What the thread does.
struct Work {
    source: Arc<Source>,
    sql: String,
    schema: SchemaRef,
    rows: usize,
    stop: Arc<Stop>,
    batches: mpsc::Sender<RecordBatch>,
}

impl Work {
    fn run(&self, started: oneshot::Sender<()>) -> Result<()> {
        let session = self.source.pool.checkout()?;
        session.arm(&self.stop);
        let ended = self.query(&session, started);
        self.source.pool.checkin(session);
        // An interrupted statement ends with one of many errors; what counts is who asked for it.
        match (ended, self.stop.wish()) {
            (Err(_), Some(wish)) => Err(wish),
            (ended, _) => ended,
        }
    }

    fn query(&self, session: &Session, started: oneshot::Sender<()>) -> Result<()> {
        if !self.source.settings.checks() {
            let (statement, _) = session.prepare(&self.sql)?;
            return self.deliver(statement, started);
        }
        let (path, settings) = (self.source.pool.path(), &self.source.settings);
        let before = self.source.verifier.version(path, settings)?;
        // Rolled back when dropped. The first read takes the snapshot.
        let transaction = session.connection().unchecked_transaction().map_err(fault)?;
        transaction.query_row("SELECT count(*) FROM main.sqlite_schema", [], |_| Ok(())).map_err(fault)?;
        let (statement, reads) = session.prepare(&self.sql)?;
        session.guard(false);
        self.source.verifier.ensure(session, settings, path, before, &reads)?;
        session.guard(true);
        let ended = self.deliver(statement, started);
        session.guard(false);
        ended
    }

    fn deliver(&self, mut statement: Statement<'_>, started: oneshot::Sender<()>) -> Result<()> {
        let width = self.schema.fields().len();
        if statement.column_count() != width {
            let message =
                format!("the sub-query gives {} columns where {width} are expected", statement.column_count());
            return Err(MeshError::new(ErrorCode::SourceRefused, message));
        }
        let mut columns = self.schema.fields().iter().map(|f| Column::new(f)).collect::<Result<Vec<_>>>()?;
        let _ = started.send(());
        let mut rows = statement.raw_query();
        let (mut count, mut bytes) = (0, 0);
        while let Some(row) = rows.next().map_err(fault)? {
            for (at, column) in columns.iter_mut().enumerate() {
                bytes += column.append(row.get_ref(at).map_err(fault)?)?;
            }
            count += 1;
            if count == self.rows || bytes >= BATCH_BYTES {
                self.hand_over(&mut columns)?;
                (count, bytes) = (0, 0);
            }
        }
        if count > 0 { self.hand_over(&mut columns) } else { Ok(()) }
    }

    /// Waits until there is room, unless the statement is to stop.
    fn hand_over(&self, columns: &mut [Column]) -> Result<()> {
        let arrays = columns.iter_mut().map(Column::finish).collect();
        let batch = RecordBatch::try_new(self.schema.clone(), arrays)
            .map_err(|error| MeshError::internal(format!("a batch of an SQLite sub-query does not hold: {error}")))?;
        Handle::current().block_on(async {
            tokio::select! {
                biased;
                () = self.stop.halted() => Err(halted(&self.stop)),
                sent = self.batches.send(batch) => sent.map_err(|_| halted(&self.stop)),
            }
        })
    }
}
