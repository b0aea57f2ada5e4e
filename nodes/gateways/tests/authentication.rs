//! Nothing passes the door without a token that this mesh has signed for now.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fixture;

use std::{sync::atomic::Ordering, time::Duration};

use arrow_flight::{
    Action, Criteria, Empty, FlightData, FlightDescriptor, Ticket,
    sql::{CommandStatementQuery, ProstMessageExt},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use fixture::{Opened, failure, key, now, open, principal, rows, soon};
use greylag_gateways::{
    bearer::{AUDIENCE, Issuer, Verifier},
    flight::{self, ADMIN_ACTION, client::Client, status::from_status},
};
use greylag_protocol::{ErrorCode, MeshId};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use prost::Message;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};
use uuid::Uuid;

/// Every way to be refused, with the code that says so.
fn wrong_tokens(door: &Opened) -> Vec<(&'static str, Option<String>, ErrorCode)> {
    let minute = Duration::from_secs(60);
    let (other_key, _) = key();
    let claims =
        json!({ "sub": "ada", "iss": door.mesh.to_string(), "aud": AUDIENCE, "exp": now() + 60, "iat": now() });
    let sign = |claims: &serde_json::Value| {
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), claims, &EncodingKey::from_ed_der(&door.key)).unwrap()
    };
    let mut elsewhere = claims.clone();
    elsewhere["aud"] = json!("somewhere else");
    let mut eternal = claims.clone();
    eternal.as_object_mut().unwrap().remove("exp");
    let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
    let none = format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#));
    let hmac_key = EncodingKey::from_secret(&door.public_key);
    let hmac = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &hmac_key).unwrap();
    let wrong_key = Issuer::new(&other_key, door.mesh).unwrap().issue(&principal("ada"), minute, now()).unwrap();
    let other_mesh = Issuer::new(&door.key, MeshId(Uuid::nil())).unwrap();
    let other_mesh = other_mesh.issue(&principal("ada"), minute, now()).unwrap();
    let ours = Issuer::new(&door.key, door.mesh).unwrap();
    let expired = ours.issue(&principal("ada"), minute, now() - 3600).unwrap();
    let bearer = |token: String| Some(format!("Bearer {token}"));
    let good = door.token("ada");
    vec![
        ("none", None, ErrorCode::Unauthenticated),
        ("an empty one", Some("Bearer ".into()), ErrorCode::Unauthenticated),
        ("noise", Some("Bearer a.b.c".into()), ErrorCode::Unauthenticated),
        ("another scheme", Some(format!("Digest {good}")), ErrorCode::Unauthenticated),
        ("a password", Some("Basic YWRhOmFkYQ==".into()), ErrorCode::Unauthenticated),
        ("no scheme", Some(good), ErrorCode::Unauthenticated),
        ("wrong key", bearer(wrong_key), ErrorCode::Unauthenticated),
        ("another mesh", bearer(other_mesh), ErrorCode::Unauthenticated),
        ("wrong audience", bearer(sign(&elsewhere)), ErrorCode::Unauthenticated),
        ("no expiry", bearer(sign(&eternal)), ErrorCode::Unauthenticated),
        ("alg none", bearer(none), ErrorCode::Unauthenticated),
        ("HS256 with the public key", bearer(hmac), ErrorCode::Unauthenticated),
        ("expired", bearer(expired), ErrorCode::TokenExpired),
    ]
}

fn with_header<T>(message: T, header: &Option<String>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(header) = header {
        request.metadata_mut().insert("authorization", header.parse().unwrap());
    }
    request
}

/// What each call of Flight answers.
async fn every_call(door: &Opened, header: &Option<String>) -> Vec<(&'static str, Result<(), Status>)> {
    let mut raw = door.raw().await;
    let query = CommandStatementQuery { query: "one".into(), transaction_id: None };
    let descriptor = FlightDescriptor::new_cmd(query.as_any().encode_to_vec());
    let data = FlightData { flight_descriptor: Some(descriptor.clone()), ..FlightData::default() };
    let upload = || futures::stream::iter([data.clone()]);
    macro_rules! call {
        ($method:ident $message:expr) => {
            (stringify!($method), soon(raw.$method(with_header($message, header))).await.map(drop))
        };
    }
    vec![
        call!(get_flight_info descriptor.clone()),
        call!(get_schema descriptor.clone()),
        call!(poll_flight_info descriptor.clone()),
        call!(do_get Ticket::new(query.as_any().encode_to_vec())),
        call!(do_put upload()),
        call!(do_exchange upload()),
        call!(do_action Action::new(ADMIN_ACTION, "{}")),
        call!(list_actions Empty {}),
        call!(list_flights Criteria::default()),
        call!(handshake futures::stream::iter([])),
    ]
}

#[tokio::test]
async fn every_call_is_refused_without_a_good_token() {
    let door = open().await;
    for (what, header, code) in wrong_tokens(&door) {
        for (call, answer) in every_call(&door, &header).await {
            let status = answer.expect_err(call);
            assert_eq!(status.code(), Code::Unauthenticated, "{call} with {what}: {status}");
            assert_eq!(from_status(&status).code, code, "{call} with {what}: {status}");
            assert!(status.message().starts_with("GL200"), "{status}");
            assert_eq!(status.metadata().get("greylag-sqlstate").unwrap(), "28000");
        }
    }
    assert_eq!(door.fake.calls.load(Ordering::SeqCst), 0, "something came through");
    let good = Some(format!("bearer {}", door.token("ada")));
    for (call, answer) in every_call(&door, &good).await {
        assert!(answer.as_ref().err().is_none_or(|s| s.code() != Code::Unauthenticated), "{call}: {answer:?}");
    }
    assert!(door.fake.calls.load(Ordering::SeqCst) > 0);
}

#[tokio::test]
async fn two_authorizations_are_none() {
    let door = open().await;
    let mut request = Request::new(Empty {});
    for id in ["ada", "bob"] {
        request.metadata_mut().append("authorization", format!("Bearer {}", door.token(id)).parse().unwrap());
    }
    let status = door.raw().await.list_actions(request).await.unwrap_err();
    assert_eq!(from_status(&status).code, ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn a_handshake_takes_a_token_as_password() {
    let door = open().await;
    let mut client = arrow_flight::sql::client::FlightSqlServiceClient::new(door.channel().await);
    let token = door.token("ada");
    assert_eq!(client.handshake("anybody", &token).await.unwrap(), token.as_bytes());
    client.execute("one".into(), None).await.unwrap();
    let unpadded = |user: &&str| base64::engine::general_purpose::STANDARD_NO_PAD.encode(format!("{user}:{token}"));
    let unpadded = ["a", "ad", "ada"].iter().map(unpadded).find(|pair| pair.len() % 4 != 0).unwrap();
    let request = with_header(futures::stream::iter([]), &Some(format!("Basic {unpadded}")));
    let response = door.raw().await.handshake(request).await.unwrap();
    assert_eq!(response.metadata().get("authorization").unwrap(), &format!("Bearer {token}"));

    let mut stranger = arrow_flight::sql::client::FlightSqlServiceClient::new(door.channel().await);
    let error = stranger.handshake("ada", "goose").await.unwrap_err().to_string();
    assert!(error.contains("GL2001"), "{error}");
}

#[tokio::test]
async fn the_principal_is_the_tokens() {
    let door = open().await;
    let mut client = door.client("ada").await;
    for (name, value) in [("greylag-agent-id", "a-1"), ("greylag-request-id", "r-2"), ("greylag-org", "forged")] {
        client.set_header(name, value).unwrap();
    }
    let batches = rows(client.query("whoami").await.unwrap()).await.unwrap();
    let who = arrow::array::AsArray::as_string::<i32>(batches[0].column(0)).value(0).to_owned();
    let expected = r#"ada ["analyst"] flight {"agent_id": "a-1", "credential": "bearer:"#;
    assert!(who.starts_with(expected) && who.contains(r#""org": "geese", "request_id": "r-2"}"#), "{who}");
    assert!(who.contains(r#""r-2"} Some(127.0.0.1) "#), "{who}");
}

#[tokio::test]
async fn the_key_is_looked_up_at_each_call() {
    let (key, public_key) = key();
    let mesh = MeshId(Uuid::new_v4());
    let (facts, watched) = tokio::sync::watch::channel(None);
    let verifier = Verifier::new(move || watched.borrow().clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let service = std::sync::Arc::new(fixture::Fake::default());
    tokio::spawn(flight::serve(listener, fixture::parts(service, verifier), CancellationToken::new()));
    let token = Issuer::new(&key, mesh).unwrap().issue(&principal("ada"), Duration::from_secs(60), now()).unwrap();
    let client = Client::connect(&endpoint, &token).await.unwrap();
    assert_eq!(failure(client.query("one").await).code, ErrorCode::NoLeader);
    facts.send(Some((mesh, public_key))).unwrap();
    assert_eq!(rows(client.query("one").await.unwrap()).await.unwrap()[0].num_rows(), 1);
}

#[tokio::test]
async fn off_loopback_the_door_stays_shut() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let service = std::sync::Arc::new(fixture::Fake::default());
    let parts = fixture::parts(service, Verifier::new(|| None));
    let served = soon(flight::serve(listener, parts, CancellationToken::new())).await;
    assert_eq!(served.unwrap_err().code, ErrorCode::InvalidConfig);
}
