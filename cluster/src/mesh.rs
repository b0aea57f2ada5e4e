//! The handle on the mesh that everything above holds: state to read and watch, changes to propose, streams to open
//! and to serve. Cloning is cheap; when the last clone goes, the node's part in the mesh ends.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use greylag_protocol::{
    ErrorCode, MeshError, MeshId, NodeId, Result,
    frame::StreamTag,
    messages::join::Authority,
    state::{AllowedRoles, Command, ControlState, Outcome, Register, RegisterOp, RegisterRequest},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    custody::Rotor,
    health::{Gatherer, Health},
    identity::{Keyring, NodeKey, key, token},
    raft::RaftNode,
    seams::Seams,
    state::Archive,
    transport::{Endpoint, Switchboard},
};

mod propose;
mod settle;
mod start;

pub(crate) use propose::Proposer;

/// Longest that peers are waited for when this node says goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest that another node is waited for to take over.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(2);

/// A stream that a peer has opened, its tag already read and the peer already checked against the membership.
#[derive(Debug)]
pub struct Incoming {
    pub peer: NodeId,
    pub send: quinn::SendStream,
    pub recv: quinn::RecvStream,
}

/// What this node itself sees of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    Connected,
    /// No connection, being dialled.
    Lost,
}

/// What [`Mesh::start`] needs to know.
#[derive(Debug, Clone)]
pub struct MeshStart {
    pub config: greylag_config::NodeConfig,
    pub seams: Seams,
}

#[derive(Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
}

struct Inner {
    me: NodeId,
    id: MeshId,
    founded: bool,
    seams: Seams,
    key: Arc<NodeKey>,
    raft: RaftNode,
    board: Arc<Switchboard>,
    proposer: Proposer,
    keyring: Arc<Keyring>,
    gatherer: Gatherer,
    rotor: Rotor,
    alive: Alive,
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh").field("node", &self.inner.me).field("id", &self.inner.id).finish_non_exhaustive()
    }
}

/// What ends with the handle: background tasks and connections.
struct Alive {
    stop: CancellationToken,
    endpoint: Endpoint,
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.stop.cancel();
        self.endpoint.close_now();
    }
}

impl Mesh {
    /// Opens the data directory and the endpoint; forms a mesh, joins one, or takes its old place in one. Returns when
    /// the node is a member and has applied the log up to what the leader had committed when it asked. After a restart
    /// where no leader can be reached it returns with what its own log says, once the time limit of a call has passed
    /// (and waits for a leader where its own log does not say anything yet).
    ///
    /// Dropping the future ends the attempt. It fails with GL4004, GL4005, GL4006 or GL4010 as soon as the mesh has
    /// refused the node, with GL4001 if the node has been removed; seeds that cannot be reached are asked again for
    /// ever.
    pub async fn start(start: MeshStart) -> Result<Self> {
        start::start(start).await
    }

    pub fn node(&self) -> NodeId {
        self.inner.me
    }

    pub fn id(&self) -> MeshId {
        self.inner.id
    }

    /// Whether this very start has founded the mesh; false at every later one.
    pub fn founded(&self) -> bool {
        self.inner.founded
    }

    pub fn seams(&self) -> &Seams {
        &self.inner.seams
    }

    /// The state as far as this node has applied it.
    pub fn state(&self) -> Arc<ControlState> {
        self.inner.raft.state()
    }

    /// Wakes at every change of the state.
    pub fn watch(&self) -> watch::Receiver<Arc<ControlState>> {
        self.inner.raft.watch()
    }

    /// Leader, as far as this node knows, and the Raft term.
    pub fn leader(&self) -> (Option<NodeId>, u64) {
        self.inner.raft.leader()
    }

    /// Commits a command, by way of the leader. `Outcome::Refused` comes back as an error; GL4007 when no leader
    /// could be reached within the time limit, in which case the change may still be made.
    ///
    /// A command whose reply was lost is proposed again: applying one twice changes nothing the second time (see
    /// `state::apply`). Only `RevokeGrant` and `DropSource` can come back as "not known" from the second time, and a
    /// change of the same thing by somebody else in between is overwritten, as it would be by a slower first time.
    pub async fn propose(&self, command: Command) -> Result<Outcome> {
        self.inner.proposer.propose(command).await
    }

    /// Waits until this node has applied everything that was committed anywhere before the call. GL4007 when that
    /// could not be had within the time limit.
    pub async fn catch_up(&self) -> Result<()> {
        self.inner.proposer.catch_up().await
    }

    /// A register after everything that was committed anywhere before the call; never what this node alone knows.
    /// GL4007 when that could not be had within the time limit.
    pub async fn read_register(&self, name: &str) -> Result<Option<Register>> {
        self.catch_up().await?;
        Ok(self.state().registers.values.get(name).cloned())
    }

    /// Changes a register, once for each request; without one this is a new request. After GL4007 the change may have
    /// been made, or may still be.
    pub async fn change_register(
        &self,
        name: &str,
        op: RegisterOp,
        request: Option<RegisterRequest>,
    ) -> Result<Outcome> {
        let new = || RegisterRequest { id: Uuid::new_v4(), after: self.state().registers.changes };
        let request = request.unwrap_or_else(new);
        self.propose(Command::Register { name: name.to_owned(), op, request }).await
    }

    /// Links to the other members, as this node sees them.
    pub fn links(&self) -> watch::Receiver<BTreeMap<NodeId, LinkState>> {
        self.inner.board.links().watch()
    }

    /// Why there is no link to a member: what it answered last, or how the last link ended.
    pub fn link_error(&self, peer: NodeId) -> Option<MeshError> {
        self.inner.board.links().error(peer)
    }

    /// How every member does, asked for now: within about a second, by what can be learnt in that time.
    pub async fn health(&self) -> BTreeMap<NodeId, Health> {
        self.inner.gatherer.gather().await
    }

    /// Opens a stream to a member, this node among them, and writes its tag. GL4013 at once if there is no link; never
    /// dials and waits longer than a second.
    pub async fn open(&self, to: NodeId, tag: StreamTag) -> Result<(quinn::SendStream, quinn::RecvStream)> {
        self.inner.board.open(to, tag).await
    }

    /// Closes the connection to a peer. What runs over it dies as if it had been lost, and the two dial each other again.
    pub fn reconnect(&self, peer: NodeId) {
        self.inner.board.links().close(peer);
    }

    /// Streams of one tag that peers open. Each tag can be taken once; a second call is an internal error. The channel
    /// is bounded: peers wait when nobody serves. (Raft and Forward are served by the cluster itself.)
    pub fn serve(&self, tag: StreamTag) -> Result<mpsc::Receiver<Incoming>> {
        self.inner.board.serve(tag)
    }

    /// Ed25519 signature of this node over `bytes`.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.inner.key.sign(bytes)
    }

    /// Checks a signature of a current member. GL3005 otherwise.
    pub fn verify(&self, signer: NodeId, bytes: &[u8], signature: &[u8]) -> Result<()> {
        let state = self.state();
        let Some(member) = state.member(signer) else {
            return Err(MeshError::new(ErrorCode::BadSignature, format!("the signer {signer} is not a member")));
        };
        key::verify(&member.public_key, bytes, signature)
    }

    /// The mesh's own keys, where this node keeps them: every voter does, a moment after it has become one.
    pub fn authority(&self) -> Option<Arc<Authority>> {
        self.inner.keyring.held().map(|held| held.keys.clone())
    }

    /// Has a new authority take over, made by a member that keeps the present one. Members renew their certificates by
    /// themselves; the former is trusted for at least `overlap`, and until all who are up have renewed.
    pub async fn rotate_authority(&self, overlap: Duration) -> Result<()> {
        self.inner.rotor.rotate(overlap).await
    }

    /// The whole control state, after everything that was committed before the call, with the mesh's keys. GL1005 on a
    /// node that does not keep them.
    pub async fn archive(&self) -> Result<Archive> {
        let keys = self.authority().ok_or_else(|| {
            let message = "this node does not keep the mesh's authority: ask one that votes";
            MeshError::new(ErrorCode::Unsupported, message).at_node(self.node())
        })?;
        self.catch_up().await?;
        Ok(Archive::new((*self.state()).clone(), (*keys).clone()))
    }

    /// Resolves once this node keeps the mesh's own keys.
    pub async fn authority_given(&self) -> Arc<Authority> {
        self.inner.keyring.given().await.keys.clone()
    }

    /// A new join token for `uses` nodes, as text, valid for so long from now.
    /// Those nodes may be asked to do no more than `allowed`.
    pub async fn create_join_token(&self, uses: u32, ttl: Duration, allowed: AllowedRoles) -> Result<String> {
        let state = self.state();
        let facts = state.mesh.as_ref().ok_or_else(|| MeshError::internal("the mesh has not been formed yet"))?;
        let expires_unix_ms = self.inner.seams.clock.unix_ms().saturating_add(ttl.as_millis() as u64);
        let (token, grant) = token::mint(&facts.ca_certificate, uses, expires_unix_ms, allowed)?;
        self.propose(Command::PutGrant { grant }).await?;
        Ok(token::format(&token))
    }

    /// Resolves when this node's part in the mesh has ended for good, with the reason: it was removed (GL4001), its
    /// disk has failed, or it was shut down. Nothing is committed or applied here after that.
    pub async fn stopped(&self) -> MeshError {
        tokio::select! {
            error = self.inner.raft.stopped() => error,
            () = settle::told_removed(&self.inner.proposer, self.inner.board.links()) => settle::removed(self.inner.me),
        }
    }

    /// Leaves cleanly: hands leadership over if it can, tells the peers, syncs and closes the log.
    pub async fn shutdown(&self) {
        let Inner { raft, board, alive, .. } = &*self.inner;
        if raft.is_leader() && board.links().watch().borrow().values().any(|state| *state == LinkState::Connected) {
            // Past the limit the others elect one by themselves.
            let _ = tokio::time::timeout(HANDOVER_TIMEOUT, raft.transfer_leadership()).await;
        }
        alive.stop.cancel();
        alive.endpoint.close(GOODBYE_TIMEOUT).await;
        raft.shutdown().await;
    }
}
