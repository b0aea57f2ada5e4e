//! What a founder does: resolve, mint, give every founding member its certificate, and only then begin the log.
//!
//! INVARIANT: its resolution is on disk before anybody is answered by it, and each member's key before that member has
//! its certificate, so that a founder that is started again goes on where it stopped.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use greylag_protocol::{
    Epoch, ErrorCode, MeshError, MeshId, NodeId, NodeUuid, Result,
    messages::join::{Authority, Candidate, Enrolment, JoinBody, JoinReplyBody, JoinToken},
    state::{Command, ControlState, Grant, MaskSalt, Member, MemberStatus, MeshFacts, Role, RoleCount, RoleWanted},
};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::core;
use crate::{
    identity::{
        CertificateAuthority, NodeKey,
        authority::bearer_public_key,
        store::{Founder, Founding, IdentityStore, Membership},
    },
    seams::Clock,
};

/// Nodes that decide on statements, where there are so many.
const POLICY_NODES: u32 = 3;

/// A new mesh's facts and keys. `members` are in order of id; `token` is the one they share.
pub(crate) fn mint(name: &str, members: Vec<Candidate>, token: Option<&JoinToken>, unix_ms: u64) -> Result<Founding> {
    let mesh = MeshId(Uuid::new_v4());
    let (authority, ca_certificate) = CertificateAuthority::mint(mesh, unix_ms)?;
    let mut voters: Vec<(bool, NodeUuid)> = members.iter().map(|m| (m.outbound_only, m.uuid)).collect();
    voters.sort();
    voters.truncate(core::voters(members.len()));
    let voters: BTreeSet<NodeUuid> = voters.into_iter().map(|(_, uuid)| uuid).collect();
    let founder = |(ordinal, candidate): (usize, Candidate)| Founder {
        id: NodeId(ordinal as u64 + 1),
        voter: voters.contains(&candidate.uuid),
        candidate,
        public_key: None,
    };
    // The token is recorded as used up, so that who comes with it later is told so. It never expires for that reason.
    let grant = token.map(|token| Grant {
        id: token.id.clone(),
        secret: token.secret.clone(),
        uses_left: 0,
        expires_unix_ms: u64::MAX,
        allowed: None,
    });
    Ok(Founding {
        mesh,
        name: name.to_owned(),
        founded_unix_ms: unix_ms,
        authority,
        ca_certificate,
        grant,
        members: members.into_iter().enumerate().map(founder).collect(),
        restored: None,
    })
}

/// Makes the founder itself a member of what it founds. Can be done again.
pub(crate) async fn found(
    mut founding: Founding,
    me: NodeUuid,
    key: &NodeKey,
    store: &IdentityStore,
    unix_ms: u64,
    life: Duration,
) -> Result<(Founding, Membership)> {
    let own = founding.members.iter_mut().find(|member| member.candidate.uuid == me);
    let Some(own) = own else { return Err(MeshError::internal("the founder is not among the founding members")) };
    own.public_key = Some(key.public_key().to_vec());
    let id = own.id;
    store.store_founding(founding.clone()).await?;
    let ca = CertificateAuthority::open(&founding.authority, &founding.ca_certificate)?;
    let issued = ca.issue(id, &key.certificate_request()?, unix_ms, life)?;
    let membership = store.enrol(enrolment(&founding, id, issued.certificate, true)).await?;
    Ok((founding, membership))
}

fn enrolment(founding: &Founding, node: NodeId, certificate: Vec<u8>, authority: bool) -> Enrolment {
    Enrolment {
        mesh: founding.mesh,
        node,
        certificate,
        ca_certificate: founding.ca_certificate.clone(),
        authority: authority.then(|| founding.authority.clone()),
        members: founding.members.iter().map(|m| (m.id, dialled_at(&m.candidate))).collect(),
        rotation: founding.restored.as_ref().and_then(|kept| kept.rotation.clone()),
        epoch: Epoch(0),
    }
}

/// Address of a candidate for others to dial; empty if it cannot be dialled.
fn dialled_at(candidate: &Candidate) -> String {
    if candidate.outbound_only { String::new() } else { candidate.address.clone() }
}

/// Answers the founding members until the log has begun.
pub(crate) struct FoundingDesk {
    founding: Mutex<Founding>,
    /// What of it never changes.
    mesh: MeshId,
    grant: Option<Grant>,
    ca: CertificateAuthority,
    store: IdentityStore,
    clock: Arc<dyn Clock>,
    /// Of the certificates it issues.
    life: Duration,
}

impl FoundingDesk {
    pub(crate) fn new(founding: Founding, store: IdentityStore, clock: Arc<dyn Clock>, life: Duration) -> Result<Self> {
        let ca = CertificateAuthority::open(&founding.authority, &founding.ca_certificate)?;
        let (mesh, grant) = (founding.mesh, founding.grant.clone());
        Ok(Self { founding: Mutex::new(founding), mesh, grant, ca, store, clock, life })
    }

    pub(super) fn secret(&self, token: &str) -> Option<Vec<u8>> {
        self.grant.as_ref().filter(|grant| grant.id == token).map(|grant| grant.secret.clone())
    }

    pub(super) async fn answer(&self, body: JoinBody) -> JoinReplyBody {
        match self.consider(body).await {
            Ok(reply) => reply,
            Err(error) => JoinReplyBody::Refused(error),
        }
    }

    async fn consider(&self, body: JoinBody) -> Result<JoinReplyBody> {
        let mut founding = self.founding.lock().await;
        let (JoinBody::Hello(candidate) | JoinBody::Enrol { candidate, .. }) = &body;
        core::check_name(&founding.name, candidate)?;
        let uuid = candidate.uuid;
        let Some(place) = founding.members.iter().position(|member| member.candidate.uuid == uuid) else {
            let message = "the mesh is being founded with as many nodes as expected, and this is not one of them";
            return Err(MeshError::new(ErrorCode::JoinTokenSpent, message));
        };
        match body {
            JoinBody::Hello(_) => Ok(JoinReplyBody::Formed { mesh: self.mesh, members: Vec::new() }),
            JoinBody::Enrol { candidate, csr } => {
                let enrolment = self.enrol(&mut founding, place, candidate, &csr).await?;
                Ok(JoinReplyBody::Enrolled(Box::new(enrolment)))
            }
        }
    }

    async fn enrol(
        &self,
        founding: &mut Founding,
        place: usize,
        candidate: Candidate,
        csr: &[u8],
    ) -> Result<Enrolment> {
        let issued = self.ca.issue(founding.members[place].id, csr, self.clock.unix_ms(), self.life)?;
        let member = &mut founding.members[place];
        if member.public_key.as_ref().is_some_and(|known| *known != issued.public_key) {
            let message = format!("node uuid {} has been enrolled with another key", candidate.uuid);
            return Err(MeshError::new(ErrorCode::FormationMismatch, message));
        }
        member.public_key = Some(issued.public_key);
        member.candidate = candidate;
        let (id, voter, name) = (member.id, member.voter, member.candidate.name.clone());
        self.store.store_founding(founding.clone()).await?;
        tracing::info!(node = %id, %name, "a founding member has been enrolled");
        Ok(enrolment(founding, id, issued.certificate, voter))
    }

    /// The founding members, as far as they are known now.
    pub(crate) async fn members(&self) -> Vec<Founder> {
        self.founding.lock().await.members.clone()
    }

    /// The log's first command. An internal error while a member has not been enrolled.
    pub(crate) async fn form_command(&self) -> Result<Command> {
        let founding = self.founding.lock().await;
        let members: Option<Vec<Member>> =
            founding.members.iter().map(|m| member(m, founding.founded_unix_ms)).collect();
        let Some(members) = members else {
            return Err(MeshError::internal("the mesh cannot begin before all its founding members are enrolled"));
        };
        if let Some(kept) = &founding.restored {
            let members = members.into_iter().map(|member| (member.id, member)).collect();
            return Ok(Command::Restore { state: Box::new(ControlState { members, ..(**kept).clone() }) });
        }
        Ok(Command::Form {
            facts: MeshFacts {
                id: founding.mesh,
                name: founding.name.clone(),
                ca_certificate: founding.ca_certificate.clone(),
                bearer_public_key: bearer_public_key(&founding.authority)?,
                founded_unix_ms: founding.founded_unix_ms,
                mask_salt: mask_salt(&founding.authority),
            },
            members,
            wanted: [
                (Role::Coordinator, RoleCount::All),
                (Role::Planner, RoleCount::All),
                (Role::Policy, RoleCount::AtMost(POLICY_NODES)),
            ]
            .map(|(role, count)| (role, RoleWanted { count, labels: Default::default() }))
            .into(),
            grants: founding.grant.iter().cloned().collect(),
        })
    }
}

/// From what the founder keeps anyway, so that a command that is proposed again is the same. It stays when the authority
/// is rotated.
fn mask_salt(authority: &Authority) -> MaskSalt {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &authority.bearer_key);
    MaskSalt(ring::hmac::sign(&key, b"greylag mask salt").as_ref().to_vec())
}

fn member(founder: &Founder, unix_ms: u64) -> Option<Member> {
    let Candidate { uuid, name, address, labels, door, outbound_only, .. } = founder.candidate.clone();
    Some(Member {
        id: founder.id,
        uuid,
        name,
        address,
        door,
        labels,
        outbound_only,
        voter: founder.voter,
        status: MemberStatus::Up,
        status_since_unix_ms: unix_ms,
        public_key: founder.public_key.clone()?,
        allowed: None,
        certified_by: Vec::new(),
    })
}
