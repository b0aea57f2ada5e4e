//! Messages of PostgreSQL's protocol 3.0 on a byte stream: cuts what arrives into frames without copying them, and
//! collects what is to be sent. It knows tags and lengths, and nothing of what they mean.
//!
//! Frames are read in place from one buffer that grows while the server keeps it full: a row costs no allocation, no
//! lock and no task switch. Reading stops when nobody asks, so TCP holds the server back.
//!
//! INVARIANT: a length is checked against [`MESSAGE_BYTES_MAX`] before anything is allocated for it.

use std::{io, pin::Pin, task::Poll};

use bytes::BytesMut;
use greylag_protocol::{ErrorCode, MeshError, Result, ipc::BATCH_BYTES_MAX};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::errors;

/// Largest message that is read, bytes. A row over it could not travel through the mesh either.
pub(super) const MESSAGE_BYTES_MAX: usize = BATCH_BYTES_MAX;
/// Buffer of a fresh connection, bytes.
const BUFFER_BYTES_MIN: usize = 16 << 10;
/// Buffer of a connection that streams, bytes; larger only for the length of one large message.
const BUFFER_BYTES_STREAM: usize = 256 << 10;
/// Tag of "ready for a query".
pub(super) const READY: u8 = b'Z';
/// Tag and length.
const HEAD_BYTES: usize = 5;

/// A stream in plain, in TLS, or on a Unix socket.
pub(super) trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> ByteStream for T {}

pub(super) struct Wire {
    stream: Box<dyn ByteStream>,
    buffer: Vec<u8>,
    /// What has arrived and was not taken yet is `buffer[start..end]`.
    start: usize,
    end: usize,
    outbox: BytesMut,
    /// Answers of "ready for a query" that are still to come.
    awaited: usize,
}

/// One message: its tag, and where its body lies. Good until the next call that reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub tag: u8,
    start: usize,
    end: usize,
}

impl Wire {
    pub(super) fn new(stream: Box<dyn ByteStream>) -> Self {
        Self { stream, buffer: vec![0; BUFFER_BYTES_MIN], start: 0, end: 0, outbox: BytesMut::new(), awaited: 0 }
    }

    /// What is sent by the next [`Wire::flush`].
    pub(super) fn outbox(&mut self) -> &mut BytesMut {
        &mut self.outbox
    }

    pub(super) async fn flush(&mut self) -> Result<()> {
        let sent = async {
            // What has been written is gone from the outbox, also if this is dropped halfway.
            self.stream.write_all_buf(&mut self.outbox).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| errors::lost(&error))
    }

    /// Puts a simple query into the outbox: it is answered by "ready", whatever becomes of it.
    pub(super) fn put_query(&mut self, sql: &str) -> io::Result<()> {
        frontend::query(sql, &mut self.outbox)?;
        self.awaited += 1;
        Ok(())
    }

    /// Ends a sequence of the extended protocol in the outbox: answered by "ready" likewise.
    pub(super) fn put_sync(&mut self) {
        frontend::sync(&mut self.outbox);
        self.awaited += 1;
    }

    /// Throws the outbox away. Nothing of it may have been sent, and nothing else may be under way.
    pub(super) fn discard(&mut self) {
        self.outbox.clear();
        self.awaited = 0;
    }

    /// Whether the server still owes an answer.
    pub(super) fn is_owed(&self) -> bool {
        self.awaited > 0
    }

    /// The next message, if the whole of it has arrived.
    pub(super) fn take(&mut self) -> Result<Option<Frame>> {
        let arrived = &self.buffer[self.start..self.end];
        let Some((head, rest)) = arrived.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let length = body_bytes(head)?;
        if rest.len() < length {
            return Ok(None);
        }
        let start = self.start + HEAD_BYTES;
        self.start = start + length;
        if head[0] == READY {
            self.awaited = self.awaited.saturating_sub(1);
        }
        Ok(Some(Frame { tag: head[0], start, end: start + length }))
    }

    pub(super) fn body(&self, frame: Frame) -> &[u8] {
        &self.buffer[frame.start..frame.end]
    }

    /// Waits for at least one more byte.
    pub(super) async fn fill(&mut self) -> Result<()> {
        self.make_room()?;
        let free = self.buffer.len() - self.end;
        let read = self.stream.read(&mut self.buffer[self.end..]).await.map_err(|error| errors::lost(&error))?;
        if read == 0 {
            return Err(errors::lost(&io::Error::from(io::ErrorKind::UnexpectedEof)));
        }
        self.end += read;
        if read == free && self.buffer.len() < BUFFER_BYTES_STREAM {
            let doubled = self.buffer.len() * 2;
            self.buffer.resize(doubled, 0);
        }
        Ok(())
    }

    /// The next message, waited for.
    pub(super) async fn next(&mut self) -> Result<Frame> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// Moves the incomplete message to the front if it would not fit behind, and grows or shrinks the buffer.
    fn make_room(&mut self) -> Result<()> {
        let pending = self.end - self.start;
        let needed = match self.buffer[self.start..self.end].first_chunk::<HEAD_BYTES>() {
            Some(head) => HEAD_BYTES + body_bytes(head)?,
            None => HEAD_BYTES,
        };
        if pending == 0 && self.buffer.len() > BUFFER_BYTES_STREAM {
            self.buffer = vec![0; BUFFER_BYTES_STREAM];
        }
        if pending == 0 {
            (self.start, self.end) = (0, 0);
        } else if self.start + needed > self.buffer.len() || self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, pending);
        }
        if needed > self.buffer.len() {
            self.buffer.resize(needed.next_power_of_two(), 0);
        }
        Ok(())
    }

    /// Whether an idle connection is still good: open, and with nothing to say but notices. Never waits.
    pub(super) async fn is_quiet(&mut self) -> bool {
        loop {
            match self.take() {
                Ok(Some(Frame { tag: b'N' | b'S' | b'A', .. })) => continue,
                Ok(Some(_)) | Err(_) => return false,
                Ok(None) => {}
            }
            if self.make_room().is_err() {
                return false;
            }
            let Self { stream, buffer, end, .. } = self;
            let arrived = std::future::poll_fn(|cx| {
                let mut space = ReadBuf::new(&mut buffer[*end..]);
                Poll::Ready(match Pin::new(&mut *stream).poll_read(cx, &mut space) {
                    Poll::Pending => None,
                    Poll::Ready(Ok(())) => Some(space.filled().len()),
                    Poll::Ready(Err(_)) => Some(0),
                })
            });
            match arrived.await {
                None => return self.start == self.end,
                Some(0) => return false,
                Some(read) => self.end += read,
            }
        }
    }

    /// Gives back the memory that streaming took.
    pub(super) fn shrink(&mut self) {
        if self.start == self.end && self.buffer.len() > BUFFER_BYTES_MIN {
            self.buffer = vec![0; BUFFER_BYTES_MIN];
            (self.start, self.end) = (0, 0);
        }
    }
}

/// Length of the body that follows `head`.
fn body_bytes(head: &[u8; HEAD_BYTES]) -> Result<usize> {
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    match usize::try_from(length).ok().and_then(|length| length.checked_sub(4)) {
        None => Err(errors::malformed("a message's length")),
        Some(length) if length > MESSAGE_BYTES_MAX => Err(MeshError::new(
            ErrorCode::ValueOutOfRange,
            format!("the server sent a message of {length} bytes; {MESSAGE_BYTES_MAX} are the most"),
        )),
        Some(length) => Ok(length),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[tokio::test]
    async fn frames_survive_any_cut() {
        let bodies: Vec<Vec<u8>> = [0, 1, 4, 5000, 300_000, 2, 70_000, 17].iter().map(|n| vec![*n as u8; *n]).collect();
        let bytes: Vec<u8> = bodies.iter().flat_map(|body| message(b'D', body)).collect();
        for chunk in [1usize, 7, 4096, 1 << 20] {
            if chunk == 1 && bytes.len() > 1 << 20 {
                continue;
            }
            let (client, mut server) = tokio::io::duplex(1 << 16);
            let sent = bytes.clone();
            let sender = tokio::spawn(async move {
                for piece in sent.chunks(chunk) {
                    server.write_all(piece).await.unwrap();
                }
            });
            let mut wire = Wire::new(Box::new(client));
            for body in &bodies {
                let frame = wire.next().await.unwrap();
                assert_eq!((frame.tag, wire.body(frame)), (b'D', body.as_slice()));
            }
            sender.await.unwrap();
            assert_eq!(wire.next().await.unwrap_err().code, ErrorCode::SourceUnreachable);
            wire.shrink();
            assert_eq!(wire.buffer.len(), BUFFER_BYTES_MIN);
        }
    }

    #[tokio::test]
    async fn hostile_lengths_are_refused_before_memory_is_taken() {
        for (length, code) in [
            (3u32, ErrorCode::SourceUnreachable),
            (0, ErrorCode::SourceUnreachable),
            (u32::MAX, ErrorCode::ValueOutOfRange),
        ] {
            let (client, mut server) = tokio::io::duplex(64);
            server.write_all(b"D").await.unwrap();
            server.write_all(&length.to_be_bytes()).await.unwrap();
            let mut wire = Wire::new(Box::new(client));
            assert_eq!(wire.next().await.unwrap_err().code, code);
            assert_eq!(wire.buffer.len(), BUFFER_BYTES_MIN);
        }
    }

    #[tokio::test]
    async fn an_idle_connection_is_good_until_it_closes_or_speaks() {
        let (client, mut server) = tokio::io::duplex(1024);
        let mut wire = Wire::new(Box::new(client));
        assert!(wire.is_quiet().await);
        server.write_all(&message(b'S', b"TimeZone\0UTC\0")).await.unwrap();
        assert!(wire.is_quiet().await);
        server.write_all(&message(b'E', b"SFATAL\0C57P01\0\0")).await.unwrap();
        assert!(!wire.is_quiet().await);

        let (client, server) = tokio::io::duplex(1024);
        let mut wire = Wire::new(Box::new(client));
        drop(server);
        assert!(!wire.is_quiet().await);
    }
}
