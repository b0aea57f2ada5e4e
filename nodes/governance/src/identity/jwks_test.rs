#![allow(clippy::unwrap_used, clippy::panic)]

//! The cache's promises: one fetch at a time, rotation, no flood, stale while the issuer is away, bounded.

use serde_json::json;

use super::{
    super::fixture::{self, Signer},
    *,
};

const LIMITS: KeyCacheLimits = KeyCacheLimits { fresh_ms: 1000, stale_ms: 10_000, pause_ms: 100, unknown_ms: 500 };

fn keys(kids: &[&str]) -> Result<KeySet> {
    let signers: Vec<Signer> = kids.iter().map(|kid| Signer::ed(kid)).collect();
    KeySet::parse(&fixture::set(&signers.iter().collect::<Vec<_>>()))
}

fn away() -> Result<KeySet> {
    Err(MeshError::new(ErrorCode::IssuerKeysMissing, "away"))
}

fn filled(kids: &[&str]) -> KeyCache {
    let mut cache = KeyCache::new(LIMITS);
    let Lookup::Fetch(ticket) = cache.lookup(kids[0], 0) else { panic!("a first fetch is due") };
    cache.fetched(ticket, keys(kids), kids[0], 0);
    cache
}

fn word(lookup: &Lookup) -> &'static str {
    match lookup {
        Lookup::Key(_) => "key",
        Lookup::KeyAndFetch(..) => "key and fetch",
        Lookup::Fetch(_) => "fetch",
        Lookup::Wait(_) => "wait",
        Lookup::Unknown => "unknown",
        Lookup::Unavailable => "unavailable",
    }
}

#[test]
fn one_fetches_and_the_others_wait() {
    let mut cache = KeyCache::new(LIMITS);
    let Lookup::Fetch(ticket) = cache.lookup("a", 0) else { panic!("a first fetch is due") };
    for kid in ["a", "b", "c"] {
        let Lookup::Wait(same) = cache.lookup(kid, 5) else { panic!("{kid} must wait") };
        assert_eq!(same, ticket);
    }
    cache.fetched(ticket, keys(&["a", "b"]), "a", 10);
    assert_eq!(["a", "b", "c"].map(|kid| word(&cache.lookup(kid, 10))), ["key", "key", "unknown"]);
    // The answer to a fetch that is over changes nothing.
    cache.fetched(ticket, keys(&["z"]), "z", 20);
    assert_eq!(word(&cache.lookup("a", 20)), "key");
}

#[test]
fn a_new_key_is_found_by_one_refetch_and_the_old_one_goes() {
    let mut cache = filled(&["old"]);
    let Lookup::Fetch(ticket) = cache.lookup("new", 200) else { panic!("rotation asks again") };
    cache.fetched(ticket, keys(&["new"]), "new", 210);
    assert_eq!(word(&cache.lookup("new", 211)), "key");
    assert_eq!(word(&cache.lookup("old", 211)), "unknown");
}

#[test]
fn a_flood_of_invented_names_asks_the_issuer_once_a_pause() {
    let mut cache = filled(&["a"]);
    let mut fetches = 0;
    for i in 0..20_000_u64 {
        let now = 200 + i / 10;
        let kid = format!("invented-{i}");
        if let Lookup::Fetch(ticket) = cache.lookup(&kid, now) {
            fetches += 1;
            cache.fetched(ticket, keys(&["a"]), &kid, now);
        }
        assert!(cache.unknown.len() <= UNKNOWN_MAX);
    }
    assert!((19..=21).contains(&fetches), "{fetches} fetches in 2000 ms");
}

#[test]
fn an_unknown_name_is_remembered_for_a_while() {
    let mut cache = filled(&["a"]);
    let Lookup::Fetch(ticket) = cache.lookup("x", 200) else { panic!("asks once") };
    cache.fetched(ticket, keys(&["a"]), "x", 200);
    assert_eq!(word(&cache.lookup("x", 699)), "unknown");
    let Lookup::Fetch(ticket) = cache.lookup("x", 700) else { panic!("asks again later") };
    cache.fetched(ticket, keys(&["a", "x"]), "x", 700);
    assert_eq!(word(&cache.lookup("x", 701)), "key");
    assert_eq!(word(&cache.lookup(&"k".repeat(KID_BYTES_MAX + 1), 5000)), "unknown", "too long to ask for");
}

#[test]
fn names_that_were_remembered_are_bounded() {
    let mut cache = KeyCache::new(KeyCacheLimits { pause_ms: 0, unknown_ms: u64::MAX, ..LIMITS });
    for i in 0..(UNKNOWN_MAX as u64 + 50) {
        let kid = format!("x{i}");
        let Lookup::Fetch(ticket) = cache.lookup(&kid, 0) else { panic!("no pause, no memory of it") };
        cache.fetched(ticket, keys(&["a"]), &kid, 0);
    }
    assert_eq!(cache.unknown.len(), UNKNOWN_MAX);
}

#[test]
fn while_the_issuer_is_away_known_keys_stay_good_until_they_are_stale() {
    let mut cache = filled(&["a"]);
    for now in [1001, 2000, 9000, 9_940] {
        let Lookup::KeyAndFetch(_, ticket) = cache.lookup("a", now) else { panic!("old at {now}: use and renew") };
        assert_eq!(word(&cache.lookup("a", now)), "key", "only one renews");
        cache.fetched(ticket, away(), "a", now);
        assert_eq!(word(&cache.lookup("a", now + 50)), "key", "the pause holds after a failure");
    }
    assert_eq!(word(&cache.lookup("a", 10_020)), "unavailable", "stale, and too early to ask again");
    let Lookup::Fetch(ticket) = cache.lookup("a", 10_200) else { panic!("asks for it anew") };
    cache.fetched(ticket, away(), "a", 10_201);
    assert_eq!(word(&cache.lookup("a", 10_202)), "unavailable");
    let Lookup::Fetch(ticket) = cache.lookup("a", 10_400) else { panic!("and again") };
    cache.fetched(ticket, keys(&["a"]), "a", 10_400);
    assert_eq!(word(&cache.lookup("a", 10_401)), "key");
}

#[test]
fn keys_that_verify_nothing_are_left_out() {
    let good = Signer::ed("good").jwk();
    let with = |change: serde_json::Value| {
        let mut jwk = Signer::ed("bad").jwk();
        jwk.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        jwk
    };
    let bad = [
        json!({"kty": "oct", "kid": "bad", "k": "c2VjcmV0"}),
        json!({"kty": "oct", "kid": "bad", "k": "c2VjcmV0", "alg": "EdDSA"}),
        with(json!({"use": "enc"})),
        with(json!({"key_ops": ["sign"]})),
        with(json!({"alg": "HS256"})),
        with(json!({"alg": "RS256"})),
        with(json!({"alg": "RSA-OAEP"})),
        with(json!({"kid": ""})),
        json!({"kty": "quantum", "kid": "bad"}),
    ];
    for jwk in bad {
        let set = KeySet::parse(json!({"keys": [good, jwk]}).to_string().as_bytes()).unwrap();
        assert_eq!(set.keys.keys().collect::<Vec<_>>(), ["good"], "{jwk}");
    }
    for set in ["", "{}", "[]", r#"{"keys": []}"#, r#"{"keys": 1}"#] {
        assert_eq!(KeySet::parse(set.as_bytes()).unwrap_err().code, ErrorCode::IssuerKeysMissing, "{set}");
    }
}
