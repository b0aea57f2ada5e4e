//! One read-only session with a MySQL or MariaDB server: settings, catalog queries, and stopping what it runs.
//!
//! INVARIANT: whatever the account's own defaults are, a session is read-only, in UTC and `utf8mb4`, with no limit on the
//! rows of a `SELECT` and a fixed `sql_mode`.

use std::time::Duration;

use greylag_protocol::{ErrorCode, MeshError, Result};
use mysql_async::{Conn, Row, Value, prelude::Queryable};

use super::{errors, target::Target};
use crate::server::{Lease, server_timeout_ms};

/// Longest time for stopping a statement from outside.
const STOP_MAX: Duration = Duration::from_secs(10);
/// Rows of one catalog query; more are refused rather than kept in memory.
const CATALOG_ROWS_MAX: usize = 1_000_000;
/// What every session sets, in this order. `sql_auto_is_null` changes what `IS NULL` finds, `sql_select_limit` cuts
/// results, `sql_mode` changes how text is read and how `CHAR` is padded.
const SETUP: [&str; 3] = [
    "SET NAMES utf8mb4",
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,ONLY_FULL_GROUP_BY,NO_ENGINE_SUBSTITUTION', SESSION time_zone = '+00:00', \
        SESSION sql_auto_is_null = 0, SESSION sql_select_limit = 18446744073709551615, SESSION sql_big_selects = 1, \
        SESSION div_precision_increment = 4",
    "SET SESSION TRANSACTION READ ONLY",
];

pub(super) struct Session {
    pub conn: Conn,
    pub is_mariadb: bool,
    /// The server's time limit now in force, milliseconds.
    timeout_ms: u64,
    /// The account's own limit, milliseconds; 0 if it has none.
    pub own_timeout_ms: u64,
    /// Whether it has been idle in the pool: then it may have died unseen.
    pub is_reused: bool,
}

impl Session {
    pub(super) async fn connect(target: &Target) -> Result<Self> {
        // The driver takes the process's provider; without one it could not choose between two that are linked.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let conn = Conn::new(target.opts.clone()).await.map_err(|error| errors::to_mesh(&error))?;
        let mut session = Self { conn, is_mariadb: false, timeout_ms: 0, own_timeout_ms: 0, is_reused: false };
        for sql in SETUP {
            session.run(sql).await?;
        }
        let version = session.rows("SELECT VERSION()").await?;
        session.is_mariadb = version.first().is_some_and(|row| text(row, 0).contains("MariaDB"));
        let limit = if session.is_mariadb { "@@max_statement_time * 1000" } else { "@@max_execution_time" };
        let limit = session.rows(&format!("SELECT CAST({limit} AS UNSIGNED)")).await?;
        session.own_timeout_ms = limit.first().and_then(|row| text(row, 0).parse().ok()).unwrap_or(0);
        session.timeout_ms = session.own_timeout_ms;
        Ok(session)
    }

    /// Sees to it that the server gives up a while after the connector has.
    pub(super) async fn limit_time(&mut self, left: Duration) -> Result<()> {
        let timeout_ms = server_timeout_ms(left, self.own_timeout_ms);
        if timeout_ms == self.timeout_ms {
            return Ok(());
        }
        let sql = match self.is_mariadb {
            true => format!("SET SESSION max_statement_time = {}.{:03}", timeout_ms / 1000, timeout_ms % 1000),
            false => format!("SET SESSION max_execution_time = {timeout_ms}"),
        };
        self.run(&sql).await?;
        self.timeout_ms = timeout_ms;
        Ok(())
    }

    async fn run(&mut self, sql: &str) -> Result<()> {
        self.conn.query_drop(sql).await.map_err(|error| errors::to_mesh(&error))
    }

    /// Rows of a statement of our own.
    pub(super) async fn rows(&mut self, sql: &str) -> Result<Vec<Row>> {
        let mut result = self.conn.query_iter(sql).await.map_err(|error| errors::to_mesh(&error))?;
        let mut rows: Vec<Row> = Vec::new();
        while let Some(row) = result.next().await.map_err(|error| errors::to_mesh(&error))? {
            if rows.len() >= CATALOG_ROWS_MAX {
                let message = format!("the catalog has more than {CATALOG_ROWS_MAX} entries; see option `schemas`");
                return Err(MeshError::new(ErrorCode::SourceRefused, message));
            }
            rows.push(row);
        }
        Ok(rows)
    }

    pub(super) async fn ping(&mut self) -> Result<()> {
        self.conn.ping().await.map_err(|error| errors::to_mesh(&error))
    }

    /// Gives it back to the pool. It must have nothing left to say.
    pub(super) fn put_back(mut self, lease: Lease<Self>) {
        self.is_reused = true;
        lease.put_back(self);
    }

    /// Closes it at once, whatever the server is still sending.
    pub(super) async fn close(self) {
        if tokio::time::timeout(STOP_MAX, self.conn.disconnect()).await.is_err() {
            tracing::debug!("a connection did not close in time");
        }
    }

    /// Stops what it runs, over a connection of its own, and closes it. The server is told to end the whole connection:
    /// `KILL QUERY` would do nothing if it came before the statement had begun.
    pub(super) async fn stop(self, target: &Target) {
        let id = self.conn.id();
        let killed = tokio::time::timeout(STOP_MAX, async {
            let mut other = Conn::new(target.opts.clone()).await?;
            other.query_drop(format!("KILL CONNECTION {id}")).await?;
            other.disconnect().await
        });
        match killed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(error = %errors::to_mesh(&error), "an unwanted statement was not stopped")
            }
            Err(_) => tracing::debug!("an unwanted statement was not stopped in time"),
        }
        self.close().await;
    }
}

/// A field of a row in text; empty for NULL and for what is not there.
pub(super) fn text(row: &Row, index: usize) -> std::borrow::Cow<'_, str> {
    match row.as_ref(index) {
        Some(Value::Bytes(bytes)) => String::from_utf8_lossy(bytes),
        Some(Value::NULL) | None => "".into(),
        Some(Value::Int(number)) => number.to_string().into(),
        Some(Value::UInt(number)) => number.to_string().into(),
        Some(other) => other.as_sql(true).into(),
    }
}
