//! The way to a peer's Raft: one call is one request of bytes and one answer of bytes. The transport implements it with
//! one bi-stream per call.

use std::{io, time::Duration};

use greylag_protocol::NodeId;

/// Largest request or answer of a Raft call, bytes: holds the largest snapshot.
pub const RAFT_CALL_BYTES_MAX: usize = 64 << 20;

/// Carries Raft calls to peers. It must reach the node with this very id, or fail.
#[async_trait::async_trait]
pub trait RaftLink: Send + Sync + 'static {
    /// Sends `request` to `to` and returns its answer, both at most [`RAFT_CALL_BYTES_MAX`]. Fails with
    /// [`io::ErrorKind::TimedOut`] once `timeout` has passed; any other failure means that the peer cannot be reached
    /// now, and openraft backs off before it tries again. Dropping the future cancels the call.
    async fn call(&self, to: NodeId, request: Vec<u8>, timeout: Duration) -> io::Result<Vec<u8>>;
}
