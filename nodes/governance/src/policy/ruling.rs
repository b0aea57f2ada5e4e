//! From what each policy says to one ruling, and to what policies that do not enforce would have made of it.
//!
//! Pure combination: no Cedar here.

use std::{cmp::Reverse, collections::BTreeSet};

use cedar_policy::Effect;
use greylag_protocol::{
    messages::control::{Action, Verdict},
    obligation::{ColumnMask, HiddenColumn, Mask, MaskRule, Notice, NoticeMode, TableObligation},
};

use super::{
    condition::{Shared, and, not, or},
    engine::{PolicyEngine, Question, Ruling, TableFindings, Touched},
    findings::{Finding, Outcome},
    mask,
    stored::{Mode, Policy},
    vocabulary::action_name,
};

pub fn permit() -> Ruling {
    Ruling { verdict: Verdict::Permit, obligations: vec![], policies: vec![], notices: vec![] }
}

pub fn deny(reason: String, policies: Vec<String>) -> Ruling {
    Ruling { verdict: Verdict::Deny { reason }, obligations: vec![], policies, notices: vec![] }
}

/// The ruling of the policies that enforce, with notices of what the others would have changed.
pub fn rule(engine: &PolicyEngine, question: &Question<'_>, findings: &[TableFindings<'_>]) -> Ruling {
    let ruled = |upto| rule_upto(engine, question, findings, upto);
    let mut ruling = ruled(Mode::Enforce);
    let mut before = ruling.clone();
    for (mode, notice) in [(Mode::Warn, NoticeMode::Warn), (Mode::Log, NoticeMode::Log)] {
        let policies = holding(engine, findings, mode);
        if policies.is_empty() {
            continue;
        }
        let after = ruled(mode);
        let changes = changes(&before, &after);
        if !changes.is_empty() {
            ruling.notices.push(Notice { mode: notice, policies, change: changes.join("; ") });
        }
        before = after;
    }
    ruling
}

/// Ids of the policies of this mode that say something.
fn holding(engine: &PolicyEngine, findings: &[TableFindings<'_>], mode: Mode) -> Vec<String> {
    let all = findings
        .iter()
        .flat_map(|t| t.rows.iter().chain(t.explain.iter().flatten()).chain(t.columns.values().flatten()));
    let says = |outcome: &Outcome| outcome.may_hold() || matches!(outcome, Outcome::Unusable(_));
    let ids = all.filter(|f| says(&f.outcome)).filter_map(|f| engine.policies().get(f.policy));
    ids.filter(|p| p.mode == mode).map(|p| p.id.clone()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Findings of the policies up to a mode, with their policies.
struct Counted<'a> {
    engine: &'a PolicyEngine,
    upto: Mode,
}

impl<'a> Counted<'a> {
    fn of(&self, findings: &'a [Finding]) -> impl Iterator<Item = (&'a Policy, &'a Outcome)> {
        let (engine, upto) = (self.engine, self.upto);
        findings
            .iter()
            .filter_map(move |f| Some((engine.policies().get(f.policy)?, &f.outcome)))
            .filter(move |(policy, _)| policy.mode <= upto)
    }
}

fn rule_upto(engine: &PolicyEngine, question: &Question<'_>, findings: &[TableFindings<'_>], upto: Mode) -> Ruling {
    let counted = Counted { engine, upto };
    let mut ruling = permit();
    let mut policies = BTreeSet::new();
    for (at, table) in findings.iter().enumerate() {
        match of_table(&counted, question, question.touched.get(at), table) {
            Ok(obligation) => {
                policies.extend(obligation.policies.iter().cloned());
                let masks = obligation.masks.iter().flat_map(|m| &m.rules).flat_map(|rule| &rule.policies);
                policies.extend(masks.chain(obligation.hidden.iter().flat_map(|h| &h.policies)).cloned());
                if obligation.filter.is_some() || !obligation.masks.is_empty() || !obligation.hidden.is_empty() {
                    ruling.obligations.push(obligation);
                }
            }
            Err(denial) => return *denial,
        }
    }
    ruling.obligations.sort_by(|a, b| a.table.cmp(&b.table));
    ruling.policies = policies.into_iter().collect();
    ruling
}

/// The obligation for one table, also when it asks for nothing; or the denial.
fn of_table(
    counted: &Counted<'_>,
    question: &Question<'_>,
    touched: Option<&Touched>,
    found: &TableFindings<'_>,
) -> Result<TableObligation, Box<Ruling>> {
    let table = &found.rules.facts.name;
    let what = match touched {
        Some(_) => format!("{} `{table}`", action_name(question.action)),
        None => action_name(question.action).to_owned(),
    };
    let all = found.rows.iter().chain(found.explain.iter().flatten()).chain(found.columns.values().flatten());
    for finding in all {
        if let (Some(policy), Outcome::Unusable(why)) =
            (counted.engine.policies().get(finding.policy), &finding.outcome)
            && policy.mode <= counted.upto
        {
            let reason = format!("policy `{}` cannot be applied to `{table}`: {why}", policy.id);
            return Err(Box::new(deny(reason, vec![policy.id.clone()])));
        }
    }
    let (passes, mut policies) = admitted(counted, question, &what, &found.rows)?;
    if let Some(explain) = &found.explain {
        policies.extend(admitted(counted, question, &what, explain)?.1);
        policies.sort();
        policies.dedup();
    }
    let filter = match passes.as_constant() {
        Some(true) => None,
        _ => match passes.to_filter() {
            Some(filter) => Some(filter),
            None => {
                return Err(Box::new(deny(format!("the row filter of `{table}` is over its limits"), policies)));
            }
        },
    };
    let hidden = hidden(counted, found);
    if let Some((hidden, columns)) = hidden.first().zip(touched.and_then(|t| t.columns.as_ref()))
        && columns.contains(&hidden.column)
    {
        let reason =
            format!("policy `{}` forbids column `{}` of `{table}`", hidden.policies.join("`, `"), hidden.column);
        return Err(Box::new(deny(reason, hidden.policies.clone())));
    }
    let masks = match question.action {
        Action::Select | Action::Explain => masks(counted, touched, found),
        Action::Describe | Action::Manage => vec![],
    };
    Ok(TableObligation { table: table.clone(), filter, masks, hidden, policies })
}

/// Which rows are permitted and not forbidden, and by which policies; the denial if none ever is.
fn admitted(
    counted: &Counted<'_>,
    question: &Question<'_>,
    what: &str,
    findings: &[Finding],
) -> Result<(Shared, Vec<String>), Box<Ruling>> {
    let plain = || counted.of(findings).filter(|(p, o)| p.mask.is_none() && o.may_hold());
    let of = |effect| plain().filter(move |(p, _)| p.effect == effect);
    let ids = |effect| of(effect).map(|(p, _)| p.id.clone()).collect::<Vec<String>>();
    let permits = or(of(Effect::Permit).map(|(_, o)| o.when()));
    let forbids = or(of(Effect::Forbid).map(|(_, o)| o.when()));
    let principal = &question.principal.id;
    if forbids.as_constant() == Some(true) {
        let for_all = of(Effect::Forbid).filter(|(_, o)| o.when().as_constant() == Some(true));
        let ids: Vec<String> = for_all.map(|(p, _)| p.id.clone()).collect();
        return Err(Box::new(deny(format!("policy `{}` forbids `{principal}` to {what}", ids.join("`, `")), ids)));
    }
    if permits.as_constant() == Some(false) {
        return Err(Box::new(deny(format!("no policy permits `{principal}` to {what}"), vec![])));
    }
    let mut policies = ids(Effect::Permit);
    policies.extend(ids(Effect::Forbid));
    policies.sort();
    Ok((and([permits, not(forbids)]), policies))
}

/// Columns that a forbid without a mask reaches.
fn hidden(counted: &Counted<'_>, found: &TableFindings<'_>) -> Vec<HiddenColumn> {
    let mut hidden = Vec::new();
    for (column, findings) in &found.columns {
        let forbids =
            counted.of(findings).filter(|(p, o)| p.effect == Effect::Forbid && p.mask.is_none() && o.may_hold());
        let policies: Vec<String> = forbids.map(|(p, _)| p.id.clone()).collect();
        if !policies.is_empty() {
            hidden.push(HiddenColumn { column: column.clone(), policies });
        }
    }
    hidden
}

fn masks(counted: &Counted<'_>, touched: Option<&Touched>, found: &TableFindings<'_>) -> Vec<ColumnMask> {
    let mut masks = Vec::new();
    let asked = touched.and_then(|t| t.columns.as_ref());
    for column in found.rules.facts.columns.iter().filter(|c| asked.is_none_or(|asked| asked.contains(&c.name))) {
        let of_column = found.columns.get(&column.name).map(|f| counted.of(f)).into_iter().flatten();
        let of_rows = counted.of(&found.rows).filter(|(policy, _)| policy.names_column(&column.name));
        let mut asked: Vec<(Mask, Shared, &str)> = of_column
            .chain(of_rows)
            .filter(|(_, outcome)| outcome.may_hold())
            .filter_map(|(p, o)| Some((mask::fitting(p.mask.as_ref()?, column), o.when(), p.id.as_str())))
            .collect();
        asked.sort_by_key(|(mask, _, id)| (Reverse(mask.strength()), *id));
        let rules = mask_rules(asked);
        if !rules.is_empty() {
            masks.push(ColumnMask { column: column.name.clone(), rules });
        }
    }
    masks.sort_by(|a, b| a.column.cmp(&b.column));
    masks
}

/// One rule for each mask, strongest first, none behind one that always applies.
fn mask_rules(asked: Vec<(Mask, Shared, &str)>) -> Vec<MaskRule> {
    let mut rules: Vec<(Mask, Shared, Vec<String>)> = Vec::new();
    for (mask, when, id) in asked {
        match rules.last_mut() {
            Some((last, whens, ids)) if *last == mask => {
                *whens = or([whens.clone(), when]);
                ids.push(id.to_owned());
            }
            Some((_, whens, _)) if whens.as_constant() == Some(true) => break,
            _ => rules.push((mask, when, vec![id.to_owned()])),
        }
    }
    rules
        .into_iter()
        .map(|(mask, when, policies)| {
            // A condition that cannot be written out masks every row: the stronger side.
            let when = when.as_constant().is_none().then(|| when.to_filter()).flatten();
            MaskRule { mask, when, policies }
        })
        .collect()
}

/// What differs between two rulings, for people.
fn changes(before: &Ruling, after: &Ruling) -> Vec<String> {
    match (&before.verdict, &after.verdict) {
        (Verdict::Permit, Verdict::Deny { reason }) => return vec![format!("it would be denied: {reason}")],
        (Verdict::Deny { .. }, Verdict::Permit) => return vec!["it would be permitted".into()],
        (Verdict::Deny { .. }, Verdict::Deny { .. }) => return vec![],
        (Verdict::Permit, Verdict::Permit) => {}
    }
    let mut changes = Vec::new();
    let tables: BTreeSet<_> = before.obligations.iter().chain(&after.obligations).map(|o| &o.table).collect();
    for table in tables {
        let of = |ruling: &'_ Ruling| ruling.obligations.iter().find(|o| o.table == *table).cloned();
        let (was, is) = (of(before), of(after));
        if was.as_ref().and_then(|o| o.filter.as_ref()) != is.as_ref().and_then(|o| o.filter.as_ref()) {
            changes.push(format!("other rows of `{table}` would be seen"));
        }
        let masks = |o: &Option<TableObligation>| o.as_ref().map(|o| o.masks.clone()).unwrap_or_default();
        let (was_masked, is_masked) = (masks(&was), masks(&is));
        for mask in is_masked.iter().filter(|m| !was_masked.contains(m)) {
            let shown = mask.rules.first().map(|rule| rule.mask.to_string()).unwrap_or_default();
            changes.push(format!("column `{}` of `{table}` would be masked ({shown})", mask.column));
        }
        let hides = |o: &Option<TableObligation>| o.as_ref().map(|o| o.hidden.clone()).unwrap_or_default();
        let (was_hidden, is_hidden) = (hides(&was), hides(&is));
        for hidden in is_hidden.iter().filter(|h| !was_hidden.iter().any(|w| w.column == h.column)) {
            changes.push(format!("column `{}` of `{table}` would be hidden", hidden.column));
        }
    }
    changes
}
