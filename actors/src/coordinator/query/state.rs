//! What a query actor holds while its statement lives, and how it lets go of it.

use std::sync::Arc;

use greylag_governance::audit::StatementFacts;
use greylag_protocol::{
    ErrorCode, MeshError, QueryId, Result,
    messages::control::{Decision, QueryRow},
    state::Role,
    statement::Session,
    step::{Step, StepTimes},
};
use ractor::{ActorId, ActorRef};
use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

use super::{
    core::{Event, Goal, QueryCore, Stage},
    message::{Announced, Job, Opening, QueryMessage},
    run::Run,
    steps::{audit, cost::Costed, metering::Meter, quota::Till},
};
use crate::{
    NodeCtx,
    audit::Admission,
    coordinator::{
        Coordinator, Registered,
        gate::{ReleaseGate, Released, Room, share::MemoryShare},
        ledger::QueryEntry,
        subquery::Budget,
    },
    planner::port::{Catalog, ExecutablePlan, Permit, Pin, Touched},
    rest::Busy,
    task::TaskGuard,
    tree::{ActorState, TreeEntry},
    turnstile::Slot,
};

pub struct QueryState {
    pub(super) core: QueryCore,
    pub(super) coordinator: Arc<Coordinator>,
    pub(super) job: JobState,
    pub(super) entry: Arc<QueryEntry>,
    pub(super) outlet: ReleaseGate,
    pub(super) room: Room,
    pub(super) budget: Budget,
    pub(super) dice: StdRng,
    /// The step or the run under way. Dropping it stops it.
    pub(super) work: Option<TaskGuard>,
    pub(super) timer: Option<TaskGuard>,
    pub(super) _deadline: TaskGuard,
    pub(super) slot: Option<Slot>,
    /// The text as it is planned: what came, translated or healed.
    pub(super) sql: String,
    pub(super) healed: Option<String>,
    pub(super) resolved: Option<(Arc<Catalog>, Touched)>,
    pub(super) pins: Vec<Pin>,
    pub(super) costed: Option<Costed>,
    pub(super) till: Option<Till>,
    pub(super) meter: Arc<Meter>,
    pub(super) permit: Option<Permit>,
    pub(super) denial: Option<Box<Decision>>,
    /// How it has failed, for its record.
    pub(super) code: Option<ErrorCode>,
    admission: Option<Admission>,
    goal: Goal,
    pub(super) plan: Option<Arc<dyn ExecutablePlan>>,
    pub(super) run: Option<Run>,
    pub(super) row: TreeEntry,
    pub(super) registered: Option<(Registered, Busy)>,
}

/// The job, less what is handed on.
pub(super) struct JobState {
    pub(super) query: QueryId,
    pub(super) session: Session,
    pub(super) sql: String,
    pub(super) parameters: Option<arrow::array::RecordBatch>,
    pub(super) deadline: Instant,
    pub(super) announce: Option<oneshot::Sender<Result<Announced>>>,
    pub(super) rows: Option<Released>,
}

impl QueryState {
    pub fn new(myself: &ActorRef<QueryMessage>, coordinator: Arc<Coordinator>, job: Job) -> Self {
        let ctx = &coordinator.ctx;
        let share = Arc::new(MemoryShare::of(ctx.held.clone(), ctx.limits.query_memory_bytes_max));
        let room = Room { share, disk: ctx.spill.clone() };
        let (me, resume) = (myself.clone(), job.session.options.resume);
        let (outlet, rows) = ReleaseGate::after(resume, &room, move |complete| {
            // A statement that has ended does not care.
            let _ = me.cast(QueryMessage::Happened(Event::ReaderGone { complete }));
        });
        let entry = coordinator.ledger.query(row_of(&coordinator, &job));
        let (at, me) = (job.deadline, myself.clone());
        let deadline = TaskGuard::control(async move {
            sleep_until(at).await;
            let _ = me.cast(QueryMessage::Happened(Event::DeadlinePassed));
        });
        let row = coordinator.ctx.tree().register(&format!("query/{}", job.query), "coordinator");
        row.set(ActorState::Running);
        let registered = coordinator.register(job.query, &job.session.principal, myself.clone());
        let seed = coordinator.ctx.seams.seed ^ job.query.0.as_u128() as u64;
        Self {
            core: QueryCore::new(job.goal, resume, coordinator.ctx.hooks.healing.is_some()),
            budget: Budget::new(coordinator.ctx.limits.query_restarts_max),
            dice: StdRng::seed_from_u64(seed),
            job: JobState {
                query: job.query,
                session: job.session,
                sql: job.sql,
                parameters: job.parameters,
                deadline: job.deadline,
                announce: Some(job.announce),
                rows: Some(rows),
            },
            coordinator,
            entry: Arc::new(entry),
            outlet,
            room,
            work: None,
            timer: None,
            _deadline: deadline,
            slot: None,
            sql: String::new(),
            healed: None,
            resolved: None,
            pins: Vec::new(),
            costed: None,
            till: None,
            meter: Arc::default(),
            permit: None,
            denial: None,
            code: None,
            admission: job.admission,
            goal: job.goal,
            plan: None,
            run: None,
            row,
            registered: Some((registered, job.busy)),
        }
    }

    pub fn query(&self) -> QueryId {
        self.job.query
    }

    pub fn stage(&self) -> &Stage {
        self.core.stage()
    }

    /// The first step.
    pub fn begin(&mut self, myself: &ActorRef<QueryMessage>) {
        self.happened(myself, Event::Begun);
    }

    /// Keeps what a step has come to.
    pub fn took(&mut self, myself: &ActorRef<QueryMessage>, outcome: QueryMessage) {
        let step = match outcome {
            QueryMessage::Admitted(slot) => {
                self.slot = Some(slot);
                Step::Admission
            }
            QueryMessage::Translated(sql) => {
                self.sql = sql;
                Step::Dialect
            }
            QueryMessage::Resolved(catalog, touched) => {
                self.resolved = Some((catalog, touched));
                Step::Tables
            }
            QueryMessage::Decided(permit) => {
                self.entry.decided(permit.epoch());
                self.permit = Some(permit);
                Step::Decision
            }
            QueryMessage::Denied(decision, error) => {
                self.denial = Some(decision);
                return self.happened(myself, Event::StepFailed(error));
            }
            QueryMessage::Pinned(pins) => {
                self.pins = pins;
                Step::Snapshot
            }
            QueryMessage::Planned(plan) => return self.planned(myself, plan),
            QueryMessage::Reserved(till) => {
                self.till = Some(till);
                Step::Quota
            }
            QueryMessage::Recorded => Step::Audit,
            QueryMessage::Healed(text) => {
                let found = text.is_some();
                self.healed = text;
                return self.happened(myself, Event::Healed { found });
            }
            QueryMessage::Happened(_) | QueryMessage::Open(_) => return,
        };
        self.happened(myself, Event::StepDone(step));
    }

    /// A plan that was made anew, because policies have changed, must give what was announced.
    fn planned(&mut self, myself: &ActorRef<QueryMessage>, plan: Arc<dyn ExecutablePlan>) {
        let differs = self.plan.as_ref().is_some_and(|before| before.schema() != plan.schema());
        if differs && self.job.announce.is_none() {
            let message = "policies have changed while it ran, and its columns with them";
            let error = MeshError::new(ErrorCode::StaleDecision, message);
            return self.happened(myself, Event::StepFailed(error));
        }
        self.entry.times(&plan.times());
        self.plan = Some(plan);
        self.happened(myself, Event::StepDone(Step::Planning));
    }

    /// The running plan wants a sub-query.
    pub async fn open(&mut self, myself: &ActorRef<QueryMessage>, opening: Opening) {
        let current = *self.core.stage() == Stage::Running { run: opening.run };
        match self.run.as_mut().filter(|run| current && run.number() == opening.run) {
            Some(run) => run.open(myself, opening).await,
            // A plan that has been dropped needs no answer.
            None => drop(opening.reply.send(Err(MeshError::new(ErrorCode::Cancelled, "the run has ended")))),
        }
    }

    /// A sub-query's actor has gone. False if it was not one of the current run.
    pub fn forget(&mut self, subquery: &ActorId) -> bool {
        self.run.as_mut().is_some_and(|run| run.forget(subquery))
    }

    /// Gives back everything that others wait for. The rows that are at the outlet stay for their reader.
    pub fn close(&mut self) {
        if self.registered.take().is_some() {
            tracing::debug!(query = %self.job.query, door = self.job.session.door, stage = self.stage().name(), "a statement has ended");
        }
        self.stop_run();
        if !self.core.stage().is_over() {
            self.fail(lost(&self.coordinator.ctx));
        }
        self.slot = None;
        self.row.set(ActorState::Stopped);
    }
}

/// What a statement is told whose actor ends under it. One that outlives the grace of a drain goes on elsewhere.
pub fn lost(ctx: &NodeCtx) -> MeshError {
    let leaves = ctx.stopping.is_cancelled() || !ctx.mesh.state().holds(ctx.node, &Role::Coordinator);
    let error = if leaves {
        MeshError::new(ErrorCode::ShuttingDown, "the coordinator is shutting down")
    } else {
        MeshError::internal("the statement's actor was lost")
    };
    error.at_node(ctx.node)
}

impl QueryState {
    /// What is known for a record.
    pub(super) fn facts(&self) -> StatementFacts {
        audit::facts(&audit::Known {
            node: self.coordinator.ctx.node,
            query: self.job.query,
            session: &self.job.session,
            touched: self.resolved.as_ref().map(|(_, touched)| touched),
            reads: self.plan.as_ref().and_then(|plan| plan.reads()),
            permit: self.permit.as_ref(),
            denial: self.denial.as_deref(),
        })
    }

    /// Hands in the record of what has ended.
    fn record(&mut self) {
        let code = self.code.or_else(|| (*self.stage() != Stage::Done).then_some(ErrorCode::Internal));
        if !audit::is_recorded(self.goal, code) {
            return;
        }
        let Some(row) = self.entry.row() else { return };
        let mut sources = audit::Sources::default();
        self.coordinator.ledger.attempts_of(self.job.query, |attempt| sources.add(attempt));
        let now = self.coordinator.ctx.seams.clock.unix_ms();
        let record = audit::ended(now, self.facts(), &row, sources.all(), code);
        match self.admission.take() {
            Some(admission) => admission.record(record),
            // Nothing was given away; the log that refuses has said so itself.
            None => drop(self.coordinator.ctx.audit.record(record)),
        }
    }
}

impl Drop for QueryState {
    fn drop(&mut self) {
        self.close();
        self.record();
    }
}

fn row_of(coordinator: &Coordinator, job: &Job) -> QueryRow {
    QueryRow {
        query: job.query,
        coordinator: coordinator.ctx.node,
        principal: job.session.principal.id.clone(),
        organisation: job.session.principal.organisation().map(str::to_owned),
        agent: job.session.principal.agent_id().map(str::to_owned),
        priority: job.session.principal.priority(),
        door: job.session.door.to_owned(),
        state: String::new(),
        sql: job.sql.clone(),
        started_unix_ms: coordinator.ctx.seams.clock.unix_ms(),
        queue_position: None,
        epoch: None,
        times: StepTimes::default(),
        rows: 0,
        bytes: 0,
        cost: 0,
        restarts: 0,
        error: None,
    }
}
