//! Having a new authority take over: its keys go to every voter that is there, then the log says that it signs. Each
//! member follows by itself (see `renew`), and the leader ends it (see the leader's duties).
//!
//! INVARIANT: no authority takes over before every voter that is up has its keys on disk.

use std::{sync::Arc, time::Duration};

use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    messages::{
        authority::{AuthorityBody, AuthorityReply},
        join::Authority,
    },
    state::{Command, Role},
};

use super::{ask, core, succession::keep};
use crate::{
    identity::{CertificateAuthority, Keyring, authority::bearer_public_key, store::IdentityStore},
    mesh::Proposer,
    seams::Clock,
};

#[derive(Clone)]
pub(crate) struct Rotor {
    pub keyring: Arc<Keyring>,
    pub store: IdentityStore,
    pub proposer: Proposer,
    pub clock: Arc<dyn Clock>,
}

impl Rotor {
    /// Here, if the keys are kept here, else at a member that keeps them.
    pub(crate) async fn rotate(&self, overlap: Duration) -> Result<()> {
        if self.keyring.held().is_some() {
            return self.take_over(overlap).await;
        }
        let body = AuthorityBody::Rotate { overlap_ms: overlap.as_millis() as u64 };
        let mut last = MeshError::new(ErrorCode::PeerUnreachable, "no member keeps the mesh's authority");
        let others = self.proposer.board.addresses().into_keys();
        for keeper in core::whom_to_ask(&self.proposer.state(), others) {
            match ask::member(&self.proposer.board, keeper, body.clone()).await {
                Ok(AuthorityReply::Rotated) => return Ok(()),
                // It may have been done: who asks again is told that one takes over already.
                Ok(AuthorityReply::Refused(error)) => return Err(error.at_node(keeper)),
                Ok(_) => {}
                Err(error) => last = error.at_node(keeper),
            }
        }
        Err(last)
    }

    async fn take_over(&self, overlap: Duration) -> Result<()> {
        self.proposer.catch_up().await?;
        let state = self.proposer.state();
        let held = self.keyring.held().ok_or_else(|| MeshError::internal("the authority is not kept here"))?;
        let facts = state.mesh.as_ref().ok_or_else(|| MeshError::internal("the mesh has not been formed yet"))?;
        if state.rotation.is_some() {
            let message = "an authority is taking over already: wait until the former is trusted no more";
            return Err(MeshError::new(ErrorCode::ProposalRefused, message));
        }
        let now = self.clock.unix_ms();
        let until = now.saturating_add(overlap.as_millis() as u64);
        let (keys, ca_certificate, rotation) = held.ca.succeed(&held.keys, facts.id, now, until)?;
        for heir in core::heirs(&state, self.proposer.me)? {
            let body = AuthorityBody::Keep { keys: keys.clone(), ca_certificate: ca_certificate.clone() };
            match ask::member(&self.proposer.board, heir, body).await? {
                AuthorityReply::Kept => {}
                AuthorityReply::Refused(error) => return Err(error.at_node(heir)),
                _ => return Err(MeshError::internal("a voter has answered something else").at_node(heir)),
            }
        }
        keep(&self.keyring, &self.store, keys, &ca_certificate).await?;
        self.proposer.propose(Command::RotateAuthority { ca_certificate, rotation: Box::new(rotation) }).await?;
        tracing::info!(node = %self.proposer.me, "a new authority takes over");
        Ok(())
    }

    /// Keeps the keys of an authority that may take over, as a voter asks. They sign nothing before the log says so.
    pub(super) async fn keep(&self, asker: NodeId, keys: Authority, ca_certificate: &[u8]) -> Result<AuthorityReply> {
        let state = self.proposer.state();
        core::check_voter(&state, asker)?;
        CertificateAuthority::open(&keys, ca_certificate)?;
        let known = state.mesh.as_ref().map(|facts| &facts.bearer_public_key);
        if known != Some(&bearer_public_key(&keys)?) {
            return Err(MeshError::new(ErrorCode::ForeignCertificate, "the key for bearer tokens is not the mesh's"));
        }
        keep(&self.keyring, &self.store, keys, ca_certificate).await?;
        Ok(AuthorityReply::Kept)
    }

    /// As a coordinator asks, for an administrator.
    pub(super) async fn asked(&self, asker: NodeId, overlap: Duration) -> Result<AuthorityReply> {
        if self.keyring.held().is_none() {
            return Ok(AuthorityReply::NotKept);
        }
        if !self.proposer.state().holds(asker, &Role::Coordinator) {
            return Err(MeshError::new(ErrorCode::Denied, format!("{asker} does not coordinate")));
        }
        self.take_over(overlap).await.map(|()| AuthorityReply::Rotated)
    }
}
