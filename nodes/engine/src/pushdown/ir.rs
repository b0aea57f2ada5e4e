//! What one `SELECT` to one source can say: a small tree that the cutter builds from checked parts and `write` turns into
//! SQL. It knows no dialect and no DataFusion plan.
//!
//! INVARIANT: whoever builds a node here has made sure (in `capability` and `convert`) that the source it is meant for
//! gives exactly DataFusion's result for it, or, in a loose filter, at least every row of it.

use datafusion::{arrow::datatypes::DataType, common::ScalarValue};

/// One `SELECT`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Select {
    pub(crate) from: TableRef,
    pub(crate) joins: Vec<JoinItem>,
    /// All must be true.
    pub(crate) filters: Vec<Scalar>,
    /// `Some` for an aggregate; empty for one group over everything.
    pub(crate) group: Option<Vec<Scalar>>,
    /// All must be true, of groups.
    pub(crate) having: Vec<Scalar>,
    pub(crate) order: Vec<OrderKey>,
    pub(crate) limit: Option<u64>,
    /// May be empty where only the number of rows counts.
    pub(crate) columns: Vec<OutputColumn>,
}

/// A table in FROM. Numbers are given once for a whole plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableRef {
    pub(crate) id: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JoinItem {
    pub(crate) kind: JoinKind,
    pub(crate) table: TableRef,
    /// All must be true.
    pub(crate) on: Vec<Scalar>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JoinKind {
    Inner,
    Left,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OutputColumn {
    pub(crate) scalar: Scalar,
    /// Unique within the `SELECT`.
    pub(crate) name: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OrderKey {
    pub(crate) scalar: Scalar,
    pub(crate) descending: bool,
    pub(crate) nulls_first: bool,
}

/// A value or a condition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scalar {
    Column {
        table: u32,
        name: String,
    },
    Literal(ScalarValue),
    Binary {
        op: BinaryOp,
        left: Box<Scalar>,
        right: Box<Scalar>,
    },
    /// At least one.
    And(Vec<Scalar>),
    /// At least one.
    Or(Vec<Scalar>),
    Not(Box<Scalar>),
    Is {
        scalar: Box<Scalar>,
        test: IsTest,
    },
    InList {
        needle: Box<Scalar>,
        list: Vec<Scalar>,
        negated: bool,
    },
    InSelect {
        needle: Box<Scalar>,
        select: Box<Select>,
    },
    /// Case counts. In every dialect but DataFusion's own, the pattern has no backslash.
    Like {
        text: Box<Scalar>,
        pattern: String,
        negated: bool,
    },
    ILike {
        text: Box<Scalar>,
        pattern: String,
        negated: bool,
    },
    /// Whether a text contains another, byte by byte.
    Contains {
        text: Box<Scalar>,
        needle: String,
    },
    /// A text that equals another only if all bytes do, whatever its collation. It stays a text.
    Bytewise(Box<Scalar>),
    /// The UTF-8 bytes of a text, to order by.
    Bytes(Box<Scalar>),
    Negative(Box<Scalar>),
    Cast {
        scalar: Box<Scalar>,
        to: DataType,
        trying: bool,
    },
    Case {
        operand: Option<Box<Scalar>>,
        branches: Vec<(Scalar, Scalar)>,
        otherwise: Option<Box<Scalar>>,
    },
    Function {
        name: String,
        arguments: Vec<Scalar>,
    },
    Aggregate {
        function: String,
        distinct: bool,
        argument: Option<Box<Scalar>>,
        filter: Option<Box<Scalar>>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IsTest {
    Null,
    NotNull,
    True,
    NotTrue,
    False,
    NotFalse,
    Unknown,
    NotUnknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BinaryOp {
    Eq,
    NotEq,
    Lt,
    LtEq,
    Gt,
    GtEq,
    Plus,
    Minus,
    Multiply,
    Divide,
    Modulo,
    Concat,
    IsDistinct,
    IsNotDistinct,
}

impl BinaryOp {
    /// The comparison that holds when both sides are exchanged.
    pub(crate) fn mirrored(self) -> Self {
        match self {
            Self::Lt => Self::Gt,
            Self::LtEq => Self::GtEq,
            Self::Gt => Self::Lt,
            Self::GtEq => Self::LtEq,
            other => other,
        }
    }

    pub(crate) fn is_comparison(self) -> bool {
        matches!(self, Self::Eq | Self::NotEq | Self::Lt | Self::LtEq | Self::Gt | Self::GtEq)
    }

    pub(crate) fn sql(self) -> &'static str {
        match self {
            Self::Eq => "=",
            Self::NotEq => "<>",
            Self::Lt => "<",
            Self::LtEq => "<=",
            Self::Gt => ">",
            Self::GtEq => ">=",
            Self::Plus => "+",
            Self::Minus => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Modulo => "%",
            Self::Concat => "||",
            Self::IsDistinct => "IS DISTINCT FROM",
            Self::IsNotDistinct => "IS NOT DISTINCT FROM",
        }
    }
}

impl Scalar {
    pub(crate) fn binary(op: BinaryOp, left: Scalar, right: Scalar) -> Self {
        Self::Binary { op, left: Box::new(left), right: Box::new(right) }
    }

    pub(crate) fn is(self, test: IsTest) -> Self {
        Self::Is { scalar: Box::new(self), test }
    }

    pub(crate) fn bytewise(self) -> Self {
        Self::Bytewise(Box::new(self))
    }

    pub(crate) fn bytes(self) -> Self {
        Self::Bytes(Box::new(self))
    }

    /// Conditions as one, without needless nesting. `None` for none.
    pub(crate) fn all(conditions: Vec<Scalar>) -> Option<Self> {
        Self::joined(
            conditions,
            |one| match one {
                Self::And(inner) => Ok(inner),
                other => Err(other),
            },
            Self::And,
        )
    }

    pub(crate) fn any(conditions: Vec<Scalar>) -> Option<Self> {
        Self::joined(
            conditions,
            |one| match one {
                Self::Or(inner) => Ok(inner),
                other => Err(other),
            },
            Self::Or,
        )
    }

    fn joined(
        conditions: Vec<Scalar>,
        split: impl Fn(Scalar) -> Result<Vec<Scalar>, Scalar>,
        join: impl Fn(Vec<Scalar>) -> Scalar,
    ) -> Option<Self> {
        let mut flat = Vec::with_capacity(conditions.len());
        for condition in conditions {
            match split(condition) {
                Ok(inner) => flat.extend(inner),
                Err(one) => flat.push(one),
            }
        }
        match flat.len() {
            0 | 1 => flat.pop(),
            _ => Some(join(flat)),
        }
    }
}
