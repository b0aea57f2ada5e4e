//! What a leader has to do, as a pure function of what it sees: an empty list means that all is as it should be.
//!
//! INVARIANT: a voter is never taken away because it is down: it would come back as one whose vote is gone while it
//! may still hold what it has voted. Only a member that was removed leaves the log. Voters are added so that their
//! number is odd, and only once they have caught up.

use std::collections::{BTreeMap, BTreeSet};

use greylag_protocol::{
    NodeId,
    state::{Command, ControlState, Member, MemberStatus},
};

use crate::placement::plan;

/// Voters are spread over the values of this label; a node without it is a domain of its own.
pub(super) const DOMAIN_LABEL: &str = "zone";
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
    pub now_unix_ms: u64,
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
    // Placement holds at the epoch it was computed from: nothing else may be about to raise it.
    if !duties.iter().any(|duty| matches!(duty, Duty::Propose(_))) {
        let mut changes = plan(sight.state);
        changes.truncate(ASSIGN_CHANGES_MAX);
        if !changes.is_empty() {
            duties.push(Duty::Propose(Command::Assign { at: sight.state.epoch, changes }));
        }
    }
    duties
}

fn statuses(sight: &Sight<'_>) -> Vec<Duty> {
    let change = |member: &Member| {
        let here = member.id == sight.me || sight.connected.contains(&member.id);
        let to = match member.status {
            MemberStatus::Down if here => MemberStatus::Up,
            MemberStatus::Up | MemberStatus::Draining if sight.gone.contains(&member.id) && !here => MemberStatus::Down,
            _ => return None,
        };
        let (node, from, now_unix_ms) = (member.id, member.status, sight.now_unix_ms);
        Some(Duty::Propose(Command::SetStatus { node, from, to, now_unix_ms }))
    };
    sight.state.members.values().filter_map(change).collect()
}

/// A leader that leaves hands over first, if somebody can take over.
fn should_hand_over(sight: &Sight<'_>) -> bool {
    let leaving = match sight.state.member(sight.me) {
        Some(me) => me.status == MemberStatus::Draining,
        None => sight.state.removed.contains(&sight.me),
    };
    leaving && sight.log.voters.iter().any(|node| *node != sight.me && is_up(sight, *node))
}

fn is_up(sight: &Sight<'_>, node: NodeId) -> bool {
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
    if let Some(node) = sight.state.removed.iter().find(|node| in_log(node) && **node != sight.me) {
        return Some(Duty::RemoveFromLog(*node));
    }
    if let Some(member) = sight.state.members.values().find(|member| !in_log(&member.id)) {
        return Some(Duty::AddLearner { node: member.id, address: member.address.clone() });
    }
    let promoted = promotions(sight);
    (!promoted.is_empty()).then(|| Duty::ChangeVoters(log.voters.union(&promoted).copied().collect()))
}

/// Learners to make voters: up to 1, 3 or 5 voters, as many as the mesh has nodes for.
fn promotions(sight: &Sight<'_>) -> BTreeSet<NodeId> {
    let voters = &sight.log.voters;
    let reachable = |member: &&Member| !member.outbound_only && is_up(sight, member.id);
    let able: Vec<&Member> = sight.state.members.values().filter(reachable).collect();
    let target = match able.len() {
        5.. => 5,
        3.. => 3,
        _ => 1,
    };
    let mut candidates: Vec<&Member> = able
        .into_iter()
        .filter(|m| sight.log.learners.contains(&m.id) && sight.log.caught_up.contains(&m.id))
        .collect();
    let size = target.min(voters.len() + candidates.len());
    // An even number of voters survives no more losses than one less.
    let size = if size.is_multiple_of(2) { size.saturating_sub(1) } else { size };

    let mut domains: BTreeMap<&str, usize> = BTreeMap::new();
    let voting = voters.iter().filter_map(|node| sight.state.member(*node));
    for zone in voting.filter_map(|member| member.labels.get(DOMAIN_LABEL)) {
        *domains.entry(zone).or_default() += 1;
    }
    let mut promoted = BTreeSet::new();
    while voters.len() + promoted.len() < size {
        let crowd = |m: &Member| m.labels.get(DOMAIN_LABEL).map_or(0, |zone| *domains.get(zone.as_str()).unwrap_or(&0));
        let best = candidates.iter().enumerate().min_by_key(|(_, m)| (crowd(m), m.id)).map(|(i, _)| i);
        let Some(best) = best else { break };
        let member = candidates.swap_remove(best);
        if let Some(zone) = member.labels.get(DOMAIN_LABEL) {
            *domains.entry(zone).or_default() += 1;
        }
        promoted.insert(member.id);
    }
    promoted
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
