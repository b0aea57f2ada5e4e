//! Clients that ask all the time: TPC-H queries and scans whose answers are known, each with a deadline, each answer
//! compared row by row.
//!
//! INVARIANT: a statement ends as one of: right, a retryable error, out of time, another error, wrong, hanging. Only the
//! first three may be, and out of time only while something is done to the mesh.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arrow::array::RecordBatch;
use futures::StreamExt;
use greylag_node::{
    cli::Connection,
    tpch::{Reference, difference, queries},
};
use greylag_protocol::{ErrorCode, MeshError, statement::SessionOptions};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinSet;

use crate::{
    report::{Ledger, say},
    schedule::NODES,
    stage::{SCALE, door},
};

/// Time that clients give a statement.
const DEADLINE: Duration = Duration::from_secs(15);
/// The same for scans that are read slowly.
const DEADLINE_SLOW: Duration = Duration::from_secs(40);
/// A statement that has not ended so long after its deadline hangs.
const HANGS_AFTER: Duration = Duration::from_secs(5);
/// Pauses of a client between two statements: two cores are for the mesh, not for waiting in line.
const THINKING_MS: std::ops::RangeInclusive<u64> = 50..=400;
/// Pause of a slow reader between two batches.
const READING: Duration = Duration::from_millis(40);
/// Rows in a batch of a slow reader.
const SLOW_BATCH_ROWS: u32 = 1024;

/// A statement and its answer.
pub struct Question {
    pub name: String,
    pub sql: String,
    pub expected: Vec<RecordBatch>,
}

/// All statements: quick ones, and large results.
pub struct Questions {
    pub quick: Vec<Question>,
    pub large: Vec<Question>,
}

impl Questions {
    pub async fn prepare() -> anyhow::Result<Self> {
        let reference = Reference::new(SCALE)?;
        let (mut quick, mut large) = (Vec::new(), Vec::new());
        for query in queries() {
            let expected = reference.answer(query.sql).await?;
            quick.push(Question { name: format!("q{:02}", query.number), sql: query.sql.into(), expected });
        }
        for (name, sql) in [
            ("lineitem", "SELECT * FROM lineitem"),
            ("orders", "SELECT * FROM orders"),
            ("partsupp", "SELECT * FROM partsupp"),
            ("customer", "SELECT * FROM customer"),
            (
                "lines",
                "SELECT o_orderdate, l_linenumber, l_comment FROM lineitem JOIN orders ON l_orderkey = o_orderkey",
            ),
        ] {
            large.push(Question { name: name.into(), sql: sql.into(), expected: reference.answer(sql).await? });
        }
        Ok(Self { quick, large })
    }
}

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// Uses one door until it fails there, then another: what any Flight SQL client can do.
    OneDoor,
    /// The client library with all doors: goes on by itself.
    Roaming,
    /// The same, for large results, which it reads slowly.
    Reader,
}

/// Clients of a run.
const HABITS: [Habit; 7] =
    [Habit::OneDoor, Habit::OneDoor, Habit::OneDoor, Habit::Roaming, Habit::Roaming, Habit::Reader, Habit::Reader];

pub struct Clients {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Clients {
    pub fn start(questions: &Arc<Questions>, ledger: &Arc<Ledger>, token: &str, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for (index, habit) in HABITS.into_iter().enumerate() {
            let client = Client {
                habit,
                door: index % NODES,
                token: token.to_owned(),
                connection: None,
                questions: questions.clone(),
                ledger: ledger.clone(),
                rng: ChaCha8Rng::seed_from_u64(seed.wrapping_mul(1000) + index as u64),
            };
            tasks.spawn(client.run(stop.clone()));
        }
        Self { stop, tasks }
    }

    /// Lets every client end the statement that it is at.
    pub async fn stop(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Client {
    habit: Habit,
    /// The door in use, or the first of all.
    door: usize,
    token: String,
    connection: Option<Connection>,
    questions: Arc<Questions>,
    ledger: Arc<Ledger>,
    rng: ChaCha8Rng,
}

impl Client {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::SeqCst) {
            let questions = self.questions.clone();
            let set = if self.habit == Habit::Reader { &questions.large } else { &questions.quick };
            let question = &set[self.rng.random_range(0..set.len())];
            let deadline = if self.habit == Habit::Reader { DEADLINE_SLOW } else { DEADLINE };
            let began = Instant::now();
            let answer = tokio::time::timeout(deadline + HANGS_AFTER, self.ask(&question.sql, deadline)).await;
            self.judge(question, began, answer.ok());
            let pause = Duration::from_millis(self.rng.random_range(THINKING_MS));
            tokio::time::sleep(pause).await;
        }
    }

    async fn ask(&mut self, sql: &str, deadline: Duration) -> Result<Vec<RecordBatch>, MeshError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect(deadline).await?,
        };
        let (_, mut batches) = connection.stream(sql).await?;
        let mut rows = Vec::new();
        while let Some(batch) = batches.next().await {
            rows.push(batch?);
            if self.habit == Habit::Reader {
                tokio::time::sleep(READING).await;
            }
        }
        self.connection = Some(connection);
        Ok(rows)
    }

    async fn connect(&self, deadline: Duration) -> Result<Connection, MeshError> {
        let mut options = SessionOptions { timeout: Some(deadline), ..SessionOptions::default() };
        if self.habit == Habit::OneDoor {
            return Connection::with_options(&door(self.door).to_string(), &self.token, options).await;
        }
        options.resumable = true;
        if self.habit == Habit::Reader {
            options.batch_rows = SLOW_BATCH_ROWS;
        }
        let doors: Vec<String> = (0..NODES).map(|i| door((self.door + i) % NODES).to_string()).collect();
        Connection::with_options(&doors.join(","), &self.token, options).await
    }

    fn judge(&mut self, question: &Question, began: Instant, answer: Option<Result<Vec<RecordBatch>, MeshError>>) {
        let who = format!("{} of {:?} at node{}", question.name, self.habit, self.door + 1);
        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let rolling = self.habit != Habit::OneDoor && self.ledger.was_rolling(began);
        self.ledger.count(|counts| {
            counts.statements += 1;
            counts.rolling_statements += u64::from(rolling);
        });
        let error = match answer {
            Some(Ok(rows)) => {
                match difference(&question.expected, &rows) {
                    Ok(found) if found.is_none() => self.ledger.count(|counts| {
                        counts.right += 1;
                        let slowest = counts.slowest_ms.entry(format!("{:?}", self.habit)).or_default();
                        *slowest = (*slowest).max(took);
                    }),
                    found => {
                        let what = format!("{who}, {took} ms: {found:?}");
                        self.ledger.offence("wrong", &what, |counts| counts.wrong += 1);
                    }
                }
                return;
            }
            Some(Err(error)) => error,
            None => {
                self.connection = None;
                self.door = (self.door + 1) % NODES;
                return self.ledger.offence("hang", &format!("{who}, {took} ms"), |counts| counts.hangs += 1);
            }
        };
        let what = format!("{who}, {took} ms: {error}");
        if error.is_retryable() {
            let code = error.code.to_string();
            self.ledger.count(|counts| *counts.retryable.entry(code).or_default() += 1);
            say(&format!("  {what}"));
        } else if error.code == ErrorCode::Deadline {
            self.ledger.count(|counts| counts.deadlines += 1);
            say(&format!("  {what}"));
        } else {
            self.ledger.offence("unexpected", &what, |counts| counts.unexpected += 1);
        }
        if rolling {
            self.ledger.offence("rolling", &what, |counts| counts.rolling_failed += 1);
        }
        if self.ledger.was_calm(began) {
            self.ledger.offence("calm", &what, |counts| counts.calm_errors += 1);
        }
        self.door = (self.door + 1 + self.rng.random_range(0..NODES - 1)) % NODES;
    }
}
