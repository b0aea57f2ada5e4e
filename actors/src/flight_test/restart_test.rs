//! Edges die in the middle; the rows are the same, each once, or there is a prompt error that says who was lost.

use std::sync::atomic::Ordering;

use greylag_protocol::{ErrorCode, state::Role};
use tokio::task::JoinHandle;

use super::{source::Act, *};

const ROWS: u64 = 5_000;

/// Every way for an edge to lose a sub-query in the middle.
fn ways(after: u64) -> [Act; 2] {
    [Act::FailAfter(after, transient()), Act::PanicAfter(after)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_back_result_is_made_again_at_another_edge() {
    let world = World::with_edges(2, ROWS, Limits::default()).await;
    for (after, rule) in [(0, "R0"), (2_500, "R1"), (ROWS, "R1")] {
        for (way, sql) in ways(after).into_iter().zip(["stream a", "collect a"]) {
            for edge in [1, 2] {
                world.source.tell(edge, way.clone());
            }
            // Both edges have been told to fail once, so this takes three attempts.
            let batches = world.rows(&anybody(), sql).await.unwrap();
            assert_eq!(multiset(&batches), whole(ROWS, 1), "{way:?} {sql}");
            let attempts = world.attempts().await;
            let last: Vec<&str> = attempts[..3].iter().map(|(rule, _)| rule.as_str()).collect();
            assert_eq!(last, [rule, rule, "first"], "{way:?}");
            assert_eq!(attempts[0].1, "done");
            assert_eq!(attempts[1].1, "failed");
        }
    }
    let asked = world.source.asked();
    assert!(asked.chunks(3).all(|edges| edges[0] != edges[1]), "another edge is tried first: {asked:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_were_used_but_have_not_left_restart_the_query() {
    let world = World::with_edges(2, ROWS, window(1 << 10)).await;
    for way in ways(2_500) {
        for edge in [1, 2] {
            world.source.tell(edge, way.clone());
        }
        let batches = world.rows(&anybody(), "collect a").await.unwrap();
        assert_eq!(multiset(&batches), whole(ROWS, 1), "{way:?}");
        let attempts = world.attempts().await;
        assert_eq!(attempts[0], ("R5".to_owned(), "done".to_owned()));
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_were_used_are_proved_to_come_again_and_left_out() {
    let world = World::with_edges(2, 200_000, window(1 << 10)).await;
    world.source.one_order.store(true, Ordering::SeqCst);
    for (way, sql) in ways(100_000).into_iter().zip(["stream a", "collect a"]) {
        for edge in [1, 2] {
            world.source.tell(edge, way.clone());
        }
        let batches = world.rows(&anybody(), sql).await.unwrap();
        assert_eq!(multiset(&batches), whole(200_000, 1), "{way:?} {sql}");
        let attempts = world.attempts().await;
        let last: Vec<&str> = attempts[..3].iter().map(|(rule, _)| rule.as_str()).collect();
        assert_eq!(last, ["R3", "R3", "first"], "{way:?}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_in_the_order_of_a_key_go_on_after_the_last_one_while_the_content_is_the_same() {
    const MANY: u64 = 200_000;
    let mut world = World::with_edges(2, MANY, window(1 << 10)).await;
    let source = world.source.clone();
    source.one_order.store(true, Ordering::SeqCst);
    let named = |name: Option<&str>| *source.snapshot.lock().unwrap() = name.map(Into::into);
    for (content, rule) in [(Some("1"), "R2"), (None, "R3")] {
        named(content);
        for way in ways(100_000) {
            let before = world.source.produced.load(Ordering::SeqCst);
            [1, 2].iter().for_each(|edge| world.source.tell(*edge, way.clone()));
            let batches = world.rows(&anybody(), "keyed a").await.unwrap();
            assert_eq!(in_order(&batches), (0..MANY as i64).collect::<Vec<_>>(), "{way:?}");
            let rules: Vec<String> = world.attempts().await.into_iter().map(|(rule, _)| rule).collect();
            assert_eq!(rules[..3], [rule, rule, "first"], "{way:?}");
            let read = world.source.produced.load(Ordering::SeqCst) - before;
            assert_eq!(read < MANY + MANY / 4, rule == "R2", "{read} rows were read");
        }
    }
    // Between two attempts the content becomes another: what was read before is proved to be there still.
    named(Some("1"));
    world.source.tell(1, Act::HangAfter(100_000));
    world.source.tell(2, Act::HangAfter(100_000));
    let running = world.run(&anybody(), "keyed a").await.unwrap();
    let reading = tokio::spawn(read(running));
    hangs(&world).await;
    named(Some("2"));
    let hung = *world.source.asked().last().unwrap();
    world.source.forget();
    let node = world.nodes[hung].take().unwrap();
    node.ctx().mesh.shutdown().await;
    let batches = reading.await.unwrap().unwrap();
    assert_eq!(in_order(&batches), (0..MANY as i64).collect::<Vec<_>>());
    assert_eq!(world.attempts().await[0], ("R3".to_owned(), "done".to_owned()));
    node.shutdown().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_have_left_come_again_at_the_edge_that_gave_them() {
    // Each edge has an order of its own: only the first one can go on where it was lost.
    let world = World::with_edges(2, 200_000, window(1 << 10)).await;
    world.source.tell(1, Act::FailAfter(100_000, transient()));
    world.source.tell(2, Act::FailAfter(100_000, transient()));
    assert_eq!(multiset(&world.rows(&anybody(), "stream a").await.unwrap()), whole(200_000, 1));
    let rules: Vec<String> = world.attempts().await.into_iter().map(|(rule, _)| rule).collect();
    assert_eq!(rules[..3], ["R5", "R3", "first"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_have_left_and_cannot_come_again_lead_to_an_error_that_names_who() {
    let mut world = World::with_edges(2, 200_000, window(1 << 10)).await;
    for edge in [1, 2] {
        world.source.tell(edge, Act::HangAfter(100_000));
    }
    let running = world.run(&anybody(), "stream a").await.unwrap();
    let reading = tokio::spawn(async move { timed(read(running)).await });
    hangs(&world).await;
    let first = world.source.asked()[0];
    world.source.forget();
    let node = world.nodes[first].take().unwrap();
    node.ctx().mesh.shutdown().await;
    let (outcome, took) = tokio::time::timeout(PATIENCE, reading).await.expect("it hangs").unwrap();
    let error = outcome.unwrap_err();
    assert_eq!((error.code, error.source.as_ref().unwrap().as_str()), (ErrorCode::SubqueryLost, "a"), "{error}");
    assert!(error.node.is_some(), "{error}");
    assert!(error.is_retryable() && took < Duration::from_secs(8), "{error} after {took:?}");
    // Delivered in one piece the same statement survives it.
    assert_eq!(multiset(&world.rows(&spooled(), "stream a").await.unwrap()), whole(200_000, 1));
    node.shutdown().await;
    world.stop().await;
}

/// Starts a statement whose sub-query hangs after half of its rows wherever it goes first, on either edge; says where
/// it hangs now.
async fn hang_in_the_middle(world: &World, session: Session, sql: &'static str) -> (usize, JoinHandle<Outcome>) {
    for edge in [1, 2] {
        world.source.tell(edge, Act::HangAfter(ROWS / 2));
    }
    let statements = world.statements();
    let running = tokio::spawn(async move { read(statements.execute(&session, sql, None).await?).await });
    hangs(world).await;
    (world.source.asked()[0], running)
}

type Outcome = Result<Vec<RecordBatch>>;

async fn hangs(world: &World) {
    tokio::time::timeout(PATIENCE, world.source.hanging.notified()).await.expect("no edge was asked");
}

fn kill_edge(world: &World, which: usize) {
    let role = Role::Edge(SourceName::new("a").unwrap());
    world.node(which).ctx().directory.actor(&role).unwrap().kill();
}

async fn outcome(running: JoinHandle<Outcome>) -> Outcome {
    tokio::time::timeout(PATIENCE, running).await.expect("it hangs").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edges_actor_is_killed_in_the_middle() {
    let world = World::with_edges(2, ROWS, Limits::default()).await;
    let (first, running) = hang_in_the_middle(&world, anybody(), "stream a").await;
    kill_edge(&world, first);
    hangs(&world).await;
    assert_eq!(world.source.asked(), [first, 3 - first]);
    kill_edge(&world, 3 - first);
    assert_eq!(multiset(&outcome(running).await.unwrap()), whole(ROWS, 1));
    until("nothing is left of the killed ones", || world.source.live() == 0).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edges_node_goes_in_the_middle() {
    for (session, sql, hold, rule) in [
        (anybody(), "stream a", Limits::default(), "R1"),
        (spooled(), "stream a", window(1 << 10), "R1"),
        (anybody(), "build a", window(1 << 10), "R1"),
        (anybody(), "collect a", window(1 << 10), "R3"),
    ] {
        let mut world = World::with_edges(2, ROWS, hold).await;
        world.source.one_order.store(true, Ordering::SeqCst);
        let (first, running) = hang_in_the_middle(&world, session, sql).await;
        let node = world.nodes[first].take().unwrap();
        let began = Instant::now();
        node.ctx().mesh.shutdown().await;
        hangs(&world).await;
        assert!(began.elapsed() < Duration::from_secs(3), "noticed after {:?}", began.elapsed());
        kill_edge(&world, 3 - first);
        assert_eq!(multiset(&outcome(running).await.unwrap()), whole(ROWS, 1), "{sql}");
        let attempts = world.attempts().await;
        assert!(attempts.iter().any(|(found, _)| found == rule), "{sql}: {attempts:?}");
        node.shutdown().await;
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_no_second_edge_there_is_a_prompt_error() {
    let mut world = World::with_edges(1, ROWS, Limits::default()).await;
    world.source.tell(1, Act::HangAfter(2_500));
    let statements = world.statements();
    let running = tokio::spawn(async move { read(statements.execute(&anybody(), "stream a", None).await?).await });
    hangs(&world).await;
    let node = world.nodes[1].take().unwrap();
    let id = node.ctx().node;
    let began = Instant::now();
    node.ctx().mesh.shutdown().await;
    let error = outcome(running).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5), "told after {:?}", began.elapsed());
    assert!([ErrorCode::PeerUnreachable, ErrorCode::NoEdge].contains(&error.code), "{error}");
    assert_eq!(error.source.as_ref().unwrap().as_str(), "a");
    assert!(error.node.is_none_or(|node| node == id), "{error}");
    node.shutdown().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_never_work_is_tried_once() {
    let world = World::with_edges(2, ROWS, Limits::default()).await;
    for code in [ErrorCode::SourceRefused, ErrorCode::ValueOutOfRange, ErrorCode::UnsupportedType] {
        let before = world.source.asked().len();
        for edge in [1, 2] {
            world.source.tell(edge, Act::FailAfter(10, MeshError::new(code, "never")));
        }
        let error = world.rows(&anybody(), "stream a").await.unwrap_err();
        assert_eq!((error.code, error.source.as_ref().unwrap().as_str()), (code, "a"));
        assert!(error.node.is_some() && error.message.contains("never"), "{error}");
        assert_eq!(world.source.asked().len(), before + 1);
        world.source.forget();
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_are_bounded_and_a_busy_source_is_asked_again() {
    let world = World::with_edges(1, ROWS, Limits::default()).await;
    let busy = MeshError::new(ErrorCode::SourceBusy, "full");
    world.source.tell(1, Act::FailAtOnce(busy.clone()));
    world.source.tell(1, Act::FailAtOnce(busy));
    assert_eq!(multiset(&world.rows(&anybody(), "stream a").await.unwrap()), whole(ROWS, 1));
    let before = world.source.asked().len();
    for _ in 0..20 {
        world.source.tell(1, Act::FailAfter(0, transient()));
    }
    let error = world.rows(&anybody(), "stream a").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SourceUnreachable);
    assert_eq!(world.source.asked().len() - before, Limits::default().subquery_attempts_max as usize);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_back_is_found_again() {
    let world = World::with_edges(1, 1_000, Limits::default()).await;
    // Five open the circuit, the others try after a rest each.
    for _ in 0..8 {
        world.source.tell(1, Act::FailAtOnce(transient()));
    }
    assert_eq!(multiset(&world.rows(&anybody(), "stream a").await.unwrap()), whole(1_000, 1));
    let circuits = world.rows(&anybody(), "system circuits").await.unwrap();
    assert_eq!(circuits.iter().map(RecordBatch::num_rows).sum::<usize>(), 0, "it has answered since");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_down_is_left_alone() {
    const STATEMENTS: usize = 8;
    let limits = Limits::default();
    let world = World::with_edges(1, 1_000, limits.clone()).await;
    (0..1_000).for_each(|_| world.source.tell(1, Act::FailAtOnce(transient())));
    let session = anybody();
    let statements = (0..STATEMENTS).map(|_| world.rows(&session, "stream a"));
    for outcome in futures::future::join_all(statements).await {
        let error = outcome.unwrap_err();
        assert!(error.is_retryable() && error.source.is_some(), "{error}");
    }
    let (asked, each) = (world.source.asked().len(), limits.subquery_attempts_max as usize);
    assert!(asked < STATEMENTS * each / 2, "it was asked {asked} times");
    let circuits = world.rows(&anybody(), "system circuits").await.unwrap();
    assert_eq!(circuits.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    let (late, took) = timed(world.rows(&anybody(), "stream a")).await;
    assert!(late.unwrap_err().is_retryable());
    assert!(took < Duration::from_secs(3), "whoever comes late waits no longer than those before: {took:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_lost_connection_the_edge_goes_on_with_its_answer() {
    const MANY: u64 = 100_000;
    let world = World::with_edges(1, MANY, window(1 << 10)).await;
    for (after, mesh_of) in [(3, 0), (200, 1)] {
        let before = world.source.asked().len();
        let mut running = world.run(&anybody(), "stream a").await.unwrap();
        let mut batches = Vec::new();
        while batches.len() < after {
            batches.push(running.batches.next().await.unwrap().unwrap());
        }
        // Either end may be the first to know.
        let (mesh, peer) = (&world.node(mesh_of).ctx().mesh, world.id(1 - mesh_of));
        mesh.reconnect(peer);
        batches.extend(read(running).await.unwrap());
        assert_eq!(multiset(&batches), whole(MANY, 1));
        assert_eq!(world.source.asked().len(), before + 1, "the source was asked once");
        let attempts = world.attempts().await;
        assert_eq!(attempts[0], ("R4".to_owned(), "done".to_owned()));
        until("the source has stopped", || world.source.live() == 0).await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_nobody_comes_back_for_is_dropped_with_its_coordinator() {
    let mut world = World::with_edges(2, 100_000, window(1 << 10)).await;
    let mut running = world.run(&anybody(), "stream a").await.unwrap();
    running.batches.next().await.unwrap().unwrap();
    let gone = world.nodes[0].take().unwrap();
    let (_, took) = timed(async {
        gone.shutdown().await;
        gone.ctx().mesh.shutdown().await;
        until("the source has stopped", || world.source.live() == 0).await;
    })
    .await;
    assert!(took < crate::edge::parking::PARKED_MAX, "{took:?}");
    drop(running);
    drop(gone);
    world.stop().await;
}
