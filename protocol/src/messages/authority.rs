//! What a member asks of one that keeps the mesh's authority: one request and one reply, each an `Authority` frame of at
//! most [`AUTHORITY_BYTES_MAX`] bytes. On an `Authority` stream, who asks is known by the connection's certificate. A
//! member whose certificate has expired asks for a new one where joiners ask: its request proves that it has the key of
//! the node it names, and what it is given is worth nothing without that key.

use serde::{Deserialize, Serialize};

use crate::{error::MeshError, ids::NodeId, messages::join::Authority};

/// Version of this module. A node refuses what it cannot speak with GL4009.
pub const AUTHORITY_VERSION: u16 = 1;
/// Largest request or reply, bytes.
pub const AUTHORITY_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRequest {
    pub version: u16,
    /// Who asks.
    pub node: NodeId,
    pub body: AuthorityBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthorityBody {
    /// A new certificate for the key I have. `csr` is a PKCS#10 request, DER, which proves that I still have it.
    Renew { csr: Vec<u8> },
    /// I have become a voter: let me keep the authority as well.
    Keys,
    /// Keep these for an authority that may take over. From voters to voters.
    Keep { keys: Authority, ca_certificate: Vec<u8> },
    /// Have a new authority take over. From coordinators, who have made sure that an administrator wants it.
    Rotate { overlap_ms: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthorityReply {
    /// DER.
    Certificate(Vec<u8>),
    /// Given to current voters only, over a stream on which they have shown their certificate.
    Keys(Authority),
    Kept,
    Rotated,
    /// I do not keep the authority: ask another.
    NotKept,
    Refused(MeshError),
}
