//! The first of the guards that keep a source unchanged: only what begins like a query is sent. The others are the
//! server's: one statement at a time, in a read-only session.

use greylag_protocol::{ErrorCode, MeshError, Result};

/// How a query may begin. What begins so cannot change the session that runs it.
const QUERY_WORDS: [&str; 4] = ["SELECT", "WITH", "VALUES", "TABLE"];

/// GL1006 for what does not begin like a query. (`WITH` may hold a change: the read-only session refuses that.)
pub(crate) fn check_is_query(sql: &str) -> Result<()> {
    let rest = sql.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '(');
    let word = rest.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    if QUERY_WORDS.iter().any(|known| known.eq_ignore_ascii_case(word)) {
        return Ok(());
    }
    Err(MeshError::new(ErrorCode::ReadOnly, "the sub-query is not a query"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_queries_are_sent() {
        for sql in ["SELECT 1", " (select 1) union (select 2)", "with x as (select 1) table x", "VALUES (1)"] {
            assert!(check_is_query(sql).is_ok(), "{sql}");
        }
        for sql in
            ["SET autocommit = 0", "", "-- x\nSELECT 1", "DROP TABLE t", "SELECTED", "COPY t TO STDOUT", "CALL p()"]
        {
            assert!(check_is_query(sql).is_err(), "{sql}");
        }
    }
}
