//! Tables for the supervisor's decisions: events in, effects out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use super::{
    core::{ChildId, Core, Effect, Event},
    spec::{Budget, Restart, Strategy},
};
use crate::tree::ActorState;

const MIN: Duration = Duration::from_millis(100);
const MAX: Duration = Duration::from_secs(1);

/// Three restarts within ten seconds; waits of 100 ms to 1 s.
fn budget() -> Budget {
    Budget::within(3, Duration::from_secs(10)).backoff(MIN, MAX)
}

struct Table {
    core: Core,
    now: Duration,
}

impl Table {
    fn new(strategy: Strategy, budget: Budget) -> Self {
        Self { core: Core::new(strategy, budget), now: Duration::ZERO }
    }

    /// Without what is only shown.
    fn step(&mut self, event: Event) -> Vec<Effect> {
        self.step_with(0, event)
    }

    fn step_with(&mut self, dice: u64, event: Event) -> Vec<Effect> {
        let mut effects = self.core.step(self.now, dice, event);
        effects.retain(|e| !matches!(e, Effect::Show(..) | Effect::Again(_) | Effect::Failed(..)));
        effects
    }

    /// A child that runs.
    fn up(&mut self, child: ChildId, restart: Restart) {
        assert_eq!(self.step(Event::Added { child, restart, trial: false }), [Effect::Start(child)]);
        assert_eq!(self.step(Event::Started { child }), []);
    }

    fn fail(&mut self, child: ChildId) -> Vec<Effect> {
        self.step(Event::Ended { child, failure: Some("boom".into()) })
    }

    fn stops(&mut self, child: ChildId) -> Vec<Effect> {
        self.step(Event::Ended { child, failure: None })
    }
}

#[test]
fn which_ends_lead_to_a_restart() {
    let cases =
        [(Restart::Permanent, true, true), (Restart::Transient, true, false), (Restart::Temporary, false, false)];
    for (restart, after_failure, after_stop) in cases {
        for (failed, restarts) in [(true, after_failure), (false, after_stop)] {
            let mut t = Table::new(Strategy::OneForOne, budget());
            t.up(1, restart);
            let effects = if failed { t.fail(1) } else { t.stops(1) };
            let expected: Vec<Effect> = match (restarts, restart) {
                (true, _) => vec![Effect::Wait(1, 1, MIN)],
                (false, Restart::Temporary) => vec![Effect::Forget(1)],
                (false, _) => vec![],
            };
            assert_eq!(effects, expected, "{restart:?}, failed: {failed}");
            if restarts {
                assert_eq!(t.step(Event::Waited { child: 1, turn: 1 }), [Effect::Start(1)]);
            }
        }
    }
}

#[test]
fn waits_double_up_to_the_longest_and_jitter_shortens_them() {
    let mut t = Table::new(Strategy::OneForOne, Budget::endless().backoff(MIN, MAX));
    t.step(Event::Added { child: 1, restart: Restart::Permanent, trial: false });
    let mut waits = Vec::new();
    for turn in 1..=6 {
        let effects = t.step(Event::StartFailed { child: 1, reason: "no".into() });
        let [Effect::Wait(1, at, wait)] = effects[..] else { panic!("{effects:?}") };
        assert_eq!(at, turn);
        waits.push(wait.as_millis());
        t.step(Event::Waited { child: 1, turn });
    }
    assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
    let effects = t.step_with(1023, Event::StartFailed { child: 1, reason: "no".into() });
    let [Effect::Wait(1, 7, wait)] = effects[..] else { panic!("{effects:?}") };
    assert!(wait >= MAX / 2 && wait < MAX.mul_f64(0.51), "{wait:?}");
}

#[test]
fn a_long_run_makes_the_next_wait_short_again() {
    let mut t = Table::new(Strategy::OneForOne, Budget::endless().backoff(MIN, MAX));
    t.up(1, Restart::Permanent);
    for turn in 1..=4 {
        t.fail(1);
        t.step(Event::Waited { child: 1, turn });
        t.step(Event::Started { child: 1 });
    }
    t.now += MAX - Duration::from_millis(1);
    assert_eq!(t.fail(1), [Effect::Wait(1, 5, MAX)]);
    t.step(Event::Waited { child: 1, turn: 5 });
    t.step(Event::Started { child: 1 });
    t.now += MAX;
    assert_eq!(t.fail(1), [Effect::Wait(1, 6, MIN)]);
}

#[test]
fn the_budget_counts_restarts_within_its_window_over_all_children() {
    let mut t = Table::new(Strategy::OneForOne, budget());
    for child in 1..=4 {
        t.up(child, Restart::Permanent);
    }
    for child in 1..=3 {
        t.now += Duration::from_secs(3);
        assert!(matches!(t.fail(child)[..], [Effect::Wait(..)]), "child {child}");
    }
    // The first restart is eleven seconds old when the fourth failure comes: three within the window.
    t.now += Duration::from_secs(5);
    assert!(matches!(t.fail(4)[..], [Effect::Wait(..)]));
    t.step(Event::Waited { child: 1, turn: 1 });
    t.step(Event::Started { child: 1 });
    let effects = t.fail(1);
    let [Effect::Melt(reason)] = &effects[..] else { panic!("{effects:?}") };
    assert!(reason.contains("4 failures within 10000 ms") && reason.contains("boom"), "{reason}");
    assert_eq!(t.step(Event::Waited { child: 2, turn: 1 }), [], "after a meltdown nothing is decided");
}

#[test]
fn failing_to_start_spends_the_budget_too() {
    let mut t = Table::new(Strategy::OneForOne, budget());
    t.step(Event::Added { child: 1, restart: Restart::Permanent, trial: false });
    for turn in 1..=3 {
        t.step(Event::StartFailed { child: 1, reason: "no".into() });
        assert_eq!(t.step(Event::Waited { child: 1, turn }), [Effect::Start(1)]);
    }
    assert!(matches!(t.step(Event::StartFailed { child: 1, reason: "no".into() })[..], [Effect::Melt(_)]));
}

#[test]
fn a_trial_that_fails_is_forgotten_and_costs_nothing() {
    let mut t = Table::new(Strategy::OneForOne, Budget::within(0, MAX));
    t.step(Event::Added { child: 1, restart: Restart::Permanent, trial: true });
    assert_eq!(t.step(Event::StartFailed { child: 1, reason: "no".into() }), [Effect::Forget(1)]);
}

#[test]
fn one_for_one_leaves_the_others_alone() {
    let mut t = Table::new(Strategy::OneForOne, budget());
    for child in 1..=3 {
        t.up(child, Restart::Permanent);
    }
    assert_eq!(t.fail(1), [Effect::Wait(1, 1, MIN)]);
    t.step(Event::Added { child: 4, restart: Restart::Permanent, trial: false });
    assert_eq!(t.step(Event::Waited { child: 1, turn: 1 }), [Effect::Start(1)]);
}

#[test]
fn rest_for_one_stops_backwards_and_starts_forwards() {
    let mut t = Table::new(Strategy::RestForOne, budget());
    for child in 1..=4 {
        t.up(child, Restart::Permanent);
    }
    assert_eq!(t.fail(2), [Effect::Wait(2, 1, MIN), Effect::Stop(4, 1)]);
    assert_eq!(t.step(Event::Waited { child: 2, turn: 1 }), [], "4 is still there");
    assert_eq!(t.stops(4), [Effect::Stop(3, 1)]);
    assert_eq!(t.stops(3), [Effect::Start(2)]);
    assert_eq!(t.step(Event::Started { child: 2 }), [Effect::Start(3)]);
    assert_eq!(t.step(Event::Started { child: 3 }), [Effect::Start(4)]);
    assert_eq!(t.step(Event::Started { child: 4 }), []);
}

#[test]
fn rest_for_one_starts_in_order_and_waits_for_the_one_before() {
    let mut t = Table::new(Strategy::RestForOne, budget());
    assert_eq!(t.step(Event::Added { child: 1, restart: Restart::Permanent, trial: false }), [Effect::Start(1)]);
    assert_eq!(t.step(Event::Added { child: 2, restart: Restart::Permanent, trial: false }), []);
    assert_eq!(t.step(Event::StartFailed { child: 1, reason: "no".into() }), [Effect::Wait(1, 1, MIN)]);
    assert_eq!(t.step(Event::Waited { child: 1, turn: 1 }), [Effect::Start(1)]);
    assert_eq!(t.step(Event::Started { child: 1 }), [Effect::Start(2)]);
}

#[test]
fn rest_for_one_does_not_bring_back_what_is_temporary() {
    let mut t = Table::new(Strategy::RestForOne, budget());
    t.up(1, Restart::Permanent);
    t.up(2, Restart::Temporary);
    assert_eq!(t.fail(1), [Effect::Wait(1, 1, MIN), Effect::Stop(2, 1)]);
    assert_eq!(t.stops(2), [Effect::Forget(2)]);
    assert_eq!(t.step(Event::Waited { child: 1, turn: 1 }), [Effect::Start(1)]);
    assert_eq!(t.step(Event::Started { child: 1 }), []);
}

#[test]
fn rest_for_one_calls_off_a_start_under_way() {
    let mut t = Table::new(Strategy::RestForOne, budget());
    t.up(1, Restart::Permanent);
    assert_eq!(t.step(Event::Added { child: 2, restart: Restart::Permanent, trial: false }), [Effect::Start(2)]);
    assert_eq!(t.fail(1), [Effect::Wait(1, 1, MIN), Effect::Stop(2, 1)]);
    assert_eq!(t.step(Event::Waited { child: 1, turn: 1 }), []);
    // It had just come up: then it is told to stop once more, now that there is somebody to tell.
    assert_eq!(t.step(Event::Started { child: 2 }), [Effect::Stop(2, 1)]);
    assert_eq!(t.stops(2), [Effect::Start(1)]);
}

#[test]
fn a_removed_child_is_stopped_killed_when_overdue_and_forgotten() {
    let mut t = Table::new(Strategy::OneForOne, budget());
    t.up(1, Restart::Permanent);
    assert_eq!(t.step(Event::Remove { child: 1 }), [Effect::Stop(1, 1)]);
    assert_eq!(t.step(Event::Remove { child: 1 }), []);
    assert_eq!(t.step(Event::Overdue { child: 1, turn: 0 }), [], "an older turn");
    assert_eq!(t.step(Event::Overdue { child: 1, turn: 1 }), [Effect::Kill(1)]);
    assert_eq!(t.fail(1), [Effect::Forget(1)], "a failure while stopping is no failure");
    assert_eq!(t.step(Event::Remove { child: 1 }), []);
}

#[test]
fn a_child_that_is_down_is_removed_at_once() {
    let mut t = Table::new(Strategy::OneForOne, budget());
    t.up(1, Restart::Permanent);
    t.fail(1);
    assert_eq!(t.step(Event::Remove { child: 1 }), [Effect::Forget(1)]);
    assert_eq!(t.step(Event::Waited { child: 1, turn: 1 }), [], "the wait is of no account any more");
    t.up(2, Restart::Transient);
    t.stops(2);
    assert_eq!(t.step(Event::Remove { child: 2 }), [Effect::Forget(2)]);
}

#[test]
fn what_is_shown_follows_the_child() {
    let mut core = Core::new(Strategy::OneForOne, budget());
    let mut shown = Vec::new();
    let events = [
        Event::Added { child: 1, restart: Restart::Permanent, trial: false },
        Event::Started { child: 1 },
        Event::Ended { child: 1, failure: Some("boom".into()) },
        Event::Waited { child: 1, turn: 1 },
        Event::Started { child: 1 },
    ];
    for event in events {
        for effect in core.step(Duration::ZERO, 0, event) {
            match effect {
                Effect::Show(1, state) => shown.push(state.as_str().to_owned()),
                Effect::Again(1) => shown.push("again".into()),
                Effect::Failed(1, reason) => shown.push(reason),
                _ => {}
            }
        }
    }
    let expected = [
        ActorState::Starting.as_str(),
        ActorState::Running.as_str(),
        "boom",
        "again",
        ActorState::BackingOff.as_str(),
        ActorState::Starting.as_str(),
        ActorState::Running.as_str(),
    ];
    assert_eq!(shown, expected);
}
