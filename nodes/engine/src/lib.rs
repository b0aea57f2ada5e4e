//! The query engine: DataFusion with sources behind edges. It parses a statement, resolves its tables, plans it, pushes
//! down to each source what that source computes exactly alike, and runs the rest over the rows that come back.
//!
//! It opens nothing itself: sub-queries go through the opener that the coordinator gives to each run. It decides nothing
//! about who may do what: without a permit for every table a statement touches, it plans nothing.

mod blocking;
mod catalog;
mod describe;
mod engine;
mod error;
mod exec;
mod explain;
mod governed;
mod memory;
mod nearest;
mod parameters;
mod plan;
mod pushdown;
mod reads;
mod scan;
pub mod session;
mod statement;

pub use engine::Engine;
pub use session::EngineConfig;
pub use statement::STATEMENT_BYTES_MAX;
