//! Every command by table: what it comes to, what it changes, and that a refusal or a repeat changes nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use greylag_protocol::{
    Epoch, ErrorCode, NodeId, NodeUuid, SourceName,
    state::{
        Allowed, AllowedRoles, Command, ControlState, Grant, Member, MemberStatus, MeshFacts, Outcome, Role,
        RoleChange, RoleCount, RoleWanted, Rotation, SourceSpec,
    },
};
use uuid::Uuid;

use super::{
    GRANTS_MAX, SOURCE_BYTES_MAX, apply,
    fixture::{facts, form, grant, member, source},
};

fn formed() -> ControlState {
    let mut state = ControlState::default();
    assert_eq!(apply(&mut state, &form(1..=3)), Outcome::Done { epoch: Epoch(1) });
    state
}

/// Applies a command that must change something, then again: the second time nothing changes.
fn made(state: &mut ControlState, command: Command) -> Outcome {
    let before = state.epoch;
    let outcome = apply(state, &command);
    assert_eq!(state.epoch.0, before.0 + 1, "{command} came to {outcome:?}");
    let once = state.clone();
    apply(state, &command);
    assert_eq!(*state, once, "{command} changed something the second time");
    outcome
}

fn kept(state: &mut ControlState, command: Command) -> Outcome {
    let before = state.clone();
    let outcome = apply(state, &command);
    assert_eq!(*state, before, "{command}");
    outcome
}

fn refused(state: &mut ControlState, command: Command) -> ErrorCode {
    match kept(state, command.clone()) {
        Outcome::Refused(error) => error.code,
        other => panic!("{command} was not refused: {other:?}"),
    }
}

fn admit(grant: &str, id: u64, now: u64) -> Command {
    let status_and_voter_are_ours = MemberStatus::Down;
    Command::Admit {
        grant: grant.to_owned(),
        member: Box::new(Member { id: NodeId(77), status: status_and_voter_are_ours, ..member(id) }),
        now_unix_ms: now,
    }
}

fn set_status(node: u64, from: MemberStatus, to: MemberStatus) -> Command {
    Command::SetStatus { node: NodeId(node), from, to, now_unix_ms: 50 }
}

fn drain(node: u64, draining: bool) -> Command {
    Command::SetDraining { node: NodeId(node), draining, now_unix_ms: 60 }
}

fn hold(role: Role, node: u64, at: Epoch) -> Command {
    Command::Assign { at, changes: vec![RoleChange { role, node: NodeId(node), held: true }] }
}

#[test]
fn nothing_before_form_and_form_once() {
    let mut state = ControlState::default();
    assert_eq!(refused(&mut state, Command::Remove { node: NodeId(1) }), ErrorCode::ProposalRefused);
    assert_eq!(refused(&mut state, form([])), ErrorCode::ProposalRefused);
    assert_eq!(refused(&mut state, form([1, 1])), ErrorCode::ProposalRefused);
    assert_eq!(refused(&mut state, form([0, 1])), ErrorCode::ProposalRefused);
    made(&mut state, form([1, 2, 5]));
    assert_eq!(state.next_node, 6);
    assert_eq!(state.members.len(), 3);
    assert_eq!(state.mesh, Some(facts()));
    let other = MeshFacts { id: greylag_protocol::MeshId(Uuid::from_u128(9)), ..facts() };
    let again = Command::Form { facts: other, members: vec![member(1)], wanted: BTreeMap::new(), grants: vec![] };
    assert_eq!(refused(&mut state, again), ErrorCode::ProposalRefused);
}

#[test]
fn admit_spends_once_and_allocates_in_order() {
    let mut state = formed();
    let outcome = made(&mut state, admit("g", 10, 900));
    assert_eq!(outcome, Outcome::Admitted { node: NodeId(4), epoch: Epoch(2) });
    let admitted = &state.members[&NodeId(4)];
    assert_eq!((admitted.status, admitted.voter, admitted.status_since_unix_ms), (MemberStatus::Up, false, 900));
    assert_eq!(state.grants["g"].uses_left, 1);
    // A lost reply: the same id, no further use, even when the grant has expired or is used up by then.
    let again = kept(&mut state, admit("g", 10, 5000));
    assert_eq!(again, Outcome::Admitted { node: NodeId(4), epoch: Epoch(2) });
    made(&mut state, admit("g", 11, 900));
    assert_eq!(state.grants["g"].uses_left, 0);
    assert_eq!(refused(&mut state, admit("g", 12, 900)), ErrorCode::JoinTokenSpent);
    assert_eq!(kept(&mut state, admit("g", 11, 900)), Outcome::Admitted { node: NodeId(5), epoch: Epoch(3) });
}

#[test]
fn who_is_admitted_may_what_the_grant_says_and_not_what_it_says_itself() {
    let mut state = formed();
    let edges: AllowedRoles = Some([Allowed::AnyEdge].into());
    made(&mut state, Command::PutGrant { grant: Grant { allowed: edges.clone(), ..grant("limited", 1) } });
    let other = Command::PutGrant { grant: grant("limited", 1) };
    assert_eq!(refused(&mut state, other), ErrorCode::ProposalRefused, "a grant does not become another");
    made(&mut state, admit("limited", 20, 1));
    made(&mut state, admit("g", 21, 1));
    assert_eq!(state.members[&NodeId(4)].allowed, edges);
    assert_eq!(state.members[&NodeId(5)].allowed, None);
    assert!(!state.members[&NodeId(4)].may_vote() && state.members[&NodeId(5)].may_vote());
}

#[test]
fn admit_refuses_what_a_grant_does_not_allow() {
    let mut state = formed();
    assert_eq!(refused(&mut state, admit("other", 10, 1)), ErrorCode::JoinTokenWrong);
    assert_eq!(refused(&mut state, admit("g", 10, 1000)), ErrorCode::JoinTokenExpired);
    let mut thief = member(10);
    thief.uuid = member(1).uuid;
    let steal = Command::Admit { grant: "g".to_owned(), member: Box::new(thief), now_unix_ms: 1 };
    assert_eq!(refused(&mut state, steal), ErrorCode::ProposalRefused);
    let mut large = member(10);
    large.labels.insert("x".to_owned(), "y".repeat(super::MEMBER_BYTES_MAX));
    let large = Command::Admit { grant: "g".to_owned(), member: Box::new(large), now_unix_ms: 1 };
    assert_eq!(refused(&mut state, large), ErrorCode::InvalidConfig);
}

#[test]
fn ids_of_removed_members_do_not_come_back() {
    let mut state = formed();
    let at = state.epoch;
    made(&mut state, hold(Role::Policy, 3, at));
    made(&mut state, Command::Remove { node: NodeId(3) });
    assert!(state.held.is_empty() && state.removed.contains(&NodeId(3)));
    assert_eq!(refused(&mut state, set_status(3, MemberStatus::Up, MemberStatus::Down)), ErrorCode::NotAMember);
    // The same data directory comes back under a new id.
    assert_eq!(made(&mut state, admit("g", 3, 1)), Outcome::Admitted { node: NodeId(4), epoch: Epoch(4) });
    assert_eq!(refused(&mut state, Command::Remove { node: NodeId(99) }), ErrorCode::NotAMember);
}

#[test]
fn the_last_member_that_is_up_stays() {
    let mut state = formed();
    made(&mut state, set_status(2, MemberStatus::Up, MemberStatus::Down));
    made(&mut state, drain(3, true));
    assert_eq!(refused(&mut state, Command::Remove { node: NodeId(1) }), ErrorCode::ProposalRefused);
    made(&mut state, Command::Remove { node: NodeId(2) });
}

#[test]
fn describe_changes_facts_of_the_same_node_only() {
    let mut state = formed();
    let describe = |uuid: NodeUuid, address: &str| Command::Describe {
        node: NodeId(2),
        uuid,
        name: "n2".to_owned(),
        address: address.to_owned(),
        door: Some("10.0.0.2:50051".to_owned()),
        labels: BTreeMap::new(),
        outbound_only: true,
    };
    made(&mut state, describe(member(2).uuid, "10.0.9.2:7400"));
    let after = &state.members[&NodeId(2)];
    assert_eq!((after.address.as_str(), after.outbound_only), ("10.0.9.2:7400", true));
    assert_eq!(after.public_key, member(2).public_key);
    assert_eq!(refused(&mut state, describe(member(1).uuid, "x:1")), ErrorCode::ProposalRefused);
}

#[test]
fn status_is_compare_and_set() {
    let mut state = formed();
    made(&mut state, set_status(2, MemberStatus::Up, MemberStatus::Down));
    assert_eq!(state.members[&NodeId(2)].status_since_unix_ms, 50);
    let stale =
        Command::SetStatus { node: NodeId(2), from: MemberStatus::Draining, to: MemberStatus::Up, now_unix_ms: 50 };
    assert_eq!(refused(&mut state, stale), ErrorCode::VersionConflict);
    made(&mut state, set_status(2, MemberStatus::Down, MemberStatus::Up));
    made(&mut state, Command::SetVoter { node: NodeId(2), voter: false });
    assert!(!state.members[&NodeId(2)].voter);
    let unknown = Command::SetVoter { node: NodeId(9), voter: true };
    assert_eq!(refused(&mut state, unknown), ErrorCode::NotAMember);
}

#[test]
fn only_who_drains_rests_and_only_in_what_it_holds() {
    use MemberStatus::{Down, Draining};
    let mut state = formed();
    let rest = |roles: &[Role]| Command::Rest { node: NodeId(2), roles: roles.iter().cloned().collect() };
    let held = |role: Role, held| {
        move |at| Command::Assign { at, changes: vec![RoleChange { role: role.clone(), node: NodeId(2), held }] }
    };
    let resting = |state: &ControlState| state.resting.values().flatten().cloned().collect::<Vec<_>>();
    for role in [Role::Coordinator, Role::Policy] {
        let at = state.epoch;
        made(&mut state, held(role, true)(at));
    }
    kept(&mut state, rest(&[Role::Policy]));
    made(&mut state, drain(2, true));
    made(&mut state, rest(&[Role::Coordinator, Role::Policy, Role::Planner]));
    kept(&mut state, rest(&[Role::Coordinator, Role::Policy]));
    assert_eq!(resting(&state), [Role::Coordinator, Role::Policy]);
    // A role that is gone rests no more, and neither does a node that comes back or stays.
    let at = state.epoch;
    made(&mut state, held(Role::Coordinator, false)(at));
    assert_eq!(resting(&state), [Role::Policy]);
    made(&mut state, set_status(2, Draining, Down));
    assert_eq!(resting(&state), []);
    kept(&mut state, rest(&[Role::Policy]));
    made(&mut state, set_status(2, Down, Draining));
    made(&mut state, rest(&[Role::Policy]));
    made(&mut state, rest(&[]));
    made(&mut state, rest(&[Role::Policy]));
    made(&mut state, drain(2, false));
    assert_eq!(resting(&state), []);
    assert_eq!(refused(&mut state, Command::Rest { node: NodeId(9), roles: [].into() }), ErrorCode::NotAMember);
}

#[test]
fn draining_lasts_through_losses_until_it_is_taken_back() {
    use MemberStatus::{Down, Draining, Up};
    let mut state = formed();
    let status = |state: &ControlState| state.members[&NodeId(2)].status;
    assert_eq!(refused(&mut state, set_status(2, Up, Draining)), ErrorCode::ProposalRefused, "that is no drain");
    made(&mut state, drain(2, true));
    assert_eq!((status(&state), state.members[&NodeId(2)].status_since_unix_ms), (Draining, 60));
    made(&mut state, set_status(2, Draining, Down));
    // Whoever sees it again says what it is; here one who has not heard that it drains.
    made(&mut state, set_status(2, Down, Up));
    assert_eq!(status(&state), Draining);
    made(&mut state, set_status(2, Draining, Down));
    made(&mut state, drain(2, false));
    assert_eq!(status(&state), Down);
    made(&mut state, drain(2, true));
    assert_eq!(status(&state), Down);
    made(&mut state, set_status(2, Down, Draining));
    made(&mut state, drain(2, false));
    assert_eq!(status(&state), Up);
    kept(&mut state, drain(2, false));
    assert_eq!(refused(&mut state, drain(9, true)), ErrorCode::NotAMember);
    // Somebody must be left to take the roles, and who is removed drains no more.
    made(&mut state, drain(2, true));
    made(&mut state, set_status(3, Up, Down));
    assert_eq!(refused(&mut state, drain(1, true)), ErrorCode::ProposalRefused);
    made(&mut state, Command::Remove { node: NodeId(2) });
    assert!(state.draining.is_empty());
}

#[test]
fn a_source_wants_its_edge_and_takes_it_along() {
    let mut state = formed();
    let put = |spec: SourceSpec, expect_version| Command::ApplySource { spec, expect_version };
    let name = SourceName::new("orders").unwrap();
    let role = Role::Edge(name.clone());
    let outcome = made(&mut state, put(source("orders"), Some(0)));
    assert_eq!(outcome, Outcome::Applied { version: 1, changed: true });
    let wanted = RoleWanted { count: RoleCount::AtMost(2), labels: source("orders").labels };
    assert_eq!(state.wanted[&role], wanted);
    let same = kept(&mut state, put(source("orders"), Some(7)));
    assert_eq!(same, Outcome::Applied { version: 1, changed: false });

    let other = SourceSpec { replicas: 1, ..source("orders") };
    assert_eq!(refused(&mut state, put(other.clone(), Some(0))), ErrorCode::VersionConflict);
    assert_eq!(refused(&mut state, put(other.clone(), Some(2))), ErrorCode::VersionConflict);
    made(&mut state, put(other.clone(), Some(1)));
    assert_eq!(state.wanted[&role].count, RoleCount::AtMost(1));
    let third = SourceSpec { kind: "files".to_owned(), ..other };
    assert_eq!(made(&mut state, put(third, None)), Outcome::Applied { version: 3, changed: true });
    let large = SourceSpec { kind: "x".repeat(SOURCE_BYTES_MAX + 1), ..source("large") };
    assert_eq!(refused(&mut state, put(large, None)), ErrorCode::InvalidResource);

    let at = state.epoch;
    made(&mut state, hold(role.clone(), 1, at));
    apply(&mut state, &Command::DropSource { name: name.clone() });
    assert!(state.sources.is_empty() && state.wanted.is_empty() && state.held.is_empty());
    assert_eq!(refused(&mut state, Command::DropSource { name }), ErrorCode::UnknownSource);
    let wanted = Some(RoleWanted { count: RoleCount::All, labels: BTreeMap::new() });
    assert_eq!(refused(&mut state, Command::Want { role, wanted }), ErrorCode::UnknownSource);
}

#[test]
fn roles_are_wanted_and_assigned_at_an_epoch() {
    let mut state = formed();
    let wanted = Some(RoleWanted { count: RoleCount::All, labels: BTreeMap::new() });
    made(&mut state, Command::Want { role: Role::Coordinator, wanted });
    let at = state.epoch;
    let outcome = apply(&mut state, &hold(Role::Coordinator, 2, at));
    assert_eq!(outcome, Outcome::Done { epoch: Epoch(at.0 + 1) });
    assert_eq!(refused(&mut state, hold(Role::Coordinator, 1, at)), ErrorCode::VersionConflict);
    let at = state.epoch;
    assert_eq!(refused(&mut state, hold(Role::Coordinator, 9, at)), ErrorCode::NotAMember);
    kept(&mut state, hold(Role::Coordinator, 2, at));
    kept(&mut state, Command::Assign { at, changes: vec![] });
    let give_and_take = [true, false].map(|held| RoleChange { role: Role::Policy, node: NodeId(1), held });
    kept(&mut state, Command::Assign { at, changes: give_and_take.to_vec() });
    let release = RoleChange { role: Role::Coordinator, node: NodeId(2), held: false };
    apply(&mut state, &Command::Assign { at, changes: vec![release] });
    assert!(state.held.is_empty());
    made(&mut state, Command::Want { role: Role::Coordinator, wanted: None });
}

#[test]
fn grants_are_put_once_and_make_room_when_used_up() {
    let mut state = formed();
    let put = |grant: Grant| Command::PutGrant { grant };
    made(&mut state, put(grant("h", 1)));
    apply(&mut state, &admit("h", 10, 1));
    // Asking again after a lost reply gives no use back.
    kept(&mut state, put(grant("h", 1)));
    assert_eq!(state.grants["h"].uses_left, 0);
    let other = Grant { secret: vec![8; 16], ..grant("h", 1) };
    assert_eq!(refused(&mut state, put(other)), ErrorCode::ProposalRefused);
    apply(&mut state, &Command::RevokeGrant { id: "g".to_owned() });
    assert_eq!(refused(&mut state, admit("g", 11, 1)), ErrorCode::JoinTokenWrong);
    assert_eq!(refused(&mut state, Command::RevokeGrant { id: "g".to_owned() }), ErrorCode::ProposalRefused);
    let large = Grant { secret: vec![0; 4096], ..grant("large", 1) };
    assert_eq!(refused(&mut state, put(large)), ErrorCode::ProposalRefused);
    for i in 0..GRANTS_MAX - 1 {
        made(&mut state, put(grant(&format!("x{i}"), 1)));
    }
    made(&mut state, put(grant("one more", 1)));
    assert!(!state.grants.contains_key("h"));
    assert_eq!(refused(&mut state, put(grant("too many", 1))), ErrorCode::ProposalRefused);
}

#[test]
fn who_does_not_reach_a_source_is_barred_once_for_each_time_and_forgiven_by_number() {
    let mut state = formed();
    let spec = source("s");
    made(&mut state, Command::ApplySource { spec: spec.clone(), expect_version: None });
    let reach = |reached, version| Command::Reach {
        node: NodeId(1),
        source: spec.name.clone(),
        version,
        reached,
        now_unix_ms: 7,
    };
    let forgive = |tries| Command::Forgive { node: NodeId(1), source: spec.name.clone(), tries };
    let role = Role::Edge(spec.name.clone());
    kept(&mut state, reach(false, 2));
    kept(&mut state, reach(true, 1));
    kept(&mut state, forgive(0));
    for tries in 1..4 {
        made(&mut state, reach(false, 1));
        assert!(state.is_barred(NodeId(1), &role) && !state.is_barred(NodeId(2), &role));
        assert_eq!(state.unreached[&spec.name][&NodeId(1)].tries, tries);
        kept(&mut state, forgive(tries - 1));
        made(&mut state, forgive(tries));
        assert!(!state.is_barred(NodeId(1), &role));
    }
    made(&mut state, reach(true, 1));
    assert!(state.unreached.is_empty(), "once reached it starts anew");
    made(&mut state, reach(false, 1));
    made(&mut state, Command::ApplySource { spec: SourceSpec { replicas: 9, ..spec.clone() }, expect_version: None });
    assert!(state.unreached.is_empty(), "what is declared anew is tried anew");
    made(&mut state, reach(false, 2));
    made(&mut state, Command::Remove { node: NodeId(1) });
    assert!(state.unreached.is_empty());
}

#[test]
fn one_authority_takes_over_at_a_time_and_from_the_one_that_is() {
    let mut state = formed();
    let rotate = |from: u8, to: u8| Command::RotateAuthority {
        ca_certificate: vec![to; 300],
        rotation: Box::new(Rotation {
            former_ca: vec![from; 300],
            new_by_former: vec![8; 300],
            former_by_new: vec![9; 300],
            until_unix_ms: 50,
        }),
    };
    assert_eq!(refused(&mut state, rotate(2, 3)), ErrorCode::VersionConflict);
    made(&mut state, rotate(1, 2));
    assert_eq!(state.mesh.as_ref().unwrap().ca_certificate, vec![2; 300]);
    assert_eq!(refused(&mut state, rotate(2, 3)), ErrorCode::ProposalRefused, "one is under way");
    assert_eq!(
        refused(&mut state, Command::Certified { node: NodeId(1), authority: vec![1] }),
        ErrorCode::ProposalRefused
    );
    made(&mut state, Command::Certified { node: NodeId(1), authority: vec![4; 32] });
    kept(&mut state, Command::EndRotation { former_ca: vec![7; 300] });
    made(&mut state, Command::EndRotation { former_ca: vec![1; 300] });
    made(&mut state, rotate(2, 3));
}
