//! Names what a transaction sees of a table, so that a later one can tell whether it sees the same.
//!
//! The name is made of what PostgreSQL itself decides visibility by: the snapshot (which transactions are over, which
//! run), on this server since this start and since its last checkpoint. Transactions in two snapshots with one text are
//! over or running alike, so they see the same rows. The table is locked against rewriting before the snapshot is taken:
//! `TRUNCATE` and its like are no respecters of snapshots.
//!
//! INVARIANT: no name rather than a wrong one. Where it cannot be had (a replica, a table with children or row security,
//! an old server, no right to ask) there is none.

use greylag_protocol::{Result, messages::edge::Keyset};

use super::{catalog::literal, session::Session};

/// Leaves the session in a transaction that sees one snapshot to its end, and gives that a name. With no name, there is
/// no transaction either.
pub(super) async fn begin(session: &mut Session, keyset: &Keyset) -> Result<Option<String>> {
    session.in_transaction = true;
    match session.text_rows(&statements(keyset)).await {
        Ok(rows) => {
            if let Some([Some(name)]) = rows.into_iter().next().as_deref() {
                return Ok(Some(name.clone()));
            }
        }
        Err(error) if session.wire.is_owed() => return Err(error),
        Err(error) => tracing::debug!(%error, "the source cannot name its content"),
    }
    session.end_transaction().await?;
    Ok(None)
}

fn statements(Keyset { schema, table, .. }: &Keyset) -> String {
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
         LOCK TABLE ONLY {schema_name}.{table_name} IN ACCESS SHARE MODE; \
         SELECT concat_ws('/', (pg_control_system()).system_identifier, pg_postmaster_start_time(), \
         checkpoint.timeline_id, checkpoint.checkpoint_lsn, current_database(), c.oid, pg_current_snapshot()) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_control_checkpoint() checkpoint \
         WHERE n.nspname = {schema} AND c.relname = {table} AND c.relkind = 'r' \
         AND NOT c.relhassubclass AND NOT c.relrowsecurity AND NOT pg_is_in_recovery()",
        schema_name = identifier(schema),
        table_name = identifier(table),
        schema = literal(schema),
        table = literal(table),
    )
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_closed() {
        let keyset = Keyset { schema: "it's".into(), table: "a \"b\"".into(), after: None };
        let statements = statements(&keyset);
        assert!(statements.contains(r#"LOCK TABLE ONLY "it's"."a ""b""" IN"#), "{statements}");
        assert!(statements.contains(r#"n.nspname = 'it''s' AND c.relname = 'a "b"' AND"#), "{statements}");
    }
}
