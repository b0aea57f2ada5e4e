//! A JWT of an outside issuer, checked against keys that are at hand.
//!
//! Only asymmetric algorithms exist here, so that no public key can be taken for an HMAC secret and `none` cannot be
//! said. Times are checked against the moment that comes in, never against a clock.
//!
//! INVARIANT: the algorithm must be one that the issuer is pinned to *and* one of the key's kind; the token's header
//! only chooses among those.

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use greylag_protocol::{ErrorCode, MeshError, Result, principal::Principal};
use jsonwebtoken::{Algorithm, Validation, errors::ErrorKind};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    CREDENTIAL_BYTES_MAX,
    claims::{self, ClaimNames},
    jwks::IssuerKey,
    refused,
};

/// Clocks of issuer and node may differ by this much unless configured, seconds.
const LEEWAY_SECS: u64 = 30;
/// More leeway than this would make expiry mean little, seconds.
pub const LEEWAY_SECS_MAX: u64 = 300;

/// What an issuer may sign with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum SigningAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl SigningAlgorithm {
    /// `None` for HMAC, and for whatever the library may learn.
    pub(super) fn of(algorithm: Algorithm) -> Option<Self> {
        Some(match algorithm {
            Algorithm::RS256 => Self::RS256,
            Algorithm::RS384 => Self::RS384,
            Algorithm::RS512 => Self::RS512,
            Algorithm::PS256 => Self::PS256,
            Algorithm::PS384 => Self::PS384,
            Algorithm::PS512 => Self::PS512,
            Algorithm::ES256 => Self::ES256,
            Algorithm::ES384 => Self::ES384,
            Algorithm::EdDSA => Self::EdDsa,
            _ => return None,
        })
    }
}

/// An issuer whose tokens the mesh takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedIssuer {
    /// `iss`, letter for letter.
    pub issuer: String,
    /// One of them must be among the token's `aud`.
    pub audiences: BTreeSet<String>,
    pub algorithms: BTreeSet<SigningAlgorithm>,
    pub leeway_secs: u64,
    pub claims: ClaimNames,
}

impl TrustedIssuer {
    /// GL6001 for an issuer that would take too much.
    pub fn new(
        issuer: impl Into<String>,
        audiences: impl IntoIterator<Item = String>,
        algorithms: impl IntoIterator<Item = SigningAlgorithm>,
    ) -> Result<Self> {
        let trusted = Self {
            issuer: issuer.into(),
            audiences: audiences.into_iter().collect(),
            algorithms: algorithms.into_iter().collect(),
            leeway_secs: LEEWAY_SECS,
            claims: ClaimNames::default(),
        };
        trusted.validate()?;
        Ok(trusted)
    }

    /// To be called again once fields have been changed.
    pub fn validate(&self) -> Result<()> {
        let wrong =
            |why: &str| Err(MeshError::new(ErrorCode::InvalidConfig, format!("issuer `{}` {why}", self.issuer)));
        if self.issuer.is_empty() || self.audiences.is_empty() || self.audiences.contains("") {
            return wrong("needs a name and at least one audience");
        }
        if self.algorithms.is_empty() {
            return wrong("must be pinned to at least one algorithm");
        }
        if self.leeway_secs > LEEWAY_SECS_MAX {
            return wrong("has a leeway of over 300 s");
        }
        self.claims.validate()
    }
}

/// A token whose header has been read and is not refused yet.
#[derive(Debug)]
pub struct TokenCheck<'a> {
    issuer: &'a TrustedIssuer,
    token: &'a str,
    algorithm: Algorithm,
    kid: String,
}

impl<'a> TokenCheck<'a> {
    /// Reads the header. GL2001 for an algorithm that the issuer is not pinned to or a header without `kid`.
    pub fn new(issuer: &'a TrustedIssuer, token: &'a str) -> Result<Self> {
        if token.len() > CREDENTIAL_BYTES_MAX {
            return Err(refused("it is too long"));
        }
        let header = header(token)?;
        // What must be understood to be believed is not understood here (RFC 7515, 4.1.11).
        if header.contains_key("crit") {
            return Err(refused("its header has critical parts"));
        }
        let named = header.get("alg").and_then(Value::as_str).unwrap_or_default();
        let algorithm = named.parse::<Algorithm>().ok();
        let pinned = algorithm.filter(|a| SigningAlgorithm::of(*a).is_some_and(|s| issuer.algorithms.contains(&s)));
        let algorithm = pinned.ok_or_else(|| refused("its issuer does not sign with that algorithm"))?;
        let kid = header.get("kid").and_then(Value::as_str).filter(|kid| !kid.is_empty());
        let kid = kid.ok_or_else(|| refused("it does not say by which key it is signed"))?.to_owned();
        Ok(Self { issuer, token, algorithm, kid })
    }

    /// The key to look up.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The principal, if `key` has signed it and it is valid now. GL2002 if it has expired, GL2001 for all else.
    pub fn verify(&self, key: &IssuerKey, now_unix_secs: u64) -> Result<Principal> {
        if key.algorithm.is_some_and(|only| only != self.algorithm) {
            return Err(refused("its key is for another algorithm"));
        }
        let mut validation = Validation::new(self.algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let claims = jsonwebtoken::decode::<Map<String, Value>>(self.token, &key.key, &validation)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature => refused("its issuer has not signed it"),
                ErrorKind::InvalidAlgorithm => refused("its key is for another algorithm"),
                _ => refused("it cannot be read"),
            })?
            .claims;
        self.check_claims(&claims, now_unix_secs)?;
        claims::principal(&claims, &self.issuer.claims, &self.issuer.issuer)
    }

    fn check_claims(&self, claims: &Map<String, Value>, now: u64) -> Result<()> {
        if claims.get("iss").and_then(Value::as_str) != Some(&self.issuer.issuer) {
            return Err(refused("it is from another issuer"));
        }
        let ours = |audience: &Value| audience.as_str().is_some_and(|a| self.issuer.audiences.contains(a));
        let for_us = match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(ours),
            Some(one) => ours(one),
            None => false,
        };
        if !for_us {
            return Err(refused("it is for another audience"));
        }
        let leeway = self.issuer.leeway_secs;
        let expires = moment(claims, "exp")?.ok_or_else(|| refused("it has no `exp`"))?;
        if now >= expires.saturating_add(leeway) {
            return Err(MeshError::new(ErrorCode::TokenExpired, "the bearer token has expired"));
        }
        for (claim, why) in [("nbf", "it is not valid yet"), ("iat", "it is from the future")] {
            if moment(claims, claim)?.is_some_and(|at| at > now.saturating_add(leeway)) {
                return Err(refused(why));
            }
        }
        Ok(())
    }
}

/// A NumericDate: seconds, maybe with a fraction, which is cut.
fn moment(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let whole = value.as_u64().or_else(|| value.as_f64().filter(|s| (0.0..1e15).contains(s)).map(|s| s as u64));
    whole.map(Some).ok_or_else(|| refused(format!("its `{name}` is no time")))
}

fn header(token: &str) -> Result<Map<String, Value>> {
    part(token, 0)
}

/// The issuer that an unchecked token claims.
pub(super) fn claimed_issuer(token: &str) -> Result<String> {
    let claims = part(token, 1)?;
    let issuer = claims.get("iss").and_then(Value::as_str);
    issuer.map(str::to_owned).ok_or_else(|| refused("it does not say who issued it"))
}

fn part(token: &str, index: usize) -> Result<Map<String, Value>> {
    let unreadable = || refused("it is neither a token nor a key");
    let parts: Vec<&str> = token.split('.').collect();
    let [_, _, _] = parts[..] else { return Err(unreadable()) };
    let bytes = URL_SAFE_NO_PAD.decode(parts[index]).map_err(|_| unreadable())?;
    serde_json::from_slice(&bytes).map_err(|_| unreadable())
}

#[cfg(test)]
#[path = "jwt_test.rs"]
mod tests;
