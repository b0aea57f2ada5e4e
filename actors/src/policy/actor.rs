//! The policy's actor: hands each question to [`super::core::decide`] with the state's epoch.

use std::sync::Arc;

use greylag_protocol::{
    ErrorCode, MeshError, Result,
    messages::control::{ControlReply, ControlRequest},
    state::Role,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::core::decide;
use crate::{NodeCtx, RoleMessage, Wire, directory::RoleGuard, observation};

pub struct PolicyActor;

pub struct State {
    ctx: Arc<NodeCtx>,
    _entered: RoleGuard,
}

impl Actor for PolicyActor {
    type Msg = RoleMessage;
    type State = State;
    type Arguments = Arc<NodeCtx>;

    async fn pre_start(&self, myself: ActorRef<RoleMessage>, ctx: Arc<NodeCtx>) -> Result<State, ActorProcessingErr> {
        let entered = ctx.directory.enter(Role::Policy, myself);
        Ok(State { ctx, _entered: entered })
    }

    async fn handle(
        &self,
        _myself: ActorRef<RoleMessage>,
        message: RoleMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let RoleMessage::Call(Wire(request), port) = message;
        let reply = match request {
            Ok(ControlRequest::Decide(request)) => {
                let epoch = state.ctx.mesh.state().epoch;
                ControlReply::Decision(decide(state.ctx.node, epoch, request))
            }
            Ok(request) => observation::answer(&state.ctx, &request).unwrap_or_else(|| {
                ControlReply::Error(MeshError::new(ErrorCode::Unsupported, "a policy actor only decides"))
            }),
            Err(error) => ControlReply::Error(error),
        };
        observation::reply(port, reply);
        Ok(())
    }
}
