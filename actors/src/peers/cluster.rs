//! Peers in production: one ractor_cluster session with each other node, over a QUIC stream of the mesh. A role's actor
//! is found through its process group, and only behind a session with the node it is said to be on, so no peer can
//! offer an actor in another's name.
//!
//! One such node per process: ractor_cluster's registries are global.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use greylag_cluster::Mesh;
use greylag_protocol::{
    NodeId, Result,
    frame::StreamTag,
    messages::control::{CONTROL_BYTES_MAX, ControlReply, ControlRequest},
    state::Role,
    wire,
};
use ractor::{ActorId, ActorRef, ActorStatus, pg};
use tokio::{
    sync::{Mutex, Semaphore},
    time::Instant,
};

use super::{
    CALLS_MAX, Peers,
    dial::Exchange,
    message::{RoleMessage, Unanswered, absent, ask, late},
    sessions::Sessions,
    switchboard::Switchboard,
};
use crate::{
    NodeCtx,
    directory::RoleDirectory,
    supervision::{Budget, ChildSpec, Strategy, Supervisor},
};

/// Process group scope of role actors.
const SCOPE: &str = "greylag";

pub struct ClusterPeers {
    node: NodeId,
    mesh: Mesh,
    directory: RoleDirectory,
    sessions: Arc<Sessions>,
    calls: Semaphore,
}

impl ClusterPeers {
    /// The port, and what has to run for it. Takes the mesh's actor streams, so it can be made once per node.
    pub fn new(ctx: &NodeCtx) -> Result<(Arc<Self>, ChildSpec)> {
        let sessions = Arc::new(Sessions::new());
        let (home, node) = (ctx.home.clone(), ctx.node);
        let exchange = Exchange {
            node,
            mesh: ctx.mesh.clone(),
            sessions: sessions.clone(),
            switchboard: home.name("peers/switchboard"),
            seed: home.seed,
        };
        let incoming = Arc::new(Mutex::new(ctx.mesh.serve(StreamTag::Actor)?));
        ctx.directory.announce_to(Box::new(move |role, actor| {
            pg::join_scoped(SCOPE.to_owned(), group(role, node), vec![actor.get_cell()]);
        }));
        let (mesh_id, table) = (ctx.mesh.id(), sessions.clone());
        let children = {
            let home = home.clone();
            move || {
                let table = table.clone();
                let switchboard = ChildSpec::of("peers/switchboard", home.name("peers/switchboard"), move || {
                    (Switchboard { node, mesh: mesh_id, sessions: table.clone() }, ())
                });
                let (accepts, dials, incoming) = (exchange.clone(), exchange.clone(), incoming.clone());
                let accept = ChildSpec::task(&home, "peers/accept", move || accepts.clone().accept(incoming.clone()));
                let dial = ChildSpec::task(&home, "peers/dial", move || dials.clone().dial());
                vec![switchboard, accept, dial]
            }
        };
        let spec = Supervisor::child_spec(&home, "peers", Strategy::RestForOne, Budget::endless(), children);
        let directory = ctx.directory.clone();
        let peers = Self { node, mesh: ctx.mesh.clone(), directory, sessions, calls: Semaphore::new(CALLS_MAX) };
        Ok((Arc::new(peers), spec))
    }

    /// The newest actor of a role on a node, if there is a ready session with that node.
    fn find(&self, node: NodeId, role: &Role) -> Option<ActorRef<RoleMessage>> {
        if node == self.node {
            return self.directory.actor(role);
        }
        let members = pg::get_scoped_members(&SCOPE.to_owned(), &group(role, node));
        let offered = members.into_iter().filter(|cell| match cell.get_id() {
            ActorId::Remote { node_id, .. } => {
                self.sessions.peer_of_ready(node_id) == Some(node) && cell.get_status() <= ActorStatus::Running
            }
            ActorId::Local(_) => false,
        });
        offered.max_by_key(|cell| cell.get_id()).map(ActorRef::from)
    }
}

fn group(role: &Role, node: NodeId) -> String {
    format!("{role}/{node}")
}

#[async_trait]
impl Peers for ClusterPeers {
    fn members(&self, role: &Role) -> Vec<NodeId> {
        let holders = self.mesh.state().live_holders(role);
        holders.into_iter().filter(|node| self.find(*node, role).is_some()).collect()
    }

    async fn call(&self, to: NodeId, role: &Role, request: ControlRequest, timeout: Duration) -> Result<ControlReply> {
        // Encoding is the actor reference's own doing; here it is checked while there is somebody to tell.
        wire::encode(&request, CONTROL_BYTES_MAX)?;
        let began = Instant::now();
        let Ok(turn) = tokio::time::timeout(timeout, self.calls.acquire()).await else { return Err(late(timeout)) };
        let _turn = turn;
        let mut tried = None;
        loop {
            let actor = self.find(to, role).filter(|actor| tried != Some(actor.get_id()));
            let actor = actor.ok_or_else(|| absent(role).at_node(to))?;
            tried = Some(actor.get_id());
            match ask(&actor, request.clone(), timeout.saturating_sub(began.elapsed())).await {
                Ok(reply) => return Ok(reply),
                Err(Unanswered::Unsent) => {}
                Err(Unanswered::Failed(error)) => return Err(error.at_node(to)),
            }
        }
    }
}
