//! The query's actor: passes what has happened to [`QueryCore`](super::core::QueryCore) and lets the state do what it
//! answers. A broken sub-query is a failure of this query, and a broken query one of nobody else's.

use greylag_protocol::MeshError;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::{
    core::{Event, Stage},
    message::{Arguments, QueryMessage},
    state::QueryState,
};

pub struct QueryActor;

impl Actor for QueryActor {
    type Msg = QueryMessage;
    type State = QueryState;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<QueryMessage>,
        (coordinator, job): Arguments,
    ) -> Result<QueryState, ActorProcessingErr> {
        let mut state = QueryState::new(&myself, coordinator, job);
        state.begin(&myself);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<QueryMessage>,
        message: QueryMessage,
        state: &mut QueryState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            QueryMessage::Happened(event) => state.happened(&myself, event),
            QueryMessage::Open(opening) => state.open(&myself, opening).await,
            outcome => state.took(&myself, outcome),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<QueryMessage>,
        event: SupervisionEvent,
        state: &mut QueryState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(cell, _) => {
                let ours = state.forget(&cell.get_id());
                if let (true, Stage::Running { run }) = (ours, state.stage().clone()) {
                    tracing::error!(query = %state.query(), "a sub-query's actor failed");
                    let error = MeshError::internal("a sub-query's actor failed");
                    state.happened(&myself, Event::RunFailed { run, error });
                }
            }
            SupervisionEvent::ActorTerminated(cell, _, _) => {
                state.forget(&cell.get_id());
            }
            _ => {}
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<QueryMessage>,
        state: &mut QueryState,
    ) -> Result<(), ActorProcessingErr> {
        state.close();
        Ok(())
    }
}
