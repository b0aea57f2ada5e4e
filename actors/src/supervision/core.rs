//! What a supervisor decides: given its children and one event, what is to be started, stopped or waited for. Pure:
//! time and chance are arguments.
//!
//! INVARIANT: under rest-for-one a child is started only while all that were added before it run (or have ended for
//! good), and is stopped only once all that were added after it are down.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::spec::{Budget, Restart, Strategy};
use crate::tree::ActorState;

/// Children in the order they were added.
pub(super) type ChildId = u64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// `trial`: its first start must succeed, else it is forgotten.
    Added {
        child: ChildId,
        restart: Restart,
        trial: bool,
    },
    Started {
        child: ChildId,
    },
    StartFailed {
        child: ChildId,
        reason: String,
    },
    /// It ran, and does no more. `failure` is `None` when it was stopped or stopped itself.
    Ended {
        child: ChildId,
        failure: Option<String>,
    },
    /// The wait of this turn is over.
    Waited {
        child: ChildId,
        turn: u64,
    },
    /// The time to stop of this turn is over.
    Overdue {
        child: ChildId,
        turn: u64,
    },
    Remove {
        child: ChildId,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Start(ChildId),
    /// Stop it, and say `Overdue` with this turn if it has not ended when its time is over.
    Stop(ChildId, u64),
    Kill(ChildId),
    /// Say `Waited` with this turn after this time.
    Wait(ChildId, u64, Duration),
    Show(ChildId, ActorState),
    /// It is going to be started again.
    Again(ChildId),
    Failed(ChildId, String),
    /// It is down and gone.
    Forget(ChildId),
    /// The budget is spent: fail.
    Melt(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// For its turn to start.
    Waiting,
    Starting,
    Running,
    /// Still there; to be stopped when those after it are down.
    Condemned,
    Stopping,
    BackingOff,
    /// For good, unless removed and added again.
    Ended,
}

#[derive(Debug)]
struct Child {
    restart: Restart,
    phase: Phase,
    trial: bool,
    /// To be forgotten once it is down.
    unwanted: bool,
    /// Failures in a row.
    streak: u32,
    running_since: Duration,
    turn: u64,
}

#[derive(Debug)]
pub(super) struct Core {
    strategy: Strategy,
    budget: Budget,
    children: BTreeMap<ChildId, Child>,
    /// Times of restarts within the window.
    restarts: VecDeque<Duration>,
    molten: bool,
}

impl Core {
    pub(super) fn new(strategy: Strategy, budget: Budget) -> Self {
        Self { strategy, budget, children: BTreeMap::new(), restarts: VecDeque::new(), molten: false }
    }

    /// `now` counts from any fixed point; `dice` is any number.
    pub(super) fn step(&mut self, now: Duration, dice: u64, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.molten {
            return effects;
        }
        self.apply(now, dice, event, &mut effects);
        if !self.molten {
            self.stop_condemned(&mut effects);
            self.start_waiting(&mut effects);
        }
        effects
    }

    fn apply(&mut self, now: Duration, dice: u64, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Added { child, restart, trial } => self.add(child, restart, trial),
            Event::Started { child } => self.started(now, child, effects),
            Event::StartFailed { child, reason } => self.start_failed(now, dice, child, reason, effects),
            Event::Ended { child, failure } => match self.phase(child) {
                Some(Phase::Running) => self.lapse(now, dice, child, failure, effects),
                Some(Phase::Condemned | Phase::Stopping) => self.down(child, effects),
                _ => {}
            },
            Event::Waited { child, turn } => {
                if let Some(c) = self.children.get_mut(&child)
                    && c.phase == Phase::BackingOff
                    && c.turn == turn
                {
                    c.phase = Phase::Waiting;
                }
            }
            Event::Overdue { child, turn } => {
                if self.children.get(&child).is_some_and(|c| c.phase == Phase::Stopping && c.turn == turn) {
                    effects.push(Effect::Kill(child));
                }
            }
            Event::Remove { child } => self.remove(child, effects),
        }
    }

    fn phase(&self, child: ChildId) -> Option<Phase> {
        self.children.get(&child).map(|c| c.phase)
    }

    fn add(&mut self, child: ChildId, restart: Restart, trial: bool) {
        let fresh = Child {
            restart,
            phase: Phase::Waiting,
            trial,
            unwanted: false,
            streak: 0,
            running_since: Duration::ZERO,
            turn: 0,
        };
        self.children.insert(child, fresh);
    }

    fn started(&mut self, now: Duration, child: ChildId, effects: &mut Vec<Effect>) {
        let Some(c) = self.children.get_mut(&child) else { return };
        match c.phase {
            Phase::Starting => {
                c.phase = Phase::Running;
                c.trial = false;
                c.running_since = now;
                effects.push(Effect::Show(child, ActorState::Running));
            }
            // It finished starting while it was being called off.
            Phase::Stopping => effects.push(Effect::Stop(child, c.turn)),
            _ => {}
        }
    }

    fn start_failed(&mut self, now: Duration, dice: u64, child: ChildId, reason: String, effects: &mut Vec<Effect>) {
        let Some(c) = self.children.get(&child) else { return };
        match c.phase {
            Phase::Starting if c.trial => self.forget(child, effects),
            Phase::Starting => self.lapse(now, dice, child, Some(reason), effects),
            Phase::Condemned | Phase::Stopping => self.down(child, effects),
            _ => {}
        }
    }

    /// A child is gone that should not be, or need not be.
    fn lapse(&mut self, now: Duration, dice: u64, child: ChildId, failure: Option<String>, effects: &mut Vec<Effect>) {
        let Some(c) = self.children.get_mut(&child) else { return };
        let restart = match c.restart {
            Restart::Permanent => true,
            Restart::Transient => failure.is_some(),
            Restart::Temporary => false,
        };
        if let Some(reason) = &failure {
            effects.push(Effect::Failed(child, reason.clone()));
        }
        if !restart {
            if c.restart == Restart::Temporary {
                self.forget(child, effects);
            } else {
                c.phase = Phase::Ended;
                effects.push(Effect::Show(child, ActorState::Stopped));
            }
            return;
        }
        // A child that ran for longer than the longest wait has made a fresh start.
        if c.phase == Phase::Running && now.saturating_sub(c.running_since) >= self.budget.backoff_max {
            c.streak = 0;
        }
        c.streak = c.streak.saturating_add(1);
        let wait = self.budget.wait(c.streak, dice);
        if self.spend(now) {
            self.molten = true;
            let cause = failure.unwrap_or_else(|| "it stopped".to_owned());
            let window_ms = self.budget.window.as_millis();
            let count = self.restarts.len();
            effects.push(Effect::Melt(format!("{count} failures within {window_ms} ms, the last: {cause}")));
            return;
        }
        self.back_off(child, wait, effects);
        if self.strategy == Strategy::RestForOne {
            self.condemn_after(child, effects);
        }
    }

    /// Counts a restart. True if that was one too many.
    fn spend(&mut self, now: Duration) -> bool {
        let Some(max) = self.budget.restarts_max else { return false };
        self.restarts.push_back(now);
        while self.restarts.front().is_some_and(|at| now.saturating_sub(*at) > self.budget.window) {
            self.restarts.pop_front();
        }
        self.restarts.len() > max as usize
    }

    fn back_off(&mut self, child: ChildId, wait: Duration, effects: &mut Vec<Effect>) {
        let Some(c) = self.children.get_mut(&child) else { return };
        c.turn += 1;
        effects.push(Effect::Again(child));
        if wait.is_zero() {
            c.phase = Phase::Waiting;
        } else {
            c.phase = Phase::BackingOff;
            effects.push(Effect::Show(child, ActorState::BackingOff));
            effects.push(Effect::Wait(child, c.turn, wait));
        }
    }

    /// Those added after a failed child are to be restarted with it.
    fn condemn_after(&mut self, child: ChildId, effects: &mut Vec<Effect>) {
        let mut gone = Vec::new();
        for (id, c) in self.children.range_mut(child + 1..) {
            match c.phase {
                Phase::Running | Phase::Starting => {
                    c.phase = Phase::Condemned;
                    c.unwanted |= c.restart == Restart::Temporary;
                }
                Phase::BackingOff => {
                    c.turn += 1;
                    c.phase = Phase::Waiting;
                }
                Phase::Waiting if c.restart == Restart::Temporary => gone.push(*id),
                _ => {}
            }
        }
        for id in gone {
            self.forget(id, effects);
        }
    }

    /// A child that was to stop has.
    fn down(&mut self, child: ChildId, effects: &mut Vec<Effect>) {
        let Some(c) = self.children.get_mut(&child) else { return };
        if c.unwanted {
            self.forget(child, effects);
        } else {
            c.turn += 1;
            c.phase = Phase::Waiting;
            effects.push(Effect::Show(child, ActorState::Stopped));
            effects.push(Effect::Again(child));
        }
    }

    fn remove(&mut self, child: ChildId, effects: &mut Vec<Effect>) {
        let Some(c) = self.children.get_mut(&child) else { return };
        c.unwanted = true;
        match c.phase {
            Phase::Waiting | Phase::BackingOff | Phase::Ended => self.forget(child, effects),
            Phase::Starting | Phase::Running | Phase::Condemned => Self::stop(child, c, effects),
            Phase::Stopping => {}
        }
    }

    fn stop(child: ChildId, c: &mut Child, effects: &mut Vec<Effect>) {
        c.phase = Phase::Stopping;
        c.turn += 1;
        effects.push(Effect::Stop(child, c.turn));
    }

    fn forget(&mut self, child: ChildId, effects: &mut Vec<Effect>) {
        self.children.remove(&child);
        effects.push(Effect::Forget(child));
    }

    /// Last first, one at a time.
    fn stop_condemned(&mut self, effects: &mut Vec<Effect>) {
        let last = self.children.iter_mut().rev().find(|(_, c)| matches!(c.phase, Phase::Condemned | Phase::Stopping));
        if let Some((id, c)) = last
            && c.phase == Phase::Condemned
        {
            Self::stop(*id, c, effects);
        }
    }

    fn start_waiting(&mut self, effects: &mut Vec<Effect>) {
        let ordered = self.strategy == Strategy::RestForOne;
        let stopping = |c: &Child| matches!(c.phase, Phase::Condemned | Phase::Stopping);
        if ordered && self.children.values().any(stopping) {
            return;
        }
        for (id, c) in &mut self.children {
            if c.phase == Phase::Waiting {
                c.phase = Phase::Starting;
                effects.push(Effect::Show(*id, ActorState::Starting));
                effects.push(Effect::Start(*id));
            }
            if ordered && !matches!(c.phase, Phase::Running | Phase::Ended) {
                return;
            }
        }
    }
}

impl Budget {
    /// Wait before the restart that follows the `streak`-th failure in a row: doubled each time, then shortened by up
    /// to a half so that those who failed together do not come back together.
    fn wait(&self, streak: u32, dice: u64) -> Duration {
        let doubled = self.backoff_min.saturating_mul(1u32.checked_shl(streak.saturating_sub(1)).unwrap_or(u32::MAX));
        let longest = doubled.min(self.backoff_max);
        longest - longest.mul_f64((dice % 1024) as f64 / 2048.0)
    }
}
