//! Peers with one stream per call: where several nodes share a process (a simulation), and ractor_cluster's registries
//! cannot tell them apart. The same messages reach the same actors.
//!
//! INVARIANT: nothing here depends on the wall clock, on chance or on the order of a hash map.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use greylag_cluster::{
    Incoming, LinkState, Mesh,
    transport::{FrameReader, FrameWriter},
};
use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    frame::{FrameKind, StreamTag},
    messages::control::{CONTROL_VERSION, ControlCall, ControlReply, ControlRequest},
    state::Role,
};
use quinn::SendStream;
use tokio::{
    sync::{Mutex, Semaphore, mpsc},
    task::JoinSet,
};

use super::{
    CALLS_MAX, Peers,
    message::{absent, call_actor, late},
};
use crate::{NodeCtx, directory::RoleDirectory, supervision::ChildSpec};

/// Calls of others answered at once; more wait in the mesh.
const SERVED_MAX: usize = 256;

pub struct StreamPeers {
    node: NodeId,
    mesh: Mesh,
    directory: RoleDirectory,
    calls: Semaphore,
}

impl StreamPeers {
    /// The port, and what has to run for it. Takes the mesh's control streams, so it can be made once per node.
    pub fn new(ctx: &NodeCtx) -> Result<(Arc<Self>, ChildSpec)> {
        let incoming = Arc::new(Mutex::new(ctx.mesh.serve(StreamTag::Control)?));
        let directory = ctx.directory.clone();
        let call_max = Duration::from_millis(ctx.timing.call_timeout_ms);
        let spec = ChildSpec::task(&ctx.home, "peers", move || serve(directory.clone(), incoming.clone(), call_max));
        let (mesh, directory) = (ctx.mesh.clone(), ctx.directory.clone());
        Ok((Arc::new(Self { node: ctx.node, mesh, directory, calls: Semaphore::new(CALLS_MAX) }), spec))
    }

    async fn call_remote(&self, to: NodeId, call: ControlCall) -> Result<ControlReply> {
        let _turn = self.calls.acquire().await;
        let (send, recv) = self.mesh.open(to, StreamTag::Control).await?;
        let mut request = FrameWriter::new(send);
        request.send(FrameKind::Control, &call).await?;
        request.finish()?;
        match FrameReader::new(recv).recv::<Result<ControlReply>>(FrameKind::Control).await?? {
            ControlReply::Error(error) => Err(error),
            reply => Ok(reply),
        }
    }
}

#[async_trait]
impl Peers for StreamPeers {
    fn members(&self, role: &Role) -> Vec<NodeId> {
        let holders = self.mesh.state().live_holders(role);
        let links = self.mesh.links();
        let links = links.borrow();
        let reachable = |node: &NodeId| match *node == self.node {
            true => self.directory.actor(role).is_some(),
            false => links.get(node) == Some(&LinkState::Connected),
        };
        holders.into_iter().filter(reachable).collect()
    }

    async fn call(&self, to: NodeId, role: &Role, request: ControlRequest, timeout: Duration) -> Result<ControlReply> {
        let answer = if to == self.node {
            let actor = self.directory.actor(role).ok_or_else(|| absent(role).at_node(to))?;
            call_actor(&actor, request, timeout).await
        } else {
            let deadline_ms = timeout.as_millis() as u64;
            let call = ControlCall { version: CONTROL_VERSION, deadline_ms, role: role.clone(), request };
            tokio::time::timeout(timeout, self.call_remote(to, call)).await.unwrap_or_else(|_| Err(late(timeout)))
        };
        answer.map_err(|error| error.at_node(to))
    }
}

/// Answers the calls of others until the mesh serves no more streams.
async fn serve(
    directory: RoleDirectory,
    incoming: Arc<Mutex<mpsc::Receiver<Incoming>>>,
    call_max: Duration,
) -> Result<()> {
    let mut incoming = incoming.lock().await;
    let mut served = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = served.join_next() => {}
            stream = incoming.recv(), if served.len() < SERVED_MAX => match stream {
                // A caller that says nothing, or takes no answer, is dropped in time.
                Some(stream) => drop(served.spawn(tokio::time::timeout(2 * call_max, answer(directory.clone(), stream, call_max)))),
                None => break,
            },
        }
    }
    drop(incoming);
    std::future::pending().await
}

async fn answer(directory: RoleDirectory, stream: Incoming, call_max: Duration) {
    let reply = match FrameReader::new(stream.recv).recv(FrameKind::Control).await {
        Ok(call) => ask_here(&directory, call, call_max).await,
        Err(error) => Err(error),
    };
    if let Err(error) = send(stream.send, reply).await {
        tracing::debug!(peer = %stream.peer, %error, "a control call's answer was not taken");
    }
}

async fn send(stream: SendStream, reply: Result<ControlReply>) -> Result<()> {
    let mut writer = FrameWriter::new(stream);
    match writer.send(FrameKind::Control, &reply).await {
        Err(error) if error.code == ErrorCode::FrameTooLarge => writer.send_error(&error).await?,
        sent => sent?,
    }
    writer.finish()
}

async fn ask_here(directory: &RoleDirectory, call: ControlCall, call_max: Duration) -> Result<ControlReply> {
    if call.version != CONTROL_VERSION {
        let other = format!("control calls are version {CONTROL_VERSION} here, not {}", call.version);
        return Err(MeshError::new(ErrorCode::ProtocolVersion, other));
    }
    let actor = directory.actor(&call.role).ok_or_else(|| absent(&call.role))?;
    call_actor(&actor, call.request, Duration::from_millis(call.deadline_ms).min(call_max)).await
}
