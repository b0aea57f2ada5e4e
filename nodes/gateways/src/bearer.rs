//! Bearer tokens: JWTs signed by the mesh's own Ed25519 key, and how a door checks them. One issuer (the mesh), one
//! audience, one algorithm.
//!
//! What such a token says of its principal is the mesh's word, given by an administrator who could as well have changed the
//! policies: organisation, `acts_for`, scopes and groups are taken from it as they stand. Only which credential it is (its
//! `jti`) is not in the issuer's hands, so that revoking it finds it.
//!
//! INVARIANT: the algorithm is never taken from the token, and a token without an expiry, of another mesh or for
//! another audience names nobody.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use greylag_protocol::{
    ErrorCode, MeshError, MeshId, Result,
    principal::{Principal, PrincipalKind, attribute},
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The `aud` of every token.
pub const AUDIENCE: &str = "greylag";
/// Clocks of mesh and client may differ by this much, seconds.
pub const LEEWAY_SECS: u64 = 5;
/// Longest token that is looked at, bytes.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;
/// Longest life of a token.
pub const TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Length of the mesh's raw public key, bytes.
const PUBLIC_KEY_BYTES: usize = 32;
/// Claims with a meaning of their own, which no attribute may take.
const RESERVED: [&str; 10] = ["sub", "iss", "aud", "exp", "iat", "nbf", "jti", "roles", "kind", attribute::CREDENTIAL];
/// Longest id of a token, bytes.
const ID_BYTES_MAX: usize = 64;

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    iss: String,
    aud: String,
    /// Unix seconds.
    exp: u64,
    iat: u64,
    /// What the token is revoked by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    kind: Kind,
    /// Strings among these are the principal's attributes; the rest means nothing to the mesh.
    #[serde(flatten)]
    attributes: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Person,
    Agent,
    Service,
}

/// Signs tokens with the mesh's key.
pub struct Issuer {
    key: EncodingKey,
    mesh: MeshId,
}

impl Issuer {
    /// `bearer_key` is the mesh authority's, PKCS#8 DER.
    pub fn new(bearer_key: &[u8], mesh: MeshId) -> Result<Self> {
        ring::signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(bearer_key)
            .map_err(|_| MeshError::internal("the mesh's bearer key is not an Ed25519 key in PKCS#8"))?;
        Ok(Self { key: EncodingKey::from_ed_der(bearer_key), mesh })
    }

    /// A token for this principal, valid from `now_unix_secs` for `ttl`. GL6002 for what a token cannot say.
    pub fn issue(&self, principal: &Principal, ttl: Duration, now_unix_secs: u64) -> Result<String> {
        if principal.id.is_empty() {
            return Err(invalid("a token needs a subject"));
        }
        if ttl < Duration::from_secs(1) || ttl > TTL_MAX {
            return Err(invalid(format!("a token lives from 1 to {} seconds", TTL_MAX.as_secs())));
        }
        if let Some(name) = principal.attributes.keys().find(|name| RESERVED.contains(&name.as_str())) {
            return Err(invalid(format!("`{name}` cannot be an attribute: it is a claim of its own")));
        }
        let attributes = principal.attributes.iter().map(|(name, value)| (name.clone(), value.as_str().into()));
        let claims = Claims {
            sub: principal.id.clone(),
            iss: self.mesh.to_string(),
            aud: AUDIENCE.into(),
            exp: now_unix_secs.saturating_add(ttl.as_secs()),
            iat: now_unix_secs,
            jti: Some(Uuid::new_v4().simple().to_string()),
            roles: principal.roles.clone(),
            kind: match principal.kind {
                PrincipalKind::Person => Kind::Person,
                PrincipalKind::Agent => Kind::Agent,
                PrincipalKind::Service => Kind::Service,
            },
            attributes: attributes.collect(),
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &self.key)
            .map_err(|e| MeshError::internal(format!("a bearer token could not be signed: {e}")))?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(invalid(format!("a token of {} bytes is over the limit of {TOKEN_BYTES_MAX}", token.len())));
        }
        Ok(token)
    }
}

fn invalid(message: impl Into<String>) -> MeshError {
    MeshError::new(ErrorCode::InvalidResource, message)
}

/// Where the mesh's id and raw Ed25519 public key are found; asked at every call. `None` before there is a mesh.
type MeshKeys = dyn Fn() -> Option<(MeshId, Vec<u8>)> + Send + Sync;

/// Checks tokens against the mesh's key as it is now.
#[derive(Clone)]
pub struct Verifier {
    keys: Arc<MeshKeys>,
}

impl Verifier {
    pub fn new(keys: impl Fn() -> Option<(MeshId, Vec<u8>)> + Send + Sync + 'static) -> Self {
        Self { keys: Arc::new(keys) }
    }

    /// The principal that the mesh has named in this token. GL2002 if it has expired, GL2001 for anything else that
    /// is wrong with it, GL4007 while there is no mesh.
    pub fn verify(&self, token: &str) -> Result<Principal> {
        let Some((mesh, public_key)) = (self.keys)() else {
            return Err(MeshError::new(ErrorCode::NoLeader, "the mesh has not formed yet, so no token can be checked"));
        };
        if public_key.len() != PUBLIC_KEY_BYTES {
            return Err(MeshError::internal("the mesh's bearer key is not 32 bytes long"));
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Err(refused("it is too long"));
        }
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[mesh]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY_SECS;
        let claims = jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_ed_der(&public_key), &validation)
            .map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature => MeshError::new(ErrorCode::TokenExpired, "the bearer token has expired"),
                ErrorKind::InvalidSignature => refused("this mesh has not signed it"),
                ErrorKind::InvalidAlgorithm => refused("it is not signed with EdDSA"),
                ErrorKind::InvalidIssuer => refused("it is from another mesh"),
                ErrorKind::InvalidAudience => refused("it is for another audience"),
                ErrorKind::ImmatureSignature => refused("it is not valid yet"),
                ErrorKind::MissingRequiredClaim(claim) => refused(&format!("it has no `{claim}`")),
                _ => refused("it is not a token of this mesh"),
            })?
            .claims;
        principal(claims, token)
    }
}

fn principal(claims: Claims, token: &str) -> Result<Principal> {
    if claims.sub.is_empty() {
        return Err(refused("its subject is empty"));
    }
    let id = claims.jti.filter(|id| !id.is_empty() && id.len() <= ID_BYTES_MAX).unwrap_or_else(|| fingerprint(token));
    let strings = claims.attributes.into_iter().filter(|(name, _)| !RESERVED.contains(&name.as_str()));
    let strings = strings.filter_map(|(name, value)| Some((name, value.as_str()?.to_owned())));
    let credential = (attribute::CREDENTIAL.to_owned(), format!("bearer:{id}"));
    Ok(Principal {
        id: claims.sub,
        kind: match claims.kind {
            Kind::Person => PrincipalKind::Person,
            Kind::Agent => PrincipalKind::Agent,
            Kind::Service => PrincipalKind::Service,
        },
        roles: claims.roles,
        attributes: strings.chain([credential]).collect(),
    })
}

/// Names a token that has no id of its own, by what is signed of it.
fn fingerprint(token: &str) -> String {
    let signed = token.rsplit_once('.').map_or(token, |(signed, _)| signed);
    let digest = ring::digest::digest(&ring::digest::SHA256, signed.as_bytes());
    digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn refused(why: &str) -> MeshError {
    MeshError::new(ErrorCode::Unauthenticated, format!("the bearer token is refused: {why}"))
}

#[cfg(test)]
#[path = "bearer_test.rs"]
mod tests;
