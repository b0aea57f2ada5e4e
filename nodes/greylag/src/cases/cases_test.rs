//! Cases that pass, that fail with what differs, and that are none.

#![allow(clippy::unwrap_used)]
use std::path::Path;

use super::run;

const TABLES: &str = "tables:\n  s.m.t:\n    columns: { id: integer not null, name: text, sum: 'decimal(10,2)' }\n    rows: [{ id: 1, name: a, sum: 2.5 }, { id: 2 }]\nprincipals: { ada: { roles: [r] } }\n";
const POLICY: &str = "@id(\"rows\") permit (principal in Role::\"r\", action == Action::\"select\", resource is Row) when { resource has name };\n@id(\"mask\") @mask(\"full\") forbid (principal, action == Action::\"select\", resource is Row) when { resource.id == 1 };\n";

/// Runs cases over the table and policies above.
fn tried(policies: &str, rest: &str) -> anyhow::Result<Vec<Vec<String>>> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("p.cedar"), policies)?;
    let file = dir.path().join("cases.yaml");
    std::fs::write(&file, format!("policies: [p.cedar]\n{TABLES}{rest}"))?;
    Ok(run(&file)?.into_iter().map(|outcome| outcome.differences).collect())
}

fn policies() -> String {
    POLICY.replace("@mask(\"full\")", "@mask(\"full\") @columns(\"name\")")
}

#[test]
fn the_clinic_is_governed_as_it_says() {
    let outcomes = run(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/clinic/cases.yaml")).unwrap();
    for outcome in &outcomes {
        assert!(outcome.differences.is_empty(), "{}: {:#?}", outcome.name, outcome.differences);
    }
    assert!(outcomes.len() >= 15);
}

#[test]
fn what_differs_is_said() {
    let case = |rest: &str| format!("cases: [{{ name: c, as: ada, tables: [s.m.t], {rest} }}]\n");
    let differences = |rest: &str| tried(&policies(), &case(rest)).unwrap().remove(0);
    assert!(
        differences("expect: permit, sees: { s.m.t: [{ id: 1, name: '*', sum: 2.50 }] }, by: [rows, mask]").is_empty()
    );
    assert_eq!(differences("expect: deny"), ["expected deny, got permit"]);
    assert_eq!(differences("expect: permit, by: [rows]"), ["+ decided by: mask"]);
    assert_eq!(
        differences("expect: permit, sees: { s.m.t: [{ id: 1, name: a }] }"),
        ["- s.m.t row 1: id: 1, name: a", "+ s.m.t row 1: id: 1, name: *"]
    );
    assert_eq!(differences("expect: permit, sees: { s.m.t: [] }"), ["+ s.m.t row 1: id: 1, name: *, sum: 2.5000"]);
    assert_eq!(
        differences("expect: permit, sees: { s.m.t: [{ id: 1 }, { id: 2, sum: null }] }"),
        ["- s.m.t row 2: id: 2, sum: NULL"]
    );
    let denied = differences("action: describe, expect: permit");
    assert!(
        denied.len() == 1 && denied[0].starts_with("expected permit, got deny: no policy permits `ada`"),
        "{denied:?}"
    );
    let reason = differences("action: describe, expect: deny, reason: moon");
    assert!(reason[0].starts_with("expected a reason with `moon`"), "{reason:?}");
}

#[test]
fn what_is_no_case_is_an_error() {
    let good = "cases: [{ name: c, as: ada, tables: [s.m.t], expect: permit }]\n";
    for (policies, rest, word) in [
        (policies(), good.replace("expect", "expekt"), "did you mean `expect`?"),
        (policies(), good.replace("as: ada", "as: eve"), "`eve`"),
        (policies(), good.replace("s.m.t", "s.m.u"), "s.m.u"),
        (policies(), good.replace("expect: permit", "expect: permit, at: noon"), "noon"),
        (policies(), good.replace("expect: permit", "expect: permit, sees: { s.m.t: [{ nmae: a }] }"), "nmae"),
        (policies(), good.replace("expect: permit", "expect: permit, sees: { a.b.c: [] }"), "a.b.c"),
        (policies().replace("resource has name", "resource.gone == 1"), good.to_owned(), "gone"),
        (format!("{0}{0}", policies()), good.to_owned(), "twice"),
    ] {
        let error = format!("{:#}", tried(&policies, &rest).unwrap_err());
        assert!(error.contains(word), "{rest}: {error}");
    }
}
