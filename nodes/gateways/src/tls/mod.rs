//! TLS of doors, of their clients, and towards issuers: rustls with ring, 1.2 and 1.3, authorities from PEM files or the
//! public ones. It says nothing about who a certificate's holder is: `identity` does.
//!
//! The mesh's own traffic between nodes is not here: it has its own authority and its own TLS, in `greylag-cluster`.

mod client;
mod files;
mod server;

pub use client::ClientTls;
pub use server::{ServerTls, TlsFiles};

use std::{error::Error, path::Path, sync::Arc};

use greylag_protocol::{MeshError, Result};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, ring},
};

/// An error with what has caused it, as far as it says so.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn failed(error: impl std::fmt::Display) -> MeshError {
    MeshError::internal(format!("TLS cannot be set up: {error}"))
}

/// For connections to servers outside of the mesh. GL6001 for a file of authorities that cannot be used.
pub(crate) fn outbound(ca: Option<&Path>) -> Result<ClientConfig> {
    let roots = match ca {
        Some(path) => files::authorities(path, &files::read(path)?)?,
        None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
    };
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    Ok(config.map_err(failed)?.with_root_certificates(roots).with_no_client_auth())
}
