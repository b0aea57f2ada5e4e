//! Names of what a query sees: the same name for the same content, another for any other, and none rather than a wrong one.

use std::time::Duration;

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::{DataType, Int64Type},
};
use futures::{StreamExt, TryStreamExt};
use greylag_actors::edge::port::EdgeRows;
use greylag_protocol::messages::edge::{AfterKey, Keyset};

use super::{Fixture, query, schema_of};

const SETUP: &str = "CREATE TABLE t (id int8 PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 20000); \
    CREATE TABLE other (id int8 PRIMARY KEY); CREATE VIEW v AS SELECT id FROM t; \
    CREATE TABLE parent (id int8 PRIMARY KEY); CREATE TABLE child () INHERITS (parent); \
    CREATE TABLE parts (id int8 PRIMARY KEY) PARTITION BY RANGE (id); \
    CREATE TABLE guarded (id int8 PRIMARY KEY); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY";
/// Nothing else may wait longer for a connection than this.
const PATIENCE: Duration = Duration::from_secs(10);

impl Fixture {
    fn keyset(&self, table: &str, after: Option<(i64, &str)>) -> Keyset {
        let after = after.map(|(key, snapshot)| AfterKey {
            sql: format!("SELECT id FROM {}.{table} WHERE id > {key} ORDER BY id", self.schema),
            snapshot: snapshot.to_owned(),
        });
        Keyset { schema: self.schema.clone(), table: table.to_owned(), after }
    }

    async fn open(&self, table: &str, after: Option<(i64, &str)>) -> EdgeRows {
        let sql = format!("SELECT id FROM {}.{table} ORDER BY id", self.schema);
        let opening =
            self.connector.query_by_key(query(&sql, schema_of(&[DataType::Int64])), self.keyset(table, after));
        tokio::time::timeout(PATIENCE, opening).await.expect("no connection").unwrap()
    }

    /// The ids that come, their name, and whether they are those after the key only.
    async fn ids(&self, table: &str, after: Option<(i64, &str)>) -> (Vec<i64>, Option<String>, bool) {
        let EdgeRows { rows, snapshot, after_key } = self.open(table, after).await;
        let batches: Vec<RecordBatch> = rows.try_collect().await.unwrap();
        let ids = batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        (ids, snapshot, after_key)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_content_has_the_same_name_and_goes_on_after_a_key() {
    let Some(fixture) = Fixture::with("snapshot_same", SETUP, &[("connections_max", "1")]).await else { return };
    let all: Vec<i64> = (1..=20_000).collect();
    let (ids, name, _) = fixture.ids("t", None).await;
    // Other sessions of this server may write at any time, and then it has another name: not here.
    let (first, name) = (ids, name.expect("no name"));
    assert_eq!(first, all);
    let (mut went_on, mut tries) = (false, 0);
    let mut name = name;
    while !went_on && tries < 100 {
        let (ids, newer, after_key) = fixture.ids("t", Some((19_990, &name))).await;
        assert_eq!(after_key, newer.as_ref() == Some(&name));
        assert_eq!(ids, if after_key { &all[19_990..] } else { &all[..] });
        (went_on, name, tries) = (after_key, newer.unwrap(), tries + 1);
    }
    assert!(went_on, "never the same name twice in a row");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_change_gives_another_name() {
    let Some(fixture) = Fixture::with("snapshot_other", SETUP, &[("connections_max", "1")]).await else { return };
    let mut name = fixture.ids("t", None).await.1.unwrap();
    for change in [
        "INSERT INTO t VALUES (30000)",
        "UPDATE t SET id = 30001 WHERE id = 30000",
        "DELETE FROM t WHERE id = 30001",
        "TRUNCATE t",
        "INSERT INTO t SELECT generate_series(1, 50)",
        "CLUSTER t USING t_pkey",
        "INSERT INTO other VALUES (1)",
    ] {
        fixture.admin.batch_execute(change).await.unwrap();
        let (ids, newer, after_key) = fixture.ids("t", Some((7, &name))).await;
        assert!(!after_key, "{change}");
        let sql = format!("SELECT id FROM {}.t ORDER BY id", fixture.schema);
        let expected: Vec<i64> = fixture.admin.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        assert_eq!(ids, expected, "{change}");
        name = newer.unwrap();
    }
    // What is not committed is not seen, under whatever name.
    fixture.admin.batch_execute("BEGIN; DELETE FROM t").await.unwrap();
    let (ids, before, _) = fixture.ids("t", None).await;
    assert_eq!(ids.len(), 50);
    fixture.admin.batch_execute("COMMIT").await.unwrap();
    let (ids, _, after_key) = fixture.ids("t", Some((7, &before.unwrap()))).await;
    assert_eq!((ids.len(), after_key), (0, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_not_rewritten_while_it_is_read_under_a_name() {
    let Some(fixture) = Fixture::with("snapshot_lock", SETUP, &[("connections_max", "1")]).await else { return };
    fixture.admin.batch_execute("INSERT INTO t SELECT generate_series(20001, 2000000)").await.unwrap();
    let mut open = fixture.open("t", None).await;
    assert!(open.snapshot.is_some());
    open.rows.next().await.unwrap().unwrap();
    let rewriting = "SET lock_timeout = '200ms'; TRUNCATE t";
    let refused = fixture.admin.batch_execute(rewriting).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "55P03", "{refused}");
    // Given up in the middle, the one connection comes back, and holds nothing.
    drop(open);
    fixture.admin.batch_execute("SET lock_timeout = '10s'; TRUNCATE t").await.unwrap();
    assert!(fixture.ids("t", None).await.0.is_empty());
    let rows = fixture.rows("SELECT 1::int8", schema_of(&[DataType::Int64])).await.unwrap();
    assert_eq!(rows[0].num_rows(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_named_is_read_without_a_name() {
    let Some(fixture) = Fixture::with("snapshot_none", SETUP, &[("connections_max", "1")]).await else { return };
    for table in ["v", "parent", "parts", "guarded"] {
        let (ids, name, after_key) = fixture.ids(table, Some((7, "any"))).await;
        assert_eq!((name, after_key), (None, false), "{table}");
        assert_eq!(ids.len(), if table == "v" { 20_000 } else { 0 });
        // The transaction that was begun for the name is over: what is written now is seen by the next.
        fixture.admin.batch_execute("INSERT INTO other SELECT count(*) FROM other").await.unwrap();
        let sql = format!("SELECT count(*) FROM {}.other", fixture.schema);
        let rows = fixture.rows(&sql, schema_of(&[DataType::Int64])).await.unwrap();
        let expected: i64 = fixture.admin.query_one(&sql, &[]).await.unwrap().get(0);
        assert_eq!(rows[0].column(0).as_primitive::<Int64Type>().value(0), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_limits_hold_after_a_transaction_was_rolled_back() {
    let Some(fixture) = Fixture::with("snapshot_limit", SETUP, &[("connections_max", "1")]).await else { return };
    for _ in 0..3 {
        assert_eq!(fixture.ids("t", None).await.0.len(), 20_000);
        let sleep = "SELECT pg_sleep(20)::text";
        let short = greylag_actors::edge::port::ConnectorQuery {
            timeout: Duration::from_millis(300),
            ..query(sleep, schema_of(&[DataType::Utf8]))
        };
        let error = super::failure(&fixture.connector, short).await;
        assert_eq!(error.code, greylag_protocol::ErrorCode::Deadline, "{error}");
    }
}
