//! API keys. The secret is made here, of the system's randomness, and goes into the reply; only its hash is proposed.

use std::time::Duration;

use greylag_governance::identity::key::{self, NewKey, RANDOM_BYTES};
use greylag_protocol::{
    ErrorCode, MeshError, Result,
    admin::{KEYS_LISTED_MAX, KeyInfo},
    principal::{Principal, PrincipalKind, attribute},
    state::{Command, GovernCommand, Network, Outcome, Scope},
    statement::AdminReply,
};
use ring::rand::{SecureRandom, SystemRandom};

use super::{propose, ttl_ms};
use crate::NodeCtx;

/// Longest validity of a key that expires at all.
const KEY_TTL_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);
/// Longest id of a principal, name of a role or attribute, and value of one, bytes.
const NAME_BYTES_MAX: usize = 256;
/// Roles, and attributes, of a principal.
const NAMES_MAX: usize = 64;

pub(super) async fn create(
    ctx: &NodeCtx,
    principal: Principal,
    scopes: Vec<Scope>,
    networks: Vec<Network>,
    ttl_secs: Option<u64>,
) -> Result<AdminReply> {
    check_principal(&principal)?;
    if principal.attributes.contains_key(attribute::SCOPES) {
        let message = "a key has its scopes beside its principal: leave the attribute `scopes` out";
        return Err(MeshError::new(ErrorCode::InvalidResource, message));
    }
    let now_unix_ms = ctx.seams.clock.unix_ms();
    let ttl_ms = ttl_secs.map(|secs| ttl_ms(secs, KEY_TTL_MAX)).transpose()?;
    let expires_unix_ms = ttl_ms.map(|ttl| now_unix_ms.saturating_add(ttl));
    let mut random = [0; RANDOM_BYTES];
    SystemRandom::new().fill(&mut random).map_err(|_| MeshError::internal("the system gives no random bytes"))?;
    let (key, plain) = key::mint(NewKey { principal, scopes, networks, expires_unix_ms }, &random, now_unix_ms)?;
    let id = key.id.clone();
    match ctx.mesh.propose(Command::Govern(GovernCommand::PutKey { key: Box::new(key) })).await? {
        Outcome::Refused(error) => Err(error),
        _ => Ok(AdminReply::Key { id, key: plain.reveal().to_owned() }),
    }
}

pub(super) fn list(ctx: &NodeCtx, after: Option<&str>) -> AdminReply {
    let state = ctx.mesh.state();
    let mut rest = state.governance.keys.iter().filter(|(id, _)| after.is_none_or(|after| id.as_str() > after));
    let keys = rest.by_ref().take(KEYS_LISTED_MAX).map(|(_, key)| KeyInfo::from(key)).collect();
    AdminReply::Keys { keys, more: rest.next().is_some() }
}

pub(super) async fn revoke(ctx: &NodeCtx, id: String) -> Result<AdminReply> {
    let now_unix_ms = ctx.seams.clock.unix_ms();
    propose(ctx, GovernCommand::RevokeKey { id, now_unix_ms }).await
}

/// GL6002 for a principal that no credential should name. `scopes` may limit what a bearer token is good for.
pub(in crate::coordinator) fn check_principal(principal: &Principal) -> Result<()> {
    let wrong = |why: String| Err(MeshError::new(ErrorCode::InvalidResource, why));
    let is_name =
        |name: &str| !name.trim().is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control);
    if !is_name(&principal.id) {
        return wrong(format!("a principal's name is 1 to {NAME_BYTES_MAX} bytes of text"));
    }
    if principal.roles.len() > NAMES_MAX || principal.attributes.len() > NAMES_MAX {
        return wrong(format!("a principal has at most {NAMES_MAX} roles and {NAMES_MAX} attributes"));
    }
    if let Some(role) = principal.roles.iter().find(|role| !is_name(role)) {
        return wrong(format!("`{role}` is no name for a role"));
    }
    for (name, value) in &principal.attributes {
        let group = name.strip_prefix(attribute::GROUP_PREFIX);
        if !is_name(name) || group == Some("") || value.len() > NAME_BYTES_MAX {
            return wrong(format!("attribute `{name}` has no valid name or value"));
        }
        if name == attribute::CREDENTIAL {
            return wrong(format!("attribute `{name}` is set by the mesh itself"));
        }
        if name == attribute::SCOPES {
            value.split(' ').try_for_each(|scope| scope.parse::<Scope>().map(drop))?;
        }
    }
    if principal.kind == PrincipalKind::Person && principal.attributes.contains_key(attribute::ACTS_FOR) {
        return wrong("a person acts for nobody else: only agents and services have `acts_for`".into());
    }
    match principal.attribute(attribute::PRIORITY).map(str::parse::<greylag_protocol::principal::Priority>) {
        Some(Err(())) => wrong("`priority` is low, normal, high or critical".into()),
        _ => Ok(()),
    }
}
