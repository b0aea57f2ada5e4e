//! TLS of a door, from files that may change while it is open: a renewed certificate, or another authority of clients, is
//! used from the next connections on. Files that do not fit together (one renewed, the other not yet) change nothing.
//!
//! There is no resumption, so that every connection shows its certificate anew and has it checked.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use greylag_protocol::{ErrorCode, MeshError, Result};
use ring::digest::{SHA256, digest};
use rustls::{
    ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};

use super::{failed, files, provider};

/// The files are looked at no more often than this.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// HTTP/2, which is what gRPC speaks.
const ALPN_H2: &[u8] = b"h2";

/// Where a door's certificate is, and who must show one in turn. All are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Authorities of clients' certificates. `None`: clients show none.
    pub client_ca: Option<PathBuf>,
    /// Whether who shows none is let in.
    pub client_required: bool,
}

/// A door's TLS as its files are now.
pub struct ServerTls {
    files: TlsFiles,
    state: Mutex<State>,
}

struct State {
    config: Arc<ServerConfig>,
    /// Digest of the files' content.
    content: Content,
    looked: Instant,
}

type Content = [u8; 32];

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ServerTls {
    /// GL6001, naming the file, if it cannot be used.
    pub fn load(files: TlsFiles) -> Result<Self> {
        let read = Read::new(&files)?;
        let (config, content) = (read.config(&files)?, read.content());
        let state = State { config: Arc::new(config), content, looked: Instant::now() };
        Ok(Self { files, state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the next connection.
    pub(crate) async fn current(self: &Arc<Self>) -> Arc<ServerConfig> {
        if self.is_due() {
            let tls = self.clone();
            let _ = tokio::task::spawn_blocking(move || tls.look()).await;
        }
        self.lock().config.clone()
    }

    /// Whether it is time to look at the files. True for one of those who ask.
    fn is_due(&self) -> bool {
        let mut state = self.lock();
        let due = state.looked.elapsed() >= LOOK_PAUSE;
        if due {
            state.looked = Instant::now();
        }
        due
    }

    fn look(&self) {
        let read = match Read::new(&self.files) {
            Ok(read) => read,
            Err(error) => return tracing::warn!(%error, "a door's TLS files cannot be read; the former stay in use"),
        };
        let content = read.content();
        if content == self.lock().content {
            return;
        }
        match read.config(&self.files) {
            Ok(config) => {
                let mut state = self.lock();
                (state.config, state.content) = (Arc::new(config), content);
                tracing::info!("a door's TLS files have changed and are in use");
            }
            Err(error) => tracing::warn!(%error, "a door's TLS files do not fit; the former stay in use"),
        }
    }
}

/// The files as they were at one moment.
struct Read {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Read {
    fn new(files: &TlsFiles) -> Result<Self> {
        Ok(Self {
            certificate: files::read(&files.certificate)?,
            key: files::read(&files.key)?,
            client_ca: files.client_ca.as_deref().map(files::read).transpose()?,
        })
    }

    fn content(&self) -> Content {
        let ca = self.client_ca.as_deref().unwrap_or_default();
        let digests = [&*self.certificate, &self.key, ca].map(|file| digest(&SHA256, file));
        let mut content = Content::default();
        content.copy_from_slice(digest(&SHA256, &digests.map(|d| d.as_ref().to_vec()).concat()).as_ref());
        content
    }

    fn config(&self, files: &TlsFiles) -> Result<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(failed)?;
        let builder = match (&files.client_ca, &self.client_ca) {
            (Some(path), Some(pem)) => {
                let roots = Arc::new(files::authorities(path, pem)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                let verifier = if files.client_required { verifier } else { verifier.allow_unauthenticated() };
                builder.with_client_cert_verifier(verifier.build().map_err(|e| files::unusable(path, e))?)
            }
            _ if files.client_required => return Err(required_by_nobody(&files.certificate)),
            _ => builder.with_no_client_auth(),
        };
        let chain = files::chain(&files.certificate, &self.certificate)?;
        let key = files::key(&files.key, &self.key)?;
        let config = builder.with_single_cert(chain, key);
        let mut config = config.map_err(|e| files::unusable(&files.certificate, format!("and its key: {e}")))?;
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

fn required_by_nobody(certificate: &Path) -> MeshError {
    let message = format!("the door of `{}` requires certificates of clients, of no authority", certificate.display());
    MeshError::new(ErrorCode::InvalidConfig, message)
}
