//! Answering members as a keeper of the authority.

use std::{sync::Arc, time::Duration};

use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    frame::FrameKind,
    messages::authority::{AUTHORITY_VERSION, AuthorityBody, AuthorityReply, AuthorityRequest},
};
use tokio::sync::{Semaphore, mpsc};

use super::{Rotor, core};
use crate::{
    identity::{CertificateAuthority, Keyring},
    mesh::{Incoming, Proposer},
    seams::Clock,
    transport::{FrameReader, FrameWriter},
};

/// Requests served at once; more wait on their streams.
const REQUESTS_MAX: usize = 16;
/// Longest that one request may take, shorter than who asks waits.
const SERVE_TIMEOUT: Duration = Duration::from_secs(12);

pub(crate) struct AuthorityDesk {
    pub keyring: Arc<Keyring>,
    pub rotor: Rotor,
    pub proposer: Proposer,
    pub clock: Arc<dyn Clock>,
    /// Of the certificates it issues.
    pub life: Duration,
}

impl AuthorityDesk {
    /// Serves until the streams end.
    pub(crate) async fn serve(self: Arc<Self>, mut streams: mpsc::Receiver<Incoming>) {
        let free = Arc::new(Semaphore::new(REQUESTS_MAX));
        while let Some(incoming) = streams.recv().await {
            let Ok(permit) = free.clone().acquire_owned().await else { return };
            let desk = self.clone();
            tokio::spawn(async move {
                let peer = incoming.peer;
                match tokio::time::timeout(SERVE_TIMEOUT, desk.serve_one(incoming)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "a request to the authority has failed"),
                    Err(_) => tracing::debug!(%peer, "a request to the authority took too long"),
                }
                drop(permit);
            });
        }
    }

    async fn serve_one(&self, Incoming { peer, send, recv }: Incoming) -> Result<()> {
        let (mut send, mut recv) = (FrameWriter::new(send), FrameReader::new(recv));
        let request: AuthorityRequest = recv.recv(FrameKind::Authority).await?;
        let reply = if request.node == peer {
            self.answer(request).await
        } else {
            let message = format!("{peer} asks in the name of {}", request.node);
            AuthorityReply::Refused(MeshError::new(ErrorCode::NotAMember, message))
        };
        send.send(FrameKind::Authority, &reply).await?;
        send.finish()
    }

    /// Answers who may be anybody that names a node: by what the request itself proves, and with nothing more.
    pub(crate) async fn answer_stranger(&self, request: AuthorityRequest) -> AuthorityReply {
        match request.body {
            AuthorityBody::Renew { .. } => self.answer(request).await,
            AuthorityBody::Keys | AuthorityBody::Keep { .. } | AuthorityBody::Rotate { .. } => {
                let message = "this is for members that have shown their certificate";
                AuthorityReply::Refused(MeshError::new(ErrorCode::NoCertificate, message))
            }
        }
    }

    async fn answer(&self, AuthorityRequest { version, node, body }: AuthorityRequest) -> AuthorityReply {
        if version != AUTHORITY_VERSION {
            let message = format!("requests to the authority of version {version} are not spoken here");
            return AuthorityReply::Refused(MeshError::new(ErrorCode::ProtocolVersion, message));
        }
        let answer = match body {
            AuthorityBody::Renew { csr } => self.renew(node, &csr).await,
            AuthorityBody::Keys => self.hand_over(node).await,
            AuthorityBody::Keep { keys, ca_certificate } => self.rotor.keep(node, keys, &ca_certificate).await,
            AuthorityBody::Rotate { overlap_ms } => self.rotor.asked(node, Duration::from_millis(overlap_ms)).await,
        };
        answer.unwrap_or_else(|error| {
            tracing::warn!(%node, %error, "a request to the authority was refused");
            AuthorityReply::Refused(error)
        })
    }

    async fn renew(&self, node: NodeId, csr: &[u8]) -> Result<AuthorityReply> {
        let Some(held) = self.keyring.held() else { return Ok(AuthorityReply::NotKept) };
        let key = CertificateAuthority::requested_key(csr)?;
        core::check(&self.proposer.state(), node, &key)?;
        // It may have been removed a moment ago. Where there is no leader to ask, a certificate is given all the same:
        // without one the voters could not find each other again. It opens no door to who was removed.
        if let Err(error) = self.proposer.catch_up().await {
            tracing::warn!(%node, %error, "a certificate is renewed by what is known here");
        }
        core::check(&self.proposer.state(), node, &key)?;
        let issued = held.ca.issue(node, csr, self.clock.unix_ms(), self.life)?;
        tracing::info!(%node, "a certificate was renewed");
        Ok(AuthorityReply::Certificate(issued.certificate))
    }

    /// The keys, for a voter by everything that was committed before it asked. Without a leader nobody is given them.
    async fn hand_over(&self, node: NodeId) -> Result<AuthorityReply> {
        let Some(held) = self.keyring.held() else { return Ok(AuthorityReply::NotKept) };
        self.proposer.catch_up().await?;
        core::check_voter(&self.proposer.state(), node)?;
        tracing::info!(%node, "a voter is given the mesh's authority to keep");
        Ok(AuthorityReply::Keys((*held.keys).clone()))
    }
}
