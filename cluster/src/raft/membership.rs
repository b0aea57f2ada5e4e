//! Who receives the log and who votes on it. The leader alone changes this, one change at a time.

use std::collections::{BTreeMap, BTreeSet};

use greylag_protocol::{ErrorCode, MeshError, NodeId, Result, state::MemberStatus};
use openraft::{
    BasicNode, ChangeMembers, RaftMetrics,
    async_runtime::WatchReceiver,
    errors::{ClientWriteError, RaftError},
};
use tokio::time::timeout;

use super::{
    RaftNode,
    duties::LogMembership,
    node::{no_leader, outcome_unknown, stopped},
    types::{LogId, TypeConfig},
};

/// A learner this near to the end of the log has caught up.
const CAUGHT_UP_ENTRIES: u64 = 64;

impl RaftNode {
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
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        (membership.voter_ids().map(NodeId).collect(), membership.learner_ids().map(NodeId).collect())
    }

    /// The same with what the leader alone knows: how far the others are.
    pub(super) fn log_membership(&self) -> LogMembership {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let numbered = |ids: &BTreeSet<u64>| ids.iter().copied().map(NodeId).collect();
        let unfinished = match membership.get_joint_config().as_slice() {
            [_, .., last] => Some(numbered(last)),
            _ => None,
        };
        let last = metrics.last_log_index.unwrap_or(0);
        let near = |matched: &Option<LogId>| matched.is_some_and(|id| id.index + CAUGHT_UP_ENTRIES >= last);
        let matched = metrics.replication.iter().flatten();
        LogMembership {
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            unfinished,
            caught_up: matched.filter(|(_, matched)| near(matched)).map(|(id, _)| NodeId(*id)).collect(),
        }
    }

    /// Addresses that the members were added with. The replicated state has the newer ones.
    pub fn addresses(&self) -> BTreeMap<NodeId, String> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.nodes().map(|(id, node)| (NodeId(*id), node.addr.clone())).collect()
    }

    /// If this node leads, hands over to the voter that is up and furthest, and waits a moment for it to lead.
    pub async fn transfer_leadership(&self) {
        let state = self.state();
        let up = |id: u64| state.member(NodeId(id)).is_none_or(|m| m.status == MemberStatus::Up);
        let furthest = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            let voters: BTreeSet<u64> = metrics.membership_config.membership().voter_ids().collect();
            let others = metrics.replication.iter().flatten();
            let others = others.filter(|(id, _)| **id != self.inner.id.0 && voters.contains(*id) && up(**id));
            // The furthest; of several, the one with the smallest id.
            others.max_by_key(|(id, matched)| (**matched, std::cmp::Reverse(**id))).map(|(id, _)| *id)
        };
        let Some(to) = furthest else { return };
        if self.inner.raft.trigger().transfer_leader(to).await.is_ok() {
            let me = self.inner.id.0;
            let gone = |m: &RaftMetrics<TypeConfig>| m.current_leader.is_some_and(|leader| leader != me);
            let _ = self.inner.raft.wait(Some(self.inner.limit)).metrics(gone, "another node leads").await;
        }
    }
}
