//! The one port through which every door runs statements. A door turns bytes into these calls and results into
//! bytes; it decides nothing, plans nothing and holds no rows of its own.

use std::{net::IpAddr, pin::Pin, time::Duration};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use async_trait::async_trait;
use futures::Stream;
use serde::{Deserialize, Serialize};

use crate::{
    Result,
    admin::{CheckBeside, Explanation, KeyInfo, ResourceContent, ResourceId, WhyRequest},
    error::MeshError,
    ids::{JobId, NodeId, QueryId, SourceName},
    prefix::Prefix,
    principal::Principal,
    state::{
        AllowedRoles, AttributeKind, GovernanceSettings, Network, QuotaKey, RegisterOp, RegisterRequest, Scope,
        SourceSpec, TagPlace,
    },
};

/// Batches of one result, in order, ending after the last row or at the first error. Dropping it cancels the query.
pub type BatchStream = Pin<Box<dyn Stream<Item = Result<RecordBatch>> + Send>>;

/// Who asks, over which door, with what settings. Made by a door after it has authenticated the caller.
#[derive(Debug, Clone)]
pub struct Session {
    pub principal: Principal,
    /// Where the caller is, as the door sees it. `None`: in this process.
    pub client: Option<IpAddr>,
    /// Door's name for `system.queries`: `flight`.
    pub door: &'static str,
    pub options: SessionOptions,
}

/// Settings that a client may choose for its statements (`SET greylag.*`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOptions {
    pub delivery: Delivery,
    /// Longest time for a whole statement, from admission to last row; `None` is the node's own limit.
    pub timeout: Option<Duration>,
    /// Rows in a batch; also the unit of digests. At least 1.
    pub batch_rows: u32,
    /// The order of the result's rows is to depend on the statement and the data alone, so that another run can go on
    /// where this one was lost. It costs parallel work in the plan.
    pub resumable: bool,
    /// What the client has of the result already: the rows come from there on, or GL3012.
    pub resume: Prefix,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            delivery: Delivery::Streamed,
            timeout: None,
            batch_rows: 8192,
            resumable: false,
            resume: Prefix::default(),
        }
    }
}

/// How a sub-query's rows are released to the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// Held back up to the window, then released as they come.
    Streamed,
    /// Held back until the trailer has arrived, whatever the size.
    Spooled,
}

/// What is known about a statement without running it.
#[derive(Debug, Clone)]
pub struct StatementInfo {
    pub schema: SchemaRef,
    /// One field for each placeholder `$1`, `$2`, ...
    pub parameters: SchemaRef,
}

/// A running statement.
pub struct RunningStatement {
    pub query: QueryId,
    pub schema: SchemaRef,
    pub batches: BatchStream,
}

/// What has become of a statement in the background.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Where it runs, or ran.
    pub node: NodeId,
    /// Rows that can be fetched.
    pub rows: u64,
    pub state: JobState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobState {
    Running,
    Done,
    Failed(MeshError),
}

/// A change or question that is not SQL: resources, tokens, membership.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum AdminCall {
    /// Create or replace sources. `expect_version` 0 means that it must not exist yet.
    ApplySource {
        spec: SourceSpec,
        expect_version: Option<u64>,
    },
    DropSource {
        name: SourceName,
    },
    /// A join token for `uses` nodes, valid for `ttl_secs`. Those nodes may be asked to do no more than `allowed`.
    CreateJoinToken {
        uses: u32,
        ttl_secs: u64,
        #[serde(default)]
        allowed: AllowedRoles,
    },
    ListJoinTokens,
    RevokeJoinToken {
        id: String,
    },
    /// Takes a node out of the membership; its certificate is worth nothing from then on.
    RemoveNode {
        node: NodeId,
    },
    /// A bearer token for this principal, valid for `ttl_secs`, signed by the mesh.
    IssueBearer {
        principal: Principal,
        ttl_secs: u64,
    },
    /// Has a node leave its roles to others. It stays a member, and drains until it is taken back.
    DrainNode {
        node: NodeId,
    },
    /// Lets a node that drains take roles again.
    UndrainNode {
        node: NodeId,
    },
    /// A new authority signs certificates from now on. The former is trusted for at least so long.
    RotateAuthority {
        overlap_secs: u64,
    },
    /// A piece of the whole control state with the mesh's keys, from this byte on. Asked at a node that keeps the keys.
    SaveSnapshot {
        from: u64,
    },
    /// The value of a register after everything that was committed before the call, at whichever node it is asked.
    ReadRegister {
        name: String,
    },
    /// Changes a register. Who repeats a call because its answer was lost (GL4007, or no answer at all) gives the same
    /// `request` again; without one the change is a new one.
    ChangeRegister {
        name: String,
        op: RegisterOp,
        request: Option<RegisterRequest>,
    },
    /// Stores a policy, if it fits every table that this coordinator knows: else GL6003. `expect_version` as with sources,
    /// here and below.
    PutPolicy {
        id: String,
        text: String,
        expect_version: Option<u64>,
    },
    /// Whether a policy could be stored, if this were there too.
    CheckPolicy {
        id: String,
        text: String,
        #[serde(default)]
        beside: CheckBeside,
    },
    DropPolicy {
        id: String,
    },
    /// Puts a tag on these places and no others; none: it is dropped.
    PutTag {
        tag: String,
        places: Vec<TagPlace>,
        expect_version: Option<u64>,
    },
    /// Attributes of principals that policies use by name. `None`: it is declared no more.
    DeclareAttribute {
        name: String,
        kind: Option<AttributeKind>,
    },
    PutSettings {
        settings: Box<GovernanceSettings>,
        expect_version: Option<u64>,
    },
    /// Micro-credits in each period; `None`: no limit.
    SetQuota {
        key: QuotaKey,
        limit: Option<u64>,
    },
    /// A key that stands for this principal. Its secret is in the reply and nowhere else. `ttl_secs` `None`: until it is
    /// revoked.
    CreateKey {
        principal: Principal,
        scopes: Vec<Scope>,
        networks: Vec<Network>,
        ttl_secs: Option<u64>,
    },
    /// Keys in order of id, those after the one named.
    ListKeys {
        after: Option<String>,
    },
    RevokeKey {
        id: String,
    },
    /// A declared resource as it is.
    ShowResource {
        of: ResourceId,
    },
    /// What would come of a statement of somebody's, and why. Nothing is run.
    Why(Box<WhyRequest>),
}

/// A join token as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenInfo {
    pub id: String,
    pub uses_left: u32,
    /// `u64::MAX`: never.
    pub expires_unix_ms: u64,
    pub allowed: AllowedRoles,
}

/// Answer to an [`AdminCall`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum AdminReply {
    Applied {
        version: u64,
        changed: bool,
    },
    Token {
        token: String,
    },
    /// Without their secrets, which nobody is told again.
    Tokens(Vec<JoinTokenInfo>),
    /// A piece of a snapshot of so many `bytes`, whose SHA-256 is `digest`: another digest than before, another snapshot.
    Snapshot {
        hex: String,
        bytes: u64,
        digest: String,
    },
    /// A register as it was read, or as this change has made it. Version 0 and no value: there is none.
    Register {
        version: u64,
        value: Option<String>,
    },
    /// A new key, as it is presented to doors. Nobody is told again.
    Key {
        id: String,
        key: String,
    },
    Keys {
        keys: Vec<KeyInfo>,
        /// There are others after these.
        more: bool,
    },
    /// A policy could be stored, and reaches so many tables.
    Fits {
        tables: u64,
    },
    /// `None`: there is none.
    Resource(Option<ResourceContent>),
    Why(Box<Explanation>),
    Done,
}

/// What a coordinator offers to doors.
#[async_trait]
pub trait StatementService: Send + Sync + 'static {
    /// Parses, decides and plans, but runs nothing.
    async fn describe(&self, session: &Session, sql: &str) -> Result<StatementInfo>;
    /// Runs a statement. `parameters` has one row, one column for each placeholder.
    async fn execute(&self, session: &Session, sql: &str, parameters: Option<RecordBatch>) -> Result<RunningStatement>;
    /// Runs a statement in the background under this id, as a resumable one, and keeps its rows for a while. One that is
    /// known here or at another coordinator is not begun again.
    async fn submit(
        &self,
        session: &Session,
        job: JobId,
        sql: &str,
        parameters: Option<RecordBatch>,
    ) -> Result<Progress>;
    /// What has become of it, wherever it runs; waits up to `wait` for its end. `None` if no coordinator knows it.
    async fn progress(&self, session: &Session, job: JobId, wait: Duration) -> Result<Option<Progress>>;
    /// Its rows, as far as there are any and then as they come, after `options.resume`. `None` if it does not run here.
    async fn results(&self, session: &Session, job: JobId) -> Result<Option<RunningStatement>>;
    /// Stops it and forgets its rows, wherever it runs. False if no coordinator knows it.
    async fn cancel_job(&self, session: &Session, job: JobId) -> Result<bool>;
    /// Stops a query that this principal (or an admin) started. False if no such query runs here.
    async fn cancel(&self, session: &Session, query: QueryId) -> Result<bool>;
    /// Admin principals only.
    async fn admin(&self, session: &Session, call: AdminCall) -> Result<AdminReply>;
}
