//! What policies are about: tables, their columns with the types that Cedar knows, and the tags on both.
//!
//! Built from the sources' schemas and the mesh's tags; it changes with the epoch and is otherwise immutable.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::datatypes::{DataType, Field};
use greylag_protocol::{
    Result,
    messages::control::{AskedTable, CONTROL_BYTES_MAX, TableName},
    schema::SourceSchema,
    state::TagPlace,
    wire,
};
use sha2::{Digest, Sha256};

use super::pattern::{NamePattern, TablePattern};

/// Cedar's types as far as columns have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ValueKind {
    Bool,
    Integer,
    Text,
    Decimal,
    Instant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnFacts {
    pub name: String,
    /// `None`: its values cannot be used in a policy's conditions (floats, bytes, lists, 64-bit unsigned, wide decimals).
    pub kind: Option<ValueKind>,
    pub nullable: bool,
    /// Whether it holds exactly Arrow's `Int64`: only so a hash fits.
    pub is_int64: bool,
    /// Arrow's name of the type, for people.
    pub type_name: String,
    pub tags: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFacts {
    pub name: TableName,
    pub columns: Vec<ColumnFacts>,
    pub tags: BTreeSet<String>,
}

/// Puts a tag on tables, or on columns of tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagging {
    pub tag: String,
    pub tables: TablePattern,
    /// `None`: on the tables themselves, and so on all that is in them.
    pub columns: Option<NamePattern>,
}

impl Tagging {
    /// A tag's places. One whose pattern cannot be read is left out: it was refused when it was put there.
    pub fn of(tag: &str, places: &[TagPlace]) -> Vec<Self> {
        let read = |place: &TagPlace| {
            let columns = place.columns.as_deref().map(NamePattern::new);
            Some(Self { tag: tag.to_owned(), tables: TablePattern::parse(&place.tables)?, columns })
        };
        places.iter().filter_map(read).collect()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    tables: BTreeMap<TableName, Arc<TableFacts>>,
}

impl Catalog {
    pub fn new(sources: &[SourceSchema], tags: &[Tagging]) -> Self {
        let mut catalog = Self::default();
        for source in sources {
            for table in &source.tables {
                let name = TableName {
                    source: source.source.to_string(),
                    schema: table.schema.clone(),
                    table: table.name.clone(),
                };
                catalog.insert(TableFacts::new(name, table.columns.0.fields().iter().map(AsRef::as_ref), tags));
            }
        }
        catalog
    }

    /// The tables that somebody asks about.
    pub fn of_asked(asked: &[AskedTable], tags: &[Tagging]) -> Self {
        let mut catalog = Self::default();
        for AskedTable { table, columns } in asked {
            catalog.insert(TableFacts::new(table.clone(), columns.0.fields().iter().map(AsRef::as_ref), tags));
        }
        catalog
    }

    /// Tells these tables, as they are, from all others.
    pub fn digest(asked: &[AskedTable]) -> Result<[u8; 32]> {
        Ok(Sha256::digest(wire::encode(&asked, CONTROL_BYTES_MAX)?).into())
    }

    /// Adds a table, or replaces it.
    pub fn insert(&mut self, table: TableFacts) {
        self.tables.insert(table.name.clone(), Arc::new(table));
    }

    pub fn table(&self, name: &TableName) -> Option<&Arc<TableFacts>> {
        self.tables.get(name)
    }

    pub fn tables(&self) -> impl Iterator<Item = &Arc<TableFacts>> {
        self.tables.values()
    }
}

impl TableFacts {
    pub fn new<'a>(name: TableName, fields: impl Iterator<Item = &'a Field>, tags: &[Tagging]) -> Self {
        let tags: Vec<&Tagging> = tags.iter().filter(|t| t.tables.matches(&name)).collect();
        let on_table = tags.iter().filter(|t| t.columns.is_none()).map(|t| t.tag.clone()).collect();
        let columns = fields
            .map(|field| ColumnFacts {
                name: field.name().clone(),
                kind: kind_of(field.data_type()),
                nullable: field.is_nullable(),
                is_int64: *field.data_type() == DataType::Int64,
                type_name: field.data_type().to_string(),
                tags: tags
                    .iter()
                    .filter(|t| t.columns.as_ref().is_some_and(|c| c.matches(field.name())))
                    .map(|t| t.tag.clone())
                    .collect(),
            })
            .collect();
        Self { name, columns, tags: on_table }
    }

    pub fn column(&self, name: &str) -> Option<&ColumnFacts> {
        self.columns.iter().find(|c| c.name == name)
    }
}

/// Decimals of Cedar are 64-bit integers in units of 10^-4: all of these digits fit.
const DECIMAL_DIGITS_MAX: i16 = 18;

fn kind_of(data_type: &DataType) -> Option<ValueKind> {
    match data_type {
        DataType::Boolean => Some(ValueKind::Bool),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Some(ValueKind::Integer),
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => Some(ValueKind::Integer),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(ValueKind::Text),
        DataType::Date32 | DataType::Timestamp(..) => Some(ValueKind::Instant),
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale)
            if (0..=4).contains(scale) && i16::from(*precision) - i16::from(*scale) + 4 <= DECIMAL_DIGITS_MAX =>
        {
            Some(ValueKind::Decimal)
        }
        DataType::Dictionary(_, values) => kind_of(values),
        _ => None,
    }
}
