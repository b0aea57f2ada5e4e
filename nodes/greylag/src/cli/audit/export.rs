//! Records as rows of one table, for analysis: a column for each fact, lists as lists of text. The same table as Parquet
//! and as JSON lines. It is written batch by batch.

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use arrow::{
    array::{ArrayRef, ListBuilder, RecordBatch, StringArray, StringBuilder, TimestampMillisecondArray, UInt64Array},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    json::LineDelimitedWriter,
};
use clap::ValueEnum;
use greylag_governance::audit::{
    AuditRecord, DecisionRecord, StatementFacts, StatementRecord, TableRead, Verdict, Who,
};
use parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};

use super::folders::{Row, find, rows};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Ndjson,
    Parquet,
}

/// Rows in a batch: their records are in memory together.
const BATCH_ROWS: usize = 1_024;

pub struct Exported {
    pub folders: usize,
    pub records: u64,
    /// Lines that are no records.
    pub unreadable: u64,
}

pub fn run(format: Format, out: &Path, dirs: &[PathBuf]) -> anyhow::Result<Exported> {
    let folders = find(dirs)?;
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(out);
    let file = file.with_context(|| format!("`{}`", out.display()))?;
    let mut exported = Exported { folders: folders.len(), records: 0, unreadable: 0 };
    let written = Writer::new(format, file).and_then(|mut writer| {
        let mut batch = Vec::with_capacity(BATCH_ROWS);
        for folder in &folders {
            for row in rows(folder)? {
                match row? {
                    Some(row) => batch.push(row),
                    None => exported.unreadable += 1,
                }
                if batch.len() == BATCH_ROWS {
                    exported.records += writer.write(&mut batch)?;
                }
            }
        }
        exported.records += writer.write(&mut batch)?;
        writer.finish()
    });
    if let Err(error) = written {
        // Half of it would look like all.
        let _ = std::fs::remove_file(out);
        return Err(error);
    }
    Ok(exported)
}

enum Writer {
    Ndjson(BufWriter<File>),
    Parquet(Box<ArrowWriter<File>>),
}

impl Writer {
    fn new(format: Format, file: File) -> anyhow::Result<Self> {
        Ok(match format {
            Format::Ndjson => Self::Ndjson(BufWriter::new(file)),
            Format::Parquet => {
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                Self::Parquet(Box::new(ArrowWriter::try_new(file, schema(), Some(properties))?))
            }
        })
    }

    /// Takes the rows out.
    fn write(&mut self, rows: &mut Vec<Row>) -> anyhow::Result<u64> {
        let batch = batch(rows)?;
        match self {
            Self::Ndjson(out) => {
                let mut writer = LineDelimitedWriter::new(out);
                writer.write(&batch)?;
                writer.finish()?;
            }
            Self::Parquet(writer) => writer.write(&batch)?,
        }
        rows.clear();
        Ok(batch.num_rows() as u64)
    }

    fn finish(self) -> anyhow::Result<()> {
        let file = match self {
            Self::Ndjson(mut out) => {
                out.flush()?;
                out.into_inner().map_err(|error| error.into_error())?
            }
            Self::Parquet(writer) => writer.into_inner()?,
        };
        file.sync_all()?;
        Ok(())
    }
}

/// How a column is filled from a record.
enum Fill {
    Instant(fn(&Row) -> u64),
    Number(fn(&Row) -> Option<u64>),
    Text(fn(&Row) -> Option<String>),
    Texts(fn(&Row) -> Option<Vec<String>>),
}

fn who(row: &Row) -> Option<&Who> {
    match &row.record {
        AuditRecord::Change(r) => Some(&r.who),
        record => record.facts().map(|facts| &facts.who),
    }
}

fn facts(row: &Row) -> Option<&StatementFacts> {
    row.record.facts()
}

fn decision(row: &Row) -> Option<&DecisionRecord> {
    facts(row)?.decision.as_ref()
}

fn ended(row: &Row) -> Option<&StatementRecord> {
    match &row.record {
        AuditRecord::Statement(r) => Some(r),
        _ => None,
    }
}

fn door(row: &Row) -> Option<String> {
    match &row.record {
        AuditRecord::Change(r) => Some(r.door.clone()),
        _ => facts(row).map(|f| f.door.clone()),
    }
}

fn client(row: &Row) -> Option<String> {
    match &row.record {
        AuditRecord::Change(r) => r.client.clone(),
        _ => facts(row).and_then(|f| f.client.clone()),
    }
}

fn outcome(row: &Row) -> Option<String> {
    match &row.record {
        AuditRecord::Statement(r) => Some(r.outcome.name().into()),
        AuditRecord::Change(r) => Some(r.outcome.name().into()),
        _ => None,
    }
}

fn code(row: &Row) -> Option<String> {
    match &row.record {
        AuditRecord::Statement(r) => r.code.clone(),
        AuditRecord::Change(r) => r.code.clone(),
        _ => None,
    }
}

fn columns_read(row: &Row) -> Option<Vec<String>> {
    Some(facts(row)?.tables.iter().flat_map(TableRead::columns_read).collect())
}

fn change<T>(row: &Row, of: impl Fn(&greylag_governance::audit::ChangeRecord) -> T) -> Option<T> {
    match &row.record {
        AuditRecord::Change(r) => Some(of(r)),
        _ => None,
    }
}

/// Who, what, where and when.
static ASKED: [(&str, Fill); 23] = [
    ("node", Fill::Number(|r| r.node.map(|n| n.0))),
    ("sequence", Fill::Number(|r| Some(r.sequence))),
    ("hash", Fill::Text(|r| Some(r.hash.to_string()))),
    ("at", Fill::Instant(|r| r.record.at_unix_ms())),
    ("kind", Fill::Text(|r| Some(r.record.kind().into()))),
    ("query", Fill::Text(|r| facts(r).map(|f| f.query.to_string()))),
    ("coordinator", Fill::Number(|r| facts(r).map(|f| f.coordinator.0))),
    ("door", Fill::Text(door)),
    ("client", Fill::Text(client)),
    ("principal", Fill::Text(|r| who(r).map(|w| w.principal.clone()))),
    ("principal_kind", Fill::Text(|r| who(r).map(|w| w.principal_kind.clone()))),
    ("organisation", Fill::Text(|r| who(r)?.organisation.clone())),
    ("roles", Fill::Texts(|r| who(r).map(|w| w.roles.clone()))),
    ("credential", Fill::Text(|r| who(r)?.credential.clone())),
    ("acts_for", Fill::Text(|r| who(r)?.acts_for.clone())),
    ("agent_id", Fill::Text(|r| who(r)?.agent_id.clone())),
    ("framework", Fill::Text(|r| who(r)?.framework.clone())),
    ("request_id", Fill::Text(|r| who(r)?.request_id.clone())),
    ("priority", Fill::Text(|r| who(r).map(|w| w.priority.clone()))),
    ("action", Fill::Text(|r| facts(r).map(|f| f.action.clone()))),
    ("statement", Fill::Text(|r| facts(r).map(|f| f.statement.clone()))),
    ("tables", Fill::Texts(|r| facts(r).map(|f| f.tables.iter().map(|t| t.table.clone()).collect()))),
    ("columns", Fill::Texts(columns_read)),
];

/// What was decided.
static DECIDED: [(&str, Fill); 9] = [
    (
        "verdict",
        Fill::Text(|r| {
            decision(r).map(|d| match d.verdict {
                Verdict::Permit => "permit".into(),
                Verdict::Deny => "deny".into(),
            })
        }),
    ),
    ("reason", Fill::Text(|r| decision(r)?.reason.clone())),
    ("policies", Fill::Texts(|r| decision(r).map(|d| d.policies.clone()))),
    ("epoch", Fill::Number(|r| decision(r).map(|d| d.epoch))),
    ("decided_by", Fill::Number(|r| decision(r).map(|d| d.decided_by.0))),
    ("row_filters", Fill::Texts(|r| decision(r).map(|d| d.row_filters.iter().map(|f| f.table.clone()).collect()))),
    (
        "masks",
        Fill::Texts(|r| {
            let masks = &decision(r)?.masks;
            Some(masks.iter().map(|m| format!("{}.{}={}", m.table, m.column, m.mask)).collect())
        }),
    ),
    (
        "hidden",
        Fill::Texts(|r| decision(r).map(|d| d.hidden.iter().map(|h| format!("{}.{}", h.table, h.column)).collect())),
    ),
    (
        "notices",
        Fill::Texts(|r| decision(r).map(|d| d.notices.iter().map(|n| format!("{}: {}", n.mode, n.change)).collect())),
    ),
];

/// What came of it.
static ENDED: [(&str, Fill); 14] = [
    (
        "sources",
        Fill::Texts(|r| ended(r).map(|s| s.sources.iter().map(|s| format!("{}@{}", s.source, s.edge)).collect())),
    ),
    ("rows", Fill::Number(|r| ended(r).map(|s| s.rows))),
    ("bytes", Fill::Number(|r| ended(r).map(|s| s.bytes))),
    ("attempts", Fill::Number(|r| ended(r).map(|s| s.attempts.into()))),
    ("restarts", Fill::Number(|r| ended(r).map(|s| s.restarts.into()))),
    ("cost_micro_credits", Fill::Number(|r| ended(r).map(|s| s.cost_micro_credits))),
    ("steps", Fill::Texts(|r| ended(r).map(|s| s.steps.iter().map(|s| format!("{}={}us", s.step, s.us)).collect()))),
    ("duration_us", Fill::Number(|r| ended(r).map(|s| s.duration_us))),
    ("outcome", Fill::Text(outcome)),
    ("code", Fill::Text(code)),
    ("call", Fill::Text(|r| change(r, |c| c.call.clone()))),
    ("what", Fill::Text(|r| change(r, |c| c.what.clone()))),
    ("epoch_before", Fill::Number(|r| change(r, |c| c.epoch_before))),
    ("epoch_after", Fill::Number(|r| change(r, |c| c.epoch_after)?)),
];

fn columns() -> impl Iterator<Item = &'static (&'static str, Fill)> {
    ASKED.iter().chain(&DECIDED).chain(&ENDED)
}

fn schema() -> SchemaRef {
    let fields = columns().map(|(name, fill)| match fill {
        Fill::Instant(_) => Field::new(*name, DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false),
        Fill::Number(_) => Field::new(*name, DataType::UInt64, true),
        Fill::Text(_) => Field::new(*name, DataType::Utf8, true),
        Fill::Texts(_) => Field::new(*name, DataType::new_list(DataType::Utf8, true), true),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn batch(rows: &[Row]) -> anyhow::Result<RecordBatch> {
    let arrays = columns().map(|(_, fill)| -> ArrayRef {
        match fill {
            Fill::Instant(of) => {
                let instants = rows.iter().map(|row| i64::try_from(of(row)).unwrap_or(i64::MAX));
                Arc::new(TimestampMillisecondArray::from_iter_values(instants).with_timezone("UTC"))
            }
            Fill::Number(of) => Arc::new(rows.iter().map(of).collect::<UInt64Array>()),
            Fill::Text(of) => Arc::new(rows.iter().map(of).collect::<StringArray>()),
            Fill::Texts(of) => {
                let mut lists = ListBuilder::new(StringBuilder::new());
                for row in rows {
                    let texts = of(row);
                    texts.iter().flatten().for_each(|text| lists.values().append_value(text));
                    lists.append(texts.is_some());
                }
                Arc::new(lists.finish())
            }
        }
    });
    Ok(RecordBatch::try_new(schema(), arrays.collect())?)
}
