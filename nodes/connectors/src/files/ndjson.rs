//! NDJSON: one JSON object a line. Keys are columns, in the order in which the sample first shows them; a key that is
//! missing, or null, is NULL. Values of all scalar kinds are taken as the text that they are written in and converted
//! exactly from there, so that no number passes through a binary double on its way to a decimal. Keys that hold objects or
//! lists are not offered; those that hold texts and numbers in turn are text.

use std::{
    io::{BufRead, BufReader, Read},
    sync::Arc,
};

use arrow::{
    array::{Array, AsArray, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
    json,
};
use greylag_protocol::{MeshError, Result};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{
    Settings,
    layout::{FileFacts, refused, unreachable},
    rows::{Rows, open},
};

/// Buffer of an open file, bytes.
const BUFFER_BYTES: usize = 256 << 10;
/// Longest line of a sample, bytes.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// Rows converted at a time.
const TAPE_ROWS: usize = 1024;

/// What a look at the beginning of a file tells.
pub(super) struct JsonSample {
    /// With their types, where anything but null was seen.
    pub(super) columns: Vec<(String, Option<DataType>)>,
    /// Columns that hold objects or lists.
    pub(super) nested: Vec<String>,
    /// Rows in the whole file: exact if the sample reached its end, else by the sample's mean length.
    pub(super) rows: u64,
}

pub(super) fn sample(file: &FileFacts, settings: &Settings) -> Result<JsonSample> {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, open(&file.path)?);
    let mut keys: Vec<(String, Kind)> = Vec::new();
    let (mut read, mut bytes, mut line, mut ended) = (0, 0u64, Vec::new(), false);
    while read < settings.sample_rows {
        line.clear();
        let length = (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        let length = length.map_err(|error| unreachable(&file.path, &error))?;
        if length == 0 {
            ended = true;
            break;
        }
        bytes += length as u64;
        if line.trim_ascii().is_empty() {
            continue;
        }
        read += 1;
        let Object(row) = serde_json::from_slice(&line)
            .map_err(|_| refused(format!("`{}` line {read} is not a JSON object of its own", file.name())))?;
        for (key, kind) in row {
            match keys.iter_mut().find(|(known, _)| *known == key) {
                Some((_, known)) => *known = known.with(kind),
                None => keys.push((key, kind)),
            }
        }
    }
    let rows = if ended || bytes == 0 { read as u64 } else { file.bytes.saturating_mul(read as u64) / bytes };
    let nested = keys.iter().filter(|(_, kind)| *kind == Kind::Nested).map(|(key, _)| key.clone()).collect();
    let columns = keys.into_iter().map(|(key, kind)| (key, kind.data_type())).collect();
    Ok(JsonSample { columns, nested, rows })
}

/// Kinds of values that a key has been seen with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Null,
    Boolean,
    Integer,
    Double,
    Text,
    Nested,
}

impl Kind {
    fn with(self, other: Self) -> Self {
        match (self, other) {
            (one, two) if one == two => one,
            (Self::Null, kind) | (kind, Self::Null) => kind,
            (Self::Nested, _) | (_, Self::Nested) => Self::Nested,
            (Self::Integer, Self::Double) | (Self::Double, Self::Integer) => Self::Double,
            _ => Self::Text,
        }
    }

    fn data_type(self) -> Option<DataType> {
        match self {
            Self::Null | Self::Nested => None,
            Self::Boolean => Some(DataType::Boolean),
            Self::Integer => Some(DataType::Int64),
            Self::Double => Some(DataType::Float64),
            Self::Text => Some(DataType::Utf8),
        }
    }
}

/// The keys of one object with the kinds of their values, in order.
struct Object(Vec<(String, Kind)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Object;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut keys = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    keys.push(entry);
                }
                Ok(Object(keys))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;
        impl<'de> Visitor<'de> for Value {
            type Value = Kind;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Kind, E> {
                Ok(Kind::Null)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Kind, E> {
                Ok(Kind::Boolean)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Kind, E> {
                Ok(Kind::Integer)
            }
            fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
                // Past the range of integers only text keeps every digit.
                Ok(if i64::try_from(value).is_ok() { Kind::Integer } else { Kind::Text })
            }
            fn visit_f64<E>(self, _: f64) -> Result<Kind, E> {
                Ok(Kind::Double)
            }
            fn visit_str<E>(self, _: &str) -> Result<Kind, E> {
                Ok(Kind::Text)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Kind, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Kind::Nested)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Kind::Nested)
            }
        }
        deserializer.deserialize_any(Value)
    }
}

/// The rows of one file.
pub(super) struct JsonRows {
    reader: json::Reader<BufReader<std::fs::File>>,
    texts: Vec<StringArray>,
    /// Rows in `texts`, those already passed, and those before them.
    count: usize,
    at: usize,
    before: usize,
    file: FileFacts,
}

impl JsonRows {
    /// `names` are the keys to read; at least one.
    pub(super) fn open(file: &FileFacts, names: &[String]) -> Result<Self> {
        let fields: Vec<Field> = names.iter().map(|name| Field::new(name, DataType::Utf8, true)).collect();
        let reader = json::ReaderBuilder::new(Arc::new(Schema::new(fields)))
            .with_coerce_primitive(true)
            .with_batch_size(TAPE_ROWS)
            .build(BufReader::with_capacity(BUFFER_BYTES, open(&file.path)?))
            .map_err(|error| MeshError::internal(format!("no reader for NDJSON: {error}")))?;
        Ok(Self { reader, texts: Vec::new(), count: 0, at: 0, before: 0, file: file.clone() })
    }

    fn fill(&mut self, batch: &RecordBatch) {
        self.before += self.count;
        self.texts = batch.columns().iter().map(|column| column.as_string::<i32>().clone()).collect();
        (self.count, self.at) = (batch.num_rows(), 0);
    }
}

impl Rows for JsonRows {
    fn advance(&mut self) -> Result<bool> {
        if self.at < self.count {
            self.at += 1;
        }
        while self.at >= self.count {
            match self.reader.next() {
                None => return Ok(false),
                // Arrow's words hold what it has read.
                Some(Err(arrow::error::ArrowError::IoError(_, error))) => {
                    return Err(unreachable(&self.file.path, &error));
                }
                Some(Err(_)) => {
                    let rows = self.before + self.count;
                    return Err(refused(format!("`{}` cannot be read as NDJSON after row {rows}", self.file.name())));
                }
                Some(Ok(batch)) => self.fill(&batch),
            }
        }
        Ok(true)
    }

    fn value(&self, at: usize) -> Option<&[u8]> {
        let column = self.texts.get(at)?;
        (!column.is_null(self.at)).then(|| column.value(self.at).as_bytes())
    }

    fn place(&self) -> String {
        format!("`{}` row {}", self.file.name(), self.before + self.at + 1)
    }
}
