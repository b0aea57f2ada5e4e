//! A mesh in one process: sources that run sub-queries for real, a catalog that describes them as edges would, and an
//! opener that notes every sub-query it is asked for.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Schema, SchemaRef},
};
use async_trait::async_trait;
use datafusion::{
    catalog::MemorySchemaProvider, datasource::MemTable, execution::context::SQLOptions, prelude::SessionContext,
};
use futures::{StreamExt, TryStreamExt};
use greylag_actors::{
    planner::port::{
        Catalog, EdgeDirectory, ExecutablePlan, Permit, PlanRequest, QueryEngine, SubqueryOpener, SubqueryPlan,
        SystemTables, Touched,
    },
    policy,
};
use greylag_engine::{
    Engine, EngineConfig,
    session::{FilesConfig, for_files, reference},
};
use greylag_protocol::{
    Epoch, ErrorCode, MeshError, NodeId, QueryId, Result, SourceName,
    messages::control::{Action, AskedTable, DecideRequest, Decision, TableName, Verdict},
    obligation::TableObligation,
    principal::{Principal, PrincipalKind},
    schema::{Dialect, NativeColumn, SourceSchema, TableSchema, WireSchema},
    statement::{BatchStream, SessionOptions},
};

use crate::{data::Table, lite::Lite, live::Server};

/// Something that runs sub-queries.
enum Source {
    Files(SessionContext),
    Lite(Lite),
    Server(Server),
    /// Only planned for.
    Nobody,
}

pub struct World {
    pub engine: Engine,
    pub catalog: Arc<Catalog>,
    sources: Arc<BTreeMap<SourceName, Source>>,
    reference: SessionContext,
    obligations: Vec<TableObligation>,
    opened: Arc<Mutex<Vec<String>>>,
    /// Batches that are being read now.
    pub open_streams: Arc<AtomicUsize>,
}

/// For masks.
pub const SALT: &[u8] = b"as salty as the sea";

/// Sources by name, each with its dialect and tables.
pub type Split<'a> = &'a [(&'a str, Dialect, &'a [Table])];

impl World {
    pub fn new(split: Split<'_>) -> Self {
        Self::with_config(split, EngineConfig { batch_rows: 1000, ..EngineConfig::default() })
    }

    pub fn with_config(split: Split<'_>, config: EngineConfig) -> Self {
        let (mut catalog, mut sources) = (Catalog::default(), BTreeMap::new());
        let reference = reference();
        for (name, dialect, tables) in split {
            let name = SourceName::new(*name).unwrap();
            for table in *tables {
                let memory = MemTable::try_new(table.schema(), vec![table.batches.clone()]).unwrap();
                reference.register_table(format!("\"{}\"", table.name), Arc::new(memory)).unwrap();
            }
            catalog.sources.insert(name.clone(), Arc::new(describe(&name, *dialect, tables)));
            sources.insert(name, run(*dialect, tables));
        }
        Self {
            engine: Engine::new(config).unwrap(),
            catalog: Arc::new(catalog),
            sources: Arc::new(sources),
            reference,
            obligations: Vec::new(),
            opened: Arc::default(),
            open_streams: Arc::default(),
        }
    }

    /// From now on a table is governed, and plain DataFusion has what may be seen of it instead.
    pub fn govern(&mut self, table: &str, visible: &RecordBatch, obligations: Vec<TableObligation>) {
        let memory = MemTable::try_new(visible.schema(), vec![vec![visible.clone()]]).unwrap();
        let name = format!("\"{table}\"");
        self.reference.deregister_table(name.as_str()).unwrap();
        self.reference.register_table(name.as_str(), Arc::new(memory)).unwrap();
        self.obligations = obligations;
    }

    /// The same with a real server behind the source `one`.
    pub fn with_server(split: Split<'_>, server: Server) -> Self {
        let mut world = Self::new(split);
        let sources = Arc::get_mut(&mut world.sources).unwrap();
        sources.insert(SourceName::new("one").unwrap(), Source::Server(server));
        world
    }

    /// What plain DataFusion says.
    pub async fn expected(&self, sql: &str) -> std::result::Result<Vec<RecordBatch>, String> {
        let frame = self.reference.sql(sql).await.map_err(|e| e.to_string())?;
        frame.collect().await.map_err(|e| e.to_string())
    }

    pub fn touched(&self, sql: &str) -> Result<Touched> {
        self.engine.touched(sql, &self.catalog)
    }

    pub async fn plan(&self, sql: &str) -> Result<Arc<dyn ExecutablePlan>> {
        self.plan_with(sql, None, SessionOptions::default()).await
    }

    pub async fn plan_with(
        &self,
        sql: &str,
        parameters: Option<RecordBatch>,
        options: SessionOptions,
    ) -> Result<Arc<dyn ExecutablePlan>> {
        let touched = self.touched(sql)?;
        let permit = permit_with(touched.tables, &self.obligations);
        self.engine.plan(self.request(sql, permit, parameters, options)).await
    }

    pub fn request(
        &self,
        sql: &str,
        permit: Permit,
        parameters: Option<RecordBatch>,
        options: SessionOptions,
    ) -> PlanRequest {
        PlanRequest {
            permit,
            sql: sql.to_owned(),
            parameters,
            catalog: Arc::clone(&self.catalog),
            options,
            system: Arc::new(System(Arc::clone(&self.catalog))),
            edges: Arc::new(Edges),
            pins: Vec::new(),
            steps: Vec::new(),
        }
    }

    pub fn opener(&self) -> Arc<dyn SubqueryOpener> {
        Arc::new(Opener {
            sources: Arc::clone(&self.sources),
            opened: Arc::clone(&self.opened),
            open_streams: Arc::clone(&self.open_streams),
        })
    }

    /// The answer of the mesh.
    pub async fn answer(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        self.plan(sql).await?.execute(self.opener())?.try_collect().await
    }

    /// Texts of the sub-queries of a statement, `source: sql`, in order.
    pub async fn pushed(&self, sql: &str) -> Vec<String> {
        let plan = self.plan(sql).await.unwrap_or_else(|e| panic!("{e}\n{sql}"));
        plan.subqueries().iter().map(|s| format!("{}: {}", s.source, s.sql)).collect()
    }

    /// Sub-queries opened since the last call.
    pub fn take_opened(&self) -> Vec<String> {
        std::mem::take(&mut self.opened.lock().unwrap())
    }
}

/// A permit for exactly these tables, as a policy actor would have given it.
pub fn permit(tables: Vec<TableName>) -> Permit {
    permit_with(tables, &[])
}

/// The same, with what is asked of those tables.
fn permit_with(tables: Vec<TableName>, obligations: &[TableObligation]) -> Permit {
    let query = QueryId(uuid::Uuid::from_u128(1));
    let principal =
        Principal { id: "ada".into(), kind: PrincipalKind::Person, roles: vec![], attributes: BTreeMap::new() };
    let columns = || WireSchema(Arc::new(Schema::empty()));
    let asked = tables.iter().map(|table| AskedTable { table: table.clone(), columns: columns() }).collect();
    let origin = "test".to_owned();
    let asked = DecideRequest { query, principal, action: Action::Select, origin, tables, asked };
    let obligations = obligations.iter().filter(|o| asked.tables.contains(&o.table)).cloned().collect();
    let decision = Decision { obligations, ..Decision::plain(asked.clone(), Verdict::Permit, Epoch(1), NodeId(1)) };
    policy::port::permit(vec![(asked, decision)], &Arc::from(SALT)).unwrap()
}

fn describe(name: &SourceName, dialect: Dialect, tables: &[Table]) -> SourceSchema {
    let mut tables: Vec<TableSchema> = tables
        .iter()
        .map(|table| TableSchema {
            schema: schema_of(dialect).into(),
            name: table.name.clone(),
            columns: arrow::datatypes::Schema::clone(&table.schema()).into(),
            native: table.schema().fields().iter().map(|field| native(dialect, field.data_type())).collect(),
            primary_key: if dialect == Dialect::DataFusion { vec![] } else { table.key.clone() },
            unique: vec![],
            rows: Some(table.batches.iter().map(|batch| batch.num_rows() as u64).sum()),
            bytes: None,
            unsupported: vec![("mystery".into(), "tsvector".into())],
        })
        .collect();
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    SourceSchema {
        source: name.clone(),
        kind: format!("{dialect:?}").to_lowercase(),
        dialect,
        version: "1".into(),
        default_schema: schema_of(dialect).into(),
        tables,
    }
}

/// The schema that a source's tables are in. In MySQL it is the database, and the tests have one.
pub fn schema_of(dialect: Dialect) -> &'static str {
    if dialect == Dialect::MySql { "greylag_test" } else { "main" }
}

/// As the connectors say, SQLite's after it has verified the stored values.
fn native(dialect: Dialect, data_type: &DataType) -> NativeColumn {
    let type_name = match (dialect, data_type) {
        (Dialect::Postgres, DataType::Utf8) => "character varying(25)".into(),
        (Dialect::MySql, DataType::Utf8) => "varchar(25)".into(),
        (_, other) => other.to_string(),
    };
    let order_is_binary = match (dialect, data_type) {
        (Dialect::DataFusion, _) => true,
        (Dialect::Postgres, DataType::Float64 | DataType::Utf8) | (Dialect::MySql, DataType::Utf8) => false,
        (Dialect::Sqlite, DataType::Timestamp(..)) => false,
        _ => true,
    };
    NativeColumn { type_name, order_is_binary, distinct: None }
}

fn run(dialect: Dialect, tables: &[Table]) -> Source {
    match dialect {
        Dialect::Sqlite => Source::Lite(Lite::load(tables)),
        Dialect::DataFusion => {
            let config = FilesConfig { target_partitions: 2, batch_rows: 700, memory_bytes_max: 1 << 30 };
            let session = for_files(&config).unwrap();
            let catalog = session.catalog("datafusion").unwrap();
            catalog.register_schema("main", Arc::new(MemorySchemaProvider::new())).unwrap();
            for table in tables {
                let memory = MemTable::try_new(table.schema(), vec![table.batches.clone()]).unwrap();
                session.register_table(format!("main.\"{}\"", table.name), Arc::new(memory)).unwrap();
            }
            Source::Files(session)
        }
        Dialect::Postgres | Dialect::MySql => Source::Nobody,
    }
}

struct Opener {
    sources: Arc<BTreeMap<SourceName, Source>>,
    opened: Arc<Mutex<Vec<String>>>,
    open_streams: Arc<AtomicUsize>,
}

/// Counts a stream for as long as it lives.
pub struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl SubqueryOpener for Opener {
    async fn open(&self, subquery: &SubqueryPlan) -> Result<BatchStream> {
        self.opened.lock().unwrap().push(subquery.sql.clone());
        let counted = Counted::new(&self.open_streams);
        let failed = |e: String| MeshError::new(ErrorCode::SourceRefused, format!("{e} in {}", subquery.sql));
        let batches = match &self.sources[&subquery.source] {
            Source::Nobody => return Err(failed("nobody runs this".into())),
            Source::Server(server) => server.query(&subquery.sql, &subquery.schema).await.map_err(failed)?,
            Source::Lite(lite) => lite.query(&subquery.sql, &subquery.schema).map_err(failed)?,
            Source::Files(session) => {
                let only_queries =
                    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
                let frame =
                    session.sql_with_options(&subquery.sql, only_queries).await.map_err(|e| failed(e.to_string()))?;
                frame.collect().await.map_err(|e| failed(e.to_string()))?
            }
        };
        let schema = Arc::clone(&subquery.schema);
        let batches = batches.into_iter().map(move |batch| Ok(as_asked(&batch, &schema)));
        Ok(futures::stream::iter(batches.collect::<Vec<_>>())
            .inspect(move |_| {
                let _held = &counted;
            })
            .boxed())
    }
}

/// What the edge does: exactly the types that were asked for, or a panic.
fn as_asked(batch: &RecordBatch, schema: &SchemaRef) -> RecordBatch {
    assert_eq!(batch.num_columns(), schema.fields().len());
    let strict = CastOptions { safe: false, ..Default::default() };
    let columns: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| cast_with_options(column, field.data_type(), &strict).unwrap())
        .collect();
    RecordBatch::try_new(Arc::clone(schema), columns).unwrap()
}

/// The mesh's own tables, over the catalog that the statement was given.
pub struct System(Arc<Catalog>);

impl System {
    fn nodes() -> RecordBatch {
        let names = [Some("a"), None, Some("c")].into_iter().collect::<StringArray>();
        RecordBatch::try_from_iter_with_nullable([
            ("node", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef, false),
            ("name", Arc::new(names), true),
        ])
        .unwrap()
    }

    fn tables(&self) -> RecordBatch {
        let mut rows = vec![["greylag", "system", "nodes"]];
        for source in self.0.sources.values() {
            rows.extend(source.tables.iter().map(|t| [source.source.as_str(), t.schema.as_str(), t.name.as_str()]));
        }
        let column =
            |part: usize| Arc::new(rows.iter().map(|row| Some(row[part])).collect::<StringArray>()) as ArrayRef;
        RecordBatch::try_from_iter(["source", "schema", "name"].into_iter().enumerate().map(|(at, n)| (n, column(at))))
            .unwrap()
    }
}

#[async_trait]
impl SystemTables for System {
    fn schemas(&self) -> Vec<(&'static str, SchemaRef)> {
        vec![("nodes", Self::nodes().schema()), ("tables", self.tables().schema())]
    }

    async fn rows(&self, table: &str) -> Result<RecordBatch> {
        match table {
            "nodes" => Ok(Self::nodes()),
            "tables" => Ok(self.tables()),
            other => panic!("no such table: {other}"),
        }
    }
}

struct Edges;

impl EdgeDirectory for Edges {
    fn edges(&self, source: &SourceName) -> Vec<NodeId> {
        if source.as_str() == "lonely" { vec![] } else { vec![NodeId(2), NodeId(3)] }
    }
}
