//! Messages between nodes. Each has a size limit and is refused with a code when it does not fit.

pub mod authority;
pub mod control;
pub mod edge;
pub mod forward;
pub mod health;
pub mod join;
