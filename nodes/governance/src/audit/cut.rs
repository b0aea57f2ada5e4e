//! Keeps a record within its size: what is over-long is cut with a mark, and the record says so.
//!
//! INVARIANT: what [`encode`] returns has at most [`RECORD_BYTES_MAX`] bytes and no line's end.

use greylag_protocol::{ErrorCode, MeshError, Result};
use serde_json::Value;

use super::record::{AuditRecord, StatementFacts};

/// Largest record as JSON, bytes.
pub const RECORD_BYTES_MAX: usize = 128 << 10;

/// Longest text of a statement in a record, bytes.
pub const STATEMENT_BYTES_MAX: usize = 16 << 10;

/// For records that are too large: longest text in bytes and longest list, tried in this order.
const LIMITS: [(usize, usize); 4] = [(STATEMENT_BYTES_MAX, 256), (1024, 32), (128, 8), (64, 4)];

/// The record as one line of JSON, cut if need be.
pub fn encode(record: AuditRecord) -> Result<Vec<u8>> {
    let record = with_bounded_text(record);
    let whole = serde_json::to_vec(&record).map_err(|error| unwritable(&record, &error.to_string()))?;
    if whole.len() <= RECORD_BYTES_MAX {
        return Ok(whole);
    }
    for (text_max, list_max) in LIMITS {
        let mut value = serde_json::to_value(&record).map_err(|error| unwritable(&record, &error.to_string()))?;
        cut_value(&mut value, text_max, list_max);
        if let Value::Object(fields) = &mut value {
            fields.insert("cut".into(), Value::Bool(true));
        }
        let bytes = value.to_string().into_bytes();
        if bytes.len() <= RECORD_BYTES_MAX {
            return Ok(bytes);
        }
    }
    Err(unwritable(&record, "it is too large, even cut"))
}

fn unwritable(record: &AuditRecord, why: &str) -> MeshError {
    MeshError::new(ErrorCode::AuditUnavailable, format!("a `{}` record cannot be written: {why}", record.kind()))
}

fn with_bounded_text(mut record: AuditRecord) -> AuditRecord {
    match &mut record {
        AuditRecord::Statement(r) => r.cut |= cut_statement(&mut r.facts),
        AuditRecord::Began(r) => r.cut |= cut_statement(&mut r.facts),
        _ => {}
    }
    record
}

fn cut_statement(facts: &mut StatementFacts) -> bool {
    cut_text(&mut facts.statement, STATEMENT_BYTES_MAX)
}

/// The mark is within the limit.
fn cut_text(text: &mut String, bytes_max: usize) -> bool {
    if text.len() <= bytes_max {
        return false;
    }
    let mark = format!("...[cut from {} bytes]", text.len());
    let keep = bytes_max.saturating_sub(mark.len());
    text.truncate(text.floor_char_boundary(keep));
    text.push_str(&mark);
    true
}

fn cut_value(value: &mut Value, text_max: usize, list_max: usize) {
    match value {
        Value::String(text) => {
            cut_text(text, text_max);
        }
        Value::Array(items) => {
            items.truncate(list_max);
            items.iter_mut().for_each(|item| cut_value(item, text_max, list_max));
        }
        Value::Object(fields) => fields.values_mut().for_each(|field| cut_value(field, text_max, list_max)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::audit::{fixture, record::TableRead};

    fn reread(record: AuditRecord) -> AuditRecord {
        let bytes = encode(record).unwrap();
        assert!(bytes.len() <= RECORD_BYTES_MAX && !bytes.contains(&b'\n'));
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn what_fits_is_not_touched() {
        let record = AuditRecord::Statement(Box::new(fixture::statement(1, "SELECT 1\nFROM \"t\"")));
        assert_eq!(reread(record.clone()), record);
    }

    #[test]
    fn long_text_is_cut_between_characters_and_marked() {
        let long = "ä".repeat(STATEMENT_BYTES_MAX);
        let AuditRecord::Statement(cut) = reread(AuditRecord::Statement(Box::new(fixture::statement(1, &long)))) else {
            panic!("another kind")
        };
        assert!(cut.cut && cut.facts.statement.len() <= STATEMENT_BYTES_MAX);
        assert!(cut.facts.statement.ends_with("ä...[cut from 32768 bytes]"), "{}", cut.facts.statement);
    }

    #[test]
    fn whatever_is_in_it_a_record_is_written() {
        let mut record = fixture::statement(1, "x");
        let columns: Vec<String> = (0..300).map(|c| format!("{c}{}", "y".repeat(200))).collect();
        record.facts.tables =
            (0..300).map(|t| TableRead { table: t.to_string().repeat(500), columns: Some(columns.clone()) }).collect();
        record.facts.who.roles = columns.clone();
        record.facts.who.principal = "\u{1}".repeat(1 << 20);
        let AuditRecord::Statement(cut) = reread(AuditRecord::Statement(Box::new(record))) else {
            panic!("another kind")
        };
        assert!(cut.cut && !cut.facts.tables.is_empty() && cut.rows == 1);
        assert!(cut.facts.who.principal.contains("[cut from 1048576 bytes]"));
    }
}
