//! One node's part in the replicated log. Cloning is cheap.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    sync::Arc,
    time::Duration,
};

use greylag_config::Timing;
use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    frame::FORWARD_BYTES_MAX,
    state::{Command, ControlState, Outcome},
    wire,
};
use openraft::{
    BasicNode, ChangeMembers, Raft, ReadPolicy,
    async_runtime::WatchReceiver,
    errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError},
};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use super::{
    RaftLink, database, log::LogStore, machine::Machine, network, network::Network, settings::settings,
    types::TypeConfig, writer::Writer,
};
use crate::seams::Seams;

/// The log's file.
const FILE: &str = "raft.redb";
/// Longest a peer's call is worked on: longer than any peer waits.
const SERVE_TIME_MAX: Duration = Duration::from_secs(30);

/// Why a proposal was not committed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProposeError {
    /// This node does not lead and nothing was written: ask the node named, or look again where none is.
    Forward(Option<NodeId>),
    /// It failed, or its outcome is not known (GL4007): every command may be proposed again.
    Failed(MeshError),
}

#[derive(Clone)]
pub struct RaftNode {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub id: NodeId,
    pub raft: Raft<TypeConfig, Machine>,
    machine: Machine,
    writer: Writer,
    /// Longest any call may take.
    limit: Duration,
}

impl RaftNode {
    /// Opens the log in `raft.redb` and starts the node's part in Raft. It does nothing until it is initialised, or a
    /// leader has added it.
    pub async fn open(
        id: NodeId,
        seams: &Seams,
        timing: &Timing,
        mesh_name: &str,
        link: Arc<dyn RaftLink>,
    ) -> Result<Self> {
        let settings = settings(timing, mesh_name)?;
        let (done, opened) = oneshot::channel();
        let disk = seams.disk.clone();
        seams
            .blocking
            .run(Box::new(move || {
                let opened = disk
                    .database(FILE)
                    .map_err(|e| MeshError::internal(format!("`{FILE}` could not be opened: {e}")))
                    .and_then(|backend| database::open(backend, id));
                let _ = done.send(opened);
            }))
            .await;
        let (database, mut content) = opened.await.map_err(|_| internal("opening the log was abandoned"))??;

        let writer = Writer::start(database, seams.blocking.clone());
        let machine = Machine::new(content.snapshot.take(), writer.clone())?;
        let store = LogStore::new(content, writer.clone());
        let raft =
            Raft::new(id.0, settings, Network { me: id, link }, store, machine.clone()).await.map_err(internal)?;
        let limit = Duration::from_millis(timing.call_timeout_ms);
        let node = Self { inner: Arc::new(Inner { id, raft, machine, writer, limit }) };
        // The only voter need not wait for others to stand first.
        if node.membership().0 == BTreeSet::from([id]) {
            node.inner.raft.trigger().elect(false).await.map_err(internal)?;
        }
        Ok(node)
    }

    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// Whether the log has anything in it.
    pub async fn is_initialized(&self) -> Result<bool> {
        self.inner.raft.is_initialized().await.map_err(internal)
    }

    /// Founds the log with these voters. The founder alone does it, once.
    pub async fn initialize(&self, voters: BTreeMap<NodeId, String>) -> Result<()> {
        let voters: BTreeMap<u64, BasicNode> =
            voters.into_iter().map(|(id, addr)| (id.0, BasicNode { addr })).collect();
        self.inner.raft.initialize(voters).await.map_err(internal)
    }

    /// Commits a command, on the leader. `Outcome::Refused` is an `Ok`: the command was committed and changed nothing.
    pub async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        wire::encode(&command, FORWARD_BYTES_MAX).map_err(ProposeError::Failed)?;
        match timeout(self.inner.limit, self.inner.raft.client_write(command)).await {
            Err(_) => Err(ProposeError::Failed(outcome_unknown("no majority has answered in time"))),
            Ok(Ok(written)) => Ok(written.data),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => Err(self.forward(&to)),
            Ok(Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)))) => {
                Err(ProposeError::Failed(outcome_unknown("another leader has taken over")))
            }
            Ok(Err(e)) => Err(ProposeError::Failed(stopped(e))),
        }
    }

    /// Answers one call of a peer's [`RaftLink`]. The peer must have been checked against the membership.
    pub async fn serve(&self, request: &[u8]) -> Result<Vec<u8>> {
        timeout(SERVE_TIME_MAX, network::serve(&self.inner.raft, request))
            .await
            .unwrap_or_else(|_| Err(MeshError::new(ErrorCode::Deadline, "a raft call took too long here")))
    }

    /// Wakes at every change of the state.
    pub fn watch(&self) -> watch::Receiver<Arc<ControlState>> {
        self.inner.machine.watch()
    }

    /// The state as far as this node has applied it.
    pub fn state(&self) -> Arc<ControlState> {
        self.inner.machine.watch().borrow().clone()
    }

    /// Leader, as far as this node knows, and the term.
    pub fn leader(&self) -> (Option<NodeId>, u64) {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.current_leader.map(NodeId), metrics.current_term)
    }

    pub fn is_leader(&self) -> bool {
        self.leader().0 == Some(self.inner.id)
    }

    /// Waits until this node knows of a leader. GL4007 after `limit`.
    pub async fn wait_leader(&self, limit: Duration) -> Result<NodeId> {
        let known =
            self.inner.raft.wait(Some(limit)).metrics(|m| m.current_leader.is_some(), "a leader is known").await;
        let leader = known.map_err(|_| no_leader("no leader is known"))?.current_leader;
        leader.map(NodeId).ok_or_else(|| no_leader("no leader is known"))
    }

    /// Returns once this node is sure to lead and has applied everything committed before the call.
    pub async fn ensure_linearizable(&self) -> Result<()> {
        let sure = timeout(self.inner.limit, self.inner.raft.ensure_linearizable(ReadPolicy::ReadIndex)).await;
        match sure {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::Fatal(e))) => Err(stopped(e)),
            Ok(Err(_)) | Err(_) => Err(no_leader("this node is not sure to lead")),
        }
    }

    /// On the leader: the log index that a node must have applied to have seen everything committed before the call.
    pub async fn read_index(&self) -> Result<u64, ProposeError> {
        let read = timeout(self.inner.limit, self.inner.raft.get_read_log_id(ReadPolicy::ReadIndex)).await;
        match read {
            Ok(Ok((read, _))) => Ok(read.index()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to)))) => Err(self.forward(&to)),
            Ok(Err(RaftError::APIError(_))) | Err(_) => {
                Err(ProposeError::Failed(no_leader("no majority has answered in time")))
            }
            Ok(Err(e)) => Err(ProposeError::Failed(stopped(e))),
        }
    }

    /// Waits until this node has applied the log up to `index`. GL4007 after `limit`.
    pub async fn wait_applied(&self, index: u64, limit: Duration) -> Result<()> {
        let wait = self.inner.raft.wait(Some(limit));
        match wait.applied_index_at_least(Some(index), "applied").await {
            Ok(_) => Ok(()),
            Err(_) => Err(no_leader(format!("the log has not come up to entry {index} here in time"))),
        }
    }

    /// Adds a node that receives the log and does not vote. Returns when that is committed, before the node has caught
    /// up. Adding a node again changes nothing.
    pub async fn add_learner(&self, id: NodeId, address: String) -> Result<()> {
        let (voters, learners) = self.membership();
        if voters.contains(&id) || learners.contains(&id) {
            return Ok(());
        }
        let adding = self.inner.raft.add_learner(id.0, BasicNode { addr: address }, false);
        self.changed(timeout(self.inner.limit, adding).await.map(|added| added.map(drop)))
    }

    /// Makes these the voters; those who were and are not any more stay as learners.
    pub async fn change_voters(&self, voters: BTreeSet<NodeId>) -> Result<()> {
        let voters: BTreeSet<u64> = voters.into_iter().map(|id| id.0).collect();
        self.change(ChangeMembers::ReplaceAllVoters(voters), true).await
    }

    /// Takes a node out of the log's membership, voter or learner.
    pub async fn remove(&self, id: NodeId) -> Result<()> {
        let one = BTreeSet::from([id.0]);
        let (voters, learners) = self.membership();
        if voters.contains(&id) {
            // Without `retain`, a voter leaves the membership together with its vote.
            return self.change(ChangeMembers::RemoveVoters(one), false).await;
        }
        if learners.contains(&id) {
            return self.change(ChangeMembers::RemoveNodes(one), false).await;
        }
        Ok(())
    }

    async fn change(&self, change: ChangeMembers<u64, BasicNode>, retain: bool) -> Result<()> {
        let changing = self.inner.raft.change_membership(change, retain);
        self.changed(timeout(self.inner.limit, changing).await.map(|changed| changed.map(drop)))
    }

    fn changed(
        &self,
        result: Result<Result<(), RaftError<TypeConfig, ClientWriteError<TypeConfig>>>, tokio::time::error::Elapsed>,
    ) -> Result<()> {
        match result {
            Ok(Ok(())) => Ok(()),
            Err(_) => Err(outcome_unknown("no majority has answered in time")),
            Ok(Err(RaftError::Fatal(e))) => Err(stopped(e)),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Err(no_leader("this node does not lead any more"))
            }
            Ok(Err(RaftError::APIError(e))) => {
                Err(MeshError::new(ErrorCode::ProposalRefused, format!("the log's membership was not changed: {e}")))
            }
        }
    }

    /// Voters and learners of the log, as last known here.
    pub fn membership(&self) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        (membership.voter_ids().map(NodeId).collect(), membership.learner_ids().map(NodeId).collect())
    }

    /// Addresses that the members were added with. The replicated state has the newer ones.
    pub fn addresses(&self) -> BTreeMap<NodeId, String> {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.nodes().map(|(id, node)| (NodeId(*id), node.addr.clone())).collect()
    }

    /// If this node leads, hands over to the voter that is furthest, and waits a moment for it to lead.
    pub async fn transfer_leadership(&self) {
        let furthest = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            let voters: BTreeSet<u64> = metrics.membership_config.membership().voter_ids().collect();
            let others = metrics.replication.iter().flatten();
            let others = others.filter(|(id, _)| **id != self.inner.id.0 && voters.contains(*id));
            // The furthest; of several, the one with the smallest id.
            others.max_by_key(|(id, matched)| (**matched, std::cmp::Reverse(**id))).map(|(id, _)| *id)
        };
        let Some(to) = furthest else { return };
        if self.inner.raft.trigger().transfer_leader(to).await.is_ok() {
            let me = self.inner.id.0;
            let gone = |m: &openraft::RaftMetrics<TypeConfig>| m.current_leader.is_some_and(|leader| leader != me);
            let _ = self.inner.raft.wait(Some(self.inner.limit)).metrics(gone, "another node leads").await;
        }
    }

    /// Resolves once this node's Raft has stopped, with the reason: a disk that failed, or a shutdown. Nothing is
    /// applied, committed or answered here after that.
    pub async fn stopped(&self) -> MeshError {
        let mut metrics = self.inner.raft.metrics();
        loop {
            if let Err(e) = &metrics.borrow_watched().running_state {
                return stopped(e);
            }
            if metrics.changed().await.is_err() {
                return stopped("it was dropped");
            }
        }
    }

    /// Stops, syncs and closes the log; its file can be opened again.
    pub async fn shutdown(&self) {
        if let Err(e) = self.inner.raft.shutdown().await {
            tracing::warn!(error = %e, "raft did not stop cleanly");
        }
        self.inner.writer.close().await;
    }

    fn forward(&self, to: &ForwardToLeader<TypeConfig>) -> ProposeError {
        ProposeError::Forward(to.leader_id.map(NodeId).filter(|leader| *leader != self.inner.id))
    }
}

fn internal(e: impl Display) -> MeshError {
    MeshError::internal(format!("raft: {e}"))
}

fn stopped(e: impl Display) -> MeshError {
    MeshError::new(ErrorCode::ShuttingDown, format!("raft has stopped here: {e}"))
}

fn no_leader(message: impl Into<String>) -> MeshError {
    MeshError::new(ErrorCode::NoLeader, message)
}

fn outcome_unknown(why: &str) -> MeshError {
    no_leader(format!("{why}; the change may still be made"))
}
