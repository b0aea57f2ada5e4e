//! What a PostgreSQL database offers, read from `pg_catalog`: tables of every kind that the account may read, their
//! columns, keys and estimates.
//!
//! INVARIANT: a column is called NOT NULL, and a set of columns a key, only where the server itself enforces it for every
//! row that a `SELECT` on the table returns. So foreign tables, views and parents of an inheritance tree have neither.

use std::collections::BTreeMap;

use arrow::datatypes::Schema;
use greylag_protocol::{
    ErrorCode, MeshError, Result, SourceName,
    schema::{Dialect, NativeColumn, SourceSchema, TableSchema},
};

use super::{
    session::{Session, TextRow},
    types::{NO_MODIFIER, PgType, Scalar, field},
};

/// Bytes that a row takes besides its columns: header, item pointer, padding.
const ROW_OVERHEAD_BYTES: u64 = 32;
/// Bytes that a column of variable width is taken to have.
const WIDTH_GUESS_BYTES: u64 = 32;
/// Oid of the collation `default`: the database's own.
const DEFAULT_COLLATION: &str = "100";

/// Oids of types that are not built in and can be delivered (enums).
pub(super) type KnownTypes = BTreeMap<u32, Option<PgType>>;

const FACTS: &str = "SELECT current_setting('server_version'), current_setting('server_encoding'), \
    coalesce(to_jsonb(d)->>'datlocprovider', 'c'), d.datcollate FROM pg_database d WHERE d.datname = current_database()";

/// Kinds of relations: ordinary, partitioned and foreign tables, views, materialised views. Partitions are read
/// through their parent.
const READABLE: &str = "c.relkind IN ('r', 'p', 'f', 'v', 'm') AND NOT c.relispartition \
    AND has_schema_privilege(n.oid, 'USAGE') AND has_any_column_privilege(c.oid, 'SELECT')";

/// Reads everything. `schemas` are exposed in the order given; the first is what `source.table` means. `explicit` says
/// that somebody asked for them, so that each must exist.
pub(super) async fn read(
    session: &mut Session,
    source: &SourceName,
    schemas: &[String],
    explicit: bool,
) -> Result<(SourceSchema, KnownTypes)> {
    let names = schemas.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", ");
    if explicit {
        let sql = format!(
            "SELECT nspname FROM pg_namespace WHERE nspname IN ({names}) AND has_schema_privilege(oid, 'USAGE')"
        );
        let found = session.text_rows(&sql).await?;
        if let Some(missing) = schemas.iter().find(|name| !found.iter().any(|row| text(row, 0) == name.as_str())) {
            let message = format!("option `schemas`: the database has no schema `{missing}` that the account may use");
            return Err(MeshError::new(ErrorCode::InvalidResource, message));
        }
    }
    let facts = session.text_rows(FACTS).await?;
    let facts = facts.first().ok_or_else(|| MeshError::internal("pg_database has no row for this database"))?;
    let database = DatabaseFacts {
        order_survives_encoding: matches!(text(facts, 1), "UTF8" | "SQL_ASCII"),
        collation_is_binary: collation_is_binary(text(facts, 2), text(facts, 3)),
    };
    let mut tables = BTreeMap::new();
    for row in session.text_rows(&tables_sql(&names)).await? {
        tables.insert(text(&row, 0).to_owned(), Building::new(&row));
    }
    let mut known = KnownTypes::new();
    for row in session.text_rows(&columns_sql(&names)).await? {
        if let Some(table) = tables.get_mut(text(&row, 0)) {
            table.column(&row, &database, &mut known);
        }
    }
    for row in session.text_rows(&keys_sql(&names)).await? {
        if let Some(table) = tables.get_mut(text(&row, 0)) {
            table.key_column(&row);
        }
    }
    let mut tables: Vec<TableSchema> = tables.into_values().map(Building::finish).collect();
    tables.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    let schema = SourceSchema {
        source: source.clone(),
        kind: "postgres".into(),
        dialect: Dialect::Postgres,
        version: format!("PostgreSQL {}", text(facts, 0)),
        default_schema: schemas.first().cloned().unwrap_or_default(),
        tables,
    };
    Ok((schema, known))
}

/// Which of these oids are enums. The others cannot be delivered.
pub(super) async fn look_up_types(session: &mut Session, oids: &[u32]) -> Result<KnownTypes> {
    let list = oids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let rows = session.text_rows(&format!("SELECT oid FROM pg_type WHERE typtype = 'e' AND oid IN ({list})")).await?;
    let mut known: KnownTypes = oids.iter().map(|oid| (*oid, None)).collect();
    known.extend(rows.iter().filter_map(|row| Some((text(row, 0).parse().ok()?, Some(PgType::Scalar(Scalar::Enum))))));
    Ok(known)
}

struct DatabaseFacts {
    /// Whether bytes in the server's encoding order like the UTF-8 that is delivered.
    order_survives_encoding: bool,
    /// Of the database's default collation.
    collation_is_binary: bool,
}

/// Whether a collation compares bytes. Providers: libc, ICU, and PostgreSQL 17's built-in ones, which all do.
fn collation_is_binary(provider: &str, collate: &str) -> bool {
    match provider {
        "c" => matches!(collate, "C" | "POSIX"),
        "b" => true,
        _ => false,
    }
}

fn tables_sql(schemas: &str) -> String {
    format!(
        "SELECT c.oid, n.nspname, c.relname, c.relkind, c.relhassubclass, \
            CASE c.relkind WHEN 'p' THEN p.rows ELSE c.reltuples::float8 END, \
            CASE c.relkind WHEN 'p' THEN p.bytes WHEN 'r' THEN pg_relation_size(c.oid) \
                WHEN 'm' THEN pg_relation_size(c.oid) END \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN LATERAL (SELECT sum(greatest(l.reltuples::float8, 0)) AS rows, sum(pg_relation_size(l.oid)) AS bytes \
            FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid \
            WHERE t.isleaf AND l.relkind = 'r') p ON c.relkind = 'p' \
         WHERE n.nspname IN ({schemas}) AND {READABLE}"
    )
}

fn columns_sql(schemas: &str) -> String {
    format!(
        "WITH RECURSIVE resolved(oid, base, modifier) AS ( \
            SELECT oid, oid, {NO_MODIFIER} FROM pg_type WHERE typtype <> 'd' \
            UNION ALL SELECT d.oid, r.base, CASE WHEN d.typtypmod >= 0 THEN d.typtypmod ELSE r.modifier END \
            FROM pg_type d JOIN resolved r ON d.typbasetype = r.oid WHERE d.typtype = 'd') \
         SELECT c.oid, a.attname, format_type(r.base, m.modifier), r.base, b.typtype, m.modifier, \
            a.attnotnull AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'n' \
                AND NOT k.convalidated AND k.conkey = ARRAY[a.attnum]), \
            a.attcollation, coalesce(to_jsonb(l)->>'collprovider', 'c'), l.collcollate, b.typlen, s.n_distinct \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
         JOIN resolved r ON r.oid = a.atttypid JOIN pg_type b ON b.oid = r.base \
         CROSS JOIN LATERAL (SELECT CASE WHEN a.atttypmod >= 0 THEN a.atttypmod ELSE r.modifier END) m(modifier) \
         LEFT JOIN pg_collation l ON l.oid = a.attcollation \
         LEFT JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname \
            AND s.inherited = (c.relkind = 'p') \
         WHERE n.nspname IN ({schemas}) AND {READABLE} AND has_column_privilege(c.oid, a.attnum, 'SELECT') \
         ORDER BY c.oid, a.attnum"
    )
}

fn keys_sql(schemas: &str) -> String {
    format!(
        "SELECT c.oid, i.indexrelid, i.indisprimary, a.attname \
         FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, position) \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum \
         WHERE n.nspname IN ({schemas}) AND {READABLE} AND c.relkind IN ('r', 'p') \
            AND i.indisunique AND i.indisvalid AND NOT i.indisexclusion \
            AND i.indpred IS NULL AND i.indexprs IS NULL AND k.position <= i.indnkeyatts \
         ORDER BY c.oid, NOT i.indisprimary, i.indexrelid, k.position"
    )
}

/// A table while its rows of the catalog come in.
struct Building {
    schema: String,
    name: String,
    kind: Kind,
    /// The planner's estimate; below zero where there is none.
    rows: f64,
    bytes: Option<u64>,
    fields: Vec<arrow::datatypes::Field>,
    native: Vec<NativeColumn>,
    unsupported: Vec<(String, String)>,
    row_bytes: u64,
    /// Index oid, whether primary, columns.
    keys: Vec<(String, bool, Vec<String>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The server enforces constraints on every row that a scan returns.
    Enforced,
    /// A table whose rows may come from elsewhere.
    Loose,
}

impl Building {
    fn new(row: &TextRow) -> Self {
        let has_children = text(row, 4) == "t";
        let kind = match text(row, 3) {
            "p" => Kind::Enforced,
            "r" if !has_children => Kind::Enforced,
            _ => Kind::Loose,
        };
        Self {
            schema: text(row, 1).to_owned(),
            name: text(row, 2).to_owned(),
            kind,
            rows: text(row, 5).parse().unwrap_or(-1.0),
            bytes: text(row, 6).parse().ok(),
            fields: Vec::new(),
            native: Vec::new(),
            unsupported: Vec::new(),
            row_bytes: ROW_OVERHEAD_BYTES,
            keys: Vec::new(),
        }
    }

    fn column(&mut self, row: &TextRow, database: &DatabaseFacts, known: &mut KnownTypes) {
        let (name, type_name) = (text(row, 1), text(row, 2));
        self.row_bytes += text(row, 10).parse().unwrap_or(WIDTH_GUESS_BYTES);
        let oid: u32 = text(row, 3).parse().unwrap_or_default();
        let pg_type = match text(row, 4) {
            "e" => Some(PgType::Scalar(Scalar::Enum)),
            _ => PgType::of_oid(oid),
        };
        let Some(pg_type) = pg_type else {
            self.unsupported.push((name.to_owned(), type_name.to_owned()));
            return;
        };
        if pg_type == PgType::Scalar(Scalar::Enum) {
            known.insert(oid, Some(pg_type));
        }
        let modifier = text(row, 5).parse().unwrap_or(NO_MODIFIER);
        let not_null = text(row, 6) == "t" && self.kind == Kind::Enforced;
        let collation_is_binary = database.order_survives_encoding
            && match text(row, 7) {
                DEFAULT_COLLATION => database.collation_is_binary,
                _ => collation_is_binary(text(row, 8), text(row, 9)),
            };
        self.fields.push(field(name, pg_type, modifier, !not_null));
        self.native.push(NativeColumn {
            type_name: type_name.to_owned(),
            order_is_binary: pg_type.order_is_binary(collation_is_binary),
            distinct: text(row, 11).parse().ok().and_then(|distinct| self.distinct(distinct)),
        });
    }

    /// `n_distinct`: a count, or below zero a share of the rows.
    fn distinct(&self, estimate: f64) -> Option<u64> {
        let distinct = if estimate < 0.0 { -estimate * self.rows.max(0.0) } else { estimate };
        (distinct >= 1.0).then_some(distinct as u64)
    }

    fn key_column(&mut self, row: &TextRow) {
        let (index, column) = (text(row, 1), text(row, 3));
        match self.keys.last_mut() {
            Some((last, _, columns)) if last == index => columns.push(column.to_owned()),
            _ => self.keys.push((index.to_owned(), text(row, 2) == "t", vec![column.to_owned()])),
        }
    }

    fn finish(self) -> TableSchema {
        let not_null = |column: &String| self.fields.iter().any(|field| field.name() == column && !field.is_nullable());
        let (mut primary_key, mut unique) = (Vec::new(), Vec::new());
        for (_, is_primary, columns) in &self.keys {
            match columns.iter().all(not_null) {
                true if *is_primary => primary_key = columns.clone(),
                true if !unique.contains(columns) => unique.push(columns.clone()),
                _ => {}
            }
        }
        // Before the first ANALYZE there is no estimate (or, before PostgreSQL 14, zero): take it from the size.
        let rows = match (self.rows, self.bytes) {
            (rows, Some(bytes)) if rows <= 0.0 => Some(bytes / self.row_bytes),
            (rows, _) if rows >= 0.0 && !(rows == 0.0 && self.kind == Kind::Loose) => Some(rows as u64),
            _ => None,
        };
        TableSchema {
            schema: self.schema,
            name: self.name,
            columns: Schema::new(self.fields).into(),
            native: self.native,
            primary_key,
            unique,
            rows,
            bytes: self.bytes,
            unsupported: self.unsupported,
        }
    }
}

/// A field of a row; empty for NULL and for what is not there.
fn text(row: &TextRow, index: usize) -> &str {
    row.get(index).and_then(|field| field.as_deref()).unwrap_or_default()
}

/// As a string literal under `standard_conforming_strings`.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_collations_that_compare_bytes_are_binary() {
        for (provider, collate, binary) in [
            ("c", "C", true),
            ("c", "POSIX", true),
            ("c", "en_US.utf8", false),
            ("c", "C.UTF-8", false),
            ("i", "C", false),
            ("b", "", true),
        ] {
            assert_eq!(collation_is_binary(provider, collate), binary, "{provider} {collate}");
        }
    }

    #[test]
    fn literals_are_closed() {
        assert_eq!(literal("a'b\\"), "'a''b\\'");
    }
}
