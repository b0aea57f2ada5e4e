//! What a query actor holds while its statement lives, and how each effect of its core is carried out.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use greylag_protocol::{
    ErrorCode, MeshError, QueryId, Result, TraceId,
    ipc::BATCH_ROWS_MAX,
    messages::control::QueryRow,
    statement::{BatchStream, Delivery},
};
use ractor::{Actor, ActorId, ActorRef};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    sync::oneshot,
    time::{Duration, Instant, sleep_until},
};

use super::{
    core::{Effect, Event, Goal, QueryCore, Stage},
    message::{Announced, Job, QueryMessage},
    steps::{self, Opener, ToPlan},
};
use crate::{
    coordinator::{
        Coordinator, Registered,
        gate::{ReleaseGate, Released, core::Hold, share::MemoryShare},
        ledger::QueryEntry,
        subquery::{self, Budget, QueryFacts, SubqueryActor, SubqueryMessage},
    },
    planner::port::{Catalog, ExecutablePlan, Permit, SubqueryPlan, Touched},
    task::{TaskGuard, caught},
    tree::{ActorState, TreeEntry},
    turnstile::Slot,
};

/// Sub-queries that one run of a plan may open.
const SUBQUERIES_MAX: u32 = 1_024;

pub struct QueryState {
    core: QueryCore,
    coordinator: Arc<Coordinator>,
    job: JobState,
    entry: Arc<QueryEntry>,
    outlet: ReleaseGate,
    share: Arc<MemoryShare>,
    budget: Budget,
    dice: StdRng,
    /// The step or the run under way. Dropping it stops it.
    work: Option<TaskGuard>,
    timer: Option<TaskGuard>,
    _deadline: TaskGuard,
    slot: Option<Slot>,
    catalog: Option<Arc<Catalog>>,
    permit: Option<Permit>,
    plan: Option<Arc<dyn ExecutablePlan>>,
    facts: Option<Arc<QueryFacts>>,
    subqueries: BTreeMap<ActorId, ActorRef<SubqueryMessage>>,
    /// How often each sub-query of the plan was opened in this run.
    openings: BTreeMap<u32, u32>,
    opened: u32,
    row: TreeEntry,
    registered: Option<Registered>,
}

/// The job, less what is handed on.
struct JobState {
    query: QueryId,
    goal: Goal,
    session: greylag_protocol::statement::Session,
    sql: String,
    parameters: Option<arrow::array::RecordBatch>,
    deadline: Instant,
    announce: Option<oneshot::Sender<Result<Announced>>>,
    rows: Option<Released>,
}

impl QueryState {
    pub fn new(myself: &ActorRef<QueryMessage>, coordinator: Arc<Coordinator>, job: Job) -> Self {
        let share = Arc::new(MemoryShare::new(coordinator.ctx.limits.query_memory_bytes_max));
        let me = myself.clone();
        let (outlet, rows) = ReleaseGate::new(Hold::Nothing, share.clone(), None, move |complete| {
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
            core: QueryCore::new(job.goal),
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
            share,
            work: None,
            timer: None,
            _deadline: deadline,
            slot: None,
            catalog: None,
            permit: None,
            plan: None,
            facts: None,
            subqueries: BTreeMap::new(),
            openings: BTreeMap::new(),
            opened: 0,
            row,
            registered: Some(registered),
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
        self.catalog = Some(catalog);
        let effects = self.core.on(Event::Resolved);
        self.entry.stage(self.core.stage());
        if effects.contains(&Effect::Decide) {
            let (ctx, session) = (self.coordinator.ctx.clone(), self.job.session.clone());
            let deciding = steps::decide(ctx, self.job.query, session, self.job.goal, touched);
            self.control_step(myself, "the decision", deciding);
        }
    }

    pub fn decided(&mut self, myself: &ActorRef<QueryMessage>, permit: Permit) {
        self.permit = Some(permit);
        self.happened(myself, Event::Decided);
    }

    pub fn planned(&mut self, myself: &ActorRef<QueryMessage>, plan: Arc<dyn ExecutablePlan>) {
        self.plan = Some(plan);
        self.happened(myself, Event::Planned);
    }

    /// Tells the core, and does what it says until it says no more.
    pub fn happened(&mut self, myself: &ActorRef<QueryMessage>, event: Event) {
        let mut todo = VecDeque::from(self.core.on(event));
        self.entry.stage(self.core.stage());
        while let Some(effect) = todo.pop_front() {
            todo.extend(self.perform(myself, effect));
            self.entry.stage(self.core.stage());
        }
    }

    fn perform(&mut self, myself: &ActorRef<QueryMessage>, effect: Effect) -> Vec<Effect> {
        match effect {
            Effect::Resolve => {
                let resolving = steps::resolve(self.coordinator.clone(), self.job.sql.clone());
                self.query_step(myself, "reading the statement", resolving);
            }
            // Done where the tables are at hand: see `resolved`.
            Effect::Decide => {}
            Effect::Plan => self.start_planning(myself),
            Effect::Announce => self.announce(),
            Effect::Run { run } => self.start_run(myself, run),
            Effect::StopRun => self.stop_run(),
            Effect::FenceOutlet { run } => {
                let found = self.outlet.fence(run);
                let dice = self.dice.random_range(0..1_000);
                return self.core.on(Event::Fenced { found, dice });
            }
            Effect::SpendRestart => {
                let granted = self.budget.spend();
                if granted {
                    self.entry.restarted();
                }
                return self.core.on(Event::Budget { granted });
            }
            Effect::Wait { run, ms } => {
                let (at, me) = (Instant::now() + Duration::from_millis(ms), myself.clone());
                self.timer = Some(TaskGuard::control(async move {
                    sleep_until(at).await;
                    let _ = me.cast(QueryMessage::Happened(Event::Waited { run }));
                }));
            }
            Effect::Fail(error) => self.fail(error),
            Effect::Leave => {
                self.close();
                myself.stop(None);
            }
        }
        Vec::new()
    }

    fn start_planning(&mut self, myself: &ActorRef<QueryMessage>) {
        let (Some(permit), Some(catalog)) = (self.permit.clone(), self.catalog.clone()) else {
            let error = MeshError::new(ErrorCode::NoDecision, "a statement came to its plan without a decision");
            return drop(myself.cast(QueryMessage::Happened(Event::StepFailed(error))));
        };
        let to_plan = ToPlan {
            query: self.job.query,
            permit,
            sql: self.job.sql.clone(),
            parameters: self.job.parameters.clone(),
            catalog,
            session: self.job.session.clone(),
        };
        self.control_step(myself, "planning", steps::plan(self.coordinator.clone(), to_plan));
    }

    fn announce(&mut self) {
        let (Some(announce), Some(rows), Some(plan)) = (self.job.announce.take(), self.job.rows.take(), &self.plan)
        else {
            return;
        };
        // If the caller has gone the rows go with the message, and their end tells the actor.
        let _ = announce.send(Ok(Announced { schema: plan.schema(), parameters: plan.parameters(), rows }));
    }

    fn start_run(&mut self, myself: &ActorRef<QueryMessage>, run: u32) {
        let (Some(plan), Some(permit)) = (self.plan.clone(), &self.permit) else { return };
        self.openings.clear();
        self.opened = 0;
        self.facts = Some(Arc::new(QueryFacts {
            ctx: self.coordinator.ctx.clone(),
            ledger: self.coordinator.ledger.clone(),
            query: self.job.query,
            trace: TraceId(self.job.query.0.as_u128()),
            principal: self.job.session.principal.id.clone(),
            epoch: permit.epoch(),
            deadline: self.job.deadline,
            batch_rows: self.job.session.options.batch_rows.clamp(1, BATCH_ROWS_MAX as u32),
            run,
            shunned: self.core.shunned().to_vec(),
            share: self.share.clone(),
            budget: self.budget.clone(),
        }));
        let opener = Opener { query: myself.clone(), run };
        let pumping = steps::pump(plan, opener, self.outlet.clone(), self.entry.clone());
        let me = myself.clone();
        self.work = Some(TaskGuard::query(&self.coordinator.ctx.seams, async move {
            let event = match caught("execution", pumping).await {
                Ok(()) => Event::RunEnded { run },
                Err(error) => Event::RunFailed { run, error },
            };
            let _ = me.cast(QueryMessage::Happened(event));
        }));
    }

    fn stop_run(&mut self) {
        self.work = None;
        self.timer = None;
        for subquery in std::mem::take(&mut self.subqueries).into_values() {
            subquery.stop(None);
        }
    }

    fn fail(&mut self, error: MeshError) {
        self.entry.error(&error);
        match self.job.announce.take() {
            // A caller that has gone needs no answer.
            Some(announce) => drop(announce.send(Err(error))),
            None => self.outlet.fail(error),
        }
    }

    /// A step that only waits for others.
    fn control_step(
        &mut self,
        myself: &ActorRef<QueryMessage>,
        what: &'static str,
        step: impl Future<Output = Result<QueryMessage>> + Send + 'static,
    ) {
        self.work = Some(TaskGuard::control(reported(myself.clone(), what, step)));
    }

    /// A step that computes.
    fn query_step(
        &mut self,
        myself: &ActorRef<QueryMessage>,
        what: &'static str,
        step: impl Future<Output = Result<QueryMessage>> + Send + 'static,
    ) {
        self.work = Some(TaskGuard::query(&self.coordinator.ctx.seams, reported(myself.clone(), what, step)));
    }

    /// Starts a sub-query's actor, which answers with its rows. If it cannot be started the reply comes back with the
    /// reason.
    pub async fn open(
        &mut self,
        myself: &ActorRef<QueryMessage>,
        run: u32,
        plan: SubqueryPlan,
        reply: oneshot::Sender<Result<BatchStream>>,
    ) -> Result<(), (MeshError, Option<oneshot::Sender<Result<BatchStream>>>)> {
        let facts = self.facts.clone().filter(|f| f.run == run && *self.core.stage() == Stage::Running { run });
        let Some(facts) = facts else {
            return Err((MeshError::new(ErrorCode::Cancelled, "the run has ended"), Some(reply)));
        };
        if self.opened >= SUBQUERIES_MAX {
            let message = format!("one run of a plan may open {SUBQUERIES_MAX} sub-queries");
            return Err((MeshError::new(ErrorCode::Unsupported, message), Some(reply)));
        }
        self.opened += 1;
        let opening = self.openings.entry(plan.ordinal).or_default();
        let partition = *opening;
        *opening += 1;
        let hold = match self.job.session.options.delivery {
            Delivery::Spooled => Hold::Spool,
            Delivery::Streamed if plan.blocks_consumer => Hold::Build,
            Delivery::Streamed => Hold::Window { bytes: self.coordinator.ctx.limits.hold_back_bytes_max },
        };
        let arguments =
            subquery::Arguments { facts, plan: Arc::new(plan), partition, hold, query: myself.clone(), reply };
        match Actor::spawn_linked(None, SubqueryActor, arguments, myself.get_cell()).await {
            Ok((subquery, _)) => {
                self.subqueries.insert(subquery.get_id(), subquery);
                Ok(())
            }
            Err(error) => Err((MeshError::internal(format!("a sub-query's actor did not start: {error}")), None)),
        }
    }

    /// A sub-query's actor has gone. False if it was not one of this run.
    pub fn forget(&mut self, subquery: &ActorId) -> bool {
        self.subqueries.remove(subquery).is_some()
    }

    /// Gives back everything that others wait for. The rows that are at the outlet stay for their reader.
    pub fn close(&mut self) {
        if self.registered.take().is_some() {
            tracing::debug!(query = %self.job.query, door = self.job.session.door, stage = self.stage().name(), "a statement has ended");
        }
        self.stop_run();
        if !self.core.stage().is_over() {
            let error = if self.coordinator.ctx.stopping.is_cancelled() {
                MeshError::new(ErrorCode::ShuttingDown, "the coordinator is shutting down")
            } else {
                MeshError::internal("the statement's actor was lost")
            };
            self.fail(error.at_node(self.coordinator.ctx.node));
        }
        self.slot = None;
        self.row.set(ActorState::Stopped);
    }
}

impl Drop for QueryState {
    fn drop(&mut self) {
        self.close();
    }
}

async fn reported(
    myself: ActorRef<QueryMessage>,
    what: &'static str,
    step: impl Future<Output = Result<QueryMessage>>,
) {
    let message = caught(what, step).await.unwrap_or_else(|e| QueryMessage::Happened(Event::StepFailed(e)));
    // An actor that has gone needs no news.
    let _ = myself.cast(message);
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
