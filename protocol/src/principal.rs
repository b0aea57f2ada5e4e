//! Who stands behind a statement.
//!
//! What every kind of credential can say has a field; the rest are attributes, of which the names in [`attribute`] have
//! a meaning of their own.

use std::{collections::BTreeMap, str::FromStr};

use serde::{Deserialize, Serialize};

/// A user, agent or service, as its token says. Never trusted further than the token that named it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Stable name, the token's `sub`.
    pub id: String,
    pub kind: PrincipalKind,
    pub roles: Vec<String>,
    /// Everything else the token carries about it, by the names in [`attribute`] or of the token's own.
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

/// Attributes that mean something to the mesh itself.
pub mod attribute {
    /// Tenant: whose quota is spent.
    pub const ORGANISATION: &str = "organisation";
    pub const AGENT_ID: &str = "agent_id";
    /// What the agent is built with.
    pub const FRAMEWORK: &str = "framework";
    /// The agent's own name for the chain of calls that this one belongs to.
    pub const REQUEST_ID: &str = "request_id";
    pub const PRIORITY: &str = "priority";
    /// Id of the person for whom an agent or service acts. Only a credential can say it, never the caller.
    pub const ACTS_FOR: &str = "acts_for";
    /// What the credential may be used for, names between blanks. None: whatever the principal may.
    pub const SCOPES: &str = "scopes";
    /// Which credential named the principal (`bearer:<id>`, `key:<id>`, `jwt:<issuer>`, `certificate:<serial>`), so that
    /// revoking it finds what still runs by it.
    pub const CREDENTIAL: &str = "credential";
    /// One attribute for each group, with this before the group's name and an empty value.
    pub const GROUP_PREFIX: &str = "group:";

    /// Whether only the mesh's own code may set it: no claim of a token or header is copied to it by name.
    pub fn is_reserved(name: &str) -> bool {
        [ACTS_FOR, SCOPES, CREDENTIAL].contains(&name) || name.starts_with(GROUP_PREFIX)
    }
}

/// How urgent a statement is, as its principal says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
    Critical,
}

impl Priority {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl FromStr for Priority {
    type Err = ();
    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "low" => Ok(Self::Low),
            "normal" => Ok(Self::Normal),
            "high" => Ok(Self::High),
            "critical" => Ok(Self::Critical),
            _ => Err(()),
        }
    }
}

impl Principal {
    /// The attribute, unless it is missing or empty.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub fn organisation(&self) -> Option<&str> {
        self.attribute(attribute::ORGANISATION)
    }

    pub fn agent_id(&self) -> Option<&str> {
        self.attribute(attribute::AGENT_ID)
    }

    /// The person behind it: itself, or the one for whom an agent or service acts.
    pub fn person(&self) -> Option<&str> {
        match self.kind {
            PrincipalKind::Person => Some(&self.id),
            PrincipalKind::Agent | PrincipalKind::Service => self.attribute(attribute::ACTS_FOR),
        }
    }

    /// Groups, in order of name.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.attributes.keys().filter_map(|name| name.strip_prefix(attribute::GROUP_PREFIX))
    }

    pub fn join_group(&mut self, group: &str) {
        self.attributes.insert(format!("{}{group}", attribute::GROUP_PREFIX), String::new());
    }

    /// A word that is no priority counts as none.
    pub fn priority(&self) -> Priority {
        self.attribute(attribute::PRIORITY).and_then(|word| word.parse().ok()).unwrap_or_default()
    }

    /// Whether its credential may be used for this. Credentials without scopes are good for whatever policy permits.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.attributes.get(attribute::SCOPES).is_none_or(|scopes| scopes.split(' ').any(|s| s == scope))
    }

    pub fn is_admin(&self) -> bool {
        self.roles.iter().any(|r| r == ADMIN_ROLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_by_their_meaning() {
        let mut agent = Principal {
            id: "planner-7".into(),
            kind: PrincipalKind::Agent,
            roles: vec![],
            attributes: [("organisation", "clinic"), ("acts_for", "ada"), ("priority", "high"), ("agent_id", "")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        };
        agent.join_group("night");
        agent.join_group("day");
        assert_eq!((agent.organisation(), agent.person(), agent.agent_id()), (Some("clinic"), Some("ada"), None));
        assert_eq!(agent.groups().collect::<Vec<_>>(), ["day", "night"]);
        assert_eq!(agent.priority(), Priority::High);
        assert!(agent.has_scope("query"), "no scopes, no limit");
        agent.attributes.insert(attribute::SCOPES.into(), String::new());
        assert!(!agent.has_scope("query"), "an empty list is a limit");
        agent.attributes.insert(attribute::SCOPES.into(), "describe query".into());
        assert!(agent.has_scope("query") && !agent.has_scope("quer") && !agent.has_scope("manage"));
    }
}
