//! Where an issuer's key set comes from: a file, or bytes that are at hand. Fetching one over HTTPS is for a crate that
//! has a client.

use std::path::PathBuf;

use async_trait::async_trait;
use greylag_protocol::{ErrorCode, MeshError, Result};

use super::jwks::SET_BYTES_MAX;

/// Gets an issuer's key set. It must end by itself: nobody waits for it with a time limit.
#[async_trait]
pub trait KeySource: Send + Sync {
    /// The set as JSON, at most [`SET_BYTES_MAX`] of it. GL2008 if it cannot be had.
    async fn fetch(&self) -> Result<Vec<u8>>;
}

/// A set that is known beforehand.
#[derive(Debug, Clone)]
pub struct FixedKeys(pub Vec<u8>);

#[async_trait]
impl KeySource for FixedKeys {
    async fn fetch(&self) -> Result<Vec<u8>> {
        Ok(self.0.clone())
    }
}

/// A file on the node's disk, read again at each fetch.
#[derive(Debug, Clone)]
pub struct FileKeys(PathBuf);

impl FileKeys {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// From a `file://` address with an absolute path; `None` for anything else.
    pub fn from_url(url: &str) -> Option<Self> {
        let path = url.strip_prefix("file://").filter(|path| path.starts_with('/'))?;
        Some(Self::new(path))
    }
}

#[async_trait]
impl KeySource for FileKeys {
    async fn fetch(&self) -> Result<Vec<u8>> {
        use std::io::Read;
        let read = || {
            let mut bytes = Vec::new();
            // One byte over the limit is enough for the reader of the set to refuse it.
            std::fs::File::open(&self.0)?.take(SET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
            std::io::Result::Ok(bytes)
        };
        read().map_err(|e| {
            let path = self.0.display();
            MeshError::new(ErrorCode::IssuerKeysMissing, format!("the key set `{path}` cannot be read: {e}"))
        })
    }
}
