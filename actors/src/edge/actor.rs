//! The edge's actor: offers its [`Desk`] to this node, and lets go of everything when it ends.

use std::sync::Arc;

use greylag_protocol::{ErrorCode, MeshError, SourceName, messages::control::ControlReply, state::Role};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio_util::sync::CancellationToken;

use super::{desk::Desk, port::LocalEdge};
use crate::{NodeCtx, RoleMessage, Wire, directory::RoleGuard, observation, task::TaskGuard};

pub struct EdgeActor;

pub struct State {
    ctx: Arc<NodeCtx>,
    /// Ends the sub-queries of this edge when it ends.
    stop: CancellationToken,
    _warming: TaskGuard,
    _guards: [RoleGuard; 2],
}

impl Drop for State {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Actor for EdgeActor {
    type Msg = RoleMessage;
    type State = State;
    type Arguments = (Arc<NodeCtx>, SourceName);

    async fn pre_start(
        &self,
        myself: ActorRef<RoleMessage>,
        (ctx, source): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let stop = CancellationToken::new();
        let role = Role::Edge(source.clone());
        let desk = Arc::new(Desk::new(ctx.clone(), source, stop.clone()));
        let warm = desk.clone();
        let warming = TaskGuard::query(&ctx.seams, async move { warm.warm().await });
        let offered = ctx.directory.offer::<dyn LocalEdge>(role.clone(), desk);
        let entered = ctx.directory.enter(role, myself);
        Ok(State { ctx, stop, _warming: warming, _guards: [offered, entered] })
    }

    async fn handle(
        &self,
        _myself: ActorRef<RoleMessage>,
        message: RoleMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let RoleMessage::Call(Wire(request), port) = message;
        let reply = match request {
            Ok(request) => observation::answer(&state.ctx, &request).unwrap_or_else(|| {
                ControlReply::Error(MeshError::new(ErrorCode::Unsupported, "an edge answers queries on data streams"))
            }),
            Err(error) => ControlReply::Error(error),
        };
        observation::reply(port, reply);
        Ok(())
    }
}
