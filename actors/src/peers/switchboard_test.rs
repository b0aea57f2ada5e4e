//! Switchboards joined by pipes: handshake, names, and which session is kept. (What ractor_cluster's own registries
//! do between nodes needs processes: see `tests/peers.rs`.)

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{sync::Arc, time::Duration};

use greylag_protocol::{
    MeshId, NodeId,
    messages::control::{ControlReply, ControlRequest},
};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, pg};
use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream, NodeServerMessage};
use tokio::io::DuplexStream;

use super::{
    message::{RoleMessage, Wire, call_actor},
    sessions::{Session, SessionNo, Sessions},
    switchboard::Switchboard,
};

/// Bytes that a pipe holds before its writer waits.
const PIPE_BYTES: usize = 1 << 16;

struct Pipe {
    peer: NodeId,
    stream: DuplexStream,
}

impl ClusterBidiStream for Pipe {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        let (read, write) = tokio::io::split(self.stream);
        (Box::new(read), Box::new(write))
    }
    fn peer_label(&self) -> Option<String> {
        Some(self.peer.to_string())
    }
}

struct Side {
    sessions: Arc<Sessions>,
    actor: ActorRef<NodeServerMessage>,
}

impl Side {
    async fn start(node: u64, mesh: u128) -> Self {
        let sessions = Arc::new(Sessions::new());
        let mesh = MeshId(uuid::Uuid::from_u128(mesh));
        let switchboard = Switchboard { node: NodeId(node), mesh, sessions: sessions.clone() };
        let (actor, _) = Actor::spawn(None, switchboard, ()).await.unwrap();
        Self { sessions, actor }
    }

    fn take(&self, peer: u64, stream: DuplexStream, is_server: bool) {
        let stream = Box::new(Pipe { peer: NodeId(peer), stream });
        self.actor.cast(NodeServerMessage::ConnectionOpenedExternal { stream, is_server }).unwrap();
    }

    /// Waits until the table of sessions is as it should be.
    async fn until(&self, mut holds: impl FnMut(Vec<(SessionNo, Session)>) -> bool) {
        let mut changes = self.sessions.watch();
        let wait = async {
            while !holds(self.sessions.open().into_iter().collect()) {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the sessions never became so");
    }
}

impl Side {
    /// Waits until a session has been opened and is closed again, never having been ready.
    async fn until_refused(&self) {
        // Cleared at the start, opened, closed.
        let changes = self.sessions.watch();
        self.until(|open| {
            assert!(open.iter().all(|(_, session)| !session.ready), "it was let in");
            *changes.borrow() >= 3 && open.is_empty()
        })
        .await;
    }
}

/// Joins two sides, as the mesh would: each is told truly who is at the other end.
fn join(client: (&Side, u64), server: (&Side, u64)) {
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    client.0.take(server.1, near, false);
    server.0.take(client.1, far, true);
}

struct Echo;

impl Actor for Echo {
    type Msg = RoleMessage;
    type State = ();
    type Arguments = ();
    async fn pre_start(&self, _: ActorRef<RoleMessage>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
    async fn handle(
        &self,
        _: ActorRef<RoleMessage>,
        RoleMessage::Call(_, port): RoleMessage,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let _ = port.send(Wire::ok(ControlReply::Alive));
        Ok(())
    }
}

#[tokio::test]
async fn sessions_become_ready_on_both_sides_and_carry_calls() {
    let (a, b) = (Side::start(1, 7).await, Side::start(2, 7).await);
    let (echo, _) = Actor::spawn(None, Echo, ()).await.unwrap();
    pg::join_scoped("test".into(), "echo".into(), vec![echo.get_cell()]);
    join((&a, 1), (&b, 2));
    a.until(|open| open.len() == 1 && open[0].1.ready && open[0].1.peer == NodeId(2)).await;
    b.until(|open| open.len() == 1 && open[0].1.ready && open[0].1.peer == NodeId(1)).await;
    let number = *a.sessions.open().keys().next().unwrap();
    let shims = pg::get_scoped_members(&"test".to_owned(), &"echo".to_owned());
    let mut far =
        shims.into_iter().filter(|cell| matches!(cell.get_id(), ActorId::Remote { node_id, .. } if node_id == number));
    let far: ActorRef<RoleMessage> = far.next().expect("a remote stand-in").into();
    let reply = call_actor(&far, ControlRequest::Probe, Duration::from_secs(5)).await.unwrap();
    assert_eq!(reply, ControlReply::Alive);
    // The far side goes: so do its stand-ins, and the session is closed here too.
    b.actor.stop_and_wait(None, None).await.unwrap();
    a.until(|open| open.is_empty()).await;
    assert!(call_actor(&far, ControlRequest::Probe, Duration::from_secs(5)).await.is_err());
}

#[tokio::test]
async fn a_claimed_name_that_is_not_the_certificates_never_becomes_ready() {
    // It calls itself node 3 in the handshake; its certificate (so its label here) says node 2.
    for liar_dials in [true, false] {
        let (honest, liar) = (Side::start(1, 7).await, Side::start(3, 7).await);
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        honest.take(2, near, !liar_dials);
        liar.take(1, far, liar_dials);
        honest.until_refused().await;
    }
}

#[tokio::test]
async fn nodes_of_another_mesh_are_kept_out() {
    let (a, b) = (Side::start(1, 7).await, Side::start(2, 8).await);
    join((&a, 1), (&b, 2));
    a.until_refused().await;
}

#[tokio::test]
async fn the_newer_of_two_sessions_with_a_peer_is_kept() {
    let (a, b) = (Side::start(1, 7).await, Side::start(2, 7).await);
    join((&a, 1), (&b, 2));
    b.until(|open| open.len() == 1 && open[0].1.ready).await;
    let first = *b.sessions.open().keys().next().unwrap();
    join((&a, 1), (&b, 2));
    for side in [&a, &b] {
        side.until(|open| open.len() == 1 && open[0].0 > first && open[0].1.ready).await;
    }
}

#[tokio::test]
async fn bytes_that_are_no_handshake_end_the_session() {
    use tokio::io::AsyncWriteExt;
    for garbage in [vec![0xff; 64], vec![0; 64], b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let side = Side::start(1, 7).await;
        let (near, mut far) = tokio::io::duplex(PIPE_BYTES);
        side.take(2, near, true);
        far.write_all(&garbage).await.unwrap();
        drop(far);
        side.until_refused().await;
    }
}

#[tokio::test]
async fn a_peer_that_reads_nothing_holds_no_task_of_an_ended_session() {
    let side = Side::start(1, 7).await;
    // The first message of the handshake does not fit.
    let (near, _far) = tokio::io::duplex(8);
    side.take(2, near, false);
    side.until(|open| open.len() == 1).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    crate::fixture::until("the handshake is stuck", || tasks() > 3).await;
    side.actor.stop_and_wait(None, None).await.unwrap();
    crate::fixture::until("no task is left", || tasks() == 0).await;
}
