//! API keys: `glk_<id>_<secret>`, where the secret is 256 random bits.
//!
//! What is stored is the SHA-256 of the secret. A slow hash (argon2, bcrypt) makes each guess dear where there are few
//! guesses to make, as with passwords; among 2^256 secrets there is nothing to guess, so it would only make every call
//! slow and a flood of wrong keys expensive for the mesh itself.
//!
//! INVARIANT: how long a check takes says nothing about the stored hash; a key of unknown id costs the same work as a
//! wrong one, and both are refused in the same words.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use greylag_protocol::{
    ErrorCode, MeshError, Result,
    principal::{Principal, attribute},
    state::{ApiKey, Network, Scope},
};
use sha2::{Digest, Sha256};

use super::refused;

pub const PREFIX: &str = "glk_";
/// Random bytes of an id. Ids are no secret: they only must not meet.
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;
/// Random bytes that a new key needs.
pub const RANDOM_BYTES: usize = ID_BYTES + SECRET_BYTES;
/// Most networks of one key.
pub const NETWORKS_MAX: usize = 64;
/// The last use of a key is reported this seldom: it is for people who look for keys that nobody needs.
const USE_REPORT_MS: u64 = 3_600_000;
/// Keys whose use has not been reported yet.
const USES_MAX: usize = 10_000;

/// What a new key is to be.
#[derive(Debug, Clone)]
pub struct NewKey {
    pub principal: Principal,
    pub scopes: Vec<Scope>,
    pub networks: Vec<Network>,
    pub expires_unix_ms: Option<u64>,
}

/// The only copy of a key's secret. Shown once, to whoever asked for the key.
pub struct Plaintext(String);

impl Plaintext {
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plaintext(***)")
    }
}

/// Makes a key of random bytes. GL6002 for one that could never be used.
pub fn mint(new: NewKey, random: &[u8; RANDOM_BYTES], now_unix_ms: u64) -> Result<(ApiKey, Plaintext)> {
    let wrong = |why: &str| Err(MeshError::new(ErrorCode::InvalidResource, format!("the key {why}")));
    if new.principal.id.is_empty() {
        return wrong("needs a principal");
    }
    if new.scopes.is_empty() {
        return wrong("needs at least one scope");
    }
    if new.networks.len() > NETWORKS_MAX {
        return wrong("names too many networks");
    }
    if new.expires_unix_ms.is_some_and(|at| at <= now_unix_ms) {
        return wrong("would have expired already");
    }
    let (id, secret) = random.split_at(ID_BYTES);
    let id = hex(id);
    let text = format!("{PREFIX}{id}_{}", hex(secret));
    let key = ApiKey {
        id,
        secret_hash: Sha256::digest(secret).into(),
        principal: new.principal,
        scopes: new.scopes.into_iter().collect(),
        networks: new.networks,
        created_unix_ms: now_unix_ms,
        expires_unix_ms: new.expires_unix_ms,
        revoked_unix_ms: None,
        last_used_unix_ms: None,
    };
    Ok((key, Plaintext(text)))
}

/// The principal of a presented key, with the key's scopes. `from` is the client's address as the door sees it.
///
/// GL2001 for a key that is not known, wrong or revoked; GL2002 expired; GL2006 from elsewhere.
pub fn check(keys: &BTreeMap<String, ApiKey>, presented: &str, from: IpAddr, now_unix_ms: u64) -> Result<Principal> {
    let (id, secret) = parse(presented)?;
    let hash: [u8; 32] = Sha256::digest(secret).into();
    let key = keys.get(id);
    let stored = key.map_or([0; 32], |key| key.secret_hash);
    let matches = equal(&hash, &stored);
    let key = key.filter(|_| matches).ok_or_else(|| refused("the key is not known or its secret is wrong"))?;
    if key.revoked_unix_ms.is_some() {
        return Err(refused("the key has been revoked"));
    }
    if key.expires_unix_ms.is_some_and(|at| now_unix_ms >= at) {
        return Err(MeshError::new(ErrorCode::TokenExpired, "the key has expired"));
    }
    if !key.networks.is_empty() && !key.networks.iter().any(|network| network.contains(from)) {
        return Err(MeshError::new(ErrorCode::AddressRefused, format!("the key may not be used from {from}")));
    }
    let mut principal = key.principal.clone();
    let scopes: Vec<&str> = key.scopes.iter().map(|s| s.as_str()).collect();
    principal.attributes.insert(attribute::SCOPES.into(), scopes.join(" "));
    principal.attributes.insert(attribute::CREDENTIAL.into(), format!("key:{}", key.id));
    Ok(principal)
}

/// GL2007 unless the principal's credential is good for this.
pub fn require(principal: &Principal, scope: Scope) -> Result<()> {
    if principal.has_scope(scope.as_str()) {
        return Ok(());
    }
    Err(MeshError::new(ErrorCode::ScopeMissing, format!("the credential lacks the scope `{scope}`")))
}

fn parse(presented: &str) -> Result<(&str, [u8; SECRET_BYTES])> {
    let unreadable = || refused("it is no key");
    let rest = presented.strip_prefix(PREFIX).ok_or_else(unreadable)?;
    let (id, secret) = rest.split_once('_').ok_or_else(unreadable)?;
    let mut bytes = [0; SECRET_BYTES];
    let is_hex = |text: &str, length: usize| text.len() == 2 * length && text.bytes().all(|b| HEX.contains(&b));
    if !is_hex(id, ID_BYTES) || !is_hex(secret, SECRET_BYTES) {
        return Err(unreadable());
    }
    for (byte, pair) in bytes.iter_mut().zip(secret.as_bytes().chunks_exact(2)) {
        *byte = pair.iter().fold(0, |sum, digit| sum << 4 | nibble(*digit));
    }
    Ok((id, bytes))
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| [HEX[usize::from(b >> 4)] as char, HEX[usize::from(b & 15)] as char]).collect()
}

fn nibble(digit: u8) -> u8 {
    if digit.is_ascii_digit() { digit - b'0' } else { digit - b'a' + 10 }
}

/// Without a branch on what is compared.
fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b));
    std::hint::black_box(difference) == 0
}

/// When keys were used last, as one node has seen it, until it is reported to the log.
#[derive(Debug, Default)]
pub struct KeyUses {
    /// Last use, and the last that was reported.
    seen: BTreeMap<String, (u64, u64)>,
}

impl KeyUses {
    pub fn note(&mut self, key: &str, now_unix_ms: u64) {
        if let Some((last, _)) = self.seen.get_mut(key) {
            *last = now_unix_ms.max(*last);
        } else if self.seen.len() < USES_MAX {
            self.seen.insert(key.to_owned(), (now_unix_ms, 0));
        }
    }

    /// Uses that the log should learn of now, with their moment. Each key at most once an hour.
    pub fn due(&mut self, now_unix_ms: u64) -> Vec<(String, u64)> {
        let mut due = Vec::new();
        for (key, (last, reported)) in &mut self.seen {
            if last > reported && now_unix_ms.saturating_sub(*reported) >= USE_REPORT_MS {
                *reported = *last;
                due.push((key.clone(), *last));
            }
        }
        // A key that rests is forgotten: what was reported of it stays in the log.
        self.seen.retain(|_, (last, reported)| last > reported || now_unix_ms.saturating_sub(*last) < USE_REPORT_MS);
        due
    }
}

#[cfg(test)]
#[path = "key_test.rs"]
mod tests;
