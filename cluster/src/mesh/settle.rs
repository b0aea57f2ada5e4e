//! From having a certificate to taking part: the founder begins the log, everybody else waits for it, and a node that
//! was a member before goes on from what it knew.

use std::{collections::BTreeMap, time::Duration};

use greylag_protocol::{ErrorCode, MeshError, NodeId, Result, messages::join::Candidate, state::Command};
use tokio::time::Instant;

use super::{LinkState, Proposer};
use crate::{
    formation::FoundingDesk,
    raft::RaftNode,
    transport::{Links, REMOVED},
};

/// Between two looks at what peers say of this node, and two tries of what must succeed in the end.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(3);

/// Waits for every founding member to have stored its enrolment, which it shows by its link, and begins the log.
pub(super) async fn begin(desk: &FoundingDesk, raft: &RaftNode, links: &Links, proposer: &Proposer) -> Result<()> {
    if !raft.is_initialized().await? {
        let mut states = links.watch();
        loop {
            let all_linked = |states: &BTreeMap<_, _>| states.values().all(|state| *state == LinkState::Connected);
            let linked = async { states.wait_for(all_linked).await.is_ok() };
            match tokio::time::timeout(PROGRESS, linked).await {
                Ok(true) => break,
                Ok(false) => return Err(MeshError::internal("the links are gone")),
                Err(_) => {
                    let states = links.watch().borrow().clone();
                    let missing: Vec<String> = desk
                        .members()
                        .await
                        .into_iter()
                        .filter(|member| states.get(&member.id) == Some(&LinkState::Lost))
                        .map(|member| member.candidate.name)
                        .collect();
                    tracing::info!(?missing, "waiting for founding members");
                }
            }
        }
        let members = desk.members().await.into_iter().filter(|member| member.voter);
        raft.initialize(members.map(|member| (member.id, member.candidate.address)).collect()).await?;
    }
    let form = desk.form_command().await?;
    while raft.state().mesh.is_none() {
        if let Err(error) = proposer.propose(form.clone()).await {
            tracing::warn!(%error, "the mesh could not be formed yet");
            if !error.is_retryable() {
                return Err(error);
            }
        }
        // Another node may lead: then the command comes back with the log.
        let formed = async { raft.watch().wait_for(|state| state.mesh.is_some()).await.is_ok() };
        let _ = tokio::time::timeout(RETRY_PAUSE, formed).await;
    }
    Ok(())
}

/// Waits until the log has named this node, and, as far as a leader can be reached, until it is up to date.
pub(super) async fn take_part(proposer: &Proposer, links: &Links, mesh_name: &str, returns: bool) -> Result<()> {
    let taking_part = async {
        named(proposer, mesh_name).await?;
        caught_up(proposer, returns).await
    };
    tokio::select! {
        part = taking_part => part,
        () = told_removed(proposer, links) => Err(removed(proposer.me)),
    }
}

/// Resolves when the log, or a peer, says that this node has been taken out of the membership. (Peers cut a removed
/// node off at once, so that it may never see the entry that removes it.)
pub(super) async fn told_removed(proposer: &Proposer, links: &Links) {
    let told = || links.refused_with(ErrorCode::NotAMember).is_some_and(|error| error.message == REMOVED);
    while !told() && !proposer.state().removed.contains(&proposer.me) {
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Waits until the log has named this node a member.
async fn named(proposer: &Proposer, mesh_name: &str) -> Result<()> {
    let me = proposer.me;
    let mut changes = proposer.raft.watch();
    let mut reported = Instant::now();
    loop {
        let state = changes.borrow_and_update().clone();
        if let Some(facts) = state.mesh.as_ref().filter(|facts| facts.name != mesh_name) {
            let message = format!("the data directory belongs to mesh `{}`, not to `{mesh_name}`", facts.name);
            return Err(MeshError::new(ErrorCode::FormationMismatch, message));
        }
        if state.members.contains_key(&me) {
            return Ok(());
        }
        if reported.elapsed() >= PROGRESS {
            reported = Instant::now();
            tracing::info!(node = %me, "waiting for the mesh to begin, or for its log");
        }
        if let Ok(Err(_)) = tokio::time::timeout(PROGRESS, changes.changed()).await {
            return Err(MeshError::new(ErrorCode::ShuttingDown, "the log is closed"));
        }
    }
}

/// Waits until this node has applied what the leader had committed. A node that was a member before goes on without,
/// when no leader can be reached.
async fn caught_up(proposer: &Proposer, returns: bool) -> Result<()> {
    loop {
        match proposer.catch_up().await {
            Ok(()) => return Ok(()),
            Err(error) if returns => {
                tracing::warn!(%error, "no leader can be reached: the node goes on with what it knew");
                return Ok(());
            }
            Err(error) => tracing::warn!(%error, "the log cannot be caught up with yet"),
        }
    }
}

pub(super) fn removed(me: NodeId) -> MeshError {
    MeshError::new(ErrorCode::NotAMember, REMOVED).at_node(me)
}

/// If the configuration says something else of this node than the mesh knows, tells the mesh, as soon as it can be told.
pub(super) async fn describe(proposer: Proposer, own: Candidate) {
    let Candidate { uuid, name, address, labels, door, outbound_only, .. } = own;
    loop {
        let state = proposer.state();
        let Some(known) = state.member(proposer.me) else { return };
        // Where the system chooses the door's port, whoever opens it says where it is.
        let door = door.clone().or_else(|| known.door.clone());
        let same = known.name == name
            && known.address == address
            && known.door == door
            && known.labels == labels
            && known.outbound_only == outbound_only;
        if same {
            return;
        }
        let (node, name, address, labels) = (known.id, name.clone(), address.clone(), labels.clone());
        let command = Command::Describe { node, uuid, name, address, door, labels, outbound_only };
        match proposer.propose(command).await {
            Ok(_) => return,
            Err(error) if !error.is_retryable() => {
                tracing::warn!(%error, "the mesh does not accept this node's description");
                return;
            }
            Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
}
