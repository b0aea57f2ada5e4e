//! Becoming a keeper: a voter that does not keep the mesh's authority is given it by one that does, so that the loss of
//! those who founded the mesh closes it to nobody. The keys travel over a link on which both ends have shown their
//! certificate, and are never in the log. Who loses its seat keeps them: what was known cannot be taken back.

use std::{sync::Arc, time::Duration};

use greylag_protocol::{
    ErrorCode, MeshError, Result,
    messages::{
        authority::{AuthorityBody, AuthorityReply},
        join::Authority,
    },
};

use super::{ask, core};
use crate::{
    identity::{Keyring, keyring::AUTHORITIES_MAX, store::IdentityStore},
    mesh::Proposer,
    transport::Backoff,
};

/// Pauses between two rounds of asking.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(200);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

pub(crate) struct Succession {
    pub keyring: Arc<Keyring>,
    pub store: IdentityStore,
    pub proposer: Proposer,
}

impl Succession {
    /// Runs until it is dropped: whenever this node votes and does not keep the keys of the authority that signs.
    pub(crate) async fn run(self) {
        let me = self.proposer.me;
        let (mut states, mut held) = (self.proposer.raft.watch(), self.keyring.watch());
        let mut backoff = Backoff::new(RETRY_PAUSE_MIN, RETRY_PAUSE_MAX, self.proposer.seed ^ me.0);
        loop {
            let lacks = held.wait_for(Option::is_none).await.is_ok();
            let votes = states.wait_for(|state| state.member(me).is_some_and(|member| member.voter)).await.is_ok();
            if !lacks || !votes {
                // The log is closed.
                return;
            }
            match self.succeed().await {
                Ok(()) => {
                    backoff.reset();
                    tracing::info!(node = %me, "this node keeps the mesh's authority from now on");
                }
                Err(error) => {
                    tracing::warn!(%error, "this voter could not be given the mesh's authority yet");
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        }
    }

    async fn succeed(&self) -> Result<()> {
        let ca = self.keyring.ca_certificate();
        let keys = self.ask().await?;
        core::check_keys(&keys, &ca, &self.proposer.state())?;
        keep(&self.keyring, &self.store, keys, &ca).await
    }

    async fn ask(&self) -> Result<Authority> {
        let mut last = MeshError::new(ErrorCode::PeerUnreachable, "no member keeps the mesh's authority");
        let others = self.proposer.board.addresses().into_keys();
        for keeper in core::whom_to_ask(&self.proposer.state(), others) {
            match ask::member(&self.proposer.board, keeper, AuthorityBody::Keys).await {
                Ok(AuthorityReply::Keys(keys)) => return Ok(keys),
                Ok(AuthorityReply::Refused(error)) | Err(error) => last = error.at_node(keeper),
                Ok(_) => {}
            }
        }
        Err(last)
    }
}

/// On disk first.
pub(super) async fn keep(keyring: &Keyring, store: &IdentityStore, keys: Authority, ca: &[u8]) -> Result<()> {
    let mut known = keyring.known();
    known.retain(|(_, known)| known != ca);
    known.push((keys.clone(), ca.to_vec()));
    let excess = known.len().saturating_sub(AUTHORITIES_MAX);
    let signs = keyring.ca_certificate();
    if let Some(oldest) = known.iter().position(|(_, known)| *known != signs).filter(|_| excess > 0) {
        known.remove(oldest);
    }
    store.keep_authorities(known).await?;
    keyring.put(keys, ca)
}
