//! Who should vote: 1, 3 or 5 of the members, spread over failure domains. Pure: one change at a time, or none.
//!
//! - Members that came: voters are added so that their number is odd, and only once they have caught up.
//! - A voter that was removed, is draining, or is down for longer than the grace gives its seat to a learner that is up
//!   and has caught up; it learns from then on, and may be given a seat again when one is free.
//! - Members that were removed: their seats are given up where nobody is there to take them, so that the number is odd
//!   again.
//!
//! INVARIANT: a seat is taken from a voter that is down or draining only by the change that gives it to another, so
//! their number never falls by a loss. Seats follow the number of members, not of those that are up: a loss moves a seat
//! once and the return moves none.

use std::collections::{BTreeMap, BTreeSet};

use greylag_protocol::{
    NodeId,
    state::{Member, MemberStatus},
};

use super::duties::{Sight, is_up};
use crate::placement::DOMAIN_LABEL;

/// The voters there should be, if they are others than now.
pub(super) fn seats(sight: &Sight<'_>) -> Option<BTreeSet<NodeId>> {
    moved(sight).or_else(|| added(sight)).or_else(|| given_up(sight))
}

/// As many voters as so many members allow. An even number survives no more losses than one less.
fn size_for(members: usize) -> usize {
    match members {
        5.. => 5,
        3.. => 3,
        _ => 1,
    }
}

/// One seat goes from a voter that should not have it to a learner.
fn moved(sight: &Sight<'_>) -> Option<BTreeSet<NodeId>> {
    let leaves = sight.log.voters.iter().filter_map(|node| Some((reason(sight, *node)?, *node))).min()?.1;
    let mut voters = sight.log.voters.clone();
    voters.remove(&leaves);
    let comes = best(sight, &voters, candidates(sight).map(|member| member.id).collect())?;
    voters.insert(comes);
    Some(voters)
}

/// Why a voter should give up its seat, the most pressing first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    Removed,
    Lost,
    Draining,
}

fn reason(sight: &Sight<'_>, node: NodeId) -> Option<Reason> {
    let Some(member) = sight.state.member(node) else {
        // One that the state does not know yet stays.
        return sight.state.removed.contains(&node).then_some(Reason::Removed);
    };
    match member.status {
        MemberStatus::Down if sight.lost.contains(&node) => Some(Reason::Lost),
        _ if sight.state.draining.contains(&node) => Some(Reason::Draining),
        _ => None,
    }
}

/// Learners that become voters, as many as the members that are up allow.
fn added(sight: &Sight<'_>) -> Option<BTreeSet<NodeId>> {
    let mut voters = sight.log.voters.clone();
    let mut left: BTreeSet<NodeId> = candidates(sight).map(|member| member.id).collect();
    let able = able(sight).count();
    let size = size_for(able).min(voters.len() + left.len());
    let size = if size.is_multiple_of(2) { size.saturating_sub(1) } else { size };
    while voters.len() < size {
        let comes = best(sight, &voters, left.clone())?;
        left.remove(&comes);
        voters.insert(comes);
    }
    (voters.len() > sight.log.voters.len()).then_some(voters)
}

/// Voters that become learners, because so many have no members to fill them. Never this node, which leads.
fn given_up(sight: &Sight<'_>) -> Option<BTreeSet<NodeId>> {
    let mut voters = sight.log.voters.clone();
    // Whoever could vote, up or not, and whoever does.
    let eligible = sight.state.members.values().filter(|m| is_able(m) || voters.contains(&m.id)).count();
    let size = size_for(eligible);
    while voters.len() > size {
        let rank = |node: NodeId| (node != sight.me, !is_up(sight, node), crowd(sight, &voters, node), node);
        let leaves = voters.iter().copied().max_by_key(|node| rank(*node)).filter(|node| *node != sight.me)?;
        voters.remove(&leaves);
    }
    (voters.len() < sight.log.voters.len()).then_some(voters)
}

/// Such that others can dial it, and that its token lets it vote.
fn is_able(member: &Member) -> bool {
    !member.outbound_only && member.may_vote()
}

/// Members that can vote: up, in contact, not leaving, and able to.
fn able<'a>(sight: &'a Sight<'_>) -> impl Iterator<Item = &'a Member> {
    sight.state.members.values().filter(|member| is_able(member) && is_up(sight, member.id))
}

/// Those of them that learn and have caught up.
fn candidates<'a>(sight: &'a Sight<'_>) -> impl Iterator<Item = &'a Member> {
    let log = sight.log;
    able(sight).filter(|member| log.learners.contains(&member.id) && log.caught_up.contains(&member.id))
}

/// Who of `from` joins these voters best: whose domain has the fewest of them, then the smallest id.
fn best(sight: &Sight<'_>, voters: &BTreeSet<NodeId>, from: BTreeSet<NodeId>) -> Option<NodeId> {
    from.into_iter().min_by_key(|node| (crowd(sight, voters, *node), *node))
}

/// Voters in the domain of a node.
fn crowd(sight: &Sight<'_>, voters: &BTreeSet<NodeId>, node: NodeId) -> usize {
    let mut domains: BTreeMap<&str, usize> = BTreeMap::new();
    for zone in voters.iter().filter_map(|voter| domain(sight, *voter)) {
        *domains.entry(zone).or_default() += 1;
    }
    domain(sight, node).and_then(|zone| domains.get(zone).copied()).unwrap_or(0)
}

fn domain<'a>(sight: &Sight<'a>, node: NodeId) -> Option<&'a str> {
    sight.state.member(node)?.labels.get(DOMAIN_LABEL).map(String::as_str)
}
