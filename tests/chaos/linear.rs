//! Whether a history of operations on one register could have come from a single copy that does one thing at a time:
//! linearizability, decided event by event (Lowe, "Testing for linearizability", 2017) with all states that are possible
//! so far kept side by side.
//!
//! Not here: how a history is recorded (`registers`). Keys are checked one by one, which is sound: a history is
//! linearizable if each of its objects' is (Herlihy and Wing, 1990).
//!
//! INVARIANT: an operation whose outcome is not known may take effect at any time after its call, or never.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
};

/// Most states that are kept side by side. A history that needs more is told undecided, never good.
const POSSIBLE_MAX: usize = 200_000;

/// What a client asks of a register. One that nobody has written has no value, and counts as 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    Read,
    Write(i64),
    /// Writes only if the value is as expected.
    CompareAndSet {
        expect: i64,
        new: i64,
    },
    Add(i64),
}

/// What a client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reply {
    /// What was read, or what an addition came to.
    Value(Option<i64>),
    Done,
    /// The value was not as expected.
    Refused,
}

/// One operation. Times are on one clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub call: Call,
    pub began: u64,
    /// `None` if nobody knows whether it has happened, or ever will.
    pub ended: Option<(u64, Reply)>,
}

/// What came of the check of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// No order explains what the client of this operation was told.
    NotLinearizable {
        operation: usize,
    },
    /// Too many orders are possible to look at them all.
    Undecided {
        operation: usize,
    },
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ended {
            Some((ended, reply)) => write!(f, "[{} .. {ended}] {:?} -> {reply:?}", self.began, self.call),
            None => write!(f, "[{} ..] {:?} -> not known", self.began, self.call),
        }
    }
}

/// One way in which things may have gone so far.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Possible {
    value: Option<i64>,
    /// Operations under way that have taken effect already and whose end is still to come.
    done: BTreeSet<usize>,
    /// Operations without a known end that have taken effect.
    guessed: BTreeSet<usize>,
}

/// Checks the operations on one key, which was not there at first. Their order does not matter.
pub fn check(operations: &[Operation]) -> Verdict {
    // At one instant calls come before ends: who is told at the moment that another calls may have been second.
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(operations.len() * 2);
    for (index, operation) in operations.iter().enumerate() {
        if operation.ended.is_none() && operation.call == Call::Read {
            continue;
        }
        events.push((operation.began, false, index));
        events.extend(operation.ended.map(|(ended, _)| (ended, true, index)));
    }
    events.sort_unstable();
    let mut under_way: BTreeSet<usize> = BTreeSet::new();
    let mut possible = BTreeSet::from([Possible { value: None, done: BTreeSet::new(), guessed: BTreeSet::new() }]);
    for (_, is_end, index) in events {
        if !is_end {
            under_way.insert(index);
            continue;
        }
        let Some(reached) = reach(operations, &under_way, possible, index) else {
            return Verdict::Undecided { operation: index };
        };
        under_way.remove(&index);
        possible = reached;
        if possible.is_empty() {
            return Verdict::NotLinearizable { operation: index };
        }
    }
    Verdict::Linearizable
}

/// All ways in which this operation has taken effect by now. `None` if they are too many.
fn reach(
    operations: &[Operation],
    under_way: &BTreeSet<usize>,
    from: BTreeSet<Possible>,
    wanted: usize,
) -> Option<BTreeSet<Possible>> {
    let mut seen = Seen::default();
    let mut open: VecDeque<Possible> = from.into_iter().filter(|one| seen.is_news(one)).collect();
    let mut reached = Seen::default();
    let mut found: BTreeSet<Possible> = BTreeSet::new();
    while let Some(mut now) = open.pop_front() {
        if now.done.remove(&wanted) {
            if reached.is_news(&now) {
                found.insert(now);
            }
            continue;
        }
        let mut twins: BTreeSet<Call> = BTreeSet::new();
        for index in under_way.iter().copied().filter(|i| !now.done.contains(i) && !now.guessed.contains(i)) {
            let operation = &operations[index];
            // Of several alike whose outcomes nobody knows it makes no difference which one it was.
            if operation.ended.is_none() && !twins.insert(operation.call) {
                continue;
            }
            let Some(value) = effect(operation, now.value) else { continue };
            let mut next = now.clone();
            next.value = value;
            match operation.ended {
                Some(_) => next.done.insert(index),
                None => next.guessed.insert(index),
            };
            if seen.is_news(&next) {
                open.push_back(next);
            }
        }
        if seen.count > POSSIBLE_MAX {
            return None;
        }
    }
    Some(found)
}

/// Sets of operations of which each may have taken effect.
type Guesses = Vec<BTreeSet<usize>>;

/// What has been looked at, without what can do no more than another: with the same value and the same operations done,
/// who has made fewer guesses can still make the others.
#[derive(Default)]
struct Seen {
    /// By value and operations done.
    guesses: BTreeMap<(Option<i64>, BTreeSet<usize>), Guesses>,
    count: usize,
}

impl Seen {
    fn is_news(&mut self, one: &Possible) -> bool {
        let alike = self.guesses.entry((one.value, one.done.clone())).or_default();
        if alike.iter().any(|fewer| fewer.is_subset(&one.guessed)) {
            return false;
        }
        alike.push(one.guessed.clone());
        self.count += 1;
        true
    }
}

/// The value after an operation, if this operation may be told what it was told with this value before it. Of one whose
/// outcome is not known only effects are of interest: without one it might as well not have happened.
fn effect(operation: &Operation, value: Option<i64>) -> Option<Option<i64>> {
    let reply = operation.ended.map(|(_, reply)| reply);
    let told = |real: Reply| reply.is_none_or(|reply| reply == real);
    match operation.call {
        Call::Read => told(Reply::Value(value)).then_some(value),
        Call::Write(new) => told(Reply::Done).then_some(Some(new)),
        Call::CompareAndSet { expect, new } if value == Some(expect) => told(Reply::Done).then_some(Some(new)),
        Call::CompareAndSet { .. } => (reply == Some(Reply::Refused)).then_some(value),
        Call::Add(delta) => {
            let sum = value.unwrap_or(0).wrapping_add(delta);
            told(Reply::Value(Some(sum))).then_some(Some(sum))
        }
    }
}
