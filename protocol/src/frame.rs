//! Frames of streams between nodes. A bi-stream starts with one tag byte; then come frames: one byte of kind, four
//! bytes of length (little endian), the payload. Each kind has its own limit, checked before anything is allocated.

use bytes::{Buf, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::{ErrorCode, MeshError, Result},
    ipc::{BATCH_BYTES_MAX, SCHEMA_BYTES_MAX},
    messages::{authority::AUTHORITY_BYTES_MAX, control::CONTROL_BYTES_MAX, join::JOIN_BYTES_MAX},
    wire,
};

/// ALPN of members. Needs a client certificate.
pub const ALPN_MESH: &[u8] = b"greylag/1";
/// ALPN of nodes that are not members yet.
pub const ALPN_JOIN: &[u8] = b"greylag-join/1";

/// First byte of a bi-stream on [`ALPN_MESH`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum StreamTag {
    /// One Raft call.
    Raft = 1,
    /// The ractor_cluster session of a pair of nodes.
    Actor = 2,
    /// One edge call.
    Data = 3,
    /// One command on its way to the leader.
    Forward = 4,
    /// One control call, where actors do not have a session (simulation).
    Control = 5,
    /// One probe of liveness.
    Beat = 6,
    /// One request to a member that keeps the mesh's authority.
    Authority = 7,
    /// One question about a node's health.
    Health = 8,
}

impl TryFrom<u8> for StreamTag {
    type Error = MeshError;
    fn try_from(tag: u8) -> Result<Self> {
        Ok(match tag {
            1 => Self::Raft,
            2 => Self::Actor,
            3 => Self::Data,
            4 => Self::Forward,
            5 => Self::Control,
            6 => Self::Beat,
            7 => Self::Authority,
            8 => Self::Health,
            _ => return Err(MeshError::new(ErrorCode::MalformedFrame, format!("stream tag {tag} is not known"))),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum FrameKind {
    Request = 1,
    Reply = 2,
    Schema = 3,
    Batch = 4,
    Trailer = 5,
    Error = 6,
    Join = 7,
    Control = 8,
    Forward = 9,
    Authority = 10,
}

/// Bytes of a frame's head.
pub const HEAD_BYTES: usize = 5;
/// Largest request of an edge call: holds the SQL text and a schema.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Largest reply of `GetSchema`.
pub const REPLY_BYTES_MAX: usize = 16 << 20;
/// Largest trailer or error.
pub const SMALL_BYTES_MAX: usize = 64 << 10;
/// Largest forwarded command or its outcome.
pub const FORWARD_BYTES_MAX: usize = 1 << 20;

impl FrameKind {
    /// Largest payload, bytes.
    pub const fn limit(self) -> usize {
        match self {
            Self::Request => REQUEST_BYTES_MAX,
            Self::Reply => REPLY_BYTES_MAX,
            Self::Schema => SCHEMA_BYTES_MAX,
            Self::Batch => BATCH_BYTES_MAX,
            Self::Trailer | Self::Error => SMALL_BYTES_MAX,
            Self::Join => JOIN_BYTES_MAX,
            Self::Control => CONTROL_BYTES_MAX,
            Self::Forward => FORWARD_BYTES_MAX,
            Self::Authority => AUTHORITY_BYTES_MAX,
        }
    }
}

impl TryFrom<u8> for FrameKind {
    type Error = MeshError;
    fn try_from(kind: u8) -> Result<Self> {
        Ok(match kind {
            1 => Self::Request,
            2 => Self::Reply,
            3 => Self::Schema,
            4 => Self::Batch,
            5 => Self::Trailer,
            6 => Self::Error,
            7 => Self::Join,
            8 => Self::Control,
            9 => Self::Forward,
            10 => Self::Authority,
            _ => return Err(MeshError::new(ErrorCode::MalformedFrame, format!("frame kind {kind} is not known"))),
        })
    }
}

/// A frame's head, checked: the payload that follows may be read into `len` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    pub kind: FrameKind,
    pub len: usize,
}

impl FrameHead {
    /// Head for a payload. GL4012 if the payload is over its kind's limit.
    pub fn of(kind: FrameKind, payload: &[u8]) -> Result<Self> {
        Self { kind, len: payload.len() }.checked()
    }

    pub fn encode(self) -> [u8; HEAD_BYTES] {
        let len = (self.len as u32).to_le_bytes();
        [self.kind as u8, len[0], len[1], len[2], len[3]]
    }

    /// GL4011 for an unknown kind, GL4012 for a length over the kind's limit.
    pub fn decode(head: [u8; HEAD_BYTES]) -> Result<Self> {
        let kind = FrameKind::try_from(head[0])?;
        let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        Self { kind, len }.checked()
    }

    fn checked(self) -> Result<Self> {
        if self.len > self.kind.limit() {
            return Err(MeshError::new(
                ErrorCode::FrameTooLarge,
                format!("a {:?} frame of {} bytes is over its limit of {}", self.kind, self.len, self.kind.limit()),
            ));
        }
        Ok(self)
    }
}

/// A whole frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: FrameKind,
    pub payload: Bytes,
}

impl Frame {
    /// Head and message, ready to be written. GL4012 if the message is over its kind's limit.
    pub fn encode<T: Serialize>(kind: FrameKind, message: &T) -> Result<Vec<u8>> {
        let payload = wire::encode(message, kind.limit())?;
        let mut frame = Vec::with_capacity(HEAD_BYTES + payload.len());
        frame.extend_from_slice(&FrameHead::of(kind, &payload)?.encode());
        frame.extend_from_slice(&payload);
        Ok(frame)
    }

    /// The message of a frame that must be of this kind. GL4011 otherwise.
    pub fn decode<T: DeserializeOwned>(&self, kind: FrameKind) -> Result<T> {
        if self.kind != kind {
            return Err(MeshError::new(
                ErrorCode::MalformedFrame,
                format!("a {:?} frame came in place of a {kind:?} frame", self.kind),
            ));
        }
        wire::decode(&self.payload, kind.limit())
    }
}

/// Cuts a stream of bytes, as they come, into frames. It keeps no more than it was given: a stated length is
/// checked, never allocated.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: BytesMut,
}

impl FrameReader {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what has arrived. Call `next_frame` until it gives `None` before taking in more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, if it is there as a whole. After an error the stream is of no more use.
    pub fn next_frame(&mut self) -> Result<Option<Frame>> {
        let Some(head) = self.buffer.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let head = FrameHead::decode(*head)?;
        if self.buffer.len() - HEAD_BYTES < head.len {
            return Ok(None);
        }
        self.buffer.advance(HEAD_BYTES);
        Ok(Some(Frame { kind: head.kind, payload: self.buffer.split_to(head.len).freeze() }))
    }

    /// At the end of the stream: GL4011 if it ended within a frame.
    pub fn finish(&self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        Err(MeshError::new(
            ErrorCode::MalformedFrame,
            format!("a stream ended {} bytes into a frame", self.buffer.len()),
        ))
    }
}
