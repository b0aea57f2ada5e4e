//! The supervision tree made visible: one row for each actor of this node, as `system.actors` shows it. Written by
//! supervisors (and by actors that have none of ours), read by anybody; it decides nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use greylag_protocol::{NodeId, messages::control::ActorRow};

/// What an actor is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActorState {
    Starting,
    Running,
    BackingOff,
    Stopped,
}

impl ActorState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::BackingOff => "backing off",
            Self::Stopped => "stopped",
        }
    }
}

/// Longest failure text kept, bytes.
pub const FAILURE_BYTES_MAX: usize = 500;

/// Cheap to clone; all clones are one tree.
#[derive(Debug, Clone)]
pub struct ActorTree {
    node: NodeId,
    rows: Arc<Mutex<Rows>>,
}

#[derive(Debug, Default)]
struct Rows {
    next: u64,
    /// By order of entry.
    rows: BTreeMap<u64, ActorRow>,
}

impl ActorTree {
    pub fn new(node: NodeId) -> Self {
        Self { node, rows: Arc::default() }
    }

    /// Adds a row, in state `starting`. It stays until the entry is dropped. `name` and `supervisor` are names within
    /// the node.
    #[must_use = "the row lives as long as its entry"]
    pub fn register(&self, name: &str, supervisor: &str) -> TreeEntry {
        let row = ActorRow {
            node: self.node,
            name: name.to_owned(),
            supervisor: supervisor.to_owned(),
            state: ActorState::Starting.as_str().to_owned(),
            restarts: 0,
            last_failure: None,
        };
        let mut rows = self.lock();
        rows.next += 1;
        let id = rows.next;
        rows.rows.insert(id, row);
        drop(rows);
        TreeEntry { tree: self.clone(), id }
    }

    /// All rows, oldest first.
    pub fn snapshot(&self) -> Vec<ActorRow> {
        self.lock().rows.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One row of the tree, for as long as it is kept.
#[derive(Debug)]
pub struct TreeEntry {
    tree: ActorTree,
    id: u64,
}

impl TreeEntry {
    pub fn set(&self, state: ActorState) {
        self.change(|row| row.state = state.as_str().to_owned());
    }

    pub fn restarted(&self) {
        self.change(|row| row.restarts = row.restarts.saturating_add(1));
    }

    /// Keeps the last failure. The text must not hold statement text, row values or secrets.
    pub fn failed(&self, failure: &str) {
        let mut end = failure.len().min(FAILURE_BYTES_MAX);
        while !failure.is_char_boundary(end) {
            end -= 1;
        }
        self.change(|row| row.last_failure = Some(failure[..end].to_owned()));
    }

    fn change(&self, change: impl FnOnce(&mut ActorRow)) {
        if let Some(row) = self.tree.lock().rows.get_mut(&self.id) {
            change(row);
        }
    }
}

impl Drop for TreeEntry {
    fn drop(&mut self) {
        self.tree.lock().rows.remove(&self.id);
    }
}
