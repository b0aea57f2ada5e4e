//! Which authorities a node believes, and what it shows beside its own certificate so that others believe it: one
//! authority, or two that vouch for each other while one takes over from the other.

use greylag_protocol::{
    Epoch,
    state::{ControlState, Rotation},
};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trust {
    /// Of the state that says so: an older one says nothing to a node that knew this.
    pub epoch: Epoch,
    /// DER.
    pub ca_certificate: Vec<u8>,
    pub rotation: Option<Rotation>,
}

impl Trust {
    /// As it is where nothing else is known.
    pub(crate) fn enrolled(ca_certificate: &[u8]) -> Self {
        Self { epoch: Epoch(0), ca_certificate: ca_certificate.to_vec(), rotation: None }
    }

    /// `None` before the mesh has been formed.
    pub(crate) fn of(state: &ControlState) -> Option<Self> {
        let ca_certificate = state.mesh.as_ref()?.ca_certificate.clone();
        Some(Self { epoch: state.epoch, ca_certificate, rotation: state.rotation.clone() })
    }

    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        self.ca_certificate == other.ca_certificate && self.rotation == other.rotation
    }

    /// What certificates are checked against.
    pub(crate) fn roots(&self) -> Vec<CertificateDer<'static>> {
        let former = self.rotation.as_ref().map(|rotation| rotation.former_ca.clone());
        [self.ca_certificate.clone()].into_iter().chain(former).map(CertificateDer::from).collect()
    }

    /// What is shown after a node's own certificate: how the authorities vouch for each other, and the authorities
    /// themselves, so that a joiner can find the one that its token pins.
    pub(crate) fn shown(&self) -> Vec<CertificateDer<'static>> {
        let vouching = self.rotation.iter().flat_map(|r| [r.new_by_former.clone(), r.former_by_new.clone()]);
        vouching.map(CertificateDer::from).chain(self.roots()).collect()
    }
}
