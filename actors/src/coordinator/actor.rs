//! The coordinator's actor: supervises the statements, which come to it linked, and answers other nodes' questions
//! about them.

use std::sync::Arc;

use greylag_protocol::{
    ErrorCode, MeshError,
    messages::control::{ControlReply, ControlRequest},
    state::Role,
};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::time::Instant;

use super::{Coordinator, catalog::CatalogHandle, watch_revocations};
use crate::{NodeCtx, RoleMessage, Wire, directory::RoleGuard, observation, task::TaskGuard};

pub struct CoordinatorActor;

pub struct State {
    coordinator: Arc<Coordinator>,
    _revocations: TaskGuard,
    /// Dropped with the actor: doors find no coordinator then.
    _guards: [RoleGuard; 2],
}

impl Actor for CoordinatorActor {
    type Msg = RoleMessage;
    type State = State;
    type Arguments = Arc<NodeCtx>;

    async fn pre_start(&self, myself: ActorRef<RoleMessage>, ctx: Arc<NodeCtx>) -> Result<State, ActorProcessingErr> {
        let catalog = CatalogHandle::spawn(&ctx, myself.get_cell()).await?;
        let coordinator = Arc::new(Coordinator::new(ctx.clone(), myself.get_cell(), catalog));
        let offered = ctx.directory.offer(Role::Coordinator, coordinator.clone());
        let entered = ctx.directory.enter(Role::Coordinator, myself);
        let watching = watch_revocations(Arc::downgrade(&coordinator), ctx.clone());
        Ok(State { coordinator, _revocations: TaskGuard::control(watching), _guards: [offered, entered] })
    }

    async fn handle(
        &self,
        _myself: ActorRef<RoleMessage>,
        message: RoleMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let RoleMessage::Call(Wire(request), port) = message;
        let reply = match request {
            Ok(request) => state.answer(request),
            Err(error) => ControlReply::Error(error),
        };
        observation::reply(port, reply);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<RoleMessage>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(cell, error) if state.coordinator.catalog.is(&cell) => {
                return Err(format!("the catalog has failed: {error}").into());
            }
            SupervisionEvent::ActorTerminated(cell, _, _) if state.coordinator.catalog.is(&cell) => {
                return Err("the catalog has stopped".into());
            }
            // The statement's reader has been told by the end of its state.
            SupervisionEvent::ActorFailed(..) => tracing::error!("a statement's actor failed"),
            _ => {}
        }
        Ok(())
    }
}

impl State {
    fn answer(&self, request: ControlRequest) -> ControlReply {
        match request {
            ControlRequest::Cancel { query, principal } => match self.coordinator.cancel(query, &principal) {
                Ok(cancelled) => ControlReply::Cancelled(cancelled),
                Err(error) => ControlReply::Error(error),
            },
            ControlRequest::JobProgress { job, principal } => {
                let node = self.coordinator.ctx.node;
                ControlReply::Progress(self.coordinator.jobs.get(job, &principal).map(|job| job.progress(node)))
            }
            ControlRequest::CancelJob { job, principal } => {
                ControlReply::Cancelled(self.coordinator.jobs.forget(job, &principal))
            }
            ControlRequest::ObserveQueries => {
                let (rows, truncated) = observation::fitting(self.coordinator.ledger.queries());
                ControlReply::Queries { rows, truncated }
            }
            ControlRequest::ObserveSubqueries => {
                let (rows, truncated) = observation::fitting(self.coordinator.ledger.attempts());
                ControlReply::Subqueries { rows, truncated }
            }
            ControlRequest::ObserveCircuits => {
                let rows = self.coordinator.circuits.rows(self.coordinator.ctx.node, Instant::now());
                let (rows, truncated) = observation::fitting(rows);
                ControlReply::Circuits { rows, truncated }
            }
            ControlRequest::ObserveUsage => {
                let (rows, truncated) = observation::fitting(self.coordinator.ctx.quota.usage());
                ControlReply::Usage { rows, truncated }
            }
            ControlRequest::IssueBearer(request) => super::bearer::answer(&self.coordinator.ctx, &request),
            request => observation::answer(&self.coordinator.ctx, &request).unwrap_or_else(|| {
                ControlReply::Error(MeshError::new(ErrorCode::Unsupported, "a coordinator decides nothing"))
            }),
        }
    }
}
