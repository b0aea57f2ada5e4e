//! The catalog's decisions, as tables.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use greylag_protocol::{
    Epoch, ErrorCode, MeshError, NodeId, SourceName,
    schema::{Dialect, SourceSchema},
};

use super::core::{CatalogCore, Declared, Event, Fetch, RETRY_MS_MIN};

const TTL: u64 = 60_000;

fn name(name: &str) -> SourceName {
    SourceName::new(name).unwrap()
}

fn declared(source: &str, version: u64, edges: &[u64]) -> Declared {
    Declared { name: name(source), version, edges: edges.iter().copied().map(NodeId).collect() }
}

fn schema(source: &str) -> Arc<SourceSchema> {
    Arc::new(SourceSchema {
        source: name(source),
        kind: "sqlite".into(),
        dialect: Dialect::Sqlite,
        version: "3".into(),
        default_schema: "main".into(),
        tables: Vec::new(),
    })
}

fn fetch(source: &str, edge: u64, ticket: u64) -> Fetch {
    Fetch { source: name(source), edge: NodeId(edge), ticket }
}

fn got(source: &str, ticket: u64) -> Event {
    Event::Fetched { source: name(source), ticket, result: Ok(schema(source)) }
}

fn failed(source: &str, ticket: u64) -> Event {
    let error = MeshError::new(ErrorCode::SourceUnreachable, "down");
    Event::Fetched { source: name(source), ticket, result: Err(error) }
}

#[test]
fn reads_once_and_again_when_old() {
    let mut core = CatalogCore::new(TTL);
    assert_eq!(core.on(0, Event::State(Epoch(1), vec![declared("a", 1, &[1, 2])])), [fetch("a", 1, 1)]);
    assert!(core.view().pending.contains(&name("a")));
    // The same state, or another tick, asks nothing more while the reading is under way.
    assert!(core.on(1, Event::State(Epoch(1), vec![declared("a", 1, &[1, 2])])).is_empty());
    assert!(core.on(2, Event::Tick).is_empty());
    assert!(core.on(10, got("a", 1)).is_empty());
    let view = core.view();
    assert!(view.pending.is_empty() && view.catalog.sources.contains_key(&name("a")));
    assert_eq!(core.due_ms(), Some(10 + TTL));
    assert_eq!(core.on(10 + TTL, Event::Tick), [fetch("a", 1, 2)]);
    assert!(core.view().catalog.sources.contains_key(&name("a")), "the old one serves while the new one is read");
}

#[test]
fn another_edge_is_asked_after_a_failure() {
    let mut core = CatalogCore::new(TTL);
    core.on(0, Event::State(Epoch(1), vec![declared("a", 1, &[1, 2])]));
    assert_eq!(core.on(5, failed("a", 1)), [fetch("a", 2, 2)], "at once");
    assert_eq!(core.view().catalog.unavailable[&name("a")].code, ErrorCode::SourceUnreachable);
    assert!(core.view().reading.contains(&name("a")));
    // After both there is a pause, and a longer one after the next round.
    assert!(core.on(10, failed("a", 2)).is_empty());
    assert_eq!(core.due_ms(), Some(10 + RETRY_MS_MIN));
    assert_eq!(core.on(10 + RETRY_MS_MIN, Event::Tick), [fetch("a", 1, 3)]);
    assert_eq!(core.on(300, failed("a", 3)), [fetch("a", 2, 4)]);
    core.on(310, failed("a", 4));
    assert_eq!(core.due_ms(), Some(310 + 2 * RETRY_MS_MIN));
    // A statement in need does not wait for it.
    assert_eq!(core.on(311, Event::Refresh), [fetch("a", 1, 5)]);
    core.on(320, got("a", 5));
    assert!(core.view().failures.is_empty());
}

#[test]
fn a_failure_leaves_an_older_schema_serving() {
    let mut core = CatalogCore::new(TTL);
    core.on(0, Event::State(Epoch(1), vec![declared("a", 1, &[1])]));
    core.on(1, got("a", 1));
    core.on(1 + TTL, Event::Tick);
    core.on(2 + TTL, failed("a", 2));
    let view = core.view();
    assert!(view.catalog.sources.contains_key(&name("a")) && view.catalog.unavailable.is_empty());
    assert!(view.failures.contains_key(&name("a")));
}

#[test]
fn an_answer_about_an_older_version_is_dropped() {
    let mut core = CatalogCore::new(TTL);
    core.on(0, Event::State(Epoch(1), vec![declared("a", 1, &[1])]));
    assert_eq!(core.on(1, Event::State(Epoch(1), vec![declared("a", 2, &[1])])), [fetch("a", 1, 2)]);
    core.on(2, got("a", 1));
    assert!(core.view().catalog.sources.is_empty(), "the answer was about version 1");
    core.on(3, got("a", 2));
    assert!(core.view().catalog.sources.contains_key(&name("a")));
    // The answer of an edge that serves something else does not count either.
    core.on(4, Event::State(Epoch(1), vec![declared("a", 3, &[1])]));
    core.on(5, Event::Fetched { source: name("a"), ticket: 3, result: Ok(schema("b")) });
    assert!(core.view().catalog.unavailable.contains_key(&name("a")));
}

#[test]
fn no_edge_is_said_at_once_and_healed_by_the_next_state() {
    let mut core = CatalogCore::new(TTL);
    assert!(core.on(0, Event::State(Epoch(1), vec![declared("a", 1, &[])])).is_empty());
    assert_eq!(core.view().catalog.unavailable[&name("a")].code, ErrorCode::NoEdge);
    assert_eq!(core.due_ms(), None);
    assert_eq!(core.on(9, Event::State(Epoch(1), vec![declared("a", 1, &[4])])), [fetch("a", 4, 1)]);
    core.on(10, got("a", 1));
    assert!(core.on(11, Event::State(Epoch(1), Vec::new())).is_empty());
    assert!(core.view().catalog.sources.is_empty(), "a dropped source is forgotten");
}
