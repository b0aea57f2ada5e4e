//! TPC-H lineitem, whole: the rows are those of the generator, and (by `--ignored`) what reading them costs.

use std::{fmt::Write, time::Instant};

use arrow::{array::RecordBatch, compute::cast};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tpchgen::generators::LineItemGenerator;
use tpchgen_arrow::LineItemArrow;

use super::{Fixture, query};

const TABLE: &str = "CREATE TABLE lineitem (l_orderkey int8 NOT NULL, l_partkey int8 NOT NULL, l_suppkey int8 NOT NULL, \
    l_linenumber int4 NOT NULL, l_quantity numeric(15,2) NOT NULL, l_extendedprice numeric(15,2) NOT NULL, \
    l_discount numeric(15,2) NOT NULL, l_tax numeric(15,2) NOT NULL, l_returnflag text NOT NULL, \
    l_linestatus text NOT NULL, l_shipdate date NOT NULL, l_commitdate date NOT NULL, l_receiptdate date NOT NULL, \
    l_shipinstruct text NOT NULL, l_shipmode text NOT NULL, l_comment text NOT NULL)";

async fn load(fixture: &Fixture, scale: f64) -> usize {
    let sink = fixture.admin.copy_in("COPY lineitem FROM STDIN (DELIMITER '|')").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    let (mut text, mut rows) = (String::new(), 0);
    for item in LineItemGenerator::new(scale, 1, 1).iter() {
        let start = text.len();
        write!(text, "{item}").unwrap();
        assert!(text.len() > start && text.ends_with('|'));
        text.pop();
        text.push('\n');
        rows += 1;
        if text.len() > 1 << 20 {
            sink.send(Bytes::from(std::mem::take(&mut text))).await.unwrap();
        }
    }
    sink.send(Bytes::from(text)).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), rows as u64);
    fixture.admin.batch_execute("VACUUM ANALYZE lineitem").await.unwrap();
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lineitem_arrives_as_it_was_made() {
    let Some(fixture) = Fixture::new("lineitem", TABLE).await else { return };
    let rows = load(&fixture, 0.01).await;
    let schema = fixture.connector.schema().await.unwrap().tables[0].columns.0.clone();
    // The server keeps rows in pages as they fit, and not as they came.
    let sql = format!("SELECT * FROM {}.lineitem ORDER BY l_orderkey, l_linenumber", fixture.schema);
    let batches = fixture.rows(&sql, schema.clone()).await.unwrap();
    assert!(batches.iter().rev().skip(1).all(|batch| batch.num_rows() == 1024));
    let got = arrow::compute::concat_batches(&schema, &batches).unwrap();
    let made: Vec<RecordBatch> =
        LineItemArrow::new(LineItemGenerator::new(0.01, 1, 1)).map(|batch| batch.unwrap()).collect();
    let made = arrow::compute::concat_batches(&made[0].schema(), &made).unwrap();
    assert_eq!((got.num_rows(), made.num_rows()), (rows, rows));
    for (index, field) in schema.fields().iter().enumerate() {
        let expected = cast(made.column(index), field.data_type()).unwrap();
        let differs =
            (0..rows).find(|row| got.column(index).slice(*row, 1).as_ref() != expected.slice(*row, 1).as_ref());
        assert_eq!(differs, None, "first row that differs in {}", field.name());
    }
}

/// CPU time of this process so far, user and system, in seconds (in hundredths).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = after.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: run it alone, with --ignored --nocapture"]
async fn measure_lineitem() {
    let Some(fixture) = Fixture::new("measure", TABLE).await else { return };
    let rows = load(&fixture, 0.1).await;
    let schema = fixture.connector.schema().await.unwrap().tables[0].columns.0.clone();
    let sql = format!("SELECT * FROM {}.lineitem", fixture.schema);
    for _ in 0..6 {
        let (cpu, wall) = (cpu_seconds(), Instant::now());
        let mut all = query(&sql, schema.clone());
        all.batch_rows = 8192;
        let mut stream = fixture.connector.query(all).await.unwrap();
        let (mut seen, mut bytes) = (0, 0);
        while let Some(batch) = stream.next().await {
            let batch = batch.unwrap();
            seen += batch.num_rows();
            bytes += batch.get_array_memory_size();
        }
        assert_eq!(seen, rows);
        println!(
            "{seen} rows, {} MB: {:.3} s wall, {:.2} CPU s in the client",
            bytes >> 20,
            wall.elapsed().as_secs_f64(),
            cpu_seconds() - cpu
        );
    }
    let key = format!("SELECT * FROM {}.lineitem WHERE l_orderkey = 7", fixture.schema);
    fixture.admin.batch_execute("CREATE INDEX ON lineitem (l_orderkey)").await.unwrap();
    let mut times: Vec<u128> = Vec::new();
    for _ in 0..2000 {
        let start = Instant::now();
        assert_eq!(fixture.rows(&key, schema.clone()).await.unwrap()[0].num_rows(), 7);
        times.push(start.elapsed().as_micros());
    }
    times.sort_unstable();
    println!("key look-up: p50 {} us, p99 {} us", times[1000], times[1980]);
}
