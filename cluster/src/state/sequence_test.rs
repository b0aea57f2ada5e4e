//! Random sequences of commands: two nodes agree, ids never repeat, the epoch tells every change, and a snapshot keeps
//! everything.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use greylag_protocol::{
    Epoch, NodeId, SourceName,
    state::{
        AttributeKind, AuditHead, Command, ControlState, GovernCommand, GovernanceSettings, LeaseId, Member,
        MemberStatus, Outcome, Period, QuotaCommand, QuotaKey, RegisterExpect, RegisterOp, RegisterRequest, Registers,
        Role, RoleChange, RoleCount, RoleWanted, Rotation, SourceSpec, TagPlace,
    },
};
use proptest::prelude::*;
use uuid::Uuid;

use super::{
    apply, decode_snapshot, encode_snapshot,
    fixture::{form, grant, key, member, source},
};

fn status() -> impl Strategy<Value = MemberStatus> {
    prop_oneof![Just(MemberStatus::Up), Just(MemberStatus::Down), Just(MemberStatus::Draining)]
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![
        Just(Role::Coordinator),
        Just(Role::Policy),
        prop_oneof!["a", "b"].prop_map(|name| Role::Edge(SourceName::new(name).unwrap())),
    ]
}

fn node() -> impl Strategy<Value = NodeId> {
    (1u64..12).prop_map(NodeId)
}

fn register() -> impl Strategy<Value = Command> {
    let op = prop_oneof![
        "[0-9a]".prop_map(|value| RegisterOp::Write { value }),
        (0u64..20)
            .prop_map(|at| RegisterOp::CompareAndSet { expect: RegisterExpect::Version(at), value: "1".to_owned() }),
        "[0-9a]"
            .prop_map(|held| RegisterOp::CompareAndSet { expect: RegisterExpect::Value(held), value: "2".to_owned() }),
        (-3i64..4).prop_map(|delta| RegisterOp::Add { delta }),
        Just(RegisterOp::Remove),
    ];
    // Few ids, so that some are asked for again.
    (prop_oneof!["a", "b"], op, 0u128..30).prop_map(|(name, op, id)| Command::Register {
        name,
        op,
        request: RegisterRequest { id: Uuid::from_u128(id), after: 0 },
    })
}

fn govern() -> impl Strategy<Value = Command> {
    let name = || prop_oneof!["a", "b"];
    let version = || prop::option::of(0u64..3);
    prop_oneof![
        3 => (name(), "[xy]", version(), 0u64..9).prop_map(|(id, text, expect_version, now_unix_ms)| {
            GovernCommand::PutPolicy { id, text, by: "ada".to_owned(), now_unix_ms, expect_version }
        }),
        1 => name().prop_map(|id| GovernCommand::DropPolicy { id }),
        2 => (name(), prop::collection::vec(name(), 0..2), version()).prop_map(|(tag, tables, expect_version)| {
            let places = tables.into_iter().map(|tables| TagPlace { tables, columns: None }).collect();
            GovernCommand::PutTag { tag, places, expect_version }
        }),
        2 => (name(), any::<bool>()).prop_map(|(name, declared)| GovernCommand::DeclareAttribute {
            name,
            kind: declared.then_some(AttributeKind::Text),
        }),
        1 => (name(), version()).prop_map(|(environment, expect_version)| GovernCommand::PutSettings {
            settings: Box::new(GovernanceSettings { environment, ..GovernanceSettings::default() }),
            expect_version,
        }),
        2 => (name(), 0u8..3).prop_map(|(id, secret)| GovernCommand::PutKey { key: Box::new(key(&id, secret)) }),
        2 => name().prop_map(|id| GovernCommand::RevokeKey { id, now_unix_ms: 5 }),
        2 => (name(), 0u64..9).prop_map(|used| GovernCommand::KeysUsed { uses: vec![used] }),
        2 => (node(), 1u64..4, 0u8..2).prop_map(|(node, sequence, hash)| GovernCommand::AuditHead {
            head: AuditHead { node, sequence, hash: [hash; 32] },
        }),
    ]
    .prop_map(Command::Govern)
}

fn quota() -> impl Strategy<Value = Command> {
    let key =
        prop_oneof!["a", "b"].prop_map(|organisation| QuotaKey { organisation, agent: None, period: Period::Hour });
    let lease = || (node(), 1u64..4).prop_map(|(node, sequence)| LeaseId { node, incarnation: 1, sequence });
    let amount = || 0u64..9;
    prop_oneof![
        (key.clone(), prop::option::of(0u64..20))
            .prop_map(|(key, limit)| { QuotaCommand::SetLimit { key, limit, now_unix_ms: 5 } }),
        (key.clone(), lease(), amount(), amount())
            .prop_map(|(key, lease, need, want)| { QuotaCommand::Lease { key, lease, need, want, now_unix_ms: 5 } }),
        (key, lease(), amount(), any::<bool>())
            .prop_map(|(key, lease, spent, closed)| { QuotaCommand::Report { key, lease, spent, closed } }),
    ]
    .prop_map(Command::Quota)
}

fn name_of_source() -> impl Strategy<Value = SourceName> {
    prop_oneof!["a", "b"].prop_map(|name| SourceName::new(name).unwrap())
}

fn command() -> impl Strategy<Value = Command> {
    let name = prop_oneof!["a", "b", "c"];
    let grant_id = prop_oneof!["g", "h", "i"];
    let wanted = prop::option::of(
        (0u32..3).prop_map(|count| RoleWanted { count: RoleCount::AtMost(count), labels: BTreeMap::new() }),
    );
    let changes = (role(), node(), any::<bool>()).prop_map(|(role, node, held)| RoleChange { role, node, held });
    prop_oneof![
        1 => Just(form(1..=3)),
        4 => (grant_id.clone(), 10u64..30, 0u64..1100).prop_map(|(grant, id, now_unix_ms)| {
            Command::Admit { grant, member: Box::new(member(id)), now_unix_ms }
        }),
        2 => (node(), any::<u8>()).prop_map(|(node, port)| Command::Describe {
            node,
            uuid: member(node.0).uuid,
            name: "n".to_owned(),
            address: format!("host:{port}"),
            door: None,
            labels: BTreeMap::new(),
            outbound_only: false,
        }),
        3 => (node(), status(), status()).prop_map(|(node, from, to)| {
            Command::SetStatus { node, from, to, now_unix_ms: 5 }
        }),
        1 => (node(), any::<bool>()).prop_map(|(node, voter)| Command::SetVoter { node, voter }),
        2 => node().prop_map(|node| Command::Remove { node }),
        3 => (name.clone(), 0u32..3, prop::option::of(0u64..3)).prop_map(|(name, replicas, expect_version)| {
            Command::ApplySource { spec: SourceSpec { replicas, ..source(&name) }, expect_version }
        }),
        1 => name.prop_map(|name| Command::DropSource { name: SourceName::new(name).unwrap() }),
        2 => (role(), wanted).prop_map(|(role, wanted)| Command::Want { role, wanted }),
        2 => (0u64..40, prop::collection::vec(changes, 0..3)).prop_map(|(at, changes)| {
            Command::Assign { at: Epoch(at), changes }
        }),
        2 => (grant_id.clone(), 0u32..3).prop_map(|(id, uses)| Command::PutGrant { grant: grant(&id, uses) }),
        1 => grant_id.prop_map(|id| Command::RevokeGrant { id }),
        2 => (node(), any::<bool>()).prop_map(|(node, draining)| {
            Command::SetDraining { node, draining, now_unix_ms: 5 }
        }),
        4 => (node(), prop::collection::btree_set(role(), 0..3)).prop_map(|(node, roles)| Command::Rest { node, roles }),
        4 => register(),
        6 => govern(),
        3 => quota(),
        2 => (1u8..4, 1u8..4).prop_map(|(from, to)| Command::RotateAuthority {
            ca_certificate: vec![to; 300],
            rotation: Box::new(Rotation {
                former_ca: vec![from; 300],
                new_by_former: vec![8],
                former_by_new: vec![9],
                until_unix_ms: 5,
            }),
        }),
        1 => (node(), 1u8..4).prop_map(|(node, by)| Command::Certified { node, authority: vec![by; 32] }),
        2 => (1u8..4).prop_map(|from| Command::EndRotation { former_ca: vec![from; 300] }),
        3 => (node(), name_of_source(), 1u64..3, any::<bool>()).prop_map(|(node, source, version, reached)| {
            Command::Reach { node, source, version, reached, now_unix_ms: 5 }
        }),
        1 => (node(), name_of_source(), 1u32..3).prop_map(|(node, source, tries)| {
            Command::Forgive { node, source, tries }
        }),
    ]
}

/// Everything but what the epoch does not tell of (registers, quotas, uses of keys, audit heads), and the epoch itself.
fn content(state: &ControlState) -> ControlState {
    let mut content = ControlState { epoch: Epoch(0), registers: Registers::default(), ..state.clone() };
    content.governance.quotas.quotas.clear();
    content.governance.audit_heads.clear();
    content.governance.keys.values_mut().for_each(|key| key.last_used_unix_ms = None);
    content
}

/// Registers change by one version at a time, and a request that has changed one never changes another.
fn check_registers(before: &Registers, after: &Registers, outcome: &Outcome) -> Result<(), TestCaseError> {
    if before == after {
        return Ok(());
    }
    let made = matches!(outcome, Outcome::Register { version, .. } if *version == after.changes);
    prop_assert!(made && after.changes == before.changes + 1);
    let ids: BTreeSet<Uuid> = after.recent.values().map(|recent| recent.request).collect();
    prop_assert_eq!(ids.len() as u64, after.changes, "a request was applied twice");
    prop_assert!(after.values.values().all(|register| register.version <= after.changes));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nodes_agree_and_ids_never_repeat(commands in prop::collection::vec(command(), 1..60)) {
        let (mut one, mut other) = (ControlState::default(), ControlState::default());
        apply(&mut one, &form(1..=3));
        apply(&mut other, &form(1..=3));
        let mut given: BTreeSet<NodeId> = one.members.keys().copied().collect();
        for command in &commands {
            let before = one.clone();
            let outcome = apply(&mut one, command);
            prop_assert_eq!(&outcome, &apply(&mut other, command));
            // The epoch is raised by one if anything changed, and only then.
            let changed = content(&before) != content(&one);
            prop_assert_eq!(one.epoch.0, before.epoch.0 + u64::from(changed), "{}", command);
            match &outcome {
                Outcome::Refused(_) => prop_assert_eq!(&before, &one),
                Outcome::Admitted { node, .. } if changed => prop_assert!(given.insert(*node), "{} twice", node),
                _ => {}
            }
            check(&one)?;
            check_registers(&before.registers, &one.registers, &outcome)?;
            // A node that starts from a snapshot here goes on alike.
            other = decode_snapshot(&encode_snapshot(&other).unwrap()).unwrap();
        }
        prop_assert_eq!(one, other);
    }
}

fn check(state: &ControlState) -> Result<(), TestCaseError> {
    prop_assert!(state.draining.iter().all(|node| state.members.contains_key(node)));
    for (id, Member { id: own, status, .. }) in &state.members {
        prop_assert_eq!(id, own);
        let drains = state.draining.contains(id);
        prop_assert!(*status == MemberStatus::Down || drains == (*status == MemberStatus::Draining));
        prop_assert!(id.0 < state.next_node && !state.removed.contains(id));
    }
    for (node, roles) in &state.resting {
        prop_assert!(!roles.is_empty() && roles.iter().all(|role| state.holds(*node, role)));
        prop_assert_eq!(state.members[node].status, MemberStatus::Draining);
    }
    let uuids: BTreeSet<_> = state.members.values().map(|m| m.uuid).collect();
    prop_assert_eq!(uuids.len(), state.members.len());
    for (source, nodes) in &state.unreached {
        prop_assert!(state.sources.contains_key(source) && !nodes.is_empty());
        prop_assert!(nodes.keys().all(|node| state.members.contains_key(node)));
    }
    for (role, nodes) in &state.held {
        prop_assert!(!nodes.is_empty(), "{} is held by nobody", role);
        prop_assert!(nodes.iter().all(|node| state.members.contains_key(node)));
    }
    Ok(())
}
