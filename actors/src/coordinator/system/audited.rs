//! `system.audit` and `system.decisions`: the last records of the nodes' audit chains. The chains themselves are files, and
//! only `greylag audit verify` proves anything about them.

use arrow::array::RecordBatch;
use greylag_governance::audit::{AuditRecord, DecisionRecord, StatementFacts, TableRead, Verdict, Who};
use greylag_protocol::{
    Result,
    messages::control::{AuditRow, DecisionRow},
};

use super::columns::{Cell, batch};
use crate::{NodeCtx, audit::Recorded};

/// What this node has recorded lately of statements and changes, the newest first.
pub fn recorded(ctx: &NodeCtx) -> Vec<AuditRow> {
    ctx.audit.recent().iter().rev().filter_map(|recorded| row(ctx, recorded)).collect()
}

fn row(ctx: &NodeCtx, recorded: &Recorded) -> Option<AuditRow> {
    let mut row = match &*recorded.record {
        AuditRecord::Statement(statement) => AuditRow {
            rows: statement.rows,
            bytes: statement.bytes,
            attempts: statement.attempts,
            cost: statement.cost_micro_credits,
            duration_us: statement.duration_us,
            outcome: Some(statement.outcome.name().to_owned()),
            code: statement.code.clone(),
            ..of_facts(&statement.facts)
        },
        AuditRecord::Began(began) => of_facts(&began.facts),
        AuditRecord::Change(change) => AuditRow {
            door: change.door.clone(),
            client: change.client.clone(),
            action: change.call.clone(),
            statement: change.what.clone(),
            epochs: Some((change.epoch_before, change.epoch_after)),
            outcome: Some(change.outcome.name().to_owned()),
            code: change.code.clone(),
            ..of(&change.who)
        },
        AuditRecord::Segment(_)
        | AuditRecord::Opened(_)
        | AuditRecord::Heads(_)
        | AuditRecord::Retired(_)
        | AuditRecord::Closed(_) => return None,
    };
    row.node = ctx.node;
    row.sequence = recorded.sequence;
    row.at_unix_ms = recorded.record.at_unix_ms();
    recorded.record.kind().clone_into(&mut row.kind);
    Some(row)
}

fn of(who: &Who) -> AuditRow {
    AuditRow {
        node: greylag_protocol::NodeId(0),
        sequence: 0,
        at_unix_ms: 0,
        kind: String::new(),
        query: None,
        principal: who.principal.clone(),
        organisation: who.organisation.clone(),
        acts_for: who.acts_for.clone(),
        agent: who.agent_id.clone(),
        credential: who.credential.clone(),
        door: String::new(),
        client: None,
        action: String::new(),
        statement: String::new(),
        tables: Vec::new(),
        columns: Vec::new(),
        decision: None,
        epochs: None,
        rows: 0,
        bytes: 0,
        attempts: 0,
        cost: 0,
        duration_us: 0,
        outcome: None,
        code: None,
    }
}

fn of_facts(facts: &StatementFacts) -> AuditRow {
    AuditRow {
        query: Some(facts.query),
        door: facts.door.clone(),
        client: facts.client.clone(),
        action: facts.action.clone(),
        statement: facts.statement.clone(),
        tables: facts.tables.iter().map(|read| read.table.clone()).collect(),
        columns: facts.tables.iter().flat_map(TableRead::columns_read).collect(),
        decision: facts.decision.as_ref().map(decision),
        ..of(&facts.who)
    }
}

fn decision(record: &DecisionRecord) -> DecisionRow {
    DecisionRow {
        permitted: record.verdict == Verdict::Permit,
        reason: record.reason.clone(),
        policies: record.policies.clone(),
        epoch: record.epoch,
        decided_by: record.decided_by,
        row_filters: record.row_filters.iter().map(|filter| filter.table.clone()).collect(),
        masks: record.masks.iter().map(|mask| format!("{}.{}: {}", mask.table, mask.column, mask.mask)).collect(),
        hidden: record.hidden.iter().map(|hidden| format!("{}.{}", hidden.table, hidden.column)).collect(),
        notices: record
            .notices
            .iter()
            .map(|notice| format!("{} {}: {}", notice.mode, notice.policies.join(", "), notice.change))
            .collect(),
    }
}

pub fn audit(rows: Vec<AuditRow>) -> Result<RecordBatch> {
    batch(
        "audit",
        rows.into_iter().map(|row| {
            let decided = row.decision.as_ref();
            let listed = |of: fn(&DecisionRow) -> &Vec<String>| Cell::from(decided.map(|d| of(d).join(", ")));
            vec![
                row.node.to_string().into(),
                row.sequence.into(),
                Cell::Time(row.at_unix_ms),
                row.kind.clone().into(),
                row.query.map(|query| query.to_string()).into(),
                row.principal.clone().into(),
                row.organisation.clone().into(),
                row.acts_for.clone().into(),
                row.agent.clone().into(),
                row.credential.clone().into(),
                row.door.clone().into(),
                row.client.clone().into(),
                row.action.clone().into(),
                row.statement.clone().into(),
                row.tables.join(", ").into(),
                (row.query.is_some()).then(|| row.columns.join(", ")).into(),
                listed(|d| &d.policies),
                decided.map(|d| d.epoch).into(),
                listed(|d| &d.row_filters),
                listed(|d| &d.masks),
                listed(|d| &d.hidden),
                row.epochs.map(|(before, _)| before).into(),
                row.epochs.and_then(|(_, after)| after).into(),
                row.rows.into(),
                row.bytes.into(),
                row.attempts.into(),
                row.cost.into(),
                row.duration_us.into(),
                row.outcome.clone().into(),
                row.code.clone().into(),
            ]
        }),
    )
}

/// The decisions among the records: each statement's, once.
pub fn decisions(rows: Vec<AuditRow>) -> Result<RecordBatch> {
    let decided = rows.into_iter().filter(|row| row.kind == "statement");
    batch(
        "decisions",
        decided.filter_map(|row| {
            let decision = row.decision?;
            Some(vec![
                row.node.to_string().into(),
                Cell::Time(row.at_unix_ms),
                row.query.map(|query| query.to_string()).into(),
                row.principal.into(),
                row.organisation.into(),
                row.action.into(),
                row.tables.join(", ").into(),
                decision.permitted.into(),
                decision.reason.into(),
                decision.policies.join(", ").into(),
                decision.epoch.into(),
                decision.decided_by.to_string().into(),
                decision.row_filters.join(", ").into(),
                decision.masks.join(", ").into(),
                decision.hidden.join(", ").into(),
                decision.notices.join("; ").into(),
            ])
        }),
    )
}
