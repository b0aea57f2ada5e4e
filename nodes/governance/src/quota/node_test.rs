#![allow(clippy::unwrap_used, clippy::panic)]

//! One node and the ledger, step by step.

use greylag_protocol::state::{Period, QuotaLedger};

use super::*;

const LIMIT: u64 = 100_000_000;
const T0: u64 = 1_700_000_000_000;

fn key(agent: Option<&str>) -> QuotaKey {
    QuotaKey { organisation: "clinic".into(), agent: agent.map(str::to_owned), period: Period::Day }
}

fn ledger(limits: &[(Option<&str>, u64)]) -> QuotaLedger {
    let mut ledger = QuotaLedger::default();
    for (agent, limit) in limits {
        ledger.apply(&QuotaCommand::SetLimit { key: key(*agent), limit: Some(*limit), now_unix_ms: T0 });
    }
    ledger
}

fn node(id: u64) -> QuotaNode {
    QuotaNode::new(NodeId(id), 1)
}

/// Everything due is applied and answered at once. Returns how much that was.
fn settle(ledger: &mut QuotaLedger, node: &mut QuotaNode, now: u64) -> usize {
    let due = node.due(now);
    for command in &due {
        let outcome = ledger.apply(command);
        match command {
            QuotaCommand::Lease { key, lease, .. } => node.answered(key, *lease, &outcome, now),
            QuotaCommand::Report { key, lease, closed: true, .. } => node.closed(key, *lease),
            _ => {}
        }
    }
    due.len()
}

fn held(
    ledger: &mut QuotaLedger,
    node: &mut QuotaNode,
    keys: &[QuotaKey],
    estimate: u64,
    now: u64,
) -> Result<ReservationId, Exceeded> {
    for _ in 0..100 {
        match node.reserve(keys, estimate, now) {
            Spend::Done(id) => return Ok(id),
            Spend::Exceeded(exceeded) => return Err(exceeded),
            Spend::Asked => settle(ledger, node, now),
        };
    }
    panic!("asks for ever");
}

#[test]
fn a_statement_waits_for_its_lease_and_spends_from_it() {
    let (mut ledger, mut node) = (ledger(&[(None, LIMIT)]), node(1));
    let keys = ledger.keys_of("clinic", Some("a"));
    assert_eq!(keys, [key(None)]);
    assert_eq!(node.reserve(&keys, 5000, T0), Spend::Asked);
    assert_eq!(node.reserve(&keys, 5000, T0), Spend::Asked);
    assert_eq!(node.due(T0).len(), 1, "one ask at a time");
    assert!(node.due(T0).is_empty(), "and not again at once");
    assert_eq!(node.due(T0 + RETRY_MS).len(), 1, "but again when it is not answered");
    let id = {
        let ask = node.due(T0 + 2 * RETRY_MS);
        let outcome = ledger.apply(&ask[0]);
        assert_eq!(ledger.apply(&ask[0]), outcome, "an ask applied twice is one lease");
        let QuotaCommand::Lease { key, lease, .. } = &ask[0] else { panic!("{ask:?}") };
        node.answered(key, *lease, &outcome, T0);
        node.answered(key, *lease, &outcome, T0);
        match node.reserve(&keys, 5000, T0) {
            Spend::Done(id) => id,
            other => panic!("{other:?}"),
        }
    };
    let granted = node.holds(&keys[0]).0;
    assert_eq!(ledger.quotas[&keys[0]].current.committed(), granted, "an answer that came twice counts once");
    assert_eq!(node.charge(id, 2000, T0), Spend::Done(()));
    assert_eq!(node.charge(id, 4000, T0), Spend::Done(()), "1000 over the estimate is taken from what is free");
    assert_eq!(node.holds(&keys[0]), (granted, 6000, 0));
    node.finish(id);
    let second = held(&mut ledger, &mut node, &keys, 300, T0).unwrap();
    node.finish(second);
    assert_eq!(node.holds(&keys[0]).1, 6000, "what was set aside and not spent is free again");
}

#[test]
fn what_is_left_of_a_lease_after_its_end_is_not_spent_whether_anybody_has_ticked_or_not() {
    let (mut ledger, mut node) = (ledger(&[(None, LIMIT)]), node(1));
    let keys = ledger.keys_of("clinic", None);
    let id = held(&mut ledger, &mut node, &keys, 5000, T0).unwrap();
    node.finish(id);
    assert!(matches!(node.reserve(&keys, 300, T0 + LEASE_MS - 1), Spend::Done(_)));
    assert_eq!(node.reserve(&keys, 300, T0 + LEASE_MS), Spend::Asked);
    // Nor in the next period, however young the lease is.
    let end = ledger.quotas[&keys[0]].current.end_unix_ms;
    let id = held(&mut ledger, &mut node, &keys, 5000, end - 10).unwrap();
    node.finish(id);
    assert!(matches!(node.reserve(&keys, 300, end - 1), Spend::Done(_)));
    assert_eq!(node.reserve(&keys, 300, end), Spend::Asked);
}

#[test]
fn every_quota_must_bear_it_or_none_is_charged() {
    let (mut ledger, mut node) = (ledger(&[(None, LIMIT), (Some("a"), 3000)]), node(1));
    let keys = ledger.keys_of("clinic", Some("a"));
    assert_eq!(keys.len(), 2);
    let id = held(&mut ledger, &mut node, &keys, 2000, T0).unwrap();
    assert_eq!(node.charge(id, 2000, T0), Spend::Done(()));
    let refused = loop {
        match node.charge(id, 1500, T0) {
            Spend::Asked => settle(&mut ledger, &mut node, T0),
            Spend::Exceeded(exceeded) => break exceeded,
            Spend::Done(()) => panic!("3500 of 3000"),
        };
    };
    assert_eq!(refused.key, key(Some("a")));
    let error = MeshError::from(refused);
    assert_eq!(error.code, ErrorCode::QuotaExceeded);
    assert_eq!((node.holds(&keys[0]).1, node.holds(&keys[1]).1), (2000, 2000));
    assert_eq!(node.charge(id, 1000, T0), Spend::Done(()), "what is left still goes");
    let other = ledger.keys_of("clinic", Some("b"));
    assert!(held(&mut ledger, &mut node, &other, 50_000, T0).is_ok(), "the other agent has no such limit");
}

#[test]
fn a_whole_quota_can_be_had_by_one_statement() {
    let (mut ledger, mut node) = (ledger(&[(None, LIMIT)]), node(1));
    let keys = [key(None)];
    assert!(held(&mut ledger, &mut node, &keys, LIMIT + 1, T0).is_err());
    let id = held(&mut ledger, &mut node, &keys, LIMIT, T0).unwrap();
    assert_eq!(node.charge(id, LIMIT, T0), Spend::Done(()));
    let exceeded = held(&mut ledger, &mut node, &keys, 1, T0 + DRY_MS).unwrap_err();
    assert_eq!(exceeded.limit, LIMIT);
    // The next day brings a new one.
    let next = exceeded.period_end_unix_ms;
    assert!(held(&mut ledger, &mut node, &keys, LIMIT / 2, next - 1).is_err());
    assert!(held(&mut ledger, &mut node, &keys, LIMIT / 2, next).is_ok());
}

#[test]
fn an_unused_lease_goes_back_when_its_life_is_over() {
    let (mut ledger, mut node) = (ledger(&[(None, LIMIT)]), node(1));
    let keys = [key(None)];
    let id = held(&mut ledger, &mut node, &keys, 1000, T0).unwrap();
    assert_eq!(node.charge(id, 700, T0), Spend::Done(()));
    node.finish(id);
    node.tick(T0 + LEASE_MS - 1, |_| false);
    assert_ne!(ledger.quotas[&keys[0]].current.committed(), 700);
    node.tick(T0 + LEASE_MS, |_| false);
    settle(&mut ledger, &mut node, T0 + LEASE_MS);
    let current = &ledger.quotas[&keys[0]].current;
    assert_eq!((current.committed(), current.spent(), current.open.len()), (700, 700, 0));
    node.tick(T0 + 3 * LEASE_MS, |_| false);
    assert!(node.accounts.is_empty(), "nothing is kept for ever");
}

#[test]
fn who_goes_short_gets_what_another_does_not_need() {
    let (mut ledger, mut first, mut second) = (ledger(&[(None, 2_000_000)]), node(1), node(2));
    let keys = [key(None)];
    let id = held(&mut ledger, &mut first, &keys, 1000, T0).unwrap();
    first.finish(id);
    assert!(held(&mut ledger, &mut second, &keys, 1_500_000, T0).is_err());
    assert!(ledger.quotas[&keys[0]].current.starved);
    let later = T0 + IDLE_MS;
    first.tick(later, |key| ledger.quotas[key].current.starved);
    settle(&mut ledger, &mut first, later);
    assert!(!ledger.quotas[&keys[0]].current.starved);
    assert!(held(&mut ledger, &mut second, &keys, 1_500_000, later + DRY_MS).is_ok());
}

#[test]
fn what_a_process_held_when_it_died_counts_as_spent() {
    let (mut ledger, mut node) = (ledger(&[(None, LIMIT)]), node(1));
    let keys = [key(None)];
    held(&mut ledger, &mut node, &keys, 1000, T0).unwrap();
    let lost = node.holds(&keys[0]).0;
    let mut again = QuotaNode::new(NodeId(1), 2);
    held(&mut ledger, &mut again, &keys, 1000, T0).unwrap();
    let current = &ledger.quotas[&keys[0]].current;
    assert_eq!(current.settled, lost);
    // The one that was thought dead gets nothing more.
    let mut refused = Ok(ReservationId(0));
    for _ in 0..3 {
        refused = held(&mut ledger, &mut node, &keys, LIMIT / 2, T0);
    }
    assert!(refused.is_err());
}

#[test]
fn a_limit_that_comes_and_goes_forgets_nothing() {
    let (mut ledger, mut node) = (ledger(&[(None, 5000)]), node(1));
    let keys = [key(None)];
    let id = held(&mut ledger, &mut node, &keys, 4000, T0).unwrap();
    assert_eq!(node.charge(id, 4000, T0), Spend::Done(()));
    ledger.apply(&QuotaCommand::SetLimit { key: key(None), limit: None, now_unix_ms: T0 });
    assert!(ledger.keys_of("clinic", None).is_empty());
    let free = held(&mut ledger, &mut node, &keys, 1_000_000, T0).unwrap();
    assert_eq!(node.charge(free, 9_000_000, T0), Spend::Done(()), "no limit holds");
    ledger.apply(&QuotaCommand::SetLimit { key: key(None), limit: Some(5000), now_unix_ms: T0 });
    let later = T0 + DRY_MS;
    assert!(held(&mut ledger, &mut node, &keys, 4000, later).is_err());
    assert_eq!(ledger.quotas[&keys[0]].limit, Some(5000));
}

#[test]
fn a_node_that_stops_gives_everything_back_even_what_it_has_just_asked_for() {
    let (mut ledger, mut node) = (ledger(&[(None, LIMIT), (Some("a"), LIMIT)]), node(1));
    let id = held(&mut ledger, &mut node, &[key(None)], 4000, T0).unwrap();
    assert_eq!(node.charge(id, 3000, T0), Spend::Done(()));
    // Of this one the answer was lost.
    assert_eq!(node.reserve(&[key(Some("a"))], 4000, T0), Spend::Asked);
    let asks = node.due(T0);
    for ask in &asks {
        let _ = ledger.apply(ask);
    }
    assert!(!ledger.quotas[&key(Some("a"))].current.open.is_empty());
    node.finish(id);
    node.retire();
    for _ in 0..3 {
        node.tick(T0, |_| false);
        settle(&mut ledger, &mut node, T0);
    }
    assert!(node.holds_nothing());
    assert_eq!(node.reserve(&[key(None)], 4000, T0), Spend::Asked);
    assert!(node.due(T0).is_empty(), "it asks for nothing any more");
    for (of, spent) in [(None, 3000), (Some("a"), 0)] {
        let current = &ledger.quotas[&key(of)].current;
        assert!(current.open.is_empty(), "{current:?}");
        assert_eq!(current.settled, spent);
    }
}

#[test]
fn a_refusal_says_how_much_of_what_is_spent_and_when_there_is_more() {
    let (mut ledger, mut node) = (ledger(&[(None, 2_500_000)]), node(1));
    let refused: MeshError = held(&mut ledger, &mut node, &[key(None)], 3_000_000, T0).unwrap_err().into();
    assert_eq!(refused.code, ErrorCode::QuotaExceeded);
    let expected =
        "the quota of 2.5 credits for `clinic per day` is spent; the next period begins at 2023-11-15T00:00:00Z";
    assert_eq!(refused.message, expected);
}
