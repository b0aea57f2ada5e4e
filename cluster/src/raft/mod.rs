//! The replicated log: openraft over redb, behind one handle. Nothing outside this folder names an openraft type, so an
//! upgrade of it is a change of this folder.
//!
//! It moves no bytes between nodes itself: each Raft call is one request and one answer over a [`RaftLink`], which the
//! transport implements. It decides nothing about the state either: that is `state::apply`.

mod contacts;
mod database;
mod duties;
mod leader;
mod link;
mod log;
mod machine;
mod membership;
mod network;
mod node;
mod seats;
mod settings;
mod types;
mod writer;

pub use leader::lead;
pub use link::{RAFT_CALL_BYTES_MAX, RaftLink};
pub use node::{ProposeError, RaftNode};

#[cfg(test)]
mod duties_test;
#[cfg(test)]
mod leader_test;
#[cfg(test)]
mod node_test;
#[cfg(test)]
mod seats_test;
#[cfg(test)]
mod store_test;
#[cfg(test)]
mod world;
