//! Records and chains for the tests of this folder.

#![allow(clippy::unwrap_used)]

use greylag_protocol::{MeshId, NodeId, QueryId};

use super::{
    AuditLog, AuditRecord, Chain, DecisionRecord, MemoryStorage, Opening, Outcome, Rotation, SourceRead,
    StatementFacts, StatementRecord, StepTime, TableRead, Verdict, Who,
};

pub const ROTATION: Rotation = Rotation { bytes_max: 1 << 20, age_ms_max: u64::MAX };

pub fn mesh() -> MeshId {
    "00000000-0000-4000-8000-0000000000aa".parse().unwrap()
}

pub fn chain(node: u64) -> Chain {
    Chain { mesh: mesh(), node: NodeId(node) }
}

pub fn query(number: u64) -> QueryId {
    format!("00000000-0000-4000-8000-{number:012x}").parse().unwrap()
}

pub fn facts(number: u64, sql: &str) -> StatementFacts {
    let who = Who {
        principal: "ada".into(),
        principal_kind: "person".into(),
        organisation: Some("clinic".into()),
        roles: vec!["doctor".into()],
        credential: None,
        acts_for: None,
        agent_id: None,
        framework: None,
        request_id: None,
        priority: "normal".into(),
    };
    let decision = DecisionRecord {
        verdict: Verdict::Permit,
        reason: None,
        policies: vec!["doctors".into()],
        epoch: 4,
        decided_by: NodeId(2),
        row_filters: vec![],
        masks: vec![],
        hidden: vec![],
        notices: vec![],
    };
    StatementFacts {
        query: query(number),
        coordinator: NodeId(1),
        door: "flight".into(),
        client: None,
        who,
        action: "select".into(),
        statement: sql.into(),
        tables: vec![TableRead { table: "pg.public.t".into(), columns: Some(vec!["a".into()]) }],
        decision: Some(decision),
    }
}

pub fn statement(number: u64, sql: &str) -> StatementRecord {
    StatementRecord {
        at_unix_ms: 1_700_000_000_000 + number,
        facts: facts(number, sql),
        sources: vec![SourceRead { source: "pg".into(), edge: NodeId(3), attempts: 1, rows: 1, bytes: 10 }],
        rows: 1,
        bytes: 10,
        attempts: 1,
        restarts: 0,
        cost_micro_credits: 5,
        steps: vec![StepTime { step: "decision".into(), us: 12 }],
        duration_us: 100,
        outcome: Outcome::Done,
        code: None,
        cut: false,
    }
}

pub fn record(number: u64) -> AuditRecord {
    AuditRecord::Statement(Box::new(statement(number, "SELECT a FROM t WHERE b = ?")))
}

pub fn opening(node: u64) -> Opening {
    Opening {
        chain: chain(node),
        known: None,
        rotation: ROTATION,
        release: "0.1.0".into(),
        now_unix_ms: 1_700_000_000_000,
    }
}

pub fn open(storage: &MemoryStorage, opening: Opening) -> greylag_protocol::Result<AuditLog> {
    AuditLog::open(Box::new(storage.clone()), opening)
}
