//! Who restarts whom. A supervisor is an actor that starts its children, restarts those that fail after a back-off,
//! and fails itself when a budget of restarts is spent within a window (a meltdown), so that its own supervisor acts.
//!
//! `core.rs` decides and never awaits; `actor.rs` awaits and never decides.

mod actor;
mod spec;

pub use actor::{Supervisor, SupervisorRef};
pub use spec::{Budget, ChildSpec, Restart, Start, Strategy};
