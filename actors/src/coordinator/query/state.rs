//! What a query actor holds while its statement lives, and how it lets go of it.

use std::sync::Arc;

use greylag_protocol::{
    ErrorCode, MeshError, QueryId, Result, messages::control::QueryRow, state::Role, statement::Session,
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
    steps,
};
use crate::{
    NodeCtx,
    coordinator::{
        Coordinator, Registered,
        gate::{ReleaseGate, Released, Room, share::MemoryShare},
        ledger::QueryEntry,
        subquery::Budget,
    },
    planner::port::{Catalog, ExecutablePlan, Permit, Touched},
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
    pub(super) resolved: Option<(Arc<Catalog>, Touched)>,
    pub(super) permit: Option<Permit>,
    pub(super) plan: Option<Arc<dyn ExecutablePlan>>,
    pub(super) run: Option<Run>,
    pub(super) row: TreeEntry,
    pub(super) registered: Option<(Registered, Busy)>,
}

/// The job, less what is handed on.
pub(super) struct JobState {
    pub(super) query: QueryId,
    pub(super) goal: Goal,
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
        let registered = coordinator.register(job.query, &job.session.principal.id, myself.clone());
        let seed = coordinator.ctx.seams.seed ^ job.query.0.as_u128() as u64;
        Self {
            core: QueryCore::new(job.goal, resume),
            budget: Budget::new(coordinator.ctx.limits.query_restarts_max),
            dice: StdRng::seed_from_u64(seed),
            job: JobState {
                query: job.query,
                goal: job.goal,
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
            resolved: None,
            permit: None,
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
        self.control_step(myself, "admission", steps::admit(self.coordinator.statements.clone()));
    }

    pub fn admitted(&mut self, myself: &ActorRef<QueryMessage>, slot: Slot) {
        self.slot = Some(slot);
        self.happened(myself, Event::Admitted);
    }

    pub fn resolved(&mut self, myself: &ActorRef<QueryMessage>, catalog: Arc<Catalog>, touched: Touched) {
        self.resolved = Some((catalog, touched));
        self.happened(myself, Event::Resolved);
    }

    pub fn decided(&mut self, myself: &ActorRef<QueryMessage>, permit: Permit) {
        self.permit = Some(permit);
        self.happened(myself, Event::Decided);
    }

    pub fn planned(&mut self, myself: &ActorRef<QueryMessage>, plan: Arc<dyn ExecutablePlan>) {
        self.plan = Some(plan);
        self.happened(myself, Event::Planned);
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

impl Drop for QueryState {
    fn drop(&mut self) {
        self.close();
    }
}

fn row_of(coordinator: &Coordinator, job: &Job) -> QueryRow {
    QueryRow {
        query: job.query,
        coordinator: coordinator.ctx.node,
        principal: job.session.principal.id.clone(),
        door: job.session.door.to_owned(),
        state: String::new(),
        sql: job.sql.clone(),
        started_unix_ms: coordinator.ctx.seams.clock.unix_ms(),
        admission_us: 0,
        decision_us: 0,
        planning_us: 0,
        execution_us: 0,
        rows: 0,
        restarts: 0,
        error: None,
    }
}
