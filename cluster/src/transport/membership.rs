//! Who may talk to this node, by the newest that it knows: the replicated state, and until that has come, the members
//! named when this node was enrolled.
//!
//! INVARIANT: a node that the state calls removed is refused, whatever else is known of it.

use std::{collections::BTreeMap, sync::Arc};

use greylag_protocol::{NodeId, state::ControlState};
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Member,
    Removed,
    /// Not heard of, or not yet: the log may be behind.
    Unknown,
}

/// How a peer is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub id: NodeId,
    /// `host:port`; empty if it is not known.
    pub address: String,
    pub outbound_only: bool,
}

impl Peer {
    pub(crate) fn can_be_dialled(&self) -> bool {
        !self.outbound_only && !self.address.is_empty()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Membership {
    me: NodeId,
    enrolled_with: Arc<BTreeMap<NodeId, String>>,
    state: watch::Receiver<Arc<ControlState>>,
}

impl Membership {
    pub(crate) fn new(me: NodeId, members: &[(NodeId, String)], state: watch::Receiver<Arc<ControlState>>) -> Self {
        Self { me, enrolled_with: Arc::new(members.iter().cloned().collect()), state }
    }

    /// Wakes when the answers of the other functions may have changed.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<ControlState>> {
        self.state.clone()
    }

    pub(crate) fn standing(&self, node: NodeId) -> Standing {
        let state = self.state.borrow();
        if state.removed.contains(&node) {
            Standing::Removed
        } else if node == self.me || state.members.contains_key(&node) || self.enrolled_with.contains_key(&node) {
            Standing::Member
        } else {
            Standing::Unknown
        }
    }

    /// Everybody else.
    pub(crate) fn peers(&self) -> BTreeMap<NodeId, Peer> {
        let state = self.state.borrow();
        let enrolled_with = self
            .enrolled_with
            .iter()
            .map(|(id, address)| (*id, Peer { id: *id, address: address.clone(), outbound_only: address.is_empty() }));
        let members = state.members.iter().map(|(id, member)| {
            (*id, Peer { id: *id, address: member.address.clone(), outbound_only: member.outbound_only })
        });
        enrolled_with.chain(members).filter(|(id, _)| *id != self.me && !state.removed.contains(id)).collect()
    }
}

/// Which of two nodes dials the other: the one that cannot be dialled, else the lower id.
pub(crate) fn dialler(a: (NodeId, bool), b: (NodeId, bool)) -> NodeId {
    match (a, b) {
        ((a, true), (_, false)) => a,
        ((_, false), (b, true)) => b,
        ((a, _), (b, _)) => a.min(b),
    }
}

#[cfg(test)]
mod tests {
    use greylag_protocol::{
        NodeUuid,
        state::{Member, MemberStatus},
    };
    use uuid::Uuid;

    use super::*;

    fn member(id: u64) -> Member {
        Member {
            id: NodeId(id),
            uuid: NodeUuid(Uuid::from_u128(id.into())),
            name: format!("node-{id}"),
            address: format!("new-{id}:7400"),
            door: None,
            labels: BTreeMap::new(),
            outbound_only: id == 4,
            voter: true,
            status: MemberStatus::Up,
            status_since_unix_ms: 0,
            public_key: Vec::new(),
            allowed: None,
            certified_by: Vec::new(),
        }
    }

    #[test]
    fn the_state_goes_before_what_was_said_at_enrolment() {
        let (send, receive) = watch::channel(Arc::new(ControlState::default()));
        let named =
            [(NodeId(1), "old-1:7400".to_owned()), (NodeId(2), "old-2:7400".to_owned()), (NodeId(3), String::new())];
        let membership = Membership::new(NodeId(2), &named, receive);
        let addresses = || membership.peers().into_values().map(|peer| peer.address).collect::<Vec<_>>();
        assert_eq!(addresses(), ["old-1:7400", ""]);
        assert!(!membership.peers()[&NodeId(3)].can_be_dialled());
        assert_eq!(membership.standing(NodeId(4)), Standing::Unknown);

        let mut state = ControlState::default();
        state.members.extend([1, 2, 4].map(|id| (NodeId(id), member(id))));
        state.removed.insert(NodeId(3));
        send.send(Arc::new(state)).unwrap();
        assert_eq!(addresses(), ["new-1:7400", "new-4:7400"]);
        let standings = [1, 2, 3, 4, 5].map(|id| membership.standing(NodeId(id)));
        use Standing::{Member, Removed, Unknown};
        assert_eq!(standings, [Member, Member, Removed, Member, Unknown]);
    }

    #[test]
    fn one_of_two_dials_and_both_agree_which() {
        for (a, b, expected) in [
            ((1, false), (2, false), 1),
            ((1, false), (2, true), 2),
            ((1, true), (2, false), 1),
            ((1, true), (2, true), 1),
        ] {
            let (a, b) = ((NodeId(a.0), a.1), (NodeId(b.0), b.1));
            assert_eq!(dialler(a, b), NodeId(expected));
            assert_eq!(dialler(b, a), NodeId(expected));
        }
    }
}
