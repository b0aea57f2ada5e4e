//! What is in a member's certificate, and how it is read: the name `n<id>.node.greylag` says which member it is, the
//! name `peer.greylag` is common to all, so that a node can be dialled before its id is known.

use std::time::Duration;

use greylag_protocol::{ErrorCode, MeshError, NodeId, Result};
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring::ED25519};

use super::key::PUBLIC_KEY_BYTES;

/// In every member's certificate; what is dialled.
pub const COMMON_NAME: &str = "peer.greylag";
const NODE_SUFFIX: &str = ".node.greylag";

/// How far clocks may differ: a certificate is valid from so long before it is issued.
pub(super) const BACKDATED: Duration = Duration::from_secs(5 * 60);

/// DER of a SubjectPublicKeyInfo for Ed25519 up to the key itself (RFC 8410).
const ED25519_SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The name that says which member it is.
pub fn node_name(node: NodeId) -> String {
    format!("{node}{NODE_SUFFIX}")
}

/// Which member a certificate names. GL4002 if it names none. The certificate must have been verified already.
pub fn node_of(certificate: &CertificateDer<'_>) -> Result<NodeId> {
    parse(certificate)?
        .valid_dns_names()
        .find_map(|name| name.strip_suffix(NODE_SUFFIX)?.strip_prefix('n')?.parse().ok().map(NodeId))
        .ok_or_else(|| foreign("the certificate names no node"))
}

/// Raw Ed25519 key of a certificate. GL4002 if it has one of another kind.
pub fn public_key_of(certificate: &CertificateDer<'_>) -> Result<[u8; PUBLIC_KEY_BYTES]> {
    parse(certificate)?
        .subject_public_key_info()
        .as_ref()
        .strip_prefix(&ED25519_SPKI_PREFIX)
        .and_then(|key| key.try_into().ok())
        .ok_or_else(|| foreign("the certificate's key is not Ed25519"))
}

/// When a certificate was issued, and when it ends. To the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub issued_unix_ms: u64,
    pub expires_unix_ms: u64,
}

/// The dates of a certificate. GL4002 if it cannot be read.
pub fn validity_of(certificate: &[u8]) -> Result<Validity> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| foreign(format!("the certificate cannot be read: {error}")))?;
    let ms = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1000);
    let validity = parsed.validity();
    Ok(Validity {
        issued_unix_ms: ms(validity.not_before).saturating_add(BACKDATED.as_millis() as u64),
        expires_unix_ms: ms(validity.not_after),
    })
}

/// Checks that `ca` has signed `certificate` and that it is valid now, for both sides of a connection.
pub fn verify_chain(certificate: &CertificateDer<'_>, ca: &CertificateDer<'_>, unix_ms: u64) -> Result<()> {
    verify_chain_through(certificate, &[], ca, unix_ms)
}

/// As [`verify_chain`], with authorities in between for which `ca` vouches.
pub fn verify_chain_through(
    certificate: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    ca: &CertificateDer<'_>,
    unix_ms: u64,
) -> Result<()> {
    let parsed = parse(certificate)?;
    let anchor =
        anchor_from_trusted_cert(ca).map_err(|error| foreign(format!("the authority's certificate: {error}")))?;
    let now = UnixTime::since_unix_epoch(Duration::from_millis(unix_ms));
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        parsed
            .verify_for_usage(&[ED25519], std::slice::from_ref(&anchor), between, now, usage, None, None)
            .map_err(|error| foreign(format!("the certificate does not verify: {error}")))?;
    }
    Ok(())
}

/// SHA-256 of a certificate, DER.
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, certificate).as_ref());
    out
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<EndEntityCert<'a>> {
    EndEntityCert::try_from(certificate).map_err(|error| foreign(format!("the certificate cannot be read: {error}")))
}

fn foreign(message: impl Into<String>) -> MeshError {
    MeshError::new(ErrorCode::ForeignCertificate, message)
}

/// For errors of making certificates, which have no cause outside this process.
pub(super) fn made(error: rcgen::Error) -> MeshError {
    MeshError::internal(format!("a certificate could not be made: {error}"))
}
