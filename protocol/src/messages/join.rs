//! What is said on the join protocol (`greylag-join/1`), where the caller has no certificate yet.
//!
//! One connection carries one bi-stream, one request and one reply, each a `Join` frame of at most
//! [`JOIN_BYTES_MAX`] bytes. The token's secret never travels: each side proves it with an HMAC over the TLS
//! exporter of this very connection, so a man in the middle fails even before there is a CA to pin.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    error::MeshError,
    ids::{Epoch, MeshId, NodeId, NodeUuid},
    state::Rotation,
};

pub const JOIN_VERSION: u16 = 1;
/// Largest request or reply, bytes.
pub const JOIN_BYTES_MAX: usize = 64 << 10;
/// TLS exporter label of the proofs.
pub const JOIN_EXPORTER_LABEL: &[u8] = b"EXPORTER-greylag-join";

/// `gl1.<sha256 of the CA certificate, hex, or ->.<id>.<secret, hex of 16 bytes>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub ca_pin: Option<[u8; 32]>,
    pub id: String,
    pub secret: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    pub version: u16,
    pub token_id: String,
    /// HMAC-SHA256(secret, "joiner" || exporter).
    pub proof: [u8; 32],
    pub body: JoinBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinBody {
    /// Who are you, and do you have a mesh?
    Hello(Candidate),
    /// Make me a member. `csr` is a PKCS#10 request, DER: only its key is taken from it.
    Enrol { candidate: Candidate, csr: Vec<u8> },
}

/// A node that is not a member yet, as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    pub mesh_name: String,
    pub expect: u32,
    pub uuid: NodeUuid,
    pub name: String,
    /// `host:port` under which other nodes reach it.
    pub address: String,
    pub labels: BTreeMap<String, String>,
    /// `host:port` of its Flight SQL door, if it opens one.
    pub door: Option<String>,
    pub outbound_only: bool,
    /// Fresh nodes that it knows of, itself among them, sorted.
    pub knows: Vec<NodeUuid>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinReply {
    pub version: u16,
    /// HMAC-SHA256(secret, "seed" || exporter); all zero in a refusal of the token itself.
    pub proof: [u8; 32],
    pub body: JoinReplyBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinReplyBody {
    /// No mesh here yet.
    Fresh {
        me: Candidate,
        /// Candidates that it has heard itself a moment ago, so that one common seed is enough for all to meet.
        others: Vec<Candidate>,
    },
    /// A mesh is here: enrol, with me or with one of these.
    Formed {
        mesh: MeshId,
        members: Vec<String>,
    },
    Enrolled(Box<Enrolment>),
    /// Ask one of these instead (`host:port`): I cannot sign.
    AskOthers(Vec<String>),
    Refused(MeshError),
}

/// Everything that makes a candidate a member. It is stored durably before anything is done with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    pub mesh: MeshId,
    pub node: NodeId,
    /// DER.
    pub certificate: Vec<u8>,
    pub ca_certificate: Vec<u8>,
    /// The authority's own keys, sealed by nothing but this channel: given to founding voters only, so that any of
    /// them can enrol others when the founder is gone. Later voters ask for them (see `authority`).
    pub authority: Option<Authority>,
    /// Members to dial, with their addresses.
    pub members: Vec<(NodeId, String)>,
    /// If the authority has taken over from another: how the former vouches for it.
    pub rotation: Option<Rotation>,
    /// Of the state that says so.
    pub epoch: Epoch,
}

/// Private keys of the mesh, PKCS#8 DER. Kept in files of mode 0600, never in the log, never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    pub ca_key: Vec<u8>,
    /// Ed25519, signs bearer tokens.
    pub bearer_key: Vec<u8>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority(..)")
    }
}
