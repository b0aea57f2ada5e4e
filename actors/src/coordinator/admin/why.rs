//! What would come of somebody's statement, and which policies say so. It is resolved as a statement is; nothing is planned
//! and nothing run.

use std::sync::Arc;

use greylag_protocol::{Result, admin::WhyRequest, statement::AdminReply};

use super::check_principal;
use crate::coordinator::{
    Coordinator,
    grounds::{Asked, Grounds},
};

pub(super) async fn explain(coordinator: &Arc<Coordinator>, request: WhyRequest) -> Result<AdminReply> {
    let WhyRequest { principal, sql, origin, at_unix_ms } = request;
    check_principal(&principal)?;
    let ctx = &coordinator.ctx;
    let (catalog, touched) = coordinator.catalog.touched(&sql).await?;
    let state = ctx.mesh.state();
    let asked = Asked {
        principal,
        action: touched.action,
        tables: touched.tables,
        origin,
        at_unix_ms: at_unix_ms.unwrap_or_else(|| ctx.seams.clock.unix_ms()),
    };
    let grounds = Grounds::over(ctx, catalog, state.governance.clone());
    Ok(AdminReply::Why(Box::new(grounds.explain(state.epoch, asked).await?)))
}
