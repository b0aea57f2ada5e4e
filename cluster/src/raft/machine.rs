//! The state machine: applies committed entries with `state::apply`, publishes the state to everyone who watches, and
//! makes and installs snapshots. The state itself lives in memory; after a restart it is the last snapshot and the
//! committed entries after it.
//!
//! INVARIANT: a proposer is answered only after the state that its command made has been published. A snapshot is
//! durable before anyone is told of it, since the entries that it stands for are purged next.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{Stream, StreamExt};
use greylag_protocol::{
    Result,
    state::{ControlState, Outcome},
    wire,
};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use tokio::sync::watch;

use super::{
    database::{Change, META_BYTES_MAX, check_snapshot},
    types::{Entry, LogId, Snapshot, SnapshotData, SnapshotMeta, StoredMembership, TypeConfig, to_io},
    writer::Writer,
};
use crate::state::{apply, decode_snapshot, encode_snapshot};

/// Entries applied between two publications of the state.
const APPLY_ENTRIES_MAX: usize = 64;

#[derive(Clone)]
pub(super) struct Machine {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    published: watch::Sender<Arc<ControlState>>,
    writer: Writer,
    /// One snapshot is kept at a time: a built one must not replace a newer one that is being installed.
    keeping: tokio::sync::Mutex<()>,
}

struct Inner {
    applied: Option<LogId>,
    membership: StoredMembership,
    state: Arc<ControlState>,
    snapshot: Option<(SnapshotMeta, SnapshotData)>,
}

impl Machine {
    /// From the snapshot that the log file had, if any.
    pub fn new(snapshot: Option<(SnapshotMeta, SnapshotData)>, writer: Writer) -> Result<Self> {
        let state = match &snapshot {
            Some((_, data)) => decode_snapshot(data)?,
            None => ControlState::default(),
        };
        let (applied, membership) = match &snapshot {
            Some((meta, _)) => (meta.last_log_id, meta.last_membership.clone()),
            None => (None, StoredMembership::default()),
        };
        let state = Arc::new(state);
        let published = watch::Sender::new(state.clone());
        let inner = Mutex::new(Inner { applied, membership, state, snapshot });
        Ok(Self { shared: Arc::new(Shared { inner, published, writer, keeping: tokio::sync::Mutex::default() }) })
    }

    pub fn watch(&self) -> watch::Receiver<Arc<ControlState>> {
        self.shared.published.subscribe()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who watch, if the state is another.
    fn publish(&self, state: Arc<ControlState>) {
        self.shared.published.send_if_modified(|published| {
            let changed = published.epoch != state.epoch;
            *published = state;
            changed
        });
    }

    /// Makes a snapshot durable, unless there is a newer one.
    async fn keep(&self, meta: SnapshotMeta, data: SnapshotData) -> io::Result<()> {
        let _one = self.shared.keeping.lock().await;
        if self.inner().snapshot.as_ref().is_some_and(|(known, _)| known.last_log_id > meta.last_log_id) {
            return Ok(());
        }
        check_snapshot(&data).map_err(to_io)?;
        let described = wire::encode(&meta, META_BYTES_MAX).map_err(to_io)?;
        self.shared.writer.write(Change::Snapshot { meta: described, data: data.clone() }).await?;
        self.inner().snapshot = Some((meta, data));
        Ok(())
    }
}

impl Inner {
    fn apply(&mut self, entry: Entry) -> Outcome {
        self.applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => {}
            // Clones the state once after each publication, since those who watch share it.
            EntryPayload::Normal(command) => return apply(Arc::make_mut(&mut self.state), &command),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
        }
        Outcome::Done { epoch: self.state.epoch }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let (meta, state) = {
            let inner = self.inner();
            let meta = SnapshotMeta { last_log_id: inner.applied, last_membership: inner.membership.clone() };
            (meta, inner.state.clone())
        };
        let data = encode_snapshot(&state).map_err(to_io)?;
        self.keep(meta.clone(), data.clone()).await?;
        Ok(Snapshot { meta, snapshot: data })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let inner = self.inner();
        Ok((inner.applied, inner.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut groups = entries.ready_chunks(APPLY_ENTRIES_MAX);
        while let Some(group) = groups.next().await {
            let mut answers = Vec::with_capacity(group.len());
            let state = {
                let mut inner = self.inner();
                for item in group {
                    let (entry, responder) = item?;
                    let outcome = inner.apply(entry);
                    answers.extend(responder.map(|responder| (responder, outcome)));
                }
                inner.state.clone()
            };
            self.publish(state);
            for (responder, outcome) in answers {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> io::Result<()> {
        let state = Arc::new(decode_snapshot(&data).map_err(to_io)?);
        self.keep(meta.clone(), data).await?;
        {
            let mut inner = self.inner();
            inner.applied = meta.last_log_id;
            inner.membership = meta.last_membership.clone();
            inner.state = state.clone();
        }
        self.publish(state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.inner().snapshot.clone().map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}
