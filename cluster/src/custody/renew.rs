//! Keeping this node's own certificate fresh, for as long as it runs. A node that keeps the authority issues its own.

use std::{sync::Arc, time::Duration};

use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    messages::authority::{AuthorityBody, AuthorityReply},
    state::{Command, ControlState},
};
use tokio::sync::watch;

use super::{ask, core};
use crate::{
    identity::{
        Keyring, NodeKey, Trust,
        certificate::{fingerprint, validity_of},
        store::{IdentityStore, Membership},
    },
    mesh::Proposer,
    seams::Clock,
    transport::{Backoff, Credentials, Endpoint},
};

/// The wall clock is looked at least this often: it may jump.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Pauses after a failure.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(200);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);

pub(crate) struct Renewal {
    pub me: NodeId,
    pub key: Arc<NodeKey>,
    pub keyring: Arc<Keyring>,
    pub store: IdentityStore,
    pub endpoint: Endpoint,
    pub clock: Arc<dyn Clock>,
    /// Of the certificates it issues.
    pub life: Duration,
    pub seed: u64,
}

impl Renewal {
    /// The node's place with a good certificate, as far as it can be had without asking anybody.
    pub(crate) async fn at_home(&self, membership: Membership) -> Result<Membership> {
        match self.keyring.held() {
            Some(_) if self.due_unix_ms(&membership)? <= self.clock.unix_ms() => self.take(self.issue()?).await,
            _ => Ok(membership),
        }
    }

    /// Runs until it is dropped.
    pub(crate) async fn keep(self, mut membership: Membership, proposer: Proposer) {
        let mut backoff = Backoff::new(RETRY_PAUSE_MIN, RETRY_PAUSE_MAX, self.seed ^ self.me.0);
        let mut states = proposer.raft.watch();
        loop {
            let state = states.borrow_and_update().clone();
            let step = match self.follow(&state, &membership).await {
                Ok(()) => self.step(&state, &mut membership, &proposer).await,
                Err(error) => Err(error),
            };
            let pause = match step {
                Ok(pause) => {
                    backoff.reset();
                    pause
                }
                Err(error) => {
                    tracing::warn!(%error, "this node's certificate could not be renewed yet");
                    backoff.pause()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // Another authority may have taken over.
                () = concerns(&mut states, |state| self.is_concerned(state, &membership)) => {}
            }
        }
    }

    /// Believes what the mesh believes.
    async fn follow(&self, state: &ControlState, membership: &Membership) -> Result<()> {
        let Some(trust) = newer(state, &self.keyring.trust()) else { return Ok(()) };
        // On disk first: a node that forgot whom it believed might be believed by nobody.
        self.store.keep_trust(trust.clone()).await?;
        self.keyring.believe(trust);
        self.endpoint.serve_member(&credentials(membership, &self.keyring.trust(), &self.key))?;
        tracing::info!(node = %self.me, rotating = state.rotation.is_some(), "the mesh's authority has changed");
        Ok(())
    }

    /// Does what is due, and says when to look again.
    async fn step(&self, state: &ControlState, membership: &mut Membership, proposer: &Proposer) -> Result<Duration> {
        let now = self.clock.unix_ms();
        // One whose dates cannot be read is no good.
        let due = self.due_unix_ms(membership).unwrap_or(now);
        if due <= now {
            *membership = self.renew(membership, proposer).await?;
            return Ok(Duration::ZERO);
        }
        if self.has_to_tell(state, membership) {
            let authority = fingerprint(&membership.ca_certificate).to_vec();
            proposer.propose(Command::Certified { node: self.me, authority }).await?;
        }
        Ok(Duration::from_millis(due - now).min(LOOK_PAUSE_MAX))
    }

    /// Whether the mesh waits to hear whose certificate this node shows.
    fn has_to_tell(&self, state: &ControlState, membership: &Membership) -> bool {
        let by = fingerprint(&membership.ca_certificate);
        let told = state.member(self.me).is_none_or(|member| member.certified_by == by);
        state.rotation.is_some() && !told
    }

    fn is_concerned(&self, state: &ControlState, membership: &Membership) -> bool {
        newer(state, &self.keyring.trust()).is_some() || self.has_to_tell(state, membership)
    }

    /// One of an authority that has been rotated out is due at once.
    fn due_unix_ms(&self, membership: &Membership) -> Result<u64> {
        if !core::is_signed_by(&membership.certificate, &self.keyring.ca_certificate()) {
            return Ok(0);
        }
        Ok(core::due_unix_ms(validity_of(&membership.certificate)?, self.seed ^ self.me.0))
    }

    /// A new certificate, stored and in use.
    async fn renew(&self, membership: &Membership, proposer: &Proposer) -> Result<Membership> {
        let certificate = match self.keyring.held() {
            Some(_) => self.issue()?,
            None => self.ask(membership, proposer).await?,
        };
        let renewed = self.take(certificate).await?;
        self.endpoint.serve_member(&credentials(&renewed, &self.keyring.trust(), &self.key))?;
        Ok(renewed)
    }

    fn issue(&self) -> Result<Vec<u8>> {
        let held = self.keyring.held().ok_or_else(|| MeshError::internal("the authority is not kept here"))?;
        Ok(held.ca.issue(self.me, &self.key.certificate_request()?, self.clock.unix_ms(), self.life)?.certificate)
    }

    /// Asks one keeper after another.
    async fn ask(&self, membership: &Membership, proposer: &Proposer) -> Result<Vec<u8>> {
        let body = AuthorityBody::Renew { csr: self.key.certificate_request()? };
        let expired =
            validity_of(&membership.certificate).is_ok_and(|validity| validity.expires_unix_ms <= self.clock.unix_ms());
        let state = proposer.state();
        let mut last = MeshError::new(ErrorCode::PeerUnreachable, "no member keeps the mesh's authority");
        let addresses = proposer.board.addresses();
        for keeper in core::whom_to_ask(&state, addresses.keys().copied()) {
            let address = addresses.get(&keeper).filter(|address| expired && !address.is_empty());
            let reply = match address {
                Some(address) => {
                    let ca = self.keyring.ca_certificate();
                    ask::as_stranger(&self.endpoint, address, &ca, self.me, body.clone()).await
                }
                None => ask::member(&proposer.board, keeper, body.clone()).await,
            };
            match reply {
                Ok(AuthorityReply::Certificate(certificate)) => return Ok(certificate),
                Ok(AuthorityReply::Refused(error)) => {
                    // Noted like any refusal of this node: one that was removed ends.
                    proposer.board.links().failed(keeper, error.clone());
                    last = error.at_node(keeper);
                }
                Ok(_) => {}
                Err(error) => last = error.at_node(keeper),
            }
        }
        Err(last)
    }

    /// Stores a certificate, if it is what was asked for.
    async fn take(&self, certificate: Vec<u8>) -> Result<Membership> {
        let (ca, now) = (self.keyring.ca_certificate(), self.clock.unix_ms());
        let validity = core::accept(&certificate, &ca, self.me, self.key.public_key(), now)?;
        let renewed = self.store.renew(certificate, ca).await?;
        tracing::info!(node = %self.me, expires_unix_ms = validity.expires_unix_ms, "this node's certificate was renewed");
        Ok(renewed)
    }
}

/// What the state says to believe, if that is newer than what is believed, and something else.
fn newer(state: &ControlState, trust: &Trust) -> Option<Trust> {
    Trust::of(state).filter(|told| told.epoch >= trust.epoch && !told.says_the_same(trust))
}

/// Resolves at the next state that is of concern.
async fn concerns(states: &mut watch::Receiver<Arc<ControlState>>, is: impl Fn(&ControlState) -> bool) {
    // What was seen has been dealt with, or has failed and has its pause.
    let next = async {
        loop {
            states.changed().await?;
            if is(&states.borrow_and_update()) {
                return Ok::<_, watch::error::RecvError>(());
            }
        }
    };
    if next.await.is_err() {
        // The log is closed.
        std::future::pending::<()>().await;
    }
}

/// What a member shows.
pub(crate) fn credentials(membership: &Membership, trust: &Trust, key: &NodeKey) -> Credentials {
    Credentials { certificate: membership.certificate.clone().into(), trust: trust.clone(), key: key.tls_key() }
}
