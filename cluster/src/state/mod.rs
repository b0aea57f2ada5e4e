//! The replicated state as the log makes it: how commands change it, and how it is written into a snapshot. The words
//! themselves are `greylag_protocol::state`.
//!
//! INVARIANT: the state stays small. Every collection in it has a maximum here, so that a snapshot always fits into one
//! Raft call.

mod apply;
mod archive;
mod authority;
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

#[cfg(test)]
mod apply_test;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod registers_test;
#[cfg(test)]
mod sequence_test;
