//! openraft's settings, from the node's timing. Everything that is not about time is fixed here.

use std::sync::Arc;

use greylag_config::Timing;
use greylag_protocol::{ErrorCode, MeshError, Result};
use openraft::{Config, SnapshotPolicy};

/// Entries after which a snapshot is made. Commands are rare and the state is small: a snapshot is cheaper than a long
/// log to read at every start.
const SNAPSHOT_ENTRIES: u64 = 1024;
/// Entries kept behind a snapshot, so that a peer that was away for a moment gets entries and not the whole state.
const KEPT_ENTRIES: u64 = 512;
/// A peer further behind than this is sent the snapshot. Must be more than [`SNAPSHOT_ENTRIES`].
const LAG_ENTRIES_MAX: u64 = 2048;
/// Entries in one call to a peer.
const CALL_ENTRIES_MAX: u64 = 256;
/// Time to send and install a snapshot, milliseconds.
const SNAPSHOT_TIME_MS: u64 = 30_000;
/// Proposals and messages waiting for Raft; more wait outside.
const QUEUE_MAX: u64 = 4096;
/// Waiting between calls to a peer that cannot be reached.
const BACKOFF: &str = "50ms 100ms 200ms ...1s";

pub(super) fn settings(timing: &Timing, mesh_name: &str) -> Result<Arc<Config>> {
    let config = Config {
        cluster_name: mesh_name.to_owned(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_ms_min,
        election_timeout_max: timing.election_ms_max,
        install_snapshot_timeout: SNAPSHOT_TIME_MS,
        max_payload_entries: CALL_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_ENTRIES),
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        replication_lag_threshold: LAG_ENTRIES_MAX,
        api_channel_size: Some(QUEUE_MAX),
        notification_channel_size: Some(QUEUE_MAX),
        enable_pre_vote: Some(true),
        // The state is rebuilt from entries committed before the crash, of which the last are known only once a
        // leader says so: a restarted leader has to be elected again before it may say anything.
        enable_leader_restore: Some(false),
        backoff: BACKOFF.to_owned(),
        ..Config::default()
    };
    let config = config
        .validate()
        .map_err(|e| MeshError::new(ErrorCode::InvalidConfig, format!("`timing` does not suit raft: {e}")))?;
    Ok(Arc::new(config))
}
