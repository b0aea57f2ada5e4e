//! What a leader has to do, as a pure function of what it sees: an empty list means that all is as it should be.
//!
//! INVARIANT: only a member that was removed leaves the log; one that is down goes on learning when it comes back. Who
//! votes is decided in `seats`, one change at a time, and a change that was begun is ended before anything else.

use std::collections::BTreeSet;

use greylag_protocol::{
    NodeId, SourceName,
    state::{Command, ControlState, Member, MemberStatus, Role, RoleChange, Unreached},
};

use super::seats::seats;
use crate::{identity::certificate::fingerprint, placement::plan};

/// Time for which an edge that could not be served by a node is not given to it again, if others can take it; doubled
/// each time that it has failed again.
const UNREACHED_PAUSE_MS: u64 = 30_000;
const UNREACHED_DOUBLINGS_MAX: u32 = 6;
/// Role changes committed at once; the rest follows.
const ASSIGN_CHANGES_MAX: usize = 4096;

/// The log's own membership, as its leader sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LogMembership {
    pub voters: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
    /// A change of voters that was begun and not ended: the voters that it was to end with.
    pub unfinished: Option<BTreeSet<NodeId>>,
    /// Who has nearly all of the log.
    pub caught_up: BTreeSet<NodeId>,
}

/// What the leader sees.
#[derive(Debug)]
pub(super) struct Sight<'a> {
    pub me: NodeId,
    pub state: &'a ControlState,
    pub log: &'a LogMembership,
    pub connected: &'a BTreeSet<NodeId>,
    /// Out of contact for longer than the grace.
    pub gone: &'a BTreeSet<NodeId>,
    /// Out of contact for so long that their seats as voters go to others.
    pub lost: &'a BTreeSet<NodeId>,
    pub now_unix_ms: u64,
    /// Longest time that queries under way have to end on a node that drains.
    pub drain_grace_ms: u64,
    /// This node's disk takes no more of the log.
    pub disk_refuses: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Duty {
    Propose(Command),
    AddLearner { node: NodeId, address: String },
    ChangeVoters(BTreeSet<NodeId>),
    RemoveFromLog(NodeId),
    HandOver,
}

/// In the order in which they are to be done; on a failure the rest is left, and what is due is asked for again.
pub(super) fn duties(sight: &Sight<'_>) -> Vec<Duty> {
    if sight.state.mesh.is_none() {
        return Vec::new();
    }
    let mut duties = statuses(sight);
    if should_hand_over(sight) {
        duties.push(Duty::HandOver);
        return duties;
    }
    duties.extend(log_membership(sight));
    duties.extend(voter_flags(sight));
    duties.extend(forgiven(sight));
    duties.extend(rotation_ends(sight));
    // Placement holds at the epoch it was computed from: nothing else may be about to raise it.
    if !duties.iter().any(|duty| matches!(duty, Duty::Propose(_))) {
        let mut changes = plan(sight.state);
        changes.retain(|change| !has_time(sight, change));
        changes.truncate(ASSIGN_CHANGES_MAX);
        if !changes.is_empty() {
            duties.push(Duty::Propose(Command::Assign { at: sight.state.epoch, changes }));
        }
    }
    duties
}

/// Whether a role is to stay for a while with a node that drains, for the queries that it serves. What nobody wants any
/// more goes at once, and so does what a node holds that is down, or that it does nothing in while others hold it.
fn has_time(sight: &Sight<'_>, change: &RoleChange) -> bool {
    let Some(member) = sight.state.member(change.node) else { return false };
    let wanted = change.role == Role::Planner || sight.state.wanted.contains_key(&change.role);
    if change.held || !wanted || member.status != MemberStatus::Draining {
        return false;
    }
    let rests = sight.state.resting.get(&change.node).is_some_and(|roles| roles.contains(&change.role));
    if rests && sight.state.others_stay(change.node, &change.role) {
        return false;
    }
    // A start that lies ahead is another clock's, by which nobody waits longer than once.
    let (since, now) = (member.status_since_unix_ms, sight.now_unix_ms);
    since.abs_diff(now) < sight.drain_grace_ms
}

fn statuses(sight: &Sight<'_>) -> Vec<Duty> {
    let change = |member: &Member| {
        let here = member.id == sight.me || sight.connected.contains(&member.id);
        let to = match member.status {
            MemberStatus::Down if here && sight.state.draining.contains(&member.id) => MemberStatus::Draining,
            MemberStatus::Down if here => MemberStatus::Up,
            MemberStatus::Up | MemberStatus::Draining if sight.gone.contains(&member.id) && !here => MemberStatus::Down,
            _ => return None,
        };
        let (node, from, now_unix_ms) = (member.id, member.status, sight.now_unix_ms);
        Some(Duty::Propose(Command::SetStatus { node, from, to, now_unix_ms }))
    };
    sight.state.members.values().filter_map(change).collect()
}

/// A leader that leaves, or that cannot write, hands over first, if somebody can take over.
fn should_hand_over(sight: &Sight<'_>) -> bool {
    let leaving = match sight.state.member(sight.me) {
        Some(me) => me.status == MemberStatus::Draining,
        None => sight.state.removed.contains(&sight.me),
    };
    (leaving || sight.disk_refuses) && sight.log.voters.iter().any(|node| *node != sight.me && is_up(sight, *node))
}

pub(super) fn is_up(sight: &Sight<'_>, node: NodeId) -> bool {
    let up = sight.state.member(node).is_some_and(|member| member.status == MemberStatus::Up);
    up && (node == sight.me || sight.connected.contains(&node))
}

/// One change of the log's membership at a time: the first of these that is due.
fn log_membership(sight: &Sight<'_>) -> Option<Duty> {
    let log = sight.log;
    if let Some(voters) = &log.unfinished {
        return Some(Duty::ChangeVoters(voters.clone()));
    }
    let in_log = |node: &NodeId| log.voters.contains(node) || log.learners.contains(node);
    let voters = seats(sight);
    let removed_votes = sight.state.removed.iter().any(|node| log.voters.contains(node) && *node != sight.me);
    if let Some(voters) = voters.clone().filter(|_| removed_votes)
        && voters.len() >= log.voters.len()
    {
        // Its seat is given away before it goes, so that no loss is worse for the removal.
        return Some(Duty::ChangeVoters(voters));
    }
    if let Some(node) = sight.state.removed.iter().find(|node| in_log(node) && **node != sight.me) {
        return Some(Duty::RemoveFromLog(*node));
    }
    if let Some(member) = sight.state.members.values().find(|member| !in_log(&member.id)) {
        return Some(Duty::AddLearner { node: member.id, address: member.address.clone() });
    }
    voters.map(Duty::ChangeVoters)
}

/// The former authority is trusted no more once its time is over and all who are up have left it.
fn rotation_ends(sight: &Sight<'_>) -> Option<Duty> {
    let (rotation, facts) = (sight.state.rotation.as_ref()?, sight.state.mesh.as_ref()?);
    let new = fingerprint(&facts.ca_certificate);
    let left = |member: &Member| member.status == MemberStatus::Down || member.certified_by == new;
    let over = sight.now_unix_ms >= rotation.until_unix_ms && sight.state.members.values().all(left);
    over.then(|| Duty::Propose(Command::EndRotation { former_ca: rotation.former_ca.clone() }))
}

/// Nodes whose back-off from a source is over.
fn forgiven(sight: &Sight<'_>) -> Vec<Duty> {
    let entries = sight.state.unreached.iter().flat_map(|(source, nodes)| nodes.iter().map(move |of| (source, of)));
    let over = entries.filter(|(_, (_, entry))| {
        let doublings = entry.tries.saturating_sub(1).min(UNREACHED_DOUBLINGS_MAX);
        entry.barred && entry.since_unix_ms.abs_diff(sight.now_unix_ms) >= UNREACHED_PAUSE_MS << doublings
    });
    let forgive = |(source, (node, entry)): (&SourceName, (&NodeId, &Unreached))| {
        Duty::Propose(Command::Forgive { node: *node, source: source.clone(), tries: entry.tries })
    };
    over.map(forgive).collect()
}

/// The state tells everybody who votes.
fn voter_flags(sight: &Sight<'_>) -> Vec<Duty> {
    if sight.log.unfinished.is_some() {
        return Vec::new();
    }
    let votes = |member: &Member| sight.log.voters.contains(&member.id);
    let wrong = sight.state.members.values().filter(|member| member.voter != votes(member));
    wrong.map(|member| Duty::Propose(Command::SetVoter { node: member.id, voter: votes(member) })).collect()
}
