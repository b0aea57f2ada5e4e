//! Every kind of credential to one principal, and every way in which one is worth nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fixture;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use fixture::{
    credentials::Known,
    failure,
    issuer::{self, ISSUER, Signer},
    open, open_as, whoami,
};
use greylag_gateways::flight::{client::Access, status::from_status};
use greylag_governance::identity::{FixedKeys, IssuerKeys, KeyCacheLimits, SigningAlgorithm, TrustedIssuer};
use greylag_protocol::{ErrorCode, principal::Priority, state::Scope};
use tonic::Request;

const ALL: [Scope; 3] = [Scope::Query, Scope::Describe, Scope::Manage];

fn clock(at: &Arc<AtomicU64>) -> Arc<dyn Fn() -> u64 + Send + Sync> {
    let at = at.clone();
    Arc::new(move || at.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_key_is_good_until_it_expires_or_is_revoked_and_from_its_networks() {
    let (known, at) = (Arc::new(Known::default()), Arc::new(AtomicU64::new(1_000)));
    let door = open_as(
        |who| {
            who.known = known.clone();
            who.clock = clock(&at);
        },
        |_| {},
    )
    .await;
    let code = async |key: &str| door.whoami(&Access::by_token(key)).await.map_err(|error| error.code);
    let (id, good) = known.mint("etl", &ALL, &["127.0.0.0/8"], Some(9_000));
    let (_, elsewhere) = known.mint("etl", &ALL, &["10.0.0.0/8", "::1"], None);
    let who = code(&good).await.unwrap();
    assert!(who.starts_with("etl [\"analyst\"]") && who.contains(&format!("\"credential\": \"key:{id}\"")), "{who}");
    assert!(who.contains("\"scopes\": \"query describe manage\""), "{who}");
    assert_eq!(code(&elsewhere).await, Err(ErrorCode::AddressRefused));
    let mut wrong = good.clone();
    wrong.pop();
    wrong.push(if good.ends_with('0') { '1' } else { '0' });
    assert_eq!(code(&wrong).await, Err(ErrorCode::Unauthenticated));
    at.store(9_000, Ordering::SeqCst);
    assert_eq!(code(&good).await, Err(ErrorCode::TokenExpired));
    at.store(8_000, Ordering::SeqCst);
    assert!(code(&good).await.is_ok());
    known.change(&id, |key| key.revoked_unix_ms = Some(8_000));
    assert_eq!(code(&good).await, Err(ErrorCode::Unauthenticated));
}

/// What stands before a proxy, or says so, is not where a caller is.
#[tokio::test]
async fn an_address_is_the_connections_own() {
    let known = Arc::new(Known::default());
    let door = open_as(|who| who.known = known.clone(), |_| {}).await;
    let (_, key) = known.mint("etl", &ALL, &["10.0.0.0/8"], None);
    let mut client = door.client("nobody").await;
    client.set_header("authorization", &format!("Bearer {key}")).unwrap();
    for header in ["x-forwarded-for", "forwarded", "x-real-ip"] {
        client.set_header(header, "10.0.0.1").unwrap();
    }
    assert_eq!(failure(client.query("one").await).code, ErrorCode::AddressRefused);
}

#[tokio::test]
async fn a_key_is_taken_as_a_password_and_the_handshake_gives_it_back() {
    let known = Arc::new(Known::default());
    let door = open_as(|who| who.known = known.clone(), |_| {}).await;
    let (_, key) = known.mint("etl", &ALL, &[], None);
    let mut client = arrow_flight::sql::client::FlightSqlServiceClient::new(door.channel().await);
    assert_eq!(client.handshake("whoever", &key).await.unwrap(), key.as_bytes());
    client.execute("one".into(), None).await.unwrap();
    let mut basic = door.client("nobody").await;
    basic.set_header("authorization", &format!("Basic {}", STANDARD.encode(format!("x:{key}")))).unwrap();
    assert!(whoami(&basic).await.unwrap().starts_with("etl "));
    let mut wrong = arrow_flight::sql::client::FlightSqlServiceClient::new(door.channel().await);
    let error = wrong.handshake("etl", &key[..key.len() - 1]).await.unwrap_err().to_string();
    assert!(error.contains("GL2001"), "{error}");
}

#[tokio::test]
async fn a_revoked_bearer_token_names_nobody_from_the_next_call_on() {
    let known = Arc::new(Known::default());
    let door = open_as(|who| who.known = known.clone(), |_| {}).await;
    let (client, other) = (door.client("ada").await, door.client("ada").await);
    let who = whoami(&client).await.unwrap();
    let credential = who.split('"').find(|text| text.starts_with("bearer:")).unwrap().to_owned();
    known.revoked.lock().unwrap().insert(credential);
    assert_eq!(failure(client.query("one").await).code, ErrorCode::Unauthenticated);
    assert!(whoami(&other).await.is_ok(), "another token of the same principal");
}

#[tokio::test]
async fn an_outside_issuers_token_names_its_principal() {
    let (signer, stranger) = (Signer::new("k"), Signer::new("k"));
    let trusted = TrustedIssuer::new(ISSUER, ["greylag".to_owned()], [SigningAlgorithm::EdDsa]).unwrap();
    let keys = Arc::new(FixedKeys(issuer::set(&[&signer])));
    let door = open_as(|who| who.issuers.push(IssuerKeys::new(trusted, keys, KeyCacheLimits::default())), |_| {}).await;
    let mut claims = issuer::claims("ada");
    for (name, value) in [("acts_for", "root"), ("credential", "key:1"), ("group:admins", ""), ("scopes", "manage")] {
        claims[name] = value.into();
    }
    let who = door.whoami(&Access::by_token(&signer.token(&claims))).await.unwrap();
    let expected = format!(r#"ada ["doctor"] flight {{"credential": "jwt:{ISSUER}"}}"#);
    assert!(who.starts_with(&expected), "{who}");
    for token in [stranger.token(&claims), signer.token(&serde_json::json!({ "iss": "https://other.example" }))] {
        let error = door.whoami(&Access::by_token(&token)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Unauthenticated);
    }
    // The mesh's own tokens are taken beside them.
    assert!(whoami(&door.client("bob").await).await.unwrap().starts_with("bob "));
}

#[tokio::test]
async fn headers_claim_no_more_than_they_may() {
    let door = open_as(
        |who| {
            who.priority =
                Arc::new(|principal, asked| if principal.is_admin() { asked } else { asked.min(Priority::Normal) })
        },
        |_| {},
    )
    .await;
    let mut client = door.client("ada").await;
    for (name, value) in [
        ("greylag-acts-for", "root"),
        ("greylag-organisation", "other"),
        ("greylag-scopes", "manage"),
        ("greylag-credential", "key:1"),
        ("greylag-group", "admins"),
        ("greylag-roles", "admin"),
        ("greylag-kind", "service"),
        ("greylag-agent-id", "a-1"),
        ("greylag-priority", "critical"),
    ] {
        client.set_header(name, value).unwrap();
    }
    let who = whoami(&client).await.unwrap();
    for stolen in ["root", "other", "manage", "key:1", "admins", "\"admin\"", "critical"] {
        assert!(!who.contains(stolen), "{stolen}: {who}");
    }
    assert!(who.contains("\"agent_id\": \"a-1\"") && who.contains("\"priority\": \"normal\""), "{who}");
    client.set_header("greylag-priority", "low").unwrap();
    assert!(whoami(&client).await.unwrap().contains("\"priority\": \"low\""));
    client.set_header("greylag-priority", "extreme").unwrap();
    assert_eq!(failure(client.query("one").await).code, ErrorCode::InvalidResource);
}

#[tokio::test]
async fn a_bad_header_is_not_mended_by_anything_else() {
    let door = open().await;
    for header in ["Bearer", "Bearer ", "bearer\tx", "Token x", "Basic !!!", "Basic OnB3", ""] {
        let mut request = Request::new(arrow_flight::Empty {});
        request.metadata_mut().insert("authorization", header.parse().unwrap());
        let status = door.raw().await.list_actions(request).await.unwrap_err();
        assert_eq!(from_status(&status).code, ErrorCode::Unauthenticated, "{header}");
    }
}

#[tokio::test]
async fn the_use_of_a_key_is_due_once_an_hour() {
    const HOUR_MS: u64 = 3_600_000;
    let (known, at) = (Arc::new(Known::default()), Arc::new(AtomicU64::new(HOUR_MS)));
    let door = open_as(
        |who| {
            who.known = known.clone();
            who.clock = clock(&at);
        },
        |_| {},
    )
    .await;
    let (id, key) = known.mint("etl", &ALL, &[], None);
    let (_, elsewhere) = known.mint("etl", &ALL, &["10.0.0.0/8"], None);
    door.whoami(&Access::by_token(&elsewhere)).await.unwrap_err();
    whoami(&door.client("ada").await).await.unwrap();
    assert!(door.authenticator.due_key_uses(HOUR_MS).is_empty(), "neither a refused key nor a token is a use");
    door.whoami(&Access::by_token(&key)).await.unwrap();
    assert_eq!(door.authenticator.due_key_uses(HOUR_MS + 5), [(id.clone(), HOUR_MS)]);
    at.store(HOUR_MS + 10, Ordering::SeqCst);
    door.whoami(&Access::by_token(&key)).await.unwrap();
    assert!(door.authenticator.due_key_uses(HOUR_MS + 20).is_empty());
    assert_eq!(door.authenticator.due_key_uses(2 * HOUR_MS), [(id, HOUR_MS + 10)]);
}
