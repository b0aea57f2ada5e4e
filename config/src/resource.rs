//! Declared resources, as `greylag apply -f FILE` reads them: YAML documents, each `{kind, name, ...}`.
//!
//! | kind | fields |
//! |---|---|
//! | `Source` | `name`, `connector`, `options`, `labels`, `replicas` |
//! | `Policy` | `name`, and `text` or `file` with one policy in Cedar |
//! | `Tag` | `name`, `on`: a list of `{tables, columns}` |
//! | `Attribute` | `name`, `type`: `text`, `integer`, `bool`, `texts` |
//! | `Governance` | `environment`, `utc_offset` such as `"+02:00"`, `prices`, `budgets`, `weights` |
//! | `Quota` | `organisation`, `agent`, `period`: `hour`, `day`, `month`; `credits` |
//!
//! What a field means is with the type that it becomes, in `protocol::state`. A document says all of its resource: what it
//! leaves out has its default, whatever was there before.

use std::collections::BTreeMap;

use greylag_protocol::{
    ErrorCode, MeshError, Result, SourceName,
    admin::{ResourceContent, ResourceId},
    state::{AttributeKind, Budget, GovernanceSettings, Period, Prices, QuotaKey, SourceSpec, TagPlace},
};
use serde::Deserialize;

use crate::with_suggestion;

/// Most documents in one file.
const DOCUMENTS_MAX: usize = 10_000;
/// Micro-credits of a credit.
const CREDIT: f64 = 1e6;
/// Most credits of a quota: all up to it are counted exactly.
const CREDITS_MAX: f64 = 1e9;

/// A resource, and what it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub id: ResourceId,
    pub content: ResourceContent,
}

impl Resource {
    /// Its turn when several are applied: what others are about goes first.
    pub fn turn(&self) -> u8 {
        match self.id {
            ResourceId::Governance => 0,
            ResourceId::Attribute(_) => 1,
            ResourceId::Source(_) => 2,
            ResourceId::Tag(_) => 3,
            ResourceId::Policy(_) => 4,
            ResourceId::Quota(_) => 5,
        }
    }
}

#[derive(Deserialize)]
#[serde(tag = "kind", deny_unknown_fields)]
enum Document {
    Source {
        name: SourceName,
        /// Connector kind.
        connector: String,
        #[serde(default)]
        options: BTreeMap<String, Scalar>,
        #[serde(default)]
        labels: BTreeMap<String, String>,
        #[serde(default = "one")]
        replicas: u32,
    },
    Policy {
        name: String,
        #[serde(default)]
        text: Option<String>,
        #[serde(default)]
        file: Option<String>,
    },
    Tag {
        name: String,
        on: Vec<TagPlace>,
    },
    Attribute {
        name: String,
        #[serde(rename = "type")]
        of_type: AttributeKind,
    },
    Governance {
        #[serde(default)]
        environment: Option<String>,
        #[serde(default)]
        utc_offset: Option<String>,
        #[serde(default)]
        prices: Prices,
        #[serde(default)]
        budgets: Vec<Budget>,
        #[serde(default)]
        weights: BTreeMap<String, u32>,
    },
    Quota {
        organisation: String,
        #[serde(default)]
        agent: Option<String>,
        period: Period,
        credits: f64,
    },
}

fn one() -> u32 {
    1
}

/// An option's value: people write `port: 5432` and `header: true` without quotes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Bool(bool),
    Integer(i64),
    Text(String),
}

impl From<Scalar> for String {
    fn from(scalar: Scalar) -> String {
        match scalar {
            Scalar::Bool(b) => b.to_string(),
            Scalar::Integer(i) => i.to_string(),
            Scalar::Text(t) => t,
        }
    }
}

/// Reads all documents of a text; `read` gives the text of a file that one of them names. GL6002 naming place and field
/// for anything that is not understood.
pub fn parse_resources(text: &str, read: &dyn Fn(&str) -> Result<String>) -> Result<Vec<Resource>> {
    // As YAML 1.2 has it: `on` is a word, and no boolean.
    let options = serde_saphyr::options! { strict_booleans: true };
    let documents: Vec<Document> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|e| invalid(with_suggestion(&e.to_string())))?;
    if documents.len() > DOCUMENTS_MAX {
        return Err(invalid(format!("{} documents are over the limit of {DOCUMENTS_MAX}", documents.len())));
    }
    documents.into_iter().map(|document| resource(document, read)).collect()
}

fn resource(document: Document, read: &dyn Fn(&str) -> Result<String>) -> Result<Resource> {
    let (id, content) = match document {
        Document::Source { name, connector, options, labels, replicas } => {
            if replicas == 0 {
                return Err(invalid(format!("source `{name}`: `replicas` must be at least 1")));
            }
            let options = options.into_iter().map(|(k, v)| (k, v.into())).collect();
            let spec = SourceSpec { name: name.clone(), kind: connector, options, labels, replicas };
            (ResourceId::Source(name), ResourceContent::Source(spec))
        }
        Document::Policy { name, text, file } => {
            let text = match (text, file) {
                (Some(text), None) => text,
                (None, Some(file)) => read(&file)?,
                _ => return Err(invalid(format!("policy `{name}`: it has either `text` or `file`"))),
            };
            (ResourceId::Policy(named("policy", name)?), ResourceContent::Policy(text.trim().to_owned()))
        }
        Document::Tag { name, on } => {
            if on.is_empty() {
                return Err(invalid(format!("tag `{name}`: `on` is empty; `greylag drop tag` takes it away")));
            }
            (ResourceId::Tag(named("tag", name)?), ResourceContent::Tag(on))
        }
        Document::Attribute { name, of_type } => {
            (ResourceId::Attribute(named("attribute", name)?), ResourceContent::Attribute(of_type))
        }
        Document::Governance { environment, utc_offset, prices, budgets, weights } => {
            let usual = GovernanceSettings::default();
            let utc_offset_minutes = match utc_offset {
                Some(text) => parse_utc_offset(&text)
                    .ok_or_else(|| invalid(format!("`utc_offset`: `{text}` is not an offset such as `+02:00`")))?,
                None => usual.utc_offset_minutes,
            };
            let environment = environment.unwrap_or(usual.environment);
            let settings = GovernanceSettings { environment, utc_offset_minutes, prices, budgets, weights };
            (ResourceId::Governance, ResourceContent::Governance(Box::new(settings)))
        }
        Document::Quota { organisation, agent, period, credits } => {
            let key = QuotaKey { organisation: named("quota", organisation)?, agent, period };
            let limit = micro_credits(credits).ok_or_else(|| {
                invalid(format!(
                    "quota {key}: `credits` is from 0 to {CREDITS_MAX}, with at most six digits after the point"
                ))
            })?;
            (ResourceId::Quota(key), ResourceContent::Quota(limit))
        }
    };
    Ok(Resource { id, content })
}

fn named(what: &str, name: String) -> Result<String> {
    if name.trim().is_empty() {
        return Err(invalid(format!("a {what} needs a name")));
    }
    Ok(name)
}

fn micro_credits(credits: f64) -> Option<u64> {
    let micro = credits * CREDIT;
    let is_whole = (micro - micro.round()).abs() < 1e-3;
    ((0.0..=CREDITS_MAX).contains(&credits) && is_whole).then(|| micro.round() as u64)
}

/// Minutes of `+02:00`, `-03:30` or `Z`.
pub fn parse_utc_offset(text: &str) -> Option<i32> {
    if text == "Z" {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let number = |digits: &str| -> Option<i32> {
        (digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours <= 14 && minutes < 60).then_some(sign * (hours * 60 + minutes))
}

fn invalid(message: String) -> MeshError {
    MeshError::new(ErrorCode::InvalidResource, message)
}

#[cfg(test)]
#[path = "resource_test.rs"]
mod tests;
