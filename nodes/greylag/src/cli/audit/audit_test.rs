#![allow(clippy::unwrap_used, clippy::panic)]

//! Folders as nodes leave them, exported and read back, and told apart from others.

use std::path::Path;

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::UInt64Type,
};
use greylag_governance::audit::{
    AuditLog, Chain, ChangeRecord, Folder, Opening, Outcome, Rotation, SourceRead, StatementFacts, StatementRecord,
    StepTime, TableRead, Who, segment_files,
};
use greylag_protocol::{
    MeshId,
    principal::{Principal, PrincipalKind},
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{export::Format, *};

fn who() -> Who {
    Who::of(&Principal {
        id: "ada".into(),
        kind: PrincipalKind::Agent,
        roles: vec!["doctor".into(), "night, shift".into()],
        attributes: [("acts_for".to_owned(), "grace".to_owned())].into(),
    })
}

fn query(number: u32) -> QueryId {
    format!("00000000-0000-4000-8000-{number:012x}").parse().unwrap()
}

fn statement(number: u32) -> AuditRecord {
    let facts = StatementFacts {
        query: query(number),
        coordinator: NodeId(1),
        door: "flight".into(),
        client: Some("10.0.0.7".into()),
        who: who(),
        action: "select".into(),
        statement: "SELECT a FROM t\nWHERE b = ?".into(),
        tables: vec![
            TableRead { table: "pg.public.t".into(), columns: Some(vec!["a".into(), "b".into()]) },
            TableRead { table: "pg.public.u".into(), columns: None },
        ],
        decision: None,
    };
    AuditRecord::Statement(Box::new(StatementRecord {
        at_unix_ms: 1_700_000_000_123,
        facts,
        sources: vec![SourceRead { source: "pg".into(), edge: NodeId(2), attempts: 1, rows: 9, bytes: 90 }],
        rows: 5,
        bytes: 50,
        attempts: 1,
        restarts: 0,
        cost_micro_credits: 7,
        steps: vec![StepTime { step: "decision".into(), us: 12 }],
        duration_us: 1000,
        outcome: Outcome::Failed,
        code: Some("GL3001".into()),
        cut: false,
    }))
}

fn change() -> AuditRecord {
    AuditRecord::Change(Box::new(ChangeRecord {
        at_unix_ms: 1_700_000_000_124,
        who: who(),
        door: "flight".into(),
        client: None,
        call: "policy.put".into(),
        what: "doctors".into(),
        epoch_before: 3,
        epoch_after: None,
        outcome: Outcome::Denied,
        code: Some("GL2003".into()),
        cut: false,
    }))
}

fn folder(root: &Path, node: u64, records: Vec<AuditRecord>) -> PathBuf {
    let path = root.join(format!("n{node}/audit"));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let chain = Chain { mesh: "00000000-0000-4000-8000-0000000000aa".parse::<MeshId>().unwrap(), node: NodeId(node) };
    let opening = Opening {
        chain,
        known: None,
        rotation: Rotation { bytes_max: 1 << 20, age_ms_max: u64::MAX },
        release: "0.1.0".into(),
        now_unix_ms: 1_700_000_000_000,
    };
    let mut log = AuditLog::open(Box::new(Folder::create(path.clone()).unwrap()), opening).unwrap();
    log.append(1_700_000_000_200, records).unwrap();
    path
}

fn texts(batch: &RecordBatch, column: &str, row: usize) -> Vec<String> {
    let list = batch.column_by_name(column).unwrap().as_list::<i32>().value(row);
    let texts = list.as_string::<i32>();
    (0..texts.len()).map(|i| texts.value(i).to_owned()).collect()
}

#[test]
fn a_folder_is_exported_as_rows_in_both_formats() {
    let root = tempfile::tempdir().unwrap();
    folder(root.path(), 1, vec![statement(1), change()]);
    folder(root.path(), 2, vec![]);
    let dirs = [root.path().to_owned()];
    let out = root.path().join("all.parquet");
    let exported = export::run(Format::Parquet, &out, &dirs).unwrap();
    assert_eq!((exported.folders, exported.records, exported.unreadable), (2, 6, 0));
    let file = std::fs::File::open(&out).unwrap();
    let batches: Vec<RecordBatch> =
        ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().map(Result::unwrap).collect();
    let [batch] = batches.as_slice() else { panic!("{} batches", batches.len()) };
    let text = |column: &str, row: usize| {
        let texts = batch.column_by_name(column).unwrap().as_string::<i32>();
        (!texts.is_null(row)).then(|| texts.value(row).to_owned())
    };
    let number = |column: &str, row: usize| {
        let numbers = batch.column_by_name(column).unwrap().as_primitive::<UInt64Type>();
        (!numbers.is_null(row)).then(|| numbers.value(row))
    };
    let kinds: Vec<_> = (0..6).map(|row| text("kind", row).unwrap()).collect();
    assert_eq!(kinds, ["segment", "opened", "statement", "change", "segment", "opened"]);
    assert_eq!((number("node", 2), number("sequence", 2), number("rows", 2)), (Some(1), Some(3), Some(5)));
    assert_eq!(
        (text("acts_for", 2), text("code", 2), text("verdict", 2)),
        (Some("grace".into()), Some("GL3001".into()), None)
    );
    assert_eq!(texts(batch, "roles", 2), ["doctor", "night, shift"]);
    assert_eq!(texts(batch, "columns", 2), ["pg.public.t.a", "pg.public.t.b", "pg.public.u.*"]);
    assert_eq!((text("call", 3), text("outcome", 3)), (Some("policy.put".into()), Some("denied".into())));
    assert_eq!((number("epoch_before", 3), number("epoch_after", 3), number("node", 5)), (Some(3), None, Some(2)));

    let lines = root.path().join("all.ndjson");
    export::run(Format::Ndjson, &lines, &dirs).unwrap();
    let content = std::fs::read_to_string(&lines).unwrap();
    let rows: Vec<serde_json::Value> = content.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((rows.len(), rows[2]["statement"].as_str()), (6, Some("SELECT a FROM t\nWHERE b = ?")));
    assert!(export::run(Format::Ndjson, &lines, &dirs).is_err(), "it is there already");
}

#[test]
fn folders_are_found_below_and_others_are_told() {
    let root = tempfile::tempdir().unwrap();
    let one = folder(root.path(), 1, vec![]);
    folder(root.path(), 2, vec![]);
    assert_eq!(find(&[root.path().to_owned()]).unwrap().len(), 2);
    assert_eq!(find(&[root.path().to_owned(), one.clone()]).unwrap().len(), 2, "each once");
    assert!(find(&[one.clone(), std::env::temp_dir().join("no such folder")]).is_err());
    let empty = tempfile::tempdir().unwrap();
    assert!(find(&[empty.path().to_owned()]).unwrap_err().to_string().contains("no audit files"));
}

#[test]
fn a_flipped_byte_is_a_failure_and_its_line_is_told() {
    let root = tempfile::tempdir().unwrap();
    let path = folder(root.path(), 1, vec![statement(1), statement(2)]);
    let dirs = [root.path().to_owned()];
    let success = format!("{:?}", ExitCode::SUCCESS);
    assert_eq!(format!("{:?}", prove(&dirs, &Knowledge::default(), false).unwrap()), success);
    let file = path.join(&segment_files(&Folder::at(path.clone())).unwrap()[0].1);
    let mut content = std::fs::read(&file).unwrap();
    let at = content.windows(8).rposition(|w| w == b"\"rows\":5").unwrap() + 7;
    content[at] = b'6';
    std::fs::write(&file, content).unwrap();
    assert_ne!(format!("{:?}", prove(&dirs, &Knowledge::default(), true).unwrap()), success);

    let folders = find(&dirs).unwrap();
    let copies: Vec<Copy<'_>> = folders.iter().map(|f| Copy { label: "n1".into(), files: f }).collect();
    let report = verify(&copies, &Knowledge::default()).unwrap();
    let mut out = Vec::new();
    write_report(&report, &mut out).unwrap();
    let out = String::from_utf8(out).unwrap();
    let expected = "changed: n1 record 4 (n1/audit-00000000000000000001.ndjson, line 4): its hash is wrong\n";
    assert!(out.starts_with(expected) && out.contains("NOT CLEAN: 1 findings"), "{out}");
}
