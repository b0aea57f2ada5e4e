//! Step 13: what is written of a statement. Room for its record is taken before anything is done for it; the record itself
//! is handed in when it has ended, whatever became of it. In strict mode another one is durable before the first row
//! leaves. That a statement was described is not recorded, unless it was refused.
//!
//! INVARIANT: no literal of the statement and no value of a row is in a record.

use std::{collections::BTreeMap, sync::Arc};

use greylag_governance::audit::{
    AuditRecord, Began, DecisionRecord, Outcome, SourceRead, StatementFacts, StatementRecord, StepTime, TableRead, Who,
};
use greylag_protocol::{
    ErrorCode, NodeId, QueryId, Result,
    messages::control::{Action, Decision, QueryRow, SubqueryRow, TableName, Verdict},
    statement::Session,
};

use crate::{
    NodeCtx,
    coordinator::{query::QueryMessage, query::core::Goal},
    planner::port::{ColumnsRead, Permit, Touched},
};

/// What a record tells of a statement that could not be read.
const UNREADABLE: &str = "(a statement that could not be read)";

/// What is known of a statement when a record is made.
pub struct Known<'a> {
    pub node: NodeId,
    pub query: QueryId,
    pub session: &'a Session,
    pub touched: Option<&'a Touched>,
    /// What the plan reads, once there is one that says so.
    pub reads: Option<&'a [ColumnsRead]>,
    pub permit: Option<&'a Permit>,
    pub denial: Option<&'a Decision>,
}

/// Makes a record durable before the first row leaves.
pub async fn begin(ctx: Arc<NodeCtx>, facts: StatementFacts) -> Result<QueryMessage> {
    let at_unix_ms = ctx.seams.clock.unix_ms();
    ctx.audit.record_durably(AuditRecord::Began(Box::new(Began { at_unix_ms, facts, cut: false }))).await?;
    Ok(QueryMessage::Recorded)
}

/// Whether a statement that has ended like this is recorded.
pub fn is_recorded(goal: Goal, code: Option<ErrorCode>) -> bool {
    goal == Goal::Execute || code.is_some()
}

pub fn facts(known: &Known<'_>) -> StatementFacts {
    let action = known.touched.map_or(Action::Select, |touched| touched.action);
    // A table that the plan does not read any more has no columns that are read.
    let columns = |table: &TableName| {
        known.reads.map(|reads| {
            reads.iter().find(|read| read.table == *table).map(|read| read.columns.clone()).unwrap_or_default()
        })
    };
    let read = |table: &TableName| TableRead { table: table.to_string(), columns: columns(table) };
    let decision = match (known.permit, known.denial) {
        (Some(permit), _) => Some(DecisionRecord::of(&permitted(permit))),
        (None, Some(denial)) => Some(DecisionRecord::of(denial)),
        (None, None) => None,
    };
    StatementFacts {
        query: known.query,
        coordinator: known.node,
        door: known.session.door.to_owned(),
        client: known.session.client.map(|client| client.to_string()),
        who: Who::of(&known.session.principal),
        action: action.as_str().to_owned(),
        statement: known.touched.map_or_else(|| UNREADABLE.to_owned(), |touched| touched.redacted.clone()),
        tables: known.touched.map(|touched| touched.tables.iter().map(read).collect()).unwrap_or_default(),
        decision,
    }
}

/// The decision behind a permit.
fn permitted(permit: &Permit) -> Decision {
    let grounds = permit.grounds();
    Decision {
        query: permit.query(),
        verdict: Verdict::Permit,
        epoch: permit.epoch(),
        decided_by: grounds.decided_by.first().copied().unwrap_or(NodeId(0)),
        tables: Vec::new(),
        asked: Vec::new(),
        obligations: permit.obligations().to_vec(),
        policies: grounds.policies.clone(),
        notices: grounds.notices.clone(),
    }
}

/// The record of a statement that has ended; `code` unless it is done.
pub fn ended(
    at_unix_ms: u64,
    facts: StatementFacts,
    row: &QueryRow,
    sources: Vec<SourceRead>,
    code: Option<ErrorCode>,
) -> AuditRecord {
    AuditRecord::Statement(Box::new(StatementRecord {
        at_unix_ms,
        facts,
        rows: row.rows,
        bytes: row.bytes,
        attempts: sources.iter().map(|source| source.attempts).sum(),
        sources,
        restarts: row.restarts,
        cost_micro_credits: row.cost,
        steps: StepTime::all(&row.times),
        duration_us: at_unix_ms.saturating_sub(row.started_unix_ms).saturating_mul(1_000),
        outcome: code.map_or(Outcome::Done, Outcome::of),
        code: code.map(|code| code.to_string()),
        cut: false,
    }))
}

/// Attempts of one statement, by source and edge.
#[derive(Debug, Default)]
pub struct Sources(BTreeMap<(String, NodeId), SourceRead>);

impl Sources {
    pub fn add(&mut self, attempt: &SubqueryRow) {
        let read = self.0.entry((attempt.source.clone(), attempt.edge)).or_insert_with(|| SourceRead {
            source: attempt.source.clone(),
            edge: attempt.edge,
            attempts: 0,
            rows: 0,
            bytes: 0,
        });
        read.attempts += 1;
        read.rows += attempt.rows;
        read.bytes += attempt.bytes;
    }

    pub fn all(self) -> Vec<SourceRead> {
        self.0.into_values().collect()
    }
}
