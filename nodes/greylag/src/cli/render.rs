//! Results for people and for programs: a table, CSV, JSON lines, or an Arrow IPC stream. Written batch by batch; only
//! the table holds all rows, since its column widths depend on them.

use std::io::{IsTerminal, Write};

use anyhow::Context;
use arrow::{
    array::RecordBatch,
    csv::WriterBuilder,
    datatypes::SchemaRef,
    ipc::writer::StreamWriter,
    json::LineDelimitedWriter,
    util::display::{ArrayFormatter, FormatOptions},
};
use clap::ValueEnum;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use futures::TryStreamExt;
use greylag_protocol::statement::BatchStream;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Csv,
    Json,
    Arrow,
}

/// Rows that a table shows; the rest is counted.
const TABLE_ROWS_MAX: usize = 10_000;

/// Writes a result and returns its rows.
pub async fn write(
    format: Format,
    schema: SchemaRef,
    batches: BatchStream,
    out: &mut impl Write,
) -> anyhow::Result<usize> {
    match format {
        // Nothing to be seen of what has no columns, such as the answer to `SET`.
        Format::Table | Format::Csv if schema.fields().is_empty() => counted(batches).await,
        Format::Table => table(&schema, batches, out).await,
        Format::Csv => csv(&schema, batches, out).await,
        Format::Json => json(batches, out).await,
        Format::Arrow => arrow(&schema, batches, out).await,
    }
}

async fn counted(batches: BatchStream) -> anyhow::Result<usize> {
    Ok(batches.try_fold(0, async |rows, batch| Ok(rows + batch.num_rows())).await?)
}

async fn table(schema: &SchemaRef, mut batches: BatchStream, out: &mut impl Write) -> anyhow::Result<usize> {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(schema.fields().iter().map(|f| f.name().clone()));
    let mut rows = 0;
    while let Some(batch) = batches.try_next().await? {
        add_rows(&mut table, &batch, TABLE_ROWS_MAX.saturating_sub(rows))?;
        rows += batch.num_rows();
    }
    writeln!(out, "{table}")?;
    if rows > TABLE_ROWS_MAX {
        writeln!(out, "... {} rows more", rows - TABLE_ROWS_MAX)?;
    }
    Ok(rows)
}

fn add_rows(table: &mut Table, batch: &RecordBatch, room: usize) -> anyhow::Result<()> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> =
        batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options)).collect::<Result<_, _>>()?;
    for index in 0..batch.num_rows().min(room) {
        table.add_row(columns.iter().map(|c| c.value(index).to_string()));
    }
    Ok(())
}

async fn csv(schema: &SchemaRef, mut batches: BatchStream, out: &mut impl Write) -> anyhow::Result<usize> {
    let mut rows = 0;
    // The header also when there are no rows.
    WriterBuilder::new().with_header(true).build(&mut *out).write(&RecordBatch::new_empty(schema.clone()))?;
    while let Some(batch) = batches.try_next().await? {
        WriterBuilder::new().with_header(false).build(&mut *out).write(&batch)?;
        rows += batch.num_rows();
    }
    Ok(rows)
}

async fn json(mut batches: BatchStream, out: &mut impl Write) -> anyhow::Result<usize> {
    let mut rows = 0;
    while let Some(batch) = batches.try_next().await? {
        let mut writer = LineDelimitedWriter::new(&mut *out);
        writer.write(&batch)?;
        writer.finish()?;
        rows += batch.num_rows();
    }
    Ok(rows)
}

async fn arrow(schema: &SchemaRef, mut batches: BatchStream, out: &mut impl Write) -> anyhow::Result<usize> {
    if std::io::stdout().is_terminal() {
        anyhow::bail!("an Arrow stream is binary: redirect the output to a file or a program");
    }
    let mut writer = StreamWriter::try_new(out, schema).context("the schema cannot be written")?;
    let mut rows = 0;
    while let Some(batch) = batches.try_next().await? {
        writer.write(&batch)?;
        rows += batch.num_rows();
    }
    writer.finish()?;
    Ok(rows)
}
