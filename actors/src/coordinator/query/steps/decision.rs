//! Step 3: whether it may, and what must be done to its tables. The question holds the tables' columns as the plan will
//! see them, so that nothing is planned that was not decided about.

use std::{sync::Arc, time::Duration};

use greylag_protocol::{
    ErrorCode, MeshError, QueryId, Result, SourceName,
    messages::control::{AskedTable, TableName},
    schema::WireSchema,
    statement::Session,
};
use tokio::time::timeout;

use crate::{
    NodeCtx,
    coordinator::{query::QueryMessage, system},
    planner::port::{Catalog, Touched},
    policy::port::{Asking, Decided, decide},
};

/// Longest wait for what the log has that this node has not, when an edge knew of newer policies.
const CATCH_UP_MAX: Duration = Duration::from_millis(500);

/// The question about a statement, whether it is to be run or only described: who may select may know what comes of it.
/// GL1002 for a table that has gone from the catalog.
pub fn asking(query: QueryId, session: &Session, touched: &Touched, catalog: &Catalog) -> Result<Asking> {
    let action = touched.action;
    let tables = touched.tables.iter().map(|table| asked(table, catalog)).collect::<Result<_>>()?;
    Ok(Asking { query, principal: session.principal.clone(), action, origin: session.door.to_owned(), tables })
}

/// A table as a plan over this catalog would see it.
pub fn asked(table: &TableName, catalog: &Catalog) -> Result<AskedTable> {
    let columns = match system::schema_of(table) {
        Some(schema) => Some(schema),
        None => SourceName::new(table.source.clone()).ok().and_then(|source| {
            let source = catalog.sources.get(&source)?;
            let found = source.tables.iter().find(|t| t.schema == table.schema && t.name == table.table)?;
            Some(found.columns.0.clone())
        }),
    };
    let gone = || MeshError::new(ErrorCode::UnknownTable, format!("table `{table}` is not known"));
    Ok(AskedTable { table: table.clone(), columns: WireSchema(columns.ok_or_else(gone)?) })
}

/// `again`: an edge has refused what was decided before.
pub async fn take(ctx: Arc<NodeCtx>, asking: Asking, again: bool) -> Result<QueryMessage> {
    if again {
        // Without a leader it is decided by what is known here, and the edge refuses once more.
        let _ = timeout(CATCH_UP_MAX, ctx.mesh.catch_up()).await;
    }
    Ok(match decide(&ctx, &asking).await? {
        Decided::Permitted(permit) => QueryMessage::Decided(permit),
        Decided::Denied(decision, error) => QueryMessage::Denied(decision, error),
    })
}
