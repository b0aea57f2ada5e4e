//! Certificates for life: each member renews its own while it is still good, with whoever keeps the mesh's authority.
//!
//! | file | what |
//! |---|---|
//! | `core` | when to renew, whom to ask, who may have what; pure |
//! | `renew` | keeping this node's certificate fresh |
//! | `ask` | asking one keeper |
//! | `desk` | being asked |
//!
//! A renewed certificate is for the same key: the key is what the replicated state knows a member by, what its sub-queries
//! are signed with and what its stateless resets come of, so that nothing but the dates changes. A node that wants another
//! key joins anew. Connections that are open stay open; new ones show the new certificate.
//!
//! INVARIANT: only a current member is given a certificate, and only for the key that the state has of it. A certificate
//! is on disk before it is shown to anybody.

mod ask;
mod core;
#[cfg(test)]
mod core_test;
mod desk;
mod renew;

pub(crate) use desk::AuthorityDesk;
pub(crate) use renew::{Renewal, credentials};
