//! Names, columns and types of the system tables, as a table; and a builder that fills a batch row by row.
//!
//! INVARIANT: a row has exactly the columns its table declares, in order and of their types, or it is GL9001.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BooleanBuilder, RecordBatch, StringBuilder, TimestampMillisecondBuilder, UInt32Builder, UInt64Builder,
    },
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
};
use greylag_protocol::{MeshError, Result};

/// Type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// 64 bits, unsigned.
    Count,
    /// 32 bits, unsigned.
    Small,
    Flag,
    /// Milliseconds, UTC.
    Time,
}

/// Name, type, and whether it may be NULL.
pub type Column = (&'static str, Kind, bool);

use Kind::{Count, Flag, Small, Text, Time};

const NODES: &[Column] = &[
    ("id", Text, false),
    ("uuid", Text, false),
    ("name", Text, false),
    ("address", Text, false),
    ("door", Text, true),
    ("status", Text, false),
    ("status_since", Time, false),
    ("voter", Flag, false),
    ("leader", Flag, false),
    ("outbound_only", Flag, false),
    ("labels", Text, false),
    ("allowed", Text, true),
    ("link", Text, false),
    ("health", Text, false),
    ("detail", Text, true),
];
const ROLES: &[Column] = &[
    ("role", Text, false),
    ("node", Text, true),
    ("wanted", Text, true),
    ("held", Flag, false),
    ("live", Flag, false),
];
const SOURCES: &[Column] = &[
    ("name", Text, false),
    ("kind", Text, false),
    ("version", Count, false),
    ("replicas", Small, false),
    ("edges", Text, false),
    ("status", Text, false),
    ("tables", Small, true),
    ("options", Text, false),
    ("labels", Text, false),
    ("error", Text, true),
];
const TABLES_OF_SOURCES: &[Column] = &[
    ("source", Text, false),
    ("schema", Text, false),
    ("name", Text, false),
    ("kind", Text, false),
    ("rows", Count, true),
    ("bytes", Count, true),
    ("columns", Small, false),
    ("primary_key", Text, true),
    ("error", Text, true),
];
const QUERIES: &[Column] = &[
    ("query", Text, false),
    ("coordinator", Text, false),
    ("principal", Text, false),
    ("organisation", Text, true),
    ("agent", Text, true),
    ("priority", Text, false),
    ("door", Text, false),
    ("state", Text, false),
    ("sql", Text, false),
    ("started", Time, false),
    ("queue_position", Small, true),
    ("epoch", Count, true),
    // One for each step, in `Step::ALL`'s order.
    ("admission_us", Count, false),
    ("tables_us", Count, false),
    ("decision_us", Count, false),
    ("cost_us", Count, false),
    ("quota_us", Count, false),
    ("row_filters_us", Count, false),
    ("dialect_us", Count, false),
    ("snapshot_us", Count, false),
    ("execution_us", Count, false),
    ("healing_us", Count, false),
    ("masks_us", Count, false),
    ("metering_us", Count, false),
    ("audit_us", Count, false),
    ("planning_us", Count, false),
    ("rows", Count, false),
    ("bytes", Count, false),
    ("cost", Count, false),
    ("restarts", Small, false),
    ("error", Text, true),
];
const SUBQUERIES: &[Column] = &[
    ("query", Text, false),
    ("ordinal", Small, false),
    ("attempt", Small, false),
    ("source", Text, false),
    ("edge", Text, false),
    ("rule", Text, false),
    ("state", Text, false),
    ("sql", Text, false),
    ("rows", Count, false),
    ("bytes", Count, false),
    ("elapsed_us", Count, false),
    ("error", Text, true),
];
const ACTORS: &[Column] = &[
    ("node", Text, false),
    ("name", Text, false),
    ("supervisor", Text, false),
    ("state", Text, false),
    ("restarts", Small, false),
    ("last_failure", Text, true),
];

const BOUNDS: &[Column] = &[
    ("node", Text, false),
    ("name", Text, false),
    ("of", Text, false),
    ("max", Count, false),
    ("used", Count, false),
    ("peak", Count, false),
    ("refused", Count, false),
];
const CIRCUITS: &[Column] = &[
    ("coordinator", Text, false),
    ("source", Text, false),
    ("edge", Text, false),
    ("state", Text, false),
    ("failures", Small, false),
    ("failing_ms", Count, false),
    ("next_try_ms", Count, false),
    ("error", Text, false),
];

const USAGE: &[Column] = &[
    ("coordinator", Text, false),
    ("since", Time, false),
    ("organisation", Text, true),
    ("agent", Text, true),
    ("statements", Count, false),
    ("refused", Count, false),
    ("rows_returned", Count, false),
    ("bytes_returned", Count, false),
    ("rows_scanned", Count, false),
    ("bytes_scanned", Count, false),
    ("source_ms", Count, false),
    ("cpu_ms", Count, false),
    ("microcredits", Count, false),
];
const QUOTAS: &[Column] = &[
    ("organisation", Text, false),
    ("agent", Text, true),
    ("period", Text, false),
    ("period_start", Time, false),
    ("period_end", Time, false),
    ("limit_microcredits", Count, true),
    ("settled_microcredits", Count, false),
    ("leased_microcredits", Count, false),
    ("spent_microcredits", Count, false),
    ("leases", Small, false),
];

const POLICIES: &[Column] = &[
    ("id", Text, false),
    ("version", Count, false),
    ("effect", Text, true),
    ("mode", Text, true),
    ("mask", Text, true),
    ("tables", Text, true),
    ("changed_by", Text, false),
    ("changed", Time, false),
    ("text", Text, false),
    ("problem", Text, true),
];
const TAGS: &[Column] =
    &[("tag", Text, false), ("version", Count, false), ("tables", Text, false), ("columns", Text, true)];
const ATTRIBUTES: &[Column] = &[("name", Text, false), ("type", Text, false)];
const KEYS: &[Column] = &[
    ("id", Text, false),
    ("principal", Text, false),
    ("kind", Text, false),
    ("organisation", Text, true),
    ("roles", Text, false),
    ("attributes", Text, false),
    ("scopes", Text, false),
    ("networks", Text, false),
    ("created", Time, false),
    ("expires", Time, true),
    ("revoked", Time, true),
    ("last_used", Time, true),
];

const AUDIT: &[Column] = &[
    ("node", Text, false),
    ("sequence", Count, false),
    ("at", Time, false),
    ("kind", Text, false),
    ("query", Text, true),
    ("principal", Text, false),
    ("organisation", Text, true),
    ("acts_for", Text, true),
    ("agent", Text, true),
    ("credential", Text, true),
    ("door", Text, false),
    ("client", Text, true),
    ("action", Text, false),
    ("statement", Text, false),
    ("tables", Text, false),
    ("columns", Text, true),
    ("policies", Text, true),
    ("epoch", Count, true),
    ("row_filters", Text, true),
    ("masks", Text, true),
    ("hidden", Text, true),
    ("epoch_before", Count, true),
    ("epoch_after", Count, true),
    ("rows", Count, false),
    ("bytes", Count, false),
    ("attempts", Small, false),
    ("cost", Count, false),
    ("duration_us", Count, false),
    ("outcome", Text, true),
    ("code", Text, true),
];
const DECISIONS: &[Column] = &[
    ("node", Text, false),
    ("at", Time, false),
    ("query", Text, true),
    ("principal", Text, false),
    ("organisation", Text, true),
    ("action", Text, false),
    ("tables", Text, false),
    ("permitted", Flag, false),
    ("reason", Text, true),
    ("policies", Text, false),
    ("epoch", Count, false),
    ("decided_by", Text, false),
    ("row_filters", Text, false),
    ("masks", Text, false),
    ("hidden", Text, false),
    ("notices", Text, false),
];

/// All system tables.
pub const TABLES: [(&str, &[Column]); 17] = [
    ("nodes", NODES),
    ("roles", ROLES),
    ("sources", SOURCES),
    ("tables", TABLES_OF_SOURCES),
    ("queries", QUERIES),
    ("subqueries", SUBQUERIES),
    ("actors", ACTORS),
    ("bounds", BOUNDS),
    ("circuits", CIRCUITS),
    ("usage", USAGE),
    ("quotas", QUOTAS),
    ("policies", POLICIES),
    ("tags", TAGS),
    ("attributes", ATTRIBUTES),
    ("keys", KEYS),
    ("audit", AUDIT),
    ("decisions", DECISIONS),
];

pub fn schema(columns: &[Column]) -> SchemaRef {
    let field = |(name, kind, nullable): &Column| Field::new(*name, kind.arrow(), *nullable);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

impl Kind {
    fn arrow(self) -> DataType {
        match self {
            Text => DataType::Utf8,
            Count => DataType::UInt64,
            Small => DataType::UInt32,
            Flag => DataType::Boolean,
            Time => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
        }
    }
}

/// One value.
#[derive(Debug, Clone)]
pub enum Cell {
    Null,
    Text(String),
    Count(u64),
    Small(u32),
    Flag(bool),
    /// Unix milliseconds.
    Time(u64),
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<u64> for Cell {
    fn from(value: u64) -> Self {
        Self::Count(value)
    }
}

impl From<u32> for Cell {
    fn from(value: u32) -> Self {
        Self::Small(value)
    }
}

impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Self::Flag(value)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

enum Builder {
    Text(StringBuilder),
    Count(UInt64Builder),
    Small(UInt32Builder),
    Flag(BooleanBuilder),
    Time(TimestampMillisecondBuilder),
}

impl Builder {
    fn new(kind: Kind) -> Self {
        match kind {
            Text => Self::Text(StringBuilder::new()),
            Count => Self::Count(UInt64Builder::new()),
            Small => Self::Small(UInt32Builder::new()),
            Flag => Self::Flag(BooleanBuilder::new()),
            Time => Self::Time(TimestampMillisecondBuilder::new().with_data_type(Time.arrow())),
        }
    }

    /// False if the value is not of the column's type.
    fn append(&mut self, cell: Cell) -> bool {
        match (self, cell) {
            (Self::Text(b), Cell::Text(v)) => b.append_value(v),
            (Self::Text(b), Cell::Null) => b.append_null(),
            (Self::Count(b), Cell::Count(v)) => b.append_value(v),
            (Self::Count(b), Cell::Null) => b.append_null(),
            (Self::Small(b), Cell::Small(v)) => b.append_value(v),
            (Self::Small(b), Cell::Null) => b.append_null(),
            (Self::Flag(b), Cell::Flag(v)) => b.append_value(v),
            (Self::Flag(b), Cell::Null) => b.append_null(),
            (Self::Time(b), Cell::Time(v)) => b.append_value(v as i64),
            (Self::Time(b), Cell::Null) => b.append_null(),
            _ => return false,
        }
        true
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::Text(mut b) => Arc::new(b.finish()),
            Self::Count(mut b) => Arc::new(b.finish()),
            Self::Small(mut b) => Arc::new(b.finish()),
            Self::Flag(mut b) => Arc::new(b.finish()),
            Self::Time(mut b) => Arc::new(b.finish()),
        }
    }
}

/// A batch of the table `name` with these rows.
pub fn batch(name: &str, rows: impl IntoIterator<Item = Vec<Cell>>) -> Result<RecordBatch> {
    let broken = || MeshError::internal(format!("a row of `system.{name}` does not fit its columns"));
    let (_, columns) = TABLES.iter().find(|(table, _)| *table == name).ok_or_else(broken)?;
    let mut builders: Vec<Builder> = columns.iter().map(|(_, kind, _)| Builder::new(*kind)).collect();
    for row in rows {
        let fits = row.len() == builders.len() && builders.iter_mut().zip(row).all(|(b, cell)| b.append(cell));
        if !fits {
            return Err(broken());
        }
    }
    let arrays = builders.into_iter().map(Builder::finish).collect();
    RecordBatch::try_new(schema(columns), arrays).map_err(|_| broken())
}

#[cfg(test)]
mod tests {
    use greylag_protocol::step::Step;

    use super::*;

    #[test]
    fn each_step_has_its_column_in_order() {
        let columns: Vec<String> =
            QUERIES.iter().filter_map(|(name, ..)| name.strip_suffix("_us")).map(str::to_owned).collect();
        assert_eq!(columns, Step::ALL.iter().map(|step| step.name().to_owned()).collect::<Vec<_>>());
    }
}
