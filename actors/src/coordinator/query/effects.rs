//! How each effect of a query's core is carried out.

use std::{collections::VecDeque, sync::Arc};

use greylag_config::AuditMode;
use greylag_protocol::{
    ErrorCode, MeshError, Result, TraceId, ipc::BATCH_ROWS_MAX, prefix::Prefix, state::GovernanceSettings, step::Step,
};
use ractor::ActorRef;
use rand::Rng;
use tokio::time::{Duration, Instant, sleep_until};
use tracing::Instrument;

use super::{
    core::{Effect, Event},
    message::{Announced, QueryMessage},
    run::Run,
    state::QueryState,
    steps::{
        admission, audit, cost, decision, dialect,
        execution::{self, Opener, Outlet},
        healing, planning,
        planning::ToPlan,
        quota, snapshot, tables,
    },
};
use crate::{
    coordinator::subquery::QueryFacts,
    task::{TaskGuard, caught},
};

impl QueryState {
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
            Effect::Take(step) => return self.take(myself, step),
            Effect::Heal(error) => self.start_healing(myself, error),
            Effect::Announce => self.announce(),
            Effect::Run { run, resume } => {
                self.outlet.resume(run);
                self.start_run(myself, run, resume);
            }
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

    /// Begins a step. One for which nothing is to be done is done.
    fn take(&mut self, myself: &ActorRef<QueryMessage>, step: Step) -> Vec<Effect> {
        let (hooks, session) = (self.coordinator.ctx.hooks.clone(), self.job.session.clone());
        match step {
            Step::Admission => {
                let ticket = admission::ticket(&session.principal, &self.settings());
                let admitting = admission::take(self.coordinator.statements.clone(), ticket, self.entry.clone());
                self.control_step(myself, step, admitting);
            }
            Step::Dialect => {
                self.sql = self.healed.take().unwrap_or_else(|| self.job.sql.clone());
                let Some(hook) = hooks.dialect else { return self.core.on(Event::StepDone(step)) };
                self.control_step(myself, step, dialect::take(hook, session, self.sql.clone()));
            }
            Step::Tables => {
                let reading = tables::take(self.coordinator.clone(), self.sql.clone(), session.principal);
                self.query_step(myself, step, reading);
            }
            Step::Decision => return self.start_deciding(myself),
            Step::Snapshot => {
                let Some(hook) = hooks.snapshot else { return self.core.on(Event::StepDone(step)) };
                let tables = self.resolved.as_ref().map(|(_, touched)| touched.tables.clone()).unwrap_or_default();
                self.control_step(myself, step, snapshot::take(hook, session, tables));
            }
            Step::Planning => self.start_planning(myself),
            Step::Cost => {
                let outcome = self.cost();
                return self.core.on(outcome.map_or_else(Event::StepFailed, |()| Event::StepDone(step)));
            }
            Step::Quota => return self.start_reserving(myself),
            Step::Audit => return self.start_recording(myself),
            Step::RowFilters | Step::Masks | Step::Execution | Step::Healing | Step::Metering => {}
        }
        Vec::new()
    }

    pub(super) fn settings(&self) -> GovernanceSettings {
        self.coordinator.ctx.mesh.state().governance.settings.value.clone()
    }

    fn start_deciding(&mut self, myself: &ActorRef<QueryMessage>) -> Vec<Effect> {
        let Some((catalog, touched)) = &self.resolved else { return Vec::new() };
        let asking = decision::asking(self.job.query, &self.job.session, touched, catalog);
        let again = self.permit.take().is_some();
        match asking {
            Ok(asking) => {
                let deciding = decision::take(self.coordinator.ctx.clone(), asking, again);
                self.control_step(myself, Step::Decision, deciding);
                Vec::new()
            }
            Err(error) => self.core.on(Event::StepFailed(error)),
        }
    }

    fn start_healing(&mut self, myself: &ActorRef<QueryMessage>, error: MeshError) {
        match self.coordinator.ctx.hooks.healing.clone() {
            Some(hook) => {
                let healing = healing::take(hook, self.job.session.clone(), self.sql.clone(), error);
                self.control_step(myself, Step::Healing, healing);
            }
            None => drop(myself.cast(QueryMessage::Healed(None))),
        }
    }

    fn start_planning(&mut self, myself: &ActorRef<QueryMessage>) {
        let (Some(permit), Some((catalog, _))) = (self.permit.clone(), self.resolved.clone()) else {
            let error = MeshError::new(ErrorCode::NoDecision, "a statement came to its plan without a decision");
            return drop(myself.cast(QueryMessage::Happened(Event::StepFailed(error))));
        };
        let to_plan = ToPlan {
            query: self.job.query,
            permit,
            sql: self.sql.clone(),
            parameters: self.job.parameters.clone(),
            catalog,
            session: self.job.session.clone(),
            pins: self.pins.clone(),
            steps: self.told_steps(),
        };
        self.control_step(myself, Step::Planning, planning::take(self.coordinator.clone(), to_plan));
    }

    /// Compares what the plan will read with what its principal may.
    fn cost(&mut self) -> Result<()> {
        let Some(plan) = &self.plan else { return Ok(()) };
        let (costed, settings) = (cost::estimate(&plan.subqueries()), self.settings());
        let budget = cost::budget_of(&settings.budgets, &self.job.session.principal);
        cost::check(&costed, budget)?;
        self.meter.limit(budget.and_then(|b| b.rows_max), budget.and_then(|b| b.bytes_max));
        self.costed = Some(costed);
        Ok(())
    }

    fn start_reserving(&mut self, myself: &ActorRef<QueryMessage>) -> Vec<Effect> {
        // One that is decided anew has its account.
        if self.till.is_some() {
            return self.core.on(Event::StepDone(Step::Quota));
        }
        let (ctx, principal) = (self.coordinator.ctx.clone(), self.job.session.principal.clone());
        let costed = self.costed.clone().unwrap_or_default();
        let reserving = quota::take(ctx, principal, costed, self.job.deadline, self.entry.clone());
        self.control_step(myself, Step::Quota, reserving);
        Vec::new()
    }

    /// In strict mode no row leaves before it is written who gets it.
    fn start_recording(&mut self, myself: &ActorRef<QueryMessage>) -> Vec<Effect> {
        let ctx = &self.coordinator.ctx;
        if ctx.audit.mode() != AuditMode::Strict {
            return self.core.on(Event::StepDone(Step::Audit));
        }
        let recording = audit::begin(ctx.clone(), self.facts());
        self.control_step(myself, Step::Audit, recording);
        Vec::new()
    }

    /// What `EXPLAIN` says of the steps that are the coordinator's.
    fn told_steps(&self) -> Vec<(Step, String)> {
        let (ctx, principal, settings) = (&self.coordinator.ctx, &self.job.session.principal, self.settings());
        let ticket = admission::ticket(principal, &settings);
        let party = if ticket.party.is_empty() { "none" } else { &ticket.party };
        let (running, waiting) = self.coordinator.load();
        let hook = |is: bool| if is { "by what is plugged in" } else { "nothing is plugged in" };
        let tables = self.resolved.as_ref().map(|(_, touched)| touched.tables.clone()).unwrap_or_default();
        let tables: Vec<String> = tables.iter().map(ToString::to_string).collect();
        let pins: Vec<String> = self.pins.iter().map(|pin| format!("{}: {}", pin.table, pin.snapshot)).collect();
        let state = ctx.mesh.state();
        let keys = state.governance.quotas.keys_of(principal.organisation().unwrap_or_default(), principal.agent_id());
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        let budget = match cost::budget_of(&settings.budgets, principal) {
            Some(budget) => format!("at most {:?} rows and {:?} bytes", budget.rows_max, budget.bytes_max),
            None => "no budget".to_owned(),
        };
        let or_none = |all: Vec<String>| if all.is_empty() { "none".to_owned() } else { all.join(", ") };
        vec![
            (
                Step::Admission,
                format!(
                    "priority {}, organisation {party} of weight {}; {running} run, {waiting} wait",
                    ticket.priority.as_str(),
                    ticket.weight
                ),
            ),
            (Step::Tables, or_none(tables)),
            (Step::Quota, format!("charged to: {}; {budget}", or_none(keys))),
            (Step::Dialect, hook(ctx.hooks.dialect.is_some()).to_owned()),
            (Step::Snapshot, format!("{}; pinned: {}", hook(ctx.hooks.snapshot.is_some()), or_none(pins))),
            (Step::Execution, "sub-queries as above, the rest on this node".to_owned()),
            (Step::Healing, hook(ctx.hooks.healing.is_some()).to_owned()),
            (Step::Metering, "charged before rows leave, by the prices of the settings".to_owned()),
            (Step::Audit, format!("mode {}", ctx.audit.mode().as_str())),
        ]
    }

    fn announce(&mut self) {
        let (Some(announce), Some(rows), Some(plan)) = (self.job.announce.take(), self.job.rows.take(), &self.plan)
        else {
            return;
        };
        // If the caller has gone the rows go with the message, and their end tells the actor.
        let _ = announce.send(Ok(Announced { schema: plan.schema(), parameters: plan.parameters(), rows }));
    }

    fn start_run(&mut self, myself: &ActorRef<QueryMessage>, run: u32, resume: Prefix) {
        let (Some(plan), Some(permit), Some(till)) = (self.plan.clone(), &self.permit, self.till.clone()) else {
            let error = MeshError::internal("a statement came to its run without all its steps");
            return drop(myself.cast(QueryMessage::Happened(Event::RunFailed { run, error })));
        };
        let batch_rows = self.job.session.options.batch_rows.clamp(1, BATCH_ROWS_MAX as u32);
        let facts = Arc::new(QueryFacts {
            ctx: self.coordinator.ctx.clone(),
            ledger: self.coordinator.ledger.clone(),
            circuits: self.coordinator.circuits.clone(),
            query: self.job.query,
            trace: TraceId(self.job.query.0.as_u128()),
            principal: self.job.session.principal.id.clone(),
            epoch: permit.epoch(),
            deadline: self.job.deadline,
            batch_rows,
            run,
            shunned: self.core.shunned().to_vec(),
            room: self.room.clone(),
            budget: self.budget.clone(),
            meter: self.meter.clone(),
        });
        self.run = Some(Run::new(facts, self.job.session.options.delivery));
        self.meter.read_again();
        let opener = Opener { query: myself.clone(), run };
        let outlet = Outlet {
            gate: self.outlet.clone(),
            entry: self.entry.clone(),
            meter: self.meter.clone(),
            run,
            batch_rows: batch_rows as usize,
            resume,
            till,
        };
        let pumping = execution::pump(plan, opener, outlet);
        let me = myself.clone();
        let span = self.span(Step::Execution);
        let executing = async move {
            let event = match caught("execution", pumping).await {
                Ok(()) => Event::RunEnded { run },
                Err(error) => Event::RunFailed { run, error },
            };
            let _ = me.cast(QueryMessage::Happened(event));
        };
        self.work = Some(TaskGuard::query(&self.coordinator.ctx.seams, executing.instrument(span)));
    }

    pub(super) fn stop_run(&mut self) {
        self.work = None;
        self.timer = None;
        self.run = None;
    }

    pub(super) fn fail(&mut self, error: MeshError) {
        self.code = Some(error.code);
        self.entry.error(&error);
        match self.job.announce.take() {
            // A caller that has gone needs no answer.
            Some(announce) => drop(announce.send(Err(error))),
            None => self.outlet.fail(error),
        }
    }

    fn span(&self, step: Step) -> tracing::Span {
        tracing::debug_span!("step", name = step.name(), query = %self.job.query)
    }

    /// A step that only waits for others.
    pub(super) fn control_step(
        &mut self,
        myself: &ActorRef<QueryMessage>,
        step: Step,
        work: impl Future<Output = Result<QueryMessage>> + Send + 'static,
    ) {
        let span = self.span(step);
        self.work = Some(TaskGuard::control(reported(myself.clone(), step, work).instrument(span)));
    }

    /// A step that computes.
    fn query_step(
        &mut self,
        myself: &ActorRef<QueryMessage>,
        step: Step,
        work: impl Future<Output = Result<QueryMessage>> + Send + 'static,
    ) {
        let work = reported(myself.clone(), step, work).instrument(self.span(step));
        self.work = Some(TaskGuard::query(&self.coordinator.ctx.seams, work));
    }
}

async fn reported(myself: ActorRef<QueryMessage>, step: Step, work: impl Future<Output = Result<QueryMessage>>) {
    let message = caught(step.name(), work).await.unwrap_or_else(|e| QueryMessage::Happened(Event::StepFailed(e)));
    // An actor that has gone needs no news.
    let _ = myself.cast(message);
}
