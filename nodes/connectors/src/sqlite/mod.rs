//! SQLite database files, read in place.
//!
//! | option | meaning |
//! |---|---|
//! | `path` | the database file, on the edge's node |
//! | `types` | types of columns that the file does not declare, or declares otherwise: `orders.o_orderdate=date, ...` |
//! | `verify` | `none` (default), `all`, or tables by name: their columns are checked before SQLite's order is relied on |
//!
//! **Types.** SQLite lets any value into any column. Columns are read by their declared type: `INTEGER`, `REAL`, `TEXT`,
//! `BLOB` and their kin, `BOOLEAN` (0 and 1), `DATE` (text `YYYY-MM-DD`), `DATETIME` and `TIMESTAMP` (ISO text),
//! `DECIMAL(p,s)` (numbers, or text); `NUMERIC` without digits is a double. A value that does not fit is GL3011.
//!
//! **Order.** A filter, sort or join may run inside SQLite only on columns where SQLite's comparisons agree with Arrow's
//! (`order_is_binary`). A file enforces that for its row numbers (`INTEGER PRIMARY KEY`) and for the columns of `STRICT`
//! tables; elsewhere a `DATE` column could hold the text `yesterday`, and a filter would drop the row in silence.
//! `verify` closes that gap: the columns that a sub-query reads are read through once for each state of the file, and one
//! value that does not fit its type fails the sub-query with GL3011. It costs a scan of those columns after each
//! change of the file, so it is meant for files that change seldom. Timestamps, decimals of more than 15 digits, and text
//! under a collation other than `BINARY` keep no such promise.
//!
//! **Reading** is by threads of this process, one connection each, under SQLite's own locks. A sub-query sees one state
//! of the file. While it runs it holds a read lock: without WAL, writers of the file wait for it.
//!
//! A path may be a symbolic link; it is followed each time, and a file put in its place is noticed. Memory-mapped I/O
//! stays off: a file that shrinks would end the process.

mod affinity;
mod estimate;
mod fault;
mod keys;
mod pool;
mod run;
mod schema;
mod session;
mod stop;
mod value;
mod verify;

#[cfg(test)]
mod sqlite_test;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use greylag_actors::{
    bounds::Bound,
    edge::port::{Connector, ConnectorQuery, Options},
};
use greylag_protocol::{
    MeshError, Result, SourceName,
    schema::{Dialect, SourceSchema},
    state::SourceSpec,
    statement::BatchStream,
};

use self::{fault::fault, pool::Pool, session::Session, verify::Verifier};
use crate::{declared::DeclaredTypes, options::OptionReader};

/// Options that the kind `sqlite` knows.
const OPTIONS: [&str; 3] = ["path", "types", "verify"];

/// Checks the options without touching the file.
pub fn validate(spec: &SourceSpec) -> Result<()> {
    parse(spec, &spec.options).map(|_| ())
}

/// An opened database file.
pub struct SqliteConnector {
    source: Arc<Source>,
}

/// What all sub-queries of a source share.
struct Source {
    name: SourceName,
    settings: Settings,
    pool: Pool,
    verifier: Verifier,
}

/// What the owner said about the file.
struct Settings {
    types: DeclaredTypes,
    verify: Verify,
}

#[derive(Debug, PartialEq, Eq)]
enum Verify {
    None,
    All,
    Tables(Vec<String>),
}

impl Settings {
    /// Whether any column may need checking.
    fn checks(&self) -> bool {
        self.verify != Verify::None
    }

    fn verifies(&self, table: &str) -> bool {
        match &self.verify {
            Verify::None => false,
            Verify::All => true,
            Verify::Tables(names) => names.iter().any(|name| name.eq_ignore_ascii_case(table)),
        }
    }
}

fn parse(spec: &SourceSpec, options: &Options) -> Result<(PathBuf, Settings)> {
    let reader = OptionReader::new(spec, options, &OPTIONS)?;
    let path = PathBuf::from(reader.required("path")?);
    // Also keeps SQLite from reading a name such as `file:x?mode=rw` as a URI.
    if !path.is_absolute() {
        return Err(reader.invalid("option `path` must be absolute: it is looked up on the edge's node"));
    }
    let types = DeclaredTypes::parse(reader.raw("types").unwrap_or_default())
        .map_err(|error| reader.invalid(format!("option `types`: {error}")))?;
    let verify = match reader.text("verify").unwrap_or("none") {
        "none" => Verify::None,
        "all" => Verify::All,
        names => Verify::Tables(names.split(',').map(|name| name.trim().to_owned()).collect()),
    };
    Ok((path, Settings { types, verify }))
}

impl SqliteConnector {
    /// Opens the file once, to say at once what is wrong with it: GL3002 if it is not there, GL3003 if it is not a
    /// database.
    pub async fn open(spec: &SourceSpec, options: Options) -> Result<Arc<dyn Connector>> {
        Ok(Arc::new(Self::connect(spec, options).await?))
    }

    async fn connect(spec: &SourceSpec, options: Options) -> Result<Self> {
        let (path, settings) = parse(spec, &options)?;
        let pool = Pool::new(&spec.name, path);
        let source = Source { name: spec.name.clone(), settings, pool, verifier: Verifier::default() };
        let connector = Self { source: Arc::new(source) };
        connector.ping().await?;
        Ok(connector)
    }

    /// Runs `work` on one of the source's threads, with a connection.
    async fn with_session<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Source, &Session) -> Result<T> + Send + 'static,
    {
        let source = self.source.clone();
        let permit = source.pool.thread().await.map_err(|error| self.about(error))?;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let session = source.pool.checkout()?;
            let result = work(&source, &session);
            source.pool.checkin(session);
            result
        });
        match done.await {
            Ok(result) => result.map_err(|error| self.about(error)),
            Err(error) => Err(self.about(MeshError::internal(format!("a thread of an SQLite source died: {error}")))),
        }
    }

    fn about(&self, error: MeshError) -> MeshError {
        error.of_source(self.source.name.clone())
    }
}

#[async_trait]
impl Connector for SqliteConnector {
    fn bounds(&self) -> Vec<Arc<Bound>> {
        vec![self.source.pool.bound()]
    }

    async fn schema(&self) -> Result<SourceSchema> {
        self.with_session(|source, session| {
            Ok(SourceSchema {
                source: source.name.clone(),
                kind: "sqlite".to_owned(),
                dialect: Dialect::Sqlite,
                version: format!("SQLite {}", rusqlite::version()),
                default_schema: schema::SCHEMA.to_owned(),
                tables: schema::describe(session, &source.settings)?,
            })
        })
        .await
    }

    async fn ping(&self) -> Result<()> {
        self.with_session(|_, session| {
            let read = session.connection().query_row("PRAGMA schema_version", [], |row| row.get::<_, i64>(0));
            read.map(|_| ()).map_err(fault)
        })
        .await
    }

    async fn query(&self, query: ConnectorQuery) -> Result<BatchStream> {
        use futures::{StreamExt, TryStreamExt};
        let name = self.source.name.clone();
        let rows = run::run(self.source.clone(), query).await.map_err(|error| self.about(error))?;
        Ok(rows.map_err(move |error| error.of_source(name.clone())).boxed())
    }
}
