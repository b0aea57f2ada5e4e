//! A failing case, made smaller as long as it fails in the same way.

use crate::{
    check::{Failure, Tally, check},
    world::Case,
};

/// Most cases that are tried.
const ATTEMPTS_MAX: usize = 4_000;

pub fn shrink(mut case: Case, mut failure: Failure) -> (Case, Failure) {
    if failure.kind == crate::check::REFUSED {
        // It is one policy as it stands, over the tables as they are.
        return (case, failure);
    }
    let mut attempts = 0;
    'smaller: loop {
        for smaller in steps(&case) {
            attempts += 1;
            if attempts > ATTEMPTS_MAX {
                return (case, failure);
            }
            if let Err(found) = check(&smaller, &mut Tally::new())
                && found.kind == failure.kind
            {
                (case, failure) = (smaller, found);
                continue 'smaller;
            }
        }
        return (case, failure);
    }
}

/// Cases that are a step smaller, the greatest steps first.
fn steps(case: &Case) -> Vec<Case> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Case)| {
        let mut smaller = case.clone();
        change(&mut smaller);
        all.push(smaller);
    };
    for at in 0..case.policies.len() {
        with(&|case| drop(case.policies.remove(at)));
    }
    for at in (0..case.tables.len()).filter(|_| case.tables.len() > 1) {
        with(&|case| drop(case.tables.remove(at)));
    }
    for (at, table) in case.tables.iter().enumerate() {
        for row in (0..table.rows.len()).filter(|_| table.rows.len() > 1) {
            with(&|case| case.tables[at].rows = vec![table.rows[row].clone()]);
        }
        for column in 0..table.facts.columns.len() {
            with(&|case| drop(case.tables[at].facts.columns.remove(column)));
        }
    }
    for (at, policy) in case.policies.iter().enumerate() {
        for clause in 0..policy.clauses.len() {
            with(&|case| drop(case.policies[at].clauses.remove(clause)));
            // Policies without flaws must stay so: a guard that is cut away would be one.
            for smaller in policy.clauses[clause].1.smaller() {
                with(&|case| {
                    case.policies[at].clauses[clause].1 = smaller.clone();
                    case.policies[at].flaws.push("cut");
                });
            }
        }
    }
    for name in case.principal.attributes.keys() {
        with(&|case| drop(case.principal.attributes.remove(name)));
    }
    for at in 0..case.principal.roles.len() {
        with(&|case| drop(case.principal.roles.remove(at)));
    }
    all
}
