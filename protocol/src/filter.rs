//! Row filters: a condition over one table's row, as a policy decision carries it to the planner.
//!
//! Not an expression language for people (that is Cedar) and not a tree: nodes lie in a list, operands before what uses
//! them, so that a filter can be decoded from the wire without recursion. The last node is the whole condition.
//!
//! Meaning is SQL's, with three truth values: a comparison, `IN` or `LIKE` with NULL is unknown, `NOT` of unknown is
//! unknown, and a row passes when the whole is *true*. [`RowFilter::passes`] is the definition that engines must match.
//! - Every integer column is a 64-bit integer. Text compares bytewise. Decimals have exactly [`DECIMAL_SCALE`] digits.
//! - An instant is milliseconds since 1970 in UTC, dates at midnight, finer timestamps rounded *down*, timestamps
//!   without zone read as UTC.
//!
//! INVARIANT: a `RowFilter` in memory is well formed: at most [`FILTER_NODES_MAX`] nodes, nested at most
//! [`FILTER_DEPTH_MAX`] deep, every node but the last the operand of exactly one later node.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{ErrorCode, MeshError, Result};

/// Most nodes of a filter, values of a list counted.
pub const FILTER_NODES_MAX: usize = 4_096;

/// Deepest nesting of a filter.
pub const FILTER_DEPTH_MAX: usize = 64;

/// Digits after the point of [`FilterValue::Decimal`].
pub const DECIMAL_SCALE: u32 = 4;

/// A constant in a filter, and the value of a row's column.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FilterValue {
    Bool(bool),
    Integer(i64),
    Text(String),
    /// In units of 10^-4.
    Decimal(i64),
    /// Milliseconds since 1970, UTC.
    Instant(i64),
}

/// What is compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Term {
    /// A column of the table, named exactly as in its schema.
    Column(String),
    Value(FilterValue),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
}

/// Part of a `LIKE` pattern.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LikePart {
    /// Exactly this text: nothing in it is special.
    Text(String),
    /// Any characters, also none.
    Any,
}

/// A node: operands are indexes of earlier nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilterNode {
    Constant(bool),
    IsNull(String),
    IsNotNull(String),
    Compare {
        op: Comparison,
        left: Term,
        right: Term,
    },
    /// Whether the column is one of the values, all of one type, sorted, each once.
    In {
        column: String,
        values: Vec<FilterValue>,
    },
    Like {
        column: String,
        pattern: Vec<LikePart>,
    },
    Not(u32),
    /// True when all are; of none, true.
    And(Vec<u32>),
    /// True when one is; of none, false.
    Or(Vec<u32>),
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<FilterNode>", into = "Vec<FilterNode>")]
pub struct RowFilter {
    nodes: Vec<FilterNode>,
}

impl From<RowFilter> for Vec<FilterNode> {
    fn from(filter: RowFilter) -> Self {
        filter.nodes
    }
}

impl TryFrom<Vec<FilterNode>> for RowFilter {
    type Error = MeshError;

    /// Refuses with GL4011 what is not well formed.
    fn try_from(nodes: Vec<FilterNode>) -> Result<Self> {
        let malformed = |what: &str| Err(MeshError::new(ErrorCode::MalformedFrame, format!("a row filter {what}")));
        let size: usize = nodes.iter().map(size_of_node).sum();
        if nodes.is_empty() || size > FILTER_NODES_MAX {
            return malformed("is empty or too long");
        }
        let mut used = vec![false; nodes.len()];
        let mut depth = vec![1usize; nodes.len()];
        for (at, node) in nodes.iter().enumerate() {
            for &operand in operands(node) {
                let operand = operand as usize;
                if operand >= at || std::mem::replace(&mut used[operand], true) {
                    return malformed("refers to a node that is not before it, or twice to one");
                }
                depth[at] = depth[at].max(depth[operand] + 1);
            }
            if depth[at] > FILTER_DEPTH_MAX {
                return malformed("is nested too deep");
            }
        }
        match used.iter().filter(|u| !**u).count() {
            1 => Ok(Self { nodes }),
            _ => malformed("has nodes that nothing uses"),
        }
    }
}

/// What a node counts towards [`FILTER_NODES_MAX`].
fn size_of_node(node: &FilterNode) -> usize {
    match node {
        FilterNode::In { values, .. } => 1 + values.len(),
        FilterNode::Like { pattern, .. } => 1 + pattern.len(),
        _ => 1,
    }
}

/// Indexes of a node's operands.
pub fn operands(node: &FilterNode) -> &[u32] {
    match node {
        FilterNode::Not(operand) => std::slice::from_ref(operand),
        FilterNode::And(all) | FilterNode::Or(all) => all,
        _ => &[],
    }
}

impl RowFilter {
    /// No row passes.
    pub fn nothing() -> Self {
        Self { nodes: vec![FilterNode::Constant(false)] }
    }

    /// Operands before what uses them; the last is the whole. Never empty.
    pub fn nodes(&self) -> &[FilterNode] {
        &self.nodes
    }

    /// Columns that it reads, sorted, each once.
    pub fn columns(&self) -> Vec<&str> {
        let mut columns: Vec<&str> = self.nodes.iter().flat_map(columns_of).collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// Whether a row passes. `value` gives a column's value, `None` for NULL.
    pub fn passes(&self, value: &dyn Fn(&str) -> Option<FilterValue>) -> bool {
        let mut truth: Vec<Option<bool>> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let operand = |at: &u32| truth.get(*at as usize).copied().flatten();
            truth.push(match node {
                FilterNode::Constant(constant) => Some(*constant),
                FilterNode::IsNull(column) => Some(value(column).is_none()),
                FilterNode::IsNotNull(column) => Some(value(column).is_some()),
                FilterNode::Compare { op, left, right } => compare(*op, term(left, value), term(right, value)),
                FilterNode::In { column, values } => value(column).map(|v| values.contains(&v)),
                FilterNode::Like { column, pattern } => match value(column) {
                    Some(FilterValue::Text(text)) => Some(is_like(&text, pattern)),
                    _ => None,
                },
                FilterNode::Not(at) => operand(at).map(|t| !t),
                FilterNode::And(all) => decided_by(all.iter().map(operand), false),
                FilterNode::Or(all) => decided_by(all.iter().map(operand), true),
            });
        }
        truth.last().copied().flatten() == Some(true)
    }
}

/// `decisive` if one operand is, unknown if one is unknown, else the opposite.
fn decided_by(operands: impl Iterator<Item = Option<bool>>, decisive: bool) -> Option<bool> {
    let mut whole = Some(!decisive);
    for operand in operands {
        match operand {
            Some(t) if t == decisive => return Some(decisive),
            Some(_) => {}
            None => whole = None,
        }
    }
    whole
}

fn columns_of(node: &FilterNode) -> Vec<&str> {
    match node {
        FilterNode::IsNull(column) | FilterNode::IsNotNull(column) => vec![column],
        FilterNode::In { column, .. } | FilterNode::Like { column, .. } => vec![column],
        FilterNode::Compare { left, right, .. } => [left, right]
            .into_iter()
            .filter_map(|t| match t {
                Term::Column(column) => Some(column.as_str()),
                Term::Value(_) => None,
            })
            .collect(),
        _ => vec![],
    }
}

fn term(term: &Term, value: &dyn Fn(&str) -> Option<FilterValue>) -> Option<FilterValue> {
    match term {
        Term::Column(column) => value(column),
        Term::Value(constant) => Some(constant.clone()),
    }
}

/// Values of different types are neither equal nor ordered: unknown, so that such a row does not pass.
fn compare(op: Comparison, left: Option<FilterValue>, right: Option<FilterValue>) -> Option<bool> {
    let (left, right) = (left?, right?);
    if std::mem::discriminant(&left) != std::mem::discriminant(&right) {
        return None;
    }
    Some(match op {
        Comparison::Equal => left == right,
        Comparison::NotEqual => left != right,
        Comparison::Less => left < right,
        Comparison::LessOrEqual => left <= right,
    })
}

/// Greedy: a text after `Any` is best taken where it first occurs, except that the last must end the text.
pub fn is_like(text: &str, pattern: &[LikePart]) -> bool {
    let mut rest = text;
    let mut floating = false;
    for (at, part) in pattern.iter().enumerate() {
        match part {
            LikePart::Any => floating = true,
            LikePart::Text(piece) if !floating => match rest.strip_prefix(piece.as_str()) {
                Some(after) => rest = after,
                None => return false,
            },
            LikePart::Text(piece) if at + 1 == pattern.len() => return rest.ends_with(piece.as_str()),
            LikePart::Text(piece) => match rest.find(piece.as_str()) {
                Some(found) => {
                    rest = &rest[found + piece.len()..];
                    floating = false;
                }
                None => return false,
            },
        }
    }
    floating || rest.is_empty()
}

impl fmt::Display for FilterValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FilterValue::Bool(b) => write!(f, "{b}"),
            FilterValue::Integer(i) => write!(f, "{i}"),
            FilterValue::Text(text) => write!(f, "'{}'", text.replace('\'', "''")),
            FilterValue::Decimal(units) => {
                let one = 10u64.pow(DECIMAL_SCALE);
                let sign = if *units < 0 { "-" } else { "" };
                let units = units.unsigned_abs();
                write!(f, "{sign}{}.{:04}", units / one, units % one)
            }
            FilterValue::Instant(ms) => write!(f, "instant({ms} ms)"),
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Term::Column(column) => write!(f, "{}", quoted(column)),
            Term::Value(value) => write!(f, "{value}"),
        }
    }
}

fn quoted(column: &str) -> String {
    format!("\"{}\"", column.replace('"', "\"\""))
}

/// SQL-like text for people: audit, EXPLAIN, `policy why`. Never parsed.
impl fmt::Display for RowFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut texts: Vec<String> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let operand = |at: &u32| texts.get(*at as usize).cloned().unwrap_or_default();
            let joined = |all: &[u32], with: &str, of_none: &str| match all {
                [] => of_none.to_owned(),
                all => format!("({})", all.iter().map(operand).collect::<Vec<_>>().join(with)),
            };
            texts.push(match node {
                FilterNode::Constant(constant) => constant.to_string(),
                FilterNode::IsNull(column) => format!("{} IS NULL", quoted(column)),
                FilterNode::IsNotNull(column) => format!("{} IS NOT NULL", quoted(column)),
                FilterNode::Compare { op, left, right } => {
                    let op = match op {
                        Comparison::Equal => "=",
                        Comparison::NotEqual => "<>",
                        Comparison::Less => "<",
                        Comparison::LessOrEqual => "<=",
                    };
                    format!("{left} {op} {right}")
                }
                FilterNode::In { column, values } => {
                    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
                    format!("{} IN ({})", quoted(column), values.join(", "))
                }
                FilterNode::Like { column, pattern } => {
                    let parts = pattern.iter().map(|part| match part {
                        LikePart::Any => "%".to_owned(),
                        LikePart::Text(text) => {
                            text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_").replace('\'', "''")
                        }
                    });
                    format!("{} LIKE '{}'", quoted(column), parts.collect::<String>())
                }
                FilterNode::Not(at) => format!("NOT {}", operand(at)),
                FilterNode::And(all) => joined(all, " AND ", "true"),
                FilterNode::Or(all) => joined(all, " OR ", "false"),
            });
        }
        f.write_str(texts.last().map(String::as_str).unwrap_or_default())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn text(s: &str) -> FilterValue {
        FilterValue::Text(s.into())
    }

    fn equal(column: &str, value: FilterValue) -> FilterNode {
        FilterNode::Compare { op: Comparison::Equal, left: Term::Column(column.into()), right: Term::Value(value) }
    }

    #[test]
    fn unknown_is_neither_true_nor_its_opposite() {
        let row = |column: &str| (column == "ward").then(|| text("icu"));
        for (nodes, expected) in [
            (vec![equal("ward", text("icu"))], true),
            (vec![equal("ward", FilterValue::Integer(1))], false),
            (vec![equal("gone", text("icu"))], false),
            (vec![equal("gone", text("icu")), FilterNode::Not(0)], false),
            (vec![equal("gone", text("icu")), equal("ward", text("icu")), FilterNode::Or(vec![0, 1])], true),
            (
                vec![
                    equal("gone", text("icu")),
                    equal("ward", text("er")),
                    FilterNode::And(vec![0, 1]),
                    FilterNode::Not(2),
                ],
                true,
            ),
            (vec![FilterNode::IsNull("gone".into())], true),
            (vec![FilterNode::And(vec![])], true),
            (vec![FilterNode::Or(vec![])], false),
        ] {
            let filter = RowFilter::try_from(nodes).unwrap();
            assert_eq!(filter.passes(&row), expected, "{filter}");
        }
    }

    #[test]
    fn patterns_match_as_cedar_says() {
        let parse = |pattern: &str| {
            let mut parts = vec![];
            for (at, piece) in pattern.split('*').enumerate() {
                if at > 0 {
                    parts.push(LikePart::Any);
                }
                if !piece.is_empty() {
                    parts.push(LikePart::Text(piece.into()));
                }
            }
            parts
        };
        for (input, pattern, expected) in [
            ("", "", true),
            ("a", "", false),
            ("", "*", true),
            ("abc", "abc", true),
            ("abc", "a*c", true),
            ("abcbc", "a*bc", true),
            ("abcb", "a*bc", false),
            ("aa", "a*a", true),
            ("a", "a*a", false),
            ("xaybzb", "*a*b", true),
            ("ab", "*a*b*", true),
            ("äöä", "*ö*", true),
            ("100%", "*%", true),
            ("100", "*_", false),
        ] {
            assert_eq!(is_like(input, &parse(pattern)), expected, "`{input}` like `{pattern}`");
        }
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        let leaf = || FilterNode::Constant(true);
        for nodes in [
            vec![],
            vec![FilterNode::Not(0)],
            vec![leaf(), leaf()],
            vec![leaf(), FilterNode::And(vec![0, 0])],
            vec![leaf(), FilterNode::Not(7)],
            vec![leaf(), FilterNode::Not(0), FilterNode::Not(0)],
            (0..=FILTER_DEPTH_MAX as u32).map(|n| if n == 0 { leaf() } else { FilterNode::Not(n - 1) }).collect(),
            vec![FilterNode::In { column: "a".into(), values: vec![FilterValue::Integer(1); FILTER_NODES_MAX] }],
        ] {
            assert_eq!(RowFilter::try_from(nodes).unwrap_err().code, ErrorCode::MalformedFrame);
        }
        let bytes = crate::wire::encode(&vec![FilterNode::Not(0)], 1 << 10).unwrap();
        assert!(crate::wire::decode::<RowFilter>(&bytes, 1 << 10).is_err(), "the wire checks it too");
        let bytes = crate::wire::encode(&RowFilter::nothing(), 1 << 10).unwrap();
        assert_eq!(crate::wire::decode::<RowFilter>(&bytes, 1 << 10).unwrap(), RowFilter::nothing());
    }

    #[test]
    fn text_for_people_quotes_what_it_names() {
        let filter = RowFilter::try_from(vec![
            equal("wa\"rd", text("o'hara")),
            FilterNode::Like { column: "name".into(), pattern: vec![LikePart::Text("1_0%".into()), LikePart::Any] },
            FilterNode::In { column: "n".into(), values: vec![FilterValue::Decimal(-12_500), FilterValue::Decimal(5)] },
            FilterNode::And(vec![0, 1, 2]),
        ])
        .unwrap();
        assert_eq!(
            filter.to_string(),
            r#"("wa""rd" = 'o''hara' AND "name" LIKE '1\_0\%%' AND "n" IN (-1.2500, 0.0005))"#
        );
        assert_eq!(filter.columns(), ["n", "name", "wa\"rd"]);
    }
}
