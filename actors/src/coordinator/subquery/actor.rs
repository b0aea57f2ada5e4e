//! The sub-query's actor: passes what has happened to [`SubqueryCore`] and does what it answers. It owns the gate, and
//! whatever happens to it the gate gets an end.

use std::{collections::VecDeque, sync::Arc};

use futures::StreamExt;
use greylag_protocol::{AttemptId, ErrorCode, MeshError, NodeId, SubqueryId, statement::BatchStream};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_cluster::RactorMessage;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::{Duration, Instant, sleep, timeout};

use super::{
    Arguments, QueryFacts,
    attempt::{AttemptActor, AttemptArguments, AttemptMessage, AttemptState, Terms},
    core::{Effect, Event, Setting, SubqueryCore},
};
use crate::{
    coordinator::{
        edges::{candidates, some_edge},
        gate::ReleaseGate,
        query::{QueryMessage, core::Event as QueryEvent},
    },
    planner::port::SubqueryPlan,
    recut::bytes_of,
    task::TaskGuard,
    tree::{ActorState, TreeEntry},
};

pub struct SubqueryActor;

#[derive(RactorMessage)]
pub enum SubqueryMessage {
    Begin,
    Happened(Event),
}

pub struct SubqueryState {
    core: SubqueryCore,
    facts: Arc<QueryFacts>,
    plan: Arc<SubqueryPlan>,
    partition: u32,
    gate: ReleaseGate,
    query: ActorRef<QueryMessage>,
    /// The attempt's number, and its actor.
    attempt: Option<(u32, ActorRef<AttemptMessage>)>,
    timer: Option<TaskGuard>,
    dice: StdRng,
    row: TreeEntry,
    name: String,
}

impl Drop for SubqueryState {
    fn drop(&mut self) {
        if !self.core.is_over() {
            self.gate.fail(MeshError::internal("a sub-query's actor was lost").of_source(self.plan.source.clone()));
        }
    }
}

impl Actor for SubqueryActor {
    type Msg = SubqueryMessage;
    type State = SubqueryState;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<SubqueryMessage>,
        arguments: Arguments,
    ) -> Result<SubqueryState, ActorProcessingErr> {
        let Arguments { facts, plan, partition, hold, query, reply } = arguments;
        let me = myself.clone();
        let (gate, released) = ReleaseGate::new(hold, &facts.room, Some(plan.source.clone()), move |complete| {
            // A sub-query that has ended does not care.
            let _ = me.cast(SubqueryMessage::Happened(Event::Abandoned { complete }));
        });
        let spread = facts.query.0.as_u128() as u64 ^ u64::from(plan.ordinal);
        let core = SubqueryCore::new(Setting {
            source: plan.source.clone(),
            own: facts.ctx.node,
            attempts_max: facts.ctx.limits.subquery_attempts_max.max(1),
            run: facts.run,
            spread,
            shunned: facts.shunned.clone(),
        });
        let parent = format!("query/{}", facts.query);
        let name = format!("{parent}/{}.{partition}", plan.ordinal);
        let row = facts.ctx.tree().register(&name, &parent);
        row.set(ActorState::Running);
        myself.cast(SubqueryMessage::Begin)?;
        // A plan that has gone drops the stream, which ends this.
        let meter = facts.meter.clone();
        let metered = released.map(move |batch| {
            let batch = batch?;
            meter.scanned(batch.num_rows() as u64, bytes_of(&batch))?;
            Ok(batch)
        });
        let _ = reply.send(Ok(Box::pin(metered) as BatchStream));
        let dice = StdRng::seed_from_u64(facts.ctx.seams.seed ^ spread.rotate_left(17));
        Ok(SubqueryState { core, facts, plan, partition, gate, query, attempt: None, timer: None, dice, row, name })
    }

    async fn handle(
        &self,
        myself: ActorRef<SubqueryMessage>,
        message: SubqueryMessage,
        state: &mut SubqueryState,
    ) -> Result<(), ActorProcessingErr> {
        let event = match message {
            SubqueryMessage::Begin => Event::Opened { edges: state.edges() },
            SubqueryMessage::Happened(event) => event,
        };
        state.happened(&myself, event).await;
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SubqueryMessage>,
        event: SupervisionEvent,
        state: &mut SubqueryState,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, last) = match event {
            SupervisionEvent::ActorFailed(cell, _) => {
                state.row.failed("an attempt's actor failed");
                (cell, None)
            }
            // An attempt's outcome is the last it knew.
            SupervisionEvent::ActorTerminated(cell, last, _) => {
                (cell, last.and_then(|mut last| last.take::<AttemptState>().ok()))
            }
            _ => return Ok(()),
        };
        if let Some(attempt) = state.ended(&cell.get_id()) {
            let event = last.and_then(AttemptState::into_event).unwrap_or_else(|| Event::Failed {
                attempt,
                error: MeshError::internal("an attempt's actor was lost"),
            });
            state.happened(&myself, event).await;
        }
        Ok(())
    }
}

impl SubqueryState {
    fn edges(&self) -> Vec<super::core::Candidate> {
        candidates(&self.facts.ctx, &self.facts.circuits, &self.plan.source)
    }

    /// The number of the attempt whose actor has ended, if it is the current one.
    fn ended(&mut self, attempt: &ActorId) -> Option<u32> {
        let (number, _) = self.attempt.take_if(|(_, actor)| actor.get_id() == *attempt)?;
        Some(number)
    }

    async fn happened(&mut self, myself: &ActorRef<SubqueryMessage>, event: Event) {
        if let Event::Failed { attempt, error } | Event::GateFailed { attempt, error } = &event {
            let (query, source) = (self.facts.query, &self.plan.source);
            tracing::info!(%query, %source, attempt, code = %error.code, node = ?error.node, "an attempt has failed");
        }
        let mut todo = VecDeque::from(self.core.on(event));
        while let Some(effect) = todo.pop_front() {
            let more = self.perform(myself, effect).await;
            todo.extend(more);
        }
        if self.core.is_over() {
            self.row.set(ActorState::Stopped);
            myself.stop(None);
        }
    }

    async fn perform(&mut self, myself: &ActorRef<SubqueryMessage>, effect: Effect) -> Vec<Effect> {
        match effect {
            Effect::Fence { attempt } => {
                let found = self.gate.fence(attempt);
                let dice = self.dice.random_range(0..1_000);
                return self.core.on(Event::Fenced { attempt, found, edges: self.edges(), dice });
            }
            Effect::CancelAttempt { attempt } => {
                if let Some((_, actor)) = self.attempt.take_if(|(number, _)| *number == attempt) {
                    actor.stop(None);
                }
            }
            Effect::SpendRestart => {
                let granted = self.facts.budget.spend();
                return self.core.on(Event::Budget { granted });
            }
            Effect::Wait { attempt, ms: 0, .. } => {
                return self.core.on(Event::Waited { attempt, edges: self.edges() });
            }
            Effect::Wait { attempt, ms, or_edge } => {
                let (facts, source, me) = (self.facts.clone(), self.plan.source.clone(), myself.clone());
                self.timer = Some(TaskGuard::control(async move {
                    let pause = Duration::from_millis(ms);
                    match or_edge {
                        // Which of the two it was does not matter.
                        true => drop(timeout(pause, some_edge(&facts.ctx, &source)).await),
                        false => sleep(pause).await,
                    }
                    let edges = candidates(&facts.ctx, &facts.circuits, &source);
                    let _ = me.cast(SubqueryMessage::Happened(Event::Waited { attempt, edges }));
                }));
            }
            Effect::StartAttempt { attempt, edge, rule, resume, reattach } => {
                if !self.facts.circuits.may_ask(&self.plan.source, edge, Instant::now()) {
                    let rule = reattach.map_or(rule, |(_, instead)| instead);
                    return self.core.on(Event::Held { attempt, rule, resume, edges: self.edges() });
                }
                self.gate.resume(attempt);
                let terms = Terms { rule, resume, reattach, mark: self.gate.mark() };
                return self.start(myself, (attempt, edge), terms).await;
            }
            Effect::Finish => {}
            Effect::Fail(error) => {
                let run = self.facts.run;
                // First the query, so that it knows the reason before the plan reports it in its own words.
                let told = QueryEvent::SubqueryFailed { run, error: error.clone() };
                let _ = self.query.cast(QueryMessage::Happened(told));
                self.row.failed(&error.code.to_string());
                self.gate.fail(error);
            }
            Effect::RestartQuery { cause, edge } => {
                tracing::info!(query = %self.facts.query, code = %cause.code, "rows were lost after the plan had used them");
                let lost = QueryEvent::SubqueryLost { run: self.facts.run, cause, edge };
                let _ = self.query.cast(QueryMessage::Happened(lost));
            }
        }
        Vec::new()
    }

    async fn start(
        &mut self,
        myself: &ActorRef<SubqueryMessage>,
        (attempt, edge): (u32, NodeId),
        terms: Terms,
    ) -> Vec<Effect> {
        let subquery = SubqueryId { query: self.facts.query, ordinal: self.plan.ordinal };
        let arguments = AttemptArguments {
            facts: self.facts.clone(),
            plan: self.plan.clone(),
            id: AttemptId { subquery, partition: self.partition, attempt },
            edge,
            terms,
            gate: self.gate.clone(),
            parent_name: self.name.clone(),
        };
        match Actor::spawn_linked(None, AttemptActor, arguments, myself.get_cell()).await {
            Ok((actor, _)) => {
                self.attempt = Some((attempt, actor));
                Vec::new()
            }
            Err(error) => {
                let error = MeshError::new(ErrorCode::Internal, format!("an attempt did not start: {error}"));
                self.core.on(Event::Failed { attempt, error })
            }
        }
    }
}
