//! The authorities that this node believes, and the mesh's own keys as this node keeps them: nothing, or the keys of the
//! authority that signs now. Keys can come later, when the node becomes a voter, and before their authority takes over.
//!
//! INVARIANT: the keys that are given out here are those of the authority that signs now, or none.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use greylag_protocol::{Result, messages::join::Authority};
use tokio::sync::watch;

use super::{Trust, authority::CertificateAuthority};

pub(crate) struct Keyring {
    inner: Mutex<Inner>,
    held: watch::Sender<Option<Arc<Held>>>,
}

struct Inner {
    trust: Trust,
    /// Of authorities that sign now, or may take over.
    known: Vec<Arc<Held>>,
}

pub(crate) struct Held {
    pub keys: Arc<Authority>,
    pub ca: CertificateAuthority,
}

/// Authorities whose keys are kept at a time: those of the one that signs, and of proposals, of which one comes through.
pub(crate) const AUTHORITIES_MAX: usize = 4;

impl Keyring {
    pub(crate) fn new(trust: Trust) -> Self {
        Self { inner: Mutex::new(Inner { trust, known: Vec::new() }), held: watch::Sender::new(None) }
    }

    /// Keys of an authority that signs or may take over. GL4002 for keys that do not belong to it.
    pub(crate) fn put(&self, keys: Authority, ca_certificate: &[u8]) -> Result<()> {
        let ca = CertificateAuthority::open(&keys, ca_certificate)?;
        let mut inner = self.inner();
        inner.known.retain(|held| held.ca.certificate() != ca_certificate);
        inner.known.push(Arc::new(Held { keys: Arc::new(keys), ca }));
        let signs = inner.trust.ca_certificate.clone();
        let excess = inner.known.len().saturating_sub(AUTHORITIES_MAX);
        let oldest = inner.known.iter().position(|held| held.ca.certificate() != signs);
        if let Some(oldest) = oldest.filter(|_| excess > 0) {
            inner.known.remove(oldest);
        }
        self.publish(&inner);
        Ok(())
    }

    /// Everything that is kept, with its authority: the newest last.
    pub(crate) fn known(&self) -> Vec<(Authority, Vec<u8>)> {
        let inner = self.inner();
        inner.known.iter().map(|held| ((*held.keys).clone(), held.ca.certificate().to_vec())).collect()
    }

    /// This is believed from now on.
    pub(crate) fn believe(&self, trust: Trust) {
        let mut inner = self.inner();
        inner.trust = trust;
        self.publish(&inner);
    }

    pub(crate) fn trust(&self) -> Trust {
        self.inner().trust.clone()
    }

    /// The authority that signs now, DER.
    pub(crate) fn ca_certificate(&self) -> Vec<u8> {
        self.inner().trust.ca_certificate.clone()
    }

    pub(crate) fn held(&self) -> Option<Arc<Held>> {
        self.held.borrow().clone()
    }

    /// Wakes when keys are kept that were not, or the other way round.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Arc<Held>>> {
        self.held.subscribe()
    }

    /// Resolves once this node keeps the authority.
    pub(crate) async fn given(&self) -> Arc<Held> {
        let mut held = self.watch();
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

    fn publish(&self, inner: &Inner) {
        let signs = |held: &&Arc<Held>| held.ca.certificate() == inner.trust.ca_certificate;
        self.held.send_replace(inner.known.iter().find(signs).cloned());
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
