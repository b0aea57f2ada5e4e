//! Who is there, and how bytes get to them: identity and certificates, one QUIC endpoint, formation and joining, the
//! Raft log and the state it keeps, placement of roles. It knows no SQL and starts no role.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod custody;
mod formation;
pub mod health;
pub mod identity;
pub mod mesh;
pub mod placement;
pub mod raft;
pub mod seams;
pub mod state;
pub mod transport;

pub use formation::{Restored, restore};
pub use mesh::{Incoming, LinkState, Mesh, MeshStart};
pub use seams::Seams;
