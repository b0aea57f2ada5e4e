//! Files of rows on the edge's own disk, read by DataFusion: Parquet, CSV, NDJSON.
//!
//! | option | meaning |
//! |---|---|
//! | `path` | a file, a folder, or a pattern, on the edge's node; see [`layout`] for the tables it makes |
//! | `format` | `auto` (default, by extension), `parquet`, `csv`, `ndjson` |
//! | `table` | all files are one table of this name |
//! | `types` | types that the files do not say: `orders.o_orderdate=date, orders.o_totalprice=decimal(15,2)` |
//! | `header` | whether the first line of CSV names the columns; `true` |
//! | `delimiter` | of CSV: one character, or `tab`; `,` |
//! | `null` | what stands for NULL in CSV; an empty field |
//! | `sample_rows` | rows at the beginning of each CSV and NDJSON file that its types are found from; 10000 |
//!
//! **Types.** Parquet says its types itself; views and dictionaries are delivered as plain values. CSV and NDJSON get
//! the narrowest type that a sample fits without loss (boolean, bigint, double, date, timestamp, else text), and `types`
//! overrides it. Every value is converted exactly; one further down that does not fit is GL3011 with file and line.
//! Part files of one table must agree: a Parquet column of two types is an error, one that a file lacks is NULL there.
//!
//! **Changes.** New files appear when the schema is read again. A sub-query runs over the files as they were when it
//! began, and fails (GL3002) if one of them was replaced, changed or removed before its last row.
//!
//! A file that cannot be a table (damaged, without a header, of two minds about its columns) makes the source fail with
//! its name in the message: a table that is silently missing would be harder to find.
//!
//! A Parquet file is read a row group at a time: the wanted columns of one row group are held in memory, per thread.
//!
//! Rows of a sub-query come in an order that depends on files and statement alone. Everything under `path` is readable
//! to whoever may query the source; links that lead out of it are refused.

mod csv;
mod describe;
mod fault;
mod layout;
mod ndjson;
mod provider;
mod rows;
mod run;
mod snapshot;
mod stop;
mod text_column;

#[cfg(test)]
mod files_test;

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize},
};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use greylag_actors::edge::port::{Connector, ConnectorQuery, Options};
use greylag_protocol::{
    MeshError, Result, SourceName,
    schema::{Dialect, SourceSchema},
    state::SourceSpec,
    statement::BatchStream,
};

use self::{csv::CsvOptions, layout::Format, snapshot::Snapshot};
use crate::{declared::DeclaredTypes, options::OptionReader};

/// Options that the kind `files` knows.
const OPTIONS: [&str; 8] = ["path", "format", "table", "types", "header", "delimiter", "null", "sample_rows"];
/// Rows of a sample, unless the option says otherwise.
const SAMPLE_ROWS: usize = 10_000;
/// Most that the option may say.
const SAMPLE_ROWS_MAX: usize = 10_000_000;

/// Checks the options without touching any file.
pub fn validate(spec: &SourceSpec) -> Result<()> {
    parse(spec, &spec.options).map(|_| ())
}

/// What the owner said about the files.
#[derive(Debug)]
struct Settings {
    path: String,
    /// `None` is by extension.
    format: Option<Format>,
    table: Option<String>,
    types: DeclaredTypes,
    csv: CsvOptions,
    sample_rows: usize,
}

fn parse(spec: &SourceSpec, options: &Options) -> Result<Settings> {
    let reader = OptionReader::new(spec, options, &OPTIONS)?;
    let path = reader.required("path")?;
    if !Path::new(path).is_absolute() {
        return Err(reader.invalid("option `path` must be absolute: it is looked up on the edge's node"));
    }
    let format = match reader.choice("format", &["auto", "parquet", "csv", "ndjson"])? {
        "parquet" => Some(Format::Parquet),
        "csv" => Some(Format::Csv),
        "ndjson" => Some(Format::Ndjson),
        _ => None,
    };
    let types = DeclaredTypes::parse(reader.raw("types").unwrap_or_default())
        .map_err(|error| reader.invalid(format!("option `types`: {error}")))?;
    let delimiter = match reader.text("delimiter").unwrap_or(",").as_bytes() {
        b"tab" | b"\\t" => b'\t',
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => *byte,
        _ => return Err(reader.invalid("option `delimiter` must be one ASCII character or `tab`, and no quote")),
    };
    let null = reader.raw("null").unwrap_or_default().as_bytes().to_vec();
    Ok(Settings {
        path: path.to_owned(),
        format,
        table: reader.text("table").map(str::to_owned),
        types,
        csv: CsvOptions { header: reader.flag("header", true)?, delimiter, null },
        sample_rows: reader.number("sample_rows", SAMPLE_ROWS, 1..=SAMPLE_ROWS_MAX)?,
    })
}

/// Files behind one path.
pub struct FilesConnector {
    source: Arc<Source>,
}

/// What all sub-queries of a source share.
struct Source {
    name: SourceName,
    settings: Arc<Settings>,
    snapshot: Mutex<Option<Arc<Snapshot>>>,
    /// Tasks of sub-queries that are alive.
    running: Arc<AtomicUsize>,
}

impl FilesConnector {
    /// GL3002 if nothing is there.
    pub async fn open(spec: &SourceSpec, options: Options) -> Result<Arc<dyn Connector>> {
        Ok(Arc::new(Self::connect(spec, options).await?))
    }

    async fn connect(spec: &SourceSpec, options: Options) -> Result<Self> {
        let settings = Arc::new(parse(spec, &options)?);
        let source = Source { name: spec.name.clone(), settings, snapshot: Mutex::default(), running: Arc::default() };
        let connector = Self { source: Arc::new(source) };
        connector.ping().await?;
        Ok(connector)
    }

    fn about(&self, error: MeshError) -> MeshError {
        error.of_source(self.source.name.clone())
    }
}

impl Source {
    /// The latest snapshot, or a first one.
    async fn snapshot(self: &Arc<Self>) -> Result<Arc<Snapshot>> {
        match self.latest() {
            Some(snapshot) => Ok(snapshot),
            None => self.fresh_snapshot().await,
        }
    }

    async fn fresh_snapshot(self: &Arc<Self>) -> Result<Arc<Snapshot>> {
        let (settings, before) = (self.settings.clone(), self.latest());
        let snapshot = Arc::new(blocking(move || Snapshot::take(&settings, before.as_deref())).await?);
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some(snapshot.clone());
        Ok(snapshot)
    }

    fn latest(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn is_current(&self, snapshot: &Arc<Snapshot>, tables: &BTreeSet<String>) -> Result<bool> {
        let (snapshot, tables) = (snapshot.clone(), tables.clone());
        blocking(move || snapshot.is_current(&tables)).await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let died = |error| MeshError::internal(format!("a thread that looks at files died: {error}"));
    tokio::task::spawn_blocking(work).await.map_err(died)?
}

#[async_trait]
impl Connector for FilesConnector {
    async fn schema(&self) -> Result<SourceSchema> {
        let snapshot = self.source.fresh_snapshot().await.map_err(|error| self.about(error))?;
        Ok(SourceSchema {
            source: self.source.name.clone(),
            kind: "files".to_owned(),
            dialect: Dialect::DataFusion,
            version: format!("DataFusion {}", datafusion::DATAFUSION_VERSION),
            default_schema: snapshot::SCHEMA.to_owned(),
            tables: snapshot.table_schemas(),
        })
    }

    async fn ping(&self) -> Result<()> {
        let settings = self.source.settings.clone();
        blocking(move || layout::reach(&settings.path)).await.map_err(|error| self.about(error))
    }

    async fn query(&self, query: ConnectorQuery) -> Result<BatchStream> {
        let name = self.source.name.clone();
        let rows = run::run(self.source.clone(), query).await.map_err(|error| self.about(error))?;
        Ok(rows.map_err(move |error| error.of_source(name.clone())).boxed())
    }
}
