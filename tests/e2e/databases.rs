//! PostgreSQL and MariaDB in the split: 22 of 22 queries equal, and for each the SQL that went to each source, as a
//! snapshot (`tests/sql/tpch/pushed.txt`; `GREYLAG_TEST_UPDATE=1` rewrites it).

use std::{fmt::Write as _, path::Path};

use arrow::{array::AsArray, datatypes::Int64Type};
use futures::StreamExt;
use greylag_node::{
    demo::{Databases, texts},
    tpch::{Reference, difference, queries},
};
use greylag_tests::{SCALE, Stage};

/// Databases in which there is nothing else.
fn databases() -> Option<Databases> {
    let url = |name| std::env::var(name).ok().map(|url| format!("{url}_e2e"));
    let (postgres, mysql) = (url("GREYLAG_TEST_POSTGRES_URL"), url("GREYLAG_TEST_MYSQL_URL"));
    (postgres.is_some() && mysql.is_some()).then_some(Databases { postgres, mysql })
}

#[tokio::test(flavor = "multi_thread")]
async fn tpch_over_five_kinds_of_source() -> anyhow::Result<()> {
    let Some(databases) = databases() else {
        println!(
            "SKIPPED: GREYLAG_TEST_POSTGRES_URL and GREYLAG_TEST_MYSQL_URL are not set (tests/databases start DIR)"
        );
        return Ok(());
    };
    let stage = Stage::set(&databases).await?;
    let reference = Reference::new(SCALE)?;
    let mut pushed = String::new();
    let mut wrong = Vec::new();
    for query in queries() {
        // Another coordinator for each query.
        let connection = stage.mesh.connection(query.number as usize % 3).await?;
        match connection.query(query.sql).await {
            Ok(got) => {
                let found = difference(&reference.answer(query.sql).await?, &got)?;
                if !found.is_none() {
                    wrong.push(format!("q{:02}: {found:?}", query.number));
                }
            }
            Err(error) => wrong.push(format!("q{:02}: {error}", query.number)),
        }
        let sql = format!("EXPLAIN {}", query.sql);
        let rows = connection.query(&sql).await?;
        writeln!(pushed, "-- q{:02}", query.number)?;
        let mut sent: Vec<String> = Vec::new();
        for (kind, text) in texts(&rows, 0)?.into_iter().zip(texts(&rows, 1)?) {
            if let Some(source) = kind.strip_prefix("subquery ") {
                // The node that serves it differs from run to run.
                let statement: Vec<&str> = text.lines().filter(|l| !l.starts_with("node:")).collect();
                sent.push(format!("{source}: {}", statement.join("\n")));
            }
        }
        sent.sort();
        writeln!(pushed, "{}\n", sent.join("\n"))?;
    }
    assert!(wrong.is_empty(), "{} of 22 differ:\n{}", wrong.len(), wrong.join("\n"));

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/tpch/pushed.txt");
    if std::env::var_os("GREYLAG_TEST_UPDATE").is_some() {
        std::fs::write(&file, &pushed)?;
    }
    let expected = std::fs::read_to_string(&file)?;
    assert_eq!(expected, pushed, "the SQL sent to the sources has changed: see {}", file.display());
    Ok(())
}

/// The database ends a connection in the middle of a long answer. What was read is not asked for again: the sub-query
/// goes on after its last key, and R2 is what the books say.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_the_order_of_a_key_goes_on_after_a_lost_connection() -> anyhow::Result<()> {
    const ROWS: i64 = 600_000;
    const SQL: &str = "SELECT id, pad FROM keyed ORDER BY id";
    let Ok(url) = std::env::var("GREYLAG_TEST_POSTGRES_URL") else {
        println!("SKIPPED: GREYLAG_TEST_POSTGRES_URL is not set (tests/databases start DIR)");
        return Ok(());
    };
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let setup = format!(
        "DROP TABLE IF EXISTS keyed; CREATE TABLE keyed (id int8 PRIMARY KEY, pad text); \
         INSERT INTO keyed SELECT id, repeat(md5(id::text), 8) FROM generate_series(1, {ROWS}) id; ANALYZE keyed"
    );
    client.batch_execute(&setup).await?;
    let stage = Stage::set(&Databases { postgres: Some(url), mysql: None }).await?;
    let connection = stage.mesh.connection(0).await?;
    let explained = texts(&connection.query(&format!("EXPLAIN {SQL}")).await?, 4)?;
    assert!(explained.iter().any(|rule| rule == "R0, R2, R3, R4, R5"), "{explained:?}");

    let (mut next, mut killed) = (1, 0);
    let (_, mut batches) = connection.stream(SQL).await?;
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        let ids = batch.column(0).as_primitive::<Int64Type>().values();
        assert!(ids.iter().copied().eq(next..next + ids.len() as i64), "out of order after {next}");
        next += ids.len() as i64;
        // Twice: what a first restart has gone on from is gone on from again.
        if next > ROWS / 5 * (killed + 1) && killed < 2 {
            killed += kill_reader(&client).await?;
        }
    }
    assert_eq!((next, killed), (ROWS + 1, 2));
    let attempts = "SELECT rule FROM system.subqueries WHERE sql LIKE '%keyed%' ORDER BY attempt";
    let rules = texts(&connection.query(attempts).await?, 0)?;
    assert_eq!(rules, ["first", "R2", "R2"]);
    client.batch_execute("DROP TABLE keyed").await?;
    Ok(())
}

/// Ends the connection that reads the table.
async fn kill_reader(client: &tokio_postgres::Client) -> anyhow::Result<i64> {
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
        WHERE query LIKE '/* greylag %' AND query LIKE '%keyed%' AND state = 'active'";
    Ok(client.query_one(sql, &[]).await?.get(0))
}
