//! The port behind which the query engine stands. The engine implements [`QueryEngine`]; the planner role calls it and
//! hands the finished plan to the coordinator; the plan calls back through [`SubqueryOpener`] for every scan of a
//! source.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use async_trait::async_trait;
use greylag_protocol::{
    Epoch, NodeId, QueryId, Result, SourceName,
    messages::control::{Action, Decision, TableName},
    obligation::{Notice, TableObligation},
    schema::SourceSchema,
    statement::{BatchStream, SessionOptions},
    step::{Step, StepTimes},
};

/// What all sources offer, as one statement sees it from its first step to its last.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    pub sources: BTreeMap<SourceName, Arc<SourceSchema>>,
    /// Sources that are declared but whose schema could not be had, with the reason.
    pub unavailable: BTreeMap<SourceName, greylag_protocol::MeshError>,
}

/// What a parsed statement wants to do, before anybody has decided whether it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    pub action: Action,
    /// Sorted, each once. `system` tables have the source `greylag` and the schema `system`.
    pub tables: Vec<TableName>,
    /// The statement with a `?` in place of each literal, for the audit.
    pub redacted: String,
}

/// Proof that a policy actor permitted this statement. Only the policy role can make one; the engine refuses
/// (GL2005) to plan a table that it does not list.
#[derive(Debug, Clone)]
pub struct Permit {
    query: QueryId,
    epoch: Epoch,
    tables: Vec<TableName>,
    /// Sorted by table.
    obligations: Vec<TableObligation>,
    /// For masks that keep equal values equal.
    salt: Arc<[u8]>,
    grounds: Arc<Grounds>,
}

/// Why a statement is permitted, for `EXPLAIN` and the audit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grounds {
    /// Nodes whose policy actors decided, each once.
    pub decided_by: Vec<NodeId>,
    /// Ids of the policies that determined it, sorted.
    pub policies: Vec<String>,
    /// What policies that do not enforce would have changed.
    pub notices: Vec<Notice>,
}

impl Grounds {
    /// The grounds of one more decision about the same statement.
    pub(crate) fn add(&mut self, decision: &Decision) {
        if !self.decided_by.contains(&decision.decided_by) {
            self.decided_by.push(decision.decided_by);
        }
        self.policies.extend(decision.policies.iter().cloned());
        self.policies.sort();
        self.policies.dedup();
        self.notices.extend(decision.notices.iter().cloned());
    }
}

impl Permit {
    /// Crate-private on purpose: see `policy`.
    pub(crate) fn new(query: QueryId, epoch: Epoch, tables: Vec<TableName>) -> Self {
        let (obligations, salt, grounds) = (Vec::new(), Arc::from([]), Arc::default());
        Self { query, epoch, tables, obligations, salt, grounds }
    }
    /// With what is asked of the statement's tables.
    pub(crate) fn with_obligations(self, obligations: Vec<TableObligation>, salt: Arc<[u8]>) -> Self {
        Self { obligations, salt, ..self }
    }
    pub(crate) fn on(self, grounds: Grounds) -> Self {
        Self { grounds: Arc::new(grounds), ..self }
    }
    pub fn grounds(&self) -> &Grounds {
        &self.grounds
    }
    pub fn query(&self) -> QueryId {
        self.query
    }
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
    pub fn covers(&self, table: &TableName) -> bool {
        self.tables.contains(table)
    }
    /// What is asked of one table, if anything is.
    pub fn obligation(&self, table: &TableName) -> Option<&TableObligation> {
        self.obligations.iter().find(|obligation| obligation.table == *table)
    }
    pub fn obligations(&self) -> &[TableObligation] {
        &self.obligations
    }
    pub fn salt(&self) -> &Arc<[u8]> {
        &self.salt
    }
}

/// A statement to plan.
pub struct PlanRequest {
    pub permit: Permit,
    pub sql: String,
    /// One row, one column for each placeholder.
    pub parameters: Option<RecordBatch>,
    pub catalog: Arc<Catalog>,
    pub options: SessionOptions,
    /// Content of `system.*`, read when the plan runs.
    pub system: Arc<dyn SystemTables>,
    /// Names a live edge for `EXPLAIN`.
    pub edges: Arc<dyn EdgeDirectory>,
    pub pins: Vec<Pin>,
    /// What `EXPLAIN` says of the steps that are not the engine's.
    pub steps: Vec<(Step, String)>,
}

/// The state in which a table is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    pub table: TableName,
    /// As the source names it.
    pub snapshot: String,
}

/// What a sub-query will probably send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    pub rows: u64,
    pub bytes: u64,
}

/// One sub-query of a finished plan, for `EXPLAIN` and for the coordinator.
#[derive(Debug, Clone)]
pub struct SubqueryPlan {
    /// Position in plan order, from 0.
    pub ordinal: u32,
    pub source: SourceName,
    /// In the source's dialect.
    pub sql: String,
    pub schema: SchemaRef,
    /// Whether the consumer needs the whole output before it can use any of it (join build side, scalar sub-query):
    /// then holding it back to the trailer costs nothing.
    pub blocks_consumer: bool,
    /// If it is one table in the order of a key: how it can go on after a key's value.
    pub keyset: Option<KeysetPlan>,
    /// `None`: nothing is known.
    pub estimate: Option<Estimate>,
}

/// The rows of one table, in ascending order of an integer column that is unique and never NULL (R2).
#[derive(Debug, Clone)]
pub struct KeysetPlan {
    /// The key's position in the sub-query's schema.
    pub column: usize,
    /// As the source's schema names them.
    pub schema: String,
    pub table: String,
    pub rest: Arc<dyn RestAfter>,
}

/// Writes the sub-query for the rows after a key.
pub trait RestAfter: Send + Sync + std::fmt::Debug {
    /// In the source's dialect.
    fn sql(&self, key: i64) -> Result<String>;
}

/// Opens sub-queries for a running plan. Given by the coordinator; restarts happen behind it.
#[async_trait]
pub trait SubqueryOpener: Send + Sync {
    /// Batches of the sub-query, each row exactly once, or an error after which the query cannot go on.
    async fn open(&self, subquery: &SubqueryPlan) -> Result<BatchStream>;
}

/// Content of `system.*`.
#[async_trait]
pub trait SystemTables: Send + Sync {
    /// Names and schemas of the system tables.
    fn schemas(&self) -> Vec<(&'static str, SchemaRef)>;
    async fn rows(&self, table: &str) -> Result<RecordBatch>;
}

/// Who would serve a source now.
pub trait EdgeDirectory: Send + Sync {
    fn edges(&self, source: &SourceName) -> Vec<greylag_protocol::NodeId>;
}

/// Columns of one table that a plan reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnsRead {
    pub table: TableName,
    /// In the table's order, those of row filters and masks among them; none where rows are only counted.
    pub columns: Vec<String>,
}

/// A plan that can be executed any number of times, each time from the start.
pub trait ExecutablePlan: Send + Sync {
    fn schema(&self) -> SchemaRef;
    fn parameters(&self) -> SchemaRef;
    fn subqueries(&self) -> Vec<SubqueryPlan>;
    /// Time that row filters and masks took to put into it.
    fn times(&self) -> StepTimes {
        StepTimes::default()
    }
    /// Each table that it reads, once. `None` if that is not known.
    fn reads(&self) -> Option<&[ColumnsRead]> {
        None
    }
    /// Starts it. Work is done only as the stream is polled (and on tasks that end when it is dropped).
    fn execute(&self, opener: Arc<dyn SubqueryOpener>) -> Result<BatchStream>;
}

/// The query engine.
#[async_trait]
pub trait QueryEngine: Send + Sync + 'static {
    /// Parses, refuses what is not a query, and resolves the tables it names against the catalog (see the engine for
    /// how one-part and two-part names resolve). Errors: GL1001, GL1002, GL1005, GL1006, GL1009, GL3001.
    fn touched(&self, sql: &str, catalog: &Catalog) -> Result<Touched>;
    async fn plan(&self, request: PlanRequest) -> Result<Arc<dyn ExecutablePlan>>;
}

/// The planner role on this node, found in the directory as a handle of `Role::Planner`.
#[async_trait]
pub trait Planner: Send + Sync + 'static {
    /// Plans a statement. GL2005 unless the permit is this query's and covers every table that the statement names.
    async fn plan(&self, query: QueryId, request: PlanRequest) -> Result<Arc<dyn ExecutablePlan>>;
}
