//! TLS as the mesh uses it: 1.3 alone, ring alone, certificates of the mesh's own authority alone, the node's own clock,
//! and no resumption, so that every connection shows its certificate anew.

use std::{sync::Arc, time::Duration};

use greylag_protocol::{
    MeshError, Result,
    frame::{ALPN_JOIN, ALPN_MESH},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::WebPkiClientVerifier,
    time_provider::TimeProvider,
    version::TLS13,
};

use crate::{
    identity::{
        NodeKey, Trust,
        certificate::{COMMON_NAME, fingerprint},
    },
    seams::Clock,
};

/// What a member shows and trusts.
pub(crate) struct Credentials {
    pub certificate: CertificateDer<'static>,
    pub trust: Trust,
    pub key: PrivateKeyDer<'static>,
}

impl Credentials {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        [vec![self.certificate.clone()], self.trust.shown()].concat()
    }
}

/// Accepts members and joiners. A client may come without a certificate, because joiners do; who speaks the mesh
/// protocol without one is turned away after the handshake, with a code instead of a bare TLS alert.
pub(super) fn member_server(credentials: &Credentials, clock: Arc<dyn Clock>) -> Result<ServerConfig> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&credentials.trust)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(failed)?;
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(NodeTime(clock)))
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credentials.chain(), credentials.key.clone_key())
        .map_err(failed)?;
    config.alpn_protocols = vec![ALPN_MESH.to_vec(), ALPN_JOIN.to_vec()];
    Ok(without_tickets(config))
}

/// Dials members as a member.
pub(super) fn member_client(credentials: &Credentials, clock: Arc<dyn Clock>) -> Result<ClientConfig> {
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(NodeTime(clock)))
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .with_root_certificates(roots(&credentials.trust)?)
        .with_client_auth_cert(credentials.chain(), credentials.key.clone_key())
        .map_err(failed)?;
    config.alpn_protocols = vec![ALPN_MESH.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Answers the join protocol before there is a mesh: the certificate vouches for nothing, the proofs do.
pub(super) fn fresh_server(clock: Arc<dyn Clock>) -> Result<ServerConfig> {
    let key = NodeKey::generate()?;
    let certificate = rcgen::CertificateParams::new(vec![COMMON_NAME.to_owned()])
        .and_then(|params| params.self_signed(&rcgen::KeyPair::try_from(key.pkcs8())?))
        .map_err(|error| MeshError::internal(format!("a certificate could not be made: {error}")))?;
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(NodeTime(clock)))
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.tls_key())
        .map_err(failed)?;
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    Ok(without_tickets(config))
}

/// Dials seeds. With a pin the server must show a certificate of that very authority; without one anything goes, and
/// the proofs over the channel decide.
pub(super) fn join_client(pin: Option<[u8; 32]>, clock: Arc<dyn Clock>) -> Result<ClientConfig> {
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(NodeTime(clock)))
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(SeedVerifier { pin, provider: provider() }))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(trust: &Trust) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for ca in trust.roots() {
        roots.add(ca).map_err(failed)?;
    }
    Ok(Arc::new(roots))
}

fn without_tickets(mut config: ServerConfig) -> ServerConfig {
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config
}

fn failed(error: impl std::fmt::Display) -> MeshError {
    MeshError::internal(format!("TLS could not be set up: {error}"))
}

#[derive(Debug)]
struct NodeTime(Arc<dyn Clock>);

impl TimeProvider for NodeTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.unix_ms())))
    }
}

#[derive(Debug)]
struct SeedVerifier {
    pin: Option<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for SeedVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(pin) = self.pin else { return Ok(ServerCertVerified::assertion()) };
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let ca = chain.iter().find(|certificate| fingerprint(certificate) == pin).ok_or(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            // While one authority takes over from another, the pinned one may vouch for the one that has signed.
            .verify_server_cert(leaf, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls13RequiredForQuic))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
