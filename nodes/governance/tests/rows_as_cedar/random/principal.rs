//! Random principals and circumstances, out of few names, so that policies are often about them.

use std::collections::BTreeMap;

use greylag_governance::policy::{AttributeKind, Circumstances, DeclaredAttributes};
use greylag_protocol::principal::{Principal, PrincipalKind};

use super::dice::Dice;

pub const IDS: [&str; 3] = ["ada", "bob", "q\"x"];
pub const ROLES: [&str; 3] = ["doctor", "analyst", "admin"];
pub const GROUPS: [&str; 2] = ["night", "day"];
pub const ORGANISATIONS: [&str; 2] = ["clinic", "lab"];
pub const FRAMEWORKS: [&str; 2] = ["langgraph", "none of them"];
pub const CITIES: [&str; 3] = ["a", "ab", "日本"];
/// Attributes that nobody has declared: tags.
pub const TAGS: [&str; 3] = ["desk", "co st", "priority"];

pub fn declared() -> DeclaredAttributes {
    [
        ("level", AttributeKind::Integer),
        ("cleared", AttributeKind::Bool),
        ("city", AttributeKind::Text),
        ("teams", AttributeKind::Texts),
    ]
    .map(|(name, kind)| (name.to_owned(), kind))
    .into()
}

pub fn principal(dice: &mut Dice) -> Principal {
    let kind = *dice.pick(&[PrincipalKind::Person, PrincipalKind::Agent, PrincipalKind::Service]);
    let mut attributes = BTreeMap::new();
    let mut maybe = |dice: &mut Dice, name: &str, values: &[&str]| {
        if dice.percent(50) {
            attributes.insert(name.to_owned(), dice.word(values).to_owned());
        }
    };
    maybe(dice, "organisation", &["clinic", "clinic", "lab", ""]);
    maybe(dice, "agent_id", &["a", "7", ""]);
    maybe(dice, "framework", &[FRAMEWORKS[0], FRAMEWORKS[1], ""]);
    maybe(dice, "request_id", &["r-1"]);
    maybe(dice, "priority", &["low", "high", "critical", "urgent"]);
    maybe(dice, "acts_for", &IDS);
    maybe(dice, "scopes", &["query"]);
    maybe(dice, "credential", &["key:1"]);
    maybe(dice, "level", &["7", "-1", " 8 ", "9223372036854775807", "seven"]);
    maybe(dice, "cleared", &["true", "false", "yes"]);
    maybe(dice, "city", &CITIES);
    maybe(dice, "teams", &["a, ab", "日本", "", "a,,a"]);
    maybe(dice, "desk", &["a", ""]);
    maybe(dice, "co st", &["ä"]);
    let mut principal = Principal {
        id: dice.word(&IDS).to_owned(),
        kind,
        roles: ROLES.iter().filter(|_| dice.percent(45)).map(|role| (*role).to_owned()).collect(),
        attributes,
    };
    for group in GROUPS {
        if dice.percent(45) {
            principal.join_group(group);
        }
    }
    principal
}

/// Instants with their local hour, minute and day of the week, by the calendar on the wall.
pub const MOMENTS: [(i64, i32, (i64, i64, i64)); 6] = [
    (0, 0, (0, 0, 4)),
    (-1, 0, (23, 59, 3)),
    (1_709_214_310_500, 60, (14, 45, 4)),
    (1_709_164_800_000, -30, (23, 30, 3)),
    (1_732_924_800_000, 0, (0, 0, 6)),
    (1_709_214_310_500, 720, (1, 45, 5)),
];

pub fn circumstances(dice: &mut Dice) -> Circumstances {
    let (now_unix_ms, utc_offset_minutes, _) = *dice.pick(&MOMENTS);
    Circumstances {
        origin: dice.word(&["flight", "http", "a"]).to_owned(),
        environment: dice.word(&["production", "test"]).to_owned(),
        now_unix_ms,
        utc_offset_minutes,
    }
}
