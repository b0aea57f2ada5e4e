//! What is said while a run goes on, and the line at its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use serde::Serialize;

/// After a fault has ended, errors are still put down to it for so long.
const AFTERMATH: Duration = Duration::from_secs(15);
/// Most cases of a kind that are told in full.
const TOLD_MAX: usize = 20;

static STARTED: OnceLock<Instant> = OnceLock::new();

/// One line on standard error, with the time since the first.
pub fn say(what: &str) {
    let started = STARTED.get_or_init(Instant::now);
    eprintln!("[{:7.2} s] {what}", started.elapsed().as_secs_f64());
}

/// What happened, as it is counted.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Counts {
    pub faults: BTreeMap<String, u64>,
    pub statements: u64,
    pub right: u64,
    /// By code: clear, and worth another try.
    pub retryable: BTreeMap<String, u64>,
    /// GL5002: the time that the client has given was not enough.
    pub deadlines: u64,
    /// Longest time until a right answer, by kind of client, milliseconds.
    pub slowest_ms: BTreeMap<String, u64>,
    /// By rule, of sub-queries.
    pub restarts: BTreeMap<String, u64>,
    pub wrong: u64,
    pub hangs: u64,
    /// Errors that are neither retryable nor about time.
    pub unexpected: u64,
    /// Errors while nothing was done to the mesh.
    pub calm_errors: u64,
    /// Nodes that were said to be down while nothing was done to the mesh.
    pub false_alarms: u64,
    /// Operations on registers that were answered, and errors of single tries by code.
    pub registers_answered: u64,
    pub registers_retried: BTreeMap<String, u64>,
    /// Nodes that ended by themselves.
    pub died: u64,
    /// Statements of clients that may use any door, during rolling restarts: all, and those that failed.
    pub rolling_statements: u64,
    pub rolling_failed: u64,
    /// Faults that have a name in `system.nodes`: those that another node has named while they lasted, after how long at
    /// most, and those that nobody named in time.
    pub named: BTreeMap<String, u64>,
    pub named_after_ms: BTreeMap<String, u64>,
    pub unnamed: BTreeMap<String, u64>,
    /// Names for what was not done.
    pub wrong_names: u64,
    /// Steps of the nemesis, or of settling after it, that did not come to their end.
    pub stuck: u64,
}

/// Counts and the cases behind them. One for a run.
#[derive(Default)]
pub struct Ledger {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    counts: Counts,
    /// Offences by kind: how many, and the first of them.
    told: BTreeMap<&'static str, (usize, String)>,
    /// Kind, beginning and end of each fault.
    faults: Vec<(&'static str, Instant, Option<Instant>)>,
    rolling: Vec<(Instant, Option<Instant>)>,
}

impl Ledger {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.inner().counts);
    }

    pub fn counts(&self) -> Counts {
        self.inner().counts.clone()
    }

    /// Something that must not be: counted, and told unless there have been many.
    pub fn offence(&self, kind: &'static str, what: &str, change: impl FnOnce(&mut Counts)) {
        let told = {
            let mut inner = self.inner();
            change(&mut inner.counts);
            let (told, _) = inner.told.entry(kind).and_modify(|(told, _)| *told += 1).or_insert((1, what.to_owned()));
            *told
        };
        if told <= TOLD_MAX {
            say(&format!("{}: {what}", kind.to_uppercase()));
        }
    }

    /// Every kind of offence in a line, with how many there were and the first.
    pub fn offences(&self) -> Vec<String> {
        let inner = self.inner();
        inner.told.iter().map(|(kind, (many, first))| format!("{kind}, {many} in all; the first: {first}")).collect()
    }

    /// A fault begins. The number is for `fault_ended`.
    pub fn fault_began(&self, kind: &'static str) -> usize {
        let mut inner = self.inner();
        *inner.counts.faults.entry(kind.to_owned()).or_default() += 1;
        inner.faults.push((kind, Instant::now(), None));
        inner.faults.len() - 1
    }

    /// A fault that was noticed when it was over.
    pub fn fault_lasted(&self, kind: &'static str, began: Instant) {
        let mut inner = self.inner();
        *inner.counts.faults.entry(kind.to_owned()).or_default() += 1;
        inner.faults.push((kind, began, Some(Instant::now())));
    }

    pub fn fault_ended(&self, number: usize) {
        if let Some(fault) = self.inner().faults.get_mut(number) {
            fault.2 = Some(Instant::now());
        }
    }

    /// Kinds of the faults that were played at some time from then on.
    pub fn kinds_since(&self, from: Instant) -> BTreeSet<&'static str> {
        let inner = self.inner();
        let played = inner.faults.iter().filter(|(_, _, end)| end.is_none_or(|end| end >= from));
        played.map(|(kind, ..)| *kind).collect()
    }

    pub fn rolling_began(&self) {
        self.inner().rolling.push((Instant::now(), None));
    }

    pub fn rolling_ended(&self) {
        if let Some(last) = self.inner().rolling.last_mut() {
            last.1 = Some(Instant::now());
        }
    }

    /// Whether nothing was done to the mesh from shortly before `from` until now.
    pub fn was_calm(&self, from: Instant) -> bool {
        self.inner().faults.iter().all(|(_, _, end)| end.is_some_and(|end| end + AFTERMATH < from))
    }

    /// Whether a statement that began then and ends now ran while nodes were restarted one after the other.
    pub fn was_rolling(&self, from: Instant) -> bool {
        self.inner().rolling.iter().any(|(began, ended)| from >= *began && ended.is_none_or(|ended| from < ended))
    }
}

impl Counts {
    /// Whether the mesh has kept its promises, as far as they are counted.
    pub fn held(&self) -> bool {
        let offences = [
            self.wrong,
            self.hangs,
            self.unexpected,
            self.calm_errors,
            self.false_alarms,
            self.died,
            self.rolling_failed,
            self.wrong_names,
            self.stuck,
        ];
        offences.iter().sum::<u64>() == 0 && self.right > 0
    }
}
