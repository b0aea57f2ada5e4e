//! Holds this node's ractor_cluster sessions. It stands in the place of ractor_cluster's own `NodeServer`, speaks the
//! same messages with the sessions, and differs in three things: it opens no TCP listener at all, it believes a peer's
//! name only when the peer's certificate proves it, and of two sessions with one peer the newer is kept.
//!
//! INVARIANT: a session becomes ready only if the name it claims is that of the node at the other end of its stream.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use greylag_protocol::{MeshId, NodeId};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_cluster::{
    ClusterBidiStream, NetworkStream, NodeServerMessage, NodeSession, NodeSessionMessage,
    node::{NodeConnectionMode, SessionCheckReply},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    session::{Severable, labelled},
    sessions::{Session, SessionNo, Sessions},
};

/// Largest frame taken from a peer. Control messages are far smaller; a peer's list of its role actors may be longer.
const FRAME_BYTES_MAX: u64 = 1 << 20;
/// Version of ractor_cluster's handshake.
const HANDSHAKE_VERSION: u32 = 1;

pub(super) struct Switchboard {
    pub node: NodeId,
    pub mesh: MeshId,
    pub sessions: Arc<Sessions>,
}

#[derive(Default)]
pub(super) struct State {
    open: BTreeMap<ActorId, Open>,
}

struct Open {
    number: SessionNo,
    peer: NodeId,
    actor: ActorRef<NodeSessionMessage>,
    /// Number that the dialling side has given the connection, once the session knows the peer's (right) name.
    connection: Option<u64>,
    severed: CancellationToken,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.severed.cancel();
    }
}

impl Actor for Switchboard {
    type Msg = NodeServerMessage;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<NodeServerMessage>, (): ()) -> Result<State, ActorProcessingErr> {
        self.sessions.clear();
        Ok(State::default())
    }

    async fn handle(
        &self,
        me: ActorRef<NodeServerMessage>,
        message: NodeServerMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            NodeServerMessage::ConnectionOpenedExternal { stream, is_server } => {
                self.open(&me, stream, is_server, state).await?;
            }
            NodeServerMessage::UpdateSession { actor_id, name } => {
                if let Some(open) = state.open.get_mut(&actor_id) {
                    if name.name == full_name(self.mesh, open.peer) {
                        open.connection = Some(name.connection_id);
                    } else {
                        tracing::warn!(peer = %open.peer, "a peer has claimed another node's name");
                        open.actor.kill();
                    }
                }
            }
            NodeServerMessage::CheckSession { peer_name, reply } => {
                let known = state.open.values().any(|open| {
                    open.connection == Some(peer_name.connection_id)
                        && full_name(self.mesh, open.peer) == peer_name.name
                });
                let verdict = match known {
                    true => SessionCheckReply::NoOtherConnection,
                    false => SessionCheckReply::OtherConnectionContinues,
                };
                let _ = reply.send(verdict);
            }
            NodeServerMessage::ConnectionReady(actor_id) => {
                if let Some(open) = state.open.get(&actor_id).filter(|open| open.connection.is_some()) {
                    tracing::debug!(node = %self.node, peer = %open.peer, "actor session ready");
                    self.sessions.ready(open.number);
                }
            }
            // Asked for by peers that would dial each other's TCP addresses. Ours have none.
            NodeServerMessage::GetSessions(reply) => {
                let _ = reply.send(HashMap::new());
            }
            NodeServerMessage::ConnectionOpened { .. } => tracing::error!("a TCP session was offered, and dropped"),
            NodeServerMessage::ConnectionAuthenticated(_)
            | NodeServerMessage::SubscribeToEvents { .. }
            | NodeServerMessage::UnsubscribeToEvents(_)
            | NodeServerMessage::PortChanged { .. } => {}
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<NodeServerMessage>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(cell, _) | SupervisionEvent::ActorTerminated(cell, ..) = event
            && let Some(open) = state.open.remove(&cell.get_id())
        {
            tracing::debug!(node = %self.node, peer = %open.peer, "actor session ended");
            self.sessions.closed(open.number);
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<NodeServerMessage>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.open.clear();
        self.sessions.clear();
        Ok(())
    }
}

impl Switchboard {
    async fn open(
        &self,
        me: &ActorRef<NodeServerMessage>,
        stream: Box<dyn ClusterBidiStream>,
        is_server: bool,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let Some(peer) = stream.peer_label().as_deref().and_then(labelled) else {
            tracing::error!("a session was offered without its peer's id, and dropped");
            return Ok(());
        };
        // A peer that opens a new session has lost the old one, whether we have noticed or not.
        for old in state.open.values().filter(|open| open.peer == peer) {
            old.actor.kill();
        }
        let severed = CancellationToken::new();
        let (reader, writer) = stream.split();
        let stream = NetworkStream::External {
            peer_label: Some(peer.to_string()),
            local_label: Some(self.node.to_string()),
            reader: Box::new(Severable::new(reader, &severed)),
            writer: Box::new(Severable::new(writer, &severed)),
        };
        let number = self.sessions.next_number();
        let session = self.session(number, is_server, me).with_max_inbound_frame_size(FRAME_BYTES_MAX);
        let (actor, _) = Actor::spawn_linked(None, session, stream, me.get_cell()).await?;
        let row = Session { peer, ready: false, opened: Instant::now(), cell: actor.get_cell() };
        state.open.insert(actor.get_id(), Open { number, peer, actor, connection: None, severed });
        self.sessions.opened(number, row);
        Ok(())
    }

    fn session(&self, number: SessionNo, is_server: bool, me: &ActorRef<NodeServerMessage>) -> NodeSession {
        // The type of a name is not exported; a message that holds one stands for it.
        let mut name = blank(|name| NodeServerMessage::UpdateSession { actor_id: me.get_id(), name });
        name.name = full_name(self.mesh, self.node);
        name.connection_string = name.name.clone();
        let mut flags = name.flags.take().unwrap_or_default();
        flags.version = HANDSHAKE_VERSION;
        name.flags = Some(flags);
        // Not a secret, and need not be one: TLS has authenticated the peer. It keeps meshes apart.
        let cookie = format!("greylag/{}", self.mesh);
        NodeSession::new(number, is_server, cookie, me.clone(), name, NodeConnectionMode::Isolated)
    }
}

fn blank<T: Default, R>(_: impl Fn(T) -> R) -> T {
    T::default()
}

/// A node's name in ractor_cluster's handshake.
fn full_name(mesh: MeshId, node: NodeId) -> String {
    format!("{node}@{node}.{mesh}.greylag")
}
