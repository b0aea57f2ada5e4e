//! When which source's schema is read, and from which edge. Pure: it is told of the replicated state, of answers and
//! of the time, and says what to read next.
//!
//! INVARIANT: of each source at most one reading is under way, and an answer counts only for the version it was asked
//! about.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use greylag_protocol::{Epoch, ErrorCode, MeshError, NodeId, Result, SourceName, schema::SourceSchema};

use crate::planner::port::Catalog;

/// Pause after all edges of a source have failed, milliseconds; doubled at each such round in a row.
pub const RETRY_MS_MIN: u64 = 200;
pub const RETRY_MS_MAX: u64 = 10_000;

/// A declared source, as the replicated state has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    pub name: SourceName,
    pub version: u64,
    /// Live edges, the nearest first.
    pub edges: Vec<NodeId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// All sources there are at an epoch.
    State(Epoch, Vec<Declared>),
    Fetched {
        source: SourceName,
        ticket: u64,
        result: Result<Arc<SourceSchema>>,
    },
    /// A statement needs what could not be had so far: try again now.
    Refresh,
    Tick,
}

/// Read a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    pub source: SourceName,
    pub edge: NodeId,
    pub ticket: u64,
}

/// What is known at one moment.
#[derive(Debug, Clone, Default)]
pub struct CatalogView {
    /// Epoch of the replicated state whose sources these are; `None` before any is known.
    pub epoch: Option<Epoch>,
    /// How often a statement in need has asked for another try.
    pub refreshes: u64,
    pub catalog: Arc<Catalog>,
    /// Sources that nothing is known about yet: neither a schema nor why there is none.
    pub pending: BTreeSet<SourceName>,
    /// The last failure of each source whose last reading failed, also where an older schema still serves.
    pub failures: BTreeMap<SourceName, MeshError>,
    /// Sources being read at this moment.
    pub reading: BTreeSet<SourceName>,
}

impl CatalogView {
    /// Whether the schema of every source is known.
    pub fn is_complete(&self) -> bool {
        self.pending.is_empty() && self.catalog.unavailable.is_empty()
    }
}

#[derive(Debug, Default)]
struct Entry {
    version: u64,
    edges: Vec<NodeId>,
    schema: Option<Arc<SourceSchema>>,
    failure: Option<MeshError>,
    failures: u32,
    reading: Option<u64>,
    /// `None`: not before something changes.
    due_ms: Option<u64>,
}

#[derive(Debug)]
pub struct CatalogCore {
    ttl_ms: u64,
    tickets: u64,
    epoch: Option<Epoch>,
    refreshes: u64,
    entries: BTreeMap<SourceName, Entry>,
}

impl CatalogCore {
    pub fn new(ttl_ms: u64) -> Self {
        Self { ttl_ms, tickets: 0, epoch: None, refreshes: 0, entries: BTreeMap::new() }
    }

    pub fn on(&mut self, now_ms: u64, event: Event) -> Vec<Fetch> {
        match event {
            Event::State(epoch, declared) => {
                self.epoch = Some(epoch);
                self.declare(now_ms, declared);
            }
            Event::Fetched { source, ticket, result } => self.fetched(now_ms, &source, ticket, result),
            Event::Refresh => {
                self.refreshes += 1;
                for entry in self.entries.values_mut().filter(|e| e.schema.is_none()) {
                    entry.due_ms = Some(now_ms);
                }
            }
            Event::Tick => {}
        }
        self.sweep(now_ms)
    }

    /// When to look again.
    pub fn due_ms(&self) -> Option<u64> {
        self.entries.values().filter(|e| e.reading.is_none()).filter_map(|e| e.due_ms).min()
    }

    pub fn view(&self) -> CatalogView {
        let mut catalog = Catalog::default();
        let mut view = CatalogView { epoch: self.epoch, refreshes: self.refreshes, ..CatalogView::default() };
        for (name, entry) in &self.entries {
            if let Some(failure) = &entry.failure {
                view.failures.insert(name.clone(), failure.clone());
            }
            if entry.reading.is_some() {
                view.reading.insert(name.clone());
            }
            match (&entry.schema, &entry.failure) {
                (Some(schema), _) => {
                    catalog.sources.insert(name.clone(), schema.clone());
                }
                (None, Some(failure)) => {
                    catalog.unavailable.insert(name.clone(), failure.clone());
                }
                (None, None) => {
                    view.pending.insert(name.clone());
                }
            }
        }
        view.catalog = Arc::new(catalog);
        view
    }

    fn declare(&mut self, now_ms: u64, declared: Vec<Declared>) {
        let names: BTreeSet<&SourceName> = declared.iter().map(|d| &d.name).collect();
        self.entries.retain(|name, _| names.contains(name));
        for source in declared {
            let entry = self.entries.entry(source.name).or_default();
            if entry.version != source.version {
                // What was known is about another source by the same name.
                *entry =
                    Entry { version: source.version, edges: source.edges, due_ms: Some(now_ms), ..Entry::default() };
            } else if entry.edges != source.edges {
                entry.edges = source.edges;
                entry.due_ms = Some(now_ms);
            }
        }
    }

    fn fetched(&mut self, now_ms: u64, source: &SourceName, ticket: u64, result: Result<Arc<SourceSchema>>) {
        let Some(entry) = self.entries.get_mut(source).filter(|e| e.reading == Some(ticket)) else { return };
        entry.reading = None;
        match result {
            Ok(schema) if schema.source == *source => {
                entry.schema = Some(schema);
                entry.failure = None;
                entry.failures = 0;
                entry.due_ms = Some(now_ms + self.ttl_ms);
            }
            Ok(schema) => {
                let message = format!("an edge of `{source}` answered with the schema of `{}`", schema.source);
                entry.failed(now_ms, MeshError::internal(message));
            }
            Err(error) => entry.failed(now_ms, error.of_source(source.clone())),
        }
    }

    fn sweep(&mut self, now_ms: u64) -> Vec<Fetch> {
        let mut fetches = Vec::new();
        for (name, entry) in &mut self.entries {
            if entry.reading.is_some() || entry.due_ms.is_none_or(|due| due > now_ms) {
                continue;
            }
            let Some(edge) = entry.edges.get(entry.failures as usize % entry.edges.len().max(1)).copied() else {
                let message = format!("no live edge serves `{name}`");
                entry.failure = Some(MeshError::new(ErrorCode::NoEdge, message).of_source(name.clone()));
                entry.due_ms = None;
                continue;
            };
            self.tickets += 1;
            entry.reading = Some(self.tickets);
            fetches.push(Fetch { source: name.clone(), edge, ticket: self.tickets });
        }
        fetches
    }
}

impl Entry {
    /// The next edge is asked at once; after each round of all of them there is a pause.
    fn failed(&mut self, now_ms: u64, error: MeshError) {
        self.failure = Some(error);
        self.failures = self.failures.saturating_add(1);
        let edges = self.edges.len().max(1) as u32;
        let (rounds, over) = (self.failures / edges, self.failures % edges);
        let pause = if over > 0 {
            0
        } else {
            RETRY_MS_MIN.saturating_mul(1 << rounds.saturating_sub(1).min(16)).min(RETRY_MS_MAX)
        };
        self.due_ms = Some(now_ms + pause);
    }
}
