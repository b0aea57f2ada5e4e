//! An engine for a language of five words. `stream a b`: all rows of `a`, then of `b`, as they come. `collect a b`: the
//! same, but nothing comes out before all has gone in. `build a`: as `stream`, but the plan says that it can use nothing
//! before the end. `some a 5`: the first five rows. `system t`: a system table. `panic in planning`, `panic in running`:
//! what they say.

use std::sync::Arc;

use arrow::{
    array::RecordBatch,
    datatypes::{Schema, SchemaRef},
};
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use greylag_protocol::{
    ErrorCode, MeshError, Result, SourceName,
    messages::control::{Action, TableName},
    statement::BatchStream,
};

use super::source::{AFTER, schema};
use crate::planner::port::{
    Catalog, Estimate, ExecutablePlan, KeysetPlan, PlanRequest, QueryEngine, RestAfter, SubqueryOpener, SubqueryPlan,
    SystemTables, Touched,
};

pub struct FakeEngine;

fn words(sql: &str) -> Vec<&str> {
    sql.split_whitespace().collect()
}

fn sources<'a>(words: &[&'a str]) -> Vec<&'a str> {
    match words {
        ["stream" | "collect" | "build" | "keyed", sources @ ..] => sources.to_vec(),
        ["some", source, _] => vec![source],
        _ => Vec::new(),
    }
}

#[async_trait]
impl QueryEngine for FakeEngine {
    fn touched(&self, sql: &str, catalog: &Catalog) -> Result<Touched> {
        let words = words(sql);
        let mut tables = Vec::new();
        for source in sources(&words) {
            let name = SourceName::new(source)?;
            if let Some(error) = catalog.unavailable.get(&name) {
                return Err(error.clone());
            }
            if !catalog.sources.contains_key(&name) {
                return Err(MeshError::new(ErrorCode::UnknownTable, format!("table `{source}` is not known")));
            }
            tables.push(TableName { source: source.into(), schema: "main".into(), table: "t".into() });
        }
        if let ["system", table] = words[..] {
            tables.push(TableName { source: "greylag".into(), schema: "system".into(), table: table.into() });
        }
        tables.sort();
        tables.dedup();
        Ok(Touched { action: Action::Select, tables, redacted: sql.to_owned() })
    }

    async fn plan(&self, request: PlanRequest) -> Result<Arc<dyn ExecutablePlan>> {
        let words = words(&request.sql);
        assert_ne!(words, ["panic", "in", "planning"], "told to");
        let sources = sources(&words);
        let subqueries = sources.iter().enumerate().map(|(ordinal, source)| {
            Ok(SubqueryPlan {
                keyset: (words[0] == "keyed").then(keyset),
                ordinal: ordinal as u32,
                source: SourceName::new(*source)?,
                sql: format!("SELECT k, v FROM t /* {source} */"),
                schema: schema(),
                blocks_consumer: words[0] == "build",
                estimate: Some(Estimate { rows: 1_000, bytes: 64_000 }),
            })
        });
        let schema = match words[..] {
            ["system", table] => {
                let schemas = request.system.schemas();
                let found = schemas.into_iter().find(|(name, _)| *name == table);
                found.map(|(_, schema)| schema).ok_or_else(|| MeshError::new(ErrorCode::UnknownTable, "no such"))?
            }
            _ => schema(),
        };
        let subqueries = subqueries.collect::<Result<_>>()?;
        let words = words.iter().map(ToString::to_string).collect();
        Ok(Arc::new(FakePlan { words, schema, subqueries, system: request.system }))
    }
}

/// The made-up rows in the order of their first column.
fn keyset() -> KeysetPlan {
    KeysetPlan { column: 0, schema: "main".into(), table: "t".into(), rest: Arc::new(Rest) }
}

#[derive(Debug)]
struct Rest;

impl RestAfter for Rest {
    fn sql(&self, key: i64) -> Result<String> {
        Ok(format!("{AFTER}{key}"))
    }
}

struct FakePlan {
    words: Vec<String>,
    schema: SchemaRef,
    subqueries: Vec<SubqueryPlan>,
    system: Arc<dyn SystemTables>,
}

impl ExecutablePlan for FakePlan {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn parameters(&self) -> SchemaRef {
        Arc::new(Schema::empty())
    }

    fn subqueries(&self) -> Vec<SubqueryPlan> {
        self.subqueries.clone()
    }

    fn execute(&self, opener: Arc<dyn SubqueryOpener>) -> Result<BatchStream> {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        assert_ne!(words, ["panic", "in", "running"], "told to");
        if let ["system", table] = words[..] {
            let (system, table) = (self.system.clone(), table.to_owned());
            return Ok(futures::stream::once(async move { system.rows(&table).await }).boxed());
        }
        let scans = futures::stream::iter(self.subqueries.clone());
        let rows = scans.then(move |scan| {
            let opener = opener.clone();
            async move { opener.open(&scan).await }
        });
        let rows = rows.try_flatten();
        Ok(match words[..] {
            ["collect", ..] => futures::stream::once(rows.try_collect::<Vec<RecordBatch>>())
                .map_ok(|batches| futures::stream::iter(batches.into_iter().map(Ok)))
                .try_flatten()
                .boxed(),
            ["some", _, count] => {
                let left = count.parse::<usize>().unwrap_or_default();
                let some = rows.try_take_rows(left);
                some.boxed()
            }
            _ => rows.boxed(),
        })
    }
}

/// `LIMIT`.
trait TakeRows: futures::Stream<Item = Result<RecordBatch>> + Sized {
    fn try_take_rows(self, rows: usize) -> impl futures::Stream<Item = Result<RecordBatch>> {
        let mut stream = Box::pin(self);
        let mut left = rows;
        futures::stream::poll_fn(move |cx| {
            if left == 0 {
                return std::task::Poll::Ready(None);
            }
            stream.as_mut().poll_next(cx).map_ok(|batch| {
                let batch = batch.slice(0, left.min(batch.num_rows()));
                left -= batch.num_rows();
                batch
            })
        })
    }
}

impl<S: futures::Stream<Item = Result<RecordBatch>>> TakeRows for S {}
