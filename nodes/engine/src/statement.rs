//! From text to one statement that only reads: parsing, refusing everything that is not a query, numbering `?`, and
//! listing the tables that are named. It resolves no name and plans nothing.
//!
//! INVARIANT: what comes out of [`Parsed::parse`] changes nothing anywhere.

use std::{collections::BTreeSet, ops::ControlFlow};

use datafusion::{
    common::TableReference,
    sql::{
        parser::{DFParserBuilder, Statement as DfStatement},
        planner::object_name_to_table_reference,
        resolve::resolve_table_references,
        sqlparser::{
            ast::{
                ObjectName, Query, SetExpr, ShowStatementIn, Statement as SqlStatement, TableFactor, Value,
                ValueWithSpan, Visit, VisitMut, Visitor, VisitorMut,
            },
            dialect::GenericDialect,
        },
    },
};
use greylag_protocol::{ErrorCode, MeshError, Result, messages::control::Action};

use crate::error::mesh_error;

/// Longest statement, bytes.
pub const STATEMENT_BYTES_MAX: usize = 4 << 20;
/// Deepest nesting that is parsed.
const NESTING_MAX: usize = 100;

/// First words of statements that would change something.
const CHANGING_WORDS: [&str; 34] = [
    "alter",
    "analyze",
    "attach",
    "call",
    "cluster",
    "comment",
    "commit",
    "copy",
    "create",
    "deallocate",
    "delete",
    "detach",
    "drop",
    "execute",
    "export",
    "grant",
    "import",
    "insert",
    "install",
    "kill",
    "load",
    "lock",
    "merge",
    "msck",
    "optimize",
    "refresh",
    "rename",
    "replace",
    "reset",
    "revoke",
    "set",
    "truncate",
    "update",
    "vacuum",
];

/// A statement that only reads.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    Query(Box<SqlStatement>),
    Explain {
        query: Box<SqlStatement>,
        analyze: bool,
        verbose: bool,
    },
    /// `SHOW TABLES`
    ShowTables,
    /// `DESCRIBE t`, `SHOW COLUMNS FROM t`
    Describe(TableReference),
}

/// A command with the tables it names, as written.
#[derive(Debug, Clone)]
pub(crate) struct Parsed {
    pub(crate) command: Command,
    pub(crate) tables: Vec<TableReference>,
}

impl Parsed {
    /// GL1001, GL1005, GL1006.
    pub(crate) fn parse(sql: &str) -> Result<Self> {
        if sql.len() > STATEMENT_BYTES_MAX {
            return Err(unsupported(format!("a statement of more than {STATEMENT_BYTES_MAX} bytes")));
        }
        let mut parser = DFParserBuilder::new(sql)
            .with_dialect(&GenericDialect {})
            .with_recursion_limit(NESTING_MAX)
            .build()
            .map_err(mesh_error)?;
        let mut statements = parser.parse_statements().map_err(mesh_error)?;
        match (statements.pop_front(), statements.len()) {
            (None, _) => Err(MeshError::new(ErrorCode::Syntax, "the statement is empty")),
            (Some(statement), 0) => Self::of(statement),
            (Some(_), _) => Err(unsupported("several statements in one text")),
        }
    }

    pub(crate) fn action(&self) -> Action {
        match self.command {
            Command::Query(_) => Action::Select,
            Command::Explain { analyze: true, .. } => Action::Select,
            Command::Explain { .. } => Action::Explain,
            Command::ShowTables | Command::Describe(_) => Action::Describe,
        }
    }

    /// The statement with a `?` in place of each literal: for logs that must hold nobody's values.
    pub(crate) fn redacted(&self) -> String {
        let shown = |query: &SqlStatement| {
            let mut query = query.clone();
            let _ = VisitMut::visit(&mut query, &mut Redacting);
            query.to_string()
        };
        match &self.command {
            Command::Query(query) => shown(query),
            Command::Explain { query, analyze, verbose } => {
                let words = [(*analyze, "ANALYZE "), (*verbose, "VERBOSE ")];
                let words: String = words.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
                format!("EXPLAIN {words}{}", shown(query))
            }
            Command::ShowTables => "SHOW TABLES".into(),
            Command::Describe(table) => format!("DESCRIBE {table}"),
        }
    }

    fn of(statement: DfStatement) -> Result<Self> {
        let command = match statement {
            DfStatement::Statement(inner) => match *inner {
                query @ SqlStatement::Query(_) => Command::Query(Box::new(readable(query)?)),
                SqlStatement::ShowTables { .. } => Command::ShowTables,
                SqlStatement::ExplainTable { table_name, .. } => Command::Describe(table_reference(table_name)?),
                SqlStatement::ShowColumns { show_options, .. } => match show_options.show_in {
                    Some(ShowStatementIn { parent_name: Some(name), .. }) => Command::Describe(table_reference(name)?),
                    _ => return Err(unsupported("SHOW COLUMNS without a table")),
                },
                other => return Err(refusal(&other.to_string())),
            },
            DfStatement::Explain(explain) => match *explain.statement {
                DfStatement::Statement(inner) if matches!(*inner, SqlStatement::Query(_)) => Command::Explain {
                    query: Box::new(readable(*inner)?),
                    analyze: explain.options.analyze,
                    verbose: explain.options.verbose,
                },
                other => return Err(refusal(&other.to_string())),
            },
            DfStatement::CreateExternalTable(_) => return Err(refusal("CREATE EXTERNAL TABLE")),
            DfStatement::CopyTo(_) => return Err(refusal("COPY")),
            DfStatement::Reset(_) => return Err(refusal("RESET")),
        };
        let tables = match &command {
            Command::Query(query) | Command::Explain { query, .. } => tables_of(query)?,
            Command::Describe(table) => vec![table.clone()],
            Command::ShowTables => vec![TableReference::partial("system", "tables")],
        };
        Ok(Self { command, tables })
    }
}

/// Tables named in a query, without CTEs and table functions; sorted, each once.
fn tables_of(query: &SqlStatement) -> Result<Vec<TableReference>> {
    let statement = DfStatement::Statement(Box::new(query.clone()));
    let (named, _ctes) = resolve_table_references(&statement, true).map_err(mesh_error)?;
    let mut functions = TableFunctions::default();
    let _ = query.visit(&mut functions);
    let called = |table: &TableReference| functions.called.contains(table) && !functions.plain.contains(table);
    Ok(named.into_iter().filter(|table| !called(table)).collect())
}

/// Names in FROM with and without arguments: `generate_series(1, 3)` is no table.
#[derive(Default)]
struct TableFunctions {
    called: BTreeSet<TableReference>,
    plain: BTreeSet<TableReference>,
}

impl Visitor for TableFunctions {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args, .. } = factor
            && let Ok(reference) = object_name_to_table_reference(name.clone(), true)
        {
            if args.is_some() {
                self.called.insert(reference)
            } else {
                self.plain.insert(reference)
            };
        }
        ControlFlow::Continue(())
    }
}

/// Refuses what changes or locks something inside a query, and numbers its `?`.
fn readable(mut statement: SqlStatement) -> Result<SqlStatement> {
    let mut reading = Reading { marks: 0, numbered: false };
    match VisitMut::visit(&mut statement, &mut reading) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) if reading.marks > 0 && reading.numbered => {
            Err(unsupported("placeholders of both kinds, `?` and `$1`"))
        }
        ControlFlow::Continue(()) => Ok(statement),
    }
}

/// Takes the values out of a statement: literals, and the texts that some expressions hold beside them.
struct Redacting;

impl VisitorMut for Redacting {
    type Break = ();

    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<()> {
        if !matches!(value.value, Value::Placeholder(_) | Value::Null) {
            value.value = Value::Placeholder("?".into());
        }
        ControlFlow::Continue(())
    }
}

struct Reading {
    marks: usize,
    numbered: bool,
}

impl VisitorMut for Reading {
    type Break = MeshError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<MeshError> {
        if !query.locks.is_empty() {
            return ControlFlow::Break(refusal("SELECT FOR UPDATE"));
        }
        match set_expression(&query.body) {
            Some(error) => ControlFlow::Break(error),
            None => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<MeshError> {
        if let Value::Placeholder(name) = &mut value.value {
            if name == "?" {
                self.marks += 1;
                *name = format!("${}", self.marks);
            } else {
                self.numbered = true;
            }
        }
        ControlFlow::Continue(())
    }
}

/// What is wrong with the body of a query, if anything.
fn set_expression(body: &SetExpr) -> Option<MeshError> {
    match body {
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
            Some(refusal(body.to_string().as_str()))
        }
        SetExpr::Select(select) if select.into.is_some() => Some(refusal("SELECT INTO")),
        SetExpr::SetOperation { left, right, .. } => set_expression(left).or_else(|| set_expression(right)),
        _ => None,
    }
}

fn table_reference(name: ObjectName) -> Result<TableReference> {
    object_name_to_table_reference(name, true).map_err(mesh_error)
}

/// GL1006 for what would change something, GL1005 for the rest.
fn refusal(statement: &str) -> MeshError {
    let word = statement.split_whitespace().next().unwrap_or_default().to_lowercase();
    if CHANGING_WORDS.contains(&word.as_str()) || statement.starts_with("SELECT ") {
        let what: Vec<&str> = statement.split_whitespace().take(2).collect();
        return MeshError::new(ErrorCode::ReadOnly, format!("`{}` is not a query", what.join(" ").to_uppercase()));
    }
    unsupported(format!("`{}`", word.to_uppercase()))
}

fn unsupported(what: impl std::fmt::Display) -> MeshError {
    MeshError::new(ErrorCode::Unsupported, format!("{what} is not supported"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tables(sql: &str) -> Vec<String> {
        Parsed::parse(sql).unwrap().tables.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn tables_are_listed_without_ctes_aliases_and_functions() {
        let cases: [(&str, &[&str]); 10] = [
            ("SELECT 1", &[]),
            ("SELECT * FROM Orders o JOIN pg.public.\"Line Item\" l ON o.k = l.k", &["orders", "pg.public.Line Item"]),
            ("WITH t AS (SELECT * FROM a) SELECT * FROM t JOIN b ON t.k = b.k", &["a", "b"]),
            ("WITH t AS (SELECT * FROM t) SELECT * FROM t", &["t"]),
            ("WITH t AS (SELECT 1), u AS (SELECT * FROM t) SELECT * FROM u", &[]),
            (
                "SELECT (SELECT max(x) FROM a) FROM b WHERE EXISTS (SELECT 1 FROM c WHERE c.k IN (SELECT k FROM d))",
                &["a", "b", "c", "d"],
            ),
            ("SELECT * FROM generate_series(1, 3) JOIN a ON true", &["a"]),
            ("SELECT * FROM a UNION ALL (SELECT * FROM b EXCEPT SELECT * FROM s.c)", &["a", "b", "s.c"]),
            ("EXPLAIN ANALYZE SELECT * FROM a", &["a"]),
            ("DESCRIBE s.t", &["s.t"]),
        ];
        for (sql, expected) in cases {
            assert_eq!(tables(sql), expected, "{sql}");
        }
        assert_eq!(tables("SHOW TABLES"), ["system.tables"]);
        assert_eq!(tables("SHOW COLUMNS FROM s.t"), ["s.t"]);
    }

    #[test]
    fn what_is_not_a_query_is_refused_with_its_code() {
        let cases = [
            ("", ErrorCode::Syntax),
            (" ; ", ErrorCode::Syntax),
            ("SELEC 1", ErrorCode::Syntax),
            ("SELECT 1; SELECT 2", ErrorCode::Unsupported),
            ("INSERT INTO t VALUES (1)", ErrorCode::ReadOnly),
            ("UPDATE t SET a = 1", ErrorCode::ReadOnly),
            ("DELETE FROM t", ErrorCode::ReadOnly),
            ("DROP TABLE t", ErrorCode::ReadOnly),
            ("CREATE TABLE t AS SELECT 1", ErrorCode::ReadOnly),
            ("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'", ErrorCode::ReadOnly),
            ("COPY (SELECT 1) TO '/tmp/x' STORED AS CSV", ErrorCode::ReadOnly),
            ("COPY t TO '/tmp/x'", ErrorCode::ReadOnly),
            ("SET x = 1", ErrorCode::ReadOnly),
            ("TRUNCATE TABLE t", ErrorCode::ReadOnly),
            ("SELECT * INTO u FROM t", ErrorCode::ReadOnly),
            ("SELECT * FROM t FOR UPDATE", ErrorCode::ReadOnly),
            ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", ErrorCode::ReadOnly),
            ("EXPLAIN INSERT INTO t VALUES (1)", ErrorCode::ReadOnly),
            ("SHOW ALL", ErrorCode::Unsupported),
            ("SELECT ? + $1", ErrorCode::Unsupported),
        ];
        for (sql, code) in cases {
            assert_eq!(Parsed::parse(sql).map(|p| p.tables).unwrap_err().code, code, "{sql}");
        }
        let long = format!("SELECT '{}'", "x".repeat(STATEMENT_BYTES_MAX));
        assert_eq!(Parsed::parse(&long).unwrap_err().code, ErrorCode::Unsupported);
        let deep = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
        assert_eq!(Parsed::parse(&deep).unwrap_err().code, ErrorCode::Syntax);
    }

    #[test]
    fn what_is_logged_of_a_statement_holds_no_value() {
        let secret = ["4711", "Ada", "1815-12-10", "0xC0FFEE", "b1b2", "seven days", "%da%", "3.25"];
        let statements = [
            "SELECT * FROM t WHERE a = 4711 AND name = 'Ada' AND born > DATE '1815-12-10' LIMIT 4711 OFFSET 4711",
            "SELECT X'b1b2', INTERVAL 'seven days', 3.25, -4711, name LIKE '%da%' ESCAPE 'Ada' FROM t",
            "EXPLAIN SELECT 'Ada' || x FROM (VALUES (4711, 'Ada')) v(x, y) WHERE x IN (4711, 3.25)",
            "SELECT CASE WHEN a = 'Ada' THEN 4711 END FROM t WHERE a BETWEEN 4711 AND 3.25 ORDER BY 'Ada'",
            "SELECT TIMESTAMP '1815-12-10', substring(name FROM 4711 FOR 4711), $$Ada$$, E'Ada' FROM generate_series(1, 4711)",
            "SELECT t.name FROM t WHERE name SIMILAR TO '%da%' AND a ILIKE '%da%' FETCH FIRST 4711 ROWS ONLY",
            "SELECT array[4711, 3.25], extract(year FROM DATE '1815-12-10'), cast('Ada' AS varchar)",
        ];
        for sql in statements {
            let redacted = Parsed::parse(sql).unwrap().redacted();
            for value in secret {
                assert!(!redacted.contains(value), "{value} in {redacted}");
            }
            assert!(redacted.contains('?'), "{redacted}");
        }
        assert_eq!(Parsed::parse("SELECT a FROM t WHERE b = 'x'").unwrap().redacted(), "SELECT a FROM t WHERE b = ?");
    }

    #[test]
    fn question_marks_are_numbered_in_order() {
        let Command::Query(query) = Parsed::parse("SELECT ? FROM t WHERE a = ? AND b IN (?, 1)").unwrap().command
        else {
            unreachable!("it is a query")
        };
        assert_eq!(query.to_string(), "SELECT $1 FROM t WHERE a = $2 AND b IN ($3, 1)");
    }
}
