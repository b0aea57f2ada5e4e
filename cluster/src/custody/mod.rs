//! The mesh's authority at work: each member renews its certificate while it is still good, with whoever keeps the
//! authority, and each voter comes to keep it.
//!
//! | file | what |
//! |---|---|
//! | `core` | when to renew, whom to ask, who may have what; pure |
//! | `renew` | keeping this node's certificate fresh |
//! | `succession` | being given the authority's keys |
//! | `rotation` | having another authority take over |
//! | `ask` | asking one keeper |
//! | `desk` | being asked |
//!
//! A renewed certificate is for the same key: the key is what the replicated state knows a member by, what its sub-queries
//! are signed with and what its stateless resets come of, so that nothing but the dates changes. A node that wants another
//! key joins anew. Connections that are open stay open; new ones show the new certificate.
//!
//! INVARIANT: only a current member is given a certificate, and only for the key that the state has of it. A certificate
//! is on disk before it is shown to anybody. The authority's keys are given to a current voter only, and are never in the
//! log.

mod ask;
mod core;
#[cfg(test)]
mod core_test;
mod desk;
mod renew;
mod rotation;
mod succession;

pub(crate) use desk::AuthorityDesk;
pub(crate) use renew::{Renewal, credentials};
pub(crate) use rotation::Rotor;
pub(crate) use succession::Succession;
