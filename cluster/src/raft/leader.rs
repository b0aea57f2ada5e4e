//! What the leader does about the mesh: notices who is gone and who is back, brings members into the log, keeps enough
//! voters, and has roles placed. Every node runs it; it acts only while the node leads. It decides nothing: that is
//! `duties`.

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use greylag_config::Timing;
use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    state::{Command, MemberStatus, Outcome},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    ProposeError, RaftNode,
    contacts::Contacts,
    duties::{Duty, Sight, duties},
};
use crate::{mesh::LinkState, seams::Clock};

/// Least time between two rounds of duties.
const ROUND_TIME_MIN: Duration = Duration::from_millis(10);
/// After a failed round: first this long, doubling up to the maximum.
const RETRY_TIME_MIN: Duration = Duration::from_millis(50);
const RETRY_TIME_MAX: Duration = Duration::from_secs(2);

/// Runs until the node's Raft has stopped. Dropping the future stops it at once, which is safe at any point.
pub async fn lead(
    raft: RaftNode,
    links: watch::Receiver<BTreeMap<NodeId, LinkState>>,
    clock: Arc<dyn Clock>,
    timing: Timing,
) {
    let leader = Leader {
        contacts: Contacts::new(Duration::from_millis(2 * timing.idle_timeout_ms)),
        tick: Duration::from_millis(timing.heartbeat_ms),
        voter_grace: Duration::from_millis(timing.voter_grace_ms),
        drain_grace_ms: timing.drain_grace_ms,
        start: Instant::now(),
        sure_of_term: None,
        raft: raft.clone(),
        links,
        clock,
    };
    tokio::select! {
        _ = raft.stopped() => {}
        () = leader.run() => {}
    }
}

struct Leader {
    raft: RaftNode,
    links: watch::Receiver<BTreeMap<NodeId, LinkState>>,
    clock: Arc<dyn Clock>,
    contacts: Contacts,
    /// Things that nobody tells of, such as a learner that has caught up, are looked for this often.
    tick: Duration,
    /// A voter out of contact for this long gives its seat to another.
    voter_grace: Duration,
    drain_grace_ms: u64,
    start: Instant,
    /// The term in which this node has made sure that it leads.
    sure_of_term: Option<u64>,
}

impl Leader {
    async fn run(mut self) {
        let mut state = self.raft.watch();
        let mut retry = RETRY_TIME_MIN;
        loop {
            let pause = match self.round().await {
                Ok(false) => None,
                Ok(true) => Some(ROUND_TIME_MIN),
                // Somebody else was first: look again.
                Err(e) if e.code == ErrorCode::VersionConflict => Some(ROUND_TIME_MIN),
                Err(e) => {
                    tracing::info!(error = %e, "a leader's duty failed and will be tried again");
                    retry = (retry * 2).min(RETRY_TIME_MAX);
                    Some(retry / 2)
                }
            };
            if let Some(pause) = pause {
                self.meanwhile(sleep(pause)).await;
                continue;
            }
            retry = RETRY_TIME_MIN;
            let now = self.start.elapsed();
            let wake = self.contacts.next_gone(now).map_or(self.tick, |at| (at - now).min(self.tick));
            tokio::select! {
                biased;
                changed = state.changed() => if changed.is_err() { return },
                () = linked(&mut self.links) => {}
                () = sleep(wake) => {}
            }
        }
    }

    /// Waits for `work` and keeps an eye on the links: a grace runs from the loss, not from the next round.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = linked(&mut self.links) => self.observe(),
            }
        }
    }

    fn observe(&mut self) {
        let (state, me) = (self.raft.state(), self.raft.id());
        let others = state.members.keys().copied().filter(|node| *node != me);
        self.contacts.observe(others, &self.links.borrow_and_update(), self.start.elapsed());
    }

    /// Does what is due. `true` if there was anything.
    async fn round(&mut self) -> Result<bool> {
        self.observe();
        let (leader, term) = self.raft.leader();
        if leader != Some(self.raft.id()) {
            self.sure_of_term = None;
            return Ok(false);
        }
        let raft = self.raft.clone();
        if self.sure_of_term != Some(term) {
            // Also what makes the first change of the log's membership possible: openraft answers `InProgress` until
            // the entry that made this node leader is committed.
            self.meanwhile(async move { raft.ensure_linearizable().await }).await?;
            self.sure_of_term = Some(term);
            return Ok(true);
        }
        let due = self.due();
        let any = !due.is_empty();
        self.meanwhile(async move {
            for duty in due {
                perform(&raft, duty).await?;
            }
            Ok(any)
        })
        .await
    }

    fn due(&self) -> Vec<Duty> {
        let now = self.start.elapsed();
        let sight = Sight {
            me: self.raft.id(),
            state: &self.raft.state(),
            log: &self.raft.log_membership(),
            connected: &self.contacts.connected(),
            gone: &self.contacts.gone(now),
            lost: &self.contacts.lost(now, self.voter_grace),
            now_unix_ms: self.clock.unix_ms(),
            drain_grace_ms: self.drain_grace_ms,
            disk_refuses: self.raft.disk().is_refusing(),
        };
        duties(&sight)
    }
}

async fn perform(raft: &RaftNode, duty: Duty) -> Result<()> {
    match duty {
        Duty::Propose(command) => propose(raft, command).await,
        Duty::AddLearner { node, address } => {
            tracing::info!(%node, "a member joins the log");
            raft.add_learner(node, address).await
        }
        Duty::ChangeVoters(voters) => {
            tracing::info!(?voters, "the voters change");
            raft.change_voters(voters).await
        }
        Duty::RemoveFromLog(node) => {
            tracing::info!(%node, "a removed member leaves the log");
            raft.remove(node).await
        }
        Duty::HandOver => {
            tracing::info!("another voter is to lead");
            raft.transfer_leadership().await;
            Ok(())
        }
    }
}

async fn propose(raft: &RaftNode, command: Command) -> Result<()> {
    match &command {
        Command::SetStatus { node, to: MemberStatus::Down, .. } => tracing::warn!(%node, "a member is lost"),
        Command::SetStatus { node, .. } => tracing::info!(%node, "a member is back"),
        _ => {}
    }
    match raft.propose(command).await {
        Ok(Outcome::Refused(e)) | Err(ProposeError::Failed(e)) => Err(e),
        Ok(_) => Ok(()),
        Err(ProposeError::Forward(_)) => Err(MeshError::new(ErrorCode::NoLeader, "this node does not lead any more")),
    }
}

/// Resolves at the next change of the links; never, once nobody reports them any more.
async fn linked(links: &mut watch::Receiver<BTreeMap<NodeId, LinkState>>) {
    if links.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
