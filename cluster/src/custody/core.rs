//! When a certificate is renewed, who is asked for it, and who is given one.

use std::time::Duration;

use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    messages::join::Authority,
    state::{ControlState, MemberStatus},
};
use rustls::pki_types::CertificateDer;

use crate::{
    identity::{
        CertificateAuthority,
        authority::bearer_public_key,
        certificate::{Validity, node_of, public_key_of, validity_of, verify_chain},
    },
    transport::{Jitter, REMOVED},
};

/// Most members that are asked in one round.
const ASKED_MAX: usize = 64;

/// When a certificate should be renewed, Unix milliseconds: with a third of its life left, or up to a twelfth of it
/// earlier, by the node's own seed, so that nodes that were enrolled together do not come together.
pub(super) fn due_unix_ms(validity: Validity, seed: u64) -> u64 {
    let life = Duration::from_millis(validity.expires_unix_ms.saturating_sub(validity.issued_unix_ms));
    // From a twelfth to a sixth, on top of a quarter.
    let left = life / 4 + Jitter::new(seed).spread(life / 6);
    validity.expires_unix_ms.saturating_sub(left.as_millis() as u64)
}

/// Which of these to ask, those that vote first: they keep the authority. Some of them the state may not know yet.
pub(super) fn whom_to_ask(state: &ControlState, others: impl Iterator<Item = NodeId>) -> Vec<NodeId> {
    let mut others: Vec<NodeId> = others.collect();
    others.sort_by_key(|node| {
        let (down, votes) = state.member(*node).map_or((false, false), |m| (m.status == MemberStatus::Down, m.voter));
        (down, !votes, *node)
    });
    others.truncate(ASKED_MAX);
    others
}

/// Whether `node`, which has proven to have this key, is given a certificate for it. GL4001 for who is not a member,
/// GL4002 for another key than the member's.
pub(super) fn check(state: &ControlState, node: NodeId, key: &[u8]) -> Result<()> {
    if state.removed.contains(&node) {
        return Err(MeshError::new(ErrorCode::NotAMember, REMOVED));
    }
    let Some(member) = state.member(node) else {
        return Err(MeshError::new(
            ErrorCode::NotAMember,
            format!("{node} is not a member and is given no certificate"),
        ));
    };
    if member.public_key != key {
        let message = format!("{node} asks for a certificate for another key than its own");
        return Err(MeshError::new(ErrorCode::ForeignCertificate, message));
    }
    Ok(())
}

/// Whether `node` is given the authority to keep. GL4001 for who is not a member, GL2003 for who does not vote.
pub(super) fn check_voter(state: &ControlState, node: NodeId) -> Result<()> {
    match state.member(node) {
        Some(member) if member.voter => Ok(()),
        Some(_) => {
            let message = format!("{node} does not vote and is not given the mesh's authority");
            Err(MeshError::new(ErrorCode::Denied, message))
        }
        None => Err(MeshError::new(ErrorCode::NotAMember, format!("{node} is not a member"))),
    }
}

/// Whether these are the keys of this mesh. GL4002 if not.
pub(super) fn check_keys(keys: &Authority, ca: &[u8], state: &ControlState) -> Result<()> {
    CertificateAuthority::open(keys, ca)?;
    let known = state.mesh.as_ref().map(|facts| &facts.bearer_public_key);
    if known != Some(&bearer_public_key(keys)?) {
        return Err(MeshError::new(ErrorCode::ForeignCertificate, "the key for bearer tokens is not the mesh's"));
    }
    Ok(())
}

/// Whether a certificate has been signed by this authority, whatever its dates.
pub(super) fn is_signed_by(certificate: &[u8], ca: &[u8]) -> bool {
    let Ok(validity) = validity_of(certificate) else { return false };
    verify_chain(&CertificateDer::from(certificate), &CertificateDer::from(ca), validity.issued_unix_ms).is_ok()
}

/// Voters that must have the keys of an authority before it takes over: all that are there. GL4007 without a majority
/// of them, for then those who are not there could never sign again.
pub(super) fn heirs(state: &ControlState, me: NodeId) -> Result<Vec<NodeId>> {
    let voters = || state.members.values().filter(|member| member.voter);
    let there: Vec<NodeId> = voters().filter(|m| m.status != MemberStatus::Down).map(|m| m.id).collect();
    if there.len() * 2 <= voters().count() {
        let message = "most voters are down: the authority is rotated once they are back";
        return Err(MeshError::new(ErrorCode::NoLeader, message));
    }
    Ok(there.into_iter().filter(|node| *node != me).collect())
}

/// Whether a certificate is what this node has asked for. GL4002 if not.
pub(super) fn accept(certificate: &[u8], ca: &[u8], me: NodeId, key: &[u8], now_unix_ms: u64) -> Result<Validity> {
    let parsed = CertificateDer::from(certificate);
    verify_chain(&parsed, &CertificateDer::from(ca), now_unix_ms)?;
    if node_of(&parsed)? != me || public_key_of(&parsed)? != key {
        return Err(MeshError::new(ErrorCode::ForeignCertificate, "the certificate is for another node or key"));
    }
    validity_of(certificate)
}
