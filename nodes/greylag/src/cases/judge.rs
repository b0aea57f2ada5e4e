//! One case: the ruling on it, what would be seen, and how that differs from what was expected. Pure.
//!
//! Rows and values are made by the definitions that the query engine's own filters and masks are tested against:
//! `RowFilter::passes` and `governance::policy::mask::apply`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use greylag_governance::policy::{Circumstances, Question, Ruling, TableFacts, Touched, mask};
use greylag_protocol::{
    messages::control::{TableName, Verdict},
    obligation::TableObligation,
};
use serde_json::Value;

use super::{
    document::{Case, Expect},
    setup::{Row, Setup, table_name},
    value,
};

/// When cases happen that do not say when: a Monday at noon.
const AT: &str = "2026-01-05T12:00";
/// Where they come from then.
const ORIGIN: &str = "flight";
/// Keeps equal values equal under `hash`; the mesh has one of its own.
const SALT: &[u8] = b"greylag policy test";

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub name: String,
    /// Ids of the policies that determined it.
    pub policies: Vec<String>,
    /// Lines that say what is other than expected; none: it passed.
    pub differences: Vec<String>,
}

/// Judges a case. An error if it is not a question at all: a name that nobody has, a time that is none.
pub fn judge(setup: &Setup, case: &Case) -> anyhow::Result<Outcome> {
    let principal = setup.principals.get(&case.principal);
    let principal = principal.with_context(|| format!("nobody is called `{}`", case.principal))?;
    let touched = touched(setup, case)?;
    let (offset, at) = (setup.settings.utc_offset_minutes, case.at.as_deref().unwrap_or(AT));
    let now_unix_ms = value::instant(at, offset).with_context(|| format!("`{at}` is no time"))?;
    let circumstances = Circumstances {
        origin: case.origin.clone().unwrap_or_else(|| ORIGIN.into()),
        environment: setup.settings.environment.clone(),
        now_unix_ms,
        utc_offset_minutes: offset,
    };
    let question = Question { principal, action: case.action.into(), touched: &touched, circumstances: &circumstances };
    let ruling = setup.engine.decide(&question);
    let mut differences = Vec::new();
    verdict(case, &ruling, &mut differences);
    named("decided by", case.by.as_ref(), ruling.policies.iter().cloned().collect(), &mut differences);
    let noticed = ruling.notices.iter().flat_map(|notice| notice.policies.iter().cloned()).collect();
    named("notices of", case.notices.as_ref(), noticed, &mut differences);
    if ruling.verdict == Verdict::Permit {
        let mut touched: BTreeSet<TableName> = touched.into_iter().map(|touched| touched.table).collect();
        for (table, expected) in &case.sees {
            sees(setup, &ruling, &known(&mut touched, table)?, expected, &mut differences)?;
        }
        for (table, expected) in &case.hidden {
            let table = known(&mut touched, table)?;
            let hidden = obligation(&ruling, &table).map(|o| o.hidden.iter().map(|h| h.column.clone()).collect());
            let what = format!("hidden of {table}");
            named(&what, Some(expected), hidden.unwrap_or_default(), &mut differences);
        }
    }
    Ok(Outcome { name: case.name.clone(), policies: ruling.policies, differences })
}

fn touched(setup: &Setup, case: &Case) -> anyhow::Result<Vec<Touched>> {
    let mut all: BTreeMap<TableName, Option<BTreeSet<String>>> = BTreeMap::new();
    for table in &case.tables {
        all.insert(table_name(table)?, None);
    }
    for (table, columns) in &case.reads {
        let name = table_name(table)?;
        let facts = setup.tables.get(&name).map(|(facts, _)| facts);
        if let Some(stranger) = columns.iter().find(|c| facts.is_some_and(|facts| facts.column(c).is_none())) {
            bail!("table `{table}` has no column `{stranger}`");
        }
        all.insert(name, Some(columns.iter().cloned().collect()));
    }
    if let Some(stranger) = all.keys().find(|name| !setup.tables.contains_key(name)) {
        bail!("table `{stranger}` is not among `tables`");
    }
    Ok(all.into_iter().map(|(table, columns)| Touched { table, columns }).collect())
}

/// A table of an expectation, which must be one that the case touches.
fn known(touched: &mut BTreeSet<TableName>, text: &str) -> anyhow::Result<TableName> {
    let name = table_name(text)?;
    if !touched.contains(&name) {
        bail!("something is expected of `{text}`, which the case does not touch");
    }
    Ok(name)
}

fn verdict(case: &Case, ruling: &Ruling, differences: &mut Vec<String>) {
    match (&ruling.verdict, case.expect) {
        (Verdict::Permit, Expect::Permit) => {}
        (Verdict::Permit, Expect::Deny) => differences.push("expected deny, got permit".into()),
        (Verdict::Deny { reason }, Expect::Permit) => differences.push(format!("expected permit, got deny: {reason}")),
        (Verdict::Deny { reason }, Expect::Deny) => {
            if let Some(part) = case.reason.as_ref().filter(|part| !reason.contains(part.as_str())) {
                differences.push(format!("expected a reason with `{part}`, got: {reason}"));
            }
        }
    }
}

/// Names that are to be exactly these.
fn named(what: &str, expected: Option<&Vec<String>>, got: BTreeSet<String>, differences: &mut Vec<String>) {
    let Some(expected) = expected else { return };
    let expected: BTreeSet<String> = expected.iter().cloned().collect();
    differences.extend(expected.difference(&got).map(|name| format!("- {what}: {name}")));
    differences.extend(got.difference(&expected).map(|name| format!("+ {what}: {name}")));
}

fn obligation<'a>(ruling: &'a Ruling, table: &TableName) -> Option<&'a TableObligation> {
    ruling.obligations.iter().find(|obligation| obligation.table == *table)
}

/// Compares the rows that are seen. Of an expected row only the columns count that it names.
fn sees(
    setup: &Setup,
    ruling: &Ruling,
    table: &TableName,
    expected: &[BTreeMap<String, Value>],
    differences: &mut Vec<String>,
) -> anyhow::Result<()> {
    let (facts, rows) = setup.tables.get(table).context("the table has gone")?;
    let seen = seen(facts, rows, obligation(ruling, table));
    let named: BTreeSet<&String> = expected.iter().flat_map(BTreeMap::keys).collect();
    if let Some(stranger) = named.iter().find(|column| facts.column(column).is_none()) {
        bail!("table `{table}` has no column `{stranger}`");
    }
    for at in 0..seen.len().max(expected.len()) {
        let wanted = expected.get(at).map(|row| wanted(facts, row)).transpose()?;
        let got = seen.get(at);
        let same = match (&wanted, got) {
            (Some(wanted), Some(got)) => wanted.iter().all(|(column, value)| got[*column] == *value),
            _ => false,
        };
        if !same {
            let columns: Vec<usize> = match &wanted {
                Some(wanted) => wanted.iter().map(|(column, _)| *column).collect(),
                None => (0..facts.columns.len()).collect(),
            };
            let shown = |row: &dyn Fn(usize) -> String| {
                let cells = columns.iter().map(|c| format!("{}: {}", facts.columns[*c].name, row(*c)));
                cells.collect::<Vec<_>>().join(", ")
            };
            if let Some(wanted) = &wanted {
                let value = |column| wanted.iter().find(|(c, _)| *c == column).and_then(|(_, value)| value.as_ref());
                differences.push(format!("- {table} row {}: {}", at + 1, shown(&|c| value::show(value(c)))));
            }
            if let Some(got) = got {
                differences.push(format!("+ {table} row {}: {}", at + 1, shown(&|c| value::show(got[c].as_ref()))));
            }
        }
    }
    Ok(())
}

type Wanted = Vec<(usize, Option<greylag_protocol::filter::FilterValue>)>;

fn wanted(facts: &TableFacts, row: &BTreeMap<String, Value>) -> anyhow::Result<Wanted> {
    let columns =
        facts.columns.iter().enumerate().filter_map(|(at, column)| Some((at, column, row.get(&column.name)?)));
    columns
        .map(|(at, column, given)| {
            Ok((at, value::read(column.kind, given).with_context(|| format!("expected `{}`", column.name))?))
        })
        .collect()
}

/// The rows that pass, with masks over their values. Filters and the conditions of masks see true values.
fn seen(facts: &TableFacts, rows: &[Row], obligation: Option<&TableObligation>) -> Vec<Row> {
    let Some(obligation) = obligation else { return rows.to_vec() };
    let position = |name: &str| facts.columns.iter().position(|column| column.name == name);
    let mut seen = Vec::new();
    for row in rows {
        let value = |name: &str| position(name).and_then(|at| row.get(at)).cloned().flatten();
        if obligation.filter.as_ref().is_some_and(|filter| !filter.passes(&value)) {
            continue;
        }
        let mut shown = row.clone();
        for masked in &obligation.masks {
            let rule = masked.rules.iter().find(|rule| rule.when.as_ref().is_none_or(|when| when.passes(&value)));
            if let (Some(rule), Some(at)) = (rule, position(&masked.column)) {
                shown[at] = mask::apply(&rule.mask, value(&masked.column), SALT);
            }
        }
        // What is hidden cannot be read: no value of it can be expected.
        for at in obligation.hidden.iter().filter_map(|hidden| position(&hidden.column)) {
            shown[at] = None;
        }
        seen.push(shown);
    }
    seen
}
