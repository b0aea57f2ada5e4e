//! The log as quotas see it: the state as far as this node has it, and commands that are answered or not.

use async_trait::async_trait;
use greylag_cluster::Mesh;
use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    state::{Command, ControlState, Outcome, QuotaCommand, QuotaOutcome},
};
use std::sync::Arc;
use tokio::sync::oneshot;

use super::incarnation_in;

/// File in the data directory with the last incarnation that this node has had.
const INCARNATION_FILE: &str = "quota.incarnation";

#[async_trait]
pub(crate) trait QuotaLog: Send + Sync + 'static {
    fn node(&self) -> NodeId;
    fn state(&self) -> Arc<ControlState>;
    /// Wall clock.
    fn unix_ms(&self) -> u64;
    /// Commits a command. After an error it may have been made, or may still be.
    async fn propose(&self, command: QuotaCommand) -> Result<QuotaOutcome>;
    /// A number greater than any that this was ever called with the answer of, in this process or an earlier one of the
    /// node.
    async fn incarnation(&self) -> Result<u64>;
}

/// In production.
pub(crate) struct MeshLog(pub Mesh);

#[async_trait]
impl QuotaLog for MeshLog {
    fn node(&self) -> NodeId {
        self.0.node()
    }

    fn state(&self) -> Arc<ControlState> {
        self.0.state()
    }

    fn unix_ms(&self) -> u64 {
        self.0.seams().clock.unix_ms()
    }

    async fn propose(&self, command: QuotaCommand) -> Result<QuotaOutcome> {
        match self.0.propose(Command::Quota(command)).await? {
            Outcome::Quota(outcome) => Ok(outcome),
            _ => Err(MeshError::internal("a command about quotas was answered with something else")),
        }
    }

    /// What the disk says is enough as long as it is this node's own: no clock can lead it back. The clock and the log
    /// help where a file was lost, or where a mesh was restored with the ledger of an earlier one.
    async fn incarnation(&self) -> Result<u64> {
        let seams = self.0.seams();
        let floor = self.unix_ms().max(incarnation_in(&self.state(), self.node()).saturating_add(1));
        let (disk, (done, written)) = (seams.disk.clone(), oneshot::channel());
        let write = move || {
            let chosen = disk.read(INCARNATION_FILE).and_then(|content| {
                let chosen = next(content.as_deref(), floor);
                disk.write(INCARNATION_FILE, chosen.to_string().as_bytes(), false).map(|()| chosen)
            });
            // Who has asked may have gone.
            let _ = done.send(chosen);
        };
        seams.blocking.run(Box::new(write)).await;
        let failed = |why: String| {
            let message = format!("`{INCARNATION_FILE}` cannot be kept, so no quota can be asked for: {why}");
            MeshError::new(ErrorCode::DiskFull, message).at_node(self.node())
        };
        written.await.map_err(|_| failed("the write was lost".into()))?.map_err(|error| failed(error.to_string()))
    }
}

/// The incarnation after the one that a file holds. One that holds something else says nothing.
fn next(content: Option<&[u8]>, floor: u64) -> u64 {
    let text = content.and_then(|bytes| std::str::from_utf8(bytes).ok());
    let last: Option<u64> = text.and_then(|text| text.trim().parse().ok());
    if content.is_some() && last.is_none() {
        tracing::warn!(file = INCARNATION_FILE, "it holds no number and is written anew");
    }
    floor.max(last.map_or(0, |last| last.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incarnation_is_greater_than_the_last_whatever_the_clock_says() {
        let cases: [(Option<&[u8]>, u64, u64); 5] = [
            (None, 50, 50),
            (Some(b"49"), 50, 50),
            (Some(b"50\n"), 50, 51),
            (Some(b"90"), 50, 91),
            (Some(b"x"), 50, 50),
        ];
        for (content, floor, chosen) in cases {
            assert_eq!(next(content, floor), chosen, "{content:?}");
        }
    }
}
