//! Letting a node in: the grant behind its token is checked, spent and turned into an id by one command of the log, and
//! the certificate is signed after that. A node that lost the answer asks again and is given the same id.

use std::sync::Arc;

use greylag_protocol::{
    ErrorCode, MeshError, MeshId, NodeId, Result,
    messages::join::{Candidate, Enrolment, JoinBody, JoinReplyBody, JoinToken},
    state::{Command, ControlState, Grant, Member, MemberStatus, Outcome},
};

use super::core;
use crate::{custody::AuthorityDesk, identity::CertificateAuthority, mesh::Proposer, seams::Clock};

/// Most addresses named to a joiner.
const ADDRESSES_MAX: usize = 64;

pub(crate) struct Admissions {
    pub mesh: MeshId,
    pub me: NodeId,
    pub mesh_name: String,
    /// The token this node was configured with: until the log has come, the only one it can check.
    pub own_token: Option<JoinToken>,
    /// Members at the time of this node's own enrolment.
    pub enrolled_with: Vec<(NodeId, String)>,
    pub authority: Arc<AuthorityDesk>,
    pub proposer: Proposer,
    pub clock: Arc<dyn Clock>,
}

impl Admissions {
    /// Secret of a token. GL4004 if there is no such grant.
    pub(super) async fn secret(&self, token: &str) -> Result<Vec<u8>> {
        let state = self.proposer.state();
        if let Some(grant) = state.grants.get(token) {
            return Ok(grant.secret.clone());
        }
        if state.mesh.is_none() {
            let own = self.own_token.as_ref().filter(|own| own.id == token);
            return own.map(|own| own.secret.clone()).ok_or_else(still_forming);
        }
        // It may have been granted a moment ago, and not be known here yet.
        self.proposer.catch_up().await?;
        let grant = self.proposer.state().grants.get(token).map(|grant| grant.secret.clone());
        grant.ok_or_else(|| {
            MeshError::new(ErrorCode::JoinTokenWrong, "the join token is not known, or its secret is wrong")
        })
    }

    /// Answers a node that has shown that it knows the token's secret.
    pub(super) async fn answer(&self, token: &str, body: JoinBody) -> JoinReplyBody {
        match self.consider(token, body).await {
            Ok(reply) => reply,
            Err(error) => JoinReplyBody::Refused(error),
        }
    }

    async fn consider(&self, token: &str, body: JoinBody) -> Result<JoinReplyBody> {
        let state = self.proposer.state();
        let (JoinBody::Hello(candidate) | JoinBody::Enrol { candidate, .. }) = &body;
        core::check_name(&self.mesh_name, candidate)?;
        if let Some(grant) = state.grants.get(token)
            && !state.members.values().any(|member| member.uuid == candidate.uuid)
        {
            check_usable(grant, self.clock.unix_ms())?;
        }
        match body {
            JoinBody::Hello(_) => Ok(JoinReplyBody::Formed { mesh: self.mesh, members: self.addresses(&state) }),
            JoinBody::Enrol { candidate, csr } => match self.authority.keyring.held() {
                Some(held) if state.mesh.is_some() => {
                    let enrolment = self.enrol(&held.ca, token, candidate, &csr).await?;
                    Ok(JoinReplyBody::Enrolled(Box::new(enrolment)))
                }
                _ => Ok(JoinReplyBody::AskOthers(self.addresses(&state))),
            },
        }
    }

    async fn enrol(
        &self,
        authority: &CertificateAuthority,
        token: &str,
        candidate: Candidate,
        csr: &[u8],
    ) -> Result<Enrolment> {
        let public_key = CertificateAuthority::requested_key(csr)?;
        let Candidate { uuid, name, address, labels, door, outbound_only, .. } = candidate;
        let now_unix_ms = self.clock.unix_ms();
        let member = Member {
            id: NodeId(0),
            uuid,
            name,
            address,
            door,
            labels,
            outbound_only,
            voter: false,
            status: MemberStatus::Up,
            status_since_unix_ms: now_unix_ms,
            public_key,
            allowed: None,
            certified_by: Vec::new(),
        };
        let admitted = self
            .proposer
            .propose(Command::Admit { grant: token.to_owned(), member: Box::new(member), now_unix_ms })
            .await?;
        let Outcome::Admitted { node, .. } = admitted else {
            return Err(MeshError::internal("an admission came to something else"));
        };
        let issued = authority.issue(node, csr, now_unix_ms, self.authority.life)?;
        tracing::info!(%node, %uuid, "a node was admitted");
        let state = self.proposer.state();
        let members =
            state.members.values().map(|m| (m.id, if m.outbound_only { String::new() } else { m.address.clone() }));
        Ok(Enrolment {
            mesh: self.mesh,
            node,
            certificate: issued.certificate,
            ca_certificate: authority.certificate().to_vec(),
            authority: None,
            members: members.collect(),
            rotation: state.rotation.clone(),
            epoch: state.epoch,
        })
    }

    /// Other members that can be dialled, those that are up first.
    fn addresses(&self, state: &ControlState) -> Vec<String> {
        if state.mesh.is_none() {
            let others = self.enrolled_with.iter().filter(|(id, address)| *id != self.me && !address.is_empty());
            return others.map(|(_, address)| address.clone()).take(ADDRESSES_MAX).collect();
        }
        let mut others: Vec<&Member> = state.members.values().filter(|m| m.id != self.me && !m.outbound_only).collect();
        // Voters keep the authority.
        others.sort_by_key(|m| (m.status == MemberStatus::Down, !m.voter, m.id));
        others.into_iter().map(|m| m.address.clone()).take(ADDRESSES_MAX).collect()
    }
}

/// Whether the log would admit by this grant, so that a useless attempt does not reach it. GL4006 or GL4005.
fn check_usable(grant: &Grant, unix_ms: u64) -> Result<()> {
    if grant.uses_left == 0 {
        return Err(MeshError::new(ErrorCode::JoinTokenSpent, format!("join token `{}` has been used up", grant.id)));
    }
    if unix_ms >= grant.expires_unix_ms {
        return Err(MeshError::new(ErrorCode::JoinTokenExpired, format!("join token `{}` has expired", grant.id)));
    }
    Ok(())
}

fn still_forming() -> MeshError {
    MeshError::new(ErrorCode::NoLeader, "the mesh is still being formed")
}
