//! What the coordinator needs from outside: for calls that are not statements, and for steps that others may fill.

use std::sync::Arc;

use async_trait::async_trait;
use greylag_protocol::{
    MeshError, Result,
    messages::{control::TableName, join::Authority},
    principal::Principal,
    statement::Session,
};

use crate::planner::port::Pin;

/// Signs bearer tokens with the mesh's own key. The tokens' format is the doors' business, so a door's crate
/// implements it; a node without one issues no tokens.
pub trait BearerIssuer: Send + Sync + 'static {
    /// A token for this principal, valid for `ttl_secs` from `now_unix_ms`.
    fn issue(&self, authority: &Authority, principal: &Principal, ttl_secs: u64, now_unix_ms: u64) -> Result<String>;
}

/// Steps that are empty unless somebody is plugged in.
#[derive(Clone, Default)]
pub struct Hooks {
    pub dialect: Option<Arc<dyn DialectHook>>,
    pub snapshot: Option<Arc<dyn SnapshotHook>>,
    pub healing: Option<Arc<dyn HealingHook>>,
}

/// Step 7: foreign dialects.
#[async_trait]
pub trait DialectHook: Send + Sync + 'static {
    /// The statement in the mesh's own dialect; `None` if it is in it already. GL1005 naming what cannot be said.
    async fn translate(&self, session: &Session, sql: &str) -> Result<Option<String>>;
}

/// Step 8: states of sources.
#[async_trait]
pub trait SnapshotHook: Send + Sync + 'static {
    /// The state in which each of these tables is to be read; none for those that are read as they are.
    async fn pin(&self, session: &Session, tables: &[TableName]) -> Result<Vec<Pin>>;
}

/// Step 10: statements that cannot be planned.
#[async_trait]
pub trait HealingHook: Send + Sync + 'static {
    /// Another text for a statement that failed like this, or `None`. It is decided and planned like any other, once.
    async fn heal(&self, session: &Session, sql: &str, error: &MeshError) -> Result<Option<String>>;
}
