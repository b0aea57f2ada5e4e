//! What the catalog says: kinds of tables, keys that hold and those that do not, collations, estimates.

use arrow::datatypes::DataType;
use greylag_protocol::schema::{Dialect, TableSchema};

use super::Fixture;

const SETUP: &str = r#"
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE DOMAIN word AS varchar(7) COLLATE "C" NOT NULL;
CREATE TABLE "Mixed ""Case" (
    id bigint PRIMARY KEY, "a b" text COLLATE "C", de text COLLATE "de-x-icu", plain varchar(10) NOT NULL UNIQUE,
    pad char(3) COLLATE "C", m mood, w word, f float8, n numeric(10,2), free numeric, d date, cash money, spot point,
    gone int, u uuid, l int[]);
ALTER TABLE "Mixed ""Case" DROP COLUMN gone;
INSERT INTO "Mixed ""Case" (id, plain, w, m) SELECT g, 'p' || g, 'w', 'ok' FROM generate_series(1, 1000) g;
CREATE UNIQUE INDEX ON "Mixed ""Case" (w, id);
CREATE UNIQUE INDEX ON "Mixed ""Case" (n) WHERE n > 0;
CREATE UNIQUE INDEX ON "Mixed ""Case" (lower(plain));
CREATE UNIQUE INDEX ON "Mixed ""Case" (d);
CREATE UNIQUE INDEX ON "Mixed ""Case" (id) INCLUDE (plain);
ANALYZE "Mixed ""Case";
CREATE VIEW v AS SELECT id, plain FROM "Mixed ""Case";
CREATE MATERIALIZED VIEW mv AS SELECT id FROM "Mixed ""Case";
CREATE UNIQUE INDEX ON mv (id);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child () INHERITS (parent);
INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1);
CREATE TABLE parts (id int, k int, PRIMARY KEY (k, id)) PARTITION BY LIST (k);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
INSERT INTO parts SELECT g, 1 + g % 2 FROM generate_series(1, 500) g;
ANALYZE parts;
CREATE TABLE fresh (a int, b text);
INSERT INTO fresh SELECT g, 'text of some length' FROM generate_series(1, 10000) g;
CREATE TABLE bare ();
"#;

fn nullable(table: &TableSchema, column: &str) -> bool {
    table.columns.0.field_with_name(column).unwrap().is_nullable()
}

#[tokio::test]
async fn the_schema_says_what_holds_and_nothing_more() {
    let Some(fixture) = Fixture::new("catalog", SETUP).await else { return };
    let schema = fixture.connector.schema().await.unwrap();
    assert_eq!((schema.kind.as_str(), schema.dialect), ("postgres", Dialect::Postgres));
    assert!(schema.version.starts_with("PostgreSQL "), "{}", schema.version);
    assert_eq!(schema.default_schema, fixture.schema);
    let names: Vec<&str> = schema.tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["Mixed \"Case", "bare", "child", "fresh", "mv", "parent", "parts", "v"]);
    let table = |name: &str| schema.tables.iter().find(|table| table.name == name).unwrap();

    let mixed = table("Mixed \"Case");
    let columns: Vec<&str> = mixed.columns.0.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(columns, ["id", "a b", "de", "plain", "pad", "m", "w", "f", "n", "free", "d", "u", "l"]);
    assert_eq!(mixed.native.len(), columns.len());
    assert_eq!(mixed.unsupported, [("cash".into(), "money".into()), ("spot".into(), "point".into())]);
    assert_eq!(mixed.primary_key, ["id"]);
    // Partial, over an expression, or over a column that may be NULL: no keys. INCLUDEd columns do not belong to one.
    assert_eq!(mixed.unique, [vec!["plain".to_owned()], vec!["id".to_owned()]]);
    assert!(!nullable(mixed, "id") && !nullable(mixed, "plain") && nullable(mixed, "n"));
    assert!(nullable(mixed, "w"), "a domain's NOT NULL is not the column's");
    assert_eq!(mixed.rows, Some(1000));
    assert!(mixed.bytes.unwrap() >= 8192);
    let native = |column: &str| &mixed.native[mixed.columns.0.index_of(column).unwrap()];
    let binary: Vec<&str> = columns.iter().copied().filter(|column| native(column).order_is_binary).collect();
    let database_is_c = native("plain").order_is_binary;
    let mut expected = vec!["id", "a b"];
    expected.extend(database_is_c.then_some("plain"));
    expected.extend(["w", "n", "free", "d"]);
    assert_eq!(binary, expected);
    assert_eq!(native("plain").type_name, "character varying(10)");
    assert_eq!(native("w").type_name, "character varying(7)", "a domain is its base type");
    assert_eq!(native("id").distinct, Some(1000));
    assert_eq!(native("m").distinct, Some(1));
    assert_eq!(mixed.columns.0.field_with_name("n").unwrap().data_type(), &DataType::Decimal128(10, 2));

    let view = table("v");
    assert!(view.primary_key.is_empty() && nullable(view, "id") && view.rows.is_none());
    assert!(table("mv").unique.is_empty() && nullable(table("mv"), "id"));
    // Two rows with id 1: the parent's key does not hold for its children.
    let parent = table("parent");
    assert!(parent.primary_key.is_empty() && nullable(parent, "id"), "{parent:?}");
    let parts = table("parts");
    assert_eq!((parts.primary_key.as_slice(), parts.rows), (&["k".to_owned(), "id".to_owned()][..], Some(500)));
    assert!(!nullable(parts, "id"));
    // Never analysed: estimated from its size.
    let fresh = table("fresh").rows.unwrap();
    assert!((2_000..50_000).contains(&fresh), "{fresh}");
    assert!(table("bare").columns.0.fields().is_empty());
}
