//! Step 2: the tables that the statement touches, by its parsed text and the catalog; and its text without literals.
//!
//! It comes before the decision, so nothing of the catalog may be told here: who is not an administrator gets no names of
//! tables that it has not named itself.

use std::sync::Arc;

use greylag_protocol::{ErrorCode, MeshError, Result, principal::Principal};

use crate::coordinator::{Coordinator, query::QueryMessage};

pub async fn take(coordinator: Arc<Coordinator>, sql: String, principal: Principal) -> Result<QueryMessage> {
    match coordinator.catalog.touched(&sql).await {
        Ok((catalog, touched)) => Ok(QueryMessage::Resolved(catalog, touched)),
        Err(error) if principal.is_admin() => Err(error),
        Err(error) => Err(without_names(error)),
    }
}

/// Without what follows the name that was asked for: suggestions, the source it was looked for in, or the tables that it
/// fits. A name that holds the mark itself is cut short, never one that was not asked for told.
fn without_names(mut error: MeshError) -> MeshError {
    let end = match error.code {
        ErrorCode::UnknownTable => {
            error.source = None;
            error.message.find(';')
        }
        ErrorCode::AmbiguousTable => error.message.find(" may be "),
        _ => None,
    };
    if let Some(end) = end {
        error.message.truncate(end);
        if error.code == ErrorCode::AmbiguousTable {
            error.message.push_str(" fits several sources");
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_were_not_asked_for_are_not_told() {
        let told = |code, message: &str| without_names(MeshError::new(code, message)).message;
        for near in ["; there is `clinic.main.patients`", "; there is no source `clinik`; there is `clinic.main.a`", ""]
        {
            let near = format!("table `patient` is not known{near}");
            assert_eq!(told(ErrorCode::UnknownTable, &near), "table `patient` is not known");
        }
        let several = "table `x` may be `a.main.x`, `b.main.x`";
        assert_eq!(told(ErrorCode::AmbiguousTable, several), "table `x` fits several sources");
        assert_eq!(told(ErrorCode::Syntax, "a; did you mean b"), "a; did you mean b");
    }
}
