//! How one statement walks its steps, and how its plan is run again when rows were lost after the plan had used them.
//! Pure: events in, effects out. Every step's outcome names its run, so that what an older run still says is ignored.
//!
//! INVARIANT: no effect `Plan` without a `Decided` before it; a run that is begun after rows have left the coordinator has
//! to prove that it begins with them.

use greylag_protocol::{ErrorClass, ErrorCode, MeshError, NodeId, prefix::Prefix};

use crate::coordinator::{gate::core::Fenced, subquery::core::backoff_ms};

/// What the statement is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Plan only: schema and parameters are wanted.
    Describe,
    Execute,
}

/// Where a statement is. Also what `system.queries` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    Queued,
    Resolving,
    Deciding,
    Planning,
    Running { run: u32 },
    Restarting { run: u32, cause: MeshError, resume: Prefix, wait_ms: u64 },
    Done,
    Failed,
    Cancelled,
}

impl Stage {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Resolving | Self::Deciding => "deciding",
            Self::Planning => "planning",
            Self::Running { .. } | Self::Restarting { .. } => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Admitted,
    /// The tables touched are known.
    Resolved,
    /// A policy actor permitted it.
    Decided,
    Planned,
    /// A step before execution has failed.
    StepFailed(MeshError),
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
    /// A sub-query was lost after the plan had used rows of it (R5).
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
    /// The door has dropped the result; `complete` if the outlet had its end by then.
    ReaderGone {
        complete: bool,
    },
    DeadlinePassed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    Resolve,
    Decide,
    Plan,
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
    /// What the reader had before the first run.
    resume: Prefix,
    /// Edges at which rows were lost, with runs that came after.
    shunned: Vec<NodeId>,
    /// Why the current run cannot end well.
    cause: Option<MeshError>,
    /// What was lost in the run before.
    lost: Option<MeshError>,
}

impl QueryCore {
    pub fn new(goal: Goal, resume: Prefix) -> Self {
        Self { goal, stage: Stage::Queued, resume, shunned: Vec::new(), cause: None, lost: None }
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
            (Event::Admitted, Stage::Queued) => self.go(Stage::Resolving, vec![Effect::Resolve]),
            (Event::Resolved, Stage::Resolving) => self.go(Stage::Deciding, vec![Effect::Decide]),
            (Event::Decided, Stage::Deciding) => self.go(Stage::Planning, vec![Effect::Plan]),
            (Event::Planned, Stage::Planning) => match self.goal {
                Goal::Describe => self.go(Stage::Done, vec![Effect::Announce, Effect::Leave]),
                Goal::Execute => {
                    let start = vec![
                        Effect::FenceOutlet { run: 1 },
                        Effect::Announce,
                        Effect::Run { run: 1, resume: self.resume },
                    ];
                    self.go(Stage::Running { run: 1 }, start)
                }
            },
            (Event::StepFailed(error), Stage::Queued | Stage::Resolving | Stage::Deciding | Stage::Planning) => {
                self.fail(error)
            }
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
            (Event::Waited { run: of }, Stage::Restarting { run, resume, .. }) if of == run => {
                self.go(Stage::Running { run }, vec![Effect::Run { run, resume }])
            }
            (Event::CancelAsked { by }, _) => {
                self.cancel(MeshError::new(ErrorCode::Cancelled, format!("the statement was cancelled by `{by}`")))
            }
            (Event::ReaderGone { complete: true }, _) => self.go(Stage::Done, vec![Effect::Leave]),
            (Event::ReaderGone { complete: false }, _) => {
                self.cancel(MeshError::new(ErrorCode::Cancelled, "the statement's reader has gone"))
            }
            (Event::DeadlinePassed, _) => self.fail(MeshError::new(ErrorCode::Deadline, "the deadline has passed")),
            _ => Vec::new(),
        }
    }

    fn fenced(&mut self, found: Fenced, dice: u32, run: u32, cause: MeshError) -> Vec<Effect> {
        if found.ended {
            // The plan had enough rows without the lost ones (a LIMIT): its result is whole.
            return self.go(Stage::Done, vec![Effect::Leave]);
        }
        let wait_ms = if cause.class() == ErrorClass::Overload { backoff_ms(run, dice) } else { 0 };
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
    let message = format!("a sub-query was lost and {why}: {} {}", cause.code, cause.message);
    MeshError { code: ErrorCode::SubqueryLost, message, node: cause.node, source: cause.source.clone() }
}
