//! Rows that nodes have told of their statements, actors, bounds, circuits and use.

use arrow::array::RecordBatch;
use greylag_protocol::{
    Result,
    messages::control::{ActorRow, BoundRow, CircuitRow, QueryRow, SubqueryRow, UsageRow},
};

use super::columns::{Cell, batch};

pub fn queries(rows: Vec<QueryRow>) -> Result<RecordBatch> {
    batch(
        "queries",
        rows.into_iter().map(|row| {
            let mut cells: Vec<Cell> = vec![
                row.query.to_string().into(),
                row.coordinator.to_string().into(),
                row.principal.into(),
                row.organisation.into(),
                row.agent.into(),
                row.priority.as_str().into(),
                row.door.into(),
                row.state.into(),
                row.sql.into(),
                Cell::Time(row.started_unix_ms),
                row.queue_position.into(),
                row.epoch.map(|epoch| epoch.0).into(),
            ];
            cells.extend(row.times.iter().map(|(_, us)| Cell::from(us)));
            cells.extend([row.rows.into(), row.bytes.into(), row.cost.into(), row.restarts.into(), row.error.into()]);
            cells
        }),
    )
}

pub fn subqueries(rows: Vec<SubqueryRow>) -> Result<RecordBatch> {
    batch(
        "subqueries",
        rows.into_iter().map(|row| {
            vec![
                row.query.to_string().into(),
                row.ordinal.into(),
                row.attempt.into(),
                row.source.into(),
                row.edge.to_string().into(),
                row.rule.into(),
                row.state.into(),
                row.sql.into(),
                row.rows.into(),
                row.bytes.into(),
                row.elapsed_us.into(),
                row.error.into(),
            ]
        }),
    )
}

pub fn actors(rows: Vec<ActorRow>) -> Result<RecordBatch> {
    batch(
        "actors",
        rows.into_iter().map(|row| {
            vec![
                row.node.to_string().into(),
                row.name.into(),
                row.supervisor.into(),
                row.state.into(),
                row.restarts.into(),
                row.last_failure.into(),
            ]
        }),
    )
}

pub fn bounds(rows: Vec<BoundRow>) -> Result<RecordBatch> {
    batch(
        "bounds",
        rows.into_iter().map(|row| {
            vec![
                row.node.to_string().into(),
                row.name.into(),
                row.of.into(),
                row.max.into(),
                row.used.into(),
                row.peak.into(),
                row.refused.into(),
            ]
        }),
    )
}

pub fn circuits(rows: Vec<CircuitRow>) -> Result<RecordBatch> {
    batch(
        "circuits",
        rows.into_iter().map(|row| {
            vec![
                row.coordinator.to_string().into(),
                row.source.into(),
                row.edge.to_string().into(),
                row.state.into(),
                row.failures.into(),
                row.failing_ms.into(),
                row.next_try_ms.into(),
                row.error.into(),
            ]
        }),
    )
}

pub fn usage(rows: Vec<UsageRow>) -> Result<RecordBatch> {
    batch(
        "usage",
        rows.into_iter().map(|row| {
            vec![
                row.coordinator.to_string().into(),
                Cell::Time(row.since_unix_ms),
                row.organisation.into(),
                row.agent.into(),
                row.statements.into(),
                row.refused.into(),
                row.rows_returned.into(),
                row.bytes_returned.into(),
                row.rows_scanned.into(),
                row.bytes_scanned.into(),
                row.source_ms.into(),
                row.cpu_ms.into(),
                row.microcredits.into(),
            ]
        }),
    )
}
