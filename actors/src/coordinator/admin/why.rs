//! What would come of somebody's statement, and which policies say so. It is resolved as a statement is, and a policy actor
//! is asked as for one; nothing is planned and nothing run. Of another time than now, no actor can be asked: then this
//! coordinator works it out by the same rules.

use std::sync::Arc;

use greylag_protocol::{
    ErrorCode, QueryId, Result,
    admin::{Explanation, WhyRequest},
    messages::control::{AskedTable, Verdict},
    principal::Principal,
    statement::AdminReply,
};
use uuid::Uuid;

use super::check_principal;
use crate::{
    coordinator::{
        Coordinator,
        query::steps::decision::asked,
        rulebook::{Asked, Rulebook},
    },
    policy::port::{Asking, ask},
};

pub(super) async fn explain(coordinator: &Arc<Coordinator>, request: WhyRequest) -> Result<AdminReply> {
    let WhyRequest { principal, sql, origin, at_unix_ms } = request;
    check_principal(&principal)?;
    let ctx = &coordinator.ctx;
    let (catalog, touched) = coordinator.catalog.touched(&sql).await?;
    let tables = touched.tables.iter().map(|table| asked(table, &catalog)).collect::<Result<Vec<_>>>()?;
    let state = ctx.mesh.state();
    let question = Asked {
        principal: principal.clone(),
        action: touched.action,
        tables: touched.tables,
        origin: origin.clone(),
        at_unix_ms: at_unix_ms.unwrap_or_else(|| ctx.seams.clock.unix_ms()),
    };
    let rulebook = Rulebook::over(ctx, catalog, state.governance.clone());
    let mut explanation = rulebook.explain(state.epoch, question).await?;
    if at_unix_ms.is_none() {
        decided(coordinator, &mut explanation, principal, origin, tables).await?;
    }
    Ok(AdminReply::Why(Box::new(explanation)))
}

/// Puts a policy actor's decision in the place of what was worked out here.
async fn decided(
    coordinator: &Arc<Coordinator>,
    explanation: &mut Explanation,
    principal: Principal,
    origin: String,
    tables: Vec<AskedTable>,
) -> Result<()> {
    let query = QueryId(Uuid::new_v4());
    let asking = Asking { query, principal, action: explanation.action, origin, tables };
    let permit = match ask(&coordinator.ctx, &asking).await {
        Ok(permit) => permit,
        Err(error) if error.code == ErrorCode::Denied => {
            explanation.verdict = Verdict::Deny { reason: error.message };
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    explanation.verdict = Verdict::Permit;
    explanation.epoch = permit.epoch();
    explanation.policies.clone_from(&permit.grounds().policies);
    explanation.notices.clone_from(&permit.grounds().notices);
    for table in &mut explanation.tables {
        let of = permit.obligation(&table.table).cloned();
        (table.filter, table.masks, table.hidden) = of.map(|o| (o.filter, o.masks, o.hidden)).unwrap_or_default();
    }
    Ok(())
}
