//! What one statement can name: the sources' tables as their edges describe them, and `system.*`. How a name finds its
//! table is in `resolve`; how DataFusion sees a table is in `table` (sources) and `system`; `context` joins both for its
//! planner, behind the gate that refuses every table without a permit.

mod context;
mod resolve;
mod system;
mod table;

pub(crate) use context::StatementContext;
pub(crate) use resolve::{Resolved, SYSTEM_SCHEMA, resolve, system_table};
pub(crate) use system::SYSTEM_TABLES;
pub(crate) use table::SourceTable;
