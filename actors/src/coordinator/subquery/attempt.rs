//! One attempt: the local, linked stand-in for work on an edge. The work itself is a task among the query work; this
//! actor owns it, tells its outcome, and takes it along when it dies.

use std::sync::Arc;

use greylag_protocol::{AttemptId, MeshError, NodeId, messages::control::SubqueryRow, prefix::Prefix};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;

use super::{
    QueryFacts,
    core::{Event, Rule},
    receive::{self, Outcome},
};
use crate::{
    coordinator::gate::{ReleaseGate, core::Mark},
    planner::port::SubqueryPlan,
    task::{TaskGuard, caught},
    tree::{ActorState, TreeEntry},
};

pub struct AttemptActor;

/// Why an attempt is made, and with what it has to begin: see `Effect::StartAttempt`.
#[derive(Debug, Clone)]
pub struct Terms {
    pub rule: Rule,
    pub resume: Prefix,
    pub reattach: Option<(u32, Rule)>,
    /// Where `resume` ends, for a source that can begin there.
    pub mark: Option<Mark>,
}

pub struct AttemptArguments {
    pub facts: Arc<QueryFacts>,
    pub plan: Arc<SubqueryPlan>,
    pub id: AttemptId,
    pub edge: NodeId,
    pub terms: Terms,
    pub gate: ReleaseGate,
    pub parent_name: String,
}

#[derive(RactorMessage)]
pub enum AttemptMessage {
    Over(Outcome),
}

pub struct AttemptState {
    attempt: u32,
    outcome: Option<Outcome>,
    _work: TaskGuard,
    row: TreeEntry,
}

impl Actor for AttemptActor {
    type Msg = AttemptMessage;
    type State = AttemptState;
    type Arguments = AttemptArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<AttemptMessage>,
        arguments: AttemptArguments,
    ) -> Result<AttemptState, ActorProcessingErr> {
        let attempt = arguments.id.attempt;
        let seams = arguments.facts.ctx.seams.clone();
        let name = format!("{}#{attempt}", arguments.parent_name);
        let row = arguments.facts.ctx.tree().register(&name, &arguments.parent_name);
        row.set(ActorState::Running);
        let work = TaskGuard::query(&seams, async move {
            let entry = arguments.facts.ledger.attempt(row_of(&arguments));
            let outcome = caught("an attempt", async { Ok(receive::run(&arguments, &entry).await) }).await;
            let outcome = outcome.unwrap_or_else(Outcome::Failed);
            match &outcome {
                Outcome::Ended => entry.done(),
                Outcome::Failed(error) | Outcome::GateFailed(error) => entry.failed(error),
                Outcome::Unwanted => {}
            }
            // The row is in the past before anybody acts on the outcome.
            drop(entry);
            let _ = myself.cast(AttemptMessage::Over(outcome));
        });
        Ok(AttemptState { attempt, outcome: None, _work: work, row })
    }

    async fn handle(
        &self,
        myself: ActorRef<AttemptMessage>,
        message: AttemptMessage,
        state: &mut AttemptState,
    ) -> Result<(), ActorProcessingErr> {
        let AttemptMessage::Over(outcome) = message;
        state.outcome = Some(outcome);
        state.row.set(ActorState::Stopped);
        // The supervisor gets the state with the news of the end: there is no second message that could overtake it.
        myself.stop(None);
        Ok(())
    }
}

impl AttemptState {
    /// What it came to; `None` if it was stopped on the way.
    pub fn into_event(self) -> Option<Event> {
        let attempt = self.attempt;
        Some(match self.outcome? {
            Outcome::Ended => Event::Ended { attempt },
            Outcome::Failed(error) => Event::Failed { attempt, error },
            Outcome::GateFailed(error) => Event::GateFailed { attempt, error },
            // Whoever fenced it knows; should nobody have done so, this attempt has failed.
            Outcome::Unwanted => {
                Event::Failed { attempt, error: MeshError::internal("an attempt was shut out at the gate") }
            }
        })
    }
}

fn row_of(arguments: &AttemptArguments) -> SubqueryRow {
    SubqueryRow {
        query: arguments.facts.query,
        ordinal: arguments.plan.ordinal,
        attempt: arguments.id.attempt,
        source: arguments.plan.source.to_string(),
        edge: arguments.edge,
        rule: arguments.terms.rule.name().to_owned(),
        state: String::new(),
        sql: arguments.plan.sql.clone(),
        rows: 0,
        bytes: 0,
        elapsed_us: 0,
        error: None,
    }
}
