//! What a decision asks of whoever answers a statement: which rows of a table may be seen, which columns masked and
//! which not read at all. How they come about is in `governance::policy`; how they are applied, in the engine.
//!
//! INVARIANT: row filters see true values; masks replace values at the scan, below everything of the statement's own.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{filter::RowFilter, messages::control::TableName};

/// For one table of a statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableObligation {
    pub table: TableName,
    /// Only rows that pass may be seen. `None`: all.
    pub filter: Option<RowFilter>,
    /// Sorted by column, each once.
    pub masks: Vec<ColumnMask>,
    /// Columns that must not be read, as if the table had none of that name. Sorted by column, each once.
    pub hidden: Vec<HiddenColumn>,
    /// Ids of the policies behind rows, permits and forbids, sorted.
    pub policies: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HiddenColumn {
    pub column: String,
    /// Ids of the policies that hide it, sorted.
    pub policies: Vec<String>,
}

/// What is seen of a column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnMask {
    pub column: String,
    /// Strongest first. For each row the first rule that holds applies; where none does, the value is seen as it is.
    pub rules: Vec<MaskRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskRule {
    pub mask: Mask,
    /// Rows to which it applies; `None`: all, and then it is the last rule.
    pub when: Option<RowFilter>,
    /// Ids of the policies that ask for it, sorted.
    pub policies: Vec<String>,
}

/// How a value is shown instead of itself. The column's type stays what it is; NULL stays NULL except under `Redact`.
///
/// The order of the variants, strongest last, is the order of what they reveal; within one kind, see [`Mask::strength`].
/// The definition of each is `governance::policy::mask::apply`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mask {
    /// Dates and timestamps: cut to the start of the unit, in UTC.
    Truncate(DateUnit),
    /// Text: the first and last characters stay, each other becomes `fill`. Text not longer than both together is
    /// filled whole.
    Partial { first: u32, last: u32, fill: char },
    /// Text: 32 hexadecimal digits of SHA-256 over salt and text. 64-bit integers: its first 63 bits. Equal values
    /// stay equal within one mesh.
    Hash,
    /// Text: each character becomes `*`.
    Full,
    /// Text: this text, also in place of NULL.
    Redact(String),
    /// NULL.
    Null,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DateUnit {
    Hour,
    Day,
    Month,
    Quarter,
    Year,
}

impl Mask {
    /// A total order: of two masks the one with the greater strength applies.
    pub fn strength(&self) -> impl Ord + use<> {
        match self {
            Mask::Truncate(unit) => (0, *unit as u64, 0, String::new()),
            // The fewer characters stay, the stronger; of as many, the fewer of the beginning.
            Mask::Partial { first, last, fill } => {
                let shown = u64::from(*first) + u64::from(*last);
                (1, u64::MAX - shown, u64::from(u32::MAX - first), fill.to_string())
            }
            Mask::Hash => (2, 0, 0, String::new()),
            Mask::Full => (3, 0, 0, String::new()),
            Mask::Redact(text) => (4, 0, 0, text.clone()),
            Mask::Null => (5, 0, 0, String::new()),
        }
    }
}

/// As written in a policy's `@mask`.
impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mask::Truncate(unit) => write!(f, "date:{unit}"),
            Mask::Partial { first, last, fill } => write!(f, "partial:{first}{fill}{last}"),
            Mask::Hash => f.write_str("hash"),
            Mask::Full => f.write_str("full"),
            Mask::Redact(text) => write!(f, "redact:{text}"),
            Mask::Null => f.write_str("null"),
        }
    }
}

impl fmt::Display for DateUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DateUnit::Hour => "hour",
            DateUnit::Day => "day",
            DateUnit::Month => "month",
            DateUnit::Quarter => "quarter",
            DateUnit::Year => "year",
        })
    }
}

/// A policy that does not enforce, and what it would have changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    pub mode: NoticeMode,
    /// Ids of the policies, sorted.
    pub policies: Vec<String>,
    /// One line for people, no row's values.
    pub change: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NoticeMode {
    /// The client is told, and the audit.
    Warn,
    /// Only the audit is.
    Log,
}
