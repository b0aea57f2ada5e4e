//! Histories that are known to be good or bad, and a search by brute force that must agree with the check.

#![allow(clippy::unwrap_used, reason = "test code")]

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::linear::{Call, Operation, Reply, Verdict, check};

fn operation(call: Call, began: u64, ended: u64, reply: Reply) -> Operation {
    Operation { call, began, ended: Some((ended, reply)) }
}

fn lost(call: Call, began: u64) -> Operation {
    Operation { call, began, ended: None }
}

fn read(began: u64, ended: u64, value: i64) -> Operation {
    operation(Call::Read, began, ended, Reply::Value(Some(value)))
}

fn write(began: u64, ended: u64, value: i64) -> Operation {
    operation(Call::Write(value), began, ended, Reply::Done)
}

fn cas(began: u64, ended: u64, expect: i64, new: i64, reply: Reply) -> Operation {
    operation(Call::CompareAndSet { expect, new }, began, ended, reply)
}

fn add(began: u64, ended: u64, delta: i64, sum: i64) -> Operation {
    operation(Call::Add(delta), began, ended, Reply::Value(Some(sum)))
}

#[test]
fn good_histories() {
    let none = operation(Call::Read, 0, 1, Reply::Value(None));
    let histories: [(&str, Vec<Operation>); 9] = [
        ("nothing", vec![]),
        ("one after the other", vec![none.clone(), write(2, 3, 1), read(4, 5, 1)]),
        ("a read beside a write sees the old value", vec![write(0, 1, 1), write(2, 9, 2), read(3, 4, 1)]),
        ("or the new one", vec![write(0, 1, 1), write(2, 9, 2), read(3, 4, 2)]),
        ("two writes at once, read either way", vec![write(0, 9, 1), write(0, 9, 2), read(10, 11, 1)]),
        (
            "a lost write that happened late",
            vec![write(0, 1, 1), lost(Call::Write(2), 2), read(3, 4, 1), read(5, 6, 2)],
        ),
        ("a lost write that never happened", vec![write(0, 1, 1), lost(Call::Write(2), 2), read(3, 4, 1)]),
        (
            "of two that compare one is refused",
            vec![write(0, 1, 1), cas(2, 9, 1, 2, Reply::Done), cas(2, 9, 1, 3, Reply::Refused), read(10, 11, 2)],
        ),
        (
            "a lost addition is in a later sum",
            vec![add(0, 1, 1, 1), lost(Call::Add(1), 2), add(3, 4, 1, 3), read(5, 6, 3)],
        ),
    ];
    for (name, history) in histories {
        assert_eq!(check(&history), Verdict::Linearizable, "{name}");
    }
}

#[test]
fn bad_histories() {
    let histories: [(&str, Vec<Operation>, usize); 9] = [
        ("a stale read", vec![write(0, 1, 1), write(2, 3, 2), read(4, 5, 1)], 2),
        ("a read of what nobody wrote", vec![write(0, 1, 1), read(2, 3, 7)], 1),
        ("a write that is forgotten", vec![write(0, 1, 1), operation(Call::Read, 2, 3, Reply::Value(None))], 1),
        ("a read that goes back", vec![write(0, 1, 1), write(2, 20, 2), read(3, 4, 2), read(5, 6, 1)], 3),
        ("read before it was asked for", vec![write(0, 1, 1), read(2, 3, 2), lost(Call::Write(2), 4)], 1),
        (
            "two that compare both win",
            vec![write(0, 1, 1), cas(2, 9, 1, 2, Reply::Done), cas(2, 8, 1, 3, Reply::Done)],
            1,
        ),
        ("refused though it was as expected", vec![write(0, 1, 1), cas(2, 3, 1, 2, Reply::Refused)], 1),
        ("an addition made twice", vec![add(0, 1, 1, 1), add(2, 3, 1, 3)], 1),
        ("a lost addition made twice", vec![add(0, 1, 1, 1), lost(Call::Add(1), 2), read(3, 4, 3)], 2),
    ];
    for (name, history, operation) in histories {
        assert_eq!(check(&history), Verdict::NotLinearizable { operation }, "{name}");
    }
}

#[test]
fn many_lost_operations_are_still_decided() {
    let mut history = vec![add(0, 1, 1, 1)];
    history.extend((0..40).map(|i| lost(Call::Add(1), 2 + i)));
    history.extend((0..40).map(|i| lost(Call::Write(1000 + i), 50 + i as u64)));
    history.push(read(100, 101, 1));
    history.push(read(102, 103, 30));
    history.push(read(104, 105, 1017));
    assert_eq!(check(&history), Verdict::Linearizable);
    history.push(read(106, 107, 1017 + 41));
    assert_eq!(check(&history), Verdict::NotLinearizable { operation: history.len() - 1 });
}

/// Some order of the operations, that of time where times do not overlap, explains every reply.
fn explained(operations: &[Operation], taken: &mut Vec<bool>, value: Option<i64>) -> bool {
    let ends = |i: usize| operations[i].ended.map_or(u64::MAX, |(ended, _)| ended);
    let left: Vec<usize> = (0..operations.len()).filter(|i| !taken[*i]).collect();
    if left.iter().all(|i| operations[*i].ended.is_none()) {
        return true;
    }
    let first_end = left.iter().map(|i| ends(*i)).min().unwrap_or(u64::MAX);
    for i in left.into_iter().filter(|i| operations[*i].began <= first_end) {
        let reply = operations[i].ended.map(|(_, reply)| reply);
        let (after, real) = match operations[i].call {
            Call::Read => (value, Reply::Value(value)),
            Call::Write(new) => (Some(new), Reply::Done),
            Call::CompareAndSet { expect, new } if value == Some(expect) => (Some(new), Reply::Done),
            Call::CompareAndSet { .. } => (value, Reply::Refused),
            Call::Add(delta) => (Some(value.unwrap_or(0) + delta), Reply::Value(Some(value.unwrap_or(0) + delta))),
        };
        if reply.is_some_and(|reply| reply != real) {
            continue;
        }
        taken[i] = true;
        if explained(operations, taken, after) {
            return true;
        }
        taken[i] = false;
    }
    false
}

/// What a single copy would have told clients that overlap, some of which lose their answers; then perhaps falsified.
fn history(rng: &mut ChaCha8Rng) -> Vec<Operation> {
    let count = rng.random_range(2..=8);
    let (mut value, mut operations) = (None, Vec::new());
    for moment in 0..count {
        let call = match rng.random_range(0..4) {
            0 => Call::Read,
            1 => Call::Write(rng.random_range(0..3)),
            2 => Call::CompareAndSet { expect: rng.random_range(0..3), new: rng.random_range(0..3) },
            _ => Call::Add(1),
        };
        let reply = match call {
            Call::Read => Reply::Value(value),
            Call::Write(new) => (value = Some(new), Reply::Done).1,
            Call::CompareAndSet { expect, new } if value == Some(expect) => (value = Some(new), Reply::Done).1,
            Call::CompareAndSet { .. } => Reply::Refused,
            Call::Add(delta) => {
                value = Some(value.unwrap_or(0) + delta);
                Reply::Value(value)
            }
        };
        let at = 10 * moment + 5;
        let (began, ended) = (at - rng.random_range(0..=20_u64).min(at), at + rng.random_range(0..20));
        let ended = rng.random_bool(0.8).then_some((ended, reply));
        operations.push(Operation { call, began, ended });
    }
    if rng.random_bool(0.6) {
        let index = rng.random_range(0..operations.len());
        if let Some((_, Reply::Value(told))) = &mut operations[index].ended {
            *told = Some(rng.random_range(0..3));
        }
    }
    operations.shuffle(rng);
    operations
}

#[test]
fn the_check_agrees_with_brute_force() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..20_000 {
        let operations = history(&mut ChaCha8Rng::seed_from_u64(seed));
        let expected = explained(&operations, &mut vec![false; operations.len()], None);
        let verdict = check(&operations);
        assert_eq!(verdict == Verdict::Linearizable, expected, "seed {seed}: {verdict:?} of {operations:#?}");
        if expected { good += 1 } else { bad += 1 }
    }
    assert!(good > 2_000 && bad > 2_000, "{good} good, {bad} bad");
}
