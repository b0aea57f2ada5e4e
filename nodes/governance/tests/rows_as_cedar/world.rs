//! Random tables with their rows, and what is asked about them: a case.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, Field, TimeUnit};
use greylag_governance::policy::{
    Circumstances, ColumnFacts, NamePattern, TableFacts, TablePattern, Tagging, ValueKind, reference::Row,
};
use greylag_protocol::{
    filter::FilterValue,
    messages::control::{Action, TableName},
    principal::Principal,
};

use crate::random::{
    dice::Dice,
    policy::{Draft, TAGS, policies},
    principal::{circumstances, principal},
    values::{DECIMALS, INSTANTS, LONGS, TEXTS, near},
};

/// Rows of each table.
const ROWS: usize = 8;

#[derive(Debug, Clone)]
pub struct Case {
    pub tables: Vec<Asked>,
    pub policies: Vec<Draft>,
    pub principal: Principal,
    pub circumstances: Circumstances,
    /// Those of the same statement another time.
    pub later: Circumstances,
    pub action: Action,
}

/// A table, and what is asked about it.
#[derive(Debug, Clone)]
pub struct Asked {
    pub facts: TableFacts,
    pub rows: Vec<Row>,
    /// Whether the statement touches it, and which columns it reads, if that is known.
    pub touched: bool,
    pub columns: Option<BTreeSet<String>>,
}

const NAMES: [&str; 12] = ["id", "ward", "n", "amount", "born", "flag", "a b", "if", "Ünï", "x\"y", "name", "type"];

pub fn case(dice: &mut Dice) -> Case {
    let action = [Action::Select, Action::Explain, Action::Describe, Action::Manage][dice.weighted(&[82, 7, 7, 4])];
    let count = 1 + dice.weighted(&[75, 25]);
    let mut facts: Vec<TableFacts> = Vec::new();
    for at in 0..count {
        let name = TableName {
            source: dice.word(&["pg", "s\"q"]).to_owned(),
            schema: dice.word(&["main", "Ü"]).to_owned(),
            table: format!("{}{at}", dice.word(&["t", "visits", "a.b "])),
        };
        facts.push(table(dice, name));
    }
    let policies = policies(dice, &facts, action);
    let mut tables: Vec<Asked> = Vec::new();
    for (at, facts) in facts.into_iter().enumerate() {
        let columns = dice.percent(50).then(|| {
            facts.columns.iter().filter(|_| dice.percent(60)).map(|c| c.name.clone()).collect::<BTreeSet<String>>()
        });
        let rows = (0..ROWS).map(|_| row(dice, &facts)).collect();
        tables.push(Asked { facts, rows, touched: at == 0 || dice.percent(60), columns });
    }
    if action == Action::Manage && dice.percent(50) {
        tables.iter_mut().for_each(|table| table.touched = false);
    }
    Case {
        tables,
        policies,
        principal: principal(dice),
        circumstances: circumstances(dice),
        later: circumstances(dice),
        action,
    }
}

fn table(dice: &mut Dice, name: TableName) -> TableFacts {
    let mut names = NAMES.to_vec();
    let count = 1 + dice.below(6);
    let fields: Vec<Field> = (0..count)
        .map(|_| {
            let name = names.swap_remove(dice.below(names.len()));
            Field::new(name, data_type(dice), dice.percent(60))
        })
        .collect();
    let mut tags = Vec::new();
    for tag in TAGS {
        if dice.percent(30) {
            let columns = dice.percent(60).then(|| NamePattern::new(dice.word(&["n*", "*a*", "ward", "*"])));
            let tables = TablePattern::parse(dice.word(&["*", "pg.*.*", "*.main.t*"])).unwrap();
            tags.push(Tagging { tag: tag.to_owned(), tables, columns });
        }
    }
    TableFacts::new(name, fields.iter(), &tags)
}

fn data_type(dice: &mut Dice) -> DataType {
    let dictionary = |of| DataType::Dictionary(Box::new(DataType::Int32), Box::new(of));
    let types = [
        (12, DataType::Boolean),
        (16, DataType::Int64),
        (4, DataType::Int8),
        (4, DataType::Int32),
        (3, DataType::UInt32),
        (20, DataType::Utf8),
        (3, DataType::LargeUtf8),
        (2, dictionary(DataType::Utf8)),
        (6, DataType::Decimal128(12, 2)),
        (4, DataType::Decimal128(18, 4)),
        (2, DataType::Decimal128(14, 0)),
        (8, DataType::Date32),
        (4, DataType::Timestamp(TimeUnit::Second, None)),
        (4, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        // Cedar knows nothing like these.
        (2, DataType::Float64),
        (2, DataType::Binary),
        (2, DataType::UInt64),
        (2, DataType::Decimal128(38, 10)),
        (1, DataType::new_list(DataType::Utf8, true)),
    ];
    let weights: Vec<u64> = types.iter().map(|(weight, _)| *weight).collect();
    types[dice.weighted(&weights)].1.clone()
}

fn row(dice: &mut Dice, table: &TableFacts) -> Row {
    let mut row = Row::new();
    for column in &table.columns {
        // A source may break its own NOT NULL: then looking at the column is an error.
        let missing = if column.nullable { 30 } else { 4 };
        if !dice.percent(missing)
            && let Some(value) = value(dice, column)
        {
            row.insert(column.name.clone(), value);
        }
    }
    row
}

/// A value that the column's type can hold.
fn value(dice: &mut Dice, column: &ColumnFacts) -> Option<FilterValue> {
    let type_name = column.type_name.as_str();
    Some(match column.kind? {
        ValueKind::Bool => FilterValue::Bool(dice.percent(50)),
        ValueKind::Text => FilterValue::Text(dice.word(&TEXTS).to_owned()),
        ValueKind::Integer => {
            let value = *dice.pick(&LONGS);
            let value = near(dice, value);
            FilterValue::Integer(match type_name {
                "Int8" => value.clamp(i8::MIN.into(), i8::MAX.into()),
                "Int32" => value.clamp(i32::MIN.into(), i32::MAX.into()),
                "UInt32" => value.clamp(0, u32::MAX.into()),
                _ => value,
            })
        }
        ValueKind::Decimal => {
            let value = *dice.pick(&DECIMALS);
            let value = near(dice, value).clamp(-(10_i64.pow(14)) + 1, 10_i64.pow(14) - 1);
            FilterValue::Decimal(match type_name {
                "Decimal128(12, 2)" => value / 100 * 100,
                "Decimal128(14, 0)" => value / 10_000 * 10_000,
                _ => value,
            })
        }
        ValueKind::Instant => {
            let (_, value) = *dice.pick(&INSTANTS);
            let value = near(dice, value);
            FilterValue::Instant(match type_name {
                "Date32" => value.div_euclid(86_400_000) * 86_400_000,
                "Timestamp(s)" => value.div_euclid(1_000) * 1_000,
                _ => value,
            })
        }
    })
}
