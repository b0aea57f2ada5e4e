//! The mesh's authority as this node keeps it: nothing, or its keys and the authority opened with them. It can come later:
//! a node is given the keys when it becomes a voter.

use std::sync::{Arc, PoisonError, RwLock};

use greylag_protocol::{Result, messages::join::Authority};

use super::authority::CertificateAuthority;

pub(crate) struct Keyring {
    ca_certificate: Vec<u8>,
    held: RwLock<Option<Arc<Held>>>,
}

pub(crate) struct Held {
    pub keys: Arc<Authority>,
    pub ca: CertificateAuthority,
}

impl Keyring {
    /// GL4002 for keys that do not belong to this authority.
    pub(crate) fn new(ca_certificate: &[u8], authority: Option<Authority>) -> Result<Self> {
        let keyring = Self { ca_certificate: ca_certificate.to_vec(), held: RwLock::default() };
        authority.map(|authority| keyring.put(authority)).transpose()?;
        Ok(keyring)
    }

    pub(crate) fn put(&self, authority: Authority) -> Result<()> {
        let ca = CertificateAuthority::open(&authority, &self.ca_certificate)?;
        let held = Arc::new(Held { keys: Arc::new(authority), ca });
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Some(held);
        Ok(())
    }

    pub(crate) fn held(&self) -> Option<Arc<Held>> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// DER.
    pub(crate) fn ca_certificate(&self) -> &[u8] {
        &self.ca_certificate
    }
}
