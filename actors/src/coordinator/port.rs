//! What the coordinator needs from outside for calls that are not statements.

use greylag_protocol::{Result, messages::join::Authority, principal::Principal};

/// Signs bearer tokens with the mesh's own key. The tokens' format is the doors' business, so a door's crate
/// implements it; a node without one issues no tokens.
pub trait BearerIssuer: Send + Sync + 'static {
    /// A token for this principal, valid for `ttl_secs` from `now_unix_ms`.
    fn issue(&self, authority: &Authority, principal: &Principal, ttl_secs: u64, now_unix_ms: u64) -> Result<String>;
}
