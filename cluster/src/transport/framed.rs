//! Frames on QUIC streams, for everything above: a head with kind and length, then the payload.
//!
//! INVARIANT: a length is checked against its kind's limit before anything is allocated, memory grows with the bytes
//! that have really come, and a stream that ends inside a frame is an error (GL3007), never a short frame.

use bytes::{Bytes, BytesMut};
use greylag_protocol::{
    ErrorCode, MeshError, Result,
    frame::{FrameHead, FrameKind, HEAD_BYTES},
    wire,
};
use quinn::{RecvStream, SendStream};
use serde::{Serialize, de::DeserializeOwned};

use super::refusal;

/// Most bytes set aside for a payload before any of it has come.
const RESERVED_BYTES_MAX: usize = 1 << 20;

/// Reads frames. None of its futures may be dropped halfway and the reader used on: a cut frame cannot be resumed.
/// Dropping the reader tells the peer to stop sending.
#[derive(Debug)]
pub struct FrameReader {
    stream: RecvStream,
}

impl FrameReader {
    pub fn new(stream: RecvStream) -> Self {
        Self { stream }
    }

    /// The next frame, `None` at the end of the stream. GL4011 for an unknown kind, GL4012 for a length over the
    /// kind's limit, GL3007 for an end inside the frame; a reset gives the error that the peer's code stands for.
    pub async fn read_frame(&mut self) -> Result<Option<(FrameKind, Bytes)>> {
        let Some(head) = self.read_head().await? else { return Ok(None) };
        let payload = self.read_payload(head.len).await?;
        Ok(Some((head.kind, payload)))
    }

    /// The next frame, which must be of this kind. An `Error` frame in its stead is returned as the error it holds;
    /// the end of the stream is GL3007.
    pub async fn expect(&mut self, kind: FrameKind) -> Result<Bytes> {
        match self.read_frame().await? {
            Some((found, payload)) if found == kind => Ok(payload),
            Some((FrameKind::Error, payload)) => Err(decode_error(&payload)),
            Some((found, _)) => Err(MeshError::new(
                ErrorCode::MalformedFrame,
                format!("a {found:?} frame came where a {kind:?} frame was due"),
            )),
            None => Err(refusal::truncated(&format!("a stream ended where a {kind:?} frame was due"))),
        }
    }

    /// A message in a frame of this kind, as `expect`.
    pub async fn recv<T: DeserializeOwned>(&mut self, kind: FrameKind) -> Result<T> {
        let payload = self.expect(kind).await?;
        wire::decode(&payload, kind.limit())
    }

    /// Checks that nothing more comes. GL4011 if something does.
    pub async fn expect_end(&mut self) -> Result<()> {
        match self.read_frame().await? {
            None => Ok(()),
            Some((kind, _)) => {
                Err(MeshError::new(ErrorCode::MalformedFrame, format!("a {kind:?} frame came after the last one")))
            }
        }
    }

    /// Tells the peer to stop sending, and why.
    pub fn stop(&mut self, code: ErrorCode) {
        // An error means that the stream has ended already.
        let _ = self.stream.stop(refusal::code(code));
    }

    pub fn into_inner(self) -> RecvStream {
        self.stream
    }

    async fn read_head(&mut self) -> Result<Option<FrameHead>> {
        let mut head = [0; HEAD_BYTES];
        let first = self.stream.read(&mut head).await.map_err(|error| refusal::of_read(&error))?;
        let Some(got) = first else { return Ok(None) };
        if got < HEAD_BYTES {
            self.stream.read_exact(&mut head[got..]).await.map_err(|error| refusal::of_read_exact(&error))?;
        }
        FrameHead::decode(head).map(Some).inspect_err(|error| self.stop(error.code))
    }

    async fn read_payload(&mut self, len: usize) -> Result<Bytes> {
        let mut whole = BytesMut::new();
        while whole.len() < len {
            let missing = len - whole.len();
            let chunk = self.stream.read_chunk(missing, true).await.map_err(|error| refusal::of_read(&error))?;
            let Some(chunk) = chunk else { return Err(refusal::truncated("a stream ended in the middle of a frame")) };
            if whole.is_empty() {
                if chunk.bytes.len() == len {
                    return Ok(chunk.bytes);
                }
                whole.reserve(len.min(RESERVED_BYTES_MAX));
            }
            whole.extend_from_slice(&chunk.bytes);
        }
        Ok(whole.freeze())
    }
}

/// Writes frames. A writer that is dropped without `finish` resets the stream, so that work which dies half done never
/// looks like an end.
#[derive(Debug)]
pub struct FrameWriter {
    /// `None` once taken out.
    stream: Option<SendStream>,
    finished: bool,
}

impl FrameWriter {
    pub fn new(stream: SendStream) -> Self {
        Self { stream: Some(stream), finished: false }
    }

    /// Waits while the peer's windows are full. GL4012 for a payload over the kind's limit; nothing is sent then.
    pub async fn write_frame(&mut self, kind: FrameKind, payload: Bytes) -> Result<()> {
        let head = FrameHead::of(kind, &payload)?.encode();
        let stream = self.stream()?;
        let mut parts = [Bytes::copy_from_slice(&head), payload];
        stream.write_all_chunks(&mut parts).await.map_err(|error| refusal::of_write(&error))
    }

    /// A message in a frame of this kind.
    pub async fn send<T: Serialize>(&mut self, kind: FrameKind, message: &T) -> Result<()> {
        let payload = wire::encode(message, kind.limit())?;
        self.write_frame(kind, payload.into()).await
    }

    /// An error in the stead of whatever would have come next.
    pub async fn send_error(&mut self, error: &MeshError) -> Result<()> {
        let limit = FrameKind::Error.limit();
        match wire::encode(error, limit) {
            Ok(payload) => self.write_frame(FrameKind::Error, payload.into()).await,
            // Its message is too long to send: the code is what matters.
            Err(_) => self.send(FrameKind::Error, &MeshError::new(error.code, error.code.summary())).await,
        }
    }

    /// Ends the stream well. What was written is delivered as long as the connection lives.
    pub fn finish(&mut self) -> Result<()> {
        self.finished = true;
        let stream = self.stream()?;
        stream.finish().map_err(|_| MeshError::internal("a stream was finished twice"))
    }

    /// Breaks the stream off, and says why.
    pub fn reset(&mut self, code: ErrorCode) {
        self.finished = true;
        if let Some(stream) = &mut self.stream {
            // An error means that the stream has ended already.
            let _ = stream.reset(refusal::code(code));
        }
    }

    /// Waits until the peer has received all of a finished stream, or has stopped it.
    pub async fn delivered(&mut self) -> Result<()> {
        match self.stream()?.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(refusal::of_write(&quinn::WriteError::Stopped(code))),
            Err(quinn::StoppedError::ConnectionLost(error)) => Err(refusal::of_connection(&error)),
            Err(error) => Err(MeshError::internal(format!("a stream could not be written: {error}"))),
        }
    }

    /// The stream itself; finishing it is the caller's then.
    pub fn into_inner(mut self) -> Option<SendStream> {
        self.stream.take()
    }

    fn stream(&mut self) -> Result<&mut SendStream> {
        self.stream.as_mut().ok_or_else(|| MeshError::internal("a stream was used after it had been taken out"))
    }
}

impl Drop for FrameWriter {
    fn drop(&mut self) {
        if !self.finished {
            self.reset(ErrorCode::TruncatedStream);
        }
    }
}

fn decode_error(payload: &[u8]) -> MeshError {
    wire::decode(payload, FrameKind::Error.limit()).unwrap_or_else(|error| error)
}
