//! CSV as RFC 4180 has it, with a delimiter of choice: fields in double quotes may hold delimiters and line breaks.
//!
//! What stands for NULL is the option `null`, nothing by default: an empty field. Quotes make no difference, since CSV
//! writers disagree on them; to tell an empty text from NULL, `null` must be a word, such as `\N`. Lines without any
//! character are passed over, so in a file of one column NULL must be a word too.

use std::{fs::File, path::Path};

use csv::{ByteRecord, Position, Reader, ReaderBuilder};
use greylag_protocol::{MeshError, Result};

use super::{
    Settings,
    layout::{FileFacts, refused, unreachable},
    rows::{Rows, open},
    text_column::Sampled,
};

/// Buffer of an open file, bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// How the fields are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CsvOptions {
    pub(super) header: bool,
    pub(super) delimiter: u8,
    /// What stands for NULL.
    pub(super) null: Vec<u8>,
}

/// What a look at the beginning of a file tells.
pub(super) struct CsvSample {
    pub(super) columns: Vec<(String, Sampled)>,
    /// Rows in the whole file: exact if the sample reached its end, else by the sample's mean length.
    pub(super) rows: u64,
}

pub(super) fn sample(file: &FileFacts, settings: &Settings) -> Result<CsvSample> {
    let mut reader = reader(&file.path, &settings.csv)?;
    let mut columns: Vec<(String, Sampled)> = Vec::new();
    if settings.csv.header {
        let header = reader.byte_headers().map_err(|error| fault(&file.path, &error))?;
        for name in header {
            let name = std::str::from_utf8(name)
                .map_err(|_| refused(format!("the header of `{}` is not valid UTF-8", file.name())))?;
            if columns.iter().any(|(known, _)| known == name) {
                return Err(refused(format!("the header of `{}` has the column `{name}` twice", file.name())));
            }
            columns.push((name.to_owned(), Sampled::default()));
        }
        if columns.is_empty() {
            return Err(refused(format!("`{}` is empty: it has no header", file.name())));
        }
    }
    let first = reader.position().byte();
    let (mut record, mut read) = (ByteRecord::new(), 0);
    while read < settings.sample_rows && next(&mut reader, &mut record, &file.path)? {
        if columns.is_empty() {
            columns = (1..=record.len()).map(|at| (format!("column_{at}"), Sampled::default())).collect();
        }
        for ((_, sampled), value) in columns.iter_mut().zip(&record) {
            if value != settings.csv.null.as_slice() {
                sampled.add(value);
            }
        }
        read += 1;
    }
    let bytes = reader.position().byte() - first;
    let rows = match read < settings.sample_rows || bytes == 0 {
        true => read as u64,
        false => file.bytes.saturating_sub(first).saturating_mul(read as u64) / bytes,
    };
    Ok(CsvSample { columns, rows })
}

fn reader(path: &Path, options: &CsvOptions) -> Result<Reader<File>> {
    Ok(ReaderBuilder::new()
        .has_headers(options.header)
        .delimiter(options.delimiter)
        .flexible(false)
        .buffer_capacity(BUFFER_BYTES)
        .from_reader(open(path)?))
}

fn next(reader: &mut Reader<File>, record: &mut ByteRecord, path: &Path) -> Result<bool> {
    reader.read_byte_record(record).map_err(|error| fault(path, &error))
}

/// The crate's own messages may hold what it has read.
fn fault(path: &Path, error: &csv::Error) -> MeshError {
    match error.kind() {
        csv::ErrorKind::Io(error) => unreachable(path, error),
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => unequal(path, pos.as_ref(), *len, *expected_len),
        _ => refused(format!("`{}` cannot be read as CSV", path.display())),
    }
}

fn unequal(path: &Path, position: Option<&Position>, fields: u64, expected: u64) -> MeshError {
    let line = position.map_or(0, Position::line);
    refused(format!("`{}` line {line} has {fields} fields where {expected} are expected", path.display()))
}

/// The rows of one file.
pub(super) struct CsvRows {
    reader: Reader<File>,
    record: ByteRecord,
    /// Columns of the file.
    width: usize,
    /// Positions of the wanted columns in the file.
    wanted: Vec<usize>,
    null: Vec<u8>,
    file: FileFacts,
}

impl CsvRows {
    /// `names` are the columns that the file must have, `wanted` the positions of those to read.
    pub(super) fn open(file: &FileFacts, options: &CsvOptions, names: &[String], wanted: Vec<usize>) -> Result<Self> {
        let mut reader = reader(&file.path, options)?;
        if options.header {
            let header = reader.byte_headers().map_err(|error| fault(&file.path, &error))?;
            if !header.iter().eq(names.iter().map(String::as_bytes)) {
                return Err(refused(format!("the header of `{}` is not what it was", file.name())));
            }
        }
        let (width, null) = (names.len(), options.null.clone());
        Ok(Self { reader, record: ByteRecord::new(), width, wanted, null, file: file.clone() })
    }
}

impl Rows for CsvRows {
    fn advance(&mut self) -> Result<bool> {
        let more = next(&mut self.reader, &mut self.record, &self.file.path)?;
        // Without a header the first row says how many fields there are, and it may not be what it was.
        if more && self.record.len() != self.width {
            return Err(unequal(&self.file.path, self.record.position(), self.record.len() as u64, self.width as u64));
        }
        Ok(more)
    }

    fn value(&self, at: usize) -> Option<&[u8]> {
        self.record.get(self.wanted[at]).filter(|value| *value != self.null.as_slice())
    }

    fn place(&self) -> String {
        format!("`{}` line {}", self.file.name(), self.record.position().map_or(0, Position::line))
    }
}
