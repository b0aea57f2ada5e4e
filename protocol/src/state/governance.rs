//! What the log keeps of who may do what: policies, tags, declared attributes, settings, keys, quotas, and the heads of
//! the nodes' audit chains. Policies are text here; what they mean is in `governance::policy`, and who proposes one has
//! had it checked there against the catalog.
//!
//! INVARIANT: `decided_since` is raised by exactly those changes after which an earlier decision might be another one.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{ApiKey, AuditHead, QuotaLedger};
use crate::ids::{Epoch, NodeId};

/// Everything about it that the log keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Governance {
    /// Epoch of the last change of policies, tags, attributes or settings, or of a revocation: an edge begins no
    /// sub-query for a statement that was decided before it.
    pub decided_since: Epoch,
    pub policies: BTreeMap<String, StoredPolicy>,
    /// Which tables and columns bear a tag, by the tag's name.
    pub tags: BTreeMap<String, Versioned<Vec<TagPlace>>>,
    /// Attributes of principals that policies use by name.
    pub attributes: BTreeMap<String, AttributeKind>,
    pub settings: Versioned<GovernanceSettings>,
    /// By the middle of `glk_<id>_<secret>`.
    pub keys: BTreeMap<String, ApiKey>,
    pub quotas: QuotaLedger,
    /// The last record of each node's audit chain that the log knows of.
    pub audit_heads: BTreeMap<NodeId, AuditHead>,
}

/// Something with the number of times that it has been changed, from 1; 0 if it never was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned<T> {
    pub version: u64,
    pub value: T,
}

/// A policy's text. Effect, mode, mask and tables are annotations in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPolicy {
    pub text: String,
    pub version: u64,
    /// Who has put it there, and when, by the clock of the node that was asked.
    pub changed_by: String,
    pub changed_unix_ms: u64,
}

/// Tables, or columns of tables, by patterns with `*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagPlace {
    /// `source.schema.table`.
    pub tables: String,
    /// `None`: the tables themselves, and so all that is in them.
    #[serde(default)]
    pub columns: Option<String>,
}

/// What a principal's attribute holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttributeKind {
    Text,
    Integer,
    Bool,
    /// Texts between commas.
    Texts,
}

/// What holds for the whole mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GovernanceSettings {
    /// `context.environment` in policies.
    pub environment: String,
    /// For `context.hour`, `minute` and `weekday`.
    pub utc_offset_minutes: i32,
    /// Credits are counted by these prices.
    pub prices: Prices,
    /// What a statement may be estimated to read. The first that fits its principal holds.
    pub budgets: Vec<Budget>,
    /// Shares of the slots for statements, by organisation, where more wait than run. 1 if it is not named.
    pub weights: BTreeMap<String, u32>,
}

impl Default for GovernanceSettings {
    fn default() -> Self {
        Self {
            environment: "production".into(),
            utc_offset_minutes: 0,
            prices: Prices::default(),
            budgets: Vec::new(),
            weights: BTreeMap::new(),
        }
    }
}

/// Prices in nano-credits for each unit (bytes: for each KiB). What they are for is in `governance::quota`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    pub statement: u64,
    pub row_returned: u64,
    pub kib_returned: u64,
    pub row_scanned: u64,
    pub kib_scanned: u64,
    pub source_ms: u64,
    pub cpu_ms: u64,
}

impl Default for Prices {
    fn default() -> Self {
        Self {
            statement: 1_000_000,
            row_returned: 1_000,
            kib_returned: 20_000,
            row_scanned: 100,
            kib_scanned: 4_000,
            source_ms: 50_000,
            cpu_ms: 100_000,
        }
    }
}

/// The most that a statement may be estimated to read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Whom it is for: all that are named must fit.
    pub organisation: Option<String>,
    pub role: Option<String>,
    pub agent: Option<String>,
    pub rows_max: Option<u64>,
    pub bytes_max: Option<u64>,
}

/// Secret by which masks keep equal values equal, within one mesh.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskSalt(pub Vec<u8>);

impl fmt::Debug for MaskSalt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskSalt(***)")
    }
}

/// Policies that a new mesh has, so that there is somebody who may anything, and nobody else who may read: id and text.
/// Like all others they can be changed and dropped.
pub const FOUNDING_POLICIES: [(&str, &str); 3] = [
    (
        "admins-read",
        "permit (\n  principal in Role::\"admin\",\n  action in [Action::\"select\", Action::\"describe\", Action::\"explain\"],\n  resource\n);",
    ),
    (
        "everyone-lists-tables",
        "@tables(\"greylag.system.tables\")\npermit (\n  principal,\n  action in [Action::\"select\", Action::\"describe\", Action::\"explain\"],\n  resource\n);",
    ),
    (
        "everyone-sees-own-statements",
        "@tables(\"greylag.system.queries\")\npermit (\n  principal,\n  action in [Action::\"select\", Action::\"describe\", Action::\"explain\"],\n  resource\n) when { !(resource is Row) || resource.principal == principal.id };",
    ),
];

/// Changes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GovernCommand {
    /// `expect_version`: `None` for any, `Some(0)` for "must not exist". An equal text changes nothing.
    PutPolicy {
        id: String,
        text: String,
        by: String,
        now_unix_ms: u64,
        expect_version: Option<u64>,
    },
    DropPolicy {
        id: String,
    },
    /// No places: the tag is dropped.
    PutTag {
        tag: String,
        places: Vec<TagPlace>,
        expect_version: Option<u64>,
    },
    /// `None`: it is declared no more.
    DeclareAttribute {
        name: String,
        kind: Option<AttributeKind>,
    },
    PutSettings {
        settings: Box<GovernanceSettings>,
        expect_version: Option<u64>,
    },
    PutKey {
        key: Box<ApiKey>,
    },
    RevokeKey {
        id: String,
        now_unix_ms: u64,
    },
    /// When keys were used last. Said late or twice, the latest holds.
    KeysUsed {
        uses: Vec<(String, u64)>,
    },
    /// The last record of a node's audit chain. An older one than is known changes nothing.
    AuditHead {
        head: AuditHead,
    },
}

impl fmt::Display for GovernCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutPolicy { id, .. } => write!(f, "put policy {id}"),
            Self::DropPolicy { id } => write!(f, "drop policy {id}"),
            Self::PutTag { tag, .. } => write!(f, "put tag {tag}"),
            Self::DeclareAttribute { name, .. } => write!(f, "declare attribute {name}"),
            Self::PutSettings { .. } => f.write_str("put governance settings"),
            Self::PutKey { key } => write!(f, "put key {}", key.id),
            Self::RevokeKey { id, .. } => write!(f, "revoke key {id}"),
            Self::KeysUsed { uses } => write!(f, "{} keys were used", uses.len()),
            Self::AuditHead { head } => write!(f, "audit head {} of {}", head.sequence, head.node),
        }
    }
}
