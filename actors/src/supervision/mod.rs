//! Who restarts whom. A supervisor is an actor that starts its children, restarts those that fail after a back-off,
//! and fails itself when a budget of restarts is spent within a window (a meltdown), so that its own supervisor acts.
//!
//! `core.rs` decides and never awaits; `actor.rs` awaits and never decides. `task.rs` puts a plain future under
//! supervision.

mod actor;
mod child;
mod core;
#[cfg(test)]
mod core_test;
mod handle;
#[cfg(test)]
mod live_test;
mod spec;
mod task;

pub use handle::{SUPERVISOR_SHUTDOWN, Supervisor, SupervisorRef};
pub use spec::{Budget, ChildSpec, Restart, SHUTDOWN_DEFAULT, Start, Strategy};
