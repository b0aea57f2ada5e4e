//! Connections that others open: members by certificate, joiners by token, nobody else.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    frame::{ALPN_JOIN, ALPN_MESH, FrameKind},
    messages::{
        authority::{AuthorityReply, AuthorityRequest},
        join::{JoinReply, JoinRequest},
    },
    wire,
};
use quinn::{Connection, crypto::rustls::HandshakeData};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    Endpoint, REMOVED, Standing, Switchboard, dial,
    framed::{FrameReader, FrameWriter},
    refusal,
};
use crate::identity::proof::Channel;

/// Handshakes at once; more are refused.
const HANDSHAKES_MAX: usize = 128;
/// From this many on, a client must show that it receives at its address before anything is computed for it.
const HANDSHAKES_UNPROVEN_MAX: usize = 32;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Joiners served at once; more are turned away with GL5001.
const JOINS_MAX: usize = 32;
/// Longest that a joiner's connection may last.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a node that is not known yet may wait for the log to name it: it may have been admitted a moment ago.
const UNKNOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers the join protocol.
#[async_trait]
pub(crate) trait Joins: Send + Sync + 'static {
    async fn answer(&self, request: JoinRequest, channel: Channel) -> JoinReply;
    /// Answers a member whose certificate is no good any more.
    async fn renew(&self, request: AuthorityRequest) -> AuthorityReply;
}

/// Accepts until the endpoint is closed. `members` is set once this node is a member.
pub(crate) async fn accept_all(endpoint: Endpoint, joins: Arc<dyn Joins>, members: Arc<OnceLock<Arc<Switchboard>>>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let joining = Arc::new(Semaphore::new(JOINS_MAX));
    while let Some(incoming) = endpoint.accept().await {
        if let Some(board) = members.get() {
            board.links.heard(incoming.remote_address(), Instant::now());
        }
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let busy = handshakes.available_permits() + HANDSHAKES_UNPROVEN_MAX < HANDSHAKES_MAX;
        if busy && !incoming.remote_address_validated() {
            // An error means that it has shown its address already.
            let _ = incoming.retry();
            continue;
        }
        let (joins, members, joining) = (joins.clone(), members.clone(), joining.clone());
        tokio::spawn(async move {
            let Some(connection) = shake_hands(incoming).await else { return };
            drop(permit);
            match protocol(&connection).as_deref() {
                Some(ALPN_JOIN) => match joining.try_acquire() {
                    Ok(_permit) => serve_joiner(&connection, &*joins).await,
                    Err(_) => connection.close(refusal::code(ErrorCode::QueueFull), b"too many nodes join at once"),
                },
                Some(ALPN_MESH) => match members.get() {
                    Some(board) => serve_member(board.clone(), connection).await,
                    None => connection.close(refusal::code(ErrorCode::NoLeader), b"the node is starting"),
                },
                _ => connection.close(refusal::code(ErrorCode::ProtocolVersion), b"unknown protocol"),
            }
        });
    }
}

async fn shake_hands(incoming: quinn::Incoming) -> Option<Connection> {
    let address = incoming.remote_address();
    let connecting = incoming.accept().ok()?;
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => Some(connection),
        Ok(Err(error)) => {
            let error = refusal::of_connection(&error);
            if error.code == ErrorCode::ForeignCertificate {
                tracing::warn!(%address, %error, "a node of another mesh was refused");
            } else {
                tracing::debug!(%address, %error, "a handshake failed");
            }
            None
        }
        Err(_) => None,
    }
}

fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

async fn serve_member(board: Arc<Switchboard>, connection: Connection) {
    let address = connection.remote_address();
    let admitted = match dial::identified(&connection) {
        Ok(peer) if peer == board.me => {
            board.endpoint.trust(&connection);
            board.serve_streams(connection, peer).await;
            return;
        }
        Ok(peer) => admit(&board, peer).await.map(|()| peer),
        Err(error) => Err(error),
    };
    match admitted {
        Ok(peer) => {
            board.endpoint.trust(&connection);
            if let Err(error) = board.attach(connection, peer, peer).await {
                tracing::debug!(%peer, %address, %error, "a connection of a member did not become its link");
            }
        }
        Err(error) => {
            tracing::warn!(%address, %error, "a node was refused");
            connection.close(refusal::code(error.code), error.message.as_bytes());
        }
    }
}

/// Whether a node may stay. GL4001 if it was removed, or is not named by the log in time.
async fn admit(board: &Switchboard, peer: NodeId) -> Result<()> {
    let mut changes = board.membership.watch();
    let naming = async {
        loop {
            match board.membership.standing(peer) {
                Standing::Member => return Ok(()),
                Standing::Removed => return Err(MeshError::new(ErrorCode::NotAMember, REMOVED)),
                Standing::Unknown => {}
            }
            if changes.changed().await.is_err() {
                return Err(MeshError::new(ErrorCode::ShuttingDown, "the node shuts down"));
            }
        }
    };
    tokio::time::timeout(UNKNOWN_TIMEOUT, naming).await.unwrap_or_else(|_| {
        Err(MeshError::new(ErrorCode::NotAMember, format!("{peer} is not a member, as far as is known here")))
    })
}

/// One request, one reply, all of it within the time limit.
async fn serve_joiner(connection: &Connection, joins: &dyn Joins) {
    let serving = async {
        let (send, recv) = connection.accept_bi().await.map_err(|error| refusal::of_connection(&error))?;
        let (mut send, mut recv) = (FrameWriter::new(send), FrameReader::new(recv));
        match recv.read_frame().await? {
            Some((kind @ FrameKind::Join, frame)) => {
                let request: JoinRequest = wire::decode(&frame, kind.limit())?;
                send.send(kind, &joins.answer(request, Channel::of(connection)?).await).await?;
            }
            Some((kind @ FrameKind::Authority, frame)) => {
                let request: AuthorityRequest = wire::decode(&frame, kind.limit())?;
                send.send(kind, &joins.renew(request).await).await?;
            }
            _ => return Err(MeshError::new(ErrorCode::MalformedFrame, "a joiner has sent something else")),
        }
        send.finish()?;
        send.delivered().await
    };
    let code = match tokio::time::timeout(JOIN_TIMEOUT, serving).await {
        Ok(Ok(())) => refusal::CODE_BYE.into(),
        Ok(Err(error)) => {
            tracing::debug!(address = %connection.remote_address(), %error, "a joiner was not served");
            refusal::code(error.code)
        }
        Err(_) => refusal::code(ErrorCode::Deadline),
    };
    connection.close(code, b"");
}
