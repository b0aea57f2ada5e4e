//! Drives a [`KeyCache`]: one fetch for however many wait for it. Whoever waits drives the fetch, so a caller that goes
//! away neither ends it nor leaves the others waiting. Who has its key already waits for nothing, and only drives the
//! renewal of the set one step further.
//!
//! It has no clock: the moment of a call comes in. It decides nothing that the cache has not decided.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use greylag_protocol::{ErrorCode, MeshError, Result, principal::Principal};

use super::{
    jwks::{FetchTicket, IssuerKey, KeyCache, KeyCacheLimits, KeySet, Lookup},
    jwt::{TokenCheck, TrustedIssuer},
    refused,
    source::KeySource,
};

/// Lookups of one token: the first, the one after a fetch, and one in case that fetch was another's.
const LOOKUPS_MAX: u32 = 3;

type Fetch = Shared<BoxFuture<'static, Result<KeySet>>>;

/// An issuer whose tokens are taken, with its keys.
pub struct IssuerKeys {
    issuer: TrustedIssuer,
    source: Arc<dyn KeySource>,
    state: Mutex<State>,
}

struct State {
    cache: KeyCache,
    under_way: Option<(FetchTicket, String, Fetch)>,
}

impl State {
    /// Drives a fetch as far as it goes without waiting.
    fn step(&mut self, now_unix_ms: u64) {
        let Some((ticket, _, fetch)) = &self.under_way else { return };
        let ticket = *ticket;
        if let Some(result) = fetch.clone().now_or_never() {
            self.settle(ticket, result, now_unix_ms);
        }
    }

    fn settle(&mut self, ticket: FetchTicket, result: Result<KeySet>, now_unix_ms: u64) {
        if let Some((_, kid, _)) = self.under_way.take_if(|(under_way, _, _)| *under_way == ticket) {
            self.cache.fetched(ticket, result, &kid, now_unix_ms);
        }
    }
}

impl IssuerKeys {
    pub fn new(issuer: TrustedIssuer, source: Arc<dyn KeySource>, limits: KeyCacheLimits) -> Self {
        Self { issuer, source, state: Mutex::new(State { cache: KeyCache::new(limits), under_way: None }) }
    }

    pub fn issuer(&self) -> &TrustedIssuer {
        &self.issuer
    }

    /// The principal that this token names. GL2001, GL2002, or GL2008 while the issuer's keys cannot be had.
    pub async fn verify(&self, token: &str, now_unix_ms: u64) -> Result<Principal> {
        let check = TokenCheck::new(&self.issuer, token)?;
        let key = self.key(check.kid(), now_unix_ms).await?;
        check.verify(&key, now_unix_ms / 1000)
    }

    async fn key(&self, kid: &str, now_unix_ms: u64) -> Result<Arc<IssuerKey>> {
        for _ in 0..LOOKUPS_MAX {
            let (ticket, fetch) = match self.look(kid, now_unix_ms) {
                Ok(settled) => return settled,
                Err(wait) => wait,
            };
            let result = fetch.await;
            self.lock().settle(ticket, result, now_unix_ms);
        }
        Err(keys_missing())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key or the refusal, or what to wait for.
    fn look(&self, kid: &str, now_unix_ms: u64) -> Result<Result<Arc<IssuerKey>>, (FetchTicket, Fetch)> {
        let mut state = self.lock();
        match state.cache.lookup(kid, now_unix_ms) {
            Lookup::Key(key) => {
                state.step(now_unix_ms);
                Ok(Ok(key))
            }
            Lookup::KeyAndFetch(key, ticket) => {
                let _fetch = self.start(&mut state, ticket, kid);
                state.step(now_unix_ms);
                Ok(Ok(key))
            }
            Lookup::Fetch(ticket) => {
                let fetch = self.start(&mut state, ticket, kid);
                Err((ticket, fetch))
            }
            Lookup::Wait(ticket) => match &state.under_way {
                Some((under_way, _, fetch)) if *under_way == ticket => Err((ticket, fetch.clone())),
                _ => Ok(Err(keys_missing())),
            },
            Lookup::Unknown => Ok(Err(refused("its issuer has no such key"))),
            Lookup::Unavailable => Ok(Err(keys_missing())),
        }
    }

    /// Nothing happens yet: who waits for it drives it.
    fn start(&self, state: &mut State, ticket: FetchTicket, kid: &str) -> Fetch {
        let source = self.source.clone();
        let fetch: BoxFuture<'static, Result<KeySet>> = async move { KeySet::parse(&source.fetch().await?) }.boxed();
        let fetch = fetch.shared();
        state.under_way = Some((ticket, kid.to_owned(), fetch.clone()));
        fetch
    }
}

fn keys_missing() -> MeshError {
    MeshError::new(ErrorCode::IssuerKeysMissing, "the issuer's keys cannot be fetched")
}

#[cfg(test)]
#[path = "issuer_keys_test.rs"]
mod tests;
