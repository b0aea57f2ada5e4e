//! Joins inside one source. Only those in which each row of one side meets at most one of the other, by keys that the
//! source knows to be unique: such a join cannot blow up what is sent, and the source has an index for it.
//!
//! Inner joins, left joins, and semi-joins by one key (as `IN (SELECT ...)`). Anti joins never: `NOT IN` and `NOT EXISTS`
//! with NULLs mean different things in different plans, and a mistake shows no error.

use std::{collections::BTreeSet, sync::Arc};

use datafusion::{
    common::{JoinType, NullEquality, Result},
    logical_expr::{Expr, Join, utils::split_conjunction},
};

use super::{
    capability::{Agreement, groupable},
    convert::{self, BaseColumn, Operand, compare_columns, operand},
    cutter::{JoinMode, is_movable},
    estimate::{SEMI_SELECTIVITY, join_pays, joined_rows},
    ir::{BinaryOp, JoinItem, JoinKind, OutputColumn, Scalar},
    remote::Remote,
};

/// The join as one part, if the source can run it and should.
pub(crate) fn absorb(join: &Join, left: &Remote, right: &Remote, mode: JoinMode) -> Result<Option<Remote>> {
    let same = left.source.source == right.source.source;
    let plain = join.null_equality == NullEquality::NullEqualsNothing && !join.null_aware;
    if !same || !plain || !left.is_rows() || !right.is_rows() || join.on.is_empty() {
        return Ok(None);
    }
    let Some(keys) = Keys::of(join, left, right)? else { return Ok(None) };
    match join.join_type {
        JoinType::Inner => inner(join, left, right, &keys, mode),
        JoinType::Left if mode == JoinMode::Always => left_outer(join, left, right, &keys),
        JoinType::LeftSemi => Ok(semi(join, left, right, &keys.left, &keys.right)),
        JoinType::RightSemi => Ok(semi(join, right, left, &keys.right, &keys.left)),
        _ => Ok(None),
    }
}

/// Key columns of both sides, pair by pair, all of a kind that both engines find equal alike.
struct Keys {
    left: Vec<BaseColumn>,
    right: Vec<BaseColumn>,
    on: Vec<Scalar>,
}

impl Keys {
    fn of(join: &Join, left: &Remote, right: &Remote) -> Result<Option<Self>> {
        let mut keys = Self { left: Vec::new(), right: Vec::new(), on: Vec::new() };
        for (l, r) in &join.on {
            let (l, r) = (left.to_base(l)?, right.to_base(r)?);
            let (Some(Operand::Column(l)), Some(Operand::Column(r))) =
                (operand(left.scope(), &l), operand(right.scope(), &r))
            else {
                return Ok(None);
            };
            let dialect = left.source.dialect;
            if !groupable(dialect, l.traits) || !groupable(dialect, r.traits) {
                return Ok(None);
            }
            let Some(equal) = compare_columns(l, BinaryOp::Eq, r).and_then(|form| form.exact) else {
                return Ok(None);
            };
            keys.on.push(equal);
            keys.left.push(l.clone());
            keys.right.push(r.clone());
        }
        Ok(Some(keys))
    }
}

/// Whether no two rows agree in these columns.
fn is_unique(remote: &Remote, keys: &[BaseColumn]) -> bool {
    let columns: BTreeSet<(u32, String)> = keys
        .iter()
        .filter_map(|key| match &key.scalar {
            Scalar::Column { table, name } => Some((*table, name.clone())),
            _ => None,
        })
        .collect();
    remote.unique.iter().any(|unique| unique.is_subset(&columns))
}

fn inner(join: &Join, left: &Remote, right: &Remote, keys: &Keys, mode: JoinMode) -> Result<Option<Remote>> {
    let (right_unique, left_unique) = (is_unique(right, &keys.right), is_unique(left, &keys.left));
    let (many, one) = match (right_unique, left_unique) {
        (true, _) => (left, right),
        (false, true) => (right, left),
        (false, false) => return Ok(None),
    };
    if mode == JoinMode::IfItPays && !join_pays(many, one) {
        return Ok(None);
    }
    // One side at least is a single table: it is joined to the other.
    let (trunk, branch) = match (left.joins.is_empty(), right.joins.is_empty()) {
        (_, true) => (left, right),
        (true, false) => (right, left),
        (false, false) => return Ok(None),
    };
    let mut remote = trunk.clone();
    remote.joins.push(JoinItem { kind: JoinKind::Inner, table: branch.from.clone(), on: keys.on.clone() });
    remote.pushed.extend(branch.pushed.iter().cloned());
    remote.semi.extend(branch.semi.iter().cloned());
    remote.residual.extend(branch.residual.iter().cloned());
    remote.base.extend(branch.base.iter().cloned());
    remote.output = left.output.iter().chain(&right.output).cloned().collect();
    remote.schema = Arc::clone(&join.schema);
    remote.unique = many.unique.clone();
    if right_unique && left_unique {
        remote.unique.extend(one.unique.iter().cloned());
    }
    remote.rows = joined_rows(many, one);
    remote.rows_whole = many.rows_whole;
    for condition in join.filter.iter().flat_map(split_conjunction) {
        let condition = remote.to_base(condition)?;
        if is_movable(&condition)? { remote.add_condition(condition) } else { remote.residual.push(condition) }
    }
    Ok(Some(remote))
}

fn left_outer(join: &Join, left: &Remote, right: &Remote, keys: &Keys) -> Result<Option<Remote>> {
    let single = right.joins.is_empty() && right.semi.is_empty();
    if !single || !right.is_exact() || !is_unique(right, &keys.right) {
        return Ok(None);
    }
    let mut remote = left.clone();
    let nullable = right
        .base
        .iter()
        .map(|base| BaseColumn { field: Arc::new(base.field.as_ref().clone().with_nullable(true)), ..base.clone() });
    remote.base.extend(nullable);
    remote.output = left.output.iter().chain(&right.output).cloned().collect();
    remote.schema = Arc::clone(&join.schema);
    // A computed column of the right side is NULL where there is no match, whatever it computes from NULLs.
    if right.output.iter().any(|expr| !matches!(expr, Expr::Column(_))) {
        return Ok(None);
    }
    let mut on = keys.on.clone();
    on.extend(right.pushed.iter().filter_map(|pushed| pushed.form.exact.clone()));
    for condition in join.filter.iter().flat_map(split_conjunction) {
        let condition = remote.to_base(condition)?;
        let exact = match is_movable(&condition)? {
            true => convert::condition(remote.scope(), &condition).and_then(|form| form.exact),
            false => None,
        };
        match exact {
            Some(exact) => on.push(exact),
            None => return Ok(None),
        }
    }
    remote.joins.push(JoinItem { kind: JoinKind::Left, table: right.from.clone(), on });
    Ok(Some(remote))
}

/// Rows of `kept` whose key is among those of `other`.
fn semi(
    join: &Join,
    kept: &Remote,
    other: &Remote,
    kept_keys: &[BaseColumn],
    other_keys: &[BaseColumn],
) -> Option<Remote> {
    let ([needle], [key]) = (kept_keys, other_keys) else { return None };
    let native = [needle, key].iter().all(|key| key.traits.agreement == Agreement::Native);
    if join.filter.is_some() || !native || !other.is_exact() {
        return None;
    }
    // Strict by its use: nothing above can check what is inside.
    let mut select = other.select(vec![OutputColumn { scalar: key.scalar.clone(), name: key.column.name.clone() }]);
    let exact = other.pushed.iter().filter_map(|pushed| pushed.form.exact.clone());
    select.filters = exact.chain(other.semi.iter().cloned()).collect();
    let mut remote = kept.clone();
    remote.semi.push(Scalar::InSelect { needle: Box::new(needle.scalar.clone()), select: Box::new(select) });
    remote.scale_rows(SEMI_SELECTIVITY);
    Some(remote)
}
