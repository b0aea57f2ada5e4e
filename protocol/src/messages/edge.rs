//! The three calls that an edge answers, each on a data stream of its own.
//!
//! Request: one `Request` frame holding an [`EdgeCall`]. Answer to `Query`: a `Reply` with [`EdgeReply::Began`] if the
//! sub-query has a `keyset`, a `Schema` frame, any number of `Batch` frames, one `Trailer`; or an `Error` frame instead of whatever would have come next. Answer to
//! `GetSchema` and `Ping`: one `Reply` frame, or an `Error`. A stream that ends otherwise has failed.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{AttemptId, Epoch, NodeId, SourceName, TraceId},
    prefix::Prefix,
    schema::{SourceSchema, WireSchema},
};

/// Version of everything in this module. A node refuses what it cannot speak with GL4009.
pub const EDGE_CALL_VERSION: u16 = 2;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeCall {
    pub version: u16,
    pub trace: TraceId,
    /// Time left, milliseconds. The edge stops, and stops its source, when it has passed.
    pub deadline_ms: u64,
    pub request: EdgeRequest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EdgeRequest {
    Query(SignedSubquery),
    GetSchema { source: SourceName },
    Ping { source: SourceName },
}

/// A [`Subquery`], encoded, with the signature of the coordinator's node key over exactly these bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedSubquery {
    pub payload: Vec<u8>,
    pub signer: NodeId,
    /// Ed25519, 64 bytes.
    pub signature: Vec<u8>,
}

/// One attempt at one sub-query. The edge checks signer, addressee, expiry and epoch; it decides nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subquery {
    pub attempt: AttemptId,
    /// The edge's node, so that a sub-query cannot be replayed at another.
    pub edge: NodeId,
    pub source: SourceName,
    /// In the source's own dialect.
    pub sql: String,
    /// Types and names that the answer must have.
    pub schema: WireSchema,
    /// Principal's id, for the source's log.
    pub principal: String,
    /// Epoch the statement was decided at.
    pub epoch: Epoch,
    /// Unix time in milliseconds after which the edge refuses it.
    pub expires_unix_ms: u64,
    /// Rows in every batch but the last.
    pub batch_rows: u32,
    pub compression: Compression,
    /// What an earlier attempt's rows have been used of. The edge digests as many batches instead of sending them, goes
    /// on after them if they are the same, and ends with GL3012 if they are not.
    pub resume: Prefix,
    /// Attempt whose stream died with its connection, the first of those on end that did so at this edge. If the edge has
    /// its answer still, or that of a later one, it goes on with that after the first `resume.batches` batches, and asks
    /// nothing of the source again.
    pub reattach: Option<u32>,
    /// For one that is ordered by a key: what it takes to go on after a key's value.
    pub keyset: Option<Keyset>,
}

/// The rows of one table, in the order of a key that is unique and never NULL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyset {
    pub schema: String,
    pub table: String,
    /// Where `resume` can be left out by the source itself.
    pub after: Option<AfterKey>,
}

/// The rows after `resume`. Right only for the content of the table that `resume` was read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AfterKey {
    /// The sub-query with the key's last value as one more condition.
    pub sql: String,
    /// What the source called the content that `resume` came from.
    pub snapshot: String,
}

/// Compression of batch bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    None,
    Lz4,
    Zstd,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EdgeReply {
    Schema(SourceSchema),
    /// First frame of the answer to a sub-query with a `keyset`.
    Began {
        /// Names the content of the table that the rows come from, if the source can tell: two answers with one name
        /// come from equal content.
        snapshot: Option<String>,
        /// The content is what `after` was right for, and `after` is what runs.
        after_key: bool,
    },
    /// The edge and its source both answered.
    Pong {
        source_ms: u64,
    },
}

/// Last frame of a `Query` answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trailer {
    pub attempt: AttemptId,
    /// Those sent: what was left out for `resume` is not among them.
    pub batches: u64,
    pub rows: u64,
    /// Rolling digest over the payloads of the `Schema` and `Batch` frames, in order (see `digest`).
    pub digest: [u8; 32],
    /// The answer was that of the attempt that `reattach` named.
    pub reattached: bool,
}
