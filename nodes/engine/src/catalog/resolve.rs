//! From a table's name as written to the table: `source.schema.table` exactly, `source.table` in the source's default
//! schema, `schema.table` or `table` alone if that fits one table over all sources, `system.x` for the mesh's own.
//!
//! Unquoted parts come in lower case. A name that fits exactly wins; without one, a name that fits but for its case
//! counts if it is the only one.

use std::{collections::BTreeSet, sync::Arc};

use datafusion::common::TableReference;
use greylag_actors::planner::port::Catalog;
use greylag_protocol::{ErrorCode, MeshError, Result, SourceName, messages::control::TableName, schema::SourceSchema};

use crate::nearest::nearest;

/// Catalog of the mesh's own tables.
pub(crate) const MESH_CATALOG: &str = "greylag";
/// Their schema.
pub(crate) const SYSTEM_SCHEMA: &str = "system";
/// Candidates named in an error.
const CANDIDATES_MAX: usize = 8;

/// A table that a name stands for.
#[derive(Debug, Clone)]
pub(crate) enum Resolved {
    /// The table at `index` of a source.
    Source { source: Arc<SourceSchema>, index: usize },
    /// A system table of this name, whether or not it exists.
    System(String),
}

impl Resolved {
    /// The full name, as the sources spell it.
    pub(crate) fn name(&self) -> TableName {
        match self {
            Self::Source { source, index } => TableName {
                source: source.source.to_string(),
                schema: source.tables[*index].schema.clone(),
                table: source.tables[*index].name.clone(),
            },
            Self::System(table) => system_table(table),
        }
    }
}

/// Full name of a system table.
pub(crate) fn system_table(table: &str) -> TableName {
    TableName { source: MESH_CATALOG.into(), schema: SYSTEM_SCHEMA.into(), table: table.to_owned() }
}

/// Finds the table. GL1002 with near names, GL1009 with the candidates, GL3001 where the table may be in a source that
/// cannot be had.
pub(crate) fn resolve(catalog: &Catalog, name: &TableReference) -> Result<Resolved> {
    match name {
        TableReference::Full { catalog: source, schema, table } => full(catalog, source, schema, table),
        TableReference::Partial { schema, table } if schema.as_ref() == SYSTEM_SCHEMA => {
            Ok(Resolved::System(table.to_string()))
        }
        TableReference::Partial { schema, table } => partial(catalog, schema, table),
        TableReference::Bare { table } => search(catalog, None, table, name),
    }
}

fn full(catalog: &Catalog, source: &str, schema: &str, table: &str) -> Result<Resolved> {
    let name = TableReference::full(source, schema, table);
    if source.eq_ignore_ascii_case(MESH_CATALOG) {
        return match schema {
            SYSTEM_SCHEMA => Ok(Resolved::System(table.to_owned())),
            _ => Err(unknown(catalog, &name, "")),
        };
    }
    match find_source(catalog, source)? {
        Some(found) => in_source(catalog, found, schema, table, &name),
        None => Err(unknown(catalog, &name, &format!("; there is no source `{source}`"))),
    }
}

fn partial(catalog: &Catalog, first: &str, table: &str) -> Result<Resolved> {
    let name = TableReference::partial(first, table);
    match find_source(catalog, first)? {
        Some(found) => in_source(catalog, found, &found.default_schema, table, &name),
        None => search(catalog, Some(first), table, &name),
    }
}

/// A source by name; GL3001 if it is known but cannot be had.
fn find_source<'a>(catalog: &'a Catalog, name: &str) -> Result<Option<&'a Arc<SourceSchema>>> {
    let Ok(name) = SourceName::new(name.to_ascii_lowercase()) else { return Ok(None) };
    if let Some(reason) = catalog.unavailable.get(&name) {
        return Err(unavailable(&name, reason));
    }
    Ok(catalog.sources.get(&name))
}

fn in_source(
    catalog: &Catalog,
    source: &Arc<SourceSchema>,
    schema: &str,
    table: &str,
    name: &TableReference,
) -> Result<Resolved> {
    let exact = |t: &(usize, &greylag_protocol::schema::TableSchema)| t.1.schema == schema && t.1.name == table;
    let folded = |t: &(usize, &greylag_protocol::schema::TableSchema)| {
        t.1.schema.eq_ignore_ascii_case(schema) && t.1.name.eq_ignore_ascii_case(table)
    };
    let tables = || source.tables.iter().enumerate();
    if let Some((index, _)) = tables().find(exact) {
        return Ok(Resolved::Source { source: Arc::clone(source), index });
    }
    let found: Vec<usize> = tables().filter(folded).map(|(index, _)| index).collect();
    match found.as_slice() {
        [] => Err(unknown(catalog, name, "").of_source(source.source.clone())),
        [index] => Ok(Resolved::Source { source: Arc::clone(source), index: *index }),
        many => Err(ambiguous(name, many.iter().map(|i| full_name(source, *i)))),
    }
}

/// A table by its last part, and its schema if that is given, over all sources.
fn search(catalog: &Catalog, schema: Option<&str>, table: &str, name: &TableReference) -> Result<Resolved> {
    let all = || {
        let sources = catalog.sources.values();
        sources.flat_map(|source| source.tables.iter().enumerate().map(move |(index, t)| (source, index, t)))
    };
    let exact: Vec<_> =
        all().filter(|(_, _, t)| t.name == table && schema.is_none_or(|schema| t.schema == schema)).collect();
    let found = if exact.is_empty() {
        all()
            .filter(|(_, _, t)| {
                t.name.eq_ignore_ascii_case(table) && schema.is_none_or(|schema| t.schema.eq_ignore_ascii_case(schema))
            })
            .collect()
    } else {
        exact
    };
    match found.as_slice() {
        [(source, index, _)] => Ok(Resolved::Source { source: Arc::clone(source), index: *index }),
        [] => match catalog.unavailable.first_key_value() {
            Some((source, reason)) => Err(unavailable(source, reason)),
            None => Err(unknown(catalog, name, "")),
        },
        many => Err(ambiguous(name, many.iter().map(|(source, index, _)| full_name(source, *index)))),
    }
}

fn full_name(source: &SourceSchema, index: usize) -> String {
    format!("{}.{}.{}", source.source, source.tables[index].schema, source.tables[index].name)
}

fn unavailable(source: &SourceName, reason: &MeshError) -> MeshError {
    let message = format!("source `{source}` is not to be had: {} ({})", reason.message, reason.code);
    let mut error = MeshError::new(ErrorCode::NoEdge, message).of_source(source.clone());
    error.node = reason.node;
    error
}

fn ambiguous(name: &TableReference, candidates: impl ExactSizeIterator<Item = String>) -> MeshError {
    let more = candidates.len().saturating_sub(CANDIDATES_MAX);
    let mut list: Vec<String> = candidates.take(CANDIDATES_MAX).map(|c| format!("`{c}`")).collect();
    list.sort();
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    MeshError::new(ErrorCode::AmbiguousTable, format!("table `{name}` may be {}{rest}", list.join(", ")))
}

fn unknown(catalog: &Catalog, name: &TableReference, why: &str) -> MeshError {
    let wanted = name.table();
    let tables: BTreeSet<&str> =
        catalog.sources.values().flat_map(|s| s.tables.iter().map(|t| t.name.as_str())).collect();
    let near = nearest(wanted, &tables.into_iter().collect::<Vec<_>>());
    let mut candidates: Vec<String> = Vec::new();
    for source in catalog.sources.values() {
        for (index, table) in source.tables.iter().enumerate() {
            if near.contains(&table.name.as_str()) && candidates.len() < CANDIDATES_MAX {
                candidates.push(format!("`{}`", full_name(source, index)));
            }
        }
    }
    let hint = if candidates.is_empty() { String::new() } else { format!("; there is {}", candidates.join(", ")) };
    MeshError::new(ErrorCode::UnknownTable, format!("table `{name}` is not known{why}{hint}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::datatypes::Schema;
    use greylag_protocol::schema::{Dialect, TableSchema};

    fn source(name: &str, default_schema: &str, tables: &[(&str, &str)]) -> (SourceName, Arc<SourceSchema>) {
        let tables = tables.iter().map(|(schema, name)| TableSchema {
            schema: (*schema).into(),
            name: (*name).into(),
            columns: Schema::empty().into(),
            native: vec![],
            primary_key: vec![],
            unique: vec![],
            rows: None,
            bytes: None,
            unsupported: vec![],
        });
        let name = SourceName::new(name).unwrap();
        let schema = SourceSchema {
            source: name.clone(),
            kind: "postgres".into(),
            dialect: Dialect::Postgres,
            version: String::new(),
            default_schema: default_schema.into(),
            tables: tables.collect(),
        };
        (name, Arc::new(schema))
    }

    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        catalog.sources.extend([
            source("pg", "public", &[("public", "orders"), ("public", "Mixed"), ("audit", "orders"), ("audit", "log")]),
            source("lite", "main", &[("main", "ORDERS"), ("main", "PART"), ("main", "a"), ("main", "A")]),
        ]);
        catalog
    }

    fn found(name: &TableReference) -> std::result::Result<String, ErrorCode> {
        resolve(&catalog(), name).map(|r| r.name().to_string()).map_err(|e| e.code)
    }

    #[test]
    fn names_find_their_tables() {
        let cases: [(TableReference, std::result::Result<&str, ErrorCode>); 19] = [
            (TableReference::full("pg", "public", "orders"), Ok("pg.public.orders")),
            (TableReference::full("PG", "PUBLIC", "Orders"), Ok("pg.public.orders")),
            (TableReference::full("pg", "public", "mixed"), Ok("pg.public.Mixed")),
            (TableReference::full("pg", "nowhere", "orders"), Err(ErrorCode::UnknownTable)),
            (TableReference::full("nobody", "public", "orders"), Err(ErrorCode::UnknownTable)),
            (TableReference::full("greylag", "system", "nodes"), Ok("greylag.system.nodes")),
            (TableReference::full("greylag", "public", "nodes"), Err(ErrorCode::UnknownTable)),
            (TableReference::partial("system", "nodes"), Ok("greylag.system.nodes")),
            (TableReference::partial("pg", "orders"), Ok("pg.public.orders")),
            (TableReference::partial("pg", "log"), Err(ErrorCode::UnknownTable)),
            (TableReference::partial("audit", "orders"), Ok("pg.audit.orders")),
            (TableReference::partial("lite", "orders"), Ok("lite.main.ORDERS")),
            (TableReference::bare("log"), Ok("pg.audit.log")),
            (TableReference::bare("part"), Ok("lite.main.PART")),
            (TableReference::bare("a"), Ok("lite.main.a")),
            (TableReference::bare("A"), Ok("lite.main.A")),
            (TableReference::bare("orders"), Err(ErrorCode::AmbiguousTable)),
            (TableReference::bare("ORDERS"), Ok("lite.main.ORDERS")),
            (TableReference::bare("nothing"), Err(ErrorCode::UnknownTable)),
        ];
        for (name, expected) in cases {
            assert_eq!(found(&name), expected.map(str::to_owned), "{name}");
        }
    }

    #[test]
    fn errors_help() {
        let ambiguous = resolve(&catalog(), &TableReference::bare("orders")).unwrap_err();
        assert_eq!(ambiguous.message, "table `orders` may be `pg.audit.orders`, `pg.public.orders`");
        let near = resolve(&catalog(), &TableReference::bare("order")).unwrap_err();
        assert!(near.message.contains("there is `lite.main.ORDERS`, `pg.public.orders`"), "{near}");
        let mut catalog = catalog();
        let name = SourceName::new("gone").unwrap();
        catalog.unavailable.insert(name, MeshError::new(ErrorCode::SourceUnreachable, "refused"));
        for reference in [TableReference::partial("gone", "t"), TableReference::bare("t")] {
            let error = resolve(&catalog, &reference).unwrap_err();
            assert_eq!(error.code, ErrorCode::NoEdge);
            assert!(error.message.contains("refused (GL3002)"), "{error}");
        }
    }
}
