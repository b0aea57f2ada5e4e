//! What administrators ask about and are told, beside [`AdminCall`](crate::statement::AdminCall) itself: keys as they may
//! be shown, resources as they are, and why a statement is permitted or not.
//!
//! INVARIANT: no secret, nor the hash of one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::{
    filter::RowFilter,
    ids::{Epoch, SourceName},
    messages::control::{Action, TableName, Verdict},
    obligation::{ColumnMask, HiddenColumn, Notice},
    principal::Principal,
    state::{ApiKey, AttributeKind, GovernanceSettings, Network, QuotaKey, Scope, SourceSpec, TagPlace},
};

/// Keys in one reply.
pub const KEYS_LISTED_MAX: usize = 500;

/// An API key as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    pub id: String,
    pub principal: Principal,
    pub scopes: BTreeSet<Scope>,
    /// Empty: from anywhere.
    pub networks: Vec<Network>,
    pub created_unix_ms: u64,
    pub expires_unix_ms: Option<u64>,
    pub revoked_unix_ms: Option<u64>,
    /// Known to the hour or so.
    pub last_used_unix_ms: Option<u64>,
}

impl From<&ApiKey> for KeyInfo {
    fn from(key: &ApiKey) -> Self {
        Self {
            id: key.id.clone(),
            principal: key.principal.clone(),
            scopes: key.scopes.clone(),
            networks: key.networks.clone(),
            created_unix_ms: key.created_unix_ms,
            expires_unix_ms: key.expires_unix_ms,
            revoked_unix_ms: key.revoked_unix_ms,
            last_used_unix_ms: key.last_used_unix_ms,
        }
    }
}

/// Names a declared resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ResourceId {
    Source(SourceName),
    Policy(String),
    Tag(String),
    Attribute(String),
    /// The settings: there is one of them.
    Governance,
    Quota(QuotaKey),
}

/// `policy doctors`, `quota clinic per day`.
impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(name) => write!(f, "source {name}"),
            Self::Policy(id) => write!(f, "policy {id}"),
            Self::Tag(tag) => write!(f, "tag {tag}"),
            Self::Attribute(name) => write!(f, "attribute {name}"),
            Self::Governance => f.write_str("governance"),
            Self::Quota(key) => write!(f, "quota {key}"),
        }
    }
}

/// A declared resource as it is, or as it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResourceContent {
    Source(SourceSpec),
    /// Cedar text.
    Policy(String),
    Tag(Vec<TagPlace>),
    Attribute(AttributeKind),
    Governance(Box<GovernanceSettings>),
    /// Micro-credits in each period.
    Quota(u64),
}

/// What a policy is to be checked against, beside what the mesh has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckBeside {
    pub attributes: BTreeMap<String, AttributeKind>,
    pub tags: BTreeMap<String, Vec<TagPlace>>,
}

/// A statement that somebody might run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyRequest {
    /// As whom.
    pub principal: Principal,
    pub sql: String,
    /// The door, as `context.origin` has it.
    pub origin: String,
    /// `None`: now.
    pub at_unix_ms: Option<u64>,
}

/// What would come of it, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub action: Action,
    pub verdict: Verdict,
    /// At which it was decided.
    pub epoch: Epoch,
    pub at_unix_ms: u64,
    /// Ids of the policies that determined the verdict, sorted.
    pub policies: Vec<String>,
    /// In order of name.
    pub tables: Vec<TableExplanation>,
    pub notices: Vec<Notice>,
}

/// One table of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableExplanation {
    pub table: TableName,
    /// Which rows would be seen; `None`: all, if the statement is permitted.
    pub filter: Option<RowFilter>,
    pub masks: Vec<ColumnMask>,
    pub hidden: Vec<HiddenColumn>,
    /// What each policy says that is about the table, in order of id.
    pub words: Vec<PolicyWord>,
}

/// What one policy says about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyWord {
    pub policy: String,
    /// `enforce`, `warn`, `log`.
    pub mode: String,
    /// What it does where it holds: `permits`, `forbids`, `masks`.
    pub deed: String,
    /// `rows`, `the table`, `explaining the table`, `the mesh`, or the columns.
    pub about: String,
    pub outcome: WordOutcome,
}

/// Whether a policy holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WordOutcome {
    /// It is about other principals.
    OfOthers,
    Holds,
    Fails,
    /// Its condition is an error: then it counts as not there.
    Errs,
    /// It holds for the rows that pass, by the filter (`None`: too large to be written out); with Cedar's own words for it.
    Depends {
        filter: Option<RowFilter>,
        residual: String,
    },
    /// It does not fit the table, and why: what its scope admits is denied.
    Unusable(String),
}
