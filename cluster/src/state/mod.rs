//! The replicated state as the log makes it: how commands change it, and how it is written into a snapshot. The words
//! themselves are `greylag_protocol::state`.
//!
//! INVARIANT: the state stays small. Every collection in it has a maximum here, so that a snapshot always fits into one
//! Raft call.

mod apply;
mod archive;
mod authority;
mod governance;
mod grants;
mod members;
mod registers;
mod snapshot;
mod sources;

pub use apply::apply;
pub use archive::Archive;
pub use snapshot::{SNAPSHOT_BYTES_MAX, decode_snapshot, encode_snapshot};

/// Members at a time.
pub const MEMBERS_MAX: usize = 1024;
/// What a member says of itself: name, addresses, labels, key, together, bytes.
pub const MEMBER_BYTES_MAX: usize = 8 << 10;
/// Sources at a time.
pub const SOURCES_MAX: usize = 1024;
/// A source's spec: kind, options and labels together, bytes.
pub const SOURCE_BYTES_MAX: usize = 16 << 10;
/// Labels of a wanted role, bytes.
pub const WANTED_BYTES_MAX: usize = 4 << 10;
/// Grants at a time. Those used up make room for new ones.
pub const GRANTS_MAX: usize = 1024;
/// Id, secret and roles of a grant, bytes.
pub const GRANT_BYTES_MAX: usize = 1 << 10;
/// A certificate of an authority, bytes.
pub const CERTIFICATE_BYTES_MAX: usize = 4 << 10;
/// Registers at a time.
pub const REGISTERS_MAX: usize = 256;
/// Name of a register, bytes.
pub const REGISTER_NAME_BYTES_MAX: usize = 128;
/// Value of a register, bytes.
pub const REGISTER_VALUE_BYTES_MAX: usize = 4 << 10;
/// Last changes of registers that are remembered, so that one which is asked for again is not made again.
pub const REGISTER_CHANGES_REMEMBERED: usize = 1024;
/// Names of policies, tags, attributes, organisations, and patterns for them, bytes.
pub const GOVERNANCE_NAME_BYTES_MAX: usize = 256;
/// Policies at a time.
pub const POLICIES_MAX: usize = 2_000;
/// A policy's text, bytes.
pub const POLICY_BYTES_MAX: usize = 16 << 10;
/// All policies' texts together, bytes.
pub const POLICIES_BYTES_MAX: usize = 4 << 20;
/// Tags at a time, and places that one of them is on.
pub const TAGS_MAX: usize = 128;
pub const TAG_PLACES_MAX: usize = 64;
/// Declared attributes of principals.
pub const ATTRIBUTES_MAX: usize = 256;
/// Budgets, and weights of organisations, in the settings.
pub const SETTINGS_LISTED_MAX: usize = 1024;
/// API keys at a time.
pub const KEYS_MAX: usize = 4 << 10;
/// What a key says of its principal, bytes.
pub const KEY_BYTES_MAX: usize = 1 << 10;
/// Quotas at a time, and open leases of one.
pub const QUOTAS_MAX: usize = 1024;
pub const LEASES_MAX: usize = 256;

#[cfg(test)]
mod apply_test;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod registers_test;
#[cfg(test)]
mod sequence_test;
