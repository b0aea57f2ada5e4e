//! Renewal by table.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, time::Duration};

use greylag_protocol::{
    ErrorCode, MeshId, NodeId,
    messages::join::Authority,
    state::{Command, ControlState, MemberStatus},
};
use uuid::Uuid;

use super::core::{accept, check, check_keys, check_voter, due_unix_ms, whom_to_ask};
use crate::{
    identity::{CertificateAuthority, NodeKey, authority::bearer_public_key, certificate::Validity},
    state::{apply, fixture::form},
};

fn formed() -> ControlState {
    let mut state = ControlState::default();
    apply(&mut state, &form(1..=4));
    state
}

#[test]
fn renewed_with_a_third_left_or_a_little_more() {
    const HOUR: u64 = 3_600_000;
    let validity = Validity { issued_unix_ms: 100 * HOUR, expires_unix_ms: 172 * HOUR };
    let due: BTreeSet<u64> = (0..200).map(|seed| due_unix_ms(validity, seed)).collect();
    // 72 hours: a third is 24, a twelfth 6.
    assert!(due.iter().all(|at| (142 * HOUR..=148 * HOUR).contains(at)), "{due:?}");
    assert!(due.len() > 150 && due.last().unwrap() - due.first().unwrap() > 5 * HOUR, "they would all come together");
    assert_eq!(due_unix_ms(validity, 7), due_unix_ms(validity, 7));
    // One without any life is due at once.
    assert_eq!(due_unix_ms(Validity { issued_unix_ms: 9, expires_unix_ms: 9 }, 1), 9);
}

#[test]
fn voters_are_asked_first_and_who_is_down_last() {
    let mut state = formed();
    state.members.get_mut(&NodeId(1)).unwrap().voter = false;
    state.members.get_mut(&NodeId(3)).unwrap().status = MemberStatus::Down;
    assert_eq!(whom_to_ask(&state, [1, 3, 4].map(NodeId).into_iter()), [4, 1, 3].map(NodeId));
    // From what was said at enrolment, before the log has come.
    let nothing = ControlState::default();
    assert_eq!(whom_to_ask(&nothing, [3, 1].map(NodeId).into_iter()), [1, 3].map(NodeId));
}

#[test]
fn members_alone_are_given_one_and_for_their_own_key_alone() {
    let mut state = formed();
    let key = |id: u64| vec![id as u8; 32];
    assert_eq!(check(&state, NodeId(2), &key(2)), Ok(()));
    assert_eq!(check(&state, NodeId(2), &key(3)).unwrap_err().code, ErrorCode::ForeignCertificate);
    assert_eq!(check(&state, NodeId(9), &key(9)).unwrap_err().code, ErrorCode::NotAMember);
    apply(&mut state, &Command::Remove { node: NodeId(2) });
    assert_eq!(check(&state, NodeId(2), &key(2)).unwrap_err().code, ErrorCode::NotAMember);
}

#[test]
fn voters_alone_keep_the_authority_and_only_their_own_mesh_s() {
    let mut state = formed();
    state.members.get_mut(&NodeId(2)).unwrap().voter = false;
    assert_eq!(check_voter(&state, NodeId(1)), Ok(()));
    assert_eq!(check_voter(&state, NodeId(2)).unwrap_err().code, ErrorCode::Denied);
    assert_eq!(check_voter(&state, NodeId(9)).unwrap_err().code, ErrorCode::NotAMember);

    let mint = || CertificateAuthority::mint(MeshId(Uuid::nil()), 0).unwrap();
    let ((keys, ca), (other_keys, other_ca)) = (mint(), mint());
    state.mesh.as_mut().unwrap().bearer_public_key = bearer_public_key(&keys).unwrap();
    assert_eq!(check_keys(&keys, &ca, &state), Ok(()));
    let mixed = Authority { bearer_key: other_keys.bearer_key.clone(), ..keys.clone() };
    for (keys, ca) in [(&keys, &other_ca), (&other_keys, &ca), (&mixed, &ca)] {
        assert_eq!(check_keys(keys, ca, &state).unwrap_err().code, ErrorCode::ForeignCertificate);
    }
}

#[test]
fn only_the_certificate_that_was_asked_for_is_taken() {
    const NOW: u64 = 1_800_000_000_000;
    let life = Duration::from_secs(60);
    let mint = || CertificateAuthority::mint(MeshId(Uuid::nil()), NOW).unwrap();
    let ((keys, ca), (_, other_ca)) = (mint(), mint());
    let authority = CertificateAuthority::open(&keys, &ca).unwrap();
    let (key, other_key) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
    let issue = |key: &NodeKey, at| authority.issue(NodeId(3), &key.certificate_request().unwrap(), at, life).unwrap();
    let good = issue(&key, NOW).certificate;
    let taken = accept(&good, &ca, NodeId(3), key.public_key(), NOW).unwrap();
    assert_eq!(taken, Validity { issued_unix_ms: NOW, expires_unix_ms: NOW + 60_000 });
    let other = issue(&other_key, NOW).certificate;
    let expired = issue(&key, NOW - 120_000).certificate;
    for (certificate, ca, me) in [
        (&good, &ca, NodeId(4)),
        (&good, &other_ca, NodeId(3)),
        (&other, &ca, NodeId(3)),
        (&expired, &ca, NodeId(3)),
        (&vec![1, 2, 3], &ca, NodeId(3)),
    ] {
        let error = accept(certificate, ca, me, key.public_key(), NOW).unwrap_err();
        assert_eq!(error.code, ErrorCode::ForeignCertificate);
    }
}
