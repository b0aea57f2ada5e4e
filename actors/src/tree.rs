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
    rows: BTreeMap<u64, Row>,
    by_name: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Row {
    row: ActorRow,
    /// Entries that keep it: a supervisor under a supervisor is entered by both.
    entries: u32,
}

impl ActorTree {
    pub fn new(node: NodeId) -> Self {
        Self { node, rows: Arc::default() }
    }

    /// Adds a row, in state `starting`; if there is one of this name, keeps that. It stays until the last of its entries
    /// is dropped. `name` and `supervisor` are names within the node.
    #[must_use = "the row lives as long as its entry"]
    pub fn register(&self, name: &str, supervisor: &str) -> TreeEntry {
        let mut rows = self.lock();
        let known = rows.by_name.get(name).copied();
        if let Some((id, row)) = known.and_then(|id| rows.rows.get_mut(&id).map(|row| (id, row))) {
            row.entries += 1;
            return TreeEntry { tree: self.clone(), id };
        }
        let row = ActorRow {
            node: self.node,
            name: name.to_owned(),
            supervisor: supervisor.to_owned(),
            state: ActorState::Starting.as_str().to_owned(),
            restarts: 0,
            last_failure: None,
        };
        rows.next += 1;
        let id = rows.next;
        rows.rows.insert(id, Row { row, entries: 1 });
        rows.by_name.insert(name.to_owned(), id);
        TreeEntry { tree: self.clone(), id }
    }

    /// All rows, oldest first.
    pub fn snapshot(&self) -> Vec<ActorRow> {
        self.lock().rows.values().map(|row| row.row.clone()).collect()
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
            change(&mut row.row);
        }
    }
}

impl Drop for TreeEntry {
    fn drop(&mut self) {
        let mut rows = self.tree.lock();
        let Some(row) = rows.rows.get_mut(&self.id) else { return };
        row.entries -= 1;
        if row.entries == 0
            && let Some(row) = rows.rows.remove(&self.id)
        {
            rows.by_name.remove(&row.row.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_lives_as_long_as_its_last_entry() {
        let tree = ActorTree::new(NodeId(3));
        let outer = tree.register("roles", "node");
        let inner = tree.register("roles", "somebody else");
        inner.set(ActorState::Running);
        inner.restarted();
        inner.failed(&"é".repeat(FAILURE_BYTES_MAX));
        drop(outer);
        let rows = tree.snapshot();
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].supervisor.as_str(), rows[0].state.as_str(), rows[0].restarts), ("node", "running", 1));
        assert!(rows[0].last_failure.as_ref().is_some_and(|f| f.len() <= FAILURE_BYTES_MAX && !f.is_empty()));
        drop(inner);
        assert!(tree.snapshot().is_empty());
        let _again = tree.register("roles", "node");
        assert_eq!(tree.snapshot()[0].restarts, 0);
    }
}
