//! What an edge knows about its source: tables, columns, keys, estimates. Sent in answer to `GetSchema`.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};

use crate::{ids::SourceName, ipc};

/// An Arrow schema that can travel inside a message, as its IPC encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireSchema(pub SchemaRef);

impl Serialize for WireSchema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ipc::encode_schema(&self.0).map_err(S::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for WireSchema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        ipc::decode_schema(&bytes).map(Self).map_err(D::Error::custom)
    }
}

impl From<Schema> for WireSchema {
    fn from(schema: Schema) -> Self {
        Self(Arc::new(schema))
    }
}

/// The SQL that a source speaks: decides how sub-queries are written and what may be pushed to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Dialect {
    /// Files, and anything else that an edge reads with DataFusion itself.
    DataFusion,
    Sqlite,
    Postgres,
    /// MySQL and MariaDB.
    MySql,
}

/// Everything that one source offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSchema {
    pub source: SourceName,
    /// Connector kind as in the resource: `sqlite`, `files`, `postgres`, `mysql`.
    pub kind: String,
    pub dialect: Dialect,
    /// Version as the source tells it, for people.
    pub version: String,
    /// Schema that `source.table` means.
    pub default_schema: String,
    /// Sorted by schema and name.
    pub tables: Vec<TableSchema>,
}

/// One table or view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    /// Schema in the catalog, and in the source.
    pub schema: String,
    /// Name exactly as in the source.
    pub name: String,
    /// Columns with Arrow types, names exactly as in the source. A column that may hold NULL is nullable.
    pub columns: WireSchema,
    /// One entry for each column of `columns`, in order.
    pub native: Vec<NativeColumn>,
    /// Columns of the primary key, in key order; empty where there is none.
    pub primary_key: Vec<String>,
    /// Further sets of columns that are unique and not null.
    pub unique: Vec<Vec<String>>,
    /// Estimated rows.
    pub rows: Option<u64>,
    /// Estimated bytes.
    pub bytes: Option<u64>,
    /// Columns left out because their type is not supported, with that type's name. Touching one is GL3006.
    pub unsupported: Vec<(String, String)>,
}

/// What the source itself says about a column, as far as writing correct SQL needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NativeColumn {
    /// Type name in the source's own words, such as `character varying(25)` or `INTEGER`.
    pub type_name: String,
    /// Whether `=`, `<` and `ORDER BY` on this column agree with Arrow's order of the decoded values (bytewise for
    /// text) without further ado. False for text under a case-insensitive, padding or locale collation, for
    /// SQLite columns whose declared affinity does not bind the stored values, and wherever there is doubt.
    pub order_is_binary: bool,
    /// Distinct values, where the source keeps statistics.
    pub distinct: Option<u64>,
}
