//! Which node holds which role.

mod plan;

pub use plan::plan;
