//! Calls over links: one bi-stream each. Beats, which prove that a peer answers; Raft calls; requests to the leader.

use std::{io, time::Duration};

use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    frame::{FrameKind, StreamTag},
    messages::forward::{FORWARD_VERSION, ForwardBody, ForwardReply, ForwardRequest},
};
use quinn::{Connection, RecvStream, SendStream};

use super::{
    framed::{FrameReader, FrameWriter},
    links::Links,
    refusal,
};
use crate::raft::{RAFT_CALL_BYTES_MAX, RaftLink};

/// Longest that opening a stream may wait for the peer's stream credit.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest that a peer may take to answer a beat.
const BEAT_TIMEOUT: Duration = Duration::from_secs(2);
/// Priority of streams that carry no rows. Rows have 0: however many of them wait to be sent, Raft goes first.
const CONTROL_PRIORITY: i32 = 1;
/// What a beat is answered with.
pub(super) const BEAT_ANSWER: &[u8] = b"!";

/// Opens a stream and writes its tag.
pub(super) async fn open(connection: &Connection, tag: StreamTag) -> Result<(SendStream, RecvStream)> {
    let opening = async {
        let (mut send, recv) = connection.open_bi().await.map_err(|error| refusal::of_connection(&error))?;
        prioritise(&send, tag);
        send.write_all(&[tag as u8]).await.map_err(|error| refusal::of_write(&error))?;
        Ok((send, recv))
    };
    tokio::time::timeout(OPEN_TIMEOUT, opening)
        .await
        .unwrap_or_else(|_| Err(refusal::unreachable_peer("the peer takes no more streams")))
}

/// Puts what is sent on a stream of this tag before or behind others.
pub(super) fn prioritise(send: &SendStream, tag: StreamTag) {
    if tag != StreamTag::Data {
        // An error means that the stream has ended already.
        let _ = send.set_priority(CONTROL_PRIORITY);
    }
}

/// Asks the peer for a sign of life.
pub(super) async fn beat(connection: &Connection) -> Result<()> {
    let asking = async {
        let (mut send, mut recv) = open(connection, StreamTag::Beat).await?;
        send.finish().map_err(|_| MeshError::internal("a stream was finished twice"))?;
        match recv.read_to_end(BEAT_ANSWER.len()).await {
            Ok(answer) if answer == BEAT_ANSWER => Ok(()),
            Ok(_) | Err(quinn::ReadToEndError::TooLong) => {
                Err(MeshError::new(ErrorCode::MalformedFrame, "a beat was answered with something else"))
            }
            Err(quinn::ReadToEndError::Read(error)) => Err(refusal::of_read(&error)),
        }
    };
    tokio::time::timeout(BEAT_TIMEOUT, asking)
        .await
        .unwrap_or_else(|_| Err(refusal::unreachable_peer("the peer does not answer")))
}

/// How a request to another node failed.
#[derive(Debug)]
pub(crate) enum ForwardError {
    /// It has not reached the node.
    NotSent(MeshError),
    /// It may have been carried out, or not.
    Unknown(MeshError),
}

/// Asks a member as the leader.
pub(crate) async fn forward(
    connection: &Connection,
    body: ForwardBody,
    timeout: Duration,
) -> Result<ForwardReply, ForwardError> {
    let (send, recv) = open(connection, StreamTag::Forward).await.map_err(ForwardError::NotSent)?;
    let (mut send, mut recv) = (FrameWriter::new(send), FrameReader::new(recv));
    let request = ForwardRequest { version: FORWARD_VERSION, body };
    let asking = async {
        send.send(FrameKind::Forward, &request).await?;
        send.finish()?;
        recv.recv(FrameKind::Forward).await
    };
    match tokio::time::timeout(timeout, asking).await {
        Ok(Ok(reply)) => Ok(reply),
        // A command that is too large has not left this node.
        Ok(Err(error)) if error.code == ErrorCode::FrameTooLarge => Err(ForwardError::NotSent(error)),
        Ok(Err(error)) => Err(ForwardError::Unknown(error)),
        Err(_) => Err(ForwardError::Unknown(refusal::unreachable_peer("the leader does not answer"))),
    }
}

#[async_trait::async_trait]
impl RaftLink for Links {
    async fn call(&self, to: NodeId, request: Vec<u8>, timeout: Duration) -> io::Result<Vec<u8>> {
        let connection = self.connection(to).ok_or(io::ErrorKind::NotConnected)?;
        let asking = async {
            let (mut send, mut recv) = open(&connection, StreamTag::Raft).await.map_err(io::Error::other)?;
            send.write_all(&request).await?;
            send.finish()?;
            recv.read_to_end(RAFT_CALL_BYTES_MAX).await.map_err(io::Error::other)
        };
        tokio::time::timeout(timeout, asking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
