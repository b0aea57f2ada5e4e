//! From text to a plan, by the planner of this node. Row filters (step 6) and masks (step 11) are put into it by the engine,
//! as the permit says.

use std::sync::Arc;

use greylag_protocol::{ErrorCode, MeshError, QueryId, Result, state::Role, statement::Session};

use crate::{
    coordinator::{Coordinator, HANDLE_WAIT_MAX, edges::LiveEdges, handle_within, query::QueryMessage, system::Tables},
    planner::port::{Catalog, Permit, Pin, PlanRequest, Planner, SystemTables},
};

/// What planning needs.
pub struct ToPlan {
    pub query: QueryId,
    pub permit: Permit,
    pub sql: String,
    pub parameters: Option<arrow::array::RecordBatch>,
    pub catalog: Arc<Catalog>,
    pub session: Session,
    pub pins: Vec<Pin>,
    /// Lines of `EXPLAIN` about the other steps.
    pub steps: Vec<(greylag_protocol::step::Step, String)>,
}

pub async fn take(coordinator: Arc<Coordinator>, to_plan: ToPlan) -> Result<QueryMessage> {
    let ctx = &coordinator.ctx;
    let planner = handle_within::<dyn Planner>(ctx, &Role::Planner, HANDLE_WAIT_MAX).await.ok_or_else(|| {
        MeshError::new(ErrorCode::PeerUnreachable, "no planner runs beside this coordinator").at_node(ctx.node)
    })?;
    let system: Arc<dyn SystemTables> = Arc::new(Tables::new(coordinator.clone(), to_plan.session.clone()));
    let request = PlanRequest {
        permit: to_plan.permit,
        sql: to_plan.sql,
        parameters: to_plan.parameters,
        catalog: to_plan.catalog,
        options: to_plan.session.options,
        system,
        edges: Arc::new(LiveEdges(ctx.clone())),
        pins: to_plan.pins,
        steps: to_plan.steps,
    };
    Ok(QueryMessage::Planned(planner.plan(to_plan.query, request).await?))
}
