//! The planner role.

pub mod port;
