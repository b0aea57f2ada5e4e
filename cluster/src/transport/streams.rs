//! The streams that peers open: read the tag, answer what is the cluster's own, pass the rest to whoever serves it.
//!
//! INVARIANT: the peer is checked against the membership at each stream, so that a removed node gets no further one.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    frame::{FrameKind, StreamTag},
    messages::forward::{FORWARD_VERSION, ForwardBody, ForwardReply, ForwardRequest},
};
use quinn::{Connection, ReadToEndError, RecvStream, SendStream};
use tokio::sync::mpsc;

use super::{
    REMOVED, Switchboard, calls,
    framed::{FrameReader, FrameWriter},
    membership::Standing,
    refusal,
};
use crate::{
    mesh::Incoming,
    raft::{ProposeError, RAFT_CALL_BYTES_MAX},
};

/// Streams of one tag that wait to be taken up by whoever serves it; beyond that their peers wait.
const STREAMS_WAITING_MAX: usize = 256;
/// Tags that others serve.
const SERVED_ABOVE: [StreamTag; 5] =
    [StreamTag::Actor, StreamTag::Data, StreamTag::Control, StreamTag::Authority, StreamTag::Health];

/// Where streams go that the cluster does not answer itself.
pub(super) struct Channels {
    senders: BTreeMap<StreamTag, mpsc::Sender<Incoming>>,
    receivers: Mutex<BTreeMap<StreamTag, mpsc::Receiver<Incoming>>>,
}

impl Channels {
    pub(super) fn new() -> Self {
        let (mut senders, mut receivers) = (BTreeMap::new(), BTreeMap::new());
        for tag in SERVED_ABOVE {
            let (send, receive) = mpsc::channel(STREAMS_WAITING_MAX);
            senders.insert(tag, send);
            receivers.insert(tag, receive);
        }
        Self { senders, receivers: Mutex::new(receivers) }
    }

    pub(super) fn take(&self, tag: StreamTag) -> Result<mpsc::Receiver<Incoming>> {
        let mut receivers = self.receivers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        receivers.remove(&tag).ok_or_else(|| MeshError::internal(format!("streams of {tag:?} are served already")))
    }
}

impl Switchboard {
    /// Serves a connection until it closes. The number of streams at once is bounded by the credit that QUIC gives.
    pub(super) async fn serve_streams(self: std::sync::Arc<Self>, connection: Connection, peer: NodeId) {
        while let Ok((send, recv)) = connection.accept_bi().await {
            if self.membership.standing(peer) != Standing::Member {
                connection.close(refusal::code(ErrorCode::NotAMember), REMOVED.as_bytes());
                return;
            }
            let board = self.clone();
            tokio::spawn(async move {
                if let Err(error) = board.serve_stream(peer, send, recv).await {
                    tracing::debug!(%peer, %error, "a stream of a peer has failed");
                }
            });
        }
    }

    async fn serve_stream(&self, peer: NodeId, mut send: SendStream, mut recv: RecvStream) -> Result<()> {
        let mut tag = [0];
        let reading = async { recv.read_exact(&mut tag).await.map_err(|error| refusal::of_read_exact(&error)) };
        let tag = within(self.call_timeout, reading).await.and_then(|()| StreamTag::try_from(tag[0]));
        if let Ok(tag) = tag {
            calls::prioritise(&send, tag);
        }
        let served = match tag {
            Ok(StreamTag::Raft) => self.serve_raft(&mut send, &mut recv).await,
            Ok(StreamTag::Beat) => answer(&mut send, calls::BEAT_ANSWER).await,
            Ok(StreamTag::Forward) => return self.serve_forward(send, recv).await,
            Ok(tag) => return self.pass_on(tag, Incoming { peer, send, recv }).await,
            Err(error) => Err(error),
        };
        served.inspect_err(|error| break_off(&mut send, &mut recv, error.code))
    }

    async fn serve_raft(&self, send: &mut SendStream, recv: &mut RecvStream) -> Result<()> {
        let reading = async {
            recv.read_to_end(RAFT_CALL_BYTES_MAX).await.map_err(|error| match error {
                ReadToEndError::Read(error) => refusal::of_read(&error),
                ReadToEndError::TooLong => MeshError::new(ErrorCode::FrameTooLarge, "a Raft call is over its limit"),
            })
        };
        let request = within(self.call_timeout, reading).await?;
        let reply = self.raft.serve(&request).await?;
        answer(send, &reply).await
    }

    async fn serve_forward(&self, send: SendStream, recv: RecvStream) -> Result<()> {
        let (mut send, mut recv) = (FrameWriter::new(send), FrameReader::new(recv));
        let request: ForwardRequest = within(self.call_timeout, recv.recv(FrameKind::Forward)).await?;
        let reply = if request.version == FORWARD_VERSION {
            self.lead(request.body).await
        } else {
            let message = format!("forwarded requests of version {} are not spoken here", request.version);
            ForwardReply::Failed(MeshError::new(ErrorCode::ProtocolVersion, message))
        };
        send.send(FrameKind::Forward, &reply).await?;
        send.finish()
    }

    /// Answers as the leader, if this node leads; it never passes a request on, so that no request can go in circles.
    async fn lead(&self, body: ForwardBody) -> ForwardReply {
        let leading = async {
            match body {
                ForwardBody::Propose(command) => self.raft.propose(*command).await.map(ForwardReply::Committed),
                ForwardBody::ReadIndex => self.raft.read_index().await.map(ForwardReply::ReadIndex),
            }
        };
        match tokio::time::timeout(self.call_timeout, leading).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(ProposeError::Forward(to))) => ForwardReply::NotLeader(to),
            Ok(Err(ProposeError::Failed(error))) => ForwardReply::Failed(error.at_node(self.me)),
            Err(_) => {
                let message = "the leader could not commit in time: it may have lost its majority";
                ForwardReply::Failed(MeshError::new(ErrorCode::NoLeader, message).at_node(self.me))
            }
        }
    }

    async fn pass_on(&self, tag: StreamTag, incoming: Incoming) -> Result<()> {
        let Some(channel) = self.channels.senders.get(&tag) else {
            return Err(MeshError::internal(format!("nobody serves streams of {tag:?}")));
        };
        channel.send(incoming).await.map_err(|refused| {
            let Incoming { mut send, mut recv, .. } = refused.0;
            break_off(&mut send, &mut recv, ErrorCode::ShuttingDown);
            MeshError::new(ErrorCode::ShuttingDown, format!("streams of {tag:?} are not served any more"))
        })
    }
}

async fn answer(send: &mut SendStream, bytes: &[u8]) -> Result<()> {
    send.write_all(bytes).await.map_err(|error| refusal::of_write(&error))?;
    send.finish().map_err(|_| MeshError::internal("a stream was finished twice"))
}

fn break_off(send: &mut SendStream, recv: &mut RecvStream, code: ErrorCode) {
    // Errors mean that the stream has ended already.
    let _ = send.reset(refusal::code(code));
    let _ = recv.stop(refusal::code(code));
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(MeshError::new(ErrorCode::Deadline, "a peer did not send its request in time")))
}
