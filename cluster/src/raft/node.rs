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
    BasicNode, Raft, RaftMetrics, ReadPolicy,
    async_runtime::WatchReceiver,
    errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError},
};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use super::{
    RaftLink, database,
    log::LogStore,
    machine::Machine,
    network,
    network::Network,
    settings::settings,
    types::TypeConfig,
    writer::{Place, Writer},
};
use crate::{health::DiskWatch, seams::Seams};

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
    watch: Arc<DiskWatch>,
    /// Longest any call may take.
    pub limit: Duration,
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
                let _ = done.send(database::open(disk.as_ref(), FILE, id));
            }))
            .await;
        let (database, mut content) = opened.await.map_err(|_| internal("opening the log was abandoned"))??;

        let watch = DiskWatch::new(Duration::from_millis(timing.slow_disk_ms));
        let (disk, blocking) = (seams.disk.clone(), seams.blocking.clone());
        let writer = Writer::start(database, Place { disk, name: FILE, blocking, watch: watch.clone() });
        let machine = Machine::new(content.snapshot.take(), writer.clone())?;
        let store = LogStore::new(content, writer.clone());
        let raft =
            Raft::new(id.0, settings, Network { me: id, link }, store, machine.clone()).await.map_err(internal)?;
        let limit = Duration::from_millis(timing.call_timeout_ms);
        let node = Self { inner: Arc::new(Inner { id, raft, machine, writer, watch, limit }) };
        node.settle().await?;
        Ok(node)
    }

    /// Waits until what this handle reports is what the log says, and stands for election at once where nobody else can.
    async fn settle(&self) -> Result<()> {
        let raft = &self.inner.raft;
        let membership = raft.with_raft_state(|state| state.membership_state.effective().clone()).await;
        let membership = membership.map_err(internal)?;
        let reported = |m: &RaftMetrics<TypeConfig>| m.membership_config == membership;
        raft.wait(Some(self.inner.limit)).metrics(reported, "the log's membership").await.map_err(internal)?;
        if self.membership().0 == BTreeSet::from([self.inner.id]) {
            raft.trigger().elect(false).await.map_err(internal)?;
            self.wait_leader(self.inner.limit).await?;
        }
        Ok(())
    }

    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// How the disk does that the log is on.
    pub(crate) fn disk(&self) -> &Arc<DiskWatch> {
        &self.inner.watch
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
        (leader_in(&metrics), metrics.current_term)
    }

    pub fn is_leader(&self) -> bool {
        self.leader().0 == Some(self.inner.id)
    }

    /// Waits until this node knows of a leader. GL4007 after `limit`.
    pub async fn wait_leader(&self, limit: Duration) -> Result<NodeId> {
        let known = self.inner.raft.wait(Some(limit)).metrics(|m| leader_in(m).is_some(), "a leader is known").await;
        known.ok().and_then(|metrics| leader_in(&metrics)).ok_or_else(|| no_leader("no leader is known"))
    }

    /// Returns once this node is sure to lead and has applied everything committed before the call.
    pub async fn ensure_linearizable(&self) -> Result<()> {
        let sure = timeout(self.inner.limit, self.inner.raft.ensure_linearizable(ReadPolicy::ReadIndex)).await;
        match sure {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::Fatal(e))) => Err(stopped(e)),
            Ok(Err(e)) => Err(no_leader(format!("this node is not sure to lead: {e}"))),
            Err(_) => Err(no_leader("this node is not sure to lead: no majority has answered in time")),
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

/// The vote on disk names this node as leader still after it has restarted, when it does not lead any more.
fn leader_in(metrics: &RaftMetrics<TypeConfig>) -> Option<NodeId> {
    metrics.current_leader.filter(|leader| *leader != metrics.id || metrics.state.is_leader()).map(NodeId)
}

fn internal(e: impl Display) -> MeshError {
    MeshError::internal(format!("raft: {e}"))
}

pub(super) fn stopped(e: impl Display) -> MeshError {
    MeshError::new(ErrorCode::ShuttingDown, format!("raft has stopped here: {e}"))
}

pub(super) fn no_leader(message: impl Into<String>) -> MeshError {
    MeshError::new(ErrorCode::NoLeader, message)
}

pub(super) fn outcome_unknown(why: &str) -> MeshError {
    no_leader(format!("{why}; the change may still be made"))
}
