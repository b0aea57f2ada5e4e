//! Names of tables, the gate in front of them, and columns that no query may touch.

use greylag_actors::planner::port::QueryEngine as _;
use greylag_protocol::{
    ErrorCode,
    messages::control::{Action, TableName},
    schema::Dialect::{DataFusion, Sqlite},
    statement::SessionOptions,
};

use crate::{
    compare::same_rows,
    data::{null_tables, odd, tpch},
    world::{World, permit},
};

fn world() -> World {
    let mut shouted = tpch(&["region"]);
    shouted[0].name = "REGION".into();
    World::new(&[("shop", Sqlite, &null_tables()), ("lake", DataFusion, &[odd(), shouted.remove(0)])])
}

fn name(source: &str, schema: &str, table: &str) -> TableName {
    TableName { source: source.into(), schema: schema.into(), table: table.into() }
}

#[tokio::test]
async fn touched_tables_have_full_names_once() {
    let world = world();
    let touched =
        world.touched("select * from l join shop.r on x = k join lake.main.odd on true, shop.main.l as again").unwrap();
    assert_eq!(touched.action, Action::Select);
    assert_eq!(touched.tables, [name("lake", "main", "odd"), name("shop", "main", "l"), name("shop", "main", "r")]);
    let touched = world.touched("with l as (select 1 as x) select * from l, system.nodes").unwrap();
    assert_eq!(touched.tables, [name("greylag", "system", "nodes")]);
    assert_eq!(world.touched("explain select * from l").unwrap().action, Action::Explain);
    assert_eq!(world.touched("explain analyze select * from l").unwrap().action, Action::Select);
    assert_eq!(world.touched("describe l").unwrap().action, Action::Describe);
    assert_eq!(world.touched("show tables").unwrap().tables, [name("greylag", "system", "tables")]);
    assert_eq!(world.touched("select * from region").unwrap().tables, [name("lake", "main", "REGION")]);
    assert_eq!(world.touched("select * from nothing").unwrap_err().code, ErrorCode::UnknownTable);
}

#[tokio::test]
async fn ctes_and_aliases_are_not_tables() {
    let world = world();
    for sql in [
        "with l as (select 7 as x) select * from l",
        "with t as (select * from l) select * from t where x = 2",
        "with l as (select * from l where x = 2) select * from l",
        "select r.x from l as r where r.x > 1",
        "with recursive c as (select 1 as i union all select i + 1 from c where i < 5) select * from c",
        "select * from (select x as y from l) as r",
        "select * from generate_series(1, 3)",
        "values (1, 'a'), (2, null)",
    ] {
        same_rows(&world, sql).await;
    }
    let renamed = world.answer("select r_name from region where r_regionkey = 1").await.unwrap();
    assert_eq!(renamed[0].num_rows(), 1);
}

#[tokio::test]
async fn a_permit_covers_its_tables_and_no_others() {
    let world = world();
    let tables = vec![name("shop", "main", "l")];
    let plan = |sql: &'static str| {
        let request = world.request(sql, permit(tables.clone()), None, SessionOptions::default());
        let engine = world.engine.clone();
        async move { engine.plan(request).await.map(drop).map_err(|e| e.code) }
    };
    assert_eq!(plan("select * from l").await, Ok(()));
    for sql in [
        "select * from r",
        "select * from l where x in (select k from r)",
        "select (select max(k) from r) from l",
        "with t as (select * from r) select * from t, l",
        "select * from system.nodes",
        "explain select * from r",
        "describe r",
        "show tables",
    ] {
        assert_eq!(plan(sql).await, Err(ErrorCode::NoDecision), "{sql}");
    }
}

#[tokio::test]
async fn columns_of_unsupported_types_are_refused_by_name() {
    let world = world();
    let error = world.answer("select id, mystery from l").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::UnsupportedType);
    assert!(error.message.contains("`mystery`") && error.message.contains("tsvector"), "{error}");
    assert!(error.message.contains("shop.main.l"), "{error}");
    let error = world.answer("select idd from l").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::UnknownColumn);
    assert!(error.message.contains("did you mean `id`"), "{error}");
    assert_eq!(world.answer("select no_such_function(x) from l").await.unwrap_err().code, ErrorCode::InvalidStatement);
}

#[tokio::test]
async fn system_tables_answer_like_any_other() {
    let world = world();
    let answer =
        world.answer("select count(*), max(node), count(name) from system.nodes where node > 1").await.unwrap();
    assert_eq!(crate::compare::rows(&answer), [["`2`", "`3`", "`1`"]]);
    let joined =
        world.answer("select n.name from greylag.system.nodes n join l on l.id = n.node order by node").await.unwrap();
    assert_eq!(crate::compare::rows(&joined), [["`a`"], ["NULL"], ["`c`"]]);
    let error = world.answer("select * from system.node").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::UnknownTable);
    assert!(error.message.contains("`nodes`"), "{error}");
}
