//! LIKE at a foreign source. PostgreSQL and MySQL have DataFusion's LIKE once the collation is out of the way, for
//! patterns without escapes. SQLite's ignores case and stops at NUL, so a pattern is taken apart there into what its
//! plain operators say exactly, or at least loosely.

use datafusion::logical_expr::Like;
use greylag_protocol::schema::Dialect;

use super::{BaseColumn, Operand, Pushable, Scope, condition::compare, operand};
use crate::pushdown::{
    capability::{Agreement, Kind},
    ir::{BinaryOp, IsTest, Scalar},
    write::{literal, text_of},
};

const LIKE_SELECTIVITY: f64 = 0.1;

pub(super) fn like(scope: Scope<'_>, like: &Like) -> Option<Pushable> {
    let (Operand::Column(column), Operand::Literal(value)) =
        (operand(scope, &like.expr)?, operand(scope, &like.pattern)?)
    else {
        return None;
    };
    let pattern = text_of(value)?;
    if like.case_insensitive || pattern.contains(['\\', '\0']) || column.traits.kind != Kind::Text {
        return None;
    }
    literal(scope.dialect, value)?;
    let scalar = column.scalar.clone();
    let text = match (scope.dialect, column.traits.agreement) {
        (_, Agreement::Unknown) | (Dialect::DataFusion, _) => return None,
        (Dialect::Sqlite, Agreement::Forced) => return None,
        (Dialect::Sqlite, Agreement::Native) => return taken_apart(column, pattern, like.negated),
        (Dialect::Postgres, Agreement::Forced) => scalar.bytewise(),
        // Its grammar sets the collation for LIKE itself.
        (Dialect::MySql, _) | (Dialect::Postgres, Agreement::Native) => scalar,
    };
    let selectivity = if like.negated { 1.0 - LIKE_SELECTIVITY } else { LIKE_SELECTIVITY };
    let scalar = Scalar::Like { text: Box::new(text), pattern: pattern.to_owned(), negated: like.negated };
    Some(Pushable::exact(scalar, selectivity))
}

/// The pattern as comparisons and containments.
fn taken_apart(column: &BaseColumn, pattern: &str, negated: bool) -> Option<Pushable> {
    let positive = pieces(column, pattern)?;
    if !negated {
        return Some(positive);
    }
    Some(Pushable::exact(Scalar::Not(Box::new(positive.exact?)), 1.0 - positive.selectivity))
}

fn pieces(column: &BaseColumn, pattern: &str) -> Option<Pushable> {
    let has_single = pattern.contains('_');
    let parts: Vec<&str> = pattern.split(['%', '_']).collect();
    let (first, rest) = parts.split_first()?;
    if rest.is_empty() {
        return compare(Dialect::Sqlite, column, BinaryOp::Eq, &pattern.into());
    }
    let mut all = Vec::new();
    let mut is_exact = !has_single;
    if !first.is_empty() {
        let (range, bounded) = starts_with(column, first);
        all.extend(range);
        is_exact &= bounded;
    }
    let inner: Vec<&str> = rest.iter().copied().filter(|part| !part.is_empty()).collect();
    for needle in &inner {
        all.push(Scalar::Contains { text: Box::new(column.scalar.clone()), needle: (*needle).to_owned() });
    }
    let ends_open = rest.last().is_some_and(|last| last.is_empty());
    is_exact &= inner.is_empty() || (first.is_empty() && inner.len() == 1 && ends_open);
    let Some(loose) = Scalar::all(all) else {
        // `%`: every text there is. `_%`: at least a text.
        let scalar = column.scalar.clone().is(IsTest::NotNull);
        return Some(Pushable { loose: scalar.clone(), exact: is_exact.then_some(scalar), selectivity: 1.0 });
    };
    Some(Pushable { exact: is_exact.then(|| loose.clone()), loose, selectivity: LIKE_SELECTIVITY })
}

/// `column >= prefix`, and `column < successor` if the prefix has one, and whether it has.
fn starts_with(column: &BaseColumn, prefix: &str) -> (Vec<Scalar>, bool) {
    let bound = |op, text: String| Scalar::binary(op, column.scalar.clone(), Scalar::Literal(text.into()));
    let mut range = vec![bound(BinaryOp::GtEq, prefix.to_owned())];
    let successor = successor(prefix);
    let bounded = successor.is_some();
    range.extend(successor.map(|end| bound(BinaryOp::Lt, end)));
    (range, bounded)
}

/// The least text above every text with this prefix, in the order of UTF-8 bytes.
fn successor(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // Surrogates are no characters; UTF-8 orders as code points do.
        let next = if last == '\u{D7FF}' { Some('\u{E000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successors_close_a_prefix() {
        assert_eq!(successor("forest").as_deref(), Some("foresu"));
        assert_eq!(successor("a\u{D7FF}").as_deref(), Some("a\u{E000}"));
        assert_eq!(successor("a\u{10FFFF}").as_deref(), Some("b"));
        assert_eq!(successor("\u{10FFFF}"), None);
    }
}
