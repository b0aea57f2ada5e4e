//! One line of a chain: `{"sequence":N,"previous":"<hex>","hash":"<hex>","record":{...}}`, in exactly this form.
//!
//! The hash is over the record's bytes as they stand in the line, never over what they were read as. Everything around
//! them is compared byte by byte: no blank, no leading zero, no other order, nothing twice, nothing after. So a line has
//! one reading only, and a program that reads it as plain JSON sees what was hashed.

use std::{fmt, str::FromStr};

use greylag_protocol::{MeshId, NodeId};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use sha2::{Digest, Sha256};

use super::cut::RECORD_BYTES_MAX;

/// Version of lines and hashes. A folder of a newer one is not touched.
pub const FORMAT: u32 = 1;

/// Before everything that is hashed, so that no other digest of ours is good for a record.
const DOMAIN: &[u8] = b"greylag audit record 1\0";

/// Bytes of a line around its record, with the longest sequence, and the line's end.
const AROUND_BYTES_MAX: usize = SEQUENCE.len() + 20 + PREVIOUS.len() + 64 + HASH.len() + 64 + RECORD.len() + 2;

/// Longest line, with its end, bytes.
pub const LINE_BYTES_MAX: usize = RECORD_BYTES_MAX + AROUND_BYTES_MAX;

const SEQUENCE: &str = "{\"sequence\":";
const PREVIOUS: &str = ",\"previous\":\"";
const HASH: &str = "\",\"hash\":\"";
const RECORD: &str = "\",\"record\":";

/// SHA-256 of a record with its place in its chain; 64 hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecordHash(pub [u8; 32]);

impl RecordHash {
    /// What the first record of a chain names as the one before it.
    pub const NONE: Self = Self([0; 32]);
}

impl fmt::Display for RecordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RecordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RecordHash {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        read_hash(text.as_bytes()).ok_or_else(|| "a hash has 64 lower-case hexadecimal digits".into())
    }
}

impl TryFrom<String> for RecordHash {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<RecordHash> for String {
    fn from(hash: RecordHash) -> String {
        hash.to_string()
    }
}

/// Whose chain it is. Part of every hash: no record can pass for another node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain {
    pub mesh: MeshId,
    pub node: NodeId,
}

impl Chain {
    pub fn hash(&self, sequence: u64, previous: &RecordHash, record: &[u8]) -> RecordHash {
        let mut hasher = Sha256::new();
        hasher.update(DOMAIN);
        hasher.update(self.mesh.0.as_bytes());
        hasher.update(self.node.0.to_be_bytes());
        hasher.update(sequence.to_be_bytes());
        hasher.update(previous.0);
        hasher.update((record.len() as u64).to_be_bytes());
        hasher.update(record);
        RecordHash(hasher.finalize().into())
    }
}

/// A line as it stands, without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    pub sequence: u64,
    pub previous: RecordHash,
    /// As stated; see [`Line::is_of`].
    pub hash: RecordHash,
    /// One JSON object.
    pub record: &'a [u8],
}

impl<'a> Line<'a> {
    /// Reads a line without its end. The error says what is wrong with it.
    pub fn read(line: &'a [u8]) -> Result<Self, &'static str> {
        let rest = line.strip_prefix(SEQUENCE.as_bytes()).ok_or("it does not begin as a record")?;
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let (digits, rest) = rest.split_at(digits);
        let sequence = read_sequence(digits).ok_or("its sequence is not a number")?;
        let rest = rest.strip_prefix(PREVIOUS.as_bytes()).ok_or("`previous` is not where it must be")?;
        let (previous, rest) = take_hash(rest).ok_or("`previous` is no hash")?;
        let rest = rest.strip_prefix(HASH.as_bytes()).ok_or("`hash` is not where it must be")?;
        let (hash, rest) = take_hash(rest).ok_or("`hash` is no hash")?;
        let rest = rest.strip_prefix(RECORD.as_bytes()).ok_or("`record` is not where it must be")?;
        let record = rest.strip_suffix(b"}").ok_or("it does not end as a record")?;
        let whole = record.starts_with(b"{") && record.ends_with(b"}");
        if !whole || serde_json::from_slice::<IgnoredAny>(record).is_err() {
            return Err("its record is not one JSON object");
        }
        Ok(Self { sequence, previous, hash, record })
    }

    /// Whether the stated hash is that of this record at this place of this chain.
    pub fn is_of(&self, chain: &Chain) -> bool {
        chain.hash(self.sequence, &self.previous, self.record) == self.hash
    }

    /// The line with its end.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(SEQUENCE.as_bytes());
        out.extend_from_slice(self.sequence.to_string().as_bytes());
        out.extend_from_slice(PREVIOUS.as_bytes());
        out.extend_from_slice(self.previous.to_string().as_bytes());
        out.extend_from_slice(HASH.as_bytes());
        out.extend_from_slice(self.hash.to_string().as_bytes());
        out.extend_from_slice(RECORD.as_bytes());
        out.extend_from_slice(self.record);
        out.extend_from_slice(b"}\n");
    }
}

/// Whether these bytes can be the beginning of the record after `previous`, cut off somewhere: what a write leaves that
/// did not come to its end.
pub fn is_beginning_of(bytes: &[u8], sequence: u64, previous: Option<&RecordHash>) -> bool {
    // A disk may have set the length before the content.
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    let bytes = &bytes[..end];
    let mut must = format!("{SEQUENCE}{sequence}{PREVIOUS}").into_bytes();
    match previous {
        Some(previous) => must.extend_from_slice(previous.to_string().as_bytes()),
        None => return must.starts_with(&bytes[..bytes.len().min(must.len())]),
    }
    must.extend_from_slice(HASH.as_bytes());
    let fixed = bytes.len().min(must.len());
    if bytes[..fixed] != must[..fixed] {
        return false;
    }
    let rest = &bytes[fixed..];
    let digits = rest.iter().take(64).take_while(|b| is_hex(**b)).count();
    if digits < 64 {
        return digits == rest.len();
    }
    let rest = &rest[64..];
    let fixed = rest.len().min(RECORD.len());
    if rest[..fixed] != RECORD.as_bytes()[..fixed] {
        return false;
    }
    let mut values = serde_json::Deserializer::from_slice(&rest[fixed..]).into_iter::<IgnoredAny>();
    match values.next() {
        None => true,
        Some(Err(error)) => error.is_eof(),
        Some(Ok(_)) => matches!(&rest[fixed + values.byte_offset()..], b"" | b"}"),
    }
}

fn read_sequence(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits[0] != b'0';
    if plain { std::str::from_utf8(digits).ok()?.parse().ok() } else { None }
}

fn take_hash(text: &[u8]) -> Option<(RecordHash, &[u8])> {
    let (hash, rest) = text.split_at_checked(64)?;
    Some((read_hash(hash)?, rest))
}

fn is_hex(digit: u8) -> bool {
    matches!(digit, b'0'..=b'9' | b'a'..=b'f')
}

fn read_hash(digits: &[u8]) -> Option<RecordHash> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    if digits.len() != 64 {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (value(pair[0])? << 4) | value(pair[1])?;
    }
    Some(RecordHash(hash))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::audit::fixture;

    fn line(record: &'static str) -> Vec<u8> {
        let chain = fixture::chain(3);
        let previous = RecordHash([0xab; 32]);
        let hash = chain.hash(12, &previous, record.as_bytes());
        let mut out = Vec::new();
        Line { sequence: 12, previous, hash, record: record.as_bytes() }.write(&mut out);
        assert!(Line::read(&out[..out.len() - 1]).unwrap().is_of(&chain));
        out.pop();
        out
    }

    #[test]
    fn a_line_has_one_reading() {
        let good = String::from_utf8(line(r#"{"kind":"closed","at_unix_ms":1}"#)).unwrap();
        let other = |from: &str, to: &str| {
            assert!(good.contains(from));
            good.replacen(from, to, 1)
        };
        for bad in [
            other("12", "012"),
            other("12", "1e1"),
            other("12", "-12"),
            other(",\"prev", ", \"prev"),
            other("abab", "ABab"),
            other("}}", "}} "),
            other("}}", "},\"record\":{}}"),
            other("}}", "}"),
            other("{\"kind", " {\"kind"),
            other("{\"kind\":\"closed\",\"at_unix_ms\":1}", "[1]"),
            other("{\"kind\":\"closed\",\"at_unix_ms\":1}", "{},{}"),
            other("12", "99999999999999999999"),
            String::new(),
        ] {
            assert!(Line::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_beginning_of_a_line_is_one_and_nothing_else_is() {
        let whole = line(r#"{"kind":"closed","text":"a}b","at_unix_ms":1}"#);
        let previous = RecordHash([0xab; 32]);
        for length in 0..=whole.len() {
            assert!(is_beginning_of(&whole[..length], 12, Some(&previous)), "{length}");
            let mut zeros = whole[..length].to_vec();
            zeros.extend([0; 9]);
            assert!(is_beginning_of(&zeros, 12, Some(&previous)), "{length} and zeros");
        }
        assert!(!is_beginning_of(&whole, 13, Some(&previous)));
        assert!(!is_beginning_of(&whole, 12, Some(&RecordHash::NONE)));
        let mut junk = whole.clone();
        junk.push(b'x');
        assert!(!is_beginning_of(&junk, 12, Some(&previous)));
        let mut early = whole[..40].to_vec();
        early.push(b'!');
        assert!(!is_beginning_of(&early, 12, Some(&previous)));
    }

    #[test]
    fn place_and_owner_are_part_of_the_hash() {
        let of = |node, sequence, previous: u8, record: &str| {
            fixture::chain(node).hash(sequence, &RecordHash([previous; 32]), record.as_bytes())
        };
        let all = [of(1, 1, 0, "{}"), of(2, 1, 0, "{}"), of(1, 2, 0, "{}"), of(1, 1, 1, "{}"), of(1, 1, 0, "{} ")];
        for (at, hash) in all.iter().enumerate() {
            assert_eq!(all.iter().position(|h| h == hash), Some(at));
            assert_eq!(hash.to_string().parse(), Ok(*hash));
        }
    }
}
