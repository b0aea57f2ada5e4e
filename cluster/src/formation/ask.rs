//! One question to one seed, over a connection of its own.

use std::{net::SocketAddr, time::Duration};

use greylag_protocol::{
    ErrorCode, MeshError, Result,
    frame::FrameKind,
    messages::join::{JOIN_VERSION, JoinBody, JoinReply, JoinReplyBody, JoinRequest, JoinToken},
};
use quinn::{ClientConfig, Connection};

use crate::{
    identity::proof::{Channel, Side},
    transport::{Endpoint, FrameReader, FrameWriter, refusal},
};

/// Longest that one question may take, longer than any seed works on it.
const ASK_TIMEOUT: Duration = Duration::from_secs(6);

/// Asks seeds, as the bearer of one token.
pub(super) struct Asker {
    pub endpoint: Endpoint,
    pub token: JoinToken,
    pub dialler: ClientConfig,
}

pub(super) struct Reply {
    pub body: JoinReplyBody,
    /// Whether the seed has shown that it knows the token's secret. Only a refusal may come without.
    pub proven: bool,
}

impl Asker {
    pub(super) fn new(endpoint: Endpoint, token: JoinToken) -> Result<Self> {
        let dialler = endpoint.join_dialler(token.ca_pin)?;
        Ok(Self { endpoint, token, dialler })
    }

    pub(super) async fn ask(&self, seed: SocketAddr, body: JoinBody) -> Result<Reply> {
        let asking = async {
            let connection = self.endpoint.dial_with(self.dialler.clone(), seed).await?;
            let reply = self.converse(&connection, body).await;
            connection.close(refusal::CODE_BYE.into(), b"");
            reply
        };
        tokio::time::timeout(ASK_TIMEOUT, asking)
            .await
            .unwrap_or_else(|_| Err(MeshError::new(ErrorCode::PeerUnreachable, "the seed does not answer")))
    }

    async fn converse(&self, connection: &Connection, body: JoinBody) -> Result<Reply> {
        let channel = Channel::of(connection)?;
        let proof = channel.prove(&self.token.secret, Side::Joiner);
        let request = JoinRequest { version: JOIN_VERSION, token_id: self.token.id.clone(), proof, body };
        let (send, recv) = connection.open_bi().await.map_err(|error| refusal::of_connection(&error))?;
        let (mut send, mut recv) = (FrameWriter::new(send), FrameReader::new(recv));
        send.send(FrameKind::Join, &request).await?;
        send.finish()?;
        let JoinReply { version, proof, body } = recv.recv(FrameKind::Join).await?;
        if version != JOIN_VERSION {
            let message = format!("the seed speaks version {version} of the join protocol, this node {JOIN_VERSION}");
            return Err(MeshError::new(ErrorCode::ProtocolVersion, message));
        }
        let proven = channel.check(&self.token.secret, Side::Seed, &proof);
        if !proven && !matches!(body, JoinReplyBody::Refused(_)) {
            return Err(MeshError::new(ErrorCode::JoinTokenWrong, "the seed does not know the join token's secret"));
        }
        Ok(Reply { body, proven })
    }
}
