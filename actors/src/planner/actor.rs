//! The planner's actor. It offers a handle for the coordinator of its node; planning itself runs with the query work.

use std::sync::Arc;

use async_trait::async_trait;
use greylag_protocol::{
    ErrorCode, MeshError, QueryId, Result,
    messages::control::{ControlReply, TableName},
    state::Role,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::port::{ExecutablePlan, Permit, PlanRequest, Planner};
use crate::{
    NodeCtx, RoleMessage, Wire,
    directory::RoleGuard,
    observation,
    task::{TaskGuard, caught},
    turnstile::{Entry, Turnstile},
};

/// Statements planned at once on a node: planning is CPU work, so more would only make each slower.
const PLANNING_MAX: u64 = 8;
/// Statements waiting to be planned. The coordinator's own admission bounds them too.
const PLANNING_QUEUE_MAX: u64 = 1_024;

pub struct PlannerActor;

pub struct State {
    ctx: Arc<NodeCtx>,
    /// Ends the plans being made when the actor ends.
    stop: CancellationToken,
    _guards: [RoleGuard; 2],
}

impl Drop for State {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Actor for PlannerActor {
    type Msg = RoleMessage;
    type State = State;
    type Arguments = Arc<NodeCtx>;

    async fn pre_start(&self, myself: ActorRef<RoleMessage>, ctx: Arc<NodeCtx>) -> Result<State, ActorProcessingErr> {
        let stop = CancellationToken::new();
        let turnstile = Turnstile::new(
            ctx.bounds.open("planner.running_max", "", PLANNING_MAX),
            ctx.bounds.open("planner.queue_max", "", PLANNING_QUEUE_MAX),
        );
        let desk: Arc<dyn Planner> = Arc::new(Desk { ctx: ctx.clone(), turnstile, stop: stop.clone() });
        let offered = ctx.directory.offer(Role::Planner, desk);
        let entered = ctx.directory.enter(Role::Planner, myself);
        Ok(State { ctx, stop, _guards: [offered, entered] })
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
                ControlReply::Error(MeshError::new(ErrorCode::Unsupported, "a planner is asked on its own node only"))
            }),
            Err(error) => ControlReply::Error(error),
        };
        observation::reply(port, reply);
        Ok(())
    }
}

/// What the coordinator holds.
struct Desk {
    ctx: Arc<NodeCtx>,
    turnstile: Turnstile,
    stop: CancellationToken,
}

#[async_trait]
impl Planner for Desk {
    async fn plan(&self, query: QueryId, request: PlanRequest) -> Result<Arc<dyn ExecutablePlan>> {
        let gone = || MeshError::new(ErrorCode::PeerUnreachable, "the planner has stopped").at_node(self.ctx.node);
        let _slot = match self.turnstile.enter() {
            Entry::Inside(slot) => slot,
            Entry::Queued(queued) => queued.wait().await.ok_or_else(gone)?,
            Entry::Refused => {
                let message = format!("{PLANNING_QUEUE_MAX} statements wait to be planned already");
                return Err(MeshError::new(ErrorCode::QueueFull, message));
            }
        };
        let engine = self.ctx.engine.clone();
        let (sender, planned) = oneshot::channel();
        let work = async move {
            let touched = engine.touched(&request.sql, &request.catalog)?;
            covered(query, &request.permit, &touched.tables)?;
            engine.plan(request).await
        };
        let _task = TaskGuard::query(&self.ctx.seams, async move {
            // Nobody waits any more if it cannot be sent.
            let _ = sender.send(caught("planning", work).await);
        });
        tokio::select! {
            biased;
            planned = planned => planned.unwrap_or_else(|_| Err(gone())),
            () = self.stop.cancelled() => Err(gone()),
        }
    }
}

/// INVARIANT: nothing is planned without the decision about it, and no table that the decision was not about.
fn covered(query: QueryId, permit: &Permit, tables: &[TableName]) -> Result<()> {
    if permit.query() != query {
        return Err(MeshError::new(ErrorCode::NoDecision, "the permit is for another statement"));
    }
    match tables.iter().find(|table| !permit.covers(table)) {
        Some(table) => Err(MeshError::new(ErrorCode::NoDecision, format!("no decision covers `{table}`"))),
        None => Ok(()),
    }
}
