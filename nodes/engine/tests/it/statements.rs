//! Statements of all shapes over sources of either kind, placeholders, descriptions, and errors with their codes.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Date32Array, Int32Array, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
};
use futures::TryStreamExt;
use greylag_protocol::{
    ErrorCode,
    schema::Dialect::{DataFusion, Sqlite},
    statement::SessionOptions,
};

use crate::{
    compare::{rows, same_order, same_rows},
    data::{null_tables, odd, tpch},
    world::World,
};

fn worlds() -> [World; 2] {
    let split =
        |dialect| World::new(&[("one", dialect, &[odd()][..]), ("two", DataFusion, &tpch(&["nation", "region"]))]);
    [split(DataFusion), split(Sqlite)]
}

/// Over `odd`, which is in the source under test, and two tables of another one.
const SHAPES: &[&str] = &[
    "select * from odd",
    "select 1",
    "select count(*) from odd",
    "select 'x' from odd",
    "select id + 1, -n, m * 2, f / 2 from odd where id < 3",
    "select upper(t), length(t), t || '!' from odd",
    "select random() < 2 from odd",
    "select * from odd where t like 'a%'",
    "select * from odd where t like '%a%'",
    "select * from odd where t like '%a'",
    "select * from odd where t like 'a_'",
    "select * from odd where t like '_'",
    "select * from odd where t like '%'",
    "select * from odd where t like ''",
    "select * from odd where t like 'a\\%b'",
    "select * from odd where t like '\\_'",
    "select * from odd where t like '%\\%%'",
    "select * from odd where t not like 'a%'",
    "select * from odd where t not like '%a%b%'",
    "select * from odd where t ilike 'A%'",
    "select * from odd where t in ('a', 'A', 'it''s', 'back\\slash', '日本')",
    "select * from odd where t not in ('a', 'A')",
    "select * from odd where t >= 'a' and t < 'b'",
    "select * from odd where t > 'a' or n = 1",
    "select * from odd where n between 0 and 5",
    "select * from odd where n not between 0 and 5",
    "select * from odd where n = 9223372036854775807 or n = -9223372036854775808",
    "select * from odd where n > s",
    "select * from odd where s = 2147483647",
    "select * from odd where s in (1, 2, 3, 4, 5, 6)",
    "select * from odd where m = 0.05",
    "select * from odd where m in (0.05, 1.00, 7)",
    "select * from odd where m > 0 and m <= 999999.99",
    "select * from odd where f = 0",
    "select * from odd where f < 0",
    "select * from odd where f >= 0.30000000000000004",
    "select * from odd where f > 0.1 and f <> 2.5",
    "select * from odd where d = date '1995-03-15'",
    "select * from odd where d >= date '1995-03-15' and d < date '1995-03-15' + interval '1' month",
    "select * from odd where b",
    "select * from odd where not b",
    "select * from odd where b is null",
    "select * from odd where id = 7 and t is null",
    "select * from odd where t is not null and n is null",
    "select count(*), count(t), count(distinct t), min(t), max(t) from odd",
    "select min(n), max(n), min(m), max(m), min(d), max(d), min(f), max(f) from odd",
    "select sum(s), sum(m), avg(m), avg(s) from odd",
    "select t, count(*) from odd group by t",
    "select b, count(*), sum(id) from odd group by b",
    "select d, s, count(*) from odd where id > 2 group by d, s having count(*) > 1",
    "select s % 2, count(*) from odd group by s % 2",
    "select distinct t from odd",
    "select t, row_number() over (order by id) from odd",
    "select t, sum(id) over (partition by b order by id) from odd",
    "select * from odd union all select * from odd where id < 2",
    "select t from odd intersect select t from odd where id > 3",
    "select t from odd except select t from odd where id > 3",
    "select * from odd a join odd b on a.s = b.id where a.t = 'a'",
    "select a.id, b.t from odd a left join odd b on a.s = b.id and b.t like 'a%'",
    "select n_name, r_name, t from nation join region on n_regionkey = r_regionkey join odd on id = n_nationkey",
    "select * from odd where id in (select n_regionkey from nation where n_name like 'U%')",
    "select * from nation where n_nationkey not in (select s from odd where s is not null)",
    "select * from (select t, count(*) as c from odd group by t) x where c > 1",
    "select array_agg(id order by id) from odd where id < 4",
    "select to_char(d, '%Y') from odd",
    "select x.* from (select id, m * 2 as mm from odd where f > 0) x where mm > 1",
    "select case when n > 1 then 'big' when n is null then 'none' else 'small' end, count(*) from odd group by 1",
];

/// Every shape, answered alike.
pub async fn shapes(world: &World) {
    for sql in SHAPES {
        same_rows(world, sql).await;
    }
}

#[tokio::test]
async fn statements_of_all_shapes() {
    for world in worlds() {
        shapes(&world).await;
    }
}

const ORDERED: &[&str] = &[
    "select * from odd order by id",
    "select * from odd order by id desc limit 3",
    "select id, t from odd order by t, id limit 5",
    "select id, t from odd order by t desc, id limit 5",
    "select id, t from odd order by t nulls first, id limit 5",
    "select id, n from odd order by n desc nulls last, id limit 7",
    "select id, n from odd order by n asc nulls first, id desc limit 7",
    "select id, m from odd order by m, id limit 4 offset 3",
    "select id, d from odd order by d desc, id limit 6 offset 2",
    "select id, f from odd order by f desc, id limit 6",
    "select id, s from odd where s > 1 order by s, id limit 3",
    "select id, b from odd order by b, id limit 3",
    "select id from odd where t like '%a%' order by id limit 2",
    "select id, upper(t) as u from odd order by u, id limit 4",
    "select t, count(*) as c from odd group by t order by c desc, t limit 3",
    "select a.id, b.t from odd a join odd b on a.s = b.id order by a.id limit 3",
    "select * from (select id from odd order by id limit 5) order by id desc limit 2",
    "select id from odd order by id limit 0",
    "select n_name from nation order by n_name limit 3",
];

const COUNTED: &[(&str, usize)] = &[
    ("select * from odd limit 3", 3),
    ("select * from odd where t = 'a' limit 1", 1),
    ("select * from odd limit 5 offset 18", 2),
    ("select * from odd limit 100", 20),
];

/// Every order and every limit.
pub async fn orders(world: &World) {
    for sql in ORDERED {
        same_order(world, sql).await;
    }
    for (sql, rows) in COUNTED {
        let answer = world.answer(sql).await.unwrap();
        assert_eq!(answer.iter().map(RecordBatch::num_rows).sum::<usize>(), *rows, "{sql}");
    }
}

#[tokio::test]
async fn order_and_limits() {
    for world in worlds() {
        orders(&world).await;
    }
}

#[tokio::test]
async fn batches_have_the_size_asked_for() {
    let world = World::new(&[("lake", DataFusion, &tpch(&["customer"]))]);
    let options = SessionOptions { batch_rows: 100, ..SessionOptions::default() };
    let plan = world.plan_with("select c_custkey, count(*) from customer group by 1", None, options).await.unwrap();
    let batches: Vec<RecordBatch> = plan.execute(world.opener()).unwrap().try_collect().await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 1500);
    assert!(batches.iter().all(|batch| batch.num_rows() > 0));
}

fn one_row(columns: Vec<ArrayRef>) -> RecordBatch {
    let fields: Vec<Field> =
        columns.iter().enumerate().map(|(at, c)| Field::new(format!("p{at}"), c.data_type().clone(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

#[tokio::test]
async fn placeholders_have_types_and_take_values() {
    for world in worlds() {
        let sql = "select id, t from odd where s = $2 and t = $1 and d > $3 order by id";
        let described = world.plan(sql).await.unwrap();
        let types: Vec<DataType> = described.parameters().fields().iter().map(|f| f.data_type().clone()).collect();
        assert_eq!(types, [DataType::Utf8, DataType::Int32, DataType::Date32]);
        assert_eq!(described.schema().fields().len(), 2);
        assert_eq!(described.execute(world.opener()).map(drop).unwrap_err().code, ErrorCode::Parameters);

        let values = one_row(vec![
            Arc::new(StringArray::from(vec!["a"])),
            Arc::new(Int64Array::from(vec![2])),
            Arc::new(Date32Array::from(vec![-100_000])),
        ]);
        let plan = world.plan_with(sql, Some(values), SessionOptions::default()).await.unwrap();
        assert!(plan.subqueries()[0].sql.contains("'a'"), "{}", plan.subqueries()[0].sql);
        let answer: Vec<RecordBatch> = plan.execute(world.opener()).unwrap().try_collect().await.unwrap();
        assert_eq!(
            rows(&answer),
            rows(
                &world
                    .expected("select id, t from odd where s = 2 and t = 'a' and d > '1600-01-01' order by id")
                    .await
                    .unwrap()
            )
        );

        let marks = "select id from odd where id = ? or id = ? order by id limit ?";
        let values = one_row(vec![
            Arc::new(Int32Array::from(vec![4])),
            Arc::new(Int32Array::from(vec![2])),
            Arc::new(Int64Array::from(vec![1])),
        ]);
        let plan = world.plan_with(marks, Some(values), SessionOptions::default()).await.unwrap();
        let answer: Vec<RecordBatch> = plan.execute(world.opener()).unwrap().try_collect().await.unwrap();
        assert_eq!(rows(&answer), [["`2`"]]);
    }
}

#[tokio::test]
async fn values_that_do_not_fit_their_placeholders_are_refused() {
    let [world, _] = worlds();
    let sql = "select id from odd where s = $1";
    let text = || Arc::new(StringArray::from(vec!["x"])) as ArrayRef;
    let number = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    let two_rows = one_row(vec![Arc::new(Int64Array::from(vec![1]))]);
    let two_rows = arrow::compute::concat_batches(&two_rows.schema(), [&two_rows, &two_rows]).unwrap();
    for (sql, values) in [
        (sql, one_row(vec![text()])),
        (sql, one_row(vec![number(), number()])),
        (sql, two_rows),
        (sql, one_row(vec![Arc::new(Int64Array::from(vec![i64::MAX]))])),
        ("select id from odd", one_row(vec![number()])),
        ("select id from odd where s = $x", one_row(vec![number()])),
        ("select id from odd where s = $99999999", one_row(vec![number()])),
        ("describe odd", one_row(vec![number()])),
    ] {
        let error = world.plan_with(sql, Some(values), SessionOptions::default()).await.map(drop).unwrap_err();
        assert_eq!(error.code, ErrorCode::Parameters, "{sql}: {error}");
    }
}

#[tokio::test]
async fn errors_have_codes_and_keep_values_to_themselves() {
    for world in worlds() {
        for (sql, code) in [
            ("select", ErrorCode::Syntax),
            ("select * from odd where", ErrorCode::Syntax),
            ("select nope from odd", ErrorCode::UnknownColumn),
            ("select * from nope", ErrorCode::UnknownTable),
            ("select t + d from odd", ErrorCode::InvalidStatement),
            ("select sum(t) over from odd", ErrorCode::InvalidStatement),
            ("select id, count(*) from odd", ErrorCode::InvalidStatement),
            ("select cast(t as int) from odd where t = 'it''s'", ErrorCode::Execution),
            ("select 1 / (id - id) from odd", ErrorCode::Execution),
            ("select (select id from odd) from odd", ErrorCode::Execution),
            ("insert into odd values (1)", ErrorCode::ReadOnly),
            ("show all", ErrorCode::Unsupported),
        ] {
            let error = world.answer(sql).await.unwrap_err();
            assert_eq!(error.code, code, "{sql}: {error}");
            assert!(!error.message.contains("it's"), "{error}");
        }
    }
}

#[tokio::test]
async fn show_and_describe() {
    let world = World::new(&[("shop", Sqlite, &null_tables()), ("lake", DataFusion, &[odd()])]);
    let tables = rows(&world.answer("show tables").await.unwrap());
    let expected = [
        ["`greylag`", "`system`", "`nodes`"],
        ["`lake`", "`main`", "`odd`"],
        ["`shop`", "`main`", "`empty`"],
        ["`shop`", "`main`", "`l`"],
        ["`shop`", "`main`", "`r`"],
    ];
    assert_eq!(tables, expected);
    let columns = rows(&world.answer("describe shop.main.l").await.unwrap());
    assert_eq!(columns[0], ["`id`", "`Int64`", "`true`", "`Int64`"]);
    assert_eq!(columns[3], ["`mystery`", "`not supported`", "`true`", "`tsvector`"]);
    assert_eq!(rows(&world.answer("show columns from system.nodes").await.unwrap()).len(), 2);
}
