//! How each effect of a query's core is carried out.

use std::{collections::VecDeque, sync::Arc};

use greylag_protocol::{ErrorCode, MeshError, Result, TraceId, ipc::BATCH_ROWS_MAX, prefix::Prefix};
use ractor::ActorRef;
use rand::Rng;
use tokio::time::{Duration, Instant, sleep_until};

use super::{
    core::{Effect, Event},
    message::{Announced, QueryMessage},
    run::Run,
    state::QueryState,
    steps::{self, Opener, Outlet, ToPlan},
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
            Effect::Resolve => {
                let resolving = steps::resolve(self.coordinator.clone(), self.job.sql.clone());
                self.query_step(myself, "reading the statement", resolving);
            }
            Effect::Decide => self.start_deciding(myself),
            Effect::Plan => self.start_planning(myself),
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

    fn start_deciding(&mut self, myself: &ActorRef<QueryMessage>) {
        let Some((_, touched)) = self.resolved.clone() else { return };
        let (ctx, session) = (self.coordinator.ctx.clone(), self.job.session.clone());
        let deciding = steps::decide(ctx, self.job.query, session, self.job.goal, touched);
        self.control_step(myself, "the decision", deciding);
    }

    fn start_planning(&mut self, myself: &ActorRef<QueryMessage>) {
        let (Some(permit), Some((catalog, _))) = (self.permit.clone(), self.resolved.clone()) else {
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

    fn start_run(&mut self, myself: &ActorRef<QueryMessage>, run: u32, resume: Prefix) {
        let (Some(plan), Some(permit)) = (self.plan.clone(), &self.permit) else { return };
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
        });
        self.run = Some(Run::new(facts, self.job.session.options.delivery));
        let opener = Opener { query: myself.clone(), run };
        let outlet =
            Outlet { gate: self.outlet.clone(), entry: self.entry.clone(), batch_rows: batch_rows as usize, resume };
        let pumping = steps::pump(plan, opener, outlet);
        let me = myself.clone();
        self.work = Some(TaskGuard::query(&self.coordinator.ctx.seams, async move {
            let event = match caught("execution", pumping).await {
                Ok(()) => Event::RunEnded { run },
                Err(error) => Event::RunFailed { run, error },
            };
            let _ = me.cast(QueryMessage::Happened(event));
        }));
    }

    pub(super) fn stop_run(&mut self) {
        self.work = None;
        self.timer = None;
        self.run = None;
    }

    pub(super) fn fail(&mut self, error: MeshError) {
        self.entry.error(&error);
        match self.job.announce.take() {
            // A caller that has gone needs no answer.
            Some(announce) => drop(announce.send(Err(error))),
            None => self.outlet.fail(error),
        }
    }

    /// A step that only waits for others.
    pub(super) fn control_step(
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
