//! Step 7: from a foreign dialect into this one, before anything can be read off the text.

use std::sync::Arc;

use greylag_protocol::{Result, statement::Session};

use crate::coordinator::{port::DialectHook, query::QueryMessage};

pub async fn take(hook: Arc<dyn DialectHook>, session: Session, sql: String) -> Result<QueryMessage> {
    let translated = hook.translate(&session, &sql).await?;
    Ok(QueryMessage::Translated(translated.unwrap_or(sql)))
}
