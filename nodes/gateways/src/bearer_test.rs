#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;

struct Mesh {
    id: MeshId,
    pkcs8: Vec<u8>,
    public_key: Vec<u8>,
}

fn mesh(id: u128) -> Mesh {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref().to_vec();
    let public_key = Ed25519KeyPair::from_pkcs8(&pkcs8).unwrap().public_key().as_ref().to_vec();
    Mesh { id: MeshId(Uuid::from_u128(id)), pkcs8, public_key }
}

impl Mesh {
    fn issuer(&self) -> Issuer {
        Issuer::new(&self.pkcs8, self.id).unwrap()
    }
    fn verifier(&self) -> Verifier {
        let facts = (self.id, self.public_key.clone());
        Verifier::new(move || Some(facts.clone()))
    }
    fn sign(&self, claims: &Value) -> String {
        let key = EncodingKey::from_ed_der(&self.pkcs8);
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), claims, &key).unwrap()
    }
    fn claims(&self) -> Value {
        json!({ "sub": "ada", "iss": self.id.to_string(), "aud": AUDIENCE, "exp": now() + 60, "iat": now() })
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn ada() -> Principal {
    Principal {
        id: "ada".into(),
        kind: PrincipalKind::Agent,
        roles: vec!["analyst".into(), "admin".into()],
        attributes: [("org", "geese"), ("agent_id", "a-7")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
    }
}

const MINUTE: Duration = Duration::from_secs(60);

fn code(verifier: &Verifier, token: &str) -> ErrorCode {
    verifier.verify(token).unwrap_err().code
}

#[test]
fn a_token_names_its_principal() {
    let mesh = mesh(1);
    let token = mesh.issuer().issue(&ada(), MINUTE, now()).unwrap();
    let mut principal = mesh.verifier().verify(&token).unwrap();
    let credential = principal.attributes.remove("credential").unwrap();
    assert_eq!(principal, ada());
    let other = mesh.issuer().issue(&ada(), MINUTE, now()).unwrap();
    let other = mesh.verifier().verify(&other).unwrap();
    assert!(credential.starts_with("bearer:") && other.attribute("credential") != Some(&credential));
}

/// What the mesh says of its own is taken; which credential it is, is not in a token's words.
#[test]
fn the_mesh_may_say_for_whom_an_agent_acts_but_not_what_a_token_is_called() {
    let mesh = mesh(1);
    let mut agent = ada();
    for (name, value) in [("acts_for", "bob"), ("scopes", "query"), ("group:night", ""), ("organisation", "clinic")] {
        agent.attributes.insert(name.into(), value.into());
    }
    let token = mesh.issuer().issue(&agent, MINUTE, now()).unwrap();
    let principal = mesh.verifier().verify(&token).unwrap();
    assert_eq!((principal.person(), principal.organisation()), (Some("bob"), Some("clinic")));
    assert!(principal.has_scope("query") && !principal.has_scope("manage"));
    assert_eq!(principal.groups().collect::<Vec<_>>(), ["night"]);
    agent.attributes.insert("credential".into(), "key:1".into());
    assert_eq!(mesh.issuer().issue(&agent, MINUTE, now()).unwrap_err().code, ErrorCode::InvalidResource);
    let mut claims = mesh.claims();
    claims["credential"] = json!("key:1");
    let named = |claims: &Value| {
        let principal = mesh.verifier().verify(&mesh.sign(claims)).unwrap();
        principal.attribute("credential").unwrap().to_owned()
    };
    let first = named(&claims);
    assert!(first.starts_with("bearer:") && first.len() == "bearer:".len() + 32, "{first}");
    assert_eq!(first, named(&claims), "the same token");
    claims["org"] = json!("x");
    assert_ne!(first, named(&claims), "another token");
    claims["jti"] = json!("t-1");
    assert_eq!(named(&claims), "bearer:t-1");
}

#[test]
fn what_is_not_a_string_is_no_attribute() {
    let mesh = mesh(1);
    let mut claims = mesh.claims();
    claims["level"] = json!(7);
    claims["org"] = json!("geese");
    let principal = mesh.verifier().verify(&mesh.sign(&claims)).unwrap();
    assert_eq!((principal.attribute("org"), principal.attributes.contains_key("level")), (Some("geese"), false));
    assert_eq!((principal.kind, principal.roles), (PrincipalKind::Person, vec![]));
}

#[test]
fn expired_and_premature_tokens_are_refused() {
    let mesh = mesh(1);
    let token = mesh.issuer().issue(&ada(), MINUTE, now() - 60 - LEEWAY_SECS - 2).unwrap();
    assert_eq!(code(&mesh.verifier(), &token), ErrorCode::TokenExpired);
    let mut claims = mesh.claims();
    claims["nbf"] = json!(now() + 60);
    assert_eq!(code(&mesh.verifier(), &mesh.sign(&claims)), ErrorCode::Unauthenticated);
}

#[test]
fn tokens_of_another_mesh_key_or_audience_are_refused() {
    let (ours, theirs) = (mesh(1), mesh(2));
    let token = theirs.issuer().issue(&ada(), MINUTE, now()).unwrap();
    assert_eq!(code(&ours.verifier(), &token), ErrorCode::Unauthenticated);
    let same_name_other_key = Issuer::new(&theirs.pkcs8, ours.id).unwrap().issue(&ada(), MINUTE, now()).unwrap();
    assert_eq!(code(&ours.verifier(), &same_name_other_key), ErrorCode::Unauthenticated);
    for (claim, value) in [("aud", json!("other")), ("iss", json!(theirs.id.to_string())), ("aud", json!(["x", "y"]))] {
        let mut claims = ours.claims();
        claims[claim] = value;
        assert_eq!(code(&ours.verifier(), &ours.sign(&claims)), ErrorCode::Unauthenticated, "{claim}");
    }
}

#[test]
fn every_claim_that_counts_must_be_there() {
    let mesh = mesh(1);
    assert!(mesh.verifier().verify(&mesh.sign(&mesh.claims())).is_ok());
    for claim in ["exp", "iss", "aud", "sub"] {
        let mut claims = mesh.claims();
        claims.as_object_mut().unwrap().remove(claim);
        assert_eq!(code(&mesh.verifier(), &mesh.sign(&claims)), ErrorCode::Unauthenticated, "{claim}");
    }
    let mut claims = mesh.claims();
    claims["sub"] = json!("");
    assert_eq!(code(&mesh.verifier(), &mesh.sign(&claims)), ErrorCode::Unauthenticated);
}

/// The two classic forgeries: no signature at all, and an HMAC keyed with the public key.
#[test]
fn the_algorithm_is_not_the_tokens_to_choose() {
    let mesh = mesh(1);
    let payload = URL_SAFE_NO_PAD.encode(mesh.claims().to_string());
    for alg in ["none", "None", ""] {
        let header = URL_SAFE_NO_PAD.encode(json!({ "alg": alg, "typ": "JWT" }).to_string());
        for signature in ["", "AAAA"] {
            let token = format!("{header}.{payload}.{signature}");
            assert_eq!(code(&mesh.verifier(), &token), ErrorCode::Unauthenticated, "{alg}");
        }
    }
    for algorithm in [Algorithm::HS256, Algorithm::HS512] {
        let key = EncodingKey::from_secret(&mesh.public_key);
        let token = jsonwebtoken::encode(&Header::new(algorithm), &mesh.claims(), &key).unwrap();
        assert_eq!(code(&mesh.verifier(), &token), ErrorCode::Unauthenticated);
    }
}

#[test]
fn a_changed_token_is_refused() {
    let mesh = mesh(1);
    let token = mesh.issuer().issue(&ada(), MINUTE, now()).unwrap();
    for at in (0..token.len()).step_by(3) {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        // The last character of base64 carries bits that do not count.
        if changed != token && at + 1 < token.len() {
            assert_eq!(code(&mesh.verifier(), &changed), ErrorCode::Unauthenticated, "byte {at}");
        }
    }
    for noise in ["", ".", "..", "a.b.c", &"x".repeat(TOKEN_BYTES_MAX + 1)] {
        assert_eq!(code(&mesh.verifier(), noise), ErrorCode::Unauthenticated);
    }
}

#[test]
fn before_there_is_a_mesh_nobody_is_named() {
    let token = mesh(1).issuer().issue(&ada(), MINUTE, now()).unwrap();
    assert_eq!(code(&Verifier::new(|| None), &token), ErrorCode::NoLeader);
    assert_eq!(code(&Verifier::new(|| Some((MeshId(Uuid::nil()), vec![1; 5]))), &token), ErrorCode::Internal);
}

#[test]
fn a_token_cannot_say_everything() {
    let issuer = mesh(1).issuer();
    let mut nobody = ada();
    nobody.id.clear();
    let mut forger = ada();
    forger.attributes.insert("roles".into(), "admin".into());
    let mut wordy = ada();
    wordy.attributes.insert("org".into(), "g".repeat(TOKEN_BYTES_MAX));
    let wrong = [(nobody, MINUTE), (forger, MINUTE), (wordy, MINUTE), (ada(), Duration::ZERO), (ada(), TTL_MAX * 2)];
    for (principal, ttl) in wrong {
        assert_eq!(issuer.issue(&principal, ttl, now()).unwrap_err().code, ErrorCode::InvalidResource);
    }
    assert_eq!(Issuer::new(b"not a key", MeshId(Uuid::nil())).err().map(|e| e.code), Some(ErrorCode::Internal));
}
