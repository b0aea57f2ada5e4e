//! The coordinator's memory of its statements and of the attempts made for them, as `system.queries` and
//! `system.subqueries` show them.

use greylag_protocol::{
    Epoch, ErrorCode, MeshError, QueryId,
    messages::control::{QueryRow, SubqueryRow},
    step::{Step, StepTimes},
};
use tokio::time::{Duration, Instant};

use super::{
    book::{Book, Entry},
    query::core::Stage,
};
use crate::{
    measure::{self, Outcome},
    turnstile::Position,
};

/// Statements remembered after they have ended.
pub const QUERIES_KEPT_MAX: usize = 200;
/// Attempts remembered after they have ended.
pub const ATTEMPTS_KEPT_MAX: usize = 1_000;
/// Characters of a statement's text that are kept.
pub const SQL_CHARS_MAX: usize = 1_000;

#[derive(Debug, Clone)]
pub struct Ledger {
    queries: Book<QueryProgress>,
    attempts: Book<AttemptProgress>,
}

/// A statement's row, and since when it has been in its step.
#[derive(Debug, Clone)]
struct QueryProgress {
    row: QueryRow,
    stage: Stage,
    since: Instant,
    /// While it waits for its turn.
    position: Option<Position>,
    /// Of its error.
    code: Option<ErrorCode>,
}

impl QueryProgress {
    /// Adds the time since the last look to the step it was spent in.
    fn settle(&mut self, now: Instant) {
        let spent = now.saturating_duration_since(self.since).as_micros() as u64;
        self.since = now;
        if let Some(step) = self.stage.step() {
            self.row.times.add(step, spent);
        }
    }
}

#[derive(Debug, Clone)]
struct AttemptProgress {
    row: SubqueryRow,
    started: Instant,
    over: bool,
}

impl AttemptProgress {
    fn settle(&mut self, now: Instant) {
        if !self.over {
            self.row.elapsed_us = now.saturating_duration_since(self.started).as_micros() as u64;
        }
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self { queries: Book::new(QUERIES_KEPT_MAX), attempts: Book::new(ATTEMPTS_KEPT_MAX) }
    }
}

impl Ledger {
    /// Opens a statement's row, in the state `queued`.
    pub fn query(&self, mut row: QueryRow) -> QueryEntry {
        row.sql = cut(&row.sql);
        let stage = Stage::Before(Step::Admission);
        row.state = stage.name().into();
        QueryEntry(self.queries.open(QueryProgress { row, stage, since: Instant::now(), position: None, code: None }))
    }

    /// Opens an attempt's row, in the state `running`.
    pub fn attempt(&self, mut row: SubqueryRow) -> AttemptEntry {
        row.sql = cut(&row.sql);
        row.state = "running".into();
        AttemptEntry(self.attempts.open(AttemptProgress { row, started: Instant::now(), over: false }))
    }

    /// Running statements first, then the latest.
    pub fn queries(&self) -> Vec<QueryRow> {
        let now = Instant::now();
        let settled = |mut progress: QueryProgress| {
            progress.settle(now);
            progress.row.queue_position = progress.position.and_then(|position| position.ahead());
            progress.row
        };
        self.queries.rows().into_iter().map(settled).collect()
    }

    /// Shows the attempts of one statement, as far as they are remembered.
    pub fn attempts_of(&self, query: QueryId, mut look: impl FnMut(&SubqueryRow)) {
        self.attempts.visit(|progress| {
            if progress.row.query == query {
                look(&progress.row);
            }
        });
    }

    /// Running attempts first, then the latest.
    pub fn attempts(&self) -> Vec<SubqueryRow> {
        let now = Instant::now();
        let settled = |mut progress: AttemptProgress| {
            progress.settle(now);
            progress.row
        };
        self.attempts.rows().into_iter().map(settled).collect()
    }
}

/// A statement's row while it is open. Dropped before the statement is over, it is a failure.
#[derive(Debug)]
pub struct QueryEntry(Entry<QueryProgress>);

impl QueryEntry {
    pub fn stage(&self, stage: &Stage) {
        self.0.change(|progress| {
            progress.settle(Instant::now());
            progress.stage = stage.clone();
            progress.row.state = stage.name().into();
        });
    }

    pub fn waits(&self, position: Position) {
        self.0.change(|progress| progress.position = Some(position));
    }

    pub fn decided(&self, epoch: Epoch) {
        self.0.change(|progress| progress.row.epoch = Some(epoch));
    }

    /// Time of steps that are parts of another, in which it is counted already.
    pub fn times(&self, times: &StepTimes) {
        self.0.change(|progress| times.iter().for_each(|(step, us)| progress.row.times.add(step, us)));
    }

    pub fn rows(&self, rows: u64, bytes: u64) {
        self.0.change(|progress| {
            progress.row.rows += rows;
            progress.row.bytes += bytes;
        });
        measure::returned(rows, bytes);
    }

    pub fn charged(&self, cost: u64) {
        self.0.change(|progress| progress.row.cost = cost);
    }

    /// The row as it stands.
    pub fn row(&self) -> Option<QueryRow> {
        self.0.change(|progress| {
            progress.settle(Instant::now());
            progress.row.clone()
        })
    }

    /// A new run: rows of the last one did not count.
    pub fn restarted(&self) {
        measure::query_restarted();
        self.0.change(|progress| {
            progress.row.restarts += 1;
            progress.row.rows = 0;
            progress.row.bytes = 0;
        });
    }

    pub fn error(&self, error: &MeshError) {
        self.0.change(|progress| {
            progress.row.error = Some(error.to_string());
            progress.code = Some(error.code);
        });
    }
}

impl Drop for QueryEntry {
    fn drop(&mut self) {
        let ended = self.0.change(|progress| {
            progress.settle(Instant::now());
            if !progress.stage.is_over() {
                progress.code.get_or_insert(ErrorCode::Internal);
                progress.stage = Stage::Failed;
                progress.row.state = Stage::Failed.name().into();
                progress.row.error.get_or_insert_with(|| "GL9001: the statement's actor was lost".into());
            }
            let outcome = match progress.stage {
                Stage::Done => Outcome::Done,
                Stage::Cancelled => Outcome::Cancelled,
                _ => Outcome::Failed,
            };
            (progress.row.door.clone(), outcome, progress.code, progress.row.times)
        });
        if let Some((door, outcome, code, times)) = ended {
            measure::statement(&door, outcome, code);
            let taken = times.iter().filter(|(_, us)| *us > 0);
            taken.for_each(|(step, us)| measure::step(step.name(), Duration::from_micros(us)));
        }
    }
}

/// An attempt's row while it is open. Dropped before it is over, it was cancelled.
#[derive(Debug)]
pub struct AttemptEntry(Entry<AttemptProgress>);

impl AttemptEntry {
    pub fn received(&self, rows: u64, bytes: u64) {
        self.0.change(|progress| {
            progress.row.rows += rows;
            progress.row.bytes += bytes;
        });
    }

    /// It was started under another rule than was hoped for.
    pub fn rule(&self, rule: &str) {
        self.0.change(|progress| progress.row.rule = rule.into());
    }

    pub fn done(&self) {
        self.end(Outcome::Done, None);
    }

    pub fn failed(&self, error: &MeshError) {
        self.end(Outcome::Failed, Some(error));
    }

    fn end(&self, outcome: Outcome, error: Option<&MeshError>) {
        self.0.change(|progress| {
            if !progress.over {
                progress.settle(Instant::now());
                progress.over = true;
                progress.row.state = outcome.as_str().into();
                progress.row.error = error.map(MeshError::to_string);
                measure::attempt(&progress.row.source, &progress.row.rule, outcome);
            }
        });
    }
}

impl Drop for AttemptEntry {
    fn drop(&mut self) {
        self.end(Outcome::Cancelled, None);
    }
}

fn cut(sql: &str) -> String {
    sql.chars().take(SQL_CHARS_MAX).collect()
}
