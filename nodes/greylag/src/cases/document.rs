//! The file of `greylag policy test`, as it is written.
//!
//! ```yaml
//! policies: [policies.cedar]        # files of several policies, each with its @id
//! resources: [governance.yaml]      # Policy, Tag, Attribute and Governance documents as for `greylag apply`
//! tables:
//!   clinic.main.patients:
//!     columns: { id: integer not null, name: text, born: date }
//!     rows: patients.csv            # or a list: [{ id: 1, name: A. }]; only for `sees`
//! principals:
//!   berta: { kind: person, roles: [doctor], attributes: { ward: north } }
//! cases:
//!   - name: doctors see the patients of their own ward
//!     as: berta
//!     tables: [clinic.main.patients]
//!     at: 2026-03-02T10:00          # local time of the mesh, unless it ends with Z or an offset
//!     expect: permit
//!     sees: { clinic.main.patients: [{ id: 1 }, { id: 4, name: D. }] }
//! ```
//!
//! Types of columns are `bool`, `integer` (64 bits), `integer32`, `float`, `text`, `decimal(P,S)`, `date`, `timestamp`,
//! `bytes`; `not null` after one says that it is never NULL. Files are looked for beside the file that names them.

use std::collections::BTreeMap;

use greylag_protocol::{
    messages::control::Action,
    state::{AttributeKind, GovernanceSettings, TagPlace},
};
use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    #[serde(default)]
    pub policies: Vec<String>,
    #[serde(default)]
    pub resources: Vec<String>,
    pub tables: BTreeMap<String, Table>,
    #[serde(default)]
    pub tags: BTreeMap<String, Vec<TagPlace>>,
    #[serde(default)]
    pub attributes: BTreeMap<String, AttributeKind>,
    /// In place of a `Governance` document.
    #[serde(default)]
    pub settings: Option<GovernanceSettings>,
    pub principals: BTreeMap<String, Person>,
    pub cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Names and types, in any order.
    pub columns: BTreeMap<String, String>,
    #[serde(default)]
    pub rows: Rows,
}

/// A CSV file with a header, where an empty value is NULL; or the rows themselves, where what is left out is NULL.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Rows {
    File(String),
    Here(Vec<BTreeMap<String, Value>>),
}

impl Default for Rows {
    fn default() -> Self {
        Self::Here(Vec::new())
    }
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    Person,
    Agent,
    Service,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    #[serde(default)]
    pub kind: Kind,
    #[serde(default)]
    pub roles: Vec<String>,
    #[serde(default)]
    pub groups: Vec<String>,
    #[serde(default)]
    pub organisation: Option<String>,
    /// The person for whom an agent or service acts.
    #[serde(default)]
    pub acts_for: Option<String>,
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Deed {
    #[default]
    Select,
    Describe,
    Explain,
    Manage,
}

impl From<Deed> for Action {
    fn from(deed: Deed) -> Self {
        match deed {
            Deed::Select => Action::Select,
            Deed::Describe => Action::Describe,
            Deed::Explain => Action::Explain,
            Deed::Manage => Action::Manage,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    Permit,
    Deny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    /// One of the principals.
    #[serde(rename = "as")]
    pub principal: String,
    #[serde(default)]
    pub action: Deed,
    /// Tables that a statement touches, whatever it reads of them.
    #[serde(default)]
    pub tables: Vec<String>,
    /// Tables with the columns that it reads: reading a hidden one is denied.
    #[serde(default)]
    pub reads: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub at: Option<String>,
    #[serde(default)]
    pub origin: Option<String>,
    pub expect: Expect,
    /// A part of the reason of a denial.
    #[serde(default)]
    pub reason: Option<String>,
    /// Ids of the policies that determine it, all of them.
    #[serde(default)]
    pub by: Option<Vec<String>>,
    /// By table the rows that are seen, all of them and in their order, each with the columns that are to be looked at.
    #[serde(default)]
    pub sees: BTreeMap<String, Vec<BTreeMap<String, Value>>>,
    /// By table the columns that are not there for the principal, all of them.
    #[serde(default)]
    pub hidden: BTreeMap<String, Vec<String>>,
    /// Ids of the policies in mode `warn` or `log` that would have changed something, all of them.
    #[serde(default)]
    pub notices: Option<Vec<String>>,
}
