//! What policies say, told for people.

#![allow(clippy::unwrap_used, clippy::panic)]
use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field};
use greylag_protocol::{
    Epoch,
    filter::FilterValue,
    messages::control::{Action, TableName},
    principal::{Principal, PrincipalKind},
};

use super::super::{
    Catalog, Circumstances, Policy, PolicyEngine, Question, TableFacts, TablePattern, Tagging, Touched,
};
use super::WordOutcome;

fn name() -> TableName {
    TableName { source: "a".into(), schema: "main".into(), table: "t".into() }
}

fn engine(policies: &[(&str, &str)], tags: &[Tagging]) -> PolicyEngine {
    let fields = [Field::new("k", DataType::Int64, false), Field::new("v", DataType::Utf8, true)];
    let mut catalog = Catalog::default();
    catalog.insert(TableFacts::new(name(), fields.iter(), tags));
    let policies = policies.iter().map(|(id, text)| Policy::parse(id, text).unwrap()).collect();
    PolicyEngine::new(Epoch(1), policies, &catalog, BTreeMap::new())
}

#[test]
fn a_tag_brings_a_table_under_a_policy_that_must_then_fit_it() {
    let by_tag = "permit (principal, action == Action::\"select\", resource is Row in Tag::\"dated\") when { resource.day == 1 };";
    let policies = [("dated", by_tag)];
    let dated = Policy::parse("dated", by_tag).unwrap();
    assert_eq!(engine(&policies, &[]).check(&dated).unwrap(), 0);
    let tables = TablePattern::parse("a.main.t").unwrap();
    let tags = [Tagging { tag: "dated".into(), tables, columns: None }];
    assert!(engine(&policies, &tags).check(&dated).unwrap_err().message.contains("day"));
}

#[test]
fn every_policy_that_is_about_a_table_has_its_say() {
    let engine = engine(
        &[
            (
                "big",
                "permit (principal in Role::\"r\", action == Action::\"select\", resource is Row) when { resource.k > 3 };",
            ),
            ("none", "forbid (principal in Role::\"s\", action == Action::\"select\", resource is Row);"),
            (
                "mask",
                "@mask(\"full\") forbid (principal, action == Action::\"select\", resource is Column) when { context.hour == 12 };",
            ),
            ("else", "@tables(\"b.*.*\") permit (principal, action, resource);"),
        ],
        &[],
    );
    let principal = Principal {
        id: "ada".into(),
        kind: PrincipalKind::Person,
        roles: vec!["r".into()],
        attributes: BTreeMap::new(),
    };
    let circumstances = |hour: i64| Circumstances {
        origin: "flight".into(),
        environment: "test".into(),
        now_unix_ms: hour * 3_600_000,
        utc_offset_minutes: 0,
    };
    let touched = [Touched { table: name(), columns: None }];
    let said = |hour| {
        let circumstances = circumstances(hour);
        let question = Question {
            principal: &principal,
            action: Action::Select,
            touched: &touched,
            circumstances: &circumstances,
        };
        let words = engine.words(&question).unwrap().remove(0).1;
        words.into_iter().map(|w| (w.policy, w.deed, w.about, w.outcome)).collect::<Vec<_>>()
    };
    let noon = said(12);
    let ids: Vec<&str> = noon.iter().map(|word| word.0.as_str()).collect();
    assert_eq!(ids, ["big", "mask", "none"]);
    let WordOutcome::Depends { filter: Some(filter), residual } = &noon[0].3 else { panic!("{:?}", noon[0]) };
    let passes = |k| filter.passes(&|column| (column == "k").then_some(FilterValue::Integer(k)));
    assert!(passes(4) && !passes(3) && residual.contains("resource.k"), "{filter} {residual}");
    let mask = &noon[1];
    assert_eq!((mask.1.as_str(), mask.2.as_str(), &mask.3), ("masks", "columns k, v", &WordOutcome::Holds));
    assert_eq!(noon[2].3, WordOutcome::OfOthers);
    assert_eq!(said(11)[1].3, WordOutcome::Fails);
    let stranger = Touched { table: TableName { table: "u".into(), ..name() }, columns: None };
    let asked = [stranger];
    let (at, principal) = (circumstances(12), &principal);
    let question = Question { principal, action: Action::Select, touched: &asked, circumstances: &at };
    assert!(engine.words(&question).is_err());
}
