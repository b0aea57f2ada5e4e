//! The suite that every source passes, over PostgreSQL.

use std::{fmt::Write, sync::Arc};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{DataType, Field, Float64Type, IntervalUnit, TimeUnit},
    util::display::array_value_to_string,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::SinkExt;
use greylag_actors::edge::port::Connector;

use super::{admin, connector, url};
use crate::conformance::{Fixture, Loss, Subject, conformance};

/// Where the one large table is, for all tests: each sees it through a view of its own.
const SHARED: &str = "conformance";

/// A schema of its own, named after the test.
struct Server {
    url: String,
    schema: String,
    admin: tokio_postgres::Client,
}

async fn fixture() -> Option<Server> {
    let url = url()?;
    let name = std::thread::current().name().unwrap().rsplit("::").next().unwrap().to_owned();
    let schema = format!("t_{name}");
    let admin = admin(&url).await;
    admin.batch_execute(&format!("DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}")).await.unwrap();
    Some(Server { url, schema, admin })
}

conformance!(fixture);

impl Server {
    async fn create(&self, schema: &str, fixture: Fixture) {
        let columns: Vec<String> = fixture.schema().fields().iter().enumerate().map(|(at, f)| column(at, f)).collect();
        let table = format!("{schema}.{}", fixture.name());
        self.admin.batch_execute(&format!("CREATE TABLE {table} ({})", columns.join(", "))).await.unwrap();
        let sink = self.admin.copy_in(&format!("COPY {table} FROM STDIN")).await.unwrap();
        let mut sink = std::pin::pin!(sink);
        for batch in fixture.batches() {
            sink.send(Bytes::from(copy_text(&batch))).await.unwrap();
        }
        sink.finish().await.unwrap();
    }

    async fn share(&self) {
        let lock = "SELECT pg_advisory_lock(7400)";
        self.admin.batch_execute(lock).await.unwrap();
        let there = self.admin.query_one("SELECT to_regclass('conformance.many') IS NOT NULL", &[]).await.unwrap();
        if !there.get::<_, bool>(0) {
            self.admin.batch_execute(&format!("BEGIN; CREATE SCHEMA {SHARED}")).await.unwrap();
            self.create(SHARED, Fixture::Many).await;
            self.admin.batch_execute("COMMIT").await.unwrap();
        }
        self.admin.batch_execute("SELECT pg_advisory_unlock(7400)").await.unwrap();
    }
}

/// In `COPY`'s text format.
fn copy_text(batch: &RecordBatch) -> String {
    let mut text = String::new();
    for row in 0..batch.num_rows() {
        for (index, column) in batch.columns().iter().enumerate() {
            text.push_str(if index == 0 { "" } else { "\t" });
            match column.data_type() {
                _ if column.is_null(row) => text.push_str("\\N"),
                DataType::Binary => {
                    text.push_str("\\\\x");
                    column.as_binary::<i32>().value(row).iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
                }
                DataType::Float64 => write!(text, "{:e}", column.as_primitive::<Float64Type>().value(row)).unwrap(),
                _ => {
                    for c in array_value_to_string(column, row).unwrap().chars() {
                        match c {
                            '\\' => text.push_str("\\\\"),
                            '\n' => text.push_str("\\n"),
                            '\r' => text.push_str("\\r"),
                            '\t' => text.push_str("\\t"),
                            _ => text.push(c),
                        }
                    }
                }
            }
        }
        text.push('\n');
    }
    text
}

fn column(at: usize, field: &Field) -> String {
    let declared = match field.data_type() {
        DataType::Int64 if at == 0 => "bigint PRIMARY KEY",
        DataType::Int64 => "bigint",
        DataType::Boolean => "boolean",
        DataType::Float64 => "double precision",
        DataType::Decimal128(15, 2) => "numeric(15,2)",
        DataType::Date32 => "date",
        DataType::Timestamp(..) => "timestamp",
        DataType::Utf8 => "text",
        DataType::Binary => "bytea",
        other => panic!("{other}"),
    };
    format!("\"{}\" {declared}", field.name())
}

#[async_trait]
impl Subject for Server {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    async fn load(&self, fixture: Fixture) {
        if fixture == Fixture::Many {
            self.share().await;
            let view = format!("CREATE VIEW {}.many AS SELECT * FROM {SHARED}.many", self.schema);
            self.admin.batch_execute(&view).await.unwrap();
        } else {
            self.create(&self.schema, fixture).await;
        }
    }

    async fn open(&self) -> Arc<dyn Connector> {
        connector(&[("url", &self.url), ("schemas", &self.schema)]).await.unwrap()
    }

    fn table(&self, name: &str) -> String {
        format!("\"{}\".\"{name}\"", self.schema)
    }

    fn misfits(&self) -> Vec<(String, Field)> {
        let field = |name: &str, data_type| Field::new(name, data_type, true);
        let moment = |unit, zone: Option<&str>| DataType::Timestamp(unit, zone.map(Into::into));
        let micros = TimeUnit::Microsecond;
        vec![
            ("SELECT 4242.5 AS whole".into(), field("whole", DataType::Int64)),
            ("SELECT 42424242424242424242 AS whole".into(), field("whole", DataType::Int64)),
            ("SELECT 42.4242 AS amount".into(), field("amount", DataType::Decimal128(15, 2))),
            ("SELECT 4242 AS amount".into(), field("amount", DataType::Decimal128(4, 2))),
            ("SELECT 'infinity'::date AS day".into(), field("day", DataType::Date32)),
            ("SELECT '-infinity'::timestamp AS moment".into(), field("moment", moment(micros, None))),
            ("SELECT 'infinity'::timestamptz AS moment".into(), field("moment", moment(micros, Some("UTC")))),
            ("SELECT '24:00'::time AS hour".into(), field("hour", DataType::Time64(micros))),
            ("SELECT '42424242 hours'::interval AS span".into(), {
                field("span", DataType::Interval(IntervalUnit::MonthDayNano))
            }),
            ("SELECT '{{4242}}'::int8[] AS list".into(), field("list", DataType::new_list(DataType::Int64, true))),
            ("SELECT NULL::int8 AS id".into(), Field::new("id", DataType::Int64, false)),
        ]
    }

    fn endless(&self) -> String {
        let many = self.table("many");
        format!("SELECT count(*) AS n FROM {many} a, {many} b WHERE a.words || b.words = 'x'")
    }

    fn huge(&self, bytes: usize) -> String {
        format!("SELECT repeat('x', {bytes}) AS words")
    }

    fn writes(&self) -> Vec<String> {
        let table = self.table("everything");
        vec![
            format!("INSERT INTO {table} (id) VALUES (99) RETURNING id"),
            format!("WITH new AS (INSERT INTO {table} (id) VALUES (99) RETURNING id) SELECT id FROM new"),
            format!("WITH old AS (DELETE FROM {table} RETURNING id) SELECT id FROM old"),
            format!("SELECT id INTO {}.other FROM {table}", self.schema),
            format!("CREATE TABLE {}.other (id bigint)", self.schema),
            format!("DROP TABLE {table}"),
            format!("SELECT 1::int8 AS id; DELETE FROM {table}"),
            format!("SELECT id FROM {table} FOR UPDATE"),
            format!("COPY {table} TO STDOUT"),
            "SET default_transaction_read_only = off".into(),
            "BEGIN READ WRITE".into(),
            "DO $$ BEGIN NULL; END $$".into(),
            "EXPLAIN SELECT 1".into(),
            String::new(),
        ]
    }

    async fn running(&self) -> usize {
        // Parallel workers belong to the backend that they work for.
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND backend_type = 'client backend' \
            AND query LIKE '%' || $1 || '%'";
        self.admin.query_one(sql, &[&format!("\"{}\"", self.schema)]).await.unwrap().get::<_, i64>(0) as usize
    }

    async fn lose(&self) -> Loss {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' \
            AND query LIKE '%' || $1 || '%'";
        let killed = self.admin.query(sql, &[&format!("\"{}\"", self.schema)]).await.unwrap();
        assert_eq!(killed.len(), 1);
        Loss::Running
    }
}
