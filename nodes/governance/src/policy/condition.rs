//! Conditions over a row while they are being made: built bottom-up with the simplifications that are always right,
//! shared where they repeat, and written out at the end as a [`RowFilter`] that has its limits.
//!
//! INVARIANT: every condition built by `residual.rs` is true or false for every row, never unknown in SQL's sense,
//! although parts of it may be: a part is unknown only where another part decides. So `NOT` is its exact opposite.

use std::{collections::BTreeSet, rc::Rc};

use greylag_protocol::filter::{Comparison, FILTER_NODES_MAX, FilterNode, FilterValue, LikePart, RowFilter, Term};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    Constant(bool),
    IsNull(String),
    IsNotNull(String),
    Compare(Comparison, Term, Term),
    In(String, BTreeSet<FilterValue>),
    Like(String, Vec<LikePart>),
    Not(Shared),
    And(Vec<Shared>),
    Or(Vec<Shared>),
}

/// A condition and how many nodes it has when written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    condition: Rc<Condition>,
    size: usize,
}

impl Condition {
    fn share(self) -> Shared {
        let size = match &self {
            Condition::Not(of) => 1 + of.size,
            Condition::And(all) | Condition::Or(all) => all.iter().fold(1usize, |sum, of| sum.saturating_add(of.size)),
            Condition::In(_, values) => 1 + values.len(),
            Condition::Like(_, pattern) => 1 + pattern.len(),
            _ => 1,
        };
        Shared { condition: Rc::new(self), size }
    }
}

pub fn constant(value: bool) -> Shared {
    Condition::Constant(value).share()
}

pub fn is_null(column: &str) -> Shared {
    Condition::IsNull(column.to_owned()).share()
}

pub fn is_not_null(column: &str) -> Shared {
    Condition::IsNotNull(column.to_owned()).share()
}

pub fn compare(op: Comparison, left: Term, right: Term) -> Shared {
    Condition::Compare(op, left, right).share()
}

/// Whether the column is one of these, of one type.
pub fn is_in(column: &str, values: BTreeSet<FilterValue>) -> Shared {
    let mut values = values;
    match values.len() {
        0 => constant(false),
        1 => match values.pop_first() {
            Some(only) => compare(Comparison::Equal, Term::Column(column.to_owned()), Term::Value(only)),
            None => constant(false),
        },
        _ => Condition::In(column.to_owned(), values).share(),
    }
}

pub fn like(column: &str, pattern: Vec<LikePart>) -> Shared {
    Condition::Like(column.to_owned(), pattern).share()
}

pub fn not(of: Shared) -> Shared {
    match &*of.condition {
        Condition::Constant(value) => constant(!value),
        Condition::IsNull(column) => is_not_null(column),
        Condition::IsNotNull(column) => is_null(column),
        Condition::Not(inner) => inner.clone(),
        _ => Condition::Not(of).share(),
    }
}

pub fn and(all: impl IntoIterator<Item = Shared>) -> Shared {
    join(all, false)
}

pub fn or(all: impl IntoIterator<Item = Shared>) -> Shared {
    join(all, true)
}

/// `decisive`: the constant that decides the whole.
fn join(all: impl IntoIterator<Item = Shared>, decisive: bool) -> Shared {
    let mut kept: Vec<Shared> = Vec::new();
    for operand in all {
        let inner = match &*operand.condition {
            Condition::Constant(value) if *value == decisive => return operand,
            Condition::Constant(_) => continue,
            Condition::And(inner) if !decisive => inner.clone(),
            Condition::Or(inner) if decisive => inner.clone(),
            _ => vec![operand],
        };
        for operand in inner {
            if !kept.iter().any(|k| is_same(k, &operand)) {
                kept.push(operand);
            }
        }
    }
    match kept.len() {
        0 => constant(!decisive),
        1 => kept.swap_remove(0),
        _ if decisive => Condition::Or(kept).share(),
        _ => Condition::And(kept).share(),
    }
}

/// Cheap: shared, or a leaf that is equal.
fn is_same(a: &Shared, b: &Shared) -> bool {
    Rc::ptr_eq(&a.condition, &b.condition)
        || (!matches!(&*a.condition, Condition::Not(_) | Condition::And(_) | Condition::Or(_)) && a == b)
}

impl Shared {
    /// The value that it has whatever the row.
    pub fn as_constant(&self) -> Option<bool> {
        match &*self.condition {
            Condition::Constant(value) => Some(*value),
            _ => None,
        }
    }

    /// Written out; `None` when that is over the limits of a filter.
    pub fn to_filter(&self) -> Option<RowFilter> {
        if self.size > FILTER_NODES_MAX {
            return None;
        }
        let mut nodes = Vec::with_capacity(self.size);
        self.write(&mut nodes);
        RowFilter::try_from(nodes).ok()
    }

    /// Appends the nodes and gives the index of the last. Depth is bounded by the depth of policies.
    fn write(&self, nodes: &mut Vec<FilterNode>) -> u32 {
        let node = match &*self.condition {
            Condition::Constant(value) => FilterNode::Constant(*value),
            Condition::IsNull(column) => FilterNode::IsNull(column.clone()),
            Condition::IsNotNull(column) => FilterNode::IsNotNull(column.clone()),
            Condition::Compare(op, left, right) => {
                FilterNode::Compare { op: *op, left: left.clone(), right: right.clone() }
            }
            Condition::In(column, values) => {
                FilterNode::In { column: column.clone(), values: values.iter().cloned().collect() }
            }
            Condition::Like(column, pattern) => FilterNode::Like { column: column.clone(), pattern: pattern.clone() },
            Condition::Not(of) => FilterNode::Not(of.write(nodes)),
            Condition::And(all) => FilterNode::And(all.iter().map(|of| of.write(nodes)).collect()),
            Condition::Or(all) => FilterNode::Or(all.iter().map(|of| of.write(nodes)).collect()),
        };
        nodes.push(node);
        (nodes.len() - 1) as u32
    }
}
