//! Asking the leader, whoever that is at the moment: here if this node leads, else over a `Forward` stream.
//!
//! INVARIANT: a request is given up only when its time has passed or when it can never succeed.

use std::{sync::Arc, time::Duration};

use greylag_protocol::{
    ErrorClass, ErrorCode, MeshError, NodeId, Result,
    messages::forward::{ForwardBody, ForwardReply},
    state::{Command, ControlState, Outcome},
};
use tokio::time::Instant;

use crate::{
    raft::{ProposeError, RaftNode},
    transport::{Backoff, ForwardError, Switchboard, forward},
};

/// Pauses between two tries, while there is no leader or it does not answer.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(10);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(250);

#[derive(Clone)]
pub(crate) struct Proposer {
    pub me: NodeId,
    pub raft: RaftNode,
    pub board: Arc<Switchboard>,
    /// Longest that a call may take, with all its tries.
    pub limit: Duration,
    pub seed: u64,
}

/// How one try has failed.
enum Failure {
    /// Nothing was written.
    NotMade(MeshError),
    /// It may have been made, or may still be.
    Unknown(MeshError),
}

impl Proposer {
    pub(crate) fn state(&self) -> Arc<ControlState> {
        self.raft.state()
    }

    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome> {
        match self.ask_leader(ForwardBody::Propose(Box::new(command))).await? {
            ForwardReply::Committed(Outcome::Refused(error)) => Err(error),
            ForwardReply::Committed(outcome) => Ok(outcome),
            _ => Err(MeshError::internal("the leader has answered something else")),
        }
    }

    /// Waits until this node has applied everything committed before the call.
    pub(crate) async fn catch_up(&self) -> Result<()> {
        match self.ask_leader(ForwardBody::ReadIndex).await? {
            ForwardReply::ReadIndex(index) => self.raft.wait_applied(index, self.limit).await,
            _ => Err(MeshError::internal("the leader has answered something else")),
        }
    }

    async fn ask_leader(&self, body: ForwardBody) -> Result<ForwardReply> {
        let deadline = Instant::now() + self.limit;
        let mut backoff = Backoff::new(RETRY_PAUSE_MIN, RETRY_PAUSE_MAX, self.seed);
        let (mut hint, mut maybe_made) = (None, false);
        let mut last = MeshError::new(ErrorCode::NoLeader, "no leader is known");
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            let asked = hint.take().or_else(|| self.raft.leader().0);
            let tried = match asked {
                Some(leader) => self.ask(leader, body.clone(), left).await,
                None => Ok(ForwardReply::NotLeader(None)),
            };
            match tried {
                Ok(ForwardReply::NotLeader(next)) => hint = next.filter(|next| Some(*next) != asked),
                Ok(ForwardReply::Failed(error)) => {
                    maybe_made |= error.code == ErrorCode::NoLeader;
                    if error.class() == ErrorClass::Permanent {
                        return Err(error);
                    }
                    last = error;
                }
                Ok(reply) => return Ok(reply),
                Err(Failure::NotMade(error)) if error.class() == ErrorClass::Permanent => return Err(error),
                Err(Failure::NotMade(error)) => last = error,
                Err(Failure::Unknown(error)) => {
                    maybe_made = true;
                    last = error;
                }
            }
            if hint.is_none() {
                tokio::time::sleep(backoff.pause().min(left)).await;
            }
        }
        let may = if maybe_made { "; the change may have been made, or may still be" } else { "" };
        let message = format!("no leader has answered within {} ms: {}{may}", self.limit.as_millis(), last.message);
        Err(MeshError::new(ErrorCode::NoLeader, message).at_node(self.me))
    }

    async fn ask(&self, leader: NodeId, body: ForwardBody, left: Duration) -> Result<ForwardReply, Failure> {
        if leader == self.me {
            return tokio::time::timeout(left, self.lead(body)).await.unwrap_or_else(|_| {
                Err(Failure::Unknown(MeshError::new(ErrorCode::NoLeader, "no majority has answered in time")))
            });
        }
        let connection = self.board.connection(leader).map_err(|error| Failure::NotMade(error.at_node(leader)))?;
        forward(&connection, body, left).await.map_err(|error| match error {
            ForwardError::NotSent(error) => Failure::NotMade(error.at_node(leader)),
            ForwardError::Unknown(error) => Failure::Unknown(error.at_node(leader)),
        })
    }

    async fn lead(&self, body: ForwardBody) -> Result<ForwardReply, Failure> {
        let led = match body {
            ForwardBody::Propose(command) => self.raft.propose(*command).await.map(ForwardReply::Committed),
            ForwardBody::ReadIndex => self.raft.read_index().await.map(ForwardReply::ReadIndex),
        };
        match led {
            Ok(reply) => Ok(reply),
            Err(ProposeError::Forward(to)) => Ok(ForwardReply::NotLeader(to)),
            Err(ProposeError::Failed(error)) => Ok(ForwardReply::Failed(error)),
        }
    }
}
