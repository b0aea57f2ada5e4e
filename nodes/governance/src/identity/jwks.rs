//! An issuer's signing keys, as a state machine without clock and network: which key a token needs, whether to fetch
//! the set again, who fetches and who waits.
//!
//! A set is fetched when it is older than `fresh_ms` or a token names a key that is not in it. Two fetches are never
//! under way at once and never start within `pause_ms` of each other, so that no flood of invented key names reaches
//! the issuer; names that a fresh set does not have are remembered as unknown for `unknown_ms`. While the issuer cannot
//! be reached, keys that are known stay good until `stale_ms`.
//!
//! INVARIANT: every key that is handed out was in the set that the issuer served last, at most `stale_ms` ago.

use std::{collections::BTreeMap, sync::Arc};

use greylag_protocol::{ErrorCode, MeshError, Result};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{Jwk, KeyOperations, PublicKeyUse},
};
use serde_json::Value;

use super::jwt::SigningAlgorithm;

/// Longest key set that is read, bytes.
pub const SET_BYTES_MAX: usize = 1 << 20;
/// Most keys of a set.
pub const SET_KEYS_MAX: usize = 256;
/// Most names of unknown keys that are remembered. When there are more, the oldest is forgotten.
pub const UNKNOWN_MAX: usize = 1024;
/// Longest name of a key that is looked up, bytes.
pub const KID_BYTES_MAX: usize = 256;

/// A key of an issuer, good for verification.
#[derive(Clone)]
pub struct IssuerKey {
    pub(super) key: DecodingKey,
    /// The only algorithm it is for, if the set says so.
    pub(super) algorithm: Option<Algorithm>,
}

impl std::fmt::Debug for IssuerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuerKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// The keys of one issuer, by their names.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    keys: BTreeMap<String, Arc<IssuerKey>>,
}

impl KeySet {
    /// Reads a JSON Web Key Set. Keys without name, for encryption, symmetric or of kinds not known here are left out;
    /// a set of which no key is left is GL2008.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let wrong = |why: &str| MeshError::new(ErrorCode::IssuerKeysMissing, format!("the key set {why}"));
        if bytes.len() > SET_BYTES_MAX {
            return Err(wrong("is too long"));
        }
        let set: Value = serde_json::from_slice(bytes).map_err(|_| wrong("is not JSON"))?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or_else(|| wrong("has no `keys`"))?;
        if keys.len() > SET_KEYS_MAX {
            return Err(wrong("has too many keys"));
        }
        let keys: BTreeMap<_, _> = keys.iter().filter_map(usable).collect();
        if keys.is_empty() {
            return Err(wrong("has no key that signatures can be verified with"));
        }
        Ok(Self { keys })
    }
}

fn usable(value: &Value) -> Option<(String, Arc<IssuerKey>)> {
    let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
    let kid = jwk.common.key_id.clone().filter(|kid| !kid.is_empty() && kid.len() <= KID_BYTES_MAX)?;
    if jwk.common.public_key_use.as_ref().is_some_and(|u| *u != PublicKeyUse::Signature) {
        return None;
    }
    if jwk.common.key_operations.as_ref().is_some_and(|ops| !ops.contains(&KeyOperations::Verify)) {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    let algorithm = match jwk.common.key_algorithm {
        // An algorithm that is not known here makes the key unusable, not usable for all of them.
        Some(named) => {
            let algorithm: Algorithm = named.to_string().parse().ok()?;
            SigningAlgorithm::of(algorithm)?;
            (algorithm.family() == key.family()).then_some(Some(algorithm))?
        }
        None => None,
    };
    (key.family() != AlgorithmFamily::Hmac).then(|| (kid, Arc::new(IssuerKey { key, algorithm })))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyCacheLimits {
    /// A set this old is fetched again, while it stays in use.
    pub fresh_ms: u64,
    /// A set this old is not used any more.
    pub stale_ms: u64,
    /// Least time between two fetches.
    pub pause_ms: u64,
    /// How long a key's name is known to be unknown.
    pub unknown_ms: u64,
}

impl Default for KeyCacheLimits {
    fn default() -> Self {
        Self { fresh_ms: 10 * 60_000, stale_ms: 24 * 3_600_000, pause_ms: 5_000, unknown_ms: 60_000 }
    }
}

/// Names one fetch, so that the answer to another one is not taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FetchTicket(u64);

/// What to do about a token's key.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// Use it.
    Key(Arc<IssuerKey>),
    /// Use it, and have the set fetched meanwhile.
    KeyAndFetch(Arc<IssuerKey>, FetchTicket),
    /// Fetch the set, hand it to [`KeyCache::fetched`], look up again.
    Fetch(FetchTicket),
    /// Somebody fetches it: wait for that, look up again.
    Wait(FetchTicket),
    /// The issuer has no such key: the token is refused.
    Unknown,
    /// The issuer's keys are not known and it is too early to ask again: GL2008.
    Unavailable,
}

/// The keys of one issuer and what is known about them.
#[derive(Debug, Default)]
pub struct KeyCache {
    limits: KeyCacheLimits,
    set: Option<(KeySet, u64)>,
    /// Names that were looked up in vain, and when.
    unknown: BTreeMap<String, u64>,
    under_way: Option<FetchTicket>,
    started_unix_ms: Option<u64>,
    fetches: u64,
}

impl KeyCache {
    pub fn new(limits: KeyCacheLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    pub fn lookup(&mut self, kid: &str, now_unix_ms: u64) -> Lookup {
        let age = self.set.as_ref().map(|(_, at)| now_unix_ms.saturating_sub(*at));
        if age.is_some_and(|age| age > self.limits.stale_ms) {
            self.set = None;
        }
        let Some((set, _)) = &self.set else { return self.ask(now_unix_ms).unwrap_or(Lookup::Unavailable) };
        let is_old = age.is_some_and(|age| age > self.limits.fresh_ms);
        if let Some(key) = set.keys.get(kid).cloned() {
            let fetch = if is_old { self.ask(now_unix_ms) } else { None };
            return match fetch {
                Some(Lookup::Fetch(ticket)) => Lookup::KeyAndFetch(key, ticket),
                _ => Lookup::Key(key),
            };
        }
        let known_unknown =
            self.unknown.get(kid).is_some_and(|at| now_unix_ms.saturating_sub(*at) < self.limits.unknown_ms);
        if known_unknown || kid.len() > KID_BYTES_MAX {
            return Lookup::Unknown;
        }
        // A name that cannot be asked for now is refused, not remembered: the next token that bears it asks.
        self.ask(now_unix_ms).unwrap_or(Lookup::Unknown)
    }

    /// `Fetch` for the first who asks, `Wait` while one is under way, `None` within the pause.
    fn ask(&mut self, now_unix_ms: u64) -> Option<Lookup> {
        if let Some(ticket) = self.under_way {
            return Some(Lookup::Wait(ticket));
        }
        if self.started_unix_ms.is_some_and(|at| now_unix_ms.saturating_sub(at) < self.limits.pause_ms) {
            return None;
        }
        self.fetches += 1;
        let ticket = FetchTicket(self.fetches);
        self.under_way = Some(ticket);
        self.started_unix_ms = Some(now_unix_ms);
        Some(Lookup::Fetch(ticket))
    }

    /// What a fetch came to that was made for this key. A failure leaves what is known as it is.
    pub fn fetched(&mut self, ticket: FetchTicket, result: Result<KeySet>, kid: &str, now_unix_ms: u64) {
        if self.under_way != Some(ticket) {
            return;
        }
        self.under_way = None;
        let Ok(set) = result else { return };
        self.unknown
            .retain(|kid, at| now_unix_ms.saturating_sub(*at) < self.limits.unknown_ms && !set.keys.contains_key(kid));
        if !set.keys.contains_key(kid) && kid.len() <= KID_BYTES_MAX {
            self.unknown.insert(kid.to_owned(), now_unix_ms);
        }
        while self.unknown.len() > UNKNOWN_MAX {
            let Some(oldest) = self.unknown.iter().min_by_key(|(_, at)| **at).map(|(kid, _)| kid.clone()) else {
                break;
            };
            self.unknown.remove(&oldest);
        }
        self.set = Some((set, now_unix_ms));
    }
}

#[cfg(test)]
#[path = "jwks_test.rs"]
mod tests;
