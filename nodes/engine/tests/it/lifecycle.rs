//! Running a plan: lazily, again and again, abandoned, without memory, with sources that fail.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use greylag_actors::planner::port::{SubqueryOpener, SubqueryPlan};
use greylag_engine::EngineConfig;
use greylag_protocol::{
    ErrorCode, MeshError, Result,
    schema::Dialect::{DataFusion, Sqlite},
    statement::BatchStream,
};

use crate::{
    compare::rows,
    data::{TPCH_NAMES, odd, tpch},
    world::{Counted, World},
};

const JOIN: &str = "select c_name, count(*), sum(o_totalprice) from customer join orders on c_custkey = o_custkey \
                    where c_custkey < (select max(n_nationkey) * 10 from nation) group by c_name order by c_name";

fn two() -> World {
    World::new(&[("shop", Sqlite, &tpch(&["customer", "nation"])), ("lake", DataFusion, &tpch(&["orders"]))])
}

#[tokio::test]
async fn nothing_is_opened_before_the_first_poll() {
    let world = two();
    let plan = world.plan(JOIN).await.unwrap();
    let batches = plan.execute(world.opener()).unwrap();
    assert!(world.take_opened().is_empty());
    drop(batches);
    assert!(world.take_opened().is_empty());
}

#[tokio::test]
async fn a_plan_runs_again_from_the_start() {
    let world = two();
    let plan = world.plan(JOIN).await.unwrap();
    let expected = rows(&world.expected(JOIN).await.unwrap());
    for _ in 0..3 {
        let answer: Vec<RecordBatch> = plan.execute(world.opener()).unwrap().try_collect().await.unwrap();
        assert_eq!(rows(&answer), expected);
        let mut opened = world.take_opened();
        let mut known: Vec<String> = plan.subqueries().into_iter().map(|s| s.sql).collect();
        opened.sort();
        known.sort();
        assert_eq!(opened, known);
    }
    let (one, two) = (plan.execute(world.opener()).unwrap(), plan.execute(world.opener()).unwrap());
    let (one, two): (Vec<RecordBatch>, Vec<RecordBatch>) =
        futures::try_join!(one.try_collect(), two.try_collect()).unwrap();
    assert_eq!((rows(&one), rows(&two)), (expected.clone(), expected));
}

#[tokio::test]
async fn build_sides_and_scalar_sub_queries_block() {
    let world = two();
    let plan = world.plan(JOIN).await.unwrap();
    let blocks: Vec<(String, bool)> = plan.subqueries().into_iter().map(|s| (s.sql, s.blocks_consumer)).collect();
    for (sql, blocks) in blocks {
        assert_eq!(blocks, !sql.contains("\"orders\""), "{sql}");
    }
    let plain = world.plan("select o_orderkey from orders").await.unwrap();
    assert!(!plain.subqueries()[0].blocks_consumer);
}

/// Endless batches that count how many of them have been taken and how many streams are open.
struct Endless {
    open: Arc<AtomicUsize>,
}

#[async_trait]
impl SubqueryOpener for Endless {
    async fn open(&self, subquery: &SubqueryPlan) -> Result<BatchStream> {
        let guard = Counted::new(&self.open);
        let batch = RecordBatch::new_empty(Arc::clone(&subquery.schema));
        let columns =
            batch.schema().fields().iter().map(|f| arrow::array::new_null_array(f.data_type(), 100)).collect();
        let nullable: Vec<_> = batch.schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        let batch = RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(nullable)), columns).unwrap();
        let endless = stream::unfold((guard, batch), |(guard, batch)| async move {
            tokio::task::yield_now().await;
            Some((Ok(batch.clone()), (guard, batch)))
        });
        Ok(endless.boxed())
    }
}

#[tokio::test]
async fn dropping_the_stream_stops_everything() {
    let world = World::new(&[("one", Sqlite, &[odd()])]);
    for sql in [
        "select n from odd",
        "select n, count(*) from odd where upper(t) is null group by n",
        "select a.t from odd a left join odd b on a.n = b.s union all select t from odd",
        "select t from odd order by f",
    ] {
        let open = Arc::new(AtomicUsize::new(0));
        let mut batches =
            world.plan(sql).await.unwrap().execute(Arc::new(Endless { open: Arc::clone(&open) })).unwrap();
        // Long enough for every scan of a plan that never ends to be at work.
        for _ in 0..200 {
            let _ = futures::poll!(batches.next());
            tokio::task::yield_now().await;
        }
        assert!(open.load(Ordering::SeqCst) > 0, "{sql}");
        drop(batches);
        while open.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    }
}

struct Failing(ErrorCode);

#[async_trait]
impl SubqueryOpener for Failing {
    async fn open(&self, _: &SubqueryPlan) -> Result<BatchStream> {
        Err(MeshError::new(self.0, "no luck"))
    }
}

#[tokio::test]
async fn a_sources_error_comes_out_as_it_is() {
    let world = two();
    for sql in [
        JOIN,
        "select * from orders",
        "select count(*) from orders group by o_clerk",
        "select (select max(n_nationkey) from nation)",
    ] {
        for code in [ErrorCode::SubqueryLost, ErrorCode::SourceBusy, ErrorCode::Cancelled] {
            let plan = world.plan(sql).await.unwrap();
            let outcome: Result<Vec<RecordBatch>> = plan.execute(Arc::new(Failing(code))).unwrap().try_collect().await;
            assert_eq!(outcome.unwrap_err(), MeshError::new(code, "no luck"), "{sql}");
        }
    }
}

#[tokio::test]
async fn a_query_over_its_memory_fails_by_name_or_spills() {
    let config = |spill_dir| EngineConfig {
        query_memory_bytes_max: 3 << 20,
        spill_dir,
        target_partitions: 1,
        ..EngineConfig::default()
    };
    let tables = tpch(&TPCH_NAMES);
    let sort = "select l_comment, l_orderkey from lineitem order by l_comment, l_orderkey";
    let build = "select count(*) from lineitem a join lineitem b on a.l_comment = b.l_comment";
    let split = [("shop", DataFusion, &tables[..])];

    let strict = World::with_config(&split, config(None));
    for sql in [sort, build] {
        let error = strict.answer(sql).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Memory, "{sql}: {error}");
        assert_eq!(strict.engine.memory_used(), 0);
    }
    assert_eq!(strict.answer("select count(*) from lineitem").await.unwrap().len(), 1, "others go on");

    let dir = tempfile::tempdir().unwrap();
    let spilling = World::with_config(&split, config(Some(dir.path().join("spill"))));
    let answer = spilling.answer(sort).await.unwrap();
    assert_eq!(rows(&answer), rows(&spilling.expected(sort).await.unwrap()));
    assert_eq!(spilling.engine.memory_used(), 0);
}

#[tokio::test]
async fn the_nodes_memory_is_shared_by_its_queries() {
    let tables = tpch(&["lineitem"]);
    let config = EngineConfig {
        query_memory_bytes_max: 1 << 30,
        node_memory_bytes_max: 1 << 20,
        target_partitions: 1,
        ..EngineConfig::default()
    };
    let world = World::with_config(&[("lake", DataFusion, &tables[..])], config);
    let error = world.answer("select l_comment from lineitem order by l_comment").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Memory, "{error}");
}
