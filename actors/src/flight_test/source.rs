//! A source of made-up rows whose edges can be told to fail, and which counts what is done to it. Every edge gives the
//! rows in an order of its own, so that rows of two attempts mixed together never add up.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use arrow::{
    array::{Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use async_trait::async_trait;
use futures::StreamExt;
use greylag_protocol::{
    ErrorCode, MeshError, Result, SourceName,
    messages::edge::Keyset,
    schema::{Dialect, NativeColumn, SourceSchema, TableSchema, WireSchema},
    state::SourceSpec,
    statement::BatchStream,
};
use tokio::sync::Notify;

use crate::edge::port::{Connector, ConnectorFactory, ConnectorQuery, EdgeRows, Secrets};

/// What an edge does with a sub-query.
#[derive(Debug, Clone)]
pub enum Act {
    /// After so many rows, this error.
    FailAfter(u64, MeshError),
    PanicAfter(u64),
    /// After so many rows nothing more, until the sub-query is stopped.
    HangAfter(u64),
    /// After so many rows it waits until `FakeSource::lose` is called, and fails.
    FailWhenTold(u64),
    /// Does not even begin.
    HangAtOnce,
    FailAtOnce(MeshError),
}

#[derive(Default)]
struct Script {
    /// By edge, in the order of its sub-queries. One without an act is served well.
    acts: BTreeMap<usize, VecDeque<Act>>,
    /// Edges in the order in which they were asked.
    asked: Vec<usize>,
    cancelled: Vec<Instant>,
}

/// Shared by all edges of a test.
pub struct FakeSource {
    pub rows: u64,
    /// Rows handed to edges so far.
    pub produced: AtomicU64,
    /// Sub-queries that have begun and not ended.
    pub live: AtomicU64,
    /// Whether all edges give the rows in one order.
    pub one_order: AtomicBool,
    /// Name of the content that the rows come from, if the source tells it.
    pub snapshot: Mutex<Option<String>>,
    /// Told when an edge begins to hang.
    pub hanging: Notify,
    told: Notify,
    script: Mutex<Script>,
}

impl FakeSource {
    pub fn new(rows: u64) -> Arc<Self> {
        Arc::new(Self {
            rows,
            produced: AtomicU64::new(0),
            live: AtomicU64::new(0),
            one_order: AtomicBool::new(false),
            snapshot: Mutex::default(),
            hanging: Notify::new(),
            told: Notify::new(),
            script: Mutex::default(),
        })
    }

    pub fn tell(&self, edge: usize, act: Act) {
        self.script.lock().unwrap().acts.entry(edge).or_default().push_back(act);
    }

    /// Takes back what edges were told and have not done yet.
    pub fn forget(&self) {
        self.script.lock().unwrap().acts.clear();
    }

    /// Has those fail that wait for it.
    pub fn lose(&self) {
        self.told.notify_waiters();
    }

    pub fn asked(&self) -> Vec<usize> {
        self.script.lock().unwrap().asked.clone()
    }

    /// When sub-queries were told to stop.
    pub fn cancelled(&self) -> Vec<Instant> {
        self.script.lock().unwrap().cancelled.clone()
    }

    pub fn live(&self) -> u64 {
        self.live.load(Ordering::SeqCst)
    }
}

/// Before the key after which rows are wanted.
pub const AFTER: &str = "SELECT AFTER ";

pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, false), Field::new("v", DataType::Utf8, true)]))
}

/// The row's second value.
pub fn value(k: i64) -> Option<String> {
    (k % 7 != 0).then(|| format!("value {k}"))
}

/// The connectors of one node.
pub struct FakeConnectors {
    pub edge: usize,
    pub source: Arc<FakeSource>,
}

#[async_trait]
impl ConnectorFactory for FakeConnectors {
    fn kinds(&self) -> Vec<&'static str> {
        vec!["fake"]
    }

    fn validate(&self, spec: &SourceSpec) -> Result<()> {
        match spec.options.contains_key("wrong") {
            true => Err(MeshError::new(ErrorCode::InvalidResource, "option `wrong` is not known")),
            false => Ok(()),
        }
    }

    async fn open(&self, spec: &SourceSpec, _secrets: &dyn Secrets) -> Result<Arc<dyn Connector>> {
        if spec.options.contains_key("closed") {
            return Err(MeshError::new(ErrorCode::SourceUnreachable, "the source is closed"));
        }
        Ok(Arc::new(FakeConnector { name: spec.name.clone(), edge: self.edge, source: self.source.clone() }))
    }
}

struct FakeConnector {
    name: SourceName,
    edge: usize,
    source: Arc<FakeSource>,
}

/// Counts a sub-query for as long as it lives.
struct Live(Arc<FakeSource>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Connector for FakeConnector {
    async fn schema(&self) -> Result<SourceSchema> {
        let native = vec![NativeColumn::default(), NativeColumn::default()];
        let table = TableSchema {
            schema: "main".into(),
            name: "t".into(),
            columns: WireSchema(schema()),
            native,
            primary_key: vec!["k".into()],
            unique: Vec::new(),
            rows: Some(self.source.rows),
            bytes: None,
            unsupported: Vec::new(),
        };
        Ok(SourceSchema {
            source: self.name.clone(),
            kind: "fake".into(),
            dialect: Dialect::Sqlite,
            version: "1".into(),
            default_schema: "main".into(),
            tables: vec![table],
        })
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn query_by_key(&self, query: ConnectorQuery, keyset: Keyset) -> Result<EdgeRows> {
        let snapshot = self.source.snapshot.lock().unwrap().clone();
        let after = keyset.after.filter(|after| snapshot.as_ref() == Some(&after.snapshot));
        let (after_key, sql) = (after.is_some(), after.map_or(query.sql, |after| after.sql));
        let rows = self.query(ConnectorQuery { sql, ..query }).await?;
        Ok(EdgeRows { rows, snapshot, after_key })
    }

    async fn query(&self, query: ConnectorQuery) -> Result<BatchStream> {
        let source = self.source.clone();
        let first = query.sql.strip_prefix(AFTER).map_or(0, |key| key.parse::<u64>().unwrap() + 1);
        let act = {
            let mut script = source.script.lock().unwrap();
            script.asked.push(self.edge);
            script.acts.get_mut(&self.edge).and_then(VecDeque::pop_front)
        };
        source.live.fetch_add(1, Ordering::SeqCst);
        let live = Live(source.clone());
        let (watched, cancel) = (source.clone(), query.cancel.clone());
        tokio::spawn(async move {
            cancel.cancelled().await;
            watched.script.lock().unwrap().cancelled.push(Instant::now());
        });
        match &act {
            Some(Act::FailAtOnce(error)) => return Err(error.clone()),
            Some(Act::HangAtOnce) => {
                source.hanging.notify_one();
                std::future::pending::<()>().await;
            }
            _ => {}
        }
        // Batches of a size that is not the one asked for.
        let step = (query.batch_rows as u64 * 2 / 3).max(1);
        let edge = if source.one_order.load(Ordering::SeqCst) { 0 } else { self.edge };
        Ok(futures::stream::unfold((first, live), move |(sent, live)| {
            let (source, act) = (source.clone(), act.clone());
            async move {
                let until = match &act {
                    Some(Act::FailAfter(rows, _) | Act::PanicAfter(rows) | Act::HangAfter(rows)) => *rows,
                    Some(Act::FailWhenTold(rows)) => *rows,
                    _ => source.rows,
                };
                if sent == until {
                    return match act {
                        Some(Act::FailAfter(_, error)) => Some((Err(error), (u64::MAX, live))),
                        Some(Act::PanicAfter(_)) => panic!("the connector was told to panic"),
                        Some(Act::FailWhenTold(_)) => {
                            let told = source.told.notified();
                            source.hanging.notify_one();
                            told.await;
                            let error = MeshError::new(ErrorCode::SourceUnreachable, "told to fail");
                            Some((Err(error), (u64::MAX, live)))
                        }
                        Some(Act::HangAfter(_)) => {
                            source.hanging.notify_one();
                            std::future::pending().await
                        }
                        _ => None,
                    };
                }
                if sent > source.rows {
                    return None;
                }
                let rows = step.min(until - sent);
                source.produced.fetch_add(rows, Ordering::SeqCst);
                Some((Ok(batch(edge, source.rows, sent, rows)), (sent + rows, live)))
            }
        })
        .boxed())
    }
}

/// Rows `from..from + rows` of this edge's own order.
pub fn batch(edge: usize, all: u64, from: u64, rows: u64) -> RecordBatch {
    let keys: Vec<i64> = (from..from + rows).map(|n| ((n + edge as u64 * all / 3) % all) as i64).collect();
    let values: StringArray = keys.iter().map(|k| value(*k)).collect();
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(keys)), Arc::new(values)]).unwrap()
}

pub struct NoSecrets;

impl Secrets for NoSecrets {
    fn resolve(&self, _: &str) -> Result<String> {
        Err(MeshError::new(ErrorCode::InvalidResource, "no secrets in this test"))
    }
}
