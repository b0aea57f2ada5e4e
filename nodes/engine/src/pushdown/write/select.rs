//! Clauses, conditions and expressions, as all dialects write them; what differs is asked of the grammar.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{Grammar, ROW_MARK};
use crate::pushdown::ir::{BinaryOp, IsTest, JoinKind, Scalar, Select, TableRef};

/// The whole `SELECT`. `None` if the dialect lacks something that is in it.
pub(super) fn write(grammar: &dyn Grammar, select: &Select) -> Option<String> {
    Writer { grammar, aliases: aliases(select) }.select(select)
}

/// `t1`, `t2`, ... in order of FROM; nothing if there is only one table.
fn aliases(select: &Select) -> BTreeMap<u32, String> {
    if select.joins.is_empty() {
        return BTreeMap::new();
    }
    let tables = std::iter::once(&select.from).chain(select.joins.iter().map(|join| &join.table));
    tables.enumerate().map(|(at, table)| (table.id, format!("t{}", at + 1))).collect()
}

struct Writer<'a> {
    grammar: &'a dyn Grammar,
    aliases: BTreeMap<u32, String>,
}

impl Writer<'_> {
    fn select(&self, select: &Select) -> Option<String> {
        let mut out = String::from("SELECT ");
        for (at, column) in select.columns.iter().enumerate() {
            out.push_str(if at == 0 { "" } else { ", " });
            out.push_str(&self.scalar(&column.scalar)?);
            if !matches!(&column.scalar, Scalar::Column { name, .. } if *name == column.name) {
                let _ = write!(out, " AS {}", self.grammar.quote(&column.name));
            }
        }
        if select.columns.is_empty() {
            let _ = write!(out, "{} AS {}", self.grammar.one(), self.grammar.quote(ROW_MARK));
        }
        let _ = write!(out, " FROM {}", self.table(&select.from));
        for join in &select.joins {
            let kind = match join.kind {
                JoinKind::Inner => "INNER JOIN",
                JoinKind::Left => "LEFT JOIN",
            };
            let _ = write!(out, " {kind} {} ON {}", self.table(&join.table), self.conditions(&join.on)?);
        }
        if !select.filters.is_empty() {
            let _ = write!(out, " WHERE {}", self.conditions(&select.filters)?);
        }
        if let Some(keys) = select.group.as_ref().filter(|keys| !keys.is_empty()) {
            let _ = write!(out, " GROUP BY {}", self.list(keys)?);
        }
        if !select.having.is_empty() {
            let _ = write!(out, " HAVING {}", self.conditions(&select.having)?);
        }
        for (at, key) in select.order.iter().enumerate() {
            out.push_str(if at == 0 { " ORDER BY " } else { ", " });
            out.push_str(&self.grammar.order(&self.operand(&key.scalar)?, key));
        }
        if let Some(limit) = select.limit {
            let _ = write!(out, " LIMIT {limit}");
        }
        Some(out)
    }

    fn table(&self, table: &TableRef) -> String {
        let name = format!("{}.{}", self.grammar.quote(&table.schema), self.grammar.quote(&table.name));
        match self.aliases.get(&table.id) {
            Some(alias) => format!("{name} AS {alias}"),
            None => name,
        }
    }

    fn conditions(&self, all: &[Scalar]) -> Option<String> {
        let parts: Option<Vec<String>> = match all {
            [one] => return self.scalar(one),
            many => many.iter().map(|one| self.operand(one)).collect(),
        };
        Some(parts?.join(" AND "))
    }

    fn list(&self, scalars: &[Scalar]) -> Option<String> {
        let parts: Option<Vec<String>> = scalars.iter().map(|scalar| self.scalar(scalar)).collect();
        Some(parts?.join(", "))
    }

    /// A condition beside AND or OR, or a key: in parentheses unless it is an atom or a comparison of atoms.
    fn operand(&self, scalar: &Scalar) -> Option<String> {
        match scalar {
            Scalar::Binary { op, left, right } if op.is_comparison() && is_atom(left) && is_atom(right) => {
                self.scalar(scalar)
            }
            Scalar::Case { .. } => self.scalar(scalar),
            other => self.grouped(other),
        }
    }

    fn scalar(&self, scalar: &Scalar) -> Option<String> {
        Some(match scalar {
            Scalar::Column { table, name } => match self.aliases.get(table) {
                Some(alias) => format!("{alias}.{}", self.grammar.quote(name)),
                None => self.grammar.quote(name),
            },
            Scalar::Literal(value) => self.grammar.literal(value)?,
            Scalar::Binary { op, left, right } => self.binary(*op, left, right)?,
            Scalar::And(all) => self.conditions(all)?,
            Scalar::Or(any) => {
                let parts: Option<Vec<String>> = any.iter().map(|one| self.operand(one)).collect();
                parts?.join(" OR ")
            }
            Scalar::Not(inner) => format!("NOT ({})", self.scalar(inner)?),
            Scalar::Is { scalar, test } => format!("{} {}", self.grouped(scalar)?, is_test(*test)),
            Scalar::InList { needle, list, negated } => {
                format!("{} {}IN ({})", self.grouped(needle)?, not(*negated), self.list(list)?)
            }
            Scalar::InSelect { needle, select } => {
                format!("{} IN ({})", self.grouped(needle)?, write(self.grammar, select)?)
            }
            Scalar::Like { text, pattern, negated } => self.like("LIKE", text, pattern, *negated)?,
            Scalar::ILike { text, pattern, negated } if self.grammar.is_datafusion() => {
                self.like("ILIKE", text, pattern, *negated)?
            }
            Scalar::ILike { .. } => return None,
            Scalar::Contains { text, needle } => self.grammar.contains(&self.scalar(text)?, needle)?,
            Scalar::Bytewise(inner) => match inner.as_ref() {
                Scalar::Literal(value) => self.grammar.bytewise_literal(value)?,
                other => self.grammar.bytewise(&self.scalar(other)?)?,
            },
            Scalar::Bytes(inner) => match inner.as_ref() {
                Scalar::Literal(value) => self.grammar.bytes_literal(value)?,
                other => self.grammar.bytes(&self.scalar(other)?)?,
            },
            Scalar::Negative(inner) => format!("- {}", self.grouped(inner)?),
            Scalar::Cast { scalar, to, trying: false } => self.grammar.cast(&self.scalar(scalar)?, to)?,
            Scalar::Cast { scalar, to, trying: true } => self.grammar.try_cast(&self.scalar(scalar)?, to)?,
            Scalar::Case { .. } | Scalar::Function { .. } if !self.grammar.is_datafusion() => return None,
            Scalar::Case { operand, branches, otherwise } => {
                self.case(operand.as_deref(), branches, otherwise.as_deref())?
            }
            Scalar::Function { name, arguments } => format!("{name}({})", self.list(arguments)?),
            Scalar::Aggregate { function, distinct, argument, filter } => {
                self.aggregate(function, *distinct, argument.as_deref(), filter.as_deref())?
            }
        })
    }

    /// In parentheses unless it is an atom.
    fn grouped(&self, scalar: &Scalar) -> Option<String> {
        let text = self.scalar(scalar)?;
        Some(if is_atom(scalar) { text } else { format!("({text})") })
    }

    fn binary(&self, op: BinaryOp, left: &Scalar, right: &Scalar) -> Option<String> {
        Some(format!("{} {} {}", self.grouped(left)?, op.sql(), self.grouped(right)?))
    }

    fn like(&self, word: &str, text: &Scalar, pattern: &str, negated: bool) -> Option<String> {
        let text = self.grammar.like_text(&self.grouped(text)?)?;
        let pattern = self.grammar.literal(&datafusion::common::ScalarValue::from(pattern))?;
        Some(format!("{text} {}{word} {pattern}", not(negated)))
    }

    fn case(
        &self,
        operand: Option<&Scalar>,
        branches: &[(Scalar, Scalar)],
        otherwise: Option<&Scalar>,
    ) -> Option<String> {
        let mut out = String::from("CASE");
        if let Some(operand) = operand {
            let _ = write!(out, " {}", self.grouped(operand)?);
        }
        for (when, then) in branches {
            let _ = write!(out, " WHEN {} THEN {}", self.scalar(when)?, self.scalar(then)?);
        }
        if let Some(otherwise) = otherwise {
            let _ = write!(out, " ELSE {}", self.scalar(otherwise)?);
        }
        out.push_str(" END");
        Some(out)
    }

    fn aggregate(
        &self,
        function: &str,
        distinct: bool,
        argument: Option<&Scalar>,
        filter: Option<&Scalar>,
    ) -> Option<String> {
        let argument = match argument {
            Some(argument) => self.scalar(argument)?,
            None => "*".into(),
        };
        let distinct = if distinct { "DISTINCT " } else { "" };
        let mut out = format!("{function}({distinct}{argument})");
        if let Some(filter) = filter {
            let _ = write!(out, " FILTER (WHERE {})", self.scalar(filter)?);
        }
        Some(out)
    }
}

/// Whether it binds tighter than any operator.
fn is_atom(scalar: &Scalar) -> bool {
    matches!(
        scalar,
        Scalar::Column { .. }
            | Scalar::Literal(_)
            | Scalar::Bytewise(_)
            | Scalar::Bytes(_)
            | Scalar::Cast { .. }
            | Scalar::Function { .. }
            | Scalar::Aggregate { .. }
    )
}

fn not(negated: bool) -> &'static str {
    if negated { "NOT " } else { "" }
}

fn is_test(test: IsTest) -> &'static str {
    match test {
        IsTest::Null => "IS NULL",
        IsTest::NotNull => "IS NOT NULL",
        IsTest::True => "IS TRUE",
        IsTest::NotTrue => "IS NOT TRUE",
        IsTest::False => "IS FALSE",
        IsTest::NotFalse => "IS NOT FALSE",
        IsTest::Unknown => "IS UNKNOWN",
        IsTest::NotUnknown => "IS NOT UNKNOWN",
    }
}
