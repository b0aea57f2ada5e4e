//! A statement's walk, as tables.
#![allow(clippy::unwrap_used, clippy::panic)]

use greylag_protocol::{ErrorCode, MeshError, NodeId, SourceName, prefix::Prefix, step::Step};

use super::core::{Effect, Event, Goal, QueryCore, Stage, WAY};
use crate::coordinator::gate::core::Fenced;

fn lost() -> MeshError {
    MeshError::new(ErrorCode::PeerUnreachable, "gone").of_source(SourceName::new("orders").unwrap()).at_node(NodeId(2))
}

fn taken(rows: u64) -> Prefix {
    Prefix { batches: 1, rows, digest: [7; 32] }
}

fn fresh(goal: Goal, resume: Prefix) -> QueryCore {
    QueryCore::new(goal, resume, false)
}

/// Walks the first so many steps; what the last of them led to.
fn walk(core: &mut QueryCore, steps: usize) -> Vec<Effect> {
    let mut effects = core.on(Event::Begun);
    for step in WAY.into_iter().take(steps) {
        assert_eq!(effects, [Effect::Take(step)]);
        effects = core.on(Event::StepDone(step));
    }
    effects
}

fn running() -> QueryCore {
    let mut core = fresh(Goal::Execute, Prefix::default());
    assert_eq!(
        walk(&mut core, WAY.len()),
        [Effect::FenceOutlet { run: 1 }, Effect::Announce, Effect::Run { run: 1, resume: Prefix::default() }]
    );
    assert!(core.on(Event::Fenced { found: Fenced::default(), dice: 0 }).is_empty());
    core
}

fn failed(effects: &[Effect]) -> &MeshError {
    match effects {
        [Effect::StopRun, Effect::Leave, Effect::Fail(error)] => error,
        other => panic!("not failed: {other:?}"),
    }
}

fn lose(core: &mut QueryCore, run: u32, found: Fenced) -> Vec<Effect> {
    let effects = core.on(Event::SubqueryLost { run, cause: lost(), edge: Some(NodeId(2)) });
    assert_eq!(effects, [Effect::FenceOutlet { run: run + 1 }, Effect::StopRun]);
    core.on(Event::Fenced { found, dice: 0 })
}

#[test]
fn all_well() {
    let mut core = running();
    assert_eq!(core.on(Event::RunEnded { run: 1 }), [Effect::Leave]);
    assert_eq!(core.stage(), &Stage::Done);
    for late in [Event::DeadlinePassed, Event::ReaderGone { complete: false }, Event::CancelAsked { by: "ada".into() }]
    {
        assert!(core.on(late).is_empty());
    }
}

#[test]
fn a_reader_that_has_read_it_all_may_go_before_the_run_is_reported() {
    let mut core = running();
    assert_eq!(core.on(Event::ReaderGone { complete: true }), [Effect::Leave]);
    assert_eq!(core.stage(), &Stage::Done);
    assert!(core.on(Event::RunEnded { run: 1 }).is_empty());
}

#[test]
fn a_description_runs_nothing() {
    let mut core = fresh(Goal::Describe, Prefix::default());
    let planned = WAY.iter().position(|step| *step == Step::Planning).unwrap() + 1;
    assert_eq!(walk(&mut core, planned), [Effect::Announce, Effect::Leave]);
    assert_eq!(core.stage(), &Stage::Done);
}

#[test]
fn no_step_is_skipped() {
    for (at, step) in WAY.into_iter().enumerate() {
        let mut core = fresh(Goal::Execute, Prefix::default());
        walk(&mut core, at);
        for other in Step::ALL.iter().filter(|other| **other != step) {
            assert!(core.on(Event::StepDone(*other)).is_empty(), "{other:?} in place of {step:?}");
        }
        assert!(core.on(Event::RunEnded { run: 1 }).is_empty() && core.on(Event::Healed { found: true }).is_empty());
        assert_eq!(core.stage(), &Stage::Before(step));
    }
    let turn = |step| WAY.iter().position(|s| *s == step).unwrap();
    assert!(turn(Step::Tables) < turn(Step::Decision) && turn(Step::Decision) < turn(Step::Planning));
    assert!(turn(Step::Dialect) < turn(Step::Tables) && turn(Step::Cost) < turn(Step::Quota));
}

#[test]
fn a_statement_whose_decision_is_old_is_decided_planned_and_run_anew() {
    let stale = MeshError::new(ErrorCode::StaleDecision, "policies have changed");
    for left in [Prefix::default(), taken(2)] {
        let mut core = running();
        let effects = core.on(Event::SubqueryLost { run: 1, cause: stale.clone(), edge: Some(NodeId(2)) });
        assert_eq!(effects, [Effect::FenceOutlet { run: 2 }, Effect::StopRun]);
        core.on(Event::Fenced { found: Fenced { taken: left, ..Fenced::default() }, dice: 0 });
        assert!(matches!(core.on(Event::Budget { granted: true })[..], [Effect::Wait { run: 2, .. }]));
        let mut effects = core.on(Event::Waited { run: 2 });
        for step in WAY.into_iter().skip_while(|step| *step != Step::Decision) {
            assert_eq!(effects, [Effect::Take(step)]);
            effects = core.on(Event::StepDone(step));
        }
        assert_eq!(effects, [Effect::Run { run: 2, resume: left }], "announced once");
        assert!(core.shunned().is_empty(), "the edge is as good as any");
        let differs = MeshError::new(ErrorCode::ReplayDiffers, "other rows");
        let effects = core.on(Event::RunFailed { run: 2, error: differs });
        assert_eq!(failed(&effects).code, ErrorCode::StaleDecision);
    }
}

#[test]
fn a_text_that_cannot_be_planned_is_healed_once_and_walks_all_steps_again() {
    let syntax = || MeshError::new(ErrorCode::Syntax, "near FORM");
    let mut core = QueryCore::new(Goal::Execute, Prefix::default(), true);
    walk(&mut core, 2);
    assert_eq!(core.on(Event::StepFailed(syntax())), [Effect::Heal(syntax())]);
    assert_eq!(core.on(Event::Healed { found: true }), [Effect::Take(Step::Dialect)]);
    core.on(Event::StepDone(Step::Dialect));
    assert_eq!(failed(&core.on(Event::StepFailed(syntax()))).code, ErrorCode::Syntax, "once");

    let mut core = QueryCore::new(Goal::Execute, Prefix::default(), true);
    walk(&mut core, 2);
    core.on(Event::StepFailed(syntax()));
    assert_eq!(failed(&core.on(Event::Healed { found: false })).message, syntax().message);

    let mut core = QueryCore::new(Goal::Execute, Prefix::default(), true);
    walk(&mut core, 3);
    let denied = MeshError::new(ErrorCode::Denied, "no");
    assert_eq!(failed(&core.on(Event::StepFailed(denied))).code, ErrorCode::Denied, "a denial is not healed");
}

#[test]
fn a_revoked_credential_stops_it_at_once() {
    for steps in 0..WAY.len() {
        let mut core = fresh(Goal::Execute, Prefix::default());
        walk(&mut core, steps);
        assert_eq!(failed(&core.on(Event::CredentialRevoked)).code, ErrorCode::Unauthenticated);
    }
    assert_eq!(failed(&running().on(Event::CredentialRevoked)).code, ErrorCode::Unauthenticated);
}

#[test]
fn rows_lost_before_any_has_left_the_plan_runs_again() {
    let mut core = running();
    assert_eq!(lose(&mut core, 1, Fenced { received_rows: 40, ..Fenced::default() }), [Effect::SpendRestart]);
    assert_eq!(core.on(Event::Budget { granted: true }), [Effect::Wait { run: 2, ms: 0 }]);
    // What the first run still says does not count.
    assert!(core.on(Event::RunFailed { run: 1, error: lost() }).is_empty());
    assert!(core.on(Event::RunEnded { run: 1 }).is_empty());
    assert_eq!(core.on(Event::Waited { run: 2 }), [Effect::Run { run: 2, resume: Prefix::default() }]);
    assert_eq!(core.shunned(), [NodeId(2)]);
    assert!(core.on(Event::RunEnded { run: 1 }).is_empty());
    assert!(core.on(Event::SubqueryLost { run: 1, cause: lost(), edge: None }).is_empty());
    assert_eq!(core.on(Event::RunEnded { run: 2 }), [Effect::Leave]);
}

#[test]
fn rows_lost_after_some_have_left_the_next_run_has_to_begin_with_them() {
    let mut core = running();
    let found = Fenced { taken: taken(1), received_rows: 9, ..Fenced::default() };
    assert_eq!(lose(&mut core, 1, found), [Effect::SpendRestart]);
    assert_eq!(core.on(Event::Budget { granted: true }), [Effect::Wait { run: 2, ms: 0 }]);
    assert_eq!(core.on(Event::Waited { run: 2 }), [Effect::Run { run: 2, resume: taken(1) }]);
    let differs = MeshError::new(ErrorCode::ReplayDiffers, "other rows");
    let effects = core.on(Event::RunFailed { run: 2, error: differs });
    let error = failed(&effects);
    assert_eq!((error.code, error.node), (ErrorCode::SubqueryLost, Some(NodeId(2))));
    assert!(error.is_retryable(), "{error}");
}

#[test]
fn restarts_that_are_used_up_are_an_error_that_names_who() {
    let mut core = running();
    lose(&mut core, 1, Fenced { taken: taken(1), ..Fenced::default() });
    let effects = core.on(Event::Budget { granted: false });
    let error = failed(&effects);
    assert_eq!((error.code, error.node), (ErrorCode::SubqueryLost, Some(NodeId(2))));
    assert_eq!(error.source.as_ref().unwrap().as_str(), "orders");
    assert!(error.is_retryable() && error.message.contains("GL4013"), "{error}");
}

#[test]
fn a_reader_that_comes_back_gets_a_run_that_begins_with_what_it_has() {
    let mut core = fresh(Goal::Execute, taken(3));
    let resumed = Effect::Run { run: 1, resume: taken(3) };
    assert_eq!(walk(&mut core, WAY.len()), [Effect::FenceOutlet { run: 1 }, Effect::Announce, resumed]);
}

#[test]
fn a_result_that_was_whole_already_needs_no_lost_rows() {
    let mut core = running();
    let effects = lose(&mut core, 1, Fenced { taken: taken(10), received_rows: 10, ended: true, marked: false });
    assert_eq!((effects, core.stage()), (vec![Effect::Leave], &Stage::Done));
}

#[test]
fn restarts_are_bounded() {
    let mut core = running();
    lose(&mut core, 1, Fenced::default());
    let effects = core.on(Event::Budget { granted: false });
    assert_eq!(failed(&effects).code, ErrorCode::SubqueryLost);
}

#[test]
fn why_a_run_failed_is_said_in_the_subquerys_words() {
    let mut core = running();
    let refused = MeshError::new(ErrorCode::SourceRefused, "no such function");
    assert!(core.on(Event::SubqueryFailed { run: 1, error: refused }).is_empty(), "the plan may not need it");
    let effects = core.on(Event::RunFailed { run: 1, error: MeshError::internal("external error") });
    assert_eq!(failed(&effects).code, ErrorCode::SourceRefused);
}

#[test]
fn every_stage_can_be_ended_from_outside() {
    let ends = [
        (Event::DeadlinePassed, ErrorCode::Deadline, Stage::Failed),
        (Event::CancelAsked { by: "ada".into() }, ErrorCode::Cancelled, Stage::Cancelled),
        (Event::ReaderGone { complete: false }, ErrorCode::Cancelled, Stage::Cancelled),
    ];
    for (event, code, stage) in ends {
        for steps in 0..=WAY.len() + 1 {
            let mut core = fresh(Goal::Execute, Prefix::default());
            walk(&mut core, steps);
            if steps > WAY.len() {
                lose(&mut core, 1, Fenced::default());
            }
            assert_eq!(failed(&core.on(event.clone())).code, code, "{event:?} after {steps} steps");
            assert_eq!(core.stage(), &stage);
        }
    }
}

#[test]
fn a_failed_step_is_the_end() {
    for steps in 0..WAY.len() {
        let mut core = fresh(Goal::Execute, Prefix::default());
        walk(&mut core, steps);
        let error = MeshError::new(ErrorCode::NoPolicy, "nobody");
        assert_eq!(failed(&core.on(Event::StepFailed(error))).code, ErrorCode::NoPolicy);
    }
}
