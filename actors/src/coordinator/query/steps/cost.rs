//! Step 4: what a plan will probably read from its sources, against the budget of its principal. An estimate that is over
//! it refuses the statement before it has cost anything; one that was too low is found out while it reads (see `metering`).

use greylag_protocol::{ErrorCode, MeshError, Result, principal::Principal, state::Budget};

use crate::planner::port::{Estimate, SubqueryPlan};

/// All sub-queries of a plan together. What nothing is known about counts as nothing, and says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Costed {
    pub rows: u64,
    pub bytes: u64,
    /// Sources that are read, each once, in order of name.
    pub sources: Vec<String>,
    /// Sub-queries of which nothing is known.
    pub unknown: usize,
    /// The sub-query that reads most, for the hint how to narrow.
    dearest: Option<(String, u64)>,
}

/// What the sub-queries will read.
pub fn estimate(subqueries: &[SubqueryPlan]) -> Costed {
    let mut costed = Costed::default();
    for subquery in subqueries {
        costed.sources.push(subquery.source.to_string());
        let Some(Estimate { rows, bytes }) = subquery.estimate else {
            costed.unknown += 1;
            continue;
        };
        costed.rows = costed.rows.saturating_add(rows);
        costed.bytes = costed.bytes.saturating_add(bytes);
        if costed.dearest.as_ref().is_none_or(|(_, most)| bytes > *most) {
            costed.dearest = Some((subquery.source.to_string(), bytes));
        }
    }
    costed.sources.sort();
    costed.sources.dedup();
    costed
}

/// The first budget that is for this principal.
pub fn budget_of<'a>(budgets: &'a [Budget], principal: &Principal) -> Option<&'a Budget> {
    budgets.iter().find(|budget| {
        let is = |wanted: &Option<String>, has: Option<&str>| wanted.as_deref().is_none_or(|w| has == Some(w));
        is(&budget.organisation, principal.organisation())
            && is(&budget.agent, principal.agent_id())
            && budget.role.as_ref().is_none_or(|role| principal.roles.contains(role))
    })
}

/// GL2010 with estimate, limit and how to narrow.
pub fn check(costed: &Costed, budget: Option<&Budget>) -> Result<()> {
    let Some(budget) = budget else { return Ok(()) };
    let limits = [("rows", costed.rows, budget.rows_max), ("bytes", costed.bytes, budget.bytes_max)];
    let over = limits.into_iter().find(|(_, estimate, max)| max.is_some_and(|max| *estimate > max));
    let Some((what, estimate, Some(max))) = over else { return Ok(()) };
    let narrow = match &costed.dearest {
        Some((source, _)) => format!(
            "most of it from `{source}`: name fewer columns, add conditions that `{source}` can evaluate, or a LIMIT"
        ),
        None => "narrow it".to_owned(),
    };
    let message = format!("it would read about {estimate} {what}, and the budget is {max}; {narrow}");
    Err(MeshError::new(ErrorCode::BudgetExceeded, message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{collections::BTreeMap, sync::Arc};

    use arrow::datatypes::Schema;
    use greylag_protocol::{SourceName, principal::PrincipalKind};

    use super::*;

    fn subquery(source: &str, estimate: Option<(u64, u64)>) -> SubqueryPlan {
        SubqueryPlan {
            ordinal: 0,
            source: SourceName::new(source).unwrap(),
            sql: String::new(),
            schema: Arc::new(Schema::empty()),
            blocks_consumer: false,
            keyset: None,
            estimate: estimate.map(|(rows, bytes)| Estimate { rows, bytes }),
        }
    }

    fn principal(roles: &[&str], organisation: &str) -> Principal {
        Principal {
            id: "ada".into(),
            kind: PrincipalKind::Person,
            roles: roles.iter().map(|r| (*r).to_owned()).collect(),
            attributes: BTreeMap::from([("organisation".to_owned(), organisation.to_owned())]),
        }
    }

    #[test]
    fn an_estimate_over_the_budget_is_refused_with_what_to_do() {
        let costed =
            estimate(&[subquery("pg", Some((10, 100))), subquery("lake", Some((5, 900))), subquery("pg", None)]);
        assert_eq!((costed.rows, costed.bytes, costed.unknown), (15, 1000, 1));
        assert_eq!(costed.sources, ["lake", "pg"]);
        let budget = |rows_max, bytes_max| Budget { rows_max, bytes_max, ..Budget::default() };
        for fits in [budget(None, None), budget(Some(15), Some(1000)), budget(Some(15), None)] {
            assert!(check(&costed, Some(&fits)).is_ok());
        }
        assert!(check(&costed, None).is_ok());
        let error = check(&costed, Some(&budget(Some(14), None))).unwrap_err();
        assert_eq!(error.code, ErrorCode::BudgetExceeded);
        for word in ["15 rows", "14", "`lake`"] {
            assert!(error.message.contains(word), "{error}");
        }
        let error = check(&costed, Some(&budget(None, Some(999)))).unwrap_err();
        assert!(error.message.contains("1000 bytes"), "{error}");
    }

    #[test]
    fn the_first_budget_that_fits_holds() {
        let of = |role: Option<&str>, organisation: Option<&str>, rows| Budget {
            role: role.map(str::to_owned),
            organisation: organisation.map(str::to_owned),
            rows_max: Some(rows),
            ..Budget::default()
        };
        let budgets =
            [of(Some("analyst"), Some("clinic"), 1), of(Some("analyst"), None, 2), of(None, Some("clinic"), 3)];
        let rows = |roles: &[&str], organisation| {
            budget_of(&budgets, &principal(roles, organisation)).and_then(|b| b.rows_max)
        };
        assert_eq!(rows(&["analyst"], "clinic"), Some(1));
        assert_eq!(rows(&["analyst"], "lab"), Some(2));
        assert_eq!(rows(&["doctor"], "clinic"), Some(3));
        assert_eq!(rows(&["doctor"], "lab"), None);
    }
}
