//! `EXPLAIN`: the exact SQL for each source, the nodes, and what happens when an edge dies.

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use greylag_protocol::{
    schema::Dialect::{DataFusion, Sqlite},
    statement::{Delivery, SessionOptions},
};

use crate::{compare::rows, data::tpch, world::World};

const JOIN: &str =
    "select c_name, o_totalprice from orders join customer on c_custkey = o_custkey where c_custkey < 10";

fn world() -> World {
    World::new(&[("shop", Sqlite, &tpch(&["customer"])), ("lonely", DataFusion, &tpch(&["orders"]))])
}

#[tokio::test]
async fn it_names_source_node_sql_and_rule() {
    let world = world();
    let answer = rows(&world.answer(&format!("explain {JOIN}")).await.unwrap());
    let kinds: Vec<&str> = answer.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(kinds, ["`logical_plan`", "`physical_plan`", "`subquery 0`", "`subquery 1`"]);
    assert!(answer[0][1].contains("EdgeScan: subquery=0"), "{}", answer[0][1]);
    assert!(answer[1][1].contains("HashJoinExec") && answer[1][1].contains("EdgeScanExec"), "{}", answer[1][1]);
    let pushed = world.pushed(JOIN).await;
    for row in &answer[2..] {
        let line = format!("{}: {}", row[2].trim_matches('`'), row[1].trim_matches('`'));
        assert!(pushed.contains(&line), "{line} is not in {pushed:?}");
    }
    let shop = answer.iter().find(|row| row[2] == "`shop`").unwrap();
    assert_eq!(shop[3], "`n2, n3`");
    // The small side is built from, the other one streams.
    assert_eq!(shop[4], "`R0, R1, R4`");
    let lonely = answer.iter().find(|row| row[2] == "`lonely`").unwrap();
    assert_eq!((lonely[3].as_str(), lonely[4].as_str()), ("NULL", "`R0, R3, R4, R5`"));
    assert!(world.take_opened().is_empty(), "nothing is run");
}

#[tokio::test]
async fn spooled_delivery_makes_every_sub_query_restartable() {
    let options = SessionOptions { delivery: Delivery::Spooled, ..SessionOptions::default() };
    let world = world();
    let plan = world.plan_with(&format!("explain verbose {JOIN}"), None, options).await.unwrap();
    let answer: Vec<RecordBatch> = plan.execute(world.opener()).unwrap().try_collect().await.unwrap();
    assert!(rows(&answer)[2..].iter().all(|row| row[4] == "`R0, R1, R4`"));
}

#[tokio::test]
async fn analyze_runs_the_statement_and_measures_it() {
    let world = world();
    let answer = rows(&world.answer(&format!("explain analyze {JOIN}")).await.unwrap());
    assert!(answer[0][1].contains("EdgeScanExec") && answer[0][1].contains("output_rows="), "{}", answer[0][1]);
    let expected = world.expected(JOIN).await.unwrap().iter().map(RecordBatch::num_rows).sum::<usize>();
    assert!(expected > 0);
    assert_eq!(
        answer[1],
        ["`output_rows`".to_owned(), format!("`{expected}`"), "NULL".into(), "NULL".into(), "NULL".into()]
    );
    assert_eq!(answer.len(), 4);
    assert_eq!(world.take_opened().len(), 2);
}
