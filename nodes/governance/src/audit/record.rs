//! What a record says, as JSON with the kind first. Names and numbers only: no row's values, no secret, and no literal of
//! a statement unless whoever hands it in has left one there.
//!
//! Fields may be added, never renamed or given another meaning: a chain outlives the release that has begun it.

use greylag_protocol::{
    ErrorCode, MeshId, NodeId, QueryId,
    messages::control::{self, Decision},
    obligation::NoticeMode,
    principal::{Principal, PrincipalKind, Priority, attribute},
    state::AuditHead,
    step::StepTimes,
};
use serde::{Deserialize, Serialize};

use super::line::RecordHash;

/// Heads in one record; more are written as several records.
pub const HEADS_MAX: usize = 128;

/// One record of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AuditRecord {
    /// The first record of each file: whose it is.
    Segment(SegmentRecord),
    /// The node begins to write.
    Opened(OpenedRecord),
    /// A statement has ended.
    Statement(Box<StatementRecord>),
    /// In strict mode: a statement's first row is about to leave.
    Began(Box<Began>),
    /// An administrator's call has ended.
    Change(Box<ChangeRecord>),
    /// The last records of all nodes' chains, as committed in the replicated log.
    Heads(HeadsRecord),
    /// The oldest file is about to be removed.
    Retired(RetiredRecord),
    /// The node has stopped writing, by its own will.
    Closed(ClosedRecord),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRecord {
    pub at_unix_ms: u64,
    /// See [`super::FORMAT`].
    pub format: u32,
    pub mesh: MeshId,
    pub node: NodeId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedRecord {
    pub at_unix_ms: u64,
    pub mesh: MeshId,
    pub node: NodeId,
    /// Version of the program.
    pub release: String,
    /// Bytes that a write which never came to its end had left, and that were removed from the end.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repaired_bytes: u64,
    /// The folder was empty although records up to this one had been committed: they are lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_upto: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedRecord {
    pub at_unix_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredRecord {
    pub at_unix_ms: u64,
    pub file: String,
    pub bytes: u64,
    /// Last record of that file, and its hash: the next file goes on from it.
    pub upto: u64,
    pub hash: RecordHash,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadsRecord {
    pub at_unix_ms: u64,
    /// At most [`HEADS_MAX`].
    pub heads: Vec<HeadSeen>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadSeen {
    pub node: NodeId,
    pub sequence: u64,
    pub hash: RecordHash,
}

impl From<AuditHead> for HeadSeen {
    fn from(head: AuditHead) -> Self {
        Self { node: head.node, sequence: head.sequence, hash: RecordHash(head.hash) }
    }
}

/// Who asks, for whom, and what else the credential and the caller have said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    pub principal: String,
    /// `person`, `agent`, `service`.
    pub principal_kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organisation: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acts_for: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub framework: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// `low`, `normal`, `high`, `critical`.
    pub priority: String,
}

impl Who {
    pub fn of(principal: &Principal) -> Self {
        let attribute = |name| principal.attribute(name).map(str::to_owned);
        let kind = match principal.kind {
            PrincipalKind::Person => "person",
            PrincipalKind::Agent => "agent",
            PrincipalKind::Service => "service",
        };
        let priority = match principal.priority() {
            Priority::Low => "low",
            Priority::Normal => "normal",
            Priority::High => "high",
            Priority::Critical => "critical",
        };
        Self {
            principal: principal.id.clone(),
            principal_kind: kind.into(),
            organisation: attribute(attribute::ORGANISATION),
            roles: principal.roles.clone(),
            credential: attribute(attribute::CREDENTIAL),
            acts_for: attribute(attribute::ACTS_FOR),
            agent_id: attribute(attribute::AGENT_ID),
            framework: attribute(attribute::FRAMEWORK),
            request_id: attribute(attribute::REQUEST_ID),
            priority: priority.into(),
        }
    }
}

/// What is known of a statement before it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementFacts {
    pub query: QueryId,
    pub coordinator: NodeId,
    pub door: String,
    /// Where the client is, as the door saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    pub who: Who,
    /// `select`, `explain`, `describe`, `manage`.
    pub action: String,
    /// Literals are taken out by whoever hands it in; cut to [`super::STATEMENT_BYTES_MAX`].
    pub statement: String,
    pub tables: Vec<TableRead>,
    /// `None`: the statement has ended before one was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionRecord>,
}

/// `source.schema.table`, and what of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRead {
    pub table: String,
    /// `None`: not known, so it may be any.
    pub columns: Option<Vec<String>>,
}

impl TableRead {
    /// `source.schema.table.column` of each, or `source.schema.table.*`.
    pub fn columns_read(&self) -> Vec<String> {
        match &self.columns {
            Some(columns) => columns.iter().map(|column| format!("{}.{column}", self.table)).collect(),
            None => vec![format!("{}.*", self.table)],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Permit,
    Deny,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRecord {
    pub verdict: Verdict,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub policies: Vec<String>,
    pub epoch: u64,
    pub decided_by: NodeId,
    pub row_filters: Vec<RowsRead>,
    pub masks: Vec<MaskRead>,
    pub hidden: Vec<HiddenRead>,
    /// What policies that do not enforce would have changed.
    pub notices: Vec<NoticeRead>,
}

/// A table of which not all rows may be seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsRead {
    pub table: String,
    pub policies: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskRead {
    pub table: String,
    pub column: String,
    /// As written in a policy: `full`, `partial:1*2`.
    pub mask: String,
    pub policies: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HiddenRead {
    pub table: String,
    pub column: String,
    pub policies: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeRead {
    /// `warn`, `log`.
    pub mode: String,
    pub policies: Vec<String>,
    pub change: String,
}

impl DecisionRecord {
    pub fn of(decision: &Decision) -> Self {
        let (verdict, reason) = match &decision.verdict {
            control::Verdict::Permit => (Verdict::Permit, None),
            control::Verdict::Deny { reason } => (Verdict::Deny, Some(reason.clone())),
        };
        let (mut row_filters, mut masks, mut hidden) = (Vec::new(), Vec::new(), Vec::new());
        for obligation in &decision.obligations {
            let table = obligation.table.to_string();
            if obligation.filter.is_some() {
                row_filters.push(RowsRead { table: table.clone(), policies: obligation.policies.clone() });
            }
            for (column, rule) in obligation.masks.iter().flat_map(|m| m.rules.iter().map(|rule| (&m.column, rule))) {
                let (mask, policies) = (rule.mask.to_string(), rule.policies.clone());
                masks.push(MaskRead { table: table.clone(), column: column.clone(), mask, policies });
            }
            hidden.extend(obligation.hidden.iter().map(|h| HiddenRead {
                table: table.clone(),
                column: h.column.clone(),
                policies: h.policies.clone(),
            }));
        }
        let notices = decision.notices.iter().map(|notice| NoticeRead {
            mode: match notice.mode {
                NoticeMode::Warn => "warn".into(),
                NoticeMode::Log => "log".into(),
            },
            policies: notice.policies.clone(),
            change: notice.change.clone(),
        });
        Self {
            verdict,
            reason,
            policies: decision.policies.clone(),
            epoch: decision.epoch.0,
            decided_by: decision.decided_by,
            row_filters,
            masks,
            hidden,
            notices: notices.collect(),
        }
    }
}

/// How a statement or a call has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Done,
    Failed,
    Denied,
    Cancelled,
}

impl Outcome {
    /// What ending with this error means.
    pub fn of(code: ErrorCode) -> Self {
        match code {
            ErrorCode::Denied | ErrorCode::ScopeMissing => Self::Denied,
            ErrorCode::Cancelled => Self::Cancelled,
            _ => Self::Failed,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Denied => "denied",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What one source gave, through one edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRead {
    pub source: String,
    pub edge: NodeId,
    pub attempts: u32,
    pub rows: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTime {
    pub step: String,
    pub us: u64,
}

impl StepTime {
    /// Those in which any time was spent.
    pub fn all(times: &StepTimes) -> Vec<Self> {
        let spent = times.iter().filter(|(_, us)| *us > 0);
        spent.map(|(step, us)| Self { step: step.name().into(), us }).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementRecord {
    pub at_unix_ms: u64,
    #[serde(flatten)]
    pub facts: StatementFacts,
    pub sources: Vec<SourceRead>,
    /// Rows and bytes given to the client.
    pub rows: u64,
    pub bytes: u64,
    /// Attempts of all sub-queries, and restarts of the whole.
    pub attempts: u32,
    pub restarts: u32,
    pub cost_micro_credits: u64,
    pub steps: Vec<StepTime>,
    pub duration_us: u64,
    pub outcome: Outcome,
    /// `GL####`, unless done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Something was too long and was cut.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cut: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Began {
    pub at_unix_ms: u64,
    #[serde(flatten)]
    pub facts: StatementFacts,
    #[serde(default, skip_serializing_if = "is_false")]
    pub cut: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRecord {
    pub at_unix_ms: u64,
    pub who: Who,
    pub door: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Name of the call.
    pub call: String,
    /// Name of what it was about. Never a secret.
    pub what: String,
    pub epoch_before: u64,
    /// `None`: it came to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch_after: Option<u64>,
    pub outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub cut: bool,
}

impl AuditRecord {
    pub fn at_unix_ms(&self) -> u64 {
        match self {
            Self::Segment(r) => r.at_unix_ms,
            Self::Opened(r) => r.at_unix_ms,
            Self::Statement(r) => r.at_unix_ms,
            Self::Began(r) => r.at_unix_ms,
            Self::Change(r) => r.at_unix_ms,
            Self::Heads(r) => r.at_unix_ms,
            Self::Retired(r) => r.at_unix_ms,
            Self::Closed(r) => r.at_unix_ms,
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Segment(_) => "segment",
            Self::Opened(_) => "opened",
            Self::Statement(_) => "statement",
            Self::Began(_) => "began",
            Self::Change(_) => "change",
            Self::Heads(_) => "heads",
            Self::Retired(_) => "retired",
            Self::Closed(_) => "closed",
        }
    }

    /// Facts of the statement that it is about.
    pub fn facts(&self) -> Option<&StatementFacts> {
        match self {
            Self::Statement(r) => Some(&r.facts),
            Self::Began(r) => Some(&r.facts),
            _ => None,
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}
