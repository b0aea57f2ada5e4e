//! One question to one keeper of the authority: over the link to it, or, by who has no good certificate, where joiners ask.

use std::time::Duration;

use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    frame::{FrameKind, StreamTag},
    messages::authority::{AUTHORITY_VERSION, AuthorityBody, AuthorityReply, AuthorityRequest},
};
use quinn::{RecvStream, SendStream};

use crate::{
    identity::certificate::fingerprint,
    transport::{Endpoint, FrameReader, FrameWriter, Switchboard, refusal},
};

/// Longest that one question may take: a keeper looks for the leader first, which takes it as long as any call may.
const ASK_TIMEOUT: Duration = Duration::from_secs(15);

/// Asks a member over the link to it. GL4013 at once if there is none.
pub(super) async fn member(board: &Switchboard, keeper: NodeId, body: AuthorityBody) -> Result<AuthorityReply> {
    let asking = async {
        let (send, recv) = board.open(keeper, StreamTag::Authority).await?;
        converse(send, recv, board.me(), body).await
    };
    within(asking).await.map_err(|error| error.at_node(keeper))
}

/// Asks a member at an address without showing a certificate. The member has to show one of this authority.
pub(super) async fn as_stranger(
    endpoint: &Endpoint,
    address: &str,
    ca: &[u8],
    me: NodeId,
    body: AuthorityBody,
) -> Result<AuthorityReply> {
    let dialler = endpoint.join_dialler(Some(fingerprint(ca)))?;
    let mut last = refusal::unreachable_peer("the keeper has no address");
    for address in endpoint.resolve(address).await? {
        let asking = async {
            let connection = endpoint.dial_with(dialler.clone(), address).await?;
            let (send, recv) = connection.open_bi().await.map_err(|error| refusal::of_connection(&error))?;
            let reply = converse(send, recv, me, body.clone()).await;
            connection.close(refusal::CODE_BYE.into(), b"");
            reply
        };
        match within(asking).await {
            Ok(reply) => return Ok(reply),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn converse(send: SendStream, recv: RecvStream, me: NodeId, body: AuthorityBody) -> Result<AuthorityReply> {
    let (mut send, mut recv) = (FrameWriter::new(send), FrameReader::new(recv));
    let request = AuthorityRequest { version: AUTHORITY_VERSION, node: me, body };
    send.send(FrameKind::Authority, &request).await?;
    send.finish()?;
    recv.recv(FrameKind::Authority).await
}

async fn within<T>(asking: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(ASK_TIMEOUT, asking)
        .await
        .unwrap_or_else(|_| Err(MeshError::new(ErrorCode::PeerUnreachable, "the keeper does not answer")))
}
