//! Step 8: which state of its sources the statement reads.

use std::sync::Arc;

use greylag_protocol::{Result, messages::control::TableName, statement::Session};

use crate::coordinator::{port::SnapshotHook, query::QueryMessage};

pub async fn take(hook: Arc<dyn SnapshotHook>, session: Session, tables: Vec<TableName>) -> Result<QueryMessage> {
    Ok(QueryMessage::Pinned(hook.pin(&session, &tables).await?))
}
