//! The suite over SQLite, and what no other source has: affinities, odd keys, locks, and the check of stored values.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{DataType, Date32Type, Decimal128Type, Field, Float64Type, Int64Type, Schema, TimeUnit},
    util::display::array_value_to_string,
};
use async_trait::async_trait;
use futures::TryStreamExt;
use greylag_actors::edge::port::{Connector, ConnectorQuery};
use greylag_protocol::{
    ErrorCode, Result, SourceName,
    schema::{NativeColumn, TableSchema},
    state::SourceSpec,
};
use rusqlite::{Connection, types::Value};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{SqliteConnector, validate};
use crate::conformance::{Fixture, Loss, Subject, conformance};

/// A database file of its own.
struct File {
    _dir: TempDir,
    path: PathBuf,
    opened: std::sync::Mutex<Option<Arc<SqliteConnector>>>,
}

impl File {
    /// With nothing in it, and no encoding chosen.
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("shop.sqlite");
        std::fs::write(&path, "").unwrap();
        Self { _dir: dir, path, opened: std::sync::Mutex::default() }
    }

    /// A file with these statements run in it.
    fn with(sql: &str) -> Self {
        let file = Self::new();
        file.write(sql);
        file
    }

    fn write(&self, sql: &str) {
        Connection::open(&self.path).unwrap().execute_batch(sql).unwrap();
    }

    fn spec(&self, options: &[(&str, &str)]) -> SourceSpec {
        spec(&[&[("path", self.path.to_str().unwrap())], options].concat())
    }

    async fn connect(&self, options: &[(&str, &str)]) -> Arc<SqliteConnector> {
        let spec = self.spec(options);
        Arc::new(SqliteConnector::connect(&spec, spec.options.clone()).await.unwrap())
    }
}

fn spec(options: &[(&str, &str)]) -> SourceSpec {
    SourceSpec {
        name: SourceName::new("shop").unwrap(),
        kind: "sqlite".into(),
        options: options.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        labels: BTreeMap::new(),
        replicas: 1,
    }
}

/// A table expression with the numbers from 1.
fn series(last: u32) -> String {
    format!(
        "(WITH RECURSIVE s(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM s WHERE value < {last}) SELECT * FROM s)"
    )
}

async fn fixture() -> Option<File> {
    Some(File::new())
}

conformance!(fixture);

#[async_trait]
impl Subject for File {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    async fn load(&self, fixture: Fixture) {
        let mut connection = Connection::open(&self.path).unwrap();
        let columns: Vec<String> = fixture.schema().fields().iter().enumerate().map(|(at, f)| column(at, f)).collect();
        let transaction = connection.transaction().unwrap();
        transaction.execute_batch(&format!("CREATE TABLE {} ({})", fixture.name(), columns.join(", "))).unwrap();
        let marks = vec!["?"; columns.len()].join(", ");
        let mut insert = transaction.prepare(&format!("INSERT INTO {} VALUES ({marks})", fixture.name())).unwrap();
        for batch in fixture.batches() {
            for row in 0..batch.num_rows() {
                insert.execute(rusqlite::params_from_iter(batch.columns().iter().map(|c| stored(c, row)))).unwrap();
            }
        }
        drop(insert);
        transaction.commit().unwrap();
    }

    async fn open(&self) -> Arc<dyn Connector> {
        let connector = self.connect(&[]).await;
        *self.opened.lock().unwrap() = Some(connector.clone());
        connector
    }

    fn table(&self, name: &str) -> String {
        format!("\"main\".\"{name}\"")
    }

    fn misfits(&self) -> Vec<(String, Field)> {
        let field = |name: &str, data_type| Field::new(name, data_type, true);
        let moment = DataType::Timestamp(TimeUnit::Microsecond, None);
        vec![
            ("SELECT 4242.5 AS whole".into(), field("whole", DataType::Int64)),
            ("SELECT 'x4242' AS whole".into(), field("whole", DataType::Int64)),
            ("SELECT 424242424242 AS small".into(), field("small", DataType::Int32)),
            ("SELECT 4242424242424242424 AS real".into(), field("real", DataType::Float64)),
            ("SELECT 4242 AS flag".into(), field("flag", DataType::Boolean)),
            ("SELECT '4242-4-2' AS day".into(), field("day", DataType::Date32)),
            ("SELECT '4242-04-02 25:00:00' AS moment".into(), field("moment", moment)),
            ("SELECT 42.4242 AS amount".into(), field("amount", DataType::Decimal128(15, 2))),
            ("SELECT x'4242' AS words".into(), field("words", DataType::Utf8)),
            ("SELECT CAST(x'4242ff' AS TEXT) AS words".into(), field("words", DataType::Utf8)),
            ("SELECT '4242' AS bytes".into(), field("bytes", DataType::Binary)),
            ("SELECT NULL AS id".into(), Field::new("id", DataType::Int64, false)),
        ]
    }

    fn endless(&self) -> String {
        "SELECT count(*) AS n FROM main.many a, main.many b WHERE a.words || b.words = 'x'".into()
    }

    fn huge(&self, bytes: usize) -> String {
        format!("SELECT replace(hex(zeroblob({})), '00', 'xx') AS words", bytes / 2)
    }

    fn writes(&self) -> Vec<String> {
        [
            "INSERT INTO main.everything (id) VALUES (99)",
            "UPDATE main.everything SET id = id + 1 RETURNING id",
            "DELETE FROM main.everything RETURNING id",
            "CREATE TABLE other (id INTEGER)",
            "CREATE TEMP TABLE other AS SELECT 1 AS id",
            "DROP TABLE main.everything",
            "ATTACH ':memory:' AS other",
            "VACUUM INTO '/tmp/greylag-must-not-be'",
            "PRAGMA query_only = OFF",
            "PRAGMA user_version",
            "BEGIN",
            "SELECT 1 AS id; DELETE FROM main.everything",
            "SELECT load_extension('x') AS id",
            "SELECT user_version AS id FROM pragma_user_version",
            "SELECT rootpage AS id FROM main.sqlite_schema",
            "EXPLAIN SELECT 1 AS id",
            "",
        ]
        .map(String::from)
        .to_vec()
    }

    async fn running(&self) -> usize {
        self.opened.lock().unwrap().as_ref().map_or(0, |connector| connector.source.pool.busy())
    }

    async fn lose(&self) -> Loss {
        std::fs::remove_file(&self.path).unwrap();
        Loss::Next
    }
}

fn column(at: usize, field: &Field) -> String {
    let declared = match field.data_type() {
        DataType::Int64 if at == 0 => "INTEGER PRIMARY KEY",
        DataType::Int64 => "BIGINT",
        DataType::Boolean => "BOOLEAN",
        DataType::Float64 => "DOUBLE PRECISION",
        DataType::Decimal128(15, 2) => "DECIMAL(15,2)",
        DataType::Date32 => "DATE",
        DataType::Timestamp(..) => "TIMESTAMP",
        DataType::Utf8 => "TEXT",
        DataType::Binary => "BLOB",
        other => panic!("{other}"),
    };
    format!("\"{}\" {declared}", field.name())
}

fn stored(array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Int64 => Value::Integer(array.as_primitive::<Int64Type>().value(row)),
        DataType::Boolean => Value::Integer(array.as_boolean().value(row).into()),
        DataType::Float64 => Value::Real(array.as_primitive::<Float64Type>().value(row)),
        DataType::Binary => Value::Blob(array.as_binary::<i32>().value(row).to_vec()),
        _ => Value::Text(array_value_to_string(array, row).unwrap()),
    }
}

/// One column of a sub-query.
async fn ask(connector: &SqliteConnector, sql: &str, data_type: DataType) -> Result<RecordBatch> {
    let schema = Arc::new(Schema::new(vec![Field::new("c", data_type, true)]));
    let query = ConnectorQuery {
        sql: sql.into(),
        schema: schema.clone(),
        batch_rows: 8192,
        timeout: Duration::from_secs(30),
        cancel: CancellationToken::new(),
        label: "test".into(),
    };
    let batches: Vec<RecordBatch> = connector.query(query).await?.try_collect().await?;
    Ok(arrow::compute::concat_batches(&schema, &batches).unwrap())
}

async fn integers(connector: &SqliteConnector, sql: &str) -> Result<Vec<i64>> {
    Ok(ask(connector, sql, DataType::Int64).await?.column(0).as_primitive::<Int64Type>().values().to_vec())
}

async fn table(connector: &SqliteConnector, name: &str) -> TableSchema {
    let schema = connector.schema().await.unwrap();
    schema.tables.into_iter().find(|table| table.name == name).unwrap()
}

fn native(table: &TableSchema, column: &str) -> NativeColumn {
    table.native[table.columns.0.index_of(column).unwrap()].clone()
}

#[test]
fn options_are_checked_without_the_file() {
    for (options, part) in [
        (vec![], "`path` is missing"),
        (vec![("path", "shop.sqlite")], "must be absolute"),
        (vec![("path", "file:/x?mode=rw")], "must be absolute"),
        (vec![("path", "/x"), ("typs", "")], "did you mean `types`?"),
        (vec![("path", "/x"), ("types", "a.b=c")], "option `types`: type `c` is not known"),
    ] {
        let error = validate(&spec(&options)).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidResource);
        assert!(error.message.contains(part), "{error}");
    }
    validate(&spec(&[("path", "/no/such/file"), ("verify", "all"), ("types", "a.b=date")])).unwrap();
}

#[tokio::test]
async fn keys_are_told_only_where_they_hold() {
    let file = File::with(
        "CREATE TABLE alias (id INTEGER PRIMARY KEY, a TEXT NOT NULL UNIQUE, b TEXT UNIQUE, c TIMESTAMP NOT NULL UNIQUE);
         CREATE TABLE descending (id INTEGER PRIMARY KEY DESC);
         CREATE TABLE lax (id TEXT PRIMARY KEY);
         CREATE TABLE pair (b INTEGER, a TEXT, x BLOB, PRIMARY KEY (a, b)) WITHOUT ROWID;
         CREATE TABLE firm (id TEXT PRIMARY KEY, n INT) STRICT;
         CREATE UNIQUE INDEX part ON alias (a) WHERE b IS NOT NULL;
         CREATE UNIQUE INDEX expression ON alias (lower(a));
         CREATE UNIQUE INDEX both ON alias (id, a);",
    );
    let connector = file.connect(&[]).await;
    let alias = table(&connector, "alias").await;
    assert_eq!(alias.primary_key, ["id"]);
    assert_eq!(alias.unique, [vec!["a".to_owned()], vec!["id".to_owned(), "a".to_owned()]]);
    assert!(!alias.columns.0.field_with_name("id").unwrap().is_nullable());
    assert!(alias.columns.0.field_with_name("b").unwrap().is_nullable());
    // Not the row's number, so it may be NULL, whatever the key says.
    assert_eq!(table(&connector, "descending").await.primary_key, Vec::<String>::new());
    assert_eq!(table(&connector, "lax").await.primary_key, Vec::<String>::new());
    assert_eq!(table(&connector, "pair").await.primary_key, ["a", "b"]);
    assert_eq!(table(&connector, "firm").await.primary_key, ["id"]);
    assert!(file_refuses(&file, "INSERT INTO firm VALUES (NULL, 1)"));
    assert!(!file_refuses(&file, "INSERT INTO lax VALUES (NULL)"));
}

fn file_refuses(file: &File, sql: &str) -> bool {
    Connection::open(&file.path).unwrap().execute_batch(sql).is_err()
}

#[tokio::test]
async fn order_is_claimed_only_where_the_file_enforces_it() {
    let file = File::with(
        "CREATE TABLE firm (i INT, r REAL, t TEXT, n TEXT COLLATE NOCASE, b BLOB, d TEXT, a ANY) STRICT;
         CREATE TABLE lax (id INTEGER PRIMARY KEY, i INTEGER, t TEXT, d DATE, m DECIMAL(15,2), s TIMESTAMP, w DECIMAL(16,2));
         CREATE VIEW seen AS SELECT i, t, i + 1 AS e FROM firm;
         CREATE VIEW broken AS SELECT x FROM nowhere;",
    );
    let connector = file.connect(&[("types", "firm.d=date, lax.t=text")]).await;
    let order = |table: &TableSchema| -> Vec<(String, bool)> {
        let names = table.columns.0.fields().iter().map(|field| field.name().clone());
        names.zip(table.native.iter().map(|native| native.order_is_binary)).collect()
    };
    let flags = |expected: &[(&str, bool)]| -> Vec<(String, bool)> {
        expected.iter().map(|(name, flag)| (name.to_string(), *flag)).collect()
    };
    let firm = table(&connector, "firm").await;
    assert_eq!(order(&firm), flags(&[("i", true), ("r", true), ("t", true), ("n", false), ("b", true), ("d", false)]));
    assert_eq!(firm.unsupported, [("a".to_owned(), "ANY".to_owned())]);
    let none = [("id", true), ("i", false), ("t", false), ("d", false), ("m", false), ("s", false), ("w", false)];
    assert_eq!(order(&table(&connector, "lax").await), flags(&none));
    let seen = table(&connector, "seen").await;
    assert_eq!(order(&seen), flags(&[("i", false), ("t", false)]));
    assert_eq!(seen.unsupported, [("e".to_owned(), "no type".to_owned())]);
    assert!(connector.schema().await.unwrap().tables.iter().all(|table| table.name != "broken"));

    let connector = file.connect(&[("verify", "lax, firm"), ("types", "firm.d=date, lax.t=text")]).await;
    let most = [("id", true), ("i", true), ("t", true), ("d", true), ("m", true), ("s", false), ("w", false)];
    assert_eq!(order(&table(&connector, "lax").await), flags(&most));
    assert!(native(&table(&connector, "firm").await, "d").order_is_binary);
    assert_eq!(order(&table(&connector, "seen").await), flags(&[("i", false), ("t", false)]));
}

#[tokio::test]
async fn text_of_another_encoding_is_read_and_its_order_is_not_claimed() {
    let file =
        File::with("PRAGMA encoding = 'UTF-16le'; CREATE TABLE t (c TEXT) STRICT; INSERT INTO t VALUES ('größe 雁')");
    let connector = file.connect(&[]).await;
    assert!(!native(&table(&connector, "t").await, "c").order_is_binary);
    let batch = ask(&connector, "SELECT c FROM t", DataType::Utf8).await.unwrap();
    assert_eq!(batch.column(0).as_string::<i32>().value(0), "größe 雁");
}

#[tokio::test]
async fn estimates_come_from_analyze_or_a_bounded_count() {
    let file = File::with(&format!(
        "CREATE TABLE small (id INTEGER PRIMARY KEY, g INT);
         INSERT INTO small SELECT value * 10, value % 7 FROM {};",
        series(1000)
    ));
    let connector = file.connect(&[]).await;
    let small = table(&connector, "small").await;
    assert_eq!((small.rows, native(&small, "id").distinct), (Some(1000), Some(1000)));
    file.write("CREATE INDEX by_g ON small (g); ANALYZE;");
    assert_eq!(native(&table(&connector, "small").await, "g").distinct, Some(7));
    file.write(&format!(
        "CREATE TABLE large (id INTEGER PRIMARY KEY, x INT); INSERT INTO large SELECT value, 0 FROM {};",
        series(150_000)
    ));
    assert_eq!(table(&connector, "large").await.rows, Some(150_000));
}

#[tokio::test]
async fn a_writer_that_holds_the_file_makes_it_busy() {
    let file = File::with("CREATE TABLE t (c INT); INSERT INTO t VALUES (1)");
    let connector = file.connect(&[]).await;
    let writer = Connection::open(&file.path).unwrap();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let error = integers(&connector, "SELECT c FROM t").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SourceBusy, "{error}");
    writer.execute_batch("COMMIT").unwrap();
    assert_eq!(integers(&connector, "SELECT c FROM t").await.unwrap(), [1]);
}

#[tokio::test]
async fn a_missing_file_may_come_back_and_a_broken_one_may_not() {
    let file = File::new();
    let missing = spec(&[("path", "/no/such/shop.sqlite")]);
    let error = SqliteConnector::open(&missing, missing.options.clone()).await.err().unwrap();
    assert_eq!(error.code, ErrorCode::SourceUnreachable, "{error}");
    assert_eq!(error.source.unwrap().as_str(), "shop");
    std::fs::write(&file.path, "this is no database, and long enough to have had a header".repeat(100)).unwrap();
    let error = SqliteConnector::open(&file.spec(&[]), file.spec(&[]).options).await.err().unwrap();
    assert_eq!(error.code, ErrorCode::SourceRefused, "{error}");
    let directory = spec(&[("path", file.path.parent().unwrap().to_str().unwrap())]);
    let error = SqliteConnector::open(&directory, directory.options.clone()).await.err().unwrap();
    assert_eq!(error.code, ErrorCode::SourceUnreachable, "{error}");
}

#[tokio::test]
async fn a_damaged_page_is_an_error_and_not_an_end() {
    let file = File::with(&format!(
        "CREATE TABLE t (c INT, pad TEXT); INSERT INTO t SELECT value, printf('%0400d', value) FROM {};",
        series(5000)
    ));
    let connector = file.connect(&[]).await;
    assert_eq!(integers(&connector, "SELECT c FROM t").await.unwrap().len(), 5000);
    let mut bytes = std::fs::read(&file.path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    std::fs::write(&file.path, bytes).unwrap();
    // A new connection: an old one may still have the page in its cache.
    let connector = file.connect(&[]).await;
    let error = integers(&connector, "SELECT c FROM t").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SourceRefused, "{error}");
}

#[tokio::test]
async fn a_file_put_in_the_place_of_another_is_noticed() {
    let file = File::with("CREATE TABLE t (c INT); INSERT INTO t VALUES (1)");
    let other = File::with("CREATE TABLE t (c INT); INSERT INTO t VALUES (2)");
    for options in [&[][..], &[("verify", "all")]] {
        let connector = file.connect(options).await;
        let before = integers(&connector, "SELECT c FROM t").await.unwrap();
        let aside = file.path.with_extension("aside");
        std::fs::rename(&file.path, &aside).unwrap();
        std::fs::rename(&other.path, &file.path).unwrap();
        std::fs::rename(&aside, &other.path).unwrap();
        let after = integers(&connector, "SELECT c FROM t").await.unwrap();
        assert_eq!(before[0] + after[0], 3, "{before:?} {after:?}");
    }
}

#[tokio::test]
async fn a_type_declared_for_no_column_is_a_mistake() {
    let file = File::with("CREATE TABLE t (c, d)");
    let connector = file.connect(&[("types", "t.c=decimal(5,2), t.x=date")]).await;
    let error = connector.schema().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidResource);
    assert!(error.message.contains("`t` has no column `x`"), "{error}");
    let connector = file.connect(&[("types", "T.C=decimal(5,2)")]).await;
    let t = table(&connector, "t").await;
    assert_eq!(t.columns.0.field(0).data_type(), &DataType::Decimal128(5, 2));
    assert_eq!(t.unsupported, [("d".to_owned(), "no type".to_owned())]);
}

#[tokio::test]
async fn a_stop_never_hits_the_next_sub_query() {
    let file = File::with(&format!("CREATE TABLE t (c INT); INSERT INTO t SELECT value FROM {}", series(20_000)));
    let connector = file.connect(&[]).await;
    for round in 0..300u64 {
        let query = ConnectorQuery {
            sql: "SELECT count(*) AS c FROM t a, t b".into(),
            schema: Arc::new(Schema::new(vec![Field::new("c", DataType::Int64, true)])),
            batch_rows: 1,
            timeout: Duration::from_secs(30),
            cancel: CancellationToken::new(),
            label: String::new(),
        };
        let cancel = query.cancel.clone();
        let reader = tokio::spawn({
            let connector = connector.clone();
            async move { connector.query(query).await?.try_collect::<Vec<_>>().await }
        });
        // Sooner and later, so that the stop falls before, at and after the start of the statement.
        tokio::time::sleep(Duration::from_micros(round * 7)).await;
        cancel.cancel();
        assert_eq!(reader.await.unwrap().unwrap_err().code, ErrorCode::Cancelled);
        assert_eq!(integers(&connector, "SELECT count(*) AS c FROM t").await.unwrap(), [20_000]);
    }
}

#[tokio::test]
async fn a_verified_column_holds_no_value_that_a_filter_could_hide() {
    let file = File::with(
        "CREATE TABLE o (id INTEGER PRIMARY KEY, day DATE, amount DECIMAL(15,2), words TEXT);
         INSERT INTO o VALUES (1, '1995-03-15', 10.5, 'a'), (2, '1996-1-1', 7, 'b'), (3, '1997-01-01', 'x', 'c');",
    );
    let sql = "SELECT id AS c FROM o WHERE day < '1996-06-01' ORDER BY id";
    // SQLite's own order takes `1996-1-1` for a late day. That is why the column is not offered for filters.
    let plain = file.connect(&[]).await;
    assert_eq!(integers(&plain, sql).await.unwrap(), [1]);
    assert!(!native(&table(&plain, "o").await, "day").order_is_binary);

    let verified = file.connect(&[("verify", "all")]).await;
    for sql in [sql, "SELECT count(*) AS c FROM o WHERE day IS NULL", "SELECT max(amount) > 100 AS c FROM o"] {
        let error = integers(&verified, sql).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::ValueOutOfRange, "{error}");
        let column = if sql.contains("amount") { "`amount`" } else { "`day`" };
        assert!(error.message.contains(column), "{error}");
    }
    // Other columns are nobody's business.
    assert_eq!(integers(&verified, "SELECT id AS c FROM o WHERE words > 'a' ORDER BY id").await.unwrap(), [2, 3]);
    // The file changes, and the verdict with it, both ways.
    file.write("UPDATE o SET day = '1996-01-01' WHERE id = 2");
    assert_eq!(integers(&verified, sql).await.unwrap(), [1, 2]);
    assert_eq!(integers(&verified, sql).await.unwrap(), [1, 2]);
    file.write("UPDATE o SET day = 'never' WHERE id = 3");
    assert_eq!(integers(&verified, sql).await.unwrap_err().code, ErrorCode::ValueOutOfRange);
    file.write("DELETE FROM o WHERE id = 3");
    assert_eq!(integers(&verified, sql).await.unwrap(), [1, 2]);
}

#[tokio::test]
async fn a_check_is_remembered_until_the_file_changes() {
    let file = File::with("PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, c INT, d DATE)");
    let connector = file.connect(&[("verify", "all")]).await;
    let source = &connector.source;
    let checked = || source.verifier.checked();
    let sql = "SELECT c FROM t WHERE d IS NULL";
    integers(&connector, sql).await.unwrap();
    assert_eq!(checked(), ["t.c", "t.d"]);
    let version = source.verifier.version(source.pool.path(), &source.settings).unwrap();
    integers(&connector, sql).await.unwrap();
    assert_eq!(source.verifier.version(source.pool.path(), &source.settings).unwrap(), version);
    assert_eq!(checked(), ["t.c", "t.d"]);
    file.write("INSERT INTO t VALUES (1, 2, NULL)");
    assert_ne!(source.verifier.version(source.pool.path(), &source.settings).unwrap(), version);
    assert_eq!(checked(), Vec::<String>::new());
    assert_eq!(integers(&connector, sql).await.unwrap(), [2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_holds_for_the_very_state_that_is_read() {
    // A writer flips one value between good and bad. Whatever state a sub-query sees, it either has the good value or is
    // refused: a row is never silently filtered out.
    for journal in ["WAL", "DELETE"] {
        let file = File::with(&format!(
            "PRAGMA journal_mode = {journal}; CREATE TABLE t (id INTEGER PRIMARY KEY, d DATE);
             INSERT INTO t VALUES (1, '1996-01-01');"
        ));
        let connector = file.connect(&[("verify", "all")]).await;
        let stop = CancellationToken::new();
        let (path, stopped) = (file.path.clone(), stop.clone());
        let writer = std::thread::spawn(move || {
            let connection = Connection::open(path).unwrap();
            connection.busy_timeout(Duration::from_secs(5)).unwrap();
            let mut flips = 0u64;
            while !stopped.is_cancelled() {
                let day = if flips.is_multiple_of(2) { "1996-1-1" } else { "1996-01-01" };
                connection.execute("UPDATE t SET d = ?1", [day]).unwrap();
                flips += 1;
                // A writer that never lets go starves every reader of a rollback journal.
                std::thread::sleep(Duration::from_micros(flips % 7 * 200));
            }
            flips
        });
        let (mut good, mut bad) = (0, 0);
        while good < 30 || bad < 30 {
            match integers(&connector, "SELECT count(*) AS c FROM t WHERE d < '1996-01-02'").await {
                Ok(count) => {
                    assert_eq!(count, [1], "a row was hidden");
                    good += 1;
                }
                Err(error) if error.code == ErrorCode::ValueOutOfRange => bad += 1,
                Err(error) => assert_eq!(error.code, ErrorCode::SourceBusy, "{error}"),
            }
        }
        stop.cancel();
        assert!(writer.join().unwrap() > 0);
    }
}

#[tokio::test]
async fn comparisons_in_sqlite_agree_with_those_of_the_delivered_values() {
    let file = File::with("CREATE TABLE t (id INTEGER PRIMARY KEY, amount DECIMAL(15,2), day DATE)");
    let mut connection = Connection::open(&file.path).unwrap();
    let transaction = connection.transaction().unwrap();
    let mut state: u64 = 42;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as i64
    };
    let format =
        |cents: i64| format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, cents.abs() / 100, cents.abs() % 100);
    let mut amounts = Vec::new();
    for id in 0..4000 {
        let cents = match id % 4 {
            0 => next() % 1000,
            1 => -(next() % 100_000),
            2 => next() * 400_000 % 1_000_000_000_000_000,
            _ => 999_999_999_999_999 - next() % 1000,
        };
        let text = format(cents);
        let day = format!("19{:02}-{:02}-{:02}", next() % 100, next() % 12 + 1, next() % 28 + 1);
        // As text, and as the double that a program would bind.
        if id % 2 == 0 {
            transaction.execute("INSERT INTO t VALUES (?1, ?2, ?3)", (id, &text, &day)).unwrap();
        } else {
            transaction.execute("INSERT INTO t VALUES (?1, ?2, ?3)", (id, text.parse::<f64>().unwrap(), &day)).unwrap();
        }
        amounts.push(cents);
    }
    transaction.commit().unwrap();
    let connector = file.connect(&[("verify", "all")]).await;
    let batch = ask(&connector, "SELECT amount AS c FROM t ORDER BY id", DataType::Decimal128(15, 2)).await.unwrap();
    let delivered: Vec<i64> =
        batch.column(0).as_primitive::<Decimal128Type>().values().iter().map(|v| *v as i64).collect();
    assert_eq!(delivered, amounts);
    let days = ask(&connector, "SELECT day AS c FROM t ORDER BY id", DataType::Date32).await.unwrap();
    let days = days.column(0).as_primitive::<Date32Type>().clone();
    for at in (0..4000).step_by(41) {
        for (operator, holds) in [("<", i64::lt as fn(&i64, &i64) -> bool), ("<=", i64::le), ("=", i64::eq)] {
            let sql = format!("SELECT id AS c FROM t WHERE amount {operator} {} ORDER BY id", format(amounts[at]));
            let expected: Vec<i64> =
                (0..4000).filter(|id| holds(&amounts[*id], &amounts[at])).map(|id| id as i64).collect();
            assert_eq!(integers(&connector, &sql).await.unwrap(), expected, "{sql}");
        }
        let day = array_value_to_string(&days, at).unwrap();
        let sql = format!("SELECT id AS c FROM t WHERE day < '{day}' ORDER BY id");
        let expected: Vec<i64> = (0..4000).filter(|id| days.value(*id) < days.value(at)).map(|id| id as i64).collect();
        assert_eq!(integers(&connector, &sql).await.unwrap(), expected, "{sql}");
    }
    let sorted =
        ask(&connector, "SELECT amount AS c FROM t ORDER BY amount", DataType::Decimal128(15, 2)).await.unwrap();
    assert!(sorted.column(0).as_primitive::<Decimal128Type>().values().is_sorted());
}

#[test]
fn literals_of_up_to_fifteen_digits_are_read_exactly() {
    // The engine writes no other literals of doubles and decimals for SQLite, whose own reader of longer ones may be off
    // by the last bit.
    let connection = Connection::open_in_memory().unwrap();
    let mut state: u64 = 7;
    for round in 0..100_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let digits = state % 10u64.pow(1 + round % 15);
        let exponent = (state >> 32) as i64 % 45 - 22;
        let literal = format!("{digits}.0e{exponent}");
        let read: f64 = connection.query_row(&format!("SELECT {literal}"), [], |row| row.get(0)).unwrap();
        assert_eq!(read, literal.parse::<f64>().unwrap(), "{literal}");
    }
}
