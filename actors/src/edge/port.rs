//! The port behind which sources stand. A connector implements [`Connector`]; the edge role opens it, and is the only
//! one to do so.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use greylag_protocol::{
    Result, messages::edge::Keyset, prefix::Prefix, schema::SourceSchema, state::SourceSpec, statement::BatchStream,
};
use tokio_util::sync::CancellationToken;

use crate::bounds::Bound;

/// One sub-query, as a connector sees it.
#[derive(Debug, Clone)]
pub struct ConnectorQuery {
    /// In the source's own dialect; one `SELECT`.
    pub sql: String,
    /// Types and names that the batches must have, by position. A value that does not fit is GL3011, a column that
    /// cannot be converted GL3006.
    pub schema: SchemaRef,
    /// Rows of every batch but the last. (The connector may send other sizes: the edge re-cuts them.)
    pub batch_rows: usize,
    /// Time left.
    pub timeout: Duration,
    /// Fires when nobody wants the rows any more: the statement must be stopped in the database, not only dropped.
    pub cancel: CancellationToken,
    /// For the source's own log, where it has a place for it.
    pub label: String,
}

/// An opened source. Read-only by construction.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Tables, types, keys and estimates.
    async fn schema(&self) -> Result<SourceSchema>;
    /// A round trip to the source itself.
    async fn ping(&self) -> Result<()>;
    /// Runs a sub-query. Errors before and in the stream are typed: GL3002 (try elsewhere or again), GL3010 (later),
    /// GL3003 (never). Dropping the stream cancels like `cancel` does.
    async fn query(&self, query: ConnectorQuery) -> Result<BatchStream>;
    /// Runs a sub-query that is ordered by a key, and names the content that its rows come from, if the source can.
    /// With `keyset.after`, if the content has that name still, runs that instead.
    async fn query_by_key(&self, query: ConnectorQuery, keyset: Keyset) -> Result<EdgeRows> {
        let _ = keyset;
        self.query(query).await.map(EdgeRows::plain)
    }
    /// What it has a limited number of, such as connections: shown in `system.bounds` while it is open.
    fn bounds(&self) -> Vec<Arc<Bound>> {
        Vec::new()
    }
}

/// The answer to a sub-query, and what is known of its content.
pub struct EdgeRows {
    pub rows: BatchStream,
    /// See `EdgeReply::Began`.
    pub snapshot: Option<String>,
    pub after_key: bool,
}

impl EdgeRows {
    /// Of a source that cannot name its content.
    pub fn plain(rows: BatchStream) -> Self {
        Self { rows, snapshot: None, after_key: false }
    }
}

/// Opens sources by kind.
#[async_trait]
pub trait ConnectorFactory: Send + Sync + 'static {
    /// Kinds it knows.
    fn kinds(&self) -> Vec<&'static str>;
    /// Checks a resource without opening anything: GL6002 naming the field.
    fn validate(&self, spec: &SourceSpec) -> Result<()>;
    /// Opens it. `secrets` resolves references of the form `env:NAME` and `file:/path`.
    async fn open(&self, spec: &SourceSpec, secrets: &dyn Secrets) -> Result<Arc<dyn Connector>>;
}

/// Resolves credential references on this node.
pub trait Secrets: Send + Sync {
    /// The value behind a reference. GL6002 for a value that is not a reference, or a reference to nothing.
    fn resolve(&self, reference: &str) -> Result<String>;
}

/// Options of a source that hold credentials and therefore must be references, for every kind.
pub const SECRET_OPTIONS: [&str; 3] = ["password", "url", "token"];

/// Options after resolution, for a connector's own parsing.
pub type Options = BTreeMap<String, String>;

/// A sub-query for an edge of this very node: what is left of a `Subquery` when nothing has to cross a network.
#[derive(Debug, Clone)]
pub struct LocalSubquery {
    pub sql: String,
    pub schema: SchemaRef,
    pub batch_rows: usize,
    pub timeout: Duration,
    pub label: String,
    /// What has been used of an earlier attempt: left out, if this one begins with the same, else GL3012.
    pub resume: Prefix,
    pub keyset: Option<Keyset>,
}

/// An edge role on this node, found in the directory as a handle of `Role::Edge`. Edge calls of other nodes end here
/// too, once their signatures have been checked.
#[async_trait]
pub trait LocalEdge: Send + Sync + 'static {
    /// Waits its turn, then runs the sub-query. Batches have exactly `batch_rows` rows but the last, which has at least
    /// one; the end of the stream means that all rows have come. Dropping the future or the stream stops the source.
    async fn query(&self, subquery: LocalSubquery) -> Result<EdgeRows>;
    async fn schema(&self, timeout: Duration) -> Result<SourceSchema>;
    /// Time the source took to answer.
    async fn ping(&self, timeout: Duration) -> Result<Duration>;
}
