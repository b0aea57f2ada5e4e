//! Random policies about given tables.

use std::fmt;

use greylag_governance::policy::{TableFacts, ValueKind};
use greylag_protocol::messages::control::Action;

use super::{
    dice::Dice,
    expression::Expression,
    principal::{GROUPS, IDS, ORGANISATIONS, ROLES},
    values::quoted,
    writer::{About, Writer},
};

/// Tags of tables and columns.
pub const TAGS: [&str; 3] = ["pii", "finance", "q\"t"];

/// A policy before it is text.
#[derive(Debug, Clone)]
pub struct Draft {
    pub id: String,
    pub permits: bool,
    pub annotations: Vec<(&'static str, String)>,
    pub principal: String,
    pub action: String,
    pub resource: String,
    /// `when` or `unless`.
    pub clauses: Vec<(&'static str, Expression)>,
    /// Why it should be refused; none: it must be accepted.
    pub flaws: Vec<&'static str>,
}

impl fmt::Display for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.annotations {
            writeln!(f, "@{name}({})", quoted(value))?;
        }
        let effect = if self.permits { "permit" } else { "forbid" };
        write!(f, "{effect} ({}, {}, {})", self.principal, self.action, self.resource)?;
        for (word, condition) in &self.clauses {
            write!(f, "\n  {word} {{ {condition} }}")?;
        }
        f.write_str(";")
    }
}

/// What a policy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Rows,
    RowMask,
    ColumnMask,
    HiddenColumn,
    /// Describing, explaining, managing.
    Table,
}

const MASKS: [&str; 14] = [
    "null",
    "full",
    "hash",
    "redact",
    "redact:x",
    "redact:y",
    "partial:1*0",
    "partial:0*1",
    "partial:2#2",
    "partial:1-1",
    "date:hour",
    "date:day",
    "date:month",
    "date:year",
];

/// How often a permit with a flaw is drawn again.
const REDRAWN_MAX: usize = 2;

/// Some policies about these tables, asked about mostly with this action. The first permits mostly something of the first
/// table, the second of the second.
pub fn policies(dice: &mut Dice, tables: &[TableFacts], action: Action) -> Vec<Draft> {
    let count = tables.len() + dice.weighted(&[15, 30, 25, 15, 10, 5]);
    (0..count)
        .map(|at| {
            let permit = at < tables.len() && dice.percent(88);
            let purpose = match dice.weighted(&[58, 13, 10, 8, 11]) {
                _ if permit => Purpose::Rows,
                _ if at == tables.len() && action != Action::Select && dice.percent(75) => Purpose::Table,
                0 => Purpose::Rows,
                1 => Purpose::RowMask,
                2 => Purpose::ColumnMask,
                3 => Purpose::HiddenColumn,
                _ => Purpose::Table,
            };
            let table = if permit { &tables[at] } else { dice.pick(tables) };
            let mut draft = draft(dice, table, tables.len(), purpose, permit);
            for _ in 0..REDRAWN_MAX {
                if permit && !draft.flaws.is_empty() {
                    draft = self::draft(dice, table, tables.len(), purpose, permit);
                }
            }
            if purpose == Purpose::Table && dice.percent(if action == Action::Select { 5 } else { 80 }) {
                draft.action = format!("action == Action::\"{}\"", name_of(action));
                draft.resource = if dice.percent(50) { "resource is Table".into() } else { draft.resource };
                if action == Action::Select {
                    draft.flaws.push("admits nothing");
                }
            }
            draft.id = format!("p{at}");
            draft
        })
        .collect()
}

const fn name_of(action: Action) -> &'static str {
    match action {
        Action::Select => "select",
        Action::Describe => "describe",
        Action::Explain => "explain",
        Action::Manage => "manage",
    }
}

fn draft(dice: &mut Dice, table: &TableFacts, tables: usize, purpose: Purpose, permit: bool) -> Draft {
    let (mut annotations, mut flaws) = (Vec::new(), Vec::new());
    // With several tables, what names a table's columns is about that table, or it would not be valid for the others.
    let only_it = tables > 1 && !dice.percent(8);
    if tables > 1 && !only_it {
        flaws.push("about several tables");
    }
    let by_annotation = only_it && dice.percent(40);
    if by_annotation {
        annotations.push(("tables", table.name.to_string()));
    } else if dice.percent(6) {
        let of_source = format!("{}.*.*", table.name.source);
        annotations.push(("tables", dice.word(&["*", "elsewhere.*.*, *", &of_source, "elsewhere.*.t"]).to_owned()));
    }
    let (about, action, resource) = scope(dice, table, purpose, (only_it && !by_annotation, permit));
    if dice.percent(12) {
        annotations.push(("mode", dice.word(&["enforce", "warn", "log"]).to_owned()));
    }
    // A mask that fits a column, mostly, and the column.
    let masked = table.columns.get(dice.below(table.columns.len()));
    if matches!(purpose, Purpose::RowMask | Purpose::ColumnMask) {
        let masks = match masked.and_then(|column| column.kind) {
            Some(ValueKind::Text) => &MASKS[..10],
            Some(ValueKind::Instant) => &MASKS[10..],
            _ => &MASKS[..],
        };
        let masks = if dice.percent(85) { masks } else { &MASKS };
        annotations.push(("mask", dice.word(masks).to_owned()));
    }
    if action.ends_with("== Action::\"describe\"") && resource.starts_with("resource is Row") {
        flaws.push("admits nothing");
    }
    if purpose == Purpose::RowMask {
        let other = table.columns.get(dice.below(table.columns.len())).filter(|_| dice.percent(40));
        let mut columns: Vec<String> = masked.into_iter().chain(other).map(|column| column.name.clone()).collect();
        if dice.percent(15) {
            columns.push(dice.word(&["*", "n*", "nothing"]).to_owned());
        }
        if columns.is_empty() {
            flaws.push("no columns");
        }
        annotations.push(("columns", columns.join(", ")));
    }
    let permits = match purpose {
        Purpose::Rows => permit || dice.percent(45),
        Purpose::Table => dice.percent(75),
        _ => false,
    };
    let depth = dice.weighted(&[20, 35, 30, 15]);
    let mut writer = Writer::new(dice, about, table);
    let clauses = match writer.dice.weighted(&[10, 65, 15, 10]) {
        0 => vec![],
        1 => vec![("when", writer.truth(depth))],
        2 => vec![("unless", writer.truth(depth))],
        _ => vec![("when", writer.truth(depth)), ("unless", writer.truth(1))],
    };
    flaws.append(&mut writer.flaws);
    Draft { id: String::new(), permits, annotations, principal: asker(dice, permit), action, resource, clauses, flaws }
}

fn asker(dice: &mut Dice, widely: bool) -> String {
    if dice.percent(if widely { 90 } else { 50 }) {
        return "principal".into();
    }
    let role = quoted(dice.word(&ROLES));
    let group = quoted(dice.word(&GROUPS));
    match dice.below(6) {
        0 => format!("principal in Role::{role}"),
        1 => format!("principal in Group::{group}"),
        2 => format!("principal in Organisation::{}", quoted(dice.word(&ORGANISATIONS))),
        3 => format!("principal == User::{}", quoted(dice.word(&IDS))),
        4 => format!("principal is {}", dice.word(&["User", "Agent", "Machine"])),
        _ => format!("principal is {} in Role::{role}", dice.word(&["User", "Agent", "Machine"])),
    }
}

fn scope(
    dice: &mut Dice,
    table: &TableFacts,
    purpose: Purpose,
    (only_it, widely): (bool, bool),
) -> (About, String, String) {
    let name = &table.name;
    let it = format!("Table::{}", quoted(&name.to_string()));
    let places = [
        format!("Schema::{}", quoted(&format!("{}.{}", name.source, name.schema))),
        format!("Source::{}", quoted(&name.source)),
        format!("Tag::{}", quoted(dice.word(&TAGS))),
        "Source::\"elsewhere\"".to_owned(),
    ];
    let place = match dice.below(20) {
        _ if only_it => &it,
        0 if !widely => &places[3],
        1..6 => &places[2],
        6..9 => &places[1],
        9..13 => &places[0],
        _ => &it,
    };
    let inside =
        if only_it || dice.percent(if widely { 30 } else { 45 }) { format!(" in {place}") } else { String::new() };
    let of_select = |dice: &mut Dice| {
        dice.word(&["action == Action::\"select\"", "action in Action::\"read\"", "action"]).to_string()
    };
    match purpose {
        Purpose::Rows if dice.percent(75) => {
            let action = match dice.below(8) {
                0 => "action in [Action::\"select\", Action::\"describe\"]".to_owned(),
                1 if dice.percent(30) => "action == Action::\"describe\"".to_owned(),
                _ => of_select(dice),
            };
            (About::Row, action, format!("resource is Row{inside}"))
        }
        Purpose::Rows => (About::Anything, of_select(dice), format!("resource{inside}")),
        Purpose::RowMask => (About::Row, of_select(dice), format!("resource is Row{inside}")),
        Purpose::ColumnMask | Purpose::HiddenColumn => {
            let column = table.columns.get(dice.below(table.columns.len()));
            let resource = match column.filter(|_| dice.percent(40)) {
                Some(column) => format!("resource == Column::{}", quoted(&format!("{name}.{}", column.name))),
                None => format!("resource is Column{inside}"),
            };
            (About::Column, of_select(dice), resource)
        }
        Purpose::Table => {
            let action = dice.word(&["describe", "explain", "manage"]);
            let resource =
                if dice.percent(50) { format!("resource == {it}") } else { format!("resource is Table{inside}") };
            (About::Table, format!("action == Action::\"{action}\""), resource)
        }
    }
}
