//! The rules of restarting, as tables: a kill at every point, and what is done about it.
#![allow(clippy::unwrap_used, clippy::panic)]

use greylag_protocol::{ErrorCode, MeshError, NodeId, SourceName, prefix::Prefix};

use super::core::{
    BACKOFF_MS_MAX, BACKOFF_MS_MIN, Candidate, Effect, Event, NO_EDGE_MS, OUTAGE_MS_MAX, Rule, Setting, SubqueryCore,
    backoff_ms,
};
use crate::coordinator::{circuits::Condition, gate::core::Fenced};

const OWN: u64 = 9;

fn source() -> SourceName {
    SourceName::new("orders").unwrap()
}

fn setting() -> Setting {
    Setting { source: source(), own: NodeId(OWN), attempts_max: 4, run: 1, spread: 0, shunned: Vec::new() }
}

fn edges(nodes: &[u64]) -> Vec<Candidate> {
    nodes.iter().map(|n| Candidate { node: NodeId(*n), linked: true, condition: Condition::default() }).collect()
}

fn unlinked(node: u64) -> Candidate {
    Candidate { node: NodeId(node), linked: false, condition: Condition::default() }
}

fn lost() -> MeshError {
    MeshError::new(ErrorCode::TruncatedStream, "the stream died")
}

fn cut_off() -> MeshError {
    MeshError::new(ErrorCode::PeerUnreachable, "the connection died")
}

fn start(attempt: u32, edge: u64, rule: Rule) -> Effect {
    Effect::StartAttempt { attempt, edge: NodeId(edge), rule, resume: Prefix::default(), reattach: None }
}

fn taken(rows: u64) -> Prefix {
    if rows == 0 { Prefix::default() } else { Prefix { batches: 1, rows, digest: [7; 32] } }
}

fn found(taken: u64, received_rows: u64) -> Fenced {
    Fenced { taken: self::taken(taken), received_rows, ..Fenced::default() }
}

/// The gate has been fenced for the current attempt and had nothing.
fn fenced(core: &mut SubqueryCore, edges: Vec<Candidate>) -> Vec<Effect> {
    core.on(Event::Fenced { attempt: core.attempt(), found: Fenced::default(), edges, dice: 0 })
}

fn wait(attempt: u32, ms: u64) -> Effect {
    Effect::Wait { attempt, ms, or_edge: false }
}

/// A sub-query with its first attempt running.
fn running(nodes: &[u64]) -> SubqueryCore {
    let mut core = SubqueryCore::new(setting());
    let effects = core.on(Event::Opened { edges: edges(nodes) });
    assert_eq!(effects, [Effect::Fence { attempt: 1 }, start(1, nodes[0], Rule::First)]);
    core
}

/// The current attempt dies with `taken` rows used and `received` rows come; returns what is done in the end.
fn die(core: &mut SubqueryCore, error: MeshError, taken: u64, received: u64, nodes: Vec<Candidate>) -> Vec<Effect> {
    let attempt = core.attempt();
    let first = core.on(Event::Failed { attempt, error });
    let fence = Effect::Fence { attempt: attempt + 1 };
    assert_eq!(first, [fence, Effect::CancelAttempt { attempt }], "the number is raised before anything else");
    let found = found(taken, received);
    let mut effects = core.on(Event::Fenced { attempt: attempt + 1, found, edges: nodes.clone(), dice: 999 });
    if effects == [Effect::SpendRestart] {
        effects = core.on(Event::Budget { granted: true });
        let [Effect::Wait { attempt: next, .. }] = effects[..] else { panic!("no wait: {effects:?}") };
        assert_eq!(next, attempt + 1);
        effects.extend(core.on(Event::Waited { attempt: next, edges: nodes }));
    }
    effects
}

#[test]
fn all_well() {
    let mut core = running(&[1, 2]);
    assert_eq!(core.on(Event::Ended { attempt: 1 }), [Effect::Finish]);
    assert!(core.is_over());
    assert!(core.on(Event::Failed { attempt: 1, error: lost() }).is_empty());
    assert!(core.on(Event::Abandoned { complete: false }).is_empty());
}

#[test]
fn killed_before_the_first_row_another_edge_takes_over_at_once() {
    let mut core = running(&[1, 2]);
    let effects = die(&mut core, lost(), 0, 0, edges(&[1, 2]));
    assert_eq!(effects, [wait(2, 0), start(2, 2, Rule::R0)]);
    assert_eq!(core.on(Event::Ended { attempt: 2 }), [Effect::Finish]);
}

#[test]
fn killed_while_held_back_is_r1() {
    let mut core = running(&[1, 2]);
    let effects = die(&mut core, lost(), 0, 500, edges(&[1, 2]));
    assert_eq!(effects, [wait(2, 0), start(2, 2, Rule::R1)]);
}

#[test]
fn killed_after_rows_were_used_the_next_attempt_has_to_begin_with_them() {
    let mut core = running(&[1, 2]);
    let effects = die(&mut core, lost(), 1, 500, edges(&[1, 2]));
    let resumed = |attempt, edge, rows| Effect::StartAttempt {
        attempt,
        edge: NodeId(edge),
        rule: Rule::R3,
        resume: taken(rows),
        reattach: None,
    };
    assert_eq!(effects, [wait(2, 0), resumed(2, 2, 1)]);
    // Killed again, with more rows used by then.
    let effects = die(&mut core, lost(), 9, 500, edges(&[1, 2]));
    assert_eq!(effects, [wait(3, backoff_ms(2, 999)), resumed(3, 1, 9)]);
    assert_eq!(core.on(Event::Ended { attempt: 3 }), [Effect::Finish]);
}

#[test]
fn an_attempt_that_does_not_begin_with_what_was_used_leaves_it_to_the_query() {
    let mut core = running(&[1, 2]);
    die(&mut core, lost(), 1, 500, edges(&[1, 2]));
    let differs = MeshError::new(ErrorCode::ReplayDiffers, "other rows");
    let effects = die(&mut core, differs, 1, 0, edges(&[1, 2]));
    let [Effect::RestartQuery { cause, edge }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(
        (cause.code, cause.source.as_ref(), cause.node),
        (ErrorCode::ReplayDiffers, Some(&source()), Some(NodeId(2)))
    );
    assert_eq!(*edge, Some(NodeId(2)));
    assert!(core.is_over());
}

#[test]
fn killed_between_the_gates_end_and_its_report_nothing_is_lost() {
    let mut core = running(&[1, 2]);
    core.on(Event::Failed { attempt: 1, error: lost() });
    let found = Fenced { taken: taken(7), received_rows: 7, ended: true, marked: false };
    assert_eq!(core.on(Event::Fenced { attempt: 2, found, edges: edges(&[2]), dice: 0 }), [Effect::Finish]);
}

#[test]
fn two_kills_come_back_to_the_edge_that_failed_longest_ago() {
    let mut core = running(&[1, 2]);
    die(&mut core, lost(), 0, 0, edges(&[1, 2]));
    let effects = die(&mut core, lost(), 0, 4, edges(&[1, 2]));
    assert_eq!(effects, [wait(3, backoff_ms(2, 999)), start(3, 1, Rule::R1)]);
    // A third edge that has come up in the meantime is preferred to both.
    let effects = die(&mut core, lost(), 0, 0, edges(&[1, 2, 3]));
    assert_eq!(effects, [wait(4, 0), start(4, 3, Rule::R0)]);
}

#[test]
fn what_a_zombie_says_is_ignored() {
    let mut core = running(&[1, 2]);
    die(&mut core, lost(), 0, 0, edges(&[1, 2]));
    assert!(core.on(Event::Ended { attempt: 1 }).is_empty());
    assert!(core.on(Event::Failed { attempt: 1, error: lost() }).is_empty());
    assert!(core.on(Event::GateFailed { attempt: 1, error: lost() }).is_empty());
    assert!(core.on(Event::Waited { attempt: 1, edges: edges(&[1]) }).is_empty());
    assert_eq!(core.on(Event::Ended { attempt: 2 }), [Effect::Finish]);
}

#[test]
fn a_permanent_error_is_never_retried() {
    for code in [ErrorCode::SourceRefused, ErrorCode::ValueOutOfRange, ErrorCode::BadSignature, ErrorCode::Deadline] {
        let mut core = running(&[1, 2]);
        let effects = die(&mut core, MeshError::new(code, "no"), 0, 0, edges(&[1, 2]));
        let [Effect::Fail(error)] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!((error.code, error.source.as_ref(), error.node), (code, Some(&source()), Some(NodeId(1))));
    }
}

#[test]
fn an_overloaded_source_is_left_alone_for_a_while() {
    let mut core = running(&[1, 2]);
    let effects = die(&mut core, MeshError::new(ErrorCode::SourceBusy, "full"), 0, 0, edges(&[1, 2]));
    assert_eq!(effects, [wait(2, backoff_ms(1, 999)), start(2, 2, Rule::R0)]);
}

#[test]
fn attempts_are_bounded() {
    let mut core = running(&[1]);
    for attempt in 2..=4 {
        let effects = die(&mut core, lost(), 0, 0, edges(&[1]));
        assert_eq!(effects.last(), Some(&start(attempt, 1, Rule::R0)));
    }
    let effects = die(&mut core, lost(), 0, 0, edges(&[1]));
    let [Effect::Fail(error)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(error.code, ErrorCode::TruncatedStream);
    assert!(error.message.contains("4 attempts"), "{error}");
}

#[test]
fn the_querys_budget_bounds_them_too() {
    let mut core = running(&[1, 2]);
    core.on(Event::Failed { attempt: 1, error: lost() });
    fenced(&mut core, edges(&[2]));
    let effects = core.on(Event::Budget { granted: false });
    assert!(matches!(&effects[..], [Effect::Fail(error)] if error.code == ErrorCode::TruncatedStream), "{effects:?}");
}

#[test]
fn no_edge_is_waited_for_and_then_named() {
    let mut core = SubqueryCore::new(setting());
    let effects = core.on(Event::Opened { edges: Vec::new() });
    let [first, second] = [1, 2].map(|attempt| Effect::Fence { attempt });
    assert_eq!(effects, [first, second, Effect::CancelAttempt { attempt: 1 }]);
    let outdated = Event::Fenced { attempt: 1, found: Fenced::default(), edges: Vec::new(), dice: 0 };
    assert!(core.on(outdated).is_empty(), "the answer to the first fence is not the second's");
    let mut last = Vec::new();
    for _ in 0..4 {
        last = fenced(&mut core, Vec::new());
        if last == [Effect::SpendRestart] {
            core.on(Event::Budget { granted: true });
            let attempt = core.attempt();
            core.on(Event::Waited { attempt, edges: Vec::new() });
        }
    }
    assert!(matches!(&last[..], [Effect::Fail(error)] if error.code == ErrorCode::NoEdge), "{last:?}");
    // One that comes up in time is used.
    let mut core = SubqueryCore::new(setting());
    core.on(Event::Opened { edges: Vec::new() });
    fenced(&mut core, edges(&[3]));
    core.on(Event::Budget { granted: true });
    assert_eq!(core.on(Event::Waited { attempt: 2, edges: edges(&[3]) }), [start(2, 3, Rule::R0)]);
    // One that cannot be reached is not tried again before that has changed, or time has passed.
    core.on(Event::Failed { attempt: 2, error: lost() });
    fenced(&mut core, vec![unlinked(3)]);
    let wait = core.on(Event::Budget { granted: true });
    assert_eq!(wait, [Effect::Wait { attempt: 3, ms: NO_EDGE_MS, or_edge: true }]);
}

#[test]
fn a_gate_that_has_failed_is_final() {
    let mut core = running(&[1, 2]);
    let full = MeshError::new(ErrorCode::Memory, "spooled too much");
    let effects = core.on(Event::GateFailed { attempt: 1, error: full });
    assert!(
        matches!(&effects[..], [Effect::CancelAttempt { attempt: 1 }, Effect::Fail(error)] if error.code == ErrorCode::Memory),
        "{effects:?}"
    );
}

#[test]
fn a_plan_that_wants_no_more_stops_the_attempt() {
    let mut core = running(&[1]);
    assert_eq!(core.on(Event::Abandoned { complete: false }), [Effect::CancelAttempt { attempt: 1 }, Effect::Finish]);
    assert!(core.is_over());
}

#[test]
fn a_plan_that_has_read_it_all_may_go_before_the_attempt_reports() {
    let mut core = running(&[1]);
    assert!(core.on(Event::Abandoned { complete: true }).is_empty());
    assert_eq!(core.on(Event::Ended { attempt: 1 }), [Effect::Finish]);
}

#[test]
fn which_edge_is_first() {
    let first = |spread: u64, shunned: &[u64], candidates: Vec<Candidate>| {
        let shunned = shunned.iter().copied().map(NodeId).collect();
        let mut core = SubqueryCore::new(Setting { spread, shunned, ..setting() });
        match core.on(Event::Opened { edges: candidates }).pop() {
            Some(Effect::StartAttempt { edge, .. }) => edge.0,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(first(0, &[], edges(&[3, 1, 2])), 1);
    assert_eq!(first(4, &[], edges(&[3, 1, 2])), 2, "equals are spread");
    assert_eq!(first(4, &[], edges(&[3, 1, OWN])), OWN, "the own node's edge needs no network");
    assert_eq!(first(0, &[], vec![unlinked(1), edges(&[2])[0]]), 2, "a link is worth more");
    assert_eq!(first(0, &[1], edges(&[1, 2])), 2, "an edge that lost rows in an earlier run is avoided");
    assert_eq!(first(0, &[1], edges(&[1])), 1, "unless there is no other");
}

#[test]
fn after_the_loss_of_a_connection_the_same_edge_is_asked_to_go_on() {
    let again = |attempt, rows, instead| Effect::StartAttempt {
        attempt,
        edge: NodeId(1),
        rule: Rule::R4,
        resume: taken(rows),
        reattach: Some((attempt - 1, instead)),
    };
    let mut core = running(&[1, 2]);
    let effects = die(&mut core, cut_off(), 4, 8, edges(&[1, 2]));
    assert_eq!(effects, [wait(2, 0), again(2, 4, Rule::R3)], "at once, though another edge has not been tried");
    // Again, before anything of it had come: what the edge has may be the first one's answer or the second's.
    let effects = die(&mut core, cut_off(), 4, 0, edges(&[1, 2]));
    let third = Effect::StartAttempt {
        attempt: 3,
        edge: NodeId(1),
        rule: Rule::R4,
        resume: taken(4),
        reattach: Some((1, Rule::R3)),
    };
    assert_eq!(effects.last(), Some(&third));
    let effects = die(&mut core, lost(), 4, 0, edges(&[1, 2]));
    let elsewhere =
        Effect::StartAttempt { attempt: 4, edge: NodeId(2), rule: Rule::R3, resume: taken(4), reattach: None };
    assert_eq!(effects.last(), Some(&elsewhere), "a stream that dies by itself is another matter");

    let mut core = running(&[1, 2]);
    assert_eq!(die(&mut core, cut_off(), 0, 8, edges(&[1, 2])).last(), Some(&again(2, 0, Rule::R1)));
    let mut core = running(&[1, 2]);
    let nothing_came = die(&mut core, cut_off(), 0, 0, edges(&[1, 2]));
    assert_eq!(nothing_came.last(), Some(&start(2, 2, Rule::R0)));
    let mut core = running(&[1, 2]);
    let node_lost = die(&mut core, cut_off(), 0, 8, vec![unlinked(1), edges(&[2])[0]]);
    assert_eq!(node_lost.last(), Some(&start(2, 2, Rule::R1)));
    let mut core = running(&[1]);
    let effects = die(&mut core, cut_off(), 4, 8, vec![unlinked(1)]);
    let [Effect::Wait { or_edge: true, .. }, ..] = effects[..] else { panic!("{effects:?}") };

    // The edge was called lost for a moment: its answer waits on.
    let mut core = running(&[1]);
    die(&mut core, cut_off(), 4, 8, Vec::new());
    let attempt = core.attempt();
    core.on(Event::Fenced { attempt, found: found(4, 0), edges: edges(&[1]), dice: 0 });
    core.on(Event::Budget { granted: true });
    let effects = core.on(Event::Waited { attempt, edges: edges(&[1]) });
    let late = Effect::StartAttempt {
        attempt,
        edge: NodeId(1),
        rule: Rule::R4,
        resume: taken(4),
        reattach: Some((1, Rule::R3)),
    };
    assert_eq!(effects, [late]);
}

fn resting(node: u64, rest_ms: u64, failing_ms: u64) -> Candidate {
    Candidate { node: NodeId(node), linked: true, condition: Condition { rest_ms, failing_ms } }
}

#[test]
fn an_edge_whose_circuit_is_open_is_asked_after_its_rest_and_no_attempt_is_spent_on_it() {
    let mut core = SubqueryCore::new(setting());
    assert_eq!(
        core.on(Event::Opened { edges: vec![resting(1, 300, 0), edges(&[2])[0]] }).pop(),
        Some(start(1, 2, Rule::First))
    );

    let mut core = SubqueryCore::new(setting());
    let both = vec![resting(1, 300, 10), resting(2, 200, OUTAGE_MS_MAX)];
    assert_eq!(core.on(Event::Opened { edges: both.clone() }).pop(), Some(wait(1, 200)), "the shorter rest");
    for _ in 0..20 {
        assert_eq!(core.on(Event::Waited { attempt: 1, edges: both.clone() }), [wait(1, 200)]);
    }
    assert_eq!(core.on(Event::Waited { attempt: 1, edges: edges(&[1, 2]) }), [start(1, 1, Rule::First)]);
    let effects = die(&mut core, lost(), 0, 4, vec![resting(1, 300, 10), resting(2, 200, 10)]);
    assert_eq!(effects.last(), Some(&wait(2, 200)), "between attempts too");
    assert_eq!(core.on(Event::Waited { attempt: 2, edges: edges(&[2]) }), [start(2, 2, Rule::R1)]);
}

#[test]
fn another_sub_query_that_was_first_to_try_costs_no_attempt() {
    let mut core = SubqueryCore::new(setting());
    let due = vec![resting(1, 0, 10)];
    for _ in 0..20 {
        let started = core.on(Event::Opened { edges: due.clone() });
        let started =
            if started.is_empty() { core.on(Event::Waited { attempt: 1, edges: due.clone() }) } else { started };
        assert_eq!(started.last(), Some(&start(1, 1, Rule::First)));
        let held =
            Event::Held { attempt: 1, rule: Rule::First, resume: Prefix::default(), edges: vec![resting(1, 300, 10)] };
        assert_eq!(core.on(held), [wait(1, 300)]);
    }
    assert_eq!(core.on(Event::Waited { attempt: 1, edges: due }), [start(1, 1, Rule::First)]);
    assert_eq!(core.on(Event::Ended { attempt: 1 }), [Effect::Finish]);
}

#[test]
fn a_source_that_is_down_for_long_is_a_prompt_error() {
    let mut core = SubqueryCore::new(setting());
    let down = vec![resting(1, 300, OUTAGE_MS_MAX + 1)];
    let Some(Effect::Fail(error)) = core.on(Event::Opened { edges: down }).pop() else { panic!("no error") };
    assert_eq!((error.code, error.source), (ErrorCode::CircuitOpen, Some(source())));
    assert!(core.is_over());
    let mut core = SubqueryCore::new(setting());
    let due = vec![resting(1, 0, OUTAGE_MS_MAX + 1)];
    assert_eq!(core.on(Event::Opened { edges: due }).pop(), Some(start(1, 1, Rule::First)), "somebody has to try");
}

#[test]
fn runs_of_a_query_share_no_attempt_number() {
    let numbers = |run: u32| {
        let mut core = SubqueryCore::new(Setting { run, ..setting() });
        let mut numbers = Vec::new();
        let mut effects = core.on(Event::Opened { edges: edges(&[1]) });
        while let Some(Effect::StartAttempt { attempt, rule, .. }) = effects.last() {
            assert_eq!(*rule == Rule::R5, run > 1 && numbers.is_empty());
            numbers.push(*attempt);
            effects = die(&mut core, lost(), 0, 0, edges(&[1]));
        }
        numbers
    };
    assert_eq!((numbers(1), numbers(2)), (vec![1, 2, 3, 4], vec![6, 7, 8, 9]));
}

#[test]
fn pauses_grow_and_are_bounded() {
    assert_eq!(backoff_ms(1, 0), BACKOFF_MS_MIN / 2);
    assert!((BACKOFF_MS_MIN - 1..=BACKOFF_MS_MIN).contains(&backoff_ms(1, 999)));
    assert!(backoff_ms(2, 500) > backoff_ms(1, 500));
    for begun in 1..100 {
        assert!(backoff_ms(begun, 5_000) <= BACKOFF_MS_MAX);
    }
}
