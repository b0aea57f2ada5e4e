#![allow(clippy::unwrap_used, clippy::panic)]

//! Tokens that are taken, and every way known to forge one.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use greylag_protocol::principal::PrincipalKind;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;

use super::{
    super::{
        fixture::{self, NOW_SECS, Signer, trusted},
        jwks::{KeyCache, KeyCacheLimits, KeySet, Lookup},
    },
    *,
};

fn key_of(signers: &[&Signer], kid: &str) -> std::sync::Arc<IssuerKey> {
    let mut cache = KeyCache::new(KeyCacheLimits::default());
    let Lookup::Fetch(ticket) = cache.lookup(kid, 0) else { panic!("a first fetch is due") };
    cache.fetched(ticket, KeySet::parse(&fixture::set(signers)), kid, 0);
    match cache.lookup(kid, 0) {
        Lookup::Key(key) => key,
        other => panic!("{other:?}"),
    }
}

fn verify(issuer: &TrustedIssuer, signer: &Signer, token: &str, now: u64) -> Result<Principal> {
    TokenCheck::new(issuer, token)?.verify(&key_of(&[signer], &signer.kid), now)
}

fn code(result: Result<Principal>) -> ErrorCode {
    result.unwrap_err().code
}

#[test]
fn each_algorithm_that_is_pinned_is_taken_and_no_other() {
    use Algorithm::*;
    let all = [RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA];
    for algorithm in all {
        let signer = match algorithm {
            ES256 | ES384 => Signer::ec("k", algorithm),
            EdDSA => Signer::ed("k"),
            _ => Signer::rsa("k", algorithm),
        };
        let token = signer.token(&fixture::claims());
        let ours = SigningAlgorithm::of(algorithm).unwrap();
        let principal = verify(&trusted(&[ours]), &signer, &token, NOW_SECS).unwrap();
        assert_eq!((principal.id.as_str(), principal.kind), ("ada", PrincipalKind::Person), "{algorithm:?}");
        assert_eq!(principal.roles, ["doctor"]);
        let others: Vec<_> = all.iter().filter_map(|a| SigningAlgorithm::of(*a)).filter(|a| *a != ours).collect();
        assert_eq!(
            code(verify(&trusted(&others), &signer, &token, NOW_SECS)),
            ErrorCode::Unauthenticated,
            "{algorithm:?}"
        );
    }
}

#[test]
fn none_and_hmac_cannot_even_be_configured_nor_signed_with() {
    for name in ["none", "HS256", "HS384", "HS512", "None", "eddsa"] {
        assert!(serde_json::from_value::<SigningAlgorithm>(json!(name)).is_err(), "{name}");
    }
    let signer = Signer::ed("k");
    let issuer = trusted(&[SigningAlgorithm::EdDsa]);
    // HMAC with the public key as the secret: the oldest forgery.
    let public = URL_SAFE_NO_PAD.decode(signer.jwk()["x"].as_str().unwrap()).unwrap();
    let header = Header { kid: Some("k".into()), ..Header::new(Algorithm::HS256) };
    let forged = jsonwebtoken::encode(&header, &fixture::claims(), &EncodingKey::from_secret(&public)).unwrap();
    assert_eq!(code(verify(&issuer, &signer, &forged, NOW_SECS)), ErrorCode::Unauthenticated);
    let token = signer.token(&fixture::claims());
    let mut parts: Vec<&str> = token.split('.').collect();
    let body = parts[1];
    for alg in ["none", "NONE", "", "HS256"] {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg, "kid": "k"}).to_string());
        for signature in ["", parts[2]] {
            let forged = format!("{header}.{body}.{signature}");
            assert_eq!(code(verify(&issuer, &signer, &forged, NOW_SECS)), ErrorCode::Unauthenticated, "{alg}");
        }
    }
    parts[2] = "";
    assert_eq!(code(verify(&issuer, &signer, &parts.join("."), NOW_SECS)), ErrorCode::Unauthenticated);
}

#[test]
fn a_byte_changed_anywhere_names_nobody() {
    let signer = Signer::ed("k");
    let issuer = trusted(&[SigningAlgorithm::EdDsa]);
    let token = signer.token(&fixture::claims());
    for at in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(verify(&issuer, &signer, &changed, NOW_SECS).is_err(), "byte {at}");
    }
    assert!(verify(&issuer, &signer, &format!("{token}."), NOW_SECS).is_err());
    assert!(verify(&issuer, &signer, &"a".repeat(CREDENTIAL_BYTES_MAX + 1), NOW_SECS).is_err());
}

#[test]
fn claims_must_fit_issuer_audience_and_time() {
    let signer = Signer::ec("k", Algorithm::ES256);
    let issuer = trusted(&[SigningAlgorithm::ES256]);
    let refused = Err(ErrorCode::Unauthenticated);
    let cases = [
        (json!({}), Ok(())),
        (json!({"aud": ["other", "greylag"]}), Ok(())),
        (json!({"aud": "other"}), refused),
        (json!({"aud": null}), refused),
        (json!({"aud": ["greylag.evil", 7]}), refused),
        (json!({"iss": "https://issuer.example/"}), refused),
        (json!({"iss": ["https://issuer.example"]}), refused),
        (json!({"exp": NOW_SECS - 29}), Ok(())),
        (json!({"exp": NOW_SECS - 30}), Err(ErrorCode::TokenExpired)),
        (json!({"exp": (NOW_SECS as f64) + 0.5}), Ok(())),
        (json!({"exp": null}), refused),
        (json!({"exp": "never"}), refused),
        (json!({"exp": -1}), refused),
        (json!({"exp": 1e300}), refused),
        (json!({"nbf": NOW_SECS + 30}), Ok(())),
        (json!({"nbf": NOW_SECS + 31}), refused),
        (json!({"iat": NOW_SECS + 31}), refused),
        (json!({"sub": ""}), refused),
        (json!({"sub": null}), refused),
        (json!({"sub": 7}), refused),
        (json!({"roles": {"admin": true}}), refused),
        (json!({"kind": "god"}), refused),
    ];
    for (change, expected) in cases {
        let mut claims = fixture::claims();
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let got = verify(&issuer, &signer, &signer.token(&claims), NOW_SECS).map(|_| ()).map_err(|e| e.code);
        assert_eq!(got, expected, "{change}");
    }
}

#[test]
fn a_header_must_name_its_key_and_nothing_critical() {
    let signer = Signer::ed("k");
    let issuer = trusted(&[SigningAlgorithm::EdDsa]);
    let claims = fixture::claims();
    let without = signer.token_with(Header::new(Algorithm::EdDSA), &claims);
    assert!(TokenCheck::new(&issuer, &without).is_err());
    let body = URL_SAFE_NO_PAD.encode(claims.to_string());
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "EdDSA", "kid": "k", "crit": ["exp"]}).to_string());
    assert!(TokenCheck::new(&issuer, &format!("{header}.{body}.AAAA")).is_err());
    // Keys that the token brings along are not looked at.
    let thief = Signer::ed("k");
    let jwk = serde_json::from_value(thief.jwk()).unwrap();
    let header = Header { kid: Some("k".into()), jwk: Some(jwk), ..Header::new(Algorithm::EdDSA) };
    assert!(verify(&issuer, &signer, &thief.token_with(header, &claims), NOW_SECS).is_err());
}

#[test]
fn claims_become_a_principal_by_the_names_configured() {
    let signer = Signer::ed("k");
    let mut issuer = trusted(&[SigningAlgorithm::EdDsa]);
    issuer.claims.roles = "realm_access.roles".into();
    issuer.claims.organisation = "https://example/org".into();
    issuer.claims.attributes.insert("ward".into());
    issuer.claims.role_map = Some([("dba".to_owned(), "admin".to_owned())].into());
    issuer.claims.scopes_limit = true;
    issuer.validate().unwrap();
    let mut claims = fixture::claims();
    claims.as_object_mut().unwrap().extend(
        json!({
            "realm_access": {"roles": ["dba", "guest"]}, "https://example/org": "clinic", "ward": 7, "groups": ["night"],
            "act": {"sub": "planner-7"}, "agent_id": "planner-7", "framework": "langchain", "scope": "query describe",
            "priority": "low", "acts_for": "root", "credential": "key:1", "group:admins": "x", "secret": "s",
        })
        .as_object()
        .unwrap()
        .clone(),
    );
    let principal = verify(&issuer, &signer, &signer.token(&claims), NOW_SECS).unwrap();
    assert_eq!((principal.id.as_str(), principal.kind), ("planner-7", PrincipalKind::Agent));
    assert_eq!(principal.person(), Some("ada"), "the subject, not what a claim of that name says");
    assert_eq!(principal.roles, ["admin"]);
    assert_eq!(principal.organisation(), Some("clinic"));
    assert_eq!(principal.groups().collect::<Vec<_>>(), ["night"]);
    assert_eq!(principal.attribute("ward"), Some("7"));
    assert_eq!(principal.attribute("credential"), Some("jwt:https://issuer.example"));
    assert!(principal.has_scope("query") && !principal.has_scope("manage"));
    assert!(!principal.attributes.contains_key("secret"));
    issuer.claims.attributes.insert("acts_for".into());
    assert!(issuer.validate().is_err());
}

#[test]
fn no_outside_issuer_makes_an_admin_unless_told_to() {
    let signer = Signer::ed("k");
    let issuer = trusted(&[SigningAlgorithm::EdDsa]);
    let mut claims = fixture::claims();
    claims["roles"] = json!(["admin", "doctor"]);
    let principal = verify(&issuer, &signer, &signer.token(&claims), NOW_SECS).unwrap();
    assert!(!principal.is_admin());
    assert_eq!(principal.roles, ["doctor"]);
}

#[test]
fn credentials_are_told_apart() {
    use super::super::Credential;
    let mut issuer = String::new();
    assert_eq!(Credential::of("glk_1_2", &mut issuer).unwrap(), Credential::ApiKey("glk_1_2"));
    let token = Signer::ed("k").token(&fixture::claims());
    let Credential::Token { issuer, .. } = Credential::of(&token, &mut issuer).unwrap() else { panic!("a token") };
    assert_eq!(issuer, fixture::ISSUER);
    for text in ["", "a.b", "a.b.c", "x.e30.y", "password"] {
        assert!(Credential::of(text, &mut String::new()).is_err(), "{text}");
    }
}

#[test]
fn an_issuer_that_would_take_too_much_is_refused() {
    let audience = || ["greylag".to_owned()];
    assert!(TrustedIssuer::new("", audience(), [SigningAlgorithm::ES256]).is_err());
    assert!(TrustedIssuer::new("i", [], [SigningAlgorithm::ES256]).is_err());
    assert!(TrustedIssuer::new("i", audience(), []).is_err());
    let mut issuer = TrustedIssuer::new("i", audience(), [SigningAlgorithm::ES256]).unwrap();
    issuer.leeway_secs = LEEWAY_SECS_MAX + 1;
    assert!(issuer.validate().is_err());
}
