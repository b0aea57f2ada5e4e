//! One statement from admission to its last row: an actor that walks the steps, supervises its sub-queries and runs
//! the plan again if it must. Linked to the coordinator; gone with its statement.

mod actor;
pub mod core;
#[cfg(test)]
mod core_test;
mod effects;
pub mod message;
mod run;
mod state;
pub mod steps;

pub use actor::QueryActor;
pub use message::{Announced, Job, QueryMessage};
pub use state::lost;
