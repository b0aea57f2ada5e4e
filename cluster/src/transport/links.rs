//! The table of connections: at most one for each peer, whoever dialled it, and what this node says of each link.
//!
//! INVARIANT: a peer is `Connected` only by a connection on which it has answered; both ends keep the same one of two.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use greylag_protocol::{ErrorCode, MeshError, NodeId, messages::health::PeerSight};
use quinn::{Connection, VarInt};
use tokio::{sync::watch, time::Instant};

use super::refusal;
use crate::mesh::LinkState;

#[derive(Clone)]
pub(crate) struct Links {
    inner: Arc<Inner>,
}

struct Inner {
    table: Mutex<Table>,
    states: watch::Sender<BTreeMap<NodeId, LinkState>>,
}

#[derive(Default)]
struct Table {
    links: BTreeMap<NodeId, Link>,
    peers: BTreeSet<NodeId>,
    /// Why a peer could not be reached, last.
    errors: BTreeMap<NodeId, MeshError>,
    /// Where peers are, as they were dialled last.
    addresses: BTreeMap<NodeId, Vec<SocketAddr>>,
    /// When somebody has last tried to connect from a peer's address.
    heard: BTreeMap<NodeId, Instant>,
}

impl Table {
    fn is_connected(&self, peer: &NodeId) -> bool {
        self.links.get(peer).is_some_and(|link| link.connection.close_reason().is_none())
    }
}

struct Link {
    connection: Connection,
    dialled_by: NodeId,
}

impl Links {
    pub(crate) fn new() -> Self {
        let (states, _) = watch::channel(BTreeMap::new());
        Self { inner: Arc::new(Inner { table: Mutex::default(), states }) }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<BTreeMap<NodeId, LinkState>> {
        self.inner.states.subscribe()
    }

    /// The connection to a peer, if there is one.
    pub(crate) fn connection(&self, peer: NodeId) -> Option<Connection> {
        let table = self.table();
        let link = table.links.get(&peer)?;
        link.connection.close_reason().is_none().then(|| link.connection.clone())
    }

    /// These are the peers to report on from now on.
    pub(crate) fn set_peers(&self, peers: BTreeSet<NodeId>) {
        let mut table = self.table();
        table.errors.retain(|peer, _| peers.contains(peer));
        table.addresses.retain(|peer, _| peers.contains(peer));
        table.heard.retain(|peer, _| peers.contains(peer));
        table.peers = peers;
        self.publish(&table);
    }

    /// Puts a connection on which the peer has answered into the table. Of two live ones both ends keep the one dialled
    /// by `preferred`, and of two by the same node the newer, since nobody dials while it sees a link. Returns whether
    /// it was taken; if not, it has been closed.
    pub(crate) fn offer(&self, peer: NodeId, connection: &Connection, dialled_by: NodeId, preferred: NodeId) -> bool {
        let mut table = self.table();
        let bye = VarInt::from_u32(refusal::CODE_BYE);
        if let Some(link) = table.links.get(&peer).filter(|link| link.connection.close_reason().is_none()) {
            if link.dialled_by != dialled_by && link.dialled_by == preferred {
                connection.close(bye, b"there is another connection");
                return false;
            }
            link.connection.close(bye, b"another connection has taken its place");
        }
        table.links.insert(peer, Link { connection: connection.clone(), dialled_by });
        table.errors.remove(&peer);
        table.heard.remove(&peer);
        self.publish(&table);
        true
    }

    /// Takes a closed connection out, unless another has taken its place.
    pub(crate) fn closed(&self, peer: NodeId, connection: &Connection, why: MeshError) {
        let mut table = self.table();
        if table.links.get(&peer).is_some_and(|link| link.connection.stable_id() == connection.stable_id()) {
            table.links.remove(&peer);
            table.errors.insert(peer, why);
            // What was heard before the loss says nothing of it.
            table.heard.remove(&peer);
            self.publish(&table);
        }
    }

    /// A dial has failed. It says nothing where the peer has made a link in the meantime.
    pub(crate) fn failed(&self, peer: NodeId, why: MeshError) {
        let mut table = self.table();
        if table.peers.contains(&peer) && !table.links.contains_key(&peer) {
            table.errors.insert(peer, why);
        }
    }

    /// A peer is about to be dialled at these addresses.
    pub(crate) fn dialled(&self, peer: NodeId, addresses: &[SocketAddr]) {
        let mut table = self.table();
        if table.peers.contains(&peer) {
            table.addresses.insert(peer, addresses.to_vec());
        }
    }

    /// Somebody tries to connect from this address. It proves nothing but that what is sent there arrives here.
    pub(crate) fn heard(&self, address: SocketAddr, now: Instant) {
        let mut table = self.table();
        let found = table.addresses.iter().find(|(_, addresses)| addresses.contains(&address));
        if let Some(peer) = found.map(|(peer, _)| *peer) {
            table.heard.insert(peer, now);
        }
    }

    /// Every peer as this node sees it.
    pub(crate) fn sights(&self, now: Instant) -> BTreeMap<NodeId, PeerSight> {
        let table = self.table();
        let sight = |peer: &NodeId| match table.heard.get(peer) {
            _ if table.is_connected(peer) => PeerSight::Linked,
            Some(heard) => PeerSight::Heard { ago_ms: now.duration_since(*heard).as_millis() as u64 },
            None => PeerSight::Silent,
        };
        table.peers.iter().map(|peer| (*peer, sight(peer))).collect()
    }

    /// Why there is no link to a peer.
    pub(crate) fn error(&self, peer: NodeId) -> Option<MeshError> {
        self.table().errors.get(&peer).cloned()
    }

    /// An error of this code that some peer has given.
    pub(crate) fn refused_with(&self, code: ErrorCode) -> Option<MeshError> {
        self.table().errors.values().find(|error| error.code == code).cloned()
    }

    /// Closes the link to a peer, as if it had been lost.
    pub(crate) fn close(&self, peer: NodeId) {
        if let Some(connection) = self.connection(peer) {
            connection.close(VarInt::from_u32(refusal::CODE_BYE), b"it is made anew");
        }
    }

    /// Closes the links to nodes for which `stays` is false.
    pub(crate) fn close_others(&self, stays: impl Fn(NodeId) -> bool) {
        let table = self.table();
        for link in table.links.iter().filter(|(peer, _)| !stays(**peer)).map(|(_, link)| link) {
            link.connection.close(refusal::code(ErrorCode::NotAMember), super::REMOVED.as_bytes());
        }
    }

    fn publish(&self, table: &Table) {
        let state = |peer: &NodeId| if table.is_connected(peer) { LinkState::Connected } else { LinkState::Lost };
        let states: BTreeMap<_, _> = table.peers.iter().map(|peer| (*peer, state(peer))).collect();
        self.inner.states.send_if_modified(|old| {
            let changed = *old != states;
            *old = states;
            changed
        });
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
