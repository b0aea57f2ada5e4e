//! Clients that read and change registers all the time and write down what they were told, so that it can be checked
//! afterwards whether the replicated state behaved like a single copy.
//!
//! Keys are given up for new ones every `GENERATION`: operations without a known end stay possible for ever, and a
//! history that carries many of them is long to check.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::{task::JoinSet, time::Instant};

use crate::linear::{Call, Operation, Reply, Verdict, check};

/// Clients at different doors.
const CLIENTS: usize = 4;
/// Registers that are in use at a time; as many counters are.
const KEYS: usize = 2;
const GENERATION: Duration = Duration::from_secs(10);
/// Values that are compared: few, so that comparing often succeeds.
const VALUES: i64 = 4;
const PAUSE_MS: std::ops::RangeInclusive<u64> = 40..=250;
/// An answer that has not come by then will not be waited for: whether it happened is not known.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// What is known of an operation once its call is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Known(Reply),
    /// It has certainly not happened and never will.
    NotMade,
    NotKnown,
}

/// Where registers are asked for: a door, or a stand-in in tests.
pub trait Registers: Send + Sync + 'static {
    fn ask(&self, client: usize, key: &str, call: Call) -> impl Future<Output = Told> + Send;
}

/// What was recorded.
#[derive(Default)]
pub struct History {
    by_key: Mutex<BTreeMap<String, Vec<Operation>>>,
}

/// What the check of a whole history says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    pub operations: usize,
    /// Operations without a known end.
    pub lost: usize,
    pub keys: usize,
    /// Keys for which no order explains what clients were told, each with its story up to there.
    pub broken: Vec<String>,
    /// Keys whose histories are too long to check.
    pub undecided: Vec<String>,
}

impl History {
    fn record(&self, key: &str, operation: Operation) {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        by_key.entry(key.to_owned()).or_default().push(operation);
    }

    pub fn check(&self) -> Checked {
        let by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        let mut checked = Checked { keys: by_key.len(), ..Checked::default() };
        for (key, operations) in by_key.iter() {
            checked.operations += operations.len();
            checked.lost += operations.iter().filter(|o| o.ended.is_none()).count();
            match check(operations) {
                Verdict::Linearizable => {}
                Verdict::NotLinearizable { operation } => checked.broken.push(story(key, operations, operation)),
                Verdict::Undecided { operation } => checked.undecided.push(story(key, operations, operation)),
            }
        }
        checked
    }
}

/// What happened to a key until the end of an operation.
fn story(key: &str, operations: &[Operation], last: usize) -> String {
    let until = operations[last].ended.map_or(u64::MAX, |(ended, _)| ended);
    let mut before: Vec<&Operation> = operations.iter().filter(|o| o.began <= until).collect();
    before.sort_by_key(|o| o.began);
    let lines: Vec<String> = before.iter().map(|o| format!("  {o}")).collect();
    format!("register {key}, not explained: {}\n{}", operations[last], lines.join("\n"))
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operations, lost, keys, broken, undecided } = self;
        write!(f, "{operations} operations on {keys} registers, {lost} without an answer: ")?;
        write!(f, "{} not linearizable, {} undecided", broken.len(), undecided.len())
    }
}

/// Clients under way.
pub struct Recorder<R> {
    registers: Arc<R>,
    history: Arc<History>,
    began: Instant,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl<R: Registers> Recorder<R> {
    pub fn start(registers: Arc<R>, seed: u64) -> Self {
        let (history, stop, began) = (Arc::new(History::default()), Arc::new(AtomicBool::new(false)), Instant::now());
        let mut tasks = JoinSet::new();
        for client in 0..CLIENTS {
            let (registers, history, stop) = (registers.clone(), history.clone(), stop.clone());
            let mut rng = ChaCha8Rng::seed_from_u64(seed ^ (0x7265_6769 + client as u64));
            tasks.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let generation = began.elapsed().as_secs() / GENERATION.as_secs();
                    let (key, call) = draw(generation, &mut rng);
                    one(&*registers, &history, client, &key, call, began).await;
                    tokio::time::sleep(Duration::from_millis(rng.random_range(PAUSE_MS))).await;
                }
            });
        }
        Self { registers, history, began, stop, tasks }
    }

    /// Stops the clients, reads every register once more at each of `doors` places, and gives what was recorded.
    pub async fn stop(mut self, doors: usize) -> Arc<History> {
        self.stop.store(true, Ordering::SeqCst);
        while self.tasks.join_next().await.is_some() {}
        let keys: Vec<String> = {
            let by_key = self.history.by_key.lock().unwrap_or_else(PoisonError::into_inner);
            by_key.keys().cloned().collect()
        };
        for key in keys {
            for door in 0..doors {
                one(&*self.registers, &self.history, door, &key, Call::Read, self.began).await;
            }
        }
        self.history
    }
}

async fn one<R: Registers>(registers: &R, history: &History, client: usize, key: &str, call: Call, clock: Instant) {
    let nanos = || u64::try_from(clock.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let began = nanos();
    let told = tokio::time::timeout(ANSWER_MAX, registers.ask(client, key, call)).await.unwrap_or(Told::NotKnown);
    let ended = match told {
        Told::Known(reply) => Some((nanos(), reply)),
        Told::NotMade => return,
        Told::NotKnown => None,
    };
    history.record(key, Operation { call, began, ended });
}

fn draw(generation: u64, rng: &mut ChaCha8Rng) -> (String, Call) {
    let key = rng.random_range(0..KEYS);
    if rng.random() {
        let call = if rng.random_bool(0.6) { Call::Add(1) } else { Call::Read };
        return (format!("chaos-counter-{generation}-{key}"), call);
    }
    let call = match rng.random_range(0..4) {
        0 => Call::Write(rng.random_range(0..VALUES)),
        1 => Call::CompareAndSet { expect: rng.random_range(0..VALUES), new: rng.random_range(0..VALUES) },
        _ => Call::Read,
    };
    (format!("chaos-register-{generation}-{key}"), call)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;

    /// Registers of this process. Some of them are faulty.
    struct Local {
        values: Mutex<BTreeMap<String, i64>>,
        /// Makes every so many-th change twice.
        doubles: Option<u64>,
        changes: std::sync::atomic::AtomicU64,
    }

    impl Registers for Local {
        async fn ask(&self, _: usize, key: &str, call: Call) -> Told {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let change = self.changes.fetch_add(1, Ordering::SeqCst);
            let mut values = self.values.lock().unwrap();
            let value = values.get(key).copied();
            let reply = match call {
                Call::Read => return Told::Known(Reply::Value(value)),
                Call::CompareAndSet { expect, .. } if value != Some(expect) => return Told::Known(Reply::Refused),
                Call::Write(new) | Call::CompareAndSet { new, .. } => {
                    values.insert(key.to_owned(), new);
                    Reply::Done
                }
                Call::Add(delta) => {
                    let times = if self.doubles.is_some_and(|n| change % n == n - 1) { 2 } else { 1 };
                    values.insert(key.to_owned(), value.unwrap_or(0) + delta * times);
                    Reply::Value(Some(value.unwrap_or(0) + delta))
                }
            };
            // Every seventh answer is lost.
            if change % 7 == 3 { Told::NotKnown } else { Told::Known(reply) }
        }
    }

    async fn recorded(doubles: Option<u64>) -> Checked {
        let local = Local { values: Mutex::default(), doubles, changes: Default::default() };
        let recorder = Recorder::start(Arc::new(local), 5);
        tokio::time::sleep(Duration::from_secs(30)).await;
        recorder.stop(2).await.check()
    }

    #[tokio::test(start_paused = true)]
    async fn registers_that_are_right_are_found_right() {
        let checked = recorded(None).await;
        assert!(checked.broken.is_empty() && checked.undecided.is_empty(), "{checked}: {:?}", checked.broken);
        assert!(checked.operations > 300 && checked.lost > 10 && checked.keys >= 12, "{checked}");
    }

    #[tokio::test(start_paused = true)]
    async fn additions_made_twice_are_found() {
        let checked = recorded(Some(11)).await;
        assert!(!checked.broken.is_empty(), "{checked}");
    }
}
