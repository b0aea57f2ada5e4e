//! Who may: identity, policy decisions, quota and the audit chain, as pure data and pure functions.
//!
//! It is not an actor, opens no socket and knows no query engine: state and time come in as arguments, decisions and
//! obligations go out as data of `greylag-protocol`.
//!
//! INVARIANT: what cannot be decided is denied.

pub mod audit;
pub mod identity;
pub mod policy;
pub mod quota;
