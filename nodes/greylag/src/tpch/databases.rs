//! Tables in databases: SQLite by file, PostgreSQL and MySQL by connection. Each load is one transaction into tables
//! that are made new.

use std::{fmt::Write as _, path::Path};

use anyhow::Context;
use arrow::{
    array::RecordBatch,
    datatypes::DataType,
    util::display::{ArrayFormatter, FormatOptions},
};
use mysql_async::prelude::Queryable;

use super::{table, tables::Table};

/// Rows of one INSERT to MySQL.
const MYSQL_INSERT_ROWS: usize = 500;

/// SQL types that SQLite, PostgreSQL and MySQL read alike; only text differs.
fn native(data_type: &DataType, text: &str) -> String {
    match data_type {
        DataType::Int32 => "integer".into(),
        DataType::Int64 => "bigint".into(),
        DataType::Decimal128(p, s) => format!("decimal({p},{s})"),
        DataType::Date32 => "date".into(),
        _ => text.into(),
    }
}

/// Every row's values as text, as `ArrayFormatter` writes them: ISO dates, plain decimals.
fn for_each_row(batch: &RecordBatch, mut row: impl FnMut(&[String]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let options = FormatOptions::default();
    let columns: Vec<_> =
        batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options)).collect::<Result<_, _>>()?;
    let mut values = vec![String::new(); columns.len()];
    for index in 0..batch.num_rows() {
        for (value, column) in values.iter_mut().zip(&columns) {
            value.clear();
            write!(value, "{}", column.value(index))?;
        }
        row(&values)?;
    }
    Ok(())
}

/// Writes tables into one SQLite file, which is made new.
pub fn write_sqlite(file: &Path, tables: &[(Table, Vec<RecordBatch>)]) -> anyhow::Result<()> {
    let partial = file.with_extension("partial");
    let mut db = rusqlite::Connection::open(&partial)?;
    db.execute_batch("pragma journal_mode = off; pragma synchronous = off;")?;
    let transaction = db.transaction()?;
    for (table, batches) in tables {
        let Some(first) = batches.first() else { continue };
        let columns = table.columns_sql(&first.schema(), '"', |t| native(t, "text"));
        transaction.execute(&format!("create table \"{}\" ({columns})", table.name), [])?;
        let marks = vec!["?"; first.num_columns()].join(", ");
        let mut insert = transaction.prepare(&format!("insert into \"{}\" values ({marks})", table.name))?;
        for batch in batches {
            for_each_row(batch, |row| {
                insert.execute(rusqlite::params_from_iter(row))?;
                Ok(())
            })?;
        }
    }
    transaction.commit()?;
    db.execute_batch("analyze;")?;
    db.close().map_err(|(_, e)| e)?;
    std::fs::rename(partial, file)?;
    Ok(())
}

/// Loads tables into PostgreSQL by COPY, replacing what is there under these names.
pub async fn load_postgres(url: &str, names: &[&str], scale: f64) -> anyhow::Result<()> {
    use futures::SinkExt;
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.context("PostgreSQL")?;
    let driver = tokio::spawn(connection);
    for name in names {
        let table = table(name).context("no such table")?;
        let batches = table.batches(scale)?;
        let Some(first) = batches.first() else { continue };
        let columns = table.columns_sql(&first.schema(), '"', |t| native(t, "text"));
        client
            .batch_execute(&format!("begin; drop table if exists \"{name}\"; create table \"{name}\" ({columns})"))
            .await?;
        let sink = client.copy_in::<_, bytes::Bytes>(&format!("copy \"{name}\" from stdin (format csv)")).await?;
        futures::pin_mut!(sink);
        for batch in &batches {
            let mut csv = Vec::new();
            arrow::csv::WriterBuilder::new().with_header(false).build(&mut csv).write(batch)?;
            sink.send(csv.into()).await?;
        }
        sink.finish().await?;
        client.batch_execute(&format!("commit; analyze \"{name}\"")).await?;
    }
    drop(client);
    driver.await??;
    Ok(())
}

/// Loads tables into MySQL or MariaDB, replacing what is there under these names.
pub async fn load_mysql(url: &str, names: &[&str], scale: f64) -> anyhow::Result<()> {
    let mut db = mysql_async::Conn::from_url(url).await.context("MySQL")?;
    for name in names {
        let table = table(name).context("no such table")?;
        let batches = table.batches(scale)?;
        let Some(first) = batches.first() else { continue };
        let columns = table.columns_sql(&first.schema(), '`', |t| native(t, "varchar(255)"));
        db.query_drop(format!("drop table if exists `{name}`")).await?;
        db.query_drop(format!("create table `{name}` ({columns}) character set utf8mb4")).await?;
        db.query_drop("start transaction").await?;
        for batch in &batches {
            for statement in inserts(name, batch)? {
                db.query_drop(statement).await?;
            }
        }
        db.query_drop("commit").await?;
        db.query_drop(format!("analyze table `{name}`")).await?;
    }
    db.disconnect().await?;
    Ok(())
}

fn inserts(name: &str, batch: &RecordBatch) -> anyhow::Result<Vec<String>> {
    let mut tuples = Vec::with_capacity(batch.num_rows());
    for_each_row(batch, |row| {
        let quoted: Vec<String> =
            row.iter().map(|v| format!("'{}'", v.replace('\\', "\\\\").replace('\'', "''"))).collect();
        tuples.push(format!("({})", quoted.join(",")));
        Ok(())
    })?;
    Ok(tuples.chunks(MYSQL_INSERT_ROWS).map(|c| format!("insert into `{name}` values {}", c.join(","))).collect())
}
