//! What `system.*` holds, read when a plan reads it: the replicated state as this node has it, the catalog, and what
//! the live nodes tell of their statements and actors. A node that does not answer in time is left out.

mod audited;
mod columns;
mod gather;
mod governed;
mod observed;
mod resources;

use std::sync::Arc;

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use async_trait::async_trait;
use greylag_protocol::{
    ErrorCode, MeshError, Result, ids::RESERVED_NAMES, messages::control::TableName, statement::Session,
};

use super::Coordinator;
use crate::planner::port::SystemTables;

pub use audited::recorded;
pub use columns::TABLES;

/// Names and schemas of the system tables.
pub fn schemas() -> Vec<(&'static str, SchemaRef)> {
    TABLES.iter().map(|(name, columns)| (*name, columns::schema(columns))).collect()
}

/// The tables as one principal sees them.
pub struct Tables {
    coordinator: Arc<Coordinator>,
    session: Session,
}

impl Tables {
    pub fn new(coordinator: Arc<Coordinator>, session: Session) -> Self {
        Self { coordinator, session }
    }
}

/// Columns of a system table by its full name; `None` for any other.
pub fn schema_of(table: &TableName) -> Option<SchemaRef> {
    let is_system = table.source == RESERVED_NAMES[0] && table.schema == RESERVED_NAMES[1];
    let (_, columns) = TABLES.iter().find(|(name, _)| is_system && *name == table.table)?;
    Some(columns::schema(columns))
}

#[async_trait]
impl SystemTables for Tables {
    fn schemas(&self) -> Vec<(&'static str, SchemaRef)> {
        schemas()
    }

    async fn rows(&self, table: &str) -> Result<RecordBatch> {
        let coordinator = &self.coordinator;
        match table {
            "nodes" => resources::nodes(coordinator, coordinator.ctx.mesh.health().await),
            "roles" => resources::roles(coordinator),
            "sources" => resources::sources(coordinator),
            "tables" => resources::tables(coordinator, &self.session).await,
            "queries" => observed::queries(gather::queries(coordinator).await),
            "subqueries" => observed::subqueries(gather::subqueries(coordinator).await),
            "actors" => observed::actors(gather::actors(coordinator).await),
            "bounds" => observed::bounds(gather::bounds(coordinator).await),
            "policies" => governed::policies(coordinator).await,
            "tags" => governed::tags(coordinator),
            "attributes" => governed::attributes(coordinator),
            "keys" => governed::keys(coordinator),
            "circuits" => observed::circuits(gather::circuits(coordinator).await),
            "audit" => audited::audit(gather::audit(coordinator).await),
            "decisions" => audited::decisions(gather::audit(coordinator).await),
            "usage" => observed::usage(gather::usage(coordinator).await),
            "quotas" => resources::quotas(coordinator),
            _ => Err(MeshError::new(ErrorCode::UnknownTable, format!("there is no table `system.{table}`"))),
        }
    }
}
