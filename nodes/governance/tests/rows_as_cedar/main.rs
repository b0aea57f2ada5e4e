//! Random policies, tables, rows and principals: a row comes back exactly when Cedar's own authorizer permits it, columns
//! are masked and hidden where Cedar says so, and denials are such as Cedar shares.
//!
//! `GREYLAG_TEST_CASES` says how many cases, `GREYLAG_TEST_SEED` which; without them, the same few thousand each time.
#![allow(clippy::unwrap_used, clippy::panic)]

mod check;
mod random;
mod shrink;
mod world;

use std::{fmt::Write, str::FromStr};

use greylag_governance::policy::Circumstances;

use crate::{
    check::{Failure, Tally, check},
    random::{
        dice::Dice,
        principal::{MOMENTS, declared},
    },
    world::Case,
};

const CASES: u64 = 3_000;
const SEED: u64 = 4;

fn variable<T: FromStr>(name: &str, otherwise: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is `{text}`")),
        Err(_) => otherwise,
    }
}

#[test]
fn a_row_comes_back_exactly_when_cedar_permits_it() {
    let (cases, seed) = (variable("GREYLAG_TEST_CASES", CASES), variable("GREYLAG_TEST_SEED", SEED));
    let mut tally = Tally::new();
    for number in 0..cases {
        let case = world::case(&mut Dice::of(seed, number));
        if let Err(failure) = check(&case, &mut tally) {
            let (case, failure) = shrink::shrink(case, failure);
            panic!("{}", report(seed, number, &case, &failure));
        }
    }
    for (what, count) in &tally {
        println!("{count:>9} {what}");
    }
    if cases >= CASES {
        means_something(&tally);
    }
}

/// Each in percent of another, and at least: what would make the test empty.
fn means_something(tally: &Tally) {
    let count = |what: &str| tally.iter().filter(|(name, _)| name.starts_with(what)).map(|(_, n)| n).sum::<u64>();
    for (what, percent, of) in [
        ("policies accepted", 80, "policies"),
        ("verdicts: permit", 40, "cases"),
        ("verdicts: deny: a policy forbids", 1, "cases"),
        ("verdicts: deny: nothing permits", 5, "cases"),
        ("row filters", 25, "cases"),
        ("rows that pass a filter", 150, "row filters"),
        ("rows that do not", 150, "row filters"),
        ("values masked", 20, "cases"),
        ("values shown that are masked in other rows", 10, "cases"),
        ("columns hidden", 1, "cases"),
        ("notices", 1, "cases"),
        ("rulings that may be kept", 20, "cases"),
        ("refused", 4, "cases"),
    ] {
        let of = if of == "policies" { tally["policies"] } else { count(of) };
        assert!(count(what) * 100 >= percent * of, "`{what}`: {} of {of}, less than {percent}%", count(what));
    }
}

fn report(seed: u64, number: u64, case: &Case, failure: &Failure) -> String {
    let mut text = format!("{}: {}\n\n", failure.kind, failure.what);
    for policy in &case.policies {
        writeln!(text, "{policy}  // {}", policy.id).unwrap();
    }
    writeln!(text, "\n{:?} by {:?}\n{:?}", case.action, case.principal, case.circumstances).unwrap();
    for table in &case.tables {
        writeln!(text, "table `{}`, tags {:?}", table.facts.name, table.facts.tags).unwrap();
        for column in &table.facts.columns {
            let null = if column.nullable { "" } else { " not null" };
            writeln!(text, "  {:?} {}{null}, tags {:?}", column.name, column.type_name, column.tags).unwrap();
        }
        writeln!(text, "  touched: {}, columns {:?}", table.touched, table.columns).unwrap();
        for row in &table.rows {
            writeln!(text, "  {row:?}").unwrap();
        }
    }
    write!(text, "\nGREYLAG_TEST_SEED={seed}, case {number}, made smaller").unwrap();
    text
}

#[test]
fn the_local_time_is_the_one_on_the_wall() {
    for (now_unix_ms, utc_offset_minutes, expected) in MOMENTS {
        let circumstances =
            Circumstances { origin: "cli".into(), environment: "test".into(), now_unix_ms, utc_offset_minutes };
        assert_eq!(circumstances.local_time(), expected, "{now_unix_ms} {utc_offset_minutes}");
    }
    assert_eq!(declared().len(), 4);
}
