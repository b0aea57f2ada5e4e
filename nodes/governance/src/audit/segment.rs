//! The files of a chain, `audit-<first sequence>.ndjson`, and their lines one by one, in bounded memory.
//!
//! It reads; what a line means is for [`super::line`] and whoever asks.

use std::io::{self, BufRead, BufReader, Read};

use super::{
    line::{LINE_BYTES_MAX, Line},
    record::AuditRecord,
    storage::AuditFiles,
};

const PREFIX: &str = "audit-";
const SUFFIX: &str = ".ndjson";
/// Digits of the first sequence in a name, so that names sort as sequences do.
const DIGITS: usize = 20;
const READ_BYTES: usize = 64 << 10;

pub fn segment_name(first: u64) -> String {
    format!("{PREFIX}{first:0DIGITS$}{SUFFIX}")
}

fn first_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let plain = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

/// First sequence, by its name, and name of each segment, in order. Other files are not looked at.
pub fn segment_files(files: &dyn AuditFiles) -> io::Result<Vec<(u64, String)>> {
    let mut found: Vec<(u64, String)> =
        files.list()?.into_iter().filter_map(|name| Some((first_of(&name)?, name))).collect();
    found.sort();
    Ok(found)
}

/// How a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Whole,
    /// With the file, not with a line's end.
    Unfinished,
    /// Longer than any record; only its beginning was kept.
    TooLong,
}

/// One line as it was read, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// From 1.
    pub number: u64,
    pub bytes: Vec<u8>,
    pub ending: Ending,
}

impl Entry {
    pub fn line(&self) -> Result<Line<'_>, &'static str> {
        match self.ending {
            Ending::Whole => Line::read(&self.bytes),
            Ending::Unfinished => Err("its line does not end"),
            Ending::TooLong => Err("it is longer than any record"),
        }
    }

    /// What it says, whether its hash is right or not.
    pub fn record(&self) -> Option<AuditRecord> {
        serde_json::from_slice(self.line().ok()?.record).ok()
    }
}

/// Lines of one file.
pub struct Entries<'a> {
    reader: BufReader<Box<dyn Read + 'a>>,
    number: u64,
}

impl<'a> Entries<'a> {
    pub fn of(files: &'a dyn AuditFiles, name: &str) -> io::Result<Self> {
        Ok(Self { reader: BufReader::with_capacity(READ_BYTES, files.open(name)?), number: 0 })
    }

    fn read(&mut self) -> io::Result<Option<Entry>> {
        let mut bytes = Vec::new();
        let read = (&mut self.reader).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        let ending = if bytes.pop_if(|last| *last == b'\n').is_some() {
            Ending::Whole
        } else if read < LINE_BYTES_MAX {
            Ending::Unfinished
        } else {
            self.reader.skip_until(b'\n')?;
            Ending::TooLong
        };
        Ok(Some(Entry { number: self.number, bytes, ending }))
    }
}

impl Iterator for Entries<'_> {
    type Item = io::Result<Entry>;
    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::audit::MemoryStorage;

    #[test]
    fn names_sort_as_sequences_and_others_are_left_alone() {
        let files = MemoryStorage::default();
        let names = [segment_name(10), segment_name(9), segment_name(u64::MAX)];
        let others = ["audit-1.ndjson", "audit-0000000000000000001x.ndjson", "lost+found", "audit-.ndjson"];
        names.iter().map(String::as_str).chain(others).for_each(|name| files.put(name, Some(vec![])));
        let found: Vec<u64> = segment_files(&files).unwrap().into_iter().map(|(first, _)| first).collect();
        assert_eq!(found, [9, 10, u64::MAX]);
    }

    #[test]
    fn lines_of_any_length_take_bounded_memory() {
        let files = MemoryStorage::default();
        let mut content = b"one\n\n".to_vec();
        content.extend(vec![b'x'; 3 * LINE_BYTES_MAX]);
        content.extend(b"\nlast");
        files.put("f", Some(content));
        let entries: Vec<Entry> = Entries::of(&files, "f").unwrap().map(Result::unwrap).collect();
        let seen: Vec<_> = entries.iter().map(|e| (e.number, e.bytes.len(), e.ending)).collect();
        let whole = Ending::Whole;
        assert_eq!(
            seen,
            [(1, 3, whole), (2, 0, whole), (3, LINE_BYTES_MAX, Ending::TooLong), (4, 4, Ending::Unfinished)]
        );
    }
}
