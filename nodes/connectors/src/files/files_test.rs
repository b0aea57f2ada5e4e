//! The suite over Parquet, CSV and NDJSON, and what only files have: folders, samples, changes on disk.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, DictionaryArray, Int32Array, Int64Array, RecordBatch, StringArray, StringViewArray,
    },
    datatypes::{DataType, Field, Float64Type, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit},
    util::display::array_value_to_string,
};
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use greylag_actors::edge::port::{Connector, ConnectorQuery};
use greylag_protocol::{ErrorCode, MeshError, Result, SourceName, schema::TableSchema, state::SourceSpec};
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{FilesConnector, layout::Format, validate};
use crate::conformance::{Fixture, Loss, Subject, conformance};

/// A folder of its own.
struct Folder {
    dir: TempDir,
    format: Format,
    opened: Mutex<Option<Arc<FilesConnector>>>,
}

impl Folder {
    fn new(format: Format) -> Self {
        Self { dir: TempDir::new().unwrap(), format, opened: Mutex::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file with this content; folders are made as needed.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
        self
    }

    fn parquet(&self, name: &str, batch: &RecordBatch) -> &Self {
        self.file(name, parquet_bytes(std::slice::from_ref(batch), batch.schema()))
    }

    async fn connect(&self, options: &[(&str, &str)]) -> Result<Arc<FilesConnector>> {
        self.connect_to("", options).await
    }

    /// With a path below the folder.
    async fn connect_to(&self, below: &str, options: &[(&str, &str)]) -> Result<Arc<FilesConnector>> {
        let path = format!("{}/{below}", self.dir.path().display());
        let spec = spec(&[&[("path", path.trim_end_matches('/'))], options].concat());
        Ok(Arc::new(FilesConnector::connect(&spec, spec.options.clone()).await?))
    }
}

fn spec(options: &[(&str, &str)]) -> SourceSpec {
    SourceSpec {
        name: SourceName::new("lake").unwrap(),
        kind: "files".into(),
        options: options.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        labels: BTreeMap::new(),
        replicas: 1,
    }
}

mod parquet_files {
    use super::*;
    async fn fixture() -> Option<Folder> {
        Some(Folder::new(Format::Parquet))
    }
    conformance!(fixture);
}

mod csv_files {
    use super::*;
    async fn fixture() -> Option<Folder> {
        Some(Folder::new(Format::Csv))
    }
    conformance!(fixture);
}

mod ndjson_files {
    use super::*;
    async fn fixture() -> Option<Folder> {
        Some(Folder::new(Format::Ndjson))
    }
    conformance!(fixture);
}

/// Rows of a row group, some 6 MB of the largest fixture.
const ROW_GROUP_ROWS: usize = 20_000;

/// Values that do not fit, each in a table of its own: column, declared type, value.
const MISFITS: [(&str, &str, &str); 6] = [
    ("whole", "bigint", "4242.5"),
    ("flag", "boolean", "x4242"),
    ("day", "date", "4242-4-2"),
    ("moment", "timestamp", "4242-04-02 25:00:00"),
    ("amount", "decimal(15,2)", "42.4242"),
    ("real", "double", "NaN4242"),
];

#[async_trait]
impl Subject for Folder {
    fn kind(&self) -> &'static str {
        "files"
    }

    async fn load(&self, fixture: Fixture) {
        let name = format!("{}.{}", fixture.name(), self.format.name());
        let batches: Vec<RecordBatch> = fixture.batches().collect();
        match self.format {
            Format::Parquet => self.file(&name, parquet_bytes(&batches, fixture.schema())),
            Format::Csv => self.file(&name, csv_bytes(&batches, &fixture.schema())),
            Format::Ndjson => self.file(&name, ndjson_text(&batches)),
        };
        for (column, _, value) in MISFITS {
            match self.format {
                Format::Parquet => {}
                Format::Csv => drop(self.file(&format!("bad_{column}.csv"), format!("{column}\n{value}\n"))),
                Format::Ndjson => {
                    let _ = self.file(&format!("bad_{column}.ndjson"), format!("{{\"{column}\":\"{value}\"}}\n"));
                }
            }
        }
    }

    async fn open(&self) -> Arc<dyn Connector> {
        let mut types: Vec<String> = Vec::new();
        if self.format != Format::Parquet {
            for table in ["everything", "empty"] {
                types.push(format!(
                    "{table}.id=bigint, {table}.flag=boolean, {table}.whole=bigint, {table}.real=double, \
                     {table}.amount=decimal(15,2), {table}.day=date, {table}.moment=timestamp, {table}.words=text"
                ));
            }
            types.extend(MISFITS.iter().map(|(column, data_type, _)| format!("bad_{column}.{column}={data_type}")));
        }
        if self.format == Format::Csv {
            types.push("everything.bytes=binary, empty.bytes=binary".into());
        }
        let connector = self.connect(&[("types", &types.join(", ")), ("null", "\\N")]).await.unwrap();
        *self.opened.lock().unwrap() = Some(connector.clone());
        connector
    }

    fn table(&self, name: &str) -> String {
        format!("\"main\".\"{name}\"")
    }

    fn delivered(&self, batch: RecordBatch) -> RecordBatch {
        if self.format == Format::Parquet {
            return batch;
        }
        // Text files hold no binary values but CSV's own bytes, and promise no value anywhere.
        let kept: Vec<usize> = (0..batch.num_columns())
            .filter(|at| self.format == Format::Csv || batch.schema().field(*at).data_type() != &DataType::Binary)
            .collect();
        let batch = batch.project(&kept).unwrap();
        let fields: Vec<Field> =
            batch.schema().fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), batch.columns().to_vec()).unwrap()
    }

    fn has_keys(&self) -> bool {
        false
    }

    fn misfits(&self) -> Vec<(String, Field)> {
        let mut misfits = vec![
            ("SELECT 424242424242 AS small".into(), Field::new("small", DataType::Int32, true)),
            ("SELECT CAST(NULL AS BIGINT) AS id".into(), Field::new("id", DataType::Int64, false)),
        ];
        if self.format != Format::Parquet {
            for (column, declared, _) in MISFITS {
                let data_type = match declared {
                    "bigint" => DataType::Int64,
                    "boolean" => DataType::Boolean,
                    "date" => DataType::Date32,
                    "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
                    "double" => DataType::Float64,
                    _ => DataType::Decimal128(15, 2),
                };
                let sql = format!("SELECT \"{column}\" FROM \"main\".\"bad_{column}\"");
                misfits.push((sql, Field::new(column, data_type, true)));
            }
        }
        misfits
    }

    fn endless(&self) -> String {
        "SELECT count(*) AS n FROM main.many a CROSS JOIN main.many b WHERE a.words || b.words = 'x'".into()
    }

    fn huge(&self, bytes: usize) -> String {
        format!("SELECT repeat('x', {bytes}) AS words")
    }

    fn writes(&self) -> Vec<String> {
        [
            "INSERT INTO main.everything (id) VALUES (99)",
            "CREATE TABLE main.other AS SELECT 1 AS id",
            "CREATE VIEW main.other AS SELECT 1 AS id",
            "CREATE EXTERNAL TABLE other STORED AS CSV LOCATION '/etc/passwd'",
            "DROP TABLE main.everything",
            "COPY (SELECT 1 AS id) TO '/tmp/greylag-must-not-be.csv'",
            "SET datafusion.execution.batch_size = 1",
            "EXPLAIN SELECT 1 AS id",
            "DESCRIBE main.everything",
            "SHOW TABLES",
            "SELECT id FROM '/etc/passwd'",
            "SELECT table_name AS id FROM information_schema.tables",
            "SELECT 1 AS id; SELECT 2 AS id",
            "PREPARE p AS SELECT 1 AS id",
            "",
        ]
        .map(String::from)
        .to_vec()
    }

    async fn running(&self) -> usize {
        let opened = self.opened.lock().unwrap();
        opened.as_ref().map_or(0, |connector| connector.source.running.load(std::sync::atomic::Ordering::SeqCst))
    }

    async fn lose(&self) -> Loss {
        fs::remove_dir_all(self.dir.path()).unwrap();
        Loss::Next
    }
}

fn parquet_bytes(batches: &[RecordBatch], schema: SchemaRef) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A row group's columns are held in memory while they are read.
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(ROW_GROUP_ROWS)).build();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema, Some(properties)).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.close().unwrap();
    bytes
}

fn csv_bytes(batches: &[RecordBatch], schema: &Schema) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(schema.fields().iter().map(|field| field.name())).unwrap();
    for batch in batches {
        for row in 0..batch.num_rows() {
            writer.write_record(batch.columns().iter().map(|column| csv_value(column, row))).unwrap();
        }
    }
    writer.into_inner().unwrap()
}

fn csv_value(column: &ArrayRef, row: usize) -> Vec<u8> {
    if column.is_null(row) {
        return b"\\N".to_vec();
    }
    match column.data_type() {
        DataType::Binary => column.as_binary::<i32>().value(row).to_vec(),
        DataType::Utf8 => column.as_string::<i32>().value(row).as_bytes().to_vec(),
        _ => text(column, row).into_bytes(),
    }
}

fn text(column: &ArrayRef, row: usize) -> String {
    match column.data_type() {
        DataType::Float64 => format!("{:e}", column.as_primitive::<Float64Type>().value(row)),
        _ => array_value_to_string(column, row).unwrap(),
    }
}

fn ndjson_text(batches: &[RecordBatch]) -> String {
    let mut out = String::new();
    for batch in batches {
        let schema = batch.schema();
        for row in 0..batch.num_rows() {
            let mut parts = Vec::new();
            for (column, field) in batch.columns().iter().zip(schema.fields()) {
                let value = match column.data_type() {
                    // A key that is missing and one that is null mean the same.
                    _ if column.is_null(row) && row % 2 == 0 => continue,
                    _ if column.is_null(row) => "null".to_owned(),
                    DataType::Binary => continue,
                    DataType::Utf8 => serde_json::to_string(column.as_string::<i32>().value(row)).unwrap(),
                    DataType::Date32 | DataType::Timestamp(..) => format!("\"{}\"", text(column, row)),
                    _ => text(column, row),
                };
                parts.push(format!("\"{}\":{value}", field.name()));
            }
            writeln!(out, "{{{}}}", parts.join(",")).unwrap();
        }
    }
    out
}

async fn ask(connector: &FilesConnector, sql: &str, fields: &[(&str, DataType)]) -> Result<Vec<RecordBatch>> {
    let fields: Vec<Field> = fields.iter().map(|(name, t)| Field::new(*name, t.clone(), true)).collect();
    connector.query(query(sql, Schema::new(fields))).await?.try_collect().await
}

fn query(sql: &str, schema: Schema) -> ConnectorQuery {
    ConnectorQuery {
        sql: sql.into(),
        schema: Arc::new(schema),
        batch_rows: 100,
        timeout: Duration::from_secs(30),
        cancel: CancellationToken::new(),
        label: "test".into(),
    }
}

async fn integers(connector: &FilesConnector, sql: &str) -> Result<Vec<i64>> {
    let batches = ask(connector, sql, &[("c", DataType::Int64)]).await?;
    Ok(batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect())
}

/// Rows as texts, NULL as `-`.
async fn rows(connector: &FilesConnector, table: &str) -> Vec<String> {
    let schema = table_of(connector, table).await.columns.0;
    let sql = format!("SELECT * FROM main.\"{table}\"");
    let batches: Vec<RecordBatch> = connector
        .query(query(&sql, schema.as_ref().clone()))
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap_or_else(|error: MeshError| panic!("{error}"));
    let row = |batch: &RecordBatch, row: usize| {
        let value = |column: &ArrayRef| match column.is_null(row) {
            true => "-".to_owned(),
            false => array_value_to_string(column, row).unwrap(),
        };
        batch.columns().iter().map(value).collect::<Vec<_>>().join("|")
    };
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|at| row(batch, at)).collect::<Vec<_>>()).collect()
}

async fn table_of(connector: &FilesConnector, name: &str) -> TableSchema {
    let schema = connector.schema().await.unwrap();
    schema.tables.into_iter().find(|table| table.name == name).unwrap()
}

async fn names(connector: &FilesConnector) -> Vec<String> {
    connector.schema().await.unwrap().tables.into_iter().map(|table| table.name).collect()
}

async fn types(connector: &FilesConnector, name: &str) -> Vec<(String, DataType)> {
    let schema = table_of(connector, name).await.columns.0;
    schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
}

fn numbers(values: &[i64]) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![Field::new("c", DataType::Int64, false)]));
    RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(values.to_vec()))]).unwrap()
}

#[test]
fn options_are_checked_without_the_files() {
    for (options, part) in [
        (vec![], "`path` is missing"),
        (vec![("path", "lake")], "must be absolute"),
        (vec![("path", "/x"), ("fromat", "csv")], "did you mean `format`?"),
        (vec![("path", "/x"), ("format", "tsv")], "must be one of `auto`, `parquet`, `csv`, `ndjson`"),
        (vec![("path", "/x"), ("delimiter", "||")], "`delimiter` must be one"),
        (vec![("path", "/x"), ("sample_rows", "0")], "between 1 and"),
        (vec![("path", "/x"), ("types", "a.b=decimal(5)x")], "a comma is missing"),
    ] {
        let error = validate(&spec(&options)).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidResource);
        assert!(error.message.contains(part), "{error}");
    }
    validate(&spec(&[("path", "/no/such"), ("delimiter", "tab"), ("header", "false"), ("null", "\\N")])).unwrap();
}

#[tokio::test]
async fn a_folder_makes_tables_of_files_and_of_folders() {
    let folder = Folder::new(Format::Csv);
    folder.file("one.csv", "c\n1\n").file("two.jsonl", "{\"c\":2}\n").parquet("three.parquet", &numbers(&[3]));
    folder.parquet("many/b.parquet", &numbers(&[5])).parquet("many/a.parquet", &numbers(&[4]));
    folder.parquet("many/deeper/c.parquet", &numbers(&[6]));
    folder.file("_SUCCESS", "").file(".hidden.csv", "c\n9\n").file("many/_delta.parquet", "x").file("notes.txt", "x");
    fs::create_dir(folder.path("nothing")).unwrap();
    let connector = folder.connect(&[]).await.unwrap();
    assert_eq!(names(&connector).await, ["many", "one", "three", "two"]);
    assert_eq!(integers(&connector, "SELECT c FROM main.many ORDER BY c").await.unwrap(), [4, 5, 6]);
    assert_eq!(table_of(&connector, "many").await.rows, Some(3));
    // What is new is known after the next look, and not before.
    folder.parquet("many/d.parquet", &numbers(&[7])).file("four.csv", "c\n4\n");
    assert_eq!(integers(&connector, "SELECT count(*) AS c FROM main.many").await.unwrap(), [3]);
    assert_eq!(integers(&connector, "SELECT c FROM main.four").await.unwrap_err().code, ErrorCode::SourceRefused);
    assert_eq!(names(&connector).await, ["four", "many", "one", "three", "two"]);
    assert_eq!(integers(&connector, "SELECT count(*) AS c FROM main.many").await.unwrap(), [4]);
    assert_eq!(integers(&connector, "SELECT c FROM main.four").await.unwrap(), [4]);
}

#[tokio::test]
async fn a_file_and_a_pattern_make_tables_too() {
    let folder = Folder::new(Format::Csv);
    folder.file("in/a.csv", "c\n1\n").file("in/b.csv", "c\n2\n").file("in/x y [1].csv", "c\n3\n");
    folder.file("in/sub/p1.csv", "c\n4\n").file("in/sub/p2.csv", "c\n5\n").file("in/.sub/p3.csv", "c\n6\n");
    let tables =
        async |below: &str, options: &[(&str, &str)]| names(&folder.connect_to(below, options).await.unwrap()).await;
    assert_eq!(tables("in/a.csv", &[]).await, ["a"]);
    assert_eq!(tables("in/x y [1].csv", &[]).await, ["x y [1]"]);
    assert_eq!(tables("in/?.csv", &[]).await, ["a", "b"]);
    assert_eq!(tables("in/*/*.csv", &[]).await, ["sub"]);
    assert_eq!(tables("in/**/*.csv", &[]).await, ["a", "b", "sub", "x y [1]"]);
    assert_eq!(tables("in/[ab].csv", &[("table", "both")]).await, ["both"]);
    let connector = folder.connect_to("in/**/*.csv", &[("table", "all")]).await.unwrap();
    assert_eq!(integers(&connector, "SELECT c FROM main.all ORDER BY c").await.unwrap(), [1, 2, 3, 4, 5]);
    let connector = folder.connect_to("in/x y [1].csv", &[]).await.unwrap();
    assert_eq!(integers(&connector, "SELECT c FROM main.\"x y [1]\"").await.unwrap(), [3]);
    let odd = "100% ä?#~&.parquet";
    folder.parquet(&format!("odd/{odd}"), &numbers(&[7]));
    let connector = folder.connect_to("odd", &[]).await.unwrap();
    assert_eq!(integers(&connector, "SELECT c FROM main.\"100% ä?#~&\" WHERE c > 6").await.unwrap(), [7]);
    let error = folder.connect_to("out/*.csv", &[]).await.err().unwrap();
    assert_eq!(error.code, ErrorCode::SourceUnreachable, "{error}");
}

#[tokio::test]
async fn what_cannot_be_a_table_is_said() {
    let refusal = async |folder: &Folder, options: &[(&str, &str)]| {
        let error = folder.connect(options).await.unwrap().schema().await.unwrap_err();
        assert!(matches!(error.code, ErrorCode::SourceRefused | ErrorCode::InvalidResource), "{error}");
        assert_eq!(error.source.as_ref().unwrap().as_str(), "lake");
        error.message
    };
    let new = || Folder::new(Format::Csv);
    let folder = new();
    folder.file("a.csv", "c\n").file("a.ndjson", "{}");
    assert!(refusal(&folder, &[]).await.contains("would be the table `a`"));
    let folder = new();
    folder.file("a.csv", "c\n").file("a/b.csv", "c\n");
    assert!(refusal(&folder, &[]).await.contains("would be the table `a`"));
    let folder = new();
    folder.file("a/a.csv", "c\n").file("a/b.ndjson", "{}");
    assert!(refusal(&folder, &[]).await.contains("two formats, `csv` and `ndjson`"));
    let folder = new();
    folder.file("a/year=2024/a.csv", "c\n");
    assert!(refusal(&folder, &[]).await.contains("looks like a Hive partition"));
    let folder = new();
    folder.file("a.csv", "");
    assert!(refusal(&folder, &[]).await.contains("a.csv` is empty"));
    let folder = new();
    folder.file("a.csv", "c,c\n1,2\n");
    assert!(refusal(&folder, &[]).await.contains("has the column `c` twice"));
    let folder = new();
    folder.file("a/1.csv", "c\n1\n").file("a/2.csv", "d\n1\n");
    assert!(refusal(&folder, &[]).await.contains("the columns of"));
    let folder = new();
    folder.file("a.parquet", "PAR1 this is none PAR1");
    assert!(refusal(&folder, &[]).await.contains("cannot be read as Parquet"));
    let folder = new();
    folder.file("a.ndjson", "[1,2]\n");
    assert!(refusal(&folder, &[]).await.contains("line 1 is not a JSON object"));
    let folder = new();
    folder.file("a.csv", "c\n1\n");
    assert!(refusal(&folder, &[("types", "a.d=date")]).await.contains("`a` has no column `d`"));
    let folder = new();
    folder.parquet("a.parquet", &numbers(&[1]));
    assert!(refusal(&folder, &[("types", "a.c=date")]).await.contains("say their types themselves"));
    let folder = new();
    let texts = RecordBatch::try_from_iter([("c", Arc::new(StringArray::from(vec!["x"])) as ArrayRef)]).unwrap();
    folder.parquet("a/1.parquet", &numbers(&[1])).parquet("a/2.parquet", &texts);
    assert!(refusal(&folder, &[]).await.contains("column `c` is `Utf8`"));
}

#[tokio::test]
async fn links_lead_nowhere_outside() {
    use std::os::unix::fs::symlink;
    let outside = Folder::new(Format::Csv);
    outside.file("secret.csv", "c\n42\n").file("dir/secret.csv", "c\n42\n");
    for (link, target) in [("in.csv", "secret.csv"), ("in", "dir")] {
        let folder = Folder::new(Format::Csv);
        symlink(outside.path(target), folder.path(link)).unwrap();
        let error = folder.connect(&[]).await.unwrap().schema().await.unwrap_err();
        assert_eq!(error.code, ErrorCode::SourceRefused);
        assert!(error.message.contains("link"), "{error}");
    }
    let folder = Folder::new(Format::Csv);
    folder.file("real.csv", "c\n1\n");
    symlink(folder.path("real.csv"), folder.path("alias.csv")).unwrap();
    assert_eq!(names(&folder.connect(&[]).await.unwrap()).await, ["alias", "real"]);
    // The path itself may be a link, and whoever follows it stays inside what it names.
    let link = Folder::new(Format::Csv);
    symlink(folder.dir.path(), link.path("lake")).unwrap();
    assert_eq!(names(&link.connect_to("lake", &[]).await.unwrap()).await, ["alias", "real"]);
    let error = link.connect_to("lake/../../etc/*.csv", &[]).await.map(|_| ()).err();
    assert!(error.is_none_or(|error| error.code == ErrorCode::SourceUnreachable));
}

#[tokio::test]
async fn a_sample_finds_types_that_lose_nothing() {
    let folder = Folder::new(Format::Csv);
    folder.file(
        "t.csv",
        "i,f,b,d,ts,zip,none,mixed,\"quoted, name\"\n\
         1,1.5,true,2024-02-29,2024-02-29 10:00:00,01234,,1,\"a \"\"b\"\"\nc\"\n\
         ,2,,,,99999,,x,\n",
    );
    let connector = folder.connect(&[("types", "t.mixed=text")]).await.unwrap();
    let expected = [
        ("i", DataType::Int64),
        ("f", DataType::Float64),
        ("b", DataType::Boolean),
        ("d", DataType::Date32),
        ("ts", DataType::Timestamp(TimeUnit::Microsecond, None)),
        ("zip", DataType::Utf8),
        ("none", DataType::Utf8),
        ("mixed", DataType::Utf8),
        ("quoted, name", DataType::Utf8),
    ];
    assert_eq!(types(&connector, "t").await, expected.map(|(name, t)| (name.to_owned(), t)));
    assert_eq!(
        rows(&connector, "t").await,
        ["1|1.5|true|2024-02-29|2024-02-29T10:00:00|01234|-|1|a \"b\"\nc", "-|2.0|-|-|-|99999|-|x|-"]
    );
    assert_eq!(integers(&connector, "SELECT count(*) AS c FROM main.t").await.unwrap(), [2]);
    assert_eq!(integers(&connector, "SELECT i AS c FROM main.t WHERE zip = '01234'").await.unwrap(), [1]);
}

#[tokio::test]
async fn what_a_sample_did_not_show_is_refused_where_it_stands() {
    let folder = Folder::new(Format::Csv);
    folder.file("t.csv", "a,c\n1,1\n2,2\n3,hunter2\n");
    let connector = folder.connect(&[("sample_rows", "2")]).await.unwrap();
    let error = integers(&connector, "SELECT c FROM main.t").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::ValueOutOfRange);
    assert!(error.message.contains("`c`") && error.message.contains("t.csv` line 4"), "{error}");
    assert!(!error.message.contains("hunter2"), "{error}");
    // A column that nobody asks for is not converted.
    assert_eq!(integers(&connector, "SELECT a AS c FROM main.t").await.unwrap(), [1, 2, 3]);
    let connector = folder.connect(&[]).await.unwrap();
    assert_eq!(types(&connector, "t").await[1].1, DataType::Utf8);
}

#[tokio::test]
async fn ragged_and_headless_files_are_read_as_they_are_or_not_at_all() {
    let folder = Folder::new(Format::Csv);
    folder.file("t.csv", "1;x\n2;y\n").file("ragged.csv", "1;x\n2;y;z\n");
    let connector = folder.connect(&[("header", "false"), ("delimiter", ";"), ("sample_rows", "1")]).await.unwrap();
    let expected = [("column_1".to_owned(), DataType::Int64), ("column_2".to_owned(), DataType::Utf8)];
    assert_eq!(types(&connector, "t").await, expected);
    assert_eq!(rows(&connector, "t").await, ["1|x", "2|y"]);
    let error = integers(&connector, "SELECT column_1 AS c FROM main.ragged").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SourceRefused);
    assert!(error.message.contains("line 2 has 3 fields where 2 are expected"), "{error}");
}

#[tokio::test]
async fn json_keeps_every_digit_and_every_kind() {
    let folder = Folder::new(Format::Ndjson);
    folder.file(
        "t.ndjson",
        "{\"n\":1,\"d\":0.10,\"t\":\"x\",\"m\":1,\"o\":{\"a\":1},\"l\":[1,[2]]}\n\n\
         {\"late\":true,\"n\":9223372036854775807,\"d\":12345678901234567890123.45,\"m\":\"two\",\"t\":\"\\u00e9\\n\"}\n\
         {\"n\":null,\"big\":18446744073709551615}\n",
    );
    let connector = folder.connect(&[("types", "t.d=decimal(38,2), t.never=date")]).await.unwrap();
    let expected = [
        ("n", DataType::Int64),
        ("d", DataType::Decimal128(38, 2)),
        ("t", DataType::Utf8),
        ("m", DataType::Utf8),
        ("late", DataType::Boolean),
        ("big", DataType::Utf8),
        ("never", DataType::Date32),
    ];
    assert_eq!(types(&connector, "t").await, expected.map(|(name, t)| (name.to_owned(), t)));
    assert_eq!(
        rows(&connector, "t").await,
        [
            "1|0.10|x|1|-|-|-",
            "9223372036854775807|12345678901234567890123.45|é\n|two|true|-|-",
            "-|-|-|-|-|18446744073709551615|-"
        ]
    );
    let nested = [("l".to_owned(), "object or list".to_owned()), ("o".to_owned(), "object or list".to_owned())];
    assert_eq!(table_of(&connector, "t").await.unsupported, nested);
    assert_eq!(integers(&connector, "SELECT count(*) AS c FROM main.t").await.unwrap(), [3]);
    // A fraction further down is not cut off.
    folder.file("cut.ndjson", "{\"c\":1}\n{\"c\":1.5}\n");
    let connector = folder.connect(&[("sample_rows", "1"), ("types", "t.never=date")]).await.unwrap();
    let error = integers(&connector, "SELECT c FROM main.cut").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::ValueOutOfRange, "{error}");
    assert!(error.message.contains("row 2"), "{error}");
    folder.file("torn.ndjson", "{\"c\":1}\n{\"c\":hunter2\n");
    let connector = folder.connect(&[("sample_rows", "1")]).await.unwrap();
    let error = integers(&connector, "SELECT c FROM main.torn").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SourceRefused, "{error}");
    assert!(!error.message.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn parquet_is_delivered_plain_and_merged_by_name() {
    let folder = Folder::new(Format::Parquet);
    let dictionary: DictionaryArray<Int32Type> = vec![Some("red"), None, Some("red")].into_iter().collect();
    let views = StringViewArray::from(vec!["a rather long text that is no inline view", "b", "c"]);
    let batch = RecordBatch::try_from_iter([
        ("colour", Arc::new(dictionary) as ArrayRef),
        ("words", Arc::new(views) as ArrayRef),
        ("small", Arc::new(Int32Array::from(vec![1, 2, 3])) as ArrayRef),
    ])
    .unwrap();
    folder.parquet("t/1.parquet", &batch);
    let more = RecordBatch::try_from_iter([
        ("new", Arc::new(Int64Array::from(vec![7])) as ArrayRef),
        ("words", Arc::new(StringArray::from(vec!["d"])) as ArrayRef),
    ])
    .unwrap();
    folder.parquet("t/2.parquet", &more);
    let connector = folder.connect(&[]).await.unwrap();
    let expected =
        [("colour", DataType::Utf8), ("words", DataType::Utf8), ("small", DataType::Int32), ("new", DataType::Int64)];
    assert_eq!(types(&connector, "t").await, expected.map(|(name, t)| (name.to_owned(), t)));
    let mut got = rows(&connector, "t").await;
    got.sort();
    assert_eq!(got, ["-|b|2|-", "-|d|-|7", "red|a rather long text that is no inline view|1|-", "red|c|3|-"]);
    let table = table_of(&connector, "t").await;
    assert_eq!(table.rows, Some(4));
    assert!(table.native.iter().all(|native| native.order_is_binary));
    // A wider integer is exact; a narrower type that cannot hold every value is not even tried.
    assert_eq!(integers(&connector, "SELECT small AS c FROM main.t WHERE small = 3").await.unwrap(), [3]);
    let error = ask(&connector, "SELECT words AS c FROM main.t", &[("c", DataType::Date32)]).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::UnsupportedType, "{error}");
}

#[tokio::test]
async fn a_file_that_changes_is_noticed_before_and_while_it_is_read() {
    let folder = Folder::new(Format::Parquet);
    let file = folder.path("t.parquet");
    folder.parquet("t.parquet", &numbers(&(0..100_000).collect::<Vec<_>>()));
    let connector = folder.connect(&[]).await.unwrap();
    assert_eq!(integers(&connector, "SELECT count(*) AS c FROM main.t").await.unwrap(), [100_000]);
    // Before: what is there now counts, also where the answer comes from the footer alone.
    folder.parquet("t.parquet", &numbers(&[1, 2, 3]));
    assert_eq!(integers(&connector, "SELECT count(*) AS c FROM main.t").await.unwrap(), [3]);
    assert_eq!(integers(&connector, "SELECT c FROM main.t").await.unwrap(), [1, 2, 3]);
    // While: the rows that came are not the rows of any one state, so there is no end.
    folder.parquet("t.parquet", &numbers(&(0..100_000).collect::<Vec<_>>()));
    let schema = numbers(&[]).schema().as_ref().clone();
    let mut stream = connector.query(query("SELECT c FROM main.t", schema.clone())).await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    fs::write(folder.path("_new"), parquet_bytes(&[numbers(&[9])], numbers(&[]).schema())).unwrap();
    fs::rename(folder.path("_new"), &file).unwrap();
    let error = stream.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SourceUnreachable, "{error}");
    // Gone: an empty table would be a lie.
    let mut stream = connector.query(query("SELECT c FROM main.t", schema)).await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    fs::remove_file(&file).unwrap();
    assert_eq!(stream.try_collect::<Vec<_>>().await.unwrap_err().code, ErrorCode::SourceUnreachable);
    let error = integers(&connector, "SELECT c FROM main.t").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SourceUnreachable, "{error}");
    assert!(connector.ping().await.is_ok(), "the folder is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_come_in_the_same_order_every_time() {
    for format in [Format::Parquet, Format::Csv, Format::Ndjson] {
        let folder = Folder::new(format);
        for part in 0..7i64 {
            let batch = numbers(&(part * 10_000..part * 10_000 + 5000).collect::<Vec<_>>());
            match format {
                Format::Parquet => drop(folder.parquet(&format!("t/{part}.parquet"), &batch)),
                Format::Csv => drop(folder.file(&format!("t/{part}.csv"), csv_bytes(&[batch], &numbers(&[]).schema()))),
                Format::Ndjson => drop(folder.file(&format!("t/{part}.ndjson"), ndjson_text(&[batch]))),
            }
        }
        let connector = folder.connect(&[]).await.unwrap();
        let first = integers(&connector, "SELECT c FROM main.t WHERE c % 3 > 0").await.unwrap();
        assert_eq!(first.len(), 35_000 - first_thirds());
        for _ in 0..5 {
            assert_eq!(integers(&connector, "SELECT c FROM main.t WHERE c % 3 > 0").await.unwrap(), first);
        }
    }
}

/// Of the rows above, those that three divides.
fn first_thirds() -> usize {
    (0..7i64).flat_map(|part| part * 10_000..part * 10_000 + 5000).filter(|c| c % 3 == 0).count()
}

#[tokio::test]
async fn estimates_are_exact_for_parquet_and_near_for_text() {
    let folder = Folder::new(Format::Csv);
    let lines: String = (0..20_000).fold(String::from("a,b\n"), |mut text, at| {
        writeln!(text, "{at},some text of a length").unwrap();
        text
    });
    folder.file("t.csv", &lines);
    let connector = folder.connect(&[("sample_rows", "1000")]).await.unwrap();
    let table = table_of(&connector, "t").await;
    assert_eq!(table.bytes, Some(lines.len() as u64));
    assert!((15_000..=25_000).contains(&table.rows.unwrap()), "{:?}", table.rows);
}
