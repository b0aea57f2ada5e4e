//! The 22 queries over one, two and three sources, and what is sent to each source for them.

use greylag_protocol::schema::Dialect::{DataFusion, Sqlite};

use crate::{
    compare::same_rows,
    data::{TPCH_NAMES, tpch},
    world::World,
};

/// The queries' texts, as the demo and all other tests use them.
fn queries() -> Vec<(String, String)> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/sql/tpch");
    (1..=22)
        .map(|number| {
            let name = format!("q{number:02}");
            let sql = std::fs::read_to_string(format!("{dir}/{name}.sql")).unwrap();
            (name, sql)
        })
        .collect()
}

pub async fn all_agree(world: &World) {
    for (name, sql) in queries() {
        eprintln!("{name}");
        same_rows(world, &sql).await;
    }
}

#[tokio::test]
async fn one_source_of_files() {
    all_agree(&World::new(&[("lake", DataFusion, &tpch(&TPCH_NAMES))])).await;
}

#[tokio::test]
async fn one_source_of_sqlite() {
    all_agree(&World::new(&[("shop", Sqlite, &tpch(&TPCH_NAMES))])).await;
}

fn two() -> World {
    World::new(&[
        ("shop", Sqlite, &tpch(&["customer", "orders", "nation", "region"])),
        ("lake", DataFusion, &tpch(&["lineitem", "part", "partsupp", "supplier"])),
    ])
}

#[tokio::test]
async fn two_sources() {
    all_agree(&two()).await;
}

#[tokio::test]
async fn two_sources_the_other_way_round() {
    all_agree(&World::new(&[
        ("lake", DataFusion, &tpch(&["customer", "orders", "nation", "region"])),
        ("shop", Sqlite, &tpch(&["lineitem", "part", "partsupp", "supplier"])),
    ]))
    .await;
}

#[tokio::test]
async fn three_sources() {
    all_agree(&World::new(&[
        ("shop", Sqlite, &tpch(&["customer", "orders"])),
        ("lake", DataFusion, &tpch(&["lineitem", "part"])),
        ("office", Sqlite, &tpch(&["partsupp", "supplier", "nation", "region"])),
    ]))
    .await;
}

/// Set to write the file anew.
const UPDATE: &str = "GREYLAG_TEST_UPDATE";

#[tokio::test]
async fn what_is_sent_to_each_source() {
    let world = two();
    let mut text = String::from(
        "What is sent for the 22 queries with customer, orders, nation and region in SQLite (shop)\n\
         and lineitem, part, partsupp and supplier in files (lake).\n",
    );
    for (name, sql) in queries() {
        text.push_str(&format!("\n{name}\n"));
        for line in world.pushed(&sql).await {
            text.push_str(&format!("  {line}\n"));
        }
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tpch_pushed.txt");
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(file, &text).unwrap();
    }
    let known = std::fs::read_to_string(file).unwrap_or_default();
    if known != text {
        let changed: Vec<_> = text.lines().filter(|line| !known.lines().any(|old| old == *line)).collect();
        panic!("run with {UPDATE}=1 if this is meant:\n{}", changed.join("\n"));
    }
}
