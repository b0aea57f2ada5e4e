#![allow(clippy::unwrap_used)]

//! Many callers, one fetch; callers that go away; files.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{channel::oneshot, future::join_all};

use super::{
    super::{
        fixture::{self, NOW_SECS, Signer, block_on, trusted},
        jwt::SigningAlgorithm,
        source::{FileKeys, FixedKeys},
    },
    *,
};

const NOW_MS: u64 = NOW_SECS * 1000;

/// Answers when it is told to.
struct Gated {
    fetches: AtomicUsize,
    gate: Mutex<Option<oneshot::Receiver<Vec<u8>>>>,
}

#[async_trait::async_trait]
impl KeySource for Gated {
    async fn fetch(&self) -> Result<Vec<u8>> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        let gate = self.gate.lock().unwrap().take();
        match gate {
            Some(gate) => gate.await.map_err(|_| keys_missing()),
            None => Err(keys_missing()),
        }
    }
}

fn ed() -> TrustedIssuer {
    trusted(&[SigningAlgorithm::EdDsa])
}

#[test]
fn however_many_wait_the_set_is_fetched_once() {
    let signer = Signer::ed("k");
    let token = signer.token(&fixture::claims());
    let (open, gate) = oneshot::channel();
    let source = Arc::new(Gated { fetches: AtomicUsize::new(0), gate: Mutex::new(Some(gate)) });
    let keys = IssuerKeys::new(ed(), source.clone(), KeyCacheLimits::default());
    // The first to ask goes away before there is an answer.
    assert!(keys.verify(&token, NOW_MS).now_or_never().is_none());
    let callers = join_all((0..50).map(|_| keys.verify(&token, NOW_MS)));
    let opener = async { open.send(fixture::set(&[&signer])).unwrap() };
    let (results, ()) = block_on(futures::future::join(callers, opener));
    assert!(results.iter().all(|r| r.as_ref().is_ok_and(|p| p.id == "ada")), "{results:?}");
    assert_eq!(source.fetches.load(Ordering::SeqCst), 1);
}

#[test]
fn without_keys_there_is_no_answer_but_an_error_that_says_so() {
    let signer = Signer::ed("k");
    let token = signer.token(&fixture::claims());
    let keys = IssuerKeys::new(ed(), Arc::new(FileKeys::new("/nonexistent/keys")), KeyCacheLimits::default());
    for _ in 0..2 {
        assert_eq!(block_on(keys.verify(&token, NOW_MS)).unwrap_err().code, ErrorCode::IssuerKeysMissing);
    }
}

#[test]
fn a_key_that_is_old_is_used_at_once_and_renewed_by_the_way() {
    let signer = Signer::ed("k");
    let mut claims = fixture::claims();
    claims["exp"] = (NOW_SECS + 10_000).into();
    let token = signer.token(&claims);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    std::fs::write(&path, fixture::set(&[&signer])).unwrap();
    let source = FileKeys::from_url(&format!("file://{}", path.display())).unwrap();
    let limits = KeyCacheLimits::default();
    let keys = IssuerKeys::new(ed(), Arc::new(source), limits);
    block_on(keys.verify(&token, NOW_MS)).unwrap();
    // The issuer rotates: the old key is good until the set is renewed, which the very next use of an old set does.
    let next = Signer::ed("next");
    std::fs::write(&path, fixture::set(&[&next])).unwrap();
    let later = NOW_MS + limits.fresh_ms + 1;
    block_on(keys.verify(&token, later)).unwrap();
    assert_eq!(block_on(keys.verify(&token, later)).unwrap_err().code, ErrorCode::Unauthenticated);
    block_on(keys.verify(&next.token(&claims), later)).unwrap();
}

#[test]
fn keys_at_hand_need_no_file() {
    let signer = Signer::ec("k", jsonwebtoken::Algorithm::ES256);
    let source = FixedKeys(fixture::set(&[&signer]));
    let keys = IssuerKeys::new(trusted(&[SigningAlgorithm::ES256]), Arc::new(source), KeyCacheLimits::default());
    assert_eq!(block_on(keys.verify(&signer.token(&fixture::claims()), NOW_MS)).unwrap().id, "ada");
    assert!(FileKeys::from_url("https://issuer.example/keys").is_none() && FileKeys::from_url("file://keys").is_none());
}
