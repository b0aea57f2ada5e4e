//! The transport of a member: keeps a link to every other member, serves what peers open, opens what this node asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use greylag_protocol::{NodeId, Result, frame::StreamTag};
use quinn::{Connection, RecvStream, SendStream};
use tokio::{sync::mpsc, task::AbortHandle};
use tokio_util::sync::CancellationToken;

use super::{
    Endpoint, Links, Membership, Standing, calls, dial,
    membership::{Peer, dialler},
    refusal,
    streams::Channels,
};
use crate::{mesh::Incoming, raft::RaftNode};

pub(crate) struct Switchboard {
    pub(super) me: NodeId,
    pub(super) outbound_only: bool,
    pub(super) endpoint: Endpoint,
    pub(super) links: Links,
    pub(super) membership: Membership,
    pub(super) raft: RaftNode,
    pub(super) channels: Channels,
    pub(super) call_timeout: Duration,
    pub(super) seed: u64,
    /// The connection of this node to itself, made when it is first asked for.
    own: tokio::sync::Mutex<Option<Connection>>,
}

/// What a [`Switchboard`] is made of.
pub(crate) struct Wiring {
    pub me: NodeId,
    pub outbound_only: bool,
    pub endpoint: Endpoint,
    pub links: Links,
    pub membership: Membership,
    pub raft: RaftNode,
    pub call_timeout: Duration,
    pub seed: u64,
}

impl Switchboard {
    /// Starts keeping links, until `stop`.
    pub(crate) fn start(wiring: Wiring, stop: &CancellationToken) -> Arc<Self> {
        let Wiring { me, outbound_only, endpoint, links, membership, raft, call_timeout, seed } = wiring;
        let channels = Channels::new();
        let own = tokio::sync::Mutex::default();
        let board =
            Arc::new(Self { me, outbound_only, endpoint, links, membership, raft, channels, call_timeout, seed, own });
        board.links.set_peers(board.membership.peers().into_keys().collect());
        let keeping = keep_links(board.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(keeping));
        board
    }

    pub(crate) fn me(&self) -> NodeId {
        self.me
    }

    /// Everybody else, with where to dial them; empty for who cannot be dialled.
    pub(crate) fn addresses(&self) -> BTreeMap<NodeId, String> {
        let address = |peer: &Peer| if peer.can_be_dialled() { peer.address.clone() } else { String::new() };
        self.membership.peers().iter().map(|(id, peer)| (*id, address(peer))).collect()
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    pub(crate) fn serve(&self, tag: StreamTag) -> Result<mpsc::Receiver<Incoming>> {
        self.channels.take(tag)
    }

    /// Opens a stream to a member, this node itself among them. GL4013 at once if there is no link.
    pub(crate) async fn open(&self, to: NodeId, tag: StreamTag) -> Result<(SendStream, RecvStream)> {
        let connection = if to == self.me { self.own_connection().await } else { self.connection(to) };
        match connection {
            Ok(connection) => calls::open(&connection, tag).await.map_err(|error| error.at_node(to)),
            Err(error) => Err(error.at_node(to)),
        }
    }

    pub(crate) fn connection(&self, to: NodeId) -> Result<Connection> {
        self.links.connection(to).ok_or_else(|| match self.links.error(to) {
            Some(error) => refusal::unreachable_peer(&format!("there is no link: {}", error.message)),
            None => refusal::unreachable_peer("there is no link"),
        })
    }

    async fn own_connection(&self) -> Result<Connection> {
        let mut own = self.own.lock().await;
        if let Some(connection) = own.as_ref().filter(|connection| connection.close_reason().is_none()) {
            return Ok(connection.clone());
        }
        let connection = self.endpoint.dial(self.endpoint.own_address()?).await?;
        calls::beat(&connection).await?;
        *own = Some(connection.clone());
        Ok(connection)
    }

    /// Takes a connection whose other end has been identified: serves it, and once the peer has answered on it, makes
    /// it the link.
    pub(super) async fn attach(
        self: Arc<Self>,
        connection: Connection,
        peer: NodeId,
        dialled_by: NodeId,
    ) -> Result<()> {
        tokio::spawn(self.clone().serve_streams(connection.clone(), peer));
        calls::beat(&connection).await.inspect_err(|_| {
            connection.close(refusal::CODE_BYE.into(), b"no answer");
        })?;
        if !self.links.offer(peer, &connection, dialled_by, self.preferred_dialler(peer)) {
            return Err(refusal::unreachable_peer("there is another connection"));
        }
        tracing::info!(%peer, dialled_by = %dialled_by, address = %connection.remote_address(), "link is up");
        // The task holds the table, not the switchboard, and ends with the connection.
        let links = self.links.clone();
        tokio::spawn(async move {
            let why = refusal::of_connection(&connection.closed().await);
            tracing::info!(%peer, error = %why, "link is down");
            links.closed(peer, &connection, why);
        });
        Ok(())
    }

    /// Which of this node and a peer dials the other.
    pub(super) fn preferred_dialler(&self, peer: NodeId) -> NodeId {
        let outbound_only = self.membership.peers().get(&peer).is_some_and(|peer| peer.outbound_only);
        dialler((self.me, self.outbound_only), (peer, outbound_only))
    }
}

/// Has one task dial each peer, as peers come, go and move, and closes what belongs to no member any more.
async fn keep_links(board: Arc<Switchboard>) {
    let mut changes = board.membership.watch();
    let mut dialling: BTreeMap<NodeId, (Peer, Dialling)> = BTreeMap::new();
    loop {
        changes.mark_unchanged();
        let peers = board.membership.peers();
        board.links.set_peers(peers.keys().copied().collect::<BTreeSet<_>>());
        board.links.close_others(|peer| board.membership.standing(peer) == Standing::Member);
        dialling.retain(|id, (peer, _)| peers.get(id) == Some(peer));
        for (id, peer) in peers {
            dialling.entry(id).or_insert_with(|| {
                let task = tokio::spawn(dial::keep_linked(board.clone(), peer.clone()));
                (peer, Dialling(task.abort_handle()))
            });
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// A dialling task that ends with its handle.
struct Dialling(AbortHandle);

impl Drop for Dialling {
    fn drop(&mut self) {
        self.0.abort();
    }
}
