//! How queries end when they do not end by themselves: cancelled, dropped, out of time, or with the server dying.

use std::time::{Duration, Instant};

use arrow::datatypes::DataType;
use futures::StreamExt;
use greylag_actors::edge::port::ConnectorQuery;
use greylag_protocol::{ErrorClass, ErrorCode};

use super::{Fixture, failure, query, schema_of};

/// Long enough to be seen at work, short enough that a test that fails ends.
const SLEEP: &str = "SELECT pg_sleep(30)::text";
/// More than any socket buffer holds.
const ENDLESS: &str = "SELECT generate_series(1::int8, 1000000000)";
/// The server must have stopped by then.
const STOPPED_WITHIN: Duration = Duration::from_secs(1);

fn labelled(sql: &str, label: &str, data_type: DataType) -> ConnectorQuery {
    ConnectorQuery { label: label.into(), ..query(sql, schema_of(&[data_type])) }
}

impl Fixture {
    /// Backends at work on statements with this label.
    async fn active(&self, label: &str) -> Vec<i32> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE '/* ' || $1 || ' */%'";
        self.admin.query(sql, &[&label]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    async fn wait_until(&self, label: &str, at_work: bool, within: Duration) {
        let start = Instant::now();
        while self.active(label).await.is_empty() == at_work {
            assert!(start.elapsed() < within, "`{label}` should {}be at work", if at_work { "" } else { "not " });
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_query_stops_in_the_server() {
    let Some(fixture) = Fixture::with("cancel", "", &[("connections_max", "1")]).await else { return };
    let sleeping = labelled(SLEEP, "cancel-me", DataType::Utf8);
    let (token, connector) = (sleeping.cancel.clone(), fixture.connector.clone());
    let running = tokio::spawn(async move { failure(&connector, sleeping).await });
    fixture.wait_until("cancel-me", true, Duration::from_secs(10)).await;
    token.cancel();
    assert_eq!(running.await.unwrap().code, ErrorCode::Cancelled);
    fixture.wait_until("cancel-me", false, STOPPED_WITHIN).await;
    // The one connection there is comes back, and nothing of the cancel sticks to it.
    for _ in 0..20 {
        let rows = fixture.rows("SELECT 1", schema_of(&[DataType::Int32])).await.unwrap();
        assert_eq!(rows[0].num_rows(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_query_stops_in_the_server() {
    let Some(fixture) = Fixture::with("dropped", "", &[("connections_max", "1")]).await else { return };
    let connector = fixture.connector.clone();
    let waiting =
        tokio::spawn(async move { connector.query(labelled(SLEEP, "drop-before", DataType::Utf8)).await.is_ok() });
    fixture.wait_until("drop-before", true, Duration::from_secs(10)).await;
    waiting.abort();
    fixture.wait_until("drop-before", false, STOPPED_WITHIN).await;

    // In the middle of the rows, with the server blocked on a full socket.
    let mut stream = fixture.connector.query(labelled(ENDLESS, "drop-among", DataType::Int64)).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().num_rows(), 1024);
    fixture.wait_until("drop-among", true, Duration::from_secs(10)).await;
    drop(stream);
    fixture.wait_until("drop-among", false, STOPPED_WITHIN).await;
    assert_eq!(fixture.rows("SELECT 1", schema_of(&[DataType::Int32])).await.unwrap()[0].num_rows(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_out_of_time_stops_in_the_server() {
    let Some(fixture) = Fixture::new("late", "").await else { return };
    for (sql, label, data_type) in [(SLEEP, "late-before", DataType::Utf8), (ENDLESS, "late-among", DataType::Int64)] {
        let start = Instant::now();
        let late = ConnectorQuery { timeout: Duration::from_millis(300), ..labelled(sql, label, data_type) };
        assert_eq!(failure(&fixture.connector, late).await.code, ErrorCode::Deadline);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        fixture.wait_until(label, false, STOPPED_WITHIN).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_backend_is_an_error_and_never_a_short_result() {
    let Some(fixture) = Fixture::new("killed", "").await else { return };
    for batches_before in [0usize, 1, 50] {
        let label = format!("kill-after-{batches_before}");
        let mut stream = fixture.connector.query(labelled(ENDLESS, &label, DataType::Int64)).await.unwrap();
        for _ in 0..batches_before {
            stream.next().await.unwrap().unwrap();
        }
        fixture.wait_until(&label, true, Duration::from_secs(10)).await;
        let pids = fixture.active(&label).await;
        assert_eq!(pids.len(), 1);
        let killed: bool =
            fixture.admin.query_one("SELECT pg_terminate_backend($1)", &[&pids[0]]).await.unwrap().get(0);
        assert!(killed);
        let error = loop {
            match stream.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("a short result"),
            }
        };
        assert_eq!(error.code, ErrorCode::SourceUnreachable, "{error}");
        assert_eq!(error.class(), ErrorClass::Transient);
        assert!(stream.next().await.is_none(), "nothing comes after an error");
    }
    assert_eq!(fixture.rows("SELECT 1", schema_of(&[DataType::Int32])).await.unwrap()[0].num_rows(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_that_died_are_replaced() {
    let Some(fixture) = Fixture::with("idle", "", &[("connections_max", "1")]).await else { return };
    for _ in 0..3 {
        let label = "idle-then-dead";
        let one = labelled("SELECT 1", label, DataType::Int32);
        assert_eq!(fixture.connector.query(one).await.unwrap().next().await.unwrap().unwrap().num_rows(), 1);
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
            WHERE state = 'idle' AND query LIKE '/* idle-then-dead */%'";
        let killed: i64 = fixture.admin.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(killed, 1);
        let gone = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '/* idle-then-dead */%'";
        while fixture.admin.query_one(gone, &[]).await.unwrap().get::<_, i64>(0) > 0 {
            tokio::task::yield_now().await;
        }
    }
}
