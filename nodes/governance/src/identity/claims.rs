//! From a token's claims to a principal.
//!
//! Issuers name things differently, so the names of the claims are configuration; a path like `realm_access.roles`
//! goes into objects. A claim that is not named here says nothing to the mesh.
//!
//! Delegation is RFC 8693's: `sub` is the person, `act.sub` who acts for it. The principal then is the one that acts,
//! with the person as `acts_for`: policy decides on both, and the audit names both.

use std::collections::{BTreeMap, BTreeSet};

use greylag_protocol::{
    ErrorCode, MeshError, Result,
    principal::{Principal, PrincipalKind, attribute},
};
use serde_json::{Map, Value};

use super::refused;

/// Most roles or groups that a token may name.
pub const NAMES_MAX: usize = 1000;
/// Longest name or attribute, bytes.
pub const VALUE_BYTES_MAX: usize = 1024;

/// Which claims say what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimNames {
    /// The id. Must be there.
    pub subject: String,
    /// A list of strings, or one string of words.
    pub roles: String,
    pub groups: String,
    pub organisation: String,
    pub agent_id: String,
    pub framework: String,
    pub priority: String,
    /// `person`, `agent` or `service`.
    pub kind: String,
    /// OAuth's `scope`: kept as the credential's scopes if `scopes_limit` is set.
    pub scope: String,
    /// Whether the token's scopes limit what it may be used for. Most issuers' scopes mean other things.
    pub scopes_limit: bool,
    /// Further claims (strings, numbers, booleans) that become attributes of the same name.
    pub attributes: BTreeSet<String>,
    /// Only these roles are taken from this issuer, and under the names given. `None`: all but `admin`. An outside
    /// issuer makes an admin of the mesh only where this says so.
    pub role_map: Option<BTreeMap<String, String>>,
}

impl Default for ClaimNames {
    fn default() -> Self {
        Self {
            subject: "sub".into(),
            roles: "roles".into(),
            groups: "groups".into(),
            organisation: "organisation".into(),
            agent_id: "agent_id".into(),
            framework: "framework".into(),
            priority: "priority".into(),
            kind: "kind".into(),
            scope: "scope".into(),
            scopes_limit: false,
            attributes: BTreeSet::new(),
            role_map: None,
        }
    }
}

impl ClaimNames {
    pub(super) fn validate(&self) -> Result<()> {
        match self.attributes.iter().find(|name| attribute::is_reserved(name) || NAMED.contains(&name.as_str())) {
            Some(name) => Err(MeshError::new(
                ErrorCode::InvalidConfig,
                format!("`{name}` cannot be copied from a claim: the mesh sets it itself"),
            )),
            None => Ok(()),
        }
    }
}

/// Attributes that have a claim of their own in [`ClaimNames`].
const NAMED: [&str; 4] = [attribute::ORGANISATION, attribute::AGENT_ID, attribute::FRAMEWORK, attribute::PRIORITY];

/// The principal that checked claims name.
pub(super) fn principal(claims: &Map<String, Value>, names: &ClaimNames, issuer: &str) -> Result<Principal> {
    let subject = text(claims, &names.subject)?.ok_or_else(|| refused("it has no subject"))?;
    let actor = at(claims, "act.sub").map(|_| text(claims, "act.sub")).transpose()?.flatten();
    let agent_id = text(claims, &names.agent_id)?;
    let kind = match (text(claims, &names.kind)?.as_deref(), &actor, &agent_id) {
        (Some("person"), None, _) => PrincipalKind::Person,
        (Some("service"), _, _) => PrincipalKind::Service,
        (Some("agent"), _, _) => PrincipalKind::Agent,
        (Some(_), None, _) => return Err(refused("it names a kind of principal that there is not")),
        (_, None, None) => PrincipalKind::Person,
        (_, _, _) => PrincipalKind::Agent,
    };
    let mut attributes = BTreeMap::new();
    let mut set = |name: &str, value: Option<String>| value.map(|value| attributes.insert(name.to_owned(), value));
    set(attribute::ORGANISATION, text(claims, &names.organisation)?);
    set(attribute::AGENT_ID, agent_id);
    set(attribute::FRAMEWORK, text(claims, &names.framework)?);
    set(attribute::PRIORITY, text(claims, &names.priority)?);
    set(attribute::CREDENTIAL, Some(format!("jwt:{issuer}")));
    for name in &names.attributes {
        set(name, scalar(claims, name)?);
    }
    if names.scopes_limit {
        set(attribute::SCOPES, Some(list(claims, &names.scope)?.join(" ")));
    }
    let id = match actor {
        Some(actor) => {
            set(attribute::ACTS_FOR, Some(subject));
            actor
        }
        None => subject,
    };
    let mut principal = Principal { id, kind, roles: roles(claims, names)?, attributes };
    for group in list(claims, &names.groups)? {
        principal.join_group(&group);
    }
    Ok(principal)
}

fn roles(claims: &Map<String, Value>, names: &ClaimNames) -> Result<Vec<String>> {
    let said = list(claims, &names.roles)?;
    Ok(match &names.role_map {
        Some(map) => said.iter().filter_map(|role| map.get(role).cloned()).collect(),
        None => said.into_iter().filter(|role| role != greylag_protocol::principal::ADMIN_ROLE).collect(),
    })
}

/// The claim of this name, or the one that a path with stops leads to.
fn at<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let mut parts = path.split('.');
    let first = claims.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.as_object()?.get(part))
}

fn text(claims: &Map<String, Value>, path: &str) -> Result<Option<String>> {
    match at(claims, path) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) if !s.is_empty() && s.len() <= VALUE_BYTES_MAX => Ok(Some(s.clone())),
        Some(_) => Err(refused(format!("its `{path}` is no name"))),
    }
}

fn scalar(claims: &Map<String, Value>, path: &str) -> Result<Option<String>> {
    match at(claims, path) {
        Some(Value::Bool(b)) => Ok(Some(b.to_string())),
        Some(Value::Number(n)) => Ok(Some(n.to_string())),
        _ => text(claims, path),
    }
}

fn list(claims: &Map<String, Value>, path: &str) -> Result<Vec<String>> {
    let wrong = || refused(format!("its `{path}` is no list of names"));
    let all: Vec<String> = match at(claims, path) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(words)) => words.split_ascii_whitespace().map(str::to_owned).collect(),
        Some(Value::Array(items)) => {
            items.iter().map(|i| i.as_str().map(str::to_owned)).collect::<Option<_>>().ok_or_else(wrong)?
        }
        Some(_) => return Err(wrong()),
    };
    if all.len() > NAMES_MAX || all.iter().any(|n| n.is_empty() || n.len() > VALUE_BYTES_MAX) {
        return Err(wrong());
    }
    Ok(all)
}
