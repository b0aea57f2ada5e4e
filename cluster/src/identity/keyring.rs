//! The mesh's authority as this node keeps it: nothing, or its keys and the authority opened with them. It can come later:
//! a node is given the keys when it becomes a voter.

use std::sync::Arc;

use greylag_protocol::{Result, messages::join::Authority};
use tokio::sync::watch;

use super::authority::CertificateAuthority;

pub(crate) struct Keyring {
    ca_certificate: Vec<u8>,
    held: watch::Sender<Option<Arc<Held>>>,
}

pub(crate) struct Held {
    pub keys: Arc<Authority>,
    pub ca: CertificateAuthority,
}

impl Keyring {
    /// GL4002 for keys that do not belong to this authority.
    pub(crate) fn new(ca_certificate: &[u8], authority: Option<Authority>) -> Result<Self> {
        let keyring = Self { ca_certificate: ca_certificate.to_vec(), held: watch::Sender::default() };
        authority.map(|authority| keyring.put(authority)).transpose()?;
        Ok(keyring)
    }

    pub(crate) fn put(&self, authority: Authority) -> Result<()> {
        let ca = CertificateAuthority::open(&authority, &self.ca_certificate)?;
        let held = Arc::new(Held { keys: Arc::new(authority), ca });
        self.held.send_replace(Some(held));
        Ok(())
    }

    pub(crate) fn held(&self) -> Option<Arc<Held>> {
        self.held.borrow().clone()
    }

    /// Resolves once this node keeps the authority.
    pub(crate) async fn given(&self) -> Arc<Held> {
        let mut held = self.held.subscribe();
        loop {
            if let Some(held) = held.borrow_and_update().clone() {
                return held;
            }
            if held.changed().await.is_err() {
                // Its sender is this very keyring.
                std::future::pending::<()>().await;
            }
        }
    }

    /// DER.
    pub(crate) fn ca_certificate(&self) -> &[u8] {
        &self.ca_certificate
    }
}
