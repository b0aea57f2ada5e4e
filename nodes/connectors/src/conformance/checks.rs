//! What every connector must do, one function for each promise.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{
    array::{AsArray, RecordBatch},
    compute::concat_batches,
    datatypes::{DataType, Field, Int64Type, IntervalUnit, Schema, SchemaRef},
};
use futures::{StreamExt, TryStreamExt, future::join_all};
use greylag_actors::edge::port::{Connector, ConnectorQuery};
use greylag_protocol::{ErrorClass, ErrorCode, MeshError, Result, schema::TableSchema, statement::BatchStream};
use tokio_util::sync::CancellationToken;

use super::{
    Fixture, Loss, Subject,
    fixture::{MANY_ROWS, WIDE_ROWS, many_words},
    memory,
};

/// What a source gets to stop a statement that nobody wants any more.
const STOP_TIME: Duration = Duration::from_secs(1);
/// What anything else gets before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a connector may hold for a reader who does not read: a few batches, and what the source's own driver buffers.
const SLOW_READER_BYTES_MAX: usize = 48 << 20;

pub(crate) async fn the_schema_is_true(subject: &dyn Subject) {
    subject.load(Fixture::Everything).await;
    subject.load(Fixture::Empty).await;
    let schema = subject.open().await.schema().await.unwrap();
    assert_eq!(schema.kind, subject.kind());
    assert!(!schema.version.is_empty());
    let order: Vec<_> = schema.tables.iter().map(|table| (&table.schema, &table.name)).collect();
    assert!(order.is_sorted(), "tables are sorted by schema and name: {order:?}");
    for fixture in [Fixture::Everything, Fixture::Empty] {
        let table = find(&schema.tables, fixture);
        assert_eq!(table.schema, schema.default_schema);
        let expected = subject.delivered(RecordBatch::new_empty(fixture.schema())).schema();
        assert_eq!(fields(&table.columns.0), fields(&expected), "{}", table.name);
        assert_eq!(table.native.len(), table.columns.0.fields().len(), "one native column for each");
        assert!(table.native.iter().all(|native| !native.type_name.is_empty()));
        assert_eq!(table.unsupported, Vec::new());
        let key: &[&str] = if subject.has_keys() { &["id"] } else { &[] };
        assert_eq!(table.primary_key, key, "{}", table.name);
    }
    let rows = find(&schema.tables, Fixture::Everything).rows;
    assert!(rows.is_none_or(|rows| rows < 1000), "an estimate of 8 rows: {rows:?}");
}

fn fields(schema: &Schema) -> Vec<(String, DataType, bool)> {
    schema.fields().iter().map(|f| (f.name().clone(), f.data_type().clone(), f.is_nullable())).collect()
}

fn find(tables: &[TableSchema], fixture: Fixture) -> &TableSchema {
    let found = tables.iter().find(|table| table.name == fixture.name());
    found.unwrap_or_else(|| panic!("no table `{}`", fixture.name()))
}

pub(crate) async fn every_value_comes_as_it_went_in(subject: &dyn Subject) {
    subject.load(Fixture::Everything).await;
    let connector = subject.open().await;
    let expected = expected(subject, Fixture::Everything);
    for batch_rows in [1, 3, 8192] {
        let query = ConnectorQuery { batch_rows, ..select(subject, Fixture::Everything, expected.schema()) };
        let batches = all(connector.query(query).await).await.unwrap();
        assert!(batches.iter().all(|batch| (1..=batch_rows).contains(&batch.num_rows())), "batches of {batch_rows}");
        assert!(batches.iter().all(|batch| batch.schema() == expected.schema()));
        let got = concat_batches(&expected.schema(), &batches).unwrap();
        for (at, field) in expected.schema().fields().iter().enumerate() {
            assert_eq!(got.column(at), expected.column(at), "column `{}`", field.name());
        }
    }
}

pub(crate) async fn an_empty_table_has_columns_and_no_rows(subject: &dyn Subject) {
    subject.load(Fixture::Empty).await;
    let schema = subject.delivered(RecordBatch::new_empty(Fixture::Empty.schema())).schema();
    let connector = subject.open().await;
    let batches = all(connector.query(select(subject, Fixture::Empty, schema)).await).await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
}

pub(crate) async fn a_wide_table_comes_whole(subject: &dyn Subject) {
    subject.load(Fixture::Wide).await;
    let connector = subject.open().await;
    let expected = expected(subject, Fixture::Wide);
    assert_eq!(expected.num_rows(), WIDE_ROWS);
    let batches = all(connector.query(select(subject, Fixture::Wide, expected.schema())).await).await.unwrap();
    assert_eq!(concat_batches(&expected.schema(), &batches).unwrap(), expected);
}

pub(crate) async fn many_rows_come_once_each(subject: &dyn Subject) {
    subject.load(Fixture::Many).await;
    let connector = subject.open().await;
    let stream = connector.query(unordered(subject, Fixture::Many)).await.unwrap();
    let ids = within(PATIENCE, check_many(stream)).await;
    assert_eq!(ids, (0..MANY_ROWS as i64).collect());
}

/// The ids that came, each seen once and beside its own text.
async fn check_many(mut stream: BatchStream) -> BTreeSet<i64> {
    let mut seen = BTreeSet::new();
    while let Some(batch) = stream.try_next().await.unwrap() {
        let (ids, words) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_string::<i32>());
        for (id, words) in ids.values().iter().zip(words) {
            assert!(seen.insert(*id), "row {id} came twice");
            assert_eq!(words, Some(many_words(*id).as_str()));
        }
    }
    seen
}

pub(crate) async fn several_sub_queries_run_at_once(subject: &dyn Subject) {
    subject.load(Fixture::Many).await;
    let connector = subject.open().await;
    // All of them are open before one is read, and one that is not read keeps nobody from reading another.
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(within(PATIENCE, connector.query(unordered(subject, Fixture::Many))).await.unwrap());
    }
    let last = streams.pop().unwrap();
    assert_eq!(within(PATIENCE, check_many(last)).await.len(), MANY_ROWS);
    for ids in within(PATIENCE, join_all(streams.into_iter().map(check_many))).await {
        assert_eq!(ids.len(), MANY_ROWS);
    }
}

pub(crate) async fn a_value_that_does_not_fit_is_refused_by_name(subject: &dyn Subject) {
    subject.load(Fixture::Everything).await;
    let connector = subject.open().await;
    let misfits = subject.misfits();
    assert!(!misfits.is_empty());
    for (sql, field) in misfits {
        let name = field.name().clone();
        let error = all(connector.query(query(sql.clone(), vec![field])).await).await.err();
        let error = error.unwrap_or_else(|| panic!("no error: {sql}"));
        assert_eq!(error.code, ErrorCode::ValueOutOfRange, "{sql}: {error}");
        assert!(error.message.contains(&format!("`{name}`")), "{sql}: {error}");
        assert!(!error.message.contains("4242"), "no value in a message: {error}");
    }
}

pub(crate) async fn a_type_that_cannot_be_had_is_refused_by_name(subject: &dyn Subject) {
    subject.load(Fixture::Everything).await;
    let connector = subject.open().await;
    let sql = format!("SELECT {} FROM {}", subject.quote("whole"), subject.table("everything"));
    let odd = Field::new("whole", DataType::Interval(IntervalUnit::MonthDayNano), true);
    let error = all(connector.query(query(sql, vec![odd])).await).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::UnsupportedType, "{error}");
    assert!(error.message.contains("`whole`"), "{error}");
}

pub(crate) async fn cancelling_stops_the_source(subject: &dyn Subject) {
    subject.load(Fixture::Many).await;
    let query = endless(subject);
    let (cancel, reader) = (query.cancel.clone(), read(subject.open().await, query));
    let reader = tokio::spawn(reader);
    reach(PATIENCE, || async { subject.running().await == 1 }).await;
    cancel.cancel();
    reach(STOP_TIME, || async { subject.running().await == 0 }).await;
    let error = within(STOP_TIME, reader).await.unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::Cancelled, "{error}");
}

pub(crate) async fn dropping_stops_the_source(subject: &dyn Subject) {
    subject.load(Fixture::Many).await;
    let reader = tokio::spawn(read(subject.open().await, endless(subject)));
    reach(PATIENCE, || async { subject.running().await == 1 }).await;
    reader.abort();
    reach(STOP_TIME, || async { subject.running().await == 0 }).await;
}

pub(crate) async fn dropping_halfway_stops_the_source(subject: &dyn Subject) {
    subject.load(Fixture::Many).await;
    let connector = subject.open().await;
    let mut stream = connector.query(unordered(subject, Fixture::Many)).await.unwrap();
    let batch = within(PATIENCE, stream.next()).await.unwrap().unwrap();
    assert!(batch.num_rows() > 0);
    drop(stream);
    reach(STOP_TIME, || async { subject.running().await == 0 }).await;
    // What it used is in order again.
    let stream = connector.query(unordered(subject, Fixture::Many)).await.unwrap();
    assert_eq!(within(PATIENCE, check_many(stream)).await.len(), MANY_ROWS);
}

pub(crate) async fn the_deadline_stops_the_source(subject: &dyn Subject) {
    subject.load(Fixture::Many).await;
    let connector = subject.open().await;
    let timeout = Duration::from_millis(400);
    let began = Instant::now();
    let error = read(connector.clone(), ConnectorQuery { timeout, ..endless(subject) }).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Deadline, "{error}");
    assert!((timeout..timeout + STOP_TIME).contains(&began.elapsed()), "after {:?}", began.elapsed());
    reach(STOP_TIME, || async { subject.running().await == 0 }).await;
    // A reader who does not read does not keep a statement alive either.
    let query = ConnectorQuery { timeout: Duration::from_secs(2), ..unordered(subject, Fixture::Many) };
    let mut stream = connector.query(query).await.unwrap();
    assert!(within(PATIENCE, stream.next()).await.unwrap().is_ok());
    reach(Duration::from_secs(2) + STOP_TIME, || async { subject.running().await == 0 }).await;
    let error = loop {
        match within(STOP_TIME, stream.next()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("a stream that was stopped ended as if it were complete"),
        }
    };
    assert_eq!(error.code, ErrorCode::Deadline, "{error}");
}

pub(crate) async fn nothing_can_be_written(subject: &dyn Subject) {
    subject.load(Fixture::Everything).await;
    let connector = subject.open().await;
    let writes = subject.writes();
    assert!(writes.len() >= 3);
    for sql in writes {
        let one = vec![Field::new("id", DataType::Int64, true)];
        let error = all(connector.query(query(sql.clone(), one)).await).await.err();
        let error = error.unwrap_or_else(|| panic!("no error: {sql}"));
        assert_eq!(error.class(), ErrorClass::Permanent, "{sql}: {error}");
        assert!(matches!(error.code, ErrorCode::ReadOnly | ErrorCode::SourceRefused), "{sql}: {error}");
    }
    let expected = expected(subject, Fixture::Everything);
    let batches = all(connector.query(select(subject, Fixture::Everything, expected.schema())).await).await.unwrap();
    assert_eq!(concat_batches(&expected.schema(), &batches).unwrap(), expected, "nothing has changed");
}

pub(crate) async fn what_cannot_work_fails_for_good(subject: &dyn Subject) {
    subject.load(Fixture::Everything).await;
    let connector = subject.open().await;
    let (table, id) = (subject.table("everything"), subject.quote("id"));
    for sql in [
        format!("SELECT {id} FROM {}", subject.table("no_such_table")),
        format!("SELECT {} FROM {table}", subject.quote("no_such_column")),
        format!("SELECT {id} FRO {table}"),
        format!("SELECT {id}, {id} FROM {table}"),
    ] {
        let one = vec![Field::new("id", DataType::Int64, true)];
        let error = all(connector.query(query(sql.clone(), one)).await).await.err();
        let error = error.unwrap_or_else(|| panic!("no error: {sql}"));
        assert_eq!(error.code, ErrorCode::SourceRefused, "{sql}: {error}");
        assert_eq!(error.class(), ErrorClass::Permanent);
        assert!(error.source.is_some(), "the source is named: {error}");
    }
}

pub(crate) async fn a_huge_value_passes(subject: &dyn Subject) {
    subject.load(Fixture::Everything).await;
    let connector = subject.open().await;
    let bytes = 40 << 20;
    let words = vec![Field::new("words", DataType::Utf8, true)];
    let batches = all(connector.query(query(subject.huge(bytes), words)).await).await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    let value = batches[0].column(0).as_string::<i32>().value(0);
    assert_eq!(value.len(), bytes);
    assert!(value.bytes().all(|byte| byte == b'x'));
}

pub(crate) async fn a_slow_reader_holds_memory_down(subject: &dyn Subject) {
    subject.load(Fixture::Many).await;
    let connector = subject.open().await;
    let before = memory::mark();
    let mut stream = connector.query(unordered(subject, Fixture::Many)).await.unwrap();
    let (mut rows, mut batches) = (0, 0);
    while let Some(batch) = within(PATIENCE, stream.next()).await {
        rows += batch.unwrap().num_rows();
        batches += 1;
        // Slow at first, so that whoever reads ahead gets far ahead; then as fast as it comes.
        if batches <= 20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let held = memory::peak() - before;
    assert_eq!(rows, MANY_ROWS);
    assert!(held < SLOW_READER_BYTES_MAX, "{held} bytes were held at a time");
}

pub(crate) async fn a_lost_source_is_a_transient_error(subject: &dyn Subject) {
    subject.load(Fixture::Many).await;
    let connector = subject.open().await;
    let reader = tokio::spawn(read(connector.clone(), endless(subject)));
    reach(PATIENCE, || async { subject.running().await == 1 }).await;
    let error = match subject.lose().await {
        Loss::Running => within(PATIENCE, reader).await.unwrap().unwrap_err(),
        Loss::Next => {
            reader.abort();
            all(connector.query(unordered(subject, Fixture::Many)).await).await.unwrap_err()
        }
    };
    assert_eq!(error.code, ErrorCode::SourceUnreachable, "{error}");
    assert!(error.is_retryable());
}

pub(crate) async fn a_source_that_is_there_answers_a_ping(subject: &dyn Subject) {
    subject.load(Fixture::Empty).await;
    within(PATIENCE, subject.open().await.ping()).await.unwrap();
}

/// All rows of a fixture as they should arrive.
fn expected(subject: &dyn Subject, fixture: Fixture) -> RecordBatch {
    let batches: Vec<RecordBatch> = fixture.batches().map(|batch| subject.delivered(batch)).collect();
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

/// All columns in order of the key.
fn select(subject: &dyn Subject, fixture: Fixture, schema: SchemaRef) -> ConnectorQuery {
    let columns: Vec<String> = schema.fields().iter().map(|field| subject.quote(field.name())).collect();
    let sql = format!("SELECT {} FROM {} ORDER BY {}", columns.join(", "), subject.table(fixture.name()), columns[0]);
    ConnectorQuery { schema, ..query(sql, Vec::new()) }
}

/// All columns in any order.
fn unordered(subject: &dyn Subject, fixture: Fixture) -> ConnectorQuery {
    let schema = subject.delivered(RecordBatch::new_empty(fixture.schema())).schema();
    let columns: Vec<String> = schema.fields().iter().map(|field| subject.quote(field.name())).collect();
    let sql = format!("SELECT {} FROM {}", columns.join(", "), subject.table(fixture.name()));
    ConnectorQuery { schema, ..query(sql, Vec::new()) }
}

fn endless(subject: &dyn Subject) -> ConnectorQuery {
    query(subject.endless(), vec![Field::new("n", DataType::Int64, true)])
}

fn query(sql: String, fields: Vec<Field>) -> ConnectorQuery {
    ConnectorQuery {
        sql,
        schema: Arc::new(Schema::new(fields)),
        batch_rows: 8192,
        timeout: PATIENCE,
        cancel: CancellationToken::new(),
        label: "conformance".into(),
    }
}

/// Runs a sub-query to its end, holding on to nothing else.
async fn read(connector: Arc<dyn Connector>, query: ConnectorQuery) -> Result<Vec<RecordBatch>> {
    all(connector.query(query).await).await
}

async fn all(stream: Result<BatchStream>) -> Result<Vec<RecordBatch>, MeshError> {
    within(PATIENCE, stream?.try_collect()).await
}

async fn within<T>(time: Duration, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(time, future).await.unwrap_or_else(|_| panic!("nothing within {time:?}"))
}

/// Waits until it is so.
async fn reach<F: Future<Output = bool>>(time: Duration, condition: impl Fn() -> F) {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < time, "not so within {time:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
