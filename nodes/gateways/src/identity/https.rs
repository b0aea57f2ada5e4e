//! An issuer's key set over HTTPS. No plain HTTP, not even by a redirect; no proxy of the environment; a bounded answer
//! in bounded time.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use greylag_governance::identity::{KeySource, SET_BYTES_MAX};
use greylag_protocol::{ErrorCode, MeshError, Result};
use reqwest::{Client, Url, redirect::Policy};

use crate::tls;

/// Longest wait for a connection, and for the whole answer: a caller whose key is not known yet waits for it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Most redirects that are followed, each to `https` again.
const REDIRECTS_MAX: usize = 3;

/// Gets a key set from an `https://` address.
#[derive(Debug, Clone)]
pub struct HttpsKeys {
    client: Client,
    url: Url,
}

impl HttpsKeys {
    /// The server's certificate is checked against the authorities in `ca`, or against the public ones. GL6001 for an
    /// address or a file that makes no sense.
    pub fn new(url: &str, ca: Option<&Path>) -> Result<Self> {
        let wrong = |why: &str| MeshError::new(ErrorCode::InvalidConfig, format!("key set `{url}`: {why}"));
        let parsed = Url::parse(url).map_err(|_| wrong("it is no address"))?;
        if parsed.scheme() != "https" || !parsed.has_host() {
            return Err(wrong("only `https://` addresses are asked"));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(wrong("a key set is public: the address takes no user"));
        }
        let client = Client::builder()
            .tls_backend_preconfigured(tls::outbound(ca)?)
            .https_only(true)
            .redirect(Policy::limited(REDIRECTS_MAX))
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(FETCH_TIMEOUT)
            // Minutes lie between two fetches.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("greylag/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| MeshError::internal(format!("a client for key sets could not be made: {error}")))?;
        Ok(Self { client, url: parsed })
    }

    async fn get(self) -> Result<Vec<u8>> {
        let missing = |why: String| {
            let message = format!("the key set `{}` cannot be fetched: {why}", self.url);
            tracing::warn!(url = %self.url, why, "an issuer's key set could not be fetched");
            MeshError::new(ErrorCode::IssuerKeysMissing, message)
        };
        let request = self.client.get(self.url.clone()).header("accept", "application/json");
        let mut response = request.send().await.map_err(|error| missing(tls::with_causes(&error)))?;
        if !response.status().is_success() {
            return Err(missing(format!("the issuer answers {}", response.status())));
        }
        let mut set = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| missing(tls::with_causes(&error)))? {
            if set.len() + piece.len() > SET_BYTES_MAX {
                return Err(missing(format!("it is longer than {SET_BYTES_MAX} bytes")));
            }
            set.extend_from_slice(&piece);
        }
        Ok(set)
    }
}

#[async_trait]
impl KeySource for HttpsKeys {
    async fn fetch(&self) -> Result<Vec<u8>> {
        // A renewal by the way is driven by nobody in particular, so the request has a task of its own.
        let fetched = tokio::spawn(self.clone().get()).await;
        fetched.map_err(|error| MeshError::internal(format!("a fetch of a key set ended early: {error}")))?
    }
}
