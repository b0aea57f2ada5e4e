//! An outside issuer's keys over HTTPS: rotation, outages, floods, and servers that are not what they should be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fixture;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fixture::{
    certificates::Authority,
    issuer::{self, ISSUER, Reply, Served, Signer, claims, served, served_as},
    soon,
};
use greylag_gateways::{
    bearer::Verifier,
    identity::{Authenticator, AuthenticatorParts, HttpsKeys, Presented},
};
use greylag_governance::identity::{
    IssuerKeys, KeyCacheLimits, KeySource, SET_BYTES_MAX, SigningAlgorithm, TrustedIssuer,
};
use greylag_protocol::ErrorCode;

const LIMITS: KeyCacheLimits = KeyCacheLimits { fresh_ms: 1_000, stale_ms: 10_000, pause_ms: 100, unknown_ms: 500 };

/// A node that trusts one issuer, with a clock that stands until it is moved.
#[derive(Clone)]
struct Node {
    authenticator: Arc<Authenticator>,
    clock: Arc<AtomicU64>,
}

impl Node {
    fn of(authority: &Authority, served: &Served) -> Self {
        let trusted = TrustedIssuer::new(ISSUER, ["greylag".to_owned()], [SigningAlgorithm::EdDsa]).unwrap();
        let source = HttpsKeys::new(&served.url, Some(&authority.ca)).unwrap();
        let clock = Arc::new(AtomicU64::new(fixture::now() * 1_000));
        let moments = clock.clone();
        let parts = AuthenticatorParts {
            issuers: vec![IssuerKeys::new(trusted, Arc::new(source), LIMITS)],
            clock: Arc::new(move || moments.load(Ordering::SeqCst)),
            ..AuthenticatorParts::new(Verifier::new(|| None))
        };
        Self { authenticator: Arc::new(Authenticator::new(parts).unwrap()), clock }
    }

    fn pass(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::SeqCst);
    }

    async fn who(&self, token: &str) -> Result<String, ErrorCode> {
        let authorization = format!("Bearer {token}");
        let from = IpAddr::from([127, 0, 0, 1]);
        let presented = Presented { authorization: Some(&authorization), from, certificate: None };
        let named = soon(self.authenticator.authenticate(presented)).await;
        named.map(|principal| principal.id).map_err(|error| error.code)
    }
}

#[tokio::test]
async fn a_key_that_was_rotated_out_is_refused_and_the_new_one_taken() {
    let (authority, old, new) = (Authority::new(), Signer::new("old"), Signer::new("new"));
    let served = served(&authority, Reply::Keys(issuer::set(&[&old]))).await;
    let node = Node::of(&authority, &served);
    let (by_old, by_new) = (old.token(&claims("ada")), new.token(&claims("bob")));
    assert_eq!(node.who(&by_old).await.as_deref(), Ok("ada"));
    served.answer(Reply::Keys(issuer::set(&[&new])));
    assert_eq!(node.who(&by_old).await.as_deref(), Ok("ada"), "the set is fresh");
    node.pass(200);
    assert_eq!(node.who(&by_new).await.as_deref(), Ok("bob"), "an unknown key has the set fetched");
    assert_eq!(node.who(&by_old).await, Err(ErrorCode::Unauthenticated), "the old key is gone with it");
    assert_eq!(served.asked(), 2);
}

#[tokio::test]
async fn a_set_that_is_old_is_renewed_by_the_way() {
    let (authority, old, new) = (Authority::new(), Signer::new("old"), Signer::new("new"));
    let served = served(&authority, Reply::Keys(issuer::set(&[&old]))).await;
    let node = Node::of(&authority, &served);
    let by_old = old.token(&claims("ada"));
    assert!(node.who(&by_old).await.is_ok());
    served.answer(Reply::Keys(issuer::set(&[&new])));
    node.pass(LIMITS.fresh_ms + 1);
    // Nobody waits for the renewal, and nobody uses the new key: the old one stops working all the same.
    assert!(node.who(&by_old).await.is_ok());
    let renewed = async {
        while node.who(&by_old).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(renewed).await;
    assert_eq!((node.who(&by_old).await, served.asked()), (Err(ErrorCode::Unauthenticated), 2));
}

#[tokio::test]
async fn while_the_issuer_is_away_its_known_keys_serve_until_they_are_stale() {
    let (authority, signer) = (Authority::new(), Signer::new("k"));
    let served = served(&authority, Reply::Keys(issuer::set(&[&signer]))).await;
    let node = Node::of(&authority, &served);
    let token = signer.token(&claims("ada"));
    assert!(node.who(&token).await.is_ok());
    let set = Reply::Keys(issuer::set(&[&signer]));
    for away in [Reply::Gone, Reply::Status(503)] {
        served.answer(away);
        node.pass(2_000);
        assert_eq!(node.who(&token).await.as_deref(), Ok("ada"));
    }
    node.pass(LIMITS.stale_ms);
    assert_eq!(node.who(&token).await, Err(ErrorCode::IssuerKeysMissing));
    served.answer(set);
    node.pass(200);
    assert_eq!(node.who(&token).await.as_deref(), Ok("ada"));
}

#[tokio::test]
async fn invented_keys_do_not_flood_the_issuer_and_callers_share_a_fetch() {
    let (authority, signer) = (Authority::new(), Signer::new("k"));
    let served = served(&authority, Reply::Keys(issuer::set(&[&signer]))).await;
    let node = Node::of(&authority, &served);
    let token = signer.token(&claims("ada"));
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let (node, token) = (node.clone(), token.clone());
            tokio::spawn(async move { node.who(&token).await })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().as_deref(), Ok("ada"));
    }
    assert_eq!(served.asked(), 1);
    node.pass(200);
    for invented in 0..300 {
        let forged = signer.token_by(&format!("invented-{invented}"), &claims("eve"));
        assert_eq!(node.who(&forged).await, Err(ErrorCode::Unauthenticated));
    }
    assert_eq!(served.asked(), 2, "one look whether there is a new key");
    assert_eq!(node.who(&token).await.as_deref(), Ok("ada"));
}

#[tokio::test]
async fn only_a_server_with_the_right_certificate_is_believed() {
    let (authority, other, signer) = (Authority::new(), Authority::new(), Signer::new("k"));
    let set = issuer::set(&[&signer]);
    let fetch = async |served: &Served| {
        let source = HttpsKeys::new(&served.url, Some(&authority.ca)).unwrap();
        soon(source.fetch()).await.map_err(|error| error.code)
    };
    let good = served(&authority, Reply::Keys(set.clone())).await;
    assert_eq!(fetch(&good).await, Ok(set.clone()));
    let strange = served(&other, Reply::Keys(set.clone())).await;
    let misnamed = served_as(&authority.server("other", "other.example"), Reply::Keys(set.clone())).await;
    for (what, bad) in [("another authority", &strange), ("another name", &misnamed)] {
        assert_eq!((fetch(bad).await, bad.asked()), (Err(ErrorCode::IssuerKeysMissing), 0), "{what}");
    }
    // The public authorities have not signed it either.
    let public = HttpsKeys::new(&good.url, None).unwrap();
    assert_eq!(soon(public.fetch()).await.unwrap_err().code, ErrorCode::IssuerKeysMissing);
}

#[tokio::test]
async fn answers_are_bounded_and_redirects_stay_on_https() {
    let (authority, signer) = (Authority::new(), Signer::new("k"));
    let set = issuer::set(&[&signer]);
    let target = served(&authority, Reply::Keys(set.clone())).await;
    let first = served(&authority, Reply::Redirect(target.url.clone())).await;
    let fetch = async || soon(HttpsKeys::new(&first.url, Some(&authority.ca)).unwrap().fetch()).await;
    assert_eq!(fetch().await, Ok(set.clone()));
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let unsafe_url = format!("http://localhost:{}/keys", plain.local_addr().unwrap().port());
    for reply in [
        Reply::Redirect(unsafe_url),
        Reply::Redirect(first.url.clone()),
        Reply::Status(404),
        Reply::Keys(vec![b' '; SET_BYTES_MAX + 1]),
        Reply::Gone,
    ] {
        first.answer(reply);
        assert_eq!(fetch().await.unwrap_err().code, ErrorCode::IssuerKeysMissing);
    }
    let untouched = tokio::time::timeout(Duration::from_millis(10), plain.accept()).await;
    assert!(untouched.is_err(), "a redirect to plain HTTP was followed");
}

#[test]
fn addresses_that_are_not_https_are_not_taken() {
    for url in ["http://127.0.0.1/keys", "file:///keys", "keys", "https://", "https://user:secret@i.example/keys"] {
        let error = HttpsKeys::new(url, None).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidConfig, "{url}");
    }
    let error = HttpsKeys::new("https://i.example/keys", Some("/nonexistent".as_ref())).unwrap_err();
    assert!(error.message.contains("/nonexistent"), "{error}");
}
