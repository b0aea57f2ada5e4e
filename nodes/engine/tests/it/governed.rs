//! Statements over a table that is governed are answered as if the table held nothing but the rows that pass, masked: plain
//! DataFusion over such a table is the reference, for random row filters, masks and statements. A statement that works
//! there must work here, whatever the rows are that may not be seen: an error would tell of them.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, Int32Array, Int64Array, RecordBatch,
        StringArray,
    },
    compute::filter_record_batch,
    datatypes::{DataType, Date32Type, Decimal128Type, Field, Int32Type, Int64Type, Schema},
};
use greylag_governance::policy::mask;
use greylag_protocol::{
    ErrorCode,
    filter::{Comparison, FilterNode, FilterValue, LikePart, RowFilter, Term},
    messages::control::TableName,
    obligation::{ColumnMask, DateUnit, HiddenColumn, Mask, MaskRule, TableObligation},
    schema::Dialect::{self, DataFusion, MySql, Postgres, Sqlite},
};
use proptest::{
    prelude::*,
    sample::select,
    strategy::BoxedStrategy,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::{
    compare::{rows, same_order, same_rows},
    data::odd,
    random::{Statement, statement},
    world::{SALT, World, schema_of},
};

const DAY_MS: i64 = 86_400_000;
/// Statements over one obligation, and obligations.
const STATEMENTS: usize = 12;
const OBLIGATIONS: u32 = 60;

pub fn name(dialect: Dialect) -> TableName {
    TableName { source: "one".into(), schema: schema_of(dialect).into(), table: "odd".into() }
}

fn obligation(dialect: Dialect, filter: Option<RowFilter>, masks: Vec<ColumnMask>) -> TableObligation {
    TableObligation { table: name(dialect), filter, masks, hidden: vec![], policies: vec!["p".into()] }
}

/// A column's value in one row; `None` is NULL.
pub fn value(batch: &RecordBatch, row: usize, column: &str) -> Option<FilterValue> {
    let array = batch.column_by_name(column).unwrap();
    if array.is_null(row) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Boolean => FilterValue::Bool(array.as_boolean().value(row)),
        DataType::Int64 => FilterValue::Integer(array.as_primitive::<Int64Type>().value(row)),
        DataType::Int32 => FilterValue::Integer(array.as_primitive::<Int32Type>().value(row).into()),
        DataType::Utf8 => FilterValue::Text(array.as_string::<i32>().value(row).to_owned()),
        // Two digits after the point, of four.
        DataType::Decimal128(_, 2) => {
            FilterValue::Decimal(array.as_primitive::<Decimal128Type>().value(row) as i64 * 100)
        }
        DataType::Date32 => FilterValue::Instant(i64::from(array.as_primitive::<Date32Type>().value(row)) * DAY_MS),
        other => panic!("{other}"),
    })
}

/// What may be seen of a table, by the definitions.
fn visible(batch: &RecordBatch, obligation: &TableObligation) -> RecordBatch {
    let passes = |filter: &RowFilter, row: usize| filter.passes(&|column| value(batch, row, column));
    let shown = |row| obligation.filter.as_ref().is_none_or(|filter| passes(filter, row));
    let keep: BooleanArray = (0..batch.num_rows()).map(|row| Some(shown(row))).collect();
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        let Some(masks) = obligation.masks.iter().find(|m| m.column == *field.name()) else { return column.clone() };
        let seen = (0..batch.num_rows()).map(|row| {
            let rule = masks.rules.iter().find(|rule| rule.when.as_ref().is_none_or(|when| passes(when, row)));
            let value = value(batch, row, field.name());
            match rule {
                Some(rule) => mask::apply(&rule.mask, value, SALT),
                None => value,
            }
        });
        array(field.data_type(), seen.collect())
    });
    let fields: Vec<Field> =
        batch.schema().fields().iter().map(|f| Field::new(f.name(), f.data_type().clone(), true)).collect();
    let masked = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.collect()).unwrap();
    filter_record_batch(&masked, &keep).unwrap()
}

pub fn array(data_type: &DataType, values: Vec<Option<FilterValue>>) -> ArrayRef {
    let integer = |value: &Option<FilterValue>| match value {
        Some(FilterValue::Integer(v) | FilterValue::Decimal(v) | FilterValue::Instant(v)) => Some(*v),
        _ => None,
    };
    match data_type {
        DataType::Utf8 => {
            let text = values.iter().map(|v| match v {
                Some(FilterValue::Text(text)) => Some(text.clone()),
                _ => None,
            });
            Arc::new(text.collect::<StringArray>())
        }
        DataType::Int64 => Arc::new(values.iter().map(integer).collect::<Int64Array>()),
        DataType::Int32 => Arc::new(values.iter().map(|v| integer(v).map(|v| v as i32)).collect::<Int32Array>()),
        DataType::Date32 => {
            let days = values.iter().map(|v| integer(v).map(|ms| ms.div_euclid(DAY_MS) as i32));
            Arc::new(days.collect::<Date32Array>())
        }
        DataType::Decimal128(p, s) => {
            let units = values.iter().map(|v| integer(v).map(|v| i128::from(v / 100)));
            Arc::new(units.collect::<Decimal128Array>().with_precision_and_scale(*p, *s).unwrap())
        }
        DataType::Boolean => {
            let flags = values.iter().map(|v| match v {
                Some(FilterValue::Bool(flag)) => Some(*flag),
                _ => None,
            });
            Arc::new(flags.collect::<BooleanArray>())
        }
        other => panic!("{other}"),
    }
}

/// A condition, before it lies in a list.
#[derive(Debug, Clone)]
enum Tree {
    Leaf(FilterNode),
    Not(Box<Tree>),
    And(Vec<Tree>),
    Or(Vec<Tree>),
}

fn filter_of(tree: &Tree) -> RowFilter {
    fn push(tree: &Tree, nodes: &mut Vec<FilterNode>) -> u32 {
        let node = match tree {
            Tree::Leaf(node) => node.clone(),
            Tree::Not(inner) => FilterNode::Not(push(inner, nodes)),
            Tree::And(all) => FilterNode::And(all.iter().map(|one| push(one, nodes)).collect()),
            Tree::Or(all) => FilterNode::Or(all.iter().map(|one| push(one, nodes)).collect()),
        };
        nodes.push(node);
        nodes.len() as u32 - 1
    }
    let mut nodes = Vec::new();
    push(tree, &mut nodes);
    RowFilter::try_from(nodes).unwrap()
}

/// Columns of `odd` with values of theirs, near theirs, and of others.
fn leaf() -> BoxedStrategy<Tree> {
    const TEXTS: [&str; 14] =
        ["", "a", "A", "a ", "ab", "%", "_", "it's", "back\\slash", "ä", "日本", "z", "\u{10FFFF}", "b"];
    let text = select(&TEXTS[..]).prop_map(|t| FilterValue::Text(t.to_owned())).boxed();
    const INTEGERS: [i64; 10] = [0, 1, -1, 2, 7, 100, i64::MAX, i64::MIN, i32::MAX as i64, 1 << 40];
    let integer = select(&INTEGERS[..]);
    let integer = integer.prop_map(FilterValue::Integer).boxed();
    let decimal = select(&[0, 500, -500, 550, 10_000, 9_999_999_900, 1, i64::MAX][..]).prop_map(FilterValue::Decimal);
    let day = (select(&[0, 9204, 9205, -1, 10_000, -10_000, 20_000][..]), select(&[0, 0, 1, -1, 3_600_000][..]));
    let instant = day.prop_map(|(day, more)| FilterValue::Instant(day * DAY_MS + more)).boxed();
    let flag = any::<bool>().prop_map(FilterValue::Bool).boxed();
    let of = |columns: &'static [&'static str], values: BoxedStrategy<FilterValue>| {
        (select(columns), values).prop_map(|(column, value)| (column.to_owned(), value)).boxed()
    };
    let pair = prop_oneof![
        3 => of(&["t"], text.clone()),
        4 => of(&["n", "s", "id"], integer.clone()),
        2 => of(&["m"], decimal.boxed()),
        2 => of(&["d"], instant),
        1 => of(&["b"], flag),
        1 => of(&["s", "d"], text),
        1 => of(&["t", "m"], integer),
    ];
    let op = select(&[Comparison::Equal, Comparison::NotEqual, Comparison::Less, Comparison::LessOrEqual][..]).boxed();
    let part = prop_oneof![
        Just(LikePart::Any),
        select(&["a", "%", "_", "\\", "b", "it's", "本", ""][..]).prop_map(|t| LikePart::Text(t.to_owned())),
    ];
    let columns = |columns: &'static [&'static str]| select(columns).prop_map(|column| Term::Column(column.into()));
    let two = prop_oneof![
        3 => (columns(&["n", "s", "id"]), columns(&["n", "s", "id"])),
        1 => (columns(&["d", "t"]), columns(&["d", "t", "m"])),
    ];
    let any_column = select(&["id", "t", "n", "s", "m", "d", "b"][..]).prop_map(str::to_owned).boxed();
    prop_oneof![
        6 => (pair.clone(), op.clone(), any::<bool>()).prop_map(|((column, value), op, turned)| {
            let (left, right) = (Term::Column(column), Term::Value(value));
            let (left, right) = if turned { (right, left) } else { (left, right) };
            FilterNode::Compare { op, left, right }
        }),
        2 => (two, op).prop_map(|((left, right), op)| FilterNode::Compare { op, left, right }),
        2 => prop::collection::vec(pair, 1..4).prop_map(|pairs| {
            let column = pairs[0].0.clone();
            let mut values: Vec<FilterValue> = pairs.into_iter().map(|(_, value)| value).collect();
            values.retain(|v| std::mem::discriminant(v) == std::mem::discriminant(&values_first(&column)));
            values.sort();
            values.dedup();
            FilterNode::In { column, values }
        }),
        2 => prop::collection::vec(part, 0..4).prop_map(|pattern| FilterNode::Like { column: "t".into(), pattern }),
        1 => any_column.clone().prop_map(FilterNode::IsNull),
        1 => any_column.prop_map(FilterNode::IsNotNull),
        1 => any::<bool>().prop_map(FilterNode::Constant),
    ]
    .prop_map(Tree::Leaf)
    .boxed()
}

/// Any value of a column's kind.
fn values_first(column: &str) -> FilterValue {
    match column {
        "t" => FilterValue::Text(String::new()),
        "m" => FilterValue::Decimal(0),
        "d" => FilterValue::Instant(0),
        "b" => FilterValue::Bool(true),
        _ => FilterValue::Integer(0),
    }
}

fn tree() -> BoxedStrategy<Tree> {
    leaf()
        .prop_recursive(3, 12, 3, |inner| {
            let many = prop::collection::vec(inner.clone(), 0..4);
            prop_oneof![
                inner.prop_map(|tree| Tree::Not(Box::new(tree))),
                many.clone().prop_map(Tree::And),
                many.prop_map(Tree::Or),
            ]
        })
        .boxed()
}

fn masks() -> BoxedStrategy<Vec<ColumnMask>> {
    let of_text = prop_oneof![
        Just(Mask::Full),
        Just(Mask::Hash),
        Just(Mask::Null),
        Just(Mask::Redact("[x]".into())),
        (0_u32..3, 0_u32..3).prop_map(|(first, last)| Mask::Partial { first, last, fill: '#' }),
    ];
    let of_date = select(&[DateUnit::Day, DateUnit::Month, DateUnit::Quarter, DateUnit::Year][..]);
    let of_date = prop_oneof![3 => of_date.prop_map(Mask::Truncate), 1 => Just(Mask::Null)];
    let of_integer = prop_oneof![Just(Mask::Hash), Just(Mask::Null)];
    let column = prop_oneof![
        of_text.prop_map(|mask| ("t", mask)),
        of_date.prop_map(|mask| ("d", mask)),
        of_integer.prop_map(|mask| ("n", mask)),
        Just(("s", Mask::Null)),
        Just(("m", Mask::Null)),
        Just(("b", Mask::Null)),
    ];
    let one = (column, prop::option::of(tree())).prop_map(|((column, mask), when)| {
        let when = when.map(|tree| filter_of(&tree));
        ColumnMask { column: column.to_owned(), rules: vec![MaskRule { mask, when, policies: vec!["m".into()] }] }
    });
    prop::collection::vec(one, 0..3)
        .prop_map(|mut masks| {
            masks.sort_by(|a, b| a.column.cmp(&b.column));
            masks.dedup_by(|a, b| a.column == b.column);
            masks
        })
        .boxed()
}

/// Statements that fail over some rows of `odd`, beside those that do not.
pub fn any_statement() -> BoxedStrategy<Statement> {
    let risky = select(
        &[
            "select id from odd where 10 / n > 1 order by id",
            "select id from odd where cast(t as bigint) > 0 order by id",
            "select id from odd where n + 9223372036854775800 > 0 and 1 / s = 1 order by id",
            "select a.id from odd a join odd b on a.id = b.id and 7 / a.s > b.s order by a.id",
            "select count(*) as c from odd where s > 0 and 3 / (s - 1) >= 0",
            "select id from (select id, cast(t as double) as x from odd where id < 15) where x > 0 order by id",
        ][..],
    );
    let risky = risky.prop_map(|sql| Statement { sql: sql.to_owned(), ordered: true });
    prop_oneof![5 => statement(), 2 => risky].boxed()
}

/// Every random statement over the governed table is answered like one over what may be seen of it.
pub fn agree(runtime: &tokio::runtime::Runtime, world: &mut World, dialect: Dialect) {
    let config = Config { cases: OBLIGATIONS, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[11; 32]));
    let statements = prop::collection::vec(any_statement(), STATEMENTS);
    let cases = (prop::option::weighted(0.8, tree()), masks(), statements);
    let world = std::cell::RefCell::new(world);
    let outcome = runner.run(&cases, |(tree, masks, statements)| {
        let obligation = obligation(dialect, tree.map(|tree| filter_of(&tree)), masks);
        let mut world = world.borrow_mut();
        world.govern("odd", &visible(&odd().batches[0], &obligation), vec![obligation]);
        runtime.block_on(async {
            for statement in statements {
                if world.expected(&statement.sql).await.is_err() {
                    continue;
                }
                if statement.ordered {
                    same_order(&world, &statement.sql).await;
                } else {
                    same_rows(&world, &statement.sql).await;
                }
            }
        });
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

fn agree_in_memory(dialect: Dialect) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    agree(&runtime, &mut World::new(&[("one", dialect, &[odd()])]), dialect);
}

#[test]
fn sqlite_shows_what_may_be_seen() {
    agree_in_memory(Sqlite);
}

#[test]
fn files_show_what_may_be_seen() {
    agree_in_memory(DataFusion);
}

fn less(column: &str, bound: i64) -> RowFilter {
    let (left, right) = (Term::Column(column.into()), Term::Value(FilterValue::Integer(bound)));
    RowFilter::try_from(vec![FilterNode::Compare { op: Comparison::Less, left, right }]).unwrap()
}

fn governed(dialect: Dialect, obligation: TableObligation) -> World {
    let mut world = World::new(&[("one", dialect, &[odd()])]);
    world.govern("odd", &visible(&odd().batches[0], &obligation), vec![obligation]);
    world
}

#[tokio::test]
async fn what_cannot_fail_goes_to_the_source_and_the_rest_stays_above_the_filter() {
    for (dialect, filter) in [(Sqlite, r#""id" < 5"#), (Postgres, r#""id" < 5"#), (MySql, "`id` < 5")] {
        let world = governed(dialect, obligation(dialect, Some(less("id", 5)), vec![]));
        let safe = world.pushed("select t from odd where n = 7").await.remove(0);
        assert!(safe.contains(filter) && safe.contains("= 7"), "{safe}");
        let fallible = world.pushed("select t from odd where n = 7 and 10 / s > 1").await.remove(0);
        assert!(fallible.contains(filter) && fallible.contains("= 7") && !fallible.contains('/'), "{fallible}");
        // A fallible condition anywhere: what a join would bring down to the same rows has to stay as well.
        let plan = "select a.t from odd a join odd b on a.id = b.id and 7 / a.s > b.s";
        assert!(world.pushed(plan).await.iter().all(|sql| sql.contains(filter) && !sql.contains('/')));
    }
}

#[tokio::test]
async fn a_mask_is_what_conditions_joins_and_groups_see() {
    let hash = ColumnMask {
        column: "t".into(),
        rules: vec![MaskRule { mask: Mask::Hash, when: None, policies: vec!["m".into()] }],
    };
    let world = governed(Sqlite, obligation(Sqlite, None, vec![hash]));
    for sql in [
        "select count(*) as c from odd where t = 'a'",
        "select count(*) as c from odd where t like 'a%'",
        "select a.id, b.id as other from odd a join odd b on a.t = b.t order by a.id, b.id",
        "select t, count(*) as c from odd group by t order by t",
        "select max(t) as m from odd",
        "select id from odd order by t, id limit 3",
        "select id from odd where t in (select t from odd where id = 2) order by id",
    ] {
        same_rows(&world, sql).await;
        assert!(world.pushed(sql).await.iter().all(|sql| !sql.contains("'a")), "{sql}");
    }
    let plain = rows(&world.answer("select count(*) as c from odd where t = 'a'").await.unwrap());
    assert_eq!(plain, [["`0`"]]);
}

#[tokio::test]
async fn a_hidden_column_is_not_there() {
    let mut obligation = obligation(Sqlite, Some(less("id", 5)), vec![]);
    obligation.hidden = vec![HiddenColumn { column: "n".into(), policies: vec!["h".into()] }];
    let mut world = World::new(&[("one", Sqlite, &[odd()])]);
    world.govern("odd", &visible(&odd().batches[0], &obligation), vec![obligation]);
    for sql in [
        "select n from odd",
        "select 1 from odd where n > 0",
        "select x from (select n as x from odd)",
        "with w as (select * from odd) select n from w",
        "select 1 from odd a join odd b on a.n = b.id",
        "select id from odd order by n",
        "select (select max(n) from odd)",
        "select id from odd o where exists (select 1 from odd i where i.n = o.id)",
        "select sum(n) over () from odd",
    ] {
        let error = world.answer(sql).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::UnknownColumn, "{sql}: {error}");
        let (_, offered) = error.message.split_once("there is").unwrap_or_default();
        assert!(!offered.split([',', ' ', '`', '"', '.']).any(|word| word == "n"), "{error}");
    }
    let answer = world.answer("select * from odd").await.unwrap();
    assert!(answer[0].schema().column_with_name("n").is_none());
    let described = rows(&world.answer("describe odd").await.unwrap());
    assert!(described.len() == 8 && described.iter().all(|row| row[0] != "`n`"), "{described:?}");
    let error = world.answer("explain analyze select id from odd").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Denied, "counts of what was read tell of rows");
}

#[tokio::test]
async fn a_decision_about_another_table_than_there_is_refuses() {
    let mask = ColumnMask { column: "gone".into(), rules: vec![] };
    for obligation in [obligation(Sqlite, Some(less("gone", 5)), vec![]), obligation(Sqlite, None, vec![mask])] {
        let mut world = World::new(&[("one", Sqlite, &[odd()])]);
        world.govern("odd", &odd().batches[0], vec![obligation]);
        assert_eq!(world.answer("select id from odd").await.unwrap_err().code, ErrorCode::NoDecision);
    }
}
