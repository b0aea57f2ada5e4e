//! Small calls between role actors, carried by `Peers`. At most [`CONTROL_BYTES_MAX`] each way, always with a
//! time-out, safe to repeat.

use serde::{Deserialize, Serialize};

use crate::{
    error::MeshError,
    ids::{Epoch, JobId, NodeId, QueryId},
    obligation::{Notice, TableObligation},
    principal::{Principal, Priority},
    schema::WireSchema,
    state::Role,
    statement::Progress,
    step::StepTimes,
};

/// Largest encoded control message, bytes.
pub const CONTROL_BYTES_MAX: usize = 64 << 10;

/// Most rows of observations in one reply; the rest is left out and `truncated` says so.
pub const OBSERVED_ROWS_MAX: usize = 200;

/// Version of everything in this module, where it travels on streams of its own.
pub const CONTROL_VERSION: u16 = 2;

/// A call on a stream of its own (tag `Control`): this in one `Control` frame, and a `Result<ControlReply>` in one back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlCall {
    pub version: u16,
    /// Time left, milliseconds.
    pub deadline_ms: u64,
    /// Whose actor is asked.
    pub role: Role,
    pub request: ControlRequest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlRequest {
    /// To a coordinator that keeps the mesh's authority: sign a bearer token for me.
    IssueBearer(BearerRequest),
    /// To a policy actor: may this principal do this?
    Decide(DecideRequest),
    /// To a policy actor: what may this principal know of each of these tables?
    Discern(DiscernRequest),
    /// To any role actor: are you there?
    Probe,
    /// To a coordinator: stop a query.
    Cancel { query: QueryId, principal: Principal },
    /// To a coordinator: what has become of a statement in the background?
    JobProgress { job: JobId, principal: Principal },
    /// To a coordinator: stop it, and forget its rows.
    CancelJob { job: JobId, principal: Principal },
    /// To a coordinator: what runs, and what ran lately.
    ObserveQueries,
    /// To a coordinator: its sub-queries.
    ObserveSubqueries,
    /// To any role actor: the supervision tree of its node.
    ObserveActors,
    /// To any role actor: the bounds of its node.
    ObserveBounds,
    /// To a coordinator: sources that have failed lately.
    ObserveCircuits,
    /// To any role actor: the last records of its node's audit chain.
    ObserveAudit,
    /// To a coordinator: what statements have used there.
    ObserveUsage,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlReply {
    Bearer(String),
    Decision(Decision),
    /// One for each table, in order.
    Discerned(Vec<Discerned>),
    Alive,
    Cancelled(bool),
    Progress(Option<Progress>),
    Queries {
        rows: Vec<QueryRow>,
        truncated: bool,
    },
    Subqueries {
        rows: Vec<SubqueryRow>,
        truncated: bool,
    },
    Actors {
        rows: Vec<ActorRow>,
        truncated: bool,
    },
    Bounds {
        rows: Vec<BoundRow>,
        truncated: bool,
    },
    Circuits {
        rows: Vec<CircuitRow>,
        truncated: bool,
    },
    Usage {
        rows: Vec<UsageRow>,
        truncated: bool,
    },
    Audit {
        rows: Vec<AuditRow>,
        truncated: bool,
    },
    Error(MeshError),
}

/// A coordinator without the mesh's keys asks one that has them. Only who holds the role is heard: it has checked that
/// the principal behind the request is an administrator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BearerRequest {
    pub claim: BearerClaim,
    /// Of `asker`, over [`BearerClaim::signed_bytes`].
    pub signature: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BearerClaim {
    pub asker: NodeId,
    /// Who is asked, so that nobody else can be asked with it.
    pub keeper: NodeId,
    pub asked_unix_ms: u64,
    pub principal: Principal,
    pub ttl_secs: u64,
}

impl BearerClaim {
    /// The purpose first, so that nothing else that a node's key signs is good for this.
    pub fn signed_bytes(&self) -> crate::Result<Vec<u8>> {
        Ok([b"greylag bearer\0".as_slice(), &crate::wire::encode(self, CONTROL_BYTES_MAX)?].concat())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecideRequest {
    pub query: QueryId,
    pub principal: Principal,
    pub action: Action,
    /// The door that the statement came by.
    pub origin: String,
    /// Full names of the tables touched, sorted, each once.
    pub tables: Vec<TableName>,
    /// Those of them that are asked about here: all, unless that would be too much for one message.
    pub asked: Vec<AskedTable>,
}

/// A table as a plan would see it. The decision is about these columns, whatever else has changed meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedTable {
    pub table: TableName,
    pub columns: WireSchema,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscernRequest {
    pub principal: Principal,
    pub origin: String,
    pub asked: Vec<AskedTable>,
}

/// What a principal may know of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discerned {
    /// That it is there.
    pub described: bool,
    /// Columns of which it may not know, sorted.
    pub hidden: Vec<String>,
    /// It may see all rows: how many there are is no secret.
    pub whole: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    Select,
    Describe,
    Explain,
    Manage,
}

impl Action {
    pub const fn as_str(self) -> &'static str {
        match self {
            Action::Select => "select",
            Action::Describe => "describe",
            Action::Explain => "explain",
            Action::Manage => "manage",
        }
    }
}

/// `source.schema.table`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    pub source: String,
    pub schema: String,
    pub table: String,
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.source, self.schema, self.table)
    }
}

/// A policy actor's answer about one query at one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub query: QueryId,
    pub verdict: Verdict,
    pub epoch: Epoch,
    /// Node whose policy actor decided.
    pub decided_by: NodeId,
    /// Tables that the statement touches: a plan may touch no other.
    pub tables: Vec<TableName>,
    /// Those of them that were decided about here.
    pub asked: Vec<TableName>,
    /// What must be done to the tables' rows and columns, for those to which something must be. Sorted by table.
    pub obligations: Vec<TableObligation>,
    /// Ids of the policies that determined the verdict, sorted.
    pub policies: Vec<String>,
    /// What policies that do not enforce would have changed.
    pub notices: Vec<Notice>,
}

impl Decision {
    /// Permits or denies the request as it stands, without obligations.
    pub fn plain(request: DecideRequest, verdict: Verdict, epoch: Epoch, decided_by: NodeId) -> Self {
        let (obligations, policies, notices) = (vec![], vec![], vec![]);
        Self {
            query: request.query,
            verdict,
            epoch,
            decided_by,
            tables: request.tables,
            asked: request.asked.into_iter().map(|asked| asked.table).collect(),
            obligations,
            policies,
            notices,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    Permit,
    Deny { reason: String },
}

/// A row of `system.queries`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryRow {
    pub query: QueryId,
    pub coordinator: NodeId,
    pub principal: String,
    pub organisation: Option<String>,
    pub agent: Option<String>,
    pub priority: Priority,
    pub door: String,
    /// `queued`, `deciding`, `planning`, `running`, `done`, `failed`, `cancelled`.
    pub state: String,
    /// Statement text, cut to 1,000 characters.
    pub sql: String,
    pub started_unix_ms: u64,
    /// Those that go first, while it waits for its turn.
    pub queue_position: Option<u32>,
    /// Epoch that it was decided at.
    pub epoch: Option<Epoch>,
    pub times: StepTimes,
    pub rows: u64,
    pub bytes: u64,
    /// Micro-credits charged so far.
    pub cost: u64,
    pub restarts: u32,
    pub error: Option<String>,
}

/// A row of `system.subqueries`: one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubqueryRow {
    pub query: QueryId,
    pub ordinal: u32,
    pub attempt: u32,
    pub source: String,
    pub edge: NodeId,
    /// Rule under which this attempt was started (`first`, `R0`, `R1`, `R2`, `R3`, `R4`, `R5`).
    pub rule: String,
    /// `running`, `done`, `failed`, `cancelled`.
    pub state: String,
    /// SQL sent, cut to 1,000 characters.
    pub sql: String,
    pub rows: u64,
    pub bytes: u64,
    pub elapsed_us: u64,
    pub error: Option<String>,
}

/// A row of `system.actors`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActorRow {
    pub node: NodeId,
    /// Name within the node, such as `edge/orders` or `query/…`.
    pub name: String,
    pub supervisor: String,
    /// `starting`, `running`, `backing off`, `stopped`.
    pub state: String,
    pub restarts: u32,
    pub last_failure: Option<String>,
}

/// A row of `system.bounds`: a limit, and how full it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundRow {
    pub node: NodeId,
    /// Key of the setting.
    pub name: String,
    /// What it bounds, where there are several of it; else empty.
    pub of: String,
    pub max: u64,
    pub used: u64,
    /// Most that was used at once.
    pub peak: u64,
    /// How often it was hit.
    pub refused: u64,
}

/// A row of `system.circuits`: a source behind an edge that has failed and has not answered since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CircuitRow {
    pub coordinator: NodeId,
    pub source: String,
    pub edge: NodeId,
    /// `closed` (asked as usual), `open` (left alone until `next_try_ms` have passed).
    pub state: String,
    /// In a row.
    pub failures: u32,
    /// Since the first of them.
    pub failing_ms: u64,
    pub next_try_ms: u64,
    pub error: String,
}

/// A row of `system.usage`: what the statements of one organisation and agent have used at one coordinator since its
/// node started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    pub coordinator: NodeId,
    pub since_unix_ms: u64,
    /// Empty for principals without one. `None`: all those for whom there was no room, of whatever organisation.
    pub organisation: Option<String>,
    pub agent: Option<String>,
    pub statements: u64,
    /// Refused or stopped because a quota was spent.
    pub refused: u64,
    pub rows_returned: u64,
    pub bytes_returned: u64,
    pub rows_scanned: u64,
    pub bytes_scanned: u64,
    pub source_ms: u64,
    pub cpu_ms: u64,
    /// Price of it all.
    pub microcredits: u64,
}

/// A row of `system.audit`: a record of a statement, or of an administrator's call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    pub node: NodeId,
    pub sequence: u64,
    pub at_unix_ms: u64,
    /// `statement`, `began`, `change`.
    pub kind: String,
    pub query: Option<QueryId>,
    pub principal: String,
    pub organisation: Option<String>,
    pub acts_for: Option<String>,
    pub agent: Option<String>,
    pub credential: Option<String>,
    pub door: String,
    /// Where the caller was, as the door saw it.
    pub client: Option<String>,
    /// `select`, `explain`, `describe`; the call's name for a change.
    pub action: String,
    /// Without literals; what a change was about.
    pub statement: String,
    pub tables: Vec<String>,
    /// `source.schema.table.column` of what the plan reads, `.*` where that is not known.
    pub columns: Vec<String>,
    pub decision: Option<DecisionRow>,
    /// Epochs before and after a change.
    pub epochs: Option<(u64, Option<u64>)>,
    pub rows: u64,
    pub bytes: u64,
    pub attempts: u32,
    /// Micro-credits.
    pub cost: u64,
    pub duration_us: u64,
    /// `done`, `failed`, `denied`, `cancelled`; none for one that has only begun.
    pub outcome: Option<String>,
    pub code: Option<String>,
}

/// What a row of `system.audit` and one of `system.decisions` tell of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRow {
    pub permitted: bool,
    pub reason: Option<String>,
    pub policies: Vec<String>,
    pub epoch: u64,
    pub decided_by: NodeId,
    /// Tables of which not all rows were seen.
    pub row_filters: Vec<String>,
    /// `table.column: mask`.
    pub masks: Vec<String>,
    /// `table.column`.
    pub hidden: Vec<String>,
    /// What policies that do not enforce would have changed.
    pub notices: Vec<String>,
}
