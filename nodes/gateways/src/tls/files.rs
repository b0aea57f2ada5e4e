//! PEM files. GL6001, naming the file, for one that cannot be used.

use std::{fs::File, io::Read, path::Path};

use greylag_protocol::{ErrorCode, MeshError, Result};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Longest file that is read, bytes: a bundle of all public authorities has a quarter of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| unusable(path, format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unusable(path, format!("is longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// A certificate with those between it and its authority.
pub(super) fn chain(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(path, format!("is not PEM: {error}")))?;
    if chain.is_empty() {
        return Err(unusable(path, "holds no certificate"));
    }
    Ok(chain)
}

pub(super) fn authorities(path: &Path, pem: &[u8]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(path, pem)? {
        roots.add(certificate).map_err(|error| unusable(path, format!("holds a bad certificate: {error}")))?;
    }
    Ok(roots)
}

pub(super) fn key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>> {
    // What is wrong with a key is not said in more detail: the parser might quote it.
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| unusable(path, "holds no private key"))
}

pub(super) fn unusable(path: &Path, what: impl std::fmt::Display) -> MeshError {
    MeshError::new(ErrorCode::InvalidConfig, format!("`{}` {what}", path.display()))
}
