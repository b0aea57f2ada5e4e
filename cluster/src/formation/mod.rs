//! How a node comes to its place in a mesh, with no human: it takes its old one, joins the mesh of its seeds with a
//! token, or founds one together with others like it.
//!
//! | file | what |
//! |---|---|
//! | `core` | what to do, from what the seeds have answered and who has been heard of; pure |
//! | `roster` | who has been heard of |
//! | `seek`, `ask` | asking the seeds |
//! | `desk` | being asked |
//! | `hints` | where else to ask: what neighbours say of themselves |
//! | `founding` | what the founder does |
//! | `admission` | what a member does for a joiner |
//! | `restore` | a lost mesh made anew from a snapshot |
//!
//! INVARIANT: no two meshes come of one set of nodes. A node stores one enrolment and no second one, a founder
//! initialises the log only once every founding member has stored its own, and who has stored one never founds.

mod admission;
mod ask;
mod core;
#[cfg(test)]
mod core_test;
mod desk;
mod founding;
pub(crate) mod hints;
mod restore;
mod roster;
mod seek;

pub(crate) use admission::Admissions;
pub(crate) use desk::JoinDesk;
pub(crate) use founding::{FoundingDesk, found, mint};
pub(crate) use hints::Hints;
pub use restore::{Restored, restore};
pub(crate) use roster::FOUNDERS_MAX;
pub(crate) use seek::{Seeker, Sought};
