//! Who of the members is in contact with this node, and for how long not. The connection's own idle time-out is the
//! failure detector; here is only a short grace over it, so that a connection that is made anew at once is not a loss.
//! Pure: time comes in as an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use greylag_protocol::NodeId;

use crate::mesh::LinkState;

/// A link that was there and is lost for this long means that the member is down.
pub(super) const LOST_GRACE: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contact {
    /// Never connected since this process has started, or since the member was admitted.
    NotYet {
        since: Duration,
    },
    Connected,
    Lost {
        since: Duration,
    },
}

/// Times are durations since any fixed moment.
#[derive(Debug)]
pub(super) struct Contacts {
    seen: BTreeMap<NodeId, Contact>,
    /// Time that a member has for its first connection: after a restart of everybody, they come one by one.
    first_grace: Duration,
}

impl Contacts {
    pub fn new(first_grace: Duration) -> Self {
        Self { seen: BTreeMap::new(), first_grace }
    }

    /// Takes note of what the links are now. Members are those but this node.
    pub fn observe(
        &mut self,
        members: impl Iterator<Item = NodeId>,
        links: &BTreeMap<NodeId, LinkState>,
        now: Duration,
    ) {
        let mut seen = BTreeMap::new();
        for node in members {
            let connected = links.get(&node) == Some(&LinkState::Connected);
            let contact = match (connected, self.seen.get(&node)) {
                (true, _) => Contact::Connected,
                (false, None) => Contact::NotYet { since: now },
                (false, Some(Contact::Connected)) => Contact::Lost { since: now },
                (false, Some(known)) => *known,
            };
            seen.insert(node, contact);
        }
        self.seen = seen;
    }

    pub fn connected(&self) -> BTreeSet<NodeId> {
        let connected = self.seen.iter().filter(|(_, contact)| **contact == Contact::Connected);
        connected.map(|(node, _)| *node).collect()
    }

    /// Members out of contact for at least so long.
    pub fn lost(&self, now: Duration, grace: Duration) -> BTreeSet<NodeId> {
        let since = |contact: &Contact| match contact {
            Contact::Connected => None,
            Contact::NotYet { since } | Contact::Lost { since } => Some(*since),
        };
        let lost = self.seen.iter().filter(|(_, contact)| since(contact).is_some_and(|since| since + grace <= now));
        lost.map(|(node, _)| *node).collect()
    }

    /// Members out of contact for longer than their grace.
    pub fn gone(&self, now: Duration) -> BTreeSet<NodeId> {
        self.deadlines().filter(|(_, deadline)| *deadline <= now).map(|(node, _)| node).collect()
    }

    /// When the next member will be gone, if nothing changes.
    pub fn next_gone(&self, now: Duration) -> Option<Duration> {
        self.deadlines().map(|(_, deadline)| deadline).filter(|deadline| *deadline > now).min()
    }

    fn deadlines(&self) -> impl Iterator<Item = (NodeId, Duration)> {
        self.seen.iter().filter_map(|(node, contact)| match contact {
            Contact::Connected => None,
            Contact::NotYet { since } => Some((*node, *since + self.first_grace)),
            Contact::Lost { since } => Some((*node, *since + LOST_GRACE)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(3);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    #[test]
    fn a_loss_counts_from_the_loss_and_a_first_contact_has_time() {
        let mut contacts = Contacts::new(FIRST);
        let mut observe = |links: &[(u64, LinkState)], now| {
            let links = links.iter().map(|(id, link)| (NodeId(*id), *link)).collect();
            contacts.observe(nodes(&[2, 3]).into_iter(), &links, now);
            (contacts.connected(), contacts.gone(now), contacts.next_gone(now))
        };
        use LinkState::{Connected, Lost};
        assert_eq!(observe(&[(2, Connected), (3, Lost)], ms(0)), (nodes(&[2]), nodes(&[]), Some(FIRST)));
        // A link lost and made again is no loss.
        assert_eq!(observe(&[(2, Lost)], ms(100)), (nodes(&[]), nodes(&[]), Some(ms(300))));
        assert_eq!(observe(&[(2, Lost)], ms(299)), (nodes(&[]), nodes(&[]), Some(ms(300))));
        assert_eq!(observe(&[(2, Connected)], ms(300)), (nodes(&[2]), nodes(&[]), Some(FIRST)));
        // Gone from the links is lost as well.
        observe(&[], ms(1000));
        assert_eq!(observe(&[], ms(1200)), (nodes(&[]), nodes(&[2]), Some(FIRST)));
        assert_eq!(observe(&[(2, Connected)], ms(3000)), (nodes(&[2]), nodes(&[3]), None));
        // A member that is taken out and admitted again starts anew.
        contacts.observe(nodes(&[2]).into_iter(), &BTreeMap::new(), ms(4000));
        contacts.observe(nodes(&[2, 3]).into_iter(), &BTreeMap::new(), ms(4000));
        assert_eq!(contacts.gone(ms(6000)), nodes(&[2]));
    }

    #[test]
    fn a_longer_loss_counts_from_the_loss_as_well_and_a_return_ends_it() {
        use LinkState::{Connected, Lost};
        let mut contacts = Contacts::new(FIRST);
        let mut observe = |links: &[(u64, LinkState)], now| {
            let links = links.iter().map(|(id, link)| (NodeId(*id), *link)).collect();
            contacts.observe(nodes(&[2, 3]).into_iter(), &links, now);
            contacts.lost(now, ms(30_000))
        };
        assert_eq!(observe(&[(2, Connected)], ms(0)), nodes(&[]));
        assert_eq!(observe(&[(2, Connected)], ms(29_999)), nodes(&[]));
        assert_eq!(observe(&[(2, Lost)], ms(30_000)), nodes(&[3]), "never seen since the start");
        assert_eq!(observe(&[(2, Connected)], ms(50_000)), nodes(&[3]));
        assert_eq!(observe(&[(2, Lost), (3, Connected)], ms(60_000)), nodes(&[]));
        assert_eq!(observe(&[], ms(89_999)), nodes(&[]));
        assert_eq!(observe(&[], ms(90_000)), nodes(&[2]));
    }
}
