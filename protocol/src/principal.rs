//! Who stands behind a statement.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A user, agent or service, as its token says. Never trusted further than the token that named it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Stable name, the token's `sub`.
    pub id: String,
    pub kind: PrincipalKind,
    pub roles: Vec<String>,
    /// Everything else the token carries about it (organisation, agent_id, framework, ...).
    pub attributes: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrincipalKind {
    Person,
    Agent,
    Service,
}

/// Role that may change resources and membership.
pub const ADMIN_ROLE: &str = "admin";

impl Principal {
    pub fn is_admin(&self) -> bool {
        self.roles.iter().any(|r| r == ADMIN_ROLE)
    }
}
