//! TLS of a door's client: which authorities it trusts and which certificate it shows. The server's name is always
//! checked.

use std::path::Path;

use greylag_protocol::Result;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::files;

/// How a client speaks TLS to doors. The default trusts the public authorities and shows nothing.
#[derive(Clone, Default)]
pub struct ClientTls {
    /// PEM.
    authorities: Option<Vec<u8>>,
    /// Certificate and key, PEM.
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (public, shows) = (self.authorities.is_none(), self.identity.is_some());
        f.debug_struct("ClientTls").field("public_authorities", &public).field("shows_certificate", &shows).finish()
    }
}

impl ClientTls {
    /// Trusts the authorities in `ca` alone, if it is named; shows the certificate of `identity` (certificate, key), if it
    /// is. GL6001, naming the file, if one cannot be used.
    pub fn load(ca: Option<&Path>, identity: Option<(&Path, &Path)>) -> Result<Self> {
        let authorities = match ca {
            Some(path) => {
                let pem = files::read(path)?;
                files::authorities(path, &pem)?;
                Some(pem)
            }
            None => None,
        };
        let identity = match identity {
            Some((certificate, key)) => {
                let (chain_pem, key_pem) = (files::read(certificate)?, files::read(key)?);
                files::chain(certificate, &chain_pem)?;
                files::key(key, &key_pem)?;
                Some((chain_pem, key_pem))
            }
            None => None,
        };
        Ok(Self { authorities, identity })
    }

    pub(crate) fn config(&self) -> ClientTlsConfig {
        let config = match &self.authorities {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_webpki_roots(),
        };
        match &self.identity {
            Some((certificate, key)) => config.identity(Identity::from_pem(certificate, key)),
            None => config,
        }
    }
}
