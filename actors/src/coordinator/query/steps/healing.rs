//! Step 10: another text for one that cannot be planned, from whoever is plugged in for it. Off unless somebody is. The new
//! text walks all steps from the beginning: it is decided like any other.

use std::sync::Arc;

use greylag_protocol::{MeshError, Result, statement::Session};

use crate::coordinator::{port::HealingHook, query::QueryMessage};

pub async fn take(hook: Arc<dyn HealingHook>, session: Session, sql: String, error: MeshError) -> Result<QueryMessage> {
    Ok(QueryMessage::Healed(hook.heal(&session, &sql, &error).await?))
}
