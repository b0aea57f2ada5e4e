//! The same statements with a real PostgreSQL (`GREYLAG_TEST_POSTGRES_URL`) and a real MariaDB
//! (`GREYLAG_TEST_MYSQL_URL`, see `tests/databases`) under the push-down: texts under collations that ignore case, accents
//! or trailing blanks. Without the variables the tests pass and say that they did nothing.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, RecordBatch, StringArray},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, SchemaRef},
    util::display::{ArrayFormatter, FormatOptions},
};
use greylag_protocol::schema::Dialect::{self, DataFusion, MySql, Postgres};
use mysql_async::prelude::Queryable;

use crate::{
    data::{Table, null_tables, odd, tpch},
    governed, nulls, policies, random, statements, tpch as queries,
    world::{World, schema_of},
};

/// A database server that runs sub-queries.
pub enum Server {
    Postgres(tokio_postgres::Client),
    MySql(mysql_async::Pool),
}

impl Server {
    async fn postgres(tables: &[Table]) -> Option<Self> {
        let url = url("GREYLAG_TEST_POSTGRES_URL")?;
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        // Equal are texts that differ in case and accents only.
        let fresh = "DROP SCHEMA IF EXISTS main CASCADE; CREATE SCHEMA main; SET search_path = main; \
                     CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false)";
        client.batch_execute(fresh).await.unwrap();
        for statement in statements_for(Postgres, tables) {
            client.batch_execute(&statement).await.unwrap_or_else(|e| panic!("{e:?}: {statement}"));
        }
        Some(Self::Postgres(client))
    }

    async fn mysql(tables: &[Table]) -> Option<Self> {
        let url = url("GREYLAG_TEST_MYSQL_URL")?;
        let pool = mysql_async::Pool::new(url.as_str());
        let mut connection = pool.get_conn().await.unwrap();
        for table in tables {
            connection.query_drop(format!("DROP TABLE IF EXISTS `{}`", table.name)).await.unwrap();
        }
        for statement in statements_for(MySql, tables) {
            connection.query_drop(&statement).await.unwrap_or_else(|e| panic!("{e}: {statement}"));
        }
        drop(connection);
        Some(Self::MySql(pool))
    }

    pub async fn query(&self, sql: &str, schema: &SchemaRef) -> Result<Vec<RecordBatch>, String> {
        let rows: Vec<Vec<Option<String>>> = match self {
            Self::Postgres(client) => {
                let messages = client.simple_query(sql).await.map_err(|e| format!("{e:?}"))?;
                messages
                    .iter()
                    .filter_map(|message| match message {
                        tokio_postgres::SimpleQueryMessage::Row(row) => {
                            Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect())
                        }
                        _ => None,
                    })
                    .collect()
            }
            Self::MySql(pool) => {
                let mut connection = pool.get_conn().await.map_err(|e| e.to_string())?;
                let rows: Vec<mysql_async::Row> = connection.query(sql).await.map_err(|e| e.to_string())?;
                let text = |value: mysql_async::Value| match value {
                    mysql_async::Value::NULL => None,
                    mysql_async::Value::Bytes(bytes) => Some(String::from_utf8(bytes).unwrap()),
                    other => panic!("{other:?} is no text"),
                };
                rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect()
            }
        };
        let columns: Vec<ArrayRef> = schema
            .fields()
            .iter()
            .enumerate()
            .map(|(at, field)| column(rows.iter().map(|row| row[at].as_deref()), field.data_type()))
            .collect();
        Ok(vec![RecordBatch::try_new(Arc::clone(schema), columns).map_err(|e| e.to_string())?])
    }
}

/// Texts as values of a type; one that does not fit is a panic.
fn column<'a>(texts: impl Iterator<Item = Option<&'a str>>, data_type: &DataType) -> ArrayRef {
    let texts: StringArray = match data_type {
        DataType::Boolean => texts.map(|t| t.map(|t| matches!(t, "t" | "1").to_string())).collect(),
        _ => texts.collect(),
    };
    cast_with_options(&texts, data_type, &CastOptions { safe: false, ..Default::default() }).unwrap()
}

fn url(variable: &str) -> Option<String> {
    let url = std::env::var(variable).ok();
    if url.is_none() {
        println!("SKIPPED: {variable} is not set; see tests/databases");
    }
    url
}

/// Tables with their rows.
fn statements_for(dialect: Dialect, tables: &[Table]) -> Vec<String> {
    let quote = if dialect == MySql { '`' } else { '"' };
    let mut statements = Vec::new();
    for table in tables {
        let schema = table.schema();
        let name = format!("{quote}{}{quote}.{quote}{}{quote}", schema_of(dialect), table.name);
        let native = |data_type: &DataType| match (dialect, data_type) {
            (Postgres, DataType::Utf8) => "varchar(200) COLLATE loose".to_owned(),
            (_, DataType::Utf8) => "varchar(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci".to_owned(),
            (_, DataType::Int32) => "integer".into(),
            (_, DataType::Int64) => "bigint".into(),
            (_, DataType::Float64) => "double precision".into(),
            (_, DataType::Decimal128(p, s)) => format!("decimal({p},{s})"),
            (_, DataType::Date32) => "date".into(),
            (_, DataType::Boolean) => "boolean".into(),
            (_, other) => panic!("{other}"),
        };
        let columns: Vec<String> =
            schema.fields().iter().map(|f| format!("{quote}{}{quote} {}", f.name(), native(f.data_type()))).collect();
        let key: Vec<String> = table.key.iter().map(|k| format!("{quote}{k}{quote}")).collect();
        let key = if key.is_empty() { String::new() } else { format!(", PRIMARY KEY ({})", key.join(", ")) };
        statements.push(format!("CREATE TABLE {name} ({}{key})", columns.join(", ")));
        for batch in &table.batches {
            let rows = literals(dialect, batch);
            statements.extend(rows.chunks(500).map(|rows| format!("INSERT INTO {name} VALUES {}", rows.join(", "))));
        }
    }
    statements
}

/// Rows as lists of literals.
fn literals(dialect: Dialect, batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default();
    let columns: Vec<_> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
    let cell = |column: &ArrayRef, formatter: &ArrayFormatter<'_>, row: usize| {
        let text = formatter.value(row).to_string();
        match (dialect, column.data_type()) {
            _ if column.is_null(row) => "NULL".to_owned(),
            (MySql, DataType::Utf8) if !text.is_empty() => {
                format!("CONVERT(X'{}' USING utf8mb4)", text.bytes().map(|b| format!("{b:02x}")).collect::<String>())
            }
            (MySql, DataType::Boolean) => text,
            _ => format!("'{}'", text.replace('\'', "''")),
        }
    };
    (0..batch.num_rows())
        .map(|row| {
            let cells: Vec<String> =
                batch.columns().iter().zip(&columns).map(|(column, formatter)| cell(column, formatter, row)).collect();
            format!("({})", cells.join(", "))
        })
        .collect()
}

async fn server(dialect: Dialect, tables: &[Table]) -> Option<Server> {
    match dialect {
        Postgres => Server::postgres(tables).await,
        _ => Server::mysql(tables).await,
    }
}

/// One after the other: they share the server's schema.
fn everything(dialect: Dialect) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let null_tables = null_tables();
    let others = tpch(&["nation", "region"]);
    runtime.block_on(async {
        let Some(nulls) = server(dialect, &null_tables).await else { return };
        nulls::all(&World::with_server(&[("one", dialect, &null_tables)], nulls)).await;
        let nulls = server(dialect, &null_tables[1..]).await.unwrap();
        let split = [("two", DataFusion, &null_tables[..1]), ("one", dialect, &null_tables[1..])];
        nulls::all(&World::with_server(&split, nulls)).await;
        let odd_server = server(dialect, &[odd()]).await.unwrap();
        let world = World::with_server(&[("one", dialect, &[odd()]), ("two", DataFusion, &others)], odd_server);
        statements::shapes(&world).await;
        statements::orders(&world).await;
    });
    let Some(odd_server) = runtime.block_on(server(dialect, &[odd()])) else { return };
    let mut world = World::with_server(&[("one", dialect, &[odd()])], odd_server);
    random::agree(&runtime, &world);
    governed::agree(&runtime, &mut world, dialect);
    policies::agree(&runtime, &mut world, dialect);
    runtime.block_on(async {
        let tables = tpch(&crate::data::TPCH_NAMES);
        let whole = server(dialect, &tables).await.unwrap();
        queries::all_agree(&World::with_server(&[("one", dialect, &tables)], whole)).await;
    });
}

#[test]
fn postgres_agrees() {
    everything(Postgres);
}

#[test]
fn mysql_agrees() {
    everything(MySql);
}
