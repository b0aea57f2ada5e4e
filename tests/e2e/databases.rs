//! PostgreSQL and MariaDB in the split: 22 of 22 queries equal, and for each the SQL that went to each source, as a
//! snapshot (`tests/sql/tpch/pushed.txt`; `GREYLAG_TEST_UPDATE=1` rewrites it).

use std::{fmt::Write as _, path::Path};

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
