//! The two loops that feed the switchboard: one takes in the session streams that lower nodes open, one opens sessions
//! to higher nodes, and again when they are lost. What to do when is decided by [`DialPlan`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use greylag_cluster::{Incoming, LinkState, Mesh};
use greylag_protocol::{ErrorCode, MeshError, NodeId, Result, frame::StreamTag};
use ractor::ActorRef;
use ractor_cluster::NodeServerMessage;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::Instant,
};

use super::{
    session::SessionStream,
    sessions::{DialPlan, Sessions, View},
};

/// Wait without news after which the plan is looked over anyway.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What both loops need.
#[derive(Clone)]
pub(super) struct Exchange {
    pub node: NodeId,
    pub mesh: Mesh,
    pub sessions: Arc<Sessions>,
    /// Full name of the switchboard.
    pub switchboard: String,
    pub seed: u64,
}

impl Exchange {
    fn connect(&self, stream: SessionStream, is_server: bool) -> Result<()> {
        let missing = || MeshError::new(ErrorCode::ShuttingDown, "the switchboard does not run");
        let switchboard: ActorRef<NodeServerMessage> = ActorRef::where_is(&self.switchboard).ok_or_else(missing)?;
        let opened = NodeServerMessage::ConnectionOpenedExternal { stream: Box::new(stream), is_server };
        switchboard.cast(opened).map_err(|_| missing())
    }

    /// Runs until the mesh serves no more streams.
    pub(super) async fn accept(self, incoming: Arc<Mutex<mpsc::Receiver<Incoming>>>) -> Result<()> {
        let mut incoming = incoming.lock().await;
        while let Some(Incoming { peer, send, recv }) = incoming.recv().await {
            // Dropping the stream resets it.
            if peer < self.node {
                self.connect(SessionStream { peer, send, recv }, true)?;
            } else {
                tracing::warn!(%peer, "a higher node has opened an actor session, which is for the lower to do");
            }
        }
        drop(incoming);
        std::future::pending().await
    }

    pub(super) async fn dial(self) -> Result<()> {
        let mut plan = DialPlan::new(self.node);
        let (mut state, mut links, mut changes) = (self.mesh.watch(), self.mesh.links(), self.sessions.watch());
        let mut dials: JoinSet<(NodeId, Result<()>)> = JoinSet::new();
        let mut dialling = BTreeSet::new();
        let began = Instant::now();
        let mut dice = self.seed ^ self.node.0;
        loop {
            let members = state.borrow_and_update().members.keys().copied().collect();
            let linked = connected(&links.borrow_and_update());
            changes.borrow_and_update();
            let open = self.sessions.open();
            let sessions = open.iter().map(|(no, s)| (*no, (s.peer, s.ready, s.opened.elapsed()))).collect();
            let view = View { members, linked, dialling: dialling.clone(), sessions };
            dice = dice.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            let steps = plan.step(began.elapsed(), dice >> 32, &view);
            for number in steps.close {
                if let Some(session) = open.get(&number) {
                    session.cell.kill();
                }
            }
            for peer in steps.dial {
                dialling.insert(peer);
                let exchange = self.clone();
                dials.spawn(async move { (peer, exchange.dial_once(peer).await) });
            }
            let wake = tokio::time::sleep(steps.wake_after.unwrap_or(LOOK_AGAIN));
            tokio::select! {
                biased;
                Some(dialled) = dials.join_next() => {
                    let (peer, outcome) = dialled.map_err(|_| MeshError::internal("a dial panicked"))?;
                    dialling.remove(&peer);
                    if let Err(error) = outcome {
                        tracing::debug!(%peer, %error, "no actor session");
                    }
                }
                changed = state.changed() => if changed.is_err() { std::future::pending::<()>().await },
                changed = links.changed() => if changed.is_err() { std::future::pending::<()>().await },
                _ = changes.changed() => {}
                () = wake => {}
            }
        }
    }

    async fn dial_once(self, peer: NodeId) -> Result<()> {
        let (send, recv) = self.mesh.open(peer, StreamTag::Actor).await?;
        self.connect(SessionStream { peer, send, recv }, false)
    }
}

fn connected(links: &BTreeMap<NodeId, LinkState>) -> BTreeSet<NodeId> {
    links.iter().filter(|(_, link)| **link == LinkState::Connected).map(|(peer, _)| *peer).collect()
}
