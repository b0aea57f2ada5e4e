//! How one statement walks its steps, and how its plan is run again when rows were lost after the plan had used them.
//! Pure: events in, effects out. Every step's outcome names its run, so that what an older run still says is ignored.
//!
//! INVARIANT: no plan without a decision before it, no run without all steps before it; a run that is begun after rows have
//! left the coordinator has to prove that it begins with them.

use greylag_protocol::{ErrorClass, ErrorCode, MeshError, NodeId, prefix::Prefix, step::Step};

use crate::coordinator::{gate::core::Fenced, subquery::core::backoff_ms};

/// What the statement is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Plan only: schema and parameters are wanted.
    Describe,
    Execute,
}

/// The steps before execution, in their turn. A description ends with the plan.
pub const WAY: [Step; 9] = [
    Step::Admission,
    Step::Dialect,
    Step::Tables,
    Step::Decision,
    Step::Snapshot,
    Step::Planning,
    Step::Cost,
    Step::Quota,
    Step::Audit,
];

/// Where a statement is. Also what `system.queries` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// One of [`WAY`], or healing.
    Before(Step),
    Running {
        run: u32,
    },
    Restarting {
        run: u32,
        cause: MeshError,
        resume: Prefix,
        wait_ms: u64,
    },
    Done,
    Failed,
    Cancelled,
}

impl Stage {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Before(Step::Admission) => "queued",
            Self::Before(Step::Dialect | Step::Tables | Step::Decision) => "deciding",
            Self::Before(_) => "planning",
            Self::Running { .. } | Self::Restarting { .. } => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The step that time is spent in.
    pub fn step(&self) -> Option<Step> {
        match self {
            Self::Before(step) => Some(*step),
            Self::Running { .. } | Self::Restarting { .. } => Some(Step::Execution),
            Self::Done | Self::Failed | Self::Cancelled => None,
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Begun,
    /// A step before execution has done its part.
    StepDone(Step),
    /// A step before execution has failed.
    StepFailed(MeshError),
    /// There is another text in place of the one that could not be planned, or there is none.
    Healed {
        found: bool,
    },
    /// The run's last row is at the outlet.
    RunEnded {
        run: u32,
    },
    RunFailed {
        run: u32,
        error: MeshError,
    },
    /// A sub-query has failed for good. The plan will say so itself, if it needed it, but in the engine's words.
    SubqueryFailed {
        run: u32,
        error: MeshError,
    },
    /// A sub-query was lost after the plan had used rows of it (R5), or was refused because policies have changed.
    SubqueryLost {
        run: u32,
        cause: MeshError,
        edge: Option<NodeId>,
    },
    /// The outlet's answer to [`Effect::FenceOutlet`].
    Fenced {
        found: Fenced,
        dice: u32,
    },
    Budget {
        granted: bool,
    },
    Waited {
        run: u32,
    },
    CancelAsked {
        by: String,
    },
    /// What the principal's credential was good for is over.
    CredentialRevoked,
    /// The door has dropped the result; `complete` if the outlet had its end by then.
    ReaderGone {
        complete: bool,
    },
    DeadlinePassed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Do what this step does.
    Take(Step),
    /// Look for another text, after this error.
    Heal(MeshError),
    /// Tell the caller that the plan is ready.
    Announce,
    Run {
        run: u32,
        /// What the reader has already.
        resume: Prefix,
    },
    StopRun,
    /// Let nothing more of an older run out.
    FenceOutlet {
        run: u32,
    },
    SpendRestart,
    Wait {
        run: u32,
        ms: u64,
    },
    Fail(MeshError),
    /// Nothing is left to do: give back the slot and go.
    Leave,
}

#[derive(Debug)]
pub struct QueryCore {
    goal: Goal,
    stage: Stage,
    /// The run that the steps lead to, and what the reader has by then.
    next: (u32, Prefix),
    /// Another text may be looked for, once.
    heals: bool,
    /// Why the text that is to be healed could not be planned.
    wound: Option<MeshError>,
    announced: bool,
    /// Edges at which rows were lost, with runs that came after.
    shunned: Vec<NodeId>,
    /// Why the current run cannot end well.
    cause: Option<MeshError>,
    /// What was lost in the run before.
    lost: Option<MeshError>,
}

impl QueryCore {
    /// `heals`: somebody is there who may find another text for one that cannot be planned.
    pub fn new(goal: Goal, resume: Prefix, heals: bool) -> Self {
        Self {
            goal,
            stage: Stage::Before(Step::Admission),
            next: (1, resume),
            heals,
            wound: None,
            announced: false,
            shunned: Vec::new(),
            cause: None,
            lost: None,
        }
    }

    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    pub fn shunned(&self) -> &[NodeId] {
        &self.shunned
    }

    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        if self.stage.is_over() {
            return Vec::new();
        }
        match (event, self.stage.clone()) {
            (Event::Begun, Stage::Before(Step::Admission)) => vec![Effect::Take(Step::Admission)],
            (Event::StepDone(done), Stage::Before(step)) if done == step => self.step_done(step),
            (Event::StepFailed(error), Stage::Before(step)) => self.step_failed(step, error),
            (Event::Healed { found: true }, Stage::Before(Step::Healing)) => self.take(Step::Dialect),
            (Event::Healed { found: false }, Stage::Before(Step::Healing)) => {
                let error = self.wound.take().unwrap_or_else(|| MeshError::internal("nothing was to be healed"));
                self.fail(error)
            }
            (event, stage) => self.on_run(event, stage),
        }
    }

    fn on_run(&mut self, event: Event, stage: Stage) -> Vec<Effect> {
        match (event, stage) {
            (Event::RunEnded { run: ended }, Stage::Running { run }) if ended == run => {
                self.go(Stage::Done, vec![Effect::Leave])
            }
            (Event::RunFailed { run: of, error }, Stage::Running { run }) if of == run => {
                let error = match (self.cause.take(), self.lost.take()) {
                    (Some(cause), _) => cause,
                    (None, Some(cause)) if error.code == ErrorCode::ReplayDiffers => {
                        lost(&cause, "the rows that had left the coordinator could not be made again")
                    }
                    (None, _) => error,
                };
                self.fail(error)
            }
            (Event::SubqueryFailed { run: of, error }, Stage::Running { run }) if of == run => {
                self.cause.get_or_insert(error);
                Vec::new()
            }
            (Event::SubqueryLost { run: of, cause, edge }, Stage::Running { run }) if of == run => {
                // An edge that refused an old decision is as good as any.
                let edge = edge.filter(|_| cause.code != ErrorCode::StaleDecision);
                self.shunned.extend(edge.filter(|e| !self.shunned.contains(e)));
                self.cause = None;
                self.lost = Some(cause.clone());
                let next = run + 1;
                let fence = vec![Effect::FenceOutlet { run: next }, Effect::StopRun];
                self.go(Stage::Restarting { run: next, cause, resume: Prefix::default(), wait_ms: 0 }, fence)
            }
            (Event::Fenced { found, dice }, Stage::Restarting { run, cause, .. }) => {
                self.fenced(found, dice, run, cause)
            }
            (Event::Budget { granted: false }, Stage::Restarting { cause, .. }) => {
                self.fail(lost(&cause, "the query's restarts are used up"))
            }
            (Event::Budget { granted: true }, Stage::Restarting { run, wait_ms, .. }) => {
                vec![Effect::Wait { run, ms: wait_ms }]
            }
            (Event::Waited { run: of }, Stage::Restarting { run, cause, resume, .. }) if of == run => {
                self.next = (run, resume);
                match cause.code {
                    // What was decided does not hold any more: decided, planned and run anew.
                    ErrorCode::StaleDecision => self.take(Step::Decision),
                    _ => self.go(Stage::Running { run }, vec![Effect::Run { run, resume }]),
                }
            }
            (Event::CancelAsked { by }, _) => {
                self.cancel(MeshError::new(ErrorCode::Cancelled, format!("the statement was cancelled by `{by}`")))
            }
            (Event::CredentialRevoked, _) => {
                self.cancel(MeshError::new(ErrorCode::Unauthenticated, "the credential has been revoked"))
            }
            (Event::ReaderGone { complete: true }, _) => self.go(Stage::Done, vec![Effect::Leave]),
            (Event::ReaderGone { complete: false }, _) => {
                self.cancel(MeshError::new(ErrorCode::Cancelled, "the statement's reader has gone"))
            }
            (Event::DeadlinePassed, _) => self.fail(MeshError::new(ErrorCode::Deadline, "the deadline has passed")),
            _ => Vec::new(),
        }
    }

    fn step_done(&mut self, step: Step) -> Vec<Effect> {
        if step == Step::Planning && self.goal == Goal::Describe {
            return self.go(Stage::Done, vec![Effect::Announce, Effect::Leave]);
        }
        let next = WAY.iter().position(|s| *s == step).and_then(|at| WAY.get(at + 1));
        match next {
            Some(next) => self.take(*next),
            None => self.run(),
        }
    }

    fn run(&mut self) -> Vec<Effect> {
        let (run, resume) = self.next;
        let mut start = Vec::new();
        if !self.announced {
            self.announced = true;
            start = vec![Effect::FenceOutlet { run }, Effect::Announce];
        }
        start.push(Effect::Run { run, resume });
        self.go(Stage::Running { run }, start)
    }

    fn step_failed(&mut self, step: Step, error: MeshError) -> Vec<Effect> {
        let may_heal = matches!(step, Step::Tables | Step::Planning) && error.class() == ErrorClass::Permanent;
        if std::mem::take(&mut self.heals) && may_heal && !self.announced {
            self.wound = Some(error.clone());
            return self.go(Stage::Before(Step::Healing), vec![Effect::Heal(error)]);
        }
        self.fail(error)
    }

    fn take(&mut self, step: Step) -> Vec<Effect> {
        self.go(Stage::Before(step), vec![Effect::Take(step)])
    }

    fn fenced(&mut self, found: Fenced, dice: u32, run: u32, cause: MeshError) -> Vec<Effect> {
        if found.ended {
            // The plan had enough rows without the lost ones (a LIMIT): its result is whole.
            return self.go(Stage::Done, vec![Effect::Leave]);
        }
        let pauses = cause.class() == ErrorClass::Overload || cause.code == ErrorCode::StaleDecision;
        let wait_ms = if pauses { backoff_ms(run, dice) } else { 0 };
        self.go(Stage::Restarting { run, cause, resume: found.taken, wait_ms }, vec![Effect::SpendRestart])
    }

    fn go(&mut self, stage: Stage, effects: Vec<Effect>) -> Vec<Effect> {
        self.stage = stage;
        effects
    }

    fn fail(&mut self, error: MeshError) -> Vec<Effect> {
        self.go(Stage::Failed, vec![Effect::StopRun, Effect::Leave, Effect::Fail(error)])
    }

    fn cancel(&mut self, error: MeshError) -> Vec<Effect> {
        self.go(Stage::Cancelled, vec![Effect::StopRun, Effect::Leave, Effect::Fail(error)])
    }
}

/// GL3004, naming node and source of what was lost.
fn lost(cause: &MeshError, why: &str) -> MeshError {
    if cause.code == ErrorCode::StaleDecision {
        return MeshError { message: format!("{}, and {why}", cause.message), ..cause.clone() };
    }
    let message = format!("a sub-query was lost and {why}: {} {}", cause.code, cause.message);
    MeshError { code: ErrorCode::SubqueryLost, message, node: cause.node, source: cause.source.clone() }
}
