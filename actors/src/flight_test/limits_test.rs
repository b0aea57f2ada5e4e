//! What bounds a statement: time, its reader, its memory, and the statements beside it.

use std::sync::atomic::Ordering;

use greylag_protocol::{ErrorCode, QueryId};

use super::{source::Act, *};
use crate::coordinator::Coordinator;

/// Longest time until a source hears that nobody wants its rows.
const PROMPT: Duration = Duration::from_secs(1);

async fn cancelled_promptly(world: &World, began: Instant) {
    until("the source was told to stop", || !world.source.cancelled().is_empty()).await;
    let took = world.source.cancelled()[0].saturating_duration_since(began);
    assert!(took < PROMPT, "told after {took:?}");
    until("the source has stopped", || world.source.live() == 0).await;
}

/// A statement of which the remote edge sends some rows and then hangs.
async fn hanging(act: Act) -> (World, RunningStatement) {
    let world = World::with_edges(1, 100_000, window(1 << 10)).await;
    world.source.tell(1, act);
    let running = world.run(&anybody(), "stream a").await.unwrap();
    tokio::time::timeout(PATIENCE, world.source.hanging.notified()).await.expect("no edge was asked");
    (world, running)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_reaches_the_source() {
    for act in [Act::HangAtOnce, Act::HangAfter(5_000)] {
        let (world, running) = hanging(act).await;
        let query = running.query;
        let other = session("eve", &[], options());
        assert_eq!(world.statements().cancel(&other, query).await.unwrap_err().code, ErrorCode::Denied);
        assert!(!world.statements().cancel(&anybody(), QueryId(uuid::Uuid::nil())).await.unwrap());
        assert!(world.source.cancelled().is_empty());
        let began = Instant::now();
        // Through the other node's coordinator: it passes the word on.
        assert!(world.node(1).statements().cancel(&anybody(), query).await.unwrap());
        assert_eq!(read(running).await.unwrap_err().code, ErrorCode::Cancelled);
        cancelled_promptly(&world, began).await;
        assert!(!world.statements().cancel(&admin(), query).await.unwrap(), "it has ended");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_away_stops_the_source() {
    for act in [Act::HangAtOnce, Act::HangAfter(5_000)] {
        let (world, running) = hanging(act).await;
        let began = Instant::now();
        drop(running);
        cancelled_promptly(&world, began).await;
        let states = world.attempts().await;
        assert_eq!(states, [("first".to_owned(), "cancelled".to_owned())]);
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_the_statement_and_the_source() {
    for act in [Act::HangAtOnce, Act::HangAfter(5_000)] {
        let world = World::with_edges(1, 100_000, window(1 << 10)).await;
        world.rows(&anybody(), "some a 1").await.unwrap();
        until("that has ended", || world.source.live() == 0).await;
        let before = world.source.cancelled().len();
        world.source.tell(1, act);
        let limit = Duration::from_millis(700);
        let hurried = session("ada", &[], SessionOptions { timeout: Some(limit), ..options() });
        let began = Instant::now();
        let error = world.rows(&hurried, "stream a").await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Deadline);
        assert!((limit..limit + PROMPT).contains(&began.elapsed()), "{:?}", began.elapsed());
        until("the source was told", || world.source.cancelled().len() > before).await;
        let took = world.source.cancelled()[before].saturating_duration_since(began);
        assert!(took < limit + PROMPT, "{took:?}");
        until("the source has stopped", || world.source.live() == 0).await;
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_the_source_back() {
    const ROWS: u64 = 2_000_000;
    let world = World::with_edges(1, ROWS, window(64 << 10)).await;
    for node in [0, 1] {
        let before = world.source.produced.load(Ordering::SeqCst);
        let mut running = world.node(node).statements().execute(&anybody(), "stream a", None).await.unwrap();
        running.batches.next().await.unwrap().unwrap();
        // Wait until nothing moves any more.
        let mut last = u64::MAX;
        loop {
            let now = world.source.produced.load(Ordering::SeqCst);
            if now == last {
                break;
            }
            last = now;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let ahead = last - before;
        assert!(ahead < ROWS / 2, "{ahead} rows were read ahead of the reader on node {node}");
        // And then all of them come.
        let mut batches = 1;
        while let Some(batch) = running.batches.next().await {
            batch.unwrap();
            batches += 1;
        }
        assert_eq!(batches, ROWS / u64::from(BATCH_ROWS));
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_back_over_the_share_waits_on_disk() {
    let limits = Limits { query_memory_bytes_max: 64 << 10, ..Limits::default() };
    let world = World::with_edges(1, 100_000, limits).await;
    for (session, sql) in [(spooled(), "stream a"), (anybody(), "build a")] {
        let rows = world.rows(&session, sql).await.unwrap();
        assert_eq!(multiset(&rows), whole(100_000, 1), "{sql}");
    }
    let ctx = world.node(0).ctx();
    let spilled = ctx.bounds.rows(ctx.node).into_iter().find(|row| row.name == "limits.spill_bytes_max").unwrap();
    assert!(spilled.peak > 64 << 10, "{spilled:?}");
    until("the disk is free again", || ctx.spill.used() == 0 && ctx.held.used() == 0).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spooling_more_than_there_is_room_for_fails_by_name() {
    let limits = Limits { query_memory_bytes_max: 64 << 10, spill_bytes_max: 64 << 10, ..Limits::default() };
    let world = World::with_edges(1, 100_000, limits).await;
    let error = world.rows(&spooled(), "stream a").await.unwrap_err();
    assert_eq!((error.code, error.source.as_ref().unwrap().as_str()), (ErrorCode::DiskFull, "a"));
    assert_eq!(world.source.asked().len(), 1, "it would not fit the next time either");
    // A build side that does not fit is let through instead.
    assert_eq!(multiset(&world.rows(&anybody(), "build a").await.unwrap()), whole(100_000, 1));
    until("the source has stopped", || world.source.live() == 0).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admission_queues_and_then_refuses() {
    let limits = Limits { running_statements_max: 1, queue_statements_max: 1, ..Limits::default() };
    let world = World::with_edges(1, 1_000, limits).await;
    world.source.tell(1, Act::HangAfter(10));
    let first = world.run(&anybody(), "stream a").await.unwrap();
    tokio::time::timeout(PATIENCE, world.source.hanging.notified()).await.expect("no edge was asked");
    let statements = world.statements();
    let second = tokio::spawn(async move { read(statements.execute(&anybody(), "stream a", None).await?).await });
    let coordinator = world.node(0).ctx().directory.handle::<Coordinator>(&Role::Coordinator).unwrap();
    until("the second waits", || coordinator.load() == (1, 1)).await;
    let refused = world.run(&anybody(), "stream a").await;
    assert_eq!(refused.err().unwrap().code, ErrorCode::QueueFull);
    drop(first);
    let rows = tokio::time::timeout(PATIENCE, second).await.expect("it never got in").unwrap().unwrap();
    assert_eq!(multiset(&rows), whole(1_000, 1));
    until("no slot is kept", || coordinator.load() == (0, 0)).await;
    drop(coordinator);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_takes_so_many_at_once_and_the_rest_in_turn() {
    let limits = Limits { edge_subqueries_max: 2, running_statements_max: 16, ..Limits::default() };
    let world = World::with_edges(1, 2_000, limits).await;
    let session = anybody();
    let eight = (0..8).map(|_| world.rows(&session, "stream a"));
    for rows in futures::future::join_all(eight).await {
        assert_eq!(multiset(&rows.unwrap()), whole(2_000, 1));
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_dies_tells_its_readers_and_comes_back() {
    let (world, running) = hanging(Act::HangAfter(5_000)).await;
    let began = Instant::now();
    world.node(0).ctx().directory.actor(&Role::Coordinator).unwrap().kill();
    let error = read(running).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Internal, "{error}");
    cancelled_promptly(&world, began).await;
    assert_eq!(multiset(&world.rows(&anybody(), "stream a").await.unwrap()), whole(100_000, 1));
    world.stop().await;
}
