//! Random filters, projections, sorts and limits over a table of edge cases, each answered by push-down and by plain
//! DataFusion. Sorts end in the key, so that limits have one answer.

use greylag_protocol::schema::Dialect::{self, DataFusion, Sqlite};
use proptest::{
    prelude::*,
    sample::select,
    strategy::BoxedStrategy,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::{
    compare::{same_order, same_rows},
    data::odd,
    world::World,
};

const CASES: u32 = 600;

const TEXTS: [&str; 18] = [
    "''",
    "'a'",
    "'A'",
    "'a '",
    "'ab'",
    "'%'",
    "'_'",
    "'a%b'",
    "'it''s'",
    "'back\\slash'",
    "'ä'",
    "'日本'",
    "'z'",
    "'b'",
    "'\u{10FFFF}'",
    "'new\nline'",
    "'a\u{0}'",
    "'zz'",
];
const PATTERNS: [&str; 16] = [
    "''",
    "'%'",
    "'a%'",
    "'%a'",
    "'%a%'",
    "'a_'",
    "'_'",
    "'%_%'",
    "'a%b'",
    "'%\\%%'",
    "'it%s'",
    "'%本'",
    "'A%'",
    "'__'",
    "'\u{10FFFF}%'",
    "'a%a%'",
];
const INTEGERS: [&str; 12] = [
    "0",
    "1",
    "-1",
    "2",
    "7",
    "42",
    "100",
    "9223372036854775807",
    "-9223372036854775808",
    "2147483647",
    "-2147483648",
    "5",
];
const DECIMALS: [&str; 8] = ["0", "0.05", "-0.05", "1", "999999.99", "-999999.99", "2.50", "123.45"];
const DOUBLES: [&str; 8] = ["0", "-0.0", "1.5", "0.1", "1e15", "0.30000000000000004", "2.5", "-0.5"];
const DATES: [&str; 6] = [
    "date '1970-01-01'",
    "date '1995-03-15'",
    "date '1969-12-31'",
    "date '2000-02-29'",
    "date '1942-08-15'",
    "date '2024-10-04'",
];
const COMPARISONS: [&str; 6] = ["=", "<>", "<", "<=", ">", ">="];

fn text(values: &'static [&'static str]) -> BoxedStrategy<String> {
    select(values).prop_map(str::to_owned).boxed()
}

/// A comparison, list, range, pattern or NULL test on one column.
fn atom() -> BoxedStrategy<String> {
    let columns = select(&["t", "n", "s", "f", "m", "d", "id"][..]);
    let on_column = columns.prop_flat_map(|column| {
        let values = match column {
            "t" => text(&TEXTS),
            "n" | "s" | "id" => text(&INTEGERS),
            "f" => text(&DOUBLES),
            "m" => text(&DECIMALS),
            _ => text(&DATES),
        };
        let compare = (select(&COMPARISONS[..]), values.clone()).prop_map(move |(op, v)| format!("{column} {op} {v}"));
        let list = (any::<bool>(), prop::collection::vec(values.clone(), 1..6))
            .prop_map(move |(not, list)| format!("{column} {}in ({})", if not { "not " } else { "" }, list.join(", ")));
        let range = (any::<bool>(), values.clone(), values).prop_map(move |(not, low, high)| {
            format!("{column} {}between {low} and {high}", if not { "not " } else { "" })
        });
        let null = any::<bool>().prop_map(move |not| format!("{column} is {}null", if not { "not " } else { "" }));
        prop_oneof![4 => compare, 2 => list, 1 => range, 1 => null]
    });
    let like = (any::<bool>(), text(&PATTERNS))
        .prop_map(|(not, pattern)| format!("t {}like {pattern}", if not { "not " } else { "" }));
    let pairs = (select(&[("n", "s"), ("id", "n"), ("s", "id"), ("t", "t")][..]), select(&COMPARISONS[..]))
        .prop_map(|((left, right), op)| format!("{left} {op} {right}"));
    let local = select(&["upper(t) = 'A'", "n % 2 = 0", "b", "not b", "b is null", "length(t) > 1", "m + 1 > 1"][..])
        .prop_map(str::to_owned);
    prop_oneof![6 => on_column, 2 => like, 1 => pairs, 1 => local].boxed()
}

fn condition() -> BoxedStrategy<String> {
    atom()
        .prop_recursive(3, 10, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 2..4).prop_map(|all| format!("({})", all.join(" and "))),
                prop::collection::vec(inner.clone(), 2..4).prop_map(|any| format!("({})", any.join(" or "))),
                inner.clone().prop_map(|one| format!("not ({one})")),
                inner.prop_map(|one| format!("(({one}) is not true)")),
            ]
        })
        .boxed()
}

#[derive(Debug, Clone)]
pub struct Statement {
    pub sql: String,
    pub ordered: bool,
}

pub fn statement() -> BoxedStrategy<Statement> {
    let columns = prop::collection::vec(
        select(&["id", "t", "n", "s", "f", "m", "d", "b", "n + 1", "upper(t)", "t as other", "1"][..]),
        1..5,
    );
    let filter = prop::option::of(condition());
    let plain = (columns, filter.clone(), keys(), prop::option::of((0_usize..8, 0_usize..4))).prop_map(
        |(columns, filter, keys, limit)| {
            let filter = filter.map(|f| format!(" where {f}")).unwrap_or_default();
            let limit = limit.map(|(limit, skip)| format!(" limit {limit} offset {skip}")).unwrap_or_default();
            let columns: Vec<String> = columns
                .iter()
                .enumerate()
                .map(|(at, c)| match c.split_once(" as ") {
                    Some((c, _)) => format!("{c} as c{at}"),
                    None => format!("{c} as c{at}"),
                })
                .collect();
            Statement {
                sql: format!("select {} from odd{filter} order by {keys}{limit}", columns.join(", ")),
                ordered: true,
            }
        },
    );
    let aggregates = prop::collection::vec(
        select(
            &[
                "count(*)",
                "count(t)",
                "count(distinct s)",
                "min(t)",
                "max(n)",
                "min(d)",
                "max(m)",
                "sum(s)",
                "sum(m)",
                "avg(s)",
                "min(id)",
            ][..],
        ),
        1..4,
    );
    let groups = prop::collection::vec(select(&["t", "s", "d", "b", "m", "s % 2"][..]), 0..3);
    let having = prop::option::of(select(&["count(*) > 1", "min(id) < 5", "max(n) is null"][..]));
    let grouped = (aggregates, groups, filter, having).prop_map(|(aggregates, groups, filter, having)| {
        let filter = filter.map(|f| format!(" where {f}")).unwrap_or_default();
        let having = having.map(|h| format!(" having {h}")).unwrap_or_default();
        let by = if groups.is_empty() { String::new() } else { format!(" group by {}", groups.join(", ")) };
        let all: Vec<String> =
            groups.iter().chain(&aggregates).enumerate().map(|(at, c)| format!("{c} as c{at}")).collect();
        Statement { sql: format!("select {} from odd{filter}{by}{having}", all.join(", ")), ordered: false }
    });
    prop_oneof![3 => plain, 2 => grouped].boxed()
}

fn keys() -> BoxedStrategy<String> {
    let key =
        (select(&["t", "n", "s", "m", "d", "f"][..]), select(&["", " desc", " nulls first", " desc nulls last"][..]))
            .prop_map(|(column, order)| format!("{column}{order}"));
    prop::collection::vec(key, 0..3)
        .prop_map(|mut keys| {
            keys.push("id".into());
            keys.join(", ")
        })
        .boxed()
}

/// Many statements over `odd`, each answered alike.
pub fn agree(runtime: &tokio::runtime::Runtime, world: &World) {
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let outcome = runner.run(&statement(), |statement| {
        runtime.block_on(async {
            // A statement that plain DataFusion refuses says nothing about push-down.
            if world.expected(&statement.sql).await.is_err() {
                return;
            }
            if statement.ordered {
                same_order(world, &statement.sql).await
            } else {
                same_rows(world, &statement.sql).await
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
    agree(&runtime, &World::new(&[("one", dialect, &[odd()])]));
}

#[test]
fn sqlite_agrees() {
    agree_in_memory(Sqlite);
}

#[test]
fn files_agree() {
    agree_in_memory(DataFusion);
}
