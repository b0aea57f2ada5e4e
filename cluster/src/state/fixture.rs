//! Members and sources for tests.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use greylag_protocol::{
    MeshId, NodeId, NodeUuid, SourceName,
    principal::{Principal, PrincipalKind},
    state::{ApiKey, Command, Grant, Member, MemberStatus, MeshFacts, SourceSpec},
};
use uuid::Uuid;

pub(crate) fn member(id: u64) -> Member {
    Member {
        id: NodeId(id),
        uuid: NodeUuid(Uuid::from_u128(u128::from(id) + 1000)),
        name: format!("n{id}"),
        address: format!("10.0.0.{id}:7400"),
        door: None,
        labels: BTreeMap::new(),
        outbound_only: false,
        voter: true,
        status: MemberStatus::Up,
        status_since_unix_ms: 0,
        public_key: vec![id as u8; 32],
        allowed: None,
        certified_by: Vec::new(),
    }
}

pub(crate) fn grant(id: &str, uses: u32) -> Grant {
    Grant { id: id.to_owned(), secret: vec![7; 16], uses_left: uses, expires_unix_ms: 1000, allowed: None }
}

pub(crate) fn facts() -> MeshFacts {
    MeshFacts {
        id: MeshId(Uuid::from_u128(1)),
        name: "flock".to_owned(),
        ca_certificate: vec![1; 300],
        bearer_public_key: vec![2; 32],
        founded_unix_ms: 1,
        mask_salt: Default::default(),
    }
}

pub(crate) fn form(members: impl IntoIterator<Item = u64>) -> Command {
    Command::Form {
        facts: facts(),
        members: members.into_iter().map(member).collect(),
        wanted: BTreeMap::new(),
        grants: vec![grant("g", 2)],
    }
}

pub(crate) fn source(name: &str) -> SourceSpec {
    SourceSpec {
        name: SourceName::new(name).unwrap(),
        kind: "sqlite".to_owned(),
        options: BTreeMap::from([("path".to_owned(), "/data/x.db".to_owned())]),
        labels: BTreeMap::from([("site".to_owned(), "a".to_owned())]),
        replicas: 2,
    }
}

pub(crate) fn key(id: &str, secret: u8) -> ApiKey {
    let principal = Principal { id: "ada".into(), kind: PrincipalKind::Person, roles: vec![], attributes: [].into() };
    ApiKey {
        id: id.into(),
        secret_hash: [secret; 32],
        principal,
        scopes: [].into(),
        networks: vec![],
        created_unix_ms: 1,
        expires_unix_ms: None,
        revoked_unix_ms: None,
        last_used_unix_ms: None,
    }
}
