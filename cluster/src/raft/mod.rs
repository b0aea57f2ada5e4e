//! The replicated log: openraft over redb, behind one handle. Nothing outside this folder names an openraft type, so an
//! upgrade of it is a change of this folder.
//!
//! It moves no bytes between nodes itself: each Raft call is one request and one answer over a [`RaftLink`], which the
//! transport implements. It decides nothing about the state either: that is `state::apply`.

mod database;
mod leader;
mod link;
mod log;
mod machine;
mod network;
mod node;
mod settings;
mod types;
mod writer;

pub use leader::lead;
pub use link::{RAFT_CALL_BYTES_MAX, RaftLink};
pub use node::{ProposeError, RaftNode};
