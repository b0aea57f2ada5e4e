//! Placement: from roles wanted and members to changes of roles held. For each role, in this order:
//!
//! 1. Members that are up, fit the labels and hold the role keep it, as many as are wanted. Who comes back takes nothing
//!    from them, and a better spread alone is not worth a move.
//! 2. Seats left go to other members that are up and fit: those in failure domains with the fewest seats of the role
//!    first, then fewest roles, then smallest id.
//! 3. A node that could not reach an edge's source comes after all others: it keeps the edge only where nobody else can
//!    take it, and is given it only where nobody else is there at all.
//! 4. Seats left even then stay with holders that are down: nobody else can take them, so the role is there again with
//!    its node, without another decision. They never hold a seat that a live member could have.
//! 5. A member that is to drain is given nothing. It keeps a role only until another holds it: over the plan that gives
//!    its seat to another, and while those who could take it are all down. A role that no other member fits is taken from
//!    it at once, so that in the end it holds nothing.
//!
//! The planner role follows the coordinator role, since a coordinator asks the planner on its own node.
//!
//! INVARIANT: applying a plan leaves nothing to plan but to take from those who drain what they have handed over;
//! nobody holds a role whose labels it lacks or that its token does not allow; no role has more holders than wanted, those who drain left out.

use std::collections::{BTreeMap, BTreeSet};

use greylag_protocol::{
    NodeId,
    state::{ControlState, Member, MemberStatus, Role, RoleChange, RoleCount, RoleWanted},
};

/// The label that every node carries without being told: its value is the node's name, whatever else it claims.
pub const NODE_LABEL: &str = "node";
/// Seats of a role, and voters, are spread over the values of this label; a node without it is a domain of its own.
pub const DOMAIN_LABEL: &str = "zone";

/// Changes that bring roles held to roles wanted, by role and node. Empty when there is nothing to do.
pub fn plan(state: &ControlState) -> Vec<RoleChange> {
    let none = BTreeSet::new();
    let mut load = loads(state);
    let mut seated: BTreeMap<Role, BTreeSet<NodeId>> = BTreeMap::new();
    // `Role` orders the coordinator before the planner that follows it.
    let roles: BTreeSet<&Role> = state.wanted.keys().chain(state.held.keys()).chain([&Role::Planner]).collect();
    let mut changes = Vec::new();
    for role in roles {
        let before = state.held.get(role).unwrap_or(&none);
        let after = match (role, seated.get(&Role::Coordinator), state.wanted.get(role)) {
            (Role::Planner, Some(coordinators), _) => coordinators.clone(),
            (_, _, Some(wanted)) => seats(state, role, wanted, before, &load),
            (_, _, None) => BTreeSet::new(),
        };
        for node in before.difference(&after) {
            changes.push(RoleChange { role: role.clone(), node: *node, held: false });
            load.entry(*node).and_modify(|n| *n = n.saturating_sub(1));
        }
        for node in after.difference(before) {
            changes.push(RoleChange { role: role.clone(), node: *node, held: true });
            *load.entry(*node).or_default() += 1;
        }
        if state.wanted.contains_key(role) {
            seated.insert(role.clone(), after);
        }
    }
    changes
}

/// Roles held, by node.
fn loads(state: &ControlState) -> BTreeMap<NodeId, usize> {
    let mut load = BTreeMap::new();
    for node in state.held.values().flatten() {
        *load.entry(*node).or_default() += 1;
    }
    load
}

fn seats(
    state: &ControlState,
    role: &Role,
    wanted: &RoleWanted,
    holders: &BTreeSet<NodeId>,
    load: &BTreeMap<NodeId, usize>,
) -> BTreeSet<NodeId> {
    let count = match wanted.count {
        RoleCount::All => usize::MAX,
        RoleCount::AtMost(count) => count as usize,
    };
    let (draining, staying): (Vec<&Member>, Vec<&Member>) =
        state.members.values().filter(|m| fits(m, role, &wanted.labels)).partition(|m| state.draining.contains(&m.id));
    let holds = |m: &&&Member| holders.contains(&m.id);

    let up: BTreeSet<NodeId> = staying.iter().filter(|m| m.status == MemberStatus::Up).map(|m| m.id).collect();
    let (barred, able): (BTreeSet<NodeId>, BTreeSet<NodeId>) =
        up.iter().copied().partition(|node| state.is_barred(*node, role));
    let choice = Choice { state, load, count };
    let mut seats = choice.fill(choice.fewest(&able & holders), &able - holders);
    if seats.len() < count {
        // Nobody else can take these: who could not reach the source keeps trying.
        seats = choice.fill(seats, &barred & holders);
    }
    if seats.is_empty() {
        seats = choice.fill(seats, barred);
    }

    let nobody_up = seats.is_empty();
    let handing_over = !seats.is_subset(holders);
    let down = staying.iter().filter(holds).filter(|m| m.status == MemberStatus::Down).map(|m| m.id);
    let left = count - seats.len();
    seats.extend(down.take(left));
    if count > 0 && (handing_over || (nobody_up && !staying.is_empty())) {
        seats.extend(draining.iter().filter(holds).map(|m| m.id));
    }
    seats
}

/// Which of several nodes: those in failure domains with the fewest seats of the role, then the least loaded, then those
/// with the smallest ids.
struct Choice<'a> {
    state: &'a ControlState,
    load: &'a BTreeMap<NodeId, usize>,
    count: usize,
}

impl Choice<'_> {
    /// Adds nodes of `from` while there are seats.
    fn fill(&self, mut seats: BTreeSet<NodeId>, mut from: BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        while seats.len() < self.count {
            let next = from.iter().copied().min_by_key(|node| (self.crowd(&seats, *node), self.load(*node), *node));
            let Some(next) = next else { break };
            from.remove(&next);
            seats.insert(next);
        }
        seats
    }

    /// Takes nodes out while there are too many.
    fn fewest(&self, mut seats: BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        while seats.len() > self.count {
            let last = seats.iter().copied().max_by_key(|node| (self.crowd(&seats, *node), self.load(*node), *node));
            let Some(last) = last else { break };
            seats.remove(&last);
        }
        seats
    }

    /// Other seats in the domain of a node. One without the label is a domain of its own.
    fn crowd(&self, seats: &BTreeSet<NodeId>, node: NodeId) -> usize {
        let Some(domain) = self.domain(node) else { return 0 };
        seats.iter().filter(|seat| **seat != node && self.domain(**seat) == Some(domain)).count()
    }

    fn domain(&self, node: NodeId) -> Option<&str> {
        self.state.member(node)?.labels.get(DOMAIN_LABEL).map(String::as_str)
    }

    fn load(&self, node: NodeId) -> usize {
        self.load.get(&node).copied().unwrap_or(0)
    }
}

fn fits(member: &Member, role: &Role, labels: &BTreeMap<String, String>) -> bool {
    member.may_hold(role)
        && labels.iter().all(|(key, value)| match key.as_str() {
            NODE_LABEL => &member.name == value,
            _ => member.labels.get(key) == Some(value),
        })
}
