//! One node's part in the replicated log. Cloning is cheap.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use greylag_config::Timing;
use greylag_protocol::{
    MeshError, NodeId, Result,
    state::{Command, ControlState, Outcome},
};
use tokio::sync::watch;

use super::RaftLink;
use crate::seams::Seams;

/// Why a proposal was not committed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProposeError {
    /// This node does not lead and nothing was written: ask the node named, or look again where none is.
    Forward(Option<NodeId>),
    /// It failed, or its outcome is not known (GL4007): every command may be proposed again.
    Failed(MeshError),
}

#[derive(Clone)]
pub struct RaftNode {}

impl RaftNode {
    /// Opens the log in `raft.redb` and starts the node's part in Raft. It does nothing until it is initialised, or a
    /// leader has added it.
    pub async fn open(
        _id: NodeId,
        _seams: &Seams,
        _timing: &Timing,
        _mesh_name: &str,
        _link: Arc<dyn RaftLink>,
    ) -> Result<Self> {
        todo!()
    }
    /// Whether the log has anything in it.
    pub async fn is_initialized(&self) -> Result<bool> {
        todo!()
    }
    /// Founds the log with these voters. The founder alone does it, once.
    pub async fn initialize(&self, _voters: BTreeMap<NodeId, String>) -> Result<()> {
        todo!()
    }
    /// Commits a command, on the leader. `Outcome::Refused` is an `Ok`: the command was committed and changed nothing.
    pub async fn propose(&self, _command: Command) -> Result<Outcome, ProposeError> {
        todo!()
    }
    /// Answers one call of a peer's [`RaftLink`]. The peer must have been checked against the membership.
    pub async fn serve(&self, _request: &[u8]) -> Result<Vec<u8>> {
        todo!()
    }
    /// Wakes at every change of the state.
    pub fn watch(&self) -> watch::Receiver<Arc<ControlState>> {
        todo!()
    }
    /// The state as far as this node has applied it.
    pub fn state(&self) -> Arc<ControlState> {
        todo!()
    }
    /// Leader, as far as this node knows, and the term.
    pub fn leader(&self) -> (Option<NodeId>, u64) {
        todo!()
    }
    pub fn is_leader(&self) -> bool {
        todo!()
    }
    /// Waits until this node knows of a leader. GL4007 after `limit`.
    pub async fn wait_leader(&self, _limit: Duration) -> Result<NodeId> {
        todo!()
    }
    /// Returns once this node is sure to lead and has applied everything committed before the call.
    pub async fn ensure_linearizable(&self) -> Result<()> {
        todo!()
    }
    /// On the leader: the log index that a node must have applied to have seen everything committed before the call.
    pub async fn read_index(&self) -> Result<u64, ProposeError> {
        todo!()
    }
    /// Waits until this node has applied the log up to `index`. GL4007 after `limit`.
    pub async fn wait_applied(&self, _index: u64, _limit: Duration) -> Result<()> {
        todo!()
    }
    /// Adds a node that receives the log and does not vote. Returns when that is committed, before the node has caught
    /// up. Adding a node again changes nothing.
    pub async fn add_learner(&self, _id: NodeId, _address: String) -> Result<()> {
        todo!()
    }
    /// Makes these the voters; those who were and are not any more stay as learners.
    pub async fn change_voters(&self, _voters: BTreeSet<NodeId>) -> Result<()> {
        todo!()
    }
    /// Takes a node out of the log's membership, voter or learner.
    pub async fn remove(&self, _id: NodeId) -> Result<()> {
        todo!()
    }
    /// Voters and learners of the log, as last known here.
    pub fn membership(&self) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
        todo!()
    }
    /// Addresses that the members were added with. The replicated state has the newer ones.
    pub fn addresses(&self) -> BTreeMap<NodeId, String> {
        todo!()
    }
    /// If this node leads, hands over to the voter that is furthest, and waits a moment for it to lead.
    pub async fn transfer_leadership(&self) {
        todo!()
    }
    /// Stops, syncs and closes the log; its file can be opened again.
    pub async fn shutdown(&self) {
        todo!()
    }
}
