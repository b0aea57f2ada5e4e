//! The policy's actor: answers at once what has been decided before, and has the rest worked out with the query work, so
//! that nobody waits behind a long one.

use std::sync::Arc;

use greylag_protocol::{
    ErrorCode, MeshError, Result,
    messages::control::{AskedTable, ControlReply, ControlRequest, Verdict},
    state::Role,
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use super::core::{Case, Office};
use crate::{NodeCtx, RoleMessage, Wire, bounds::Bound, directory::RoleGuard, measure, observation, task::caught};

/// Decisions worked out at once; more are refused, and asked for elsewhere.
const DECIDING_MAX: u64 = 256;

pub struct PolicyActor;

pub struct State {
    ctx: Arc<NodeCtx>,
    office: Office,
    deciding: Arc<Bound>,
    _entered: RoleGuard,
}

type Port = RpcReplyPort<Wire<ControlReply>>;

impl Actor for PolicyActor {
    type Msg = RoleMessage;
    type State = State;
    type Arguments = Arc<NodeCtx>;

    async fn pre_start(&self, myself: ActorRef<RoleMessage>, ctx: Arc<NodeCtx>) -> Result<State, ActorProcessingErr> {
        let entered = ctx.directory.enter(Role::Policy, myself);
        let deciding = ctx.bounds.open("policy.deciding_max", "", DECIDING_MAX);
        Ok(State { ctx, office: Office::default(), deciding, _entered: entered })
    }

    async fn handle(
        &self,
        _myself: ActorRef<RoleMessage>,
        message: RoleMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let RoleMessage::Call(Wire(request), port) = message;
        match request {
            Ok(request @ (ControlRequest::Decide(_) | ControlRequest::Discern(_))) => {
                state.work_out(request, port);
            }
            Ok(request) => {
                let refused =
                    || ControlReply::Error(MeshError::new(ErrorCode::Unsupported, "a policy actor only decides"));
                observation::reply(port, observation::answer(&state.ctx, &request).unwrap_or_else(refused));
            }
            Err(error) => observation::reply(port, ControlReply::Error(error)),
        }
        Ok(())
    }
}

impl State {
    fn work_out(&mut self, request: ControlRequest, port: Port) {
        let state = self.ctx.mesh.state();
        self.office.update(&state.governance);
        let (asked, origin) = match &request {
            ControlRequest::Decide(decide) => (&decide.asked, &decide.origin),
            ControlRequest::Discern(discern) => (&discern.asked, &discern.origin),
            _ => return,
        };
        let case = match self.case(asked, origin) {
            Ok(case) => case,
            Err(error) => return observation::reply(port, ControlReply::Error(error.at_node(self.ctx.node))),
        };
        let (node, epoch) = (self.ctx.node, state.epoch);
        if let ControlRequest::Decide(decide) = &request
            && let Some(ruling) = case.kept(decide)
        {
            measure::decision(ruling.verdict == Verdict::Permit, true);
            let decision = ruling.into_decision(decide.clone(), epoch, node);
            return observation::reply(port, ControlReply::Decision(decision));
        }
        if !self.deciding.reserve(1) {
            let error = MeshError::new(ErrorCode::QueueFull, format!("{DECIDING_MAX} decisions are under way"));
            return observation::reply(port, ControlReply::Error(error.at_node(node)));
        }
        let place = Place(self.deciding.clone());
        // It computes for some milliseconds and then is done, whoever still waits for it.
        drop(self.ctx.seams.queries.spawn(Box::pin(async move {
            let _place = place;
            let answer = caught("a decision", async {
                Ok(match request {
                    ControlRequest::Decide(decide) => {
                        let ruling = case.decide(&decide);
                        measure::decision(ruling.verdict == Verdict::Permit, false);
                        ControlReply::Decision(ruling.into_decision(decide, epoch, node))
                    }
                    ControlRequest::Discern(discern) => {
                        ControlReply::Discerned(case.discern(&discern.principal, &discern.asked))
                    }
                    _ => return Err(MeshError::internal("not a question about policy")),
                })
            });
            observation::reply(port, answer.await.unwrap_or_else(ControlReply::Error));
        })));
    }

    fn case(&mut self, asked: &[AskedTable], origin: &str) -> Result<Case> {
        let engine = self.office.engine(asked)?;
        let circumstances = self.office.circumstances(origin, self.ctx.seams.clock.unix_ms());
        Ok(Case { engine, circumstances, rulings: self.office.rulings().clone() })
    }
}

/// One of the decisions under way.
struct Place(Arc<Bound>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.release(1);
    }
}
