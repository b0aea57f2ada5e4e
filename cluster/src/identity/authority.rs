//! The mesh's certificate authority: minted once by the founder, kept by the voters, used to sign members in.
//!
//! INVARIANT: nothing but the public key is taken from a request. Name, usage and validity are the mesh's.

use std::time::Duration;

use greylag_protocol::{ErrorCode, MeshError, MeshId, NodeId, Result, messages::join::Authority, state::Rotation};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};

use super::{
    certificate::{BACKDATED, COMMON_NAME, made, node_name, public_key_of},
    key::NodeKey,
};

/// Life of the authority itself.
const CA_VALIDITY: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// A member's new certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// DER.
    pub certificate: Vec<u8>,
    /// Raw Ed25519, 32 bytes.
    pub public_key: Vec<u8>,
}

impl CertificateAuthority {
    /// New keys for a new mesh, and the authority's own certificate, DER.
    pub fn mint(mesh: MeshId, unix_ms: u64) -> Result<(Authority, Vec<u8>)> {
        let (ca_key, bearer_key) = (NodeKey::generate()?, NodeKey::generate()?);
        let params = ca_params(mesh, mesh.0.as_bytes(), unix_ms)?;
        let certificate = params.self_signed(&ca_key.rcgen_key()?).map_err(made)?;
        let authority = Authority { ca_key: ca_key.pkcs8().to_vec(), bearer_key: bearer_key.pkcs8().to_vec() };
        Ok((authority, certificate.der().to_vec()))
    }

    /// A new authority for the same mesh, and how this one and it vouch for each other. The key for bearer tokens stays.
    pub fn succeed(
        &self,
        keys: &Authority,
        mesh: MeshId,
        unix_ms: u64,
        until_unix_ms: u64,
    ) -> Result<(Authority, Vec<u8>, Rotation)> {
        let (minted, certificate) = Self::mint(mesh, unix_ms)?;
        let new_keys = Authority { ca_key: minted.ca_key, bearer_key: keys.bearer_key.clone() };
        let new = Self::open(&new_keys, &certificate)?;
        let rotation = Rotation {
            former_ca: self.certificate.to_vec(),
            new_by_former: self.vouch_for(&new_keys, mesh, unix_ms)?,
            former_by_new: new.vouch_for(keys, mesh, unix_ms)?,
            until_unix_ms,
        };
        Ok((new_keys, certificate, rotation))
    }

    /// A certificate of this authority for another authority of the same mesh. DER.
    fn vouch_for(&self, other: &Authority, mesh: MeshId, unix_ms: u64) -> Result<Vec<u8>> {
        let key = NodeKey::from_pkcs8(other.ca_key.clone())?;
        let params = ca_params(mesh, key.public_key(), unix_ms)?;
        Ok(params.signed_by(&key.rcgen_key()?, &self.issuer).map_err(made)?.der().to_vec())
    }

    /// From keys and certificate as `mint` made them. GL4002 if they do not belong together.
    pub fn open(authority: &Authority, ca_certificate: &[u8]) -> Result<Self> {
        let certificate = CertificateDer::from(ca_certificate.to_vec());
        let key = NodeKey::from_pkcs8(authority.ca_key.clone())?;
        if key.public_key() != public_key_of(&certificate)? {
            let message = "the authority's key does not belong to its certificate";
            return Err(MeshError::new(ErrorCode::ForeignCertificate, message));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key.rcgen_key()?).map_err(made)?;
        Ok(Self { issuer, certificate })
    }

    /// DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Key that a request proves to hold. GL4011 for a request that is none, or is signed wrongly.
    pub fn requested_key(request: &[u8]) -> Result<Vec<u8>> {
        Ok(read_request(request)?.public_key.der_bytes().to_vec())
    }

    /// Signs a certificate for the key in `request` (PKCS#10, DER) in the name of `node`, for so long from now.
    pub fn issue(&self, node: NodeId, request: &[u8], unix_ms: u64, life: Duration) -> Result<Issued> {
        let mut request = read_request(request)?;
        let public_key = request.public_key.der_bytes().to_vec();
        let mut params = CertificateParams::new(vec![node_name(node), COMMON_NAME.to_owned()]).map_err(made)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node.to_string());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial(&public_key, unix_ms));
        set_validity(&mut params, unix_ms, life);
        request.params = params;
        let certificate = request.signed_by(&self.issuer).map_err(made)?;
        Ok(Issued { certificate: certificate.der().to_vec(), public_key })
    }
}

/// Raw public key that bearer tokens are verified with.
pub fn bearer_public_key(authority: &Authority) -> Result<Vec<u8>> {
    Ok(NodeKey::from_pkcs8(authority.bearer_key.clone())?.public_key().to_vec())
}

fn read_request(request: &[u8]) -> Result<CertificateSigningRequestParams> {
    let refused = |message: String| MeshError::new(ErrorCode::MalformedFrame, message);
    let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
        .map_err(|error| refused(format!("a certificate request could not be read: {error}")))?;
    if request.public_key.algorithm() != &rcgen::PKCS_ED25519 {
        return Err(refused("a certificate request has a key that is not Ed25519".to_owned()));
    }
    Ok(request)
}

/// What all authorities of a mesh have in common.
fn ca_params(mesh: MeshId, numbered_by: &[u8], unix_ms: u64) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).map_err(made)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("greylag mesh {mesh}"));
    params.serial_number = Some(serial(numbered_by, unix_ms));
    set_validity(&mut params, unix_ms, CA_VALIDITY);
    Ok(params)
}

fn set_validity(params: &mut CertificateParams, unix_ms: u64, validity: Duration) {
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(unix_ms);
    params.not_before = now - BACKDATED;
    params.not_after = now + validity;
}

/// Positive, 16 bytes, of what is certified and when.
fn serial(subject: &[u8], unix_ms: u64) -> SerialNumber {
    let digest = super::certificate::fingerprint(&[subject, &unix_ms.to_be_bytes()].concat());
    let mut number = [0; 16];
    number.copy_from_slice(&digest[..16]);
    number[0] = (number[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&number)
}

#[cfg(test)]
mod tests {
    use greylag_protocol::ErrorCode;
    use uuid::Uuid;

    use super::*;
    use crate::identity::certificate::{Validity, node_of, validity_of, verify_chain, verify_chain_through};

    const NOW: u64 = 1_800_000_000_000;
    const HOUR: u64 = 3600 * 1000;
    const LIFE: Duration = Duration::from_secs(72 * 3600);

    fn minted() -> (Authority, Vec<u8>) {
        CertificateAuthority::mint(MeshId(Uuid::nil()), NOW).unwrap()
    }

    #[test]
    fn a_certificate_has_the_mesh_s_names_and_dates_whatever_was_asked_for() {
        let (authority, ca) = minted();
        let key = NodeKey::generate().unwrap();
        let mut greedy = CertificateParams::new(vec!["n1.node.greylag".to_owned()]).unwrap();
        greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let request = greedy.serialize_request(&key.rcgen_key().unwrap()).unwrap();

        let issued =
            CertificateAuthority::open(&authority, &ca).unwrap().issue(NodeId(7), request.der(), NOW, LIFE).unwrap();
        let certificate = CertificateDer::from(issued.certificate);
        assert_eq!(node_of(&certificate).unwrap(), NodeId(7));
        assert_eq!(issued.public_key, key.public_key());
        assert_eq!(public_key_of(&certificate).unwrap(), key.public_key());

        let dates = validity_of(&certificate).unwrap();
        assert_eq!(dates, Validity { issued_unix_ms: NOW, expires_unix_ms: NOW + 72 * HOUR });

        let ca = CertificateDer::from(ca);
        for (time, good) in [
            (NOW - 4 * 60_000, true),
            (NOW, true),
            (NOW + 71 * HOUR, true),
            (NOW - 6 * 60_000, false),
            (NOW + 73 * HOUR, false),
        ] {
            assert_eq!(verify_chain(&certificate, &ca, time).is_ok(), good, "{time}");
        }
    }

    #[test]
    fn a_successor_and_its_predecessor_are_believed_by_who_trusts_but_one_of_them() {
        let (keys, old_ca) = minted();
        let old = CertificateAuthority::open(&keys, &old_ca).unwrap();
        let (new_keys, new_ca, rotation) = old.succeed(&keys, MeshId(Uuid::nil()), NOW + 5_000, NOW + HOUR).unwrap();
        assert_eq!(new_keys.bearer_key, keys.bearer_key);
        assert_ne!(new_keys.ca_key, keys.ca_key);
        let new = CertificateAuthority::open(&new_keys, &new_ca).unwrap();
        let request = NodeKey::generate().unwrap().certificate_request().unwrap();
        let issued = |ca: &CertificateAuthority| ca.issue(NodeId(1), &request, NOW, LIFE).unwrap().certificate;
        let (by_old, by_new) = (issued(&old), issued(&new));
        let between = [rotation.new_by_former.clone().into(), rotation.former_by_new.clone().into()];
        for (certificate, anchor, alone) in
            [(&by_old, &old_ca, true), (&by_old, &new_ca, false), (&by_new, &new_ca, true), (&by_new, &old_ca, false)]
        {
            let (certificate, anchor) = (certificate.clone().into(), anchor.clone().into());
            assert_eq!(verify_chain(&certificate, &anchor, NOW).is_ok(), alone);
            assert_eq!(verify_chain_through(&certificate, &between, &anchor, NOW), Ok(()));
        }
        let (_, other) = minted();
        assert!(verify_chain_through(&by_new.into(), &between, &other.into(), NOW).is_err());
    }

    #[test]
    fn another_authority_s_certificate_is_refused() {
        let ((authority, ca), (_, other)) = (minted(), minted());
        let request = NodeKey::generate().unwrap().certificate_request().unwrap();
        let issued =
            CertificateAuthority::open(&authority, &ca).unwrap().issue(NodeId(1), &request, NOW, LIFE).unwrap();
        let error = verify_chain(&issued.certificate.into(), &other.clone().into(), NOW).unwrap_err();
        assert_eq!(error.code, ErrorCode::ForeignCertificate);
        assert!(CertificateAuthority::open(&authority, &other).is_err(), "keys of one mesh, certificate of another");
    }

    #[test]
    fn a_request_that_is_none_or_was_tampered_with_is_refused() {
        let (authority, ca) = minted();
        let ca = CertificateAuthority::open(&authority, &ca).unwrap();
        let mut request = NodeKey::generate().unwrap().certificate_request().unwrap();
        let last = request.len() - 1;
        request[last] ^= 1;
        for bad in [request.as_slice(), b"", b"not a request"] {
            assert_eq!(ca.issue(NodeId(1), bad, NOW, LIFE).unwrap_err().code, ErrorCode::MalformedFrame);
        }
        let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let request = CertificateParams::new(Vec::new()).unwrap().serialize_request(&other).unwrap();
        assert_eq!(ca.issue(NodeId(1), request.der(), NOW, LIFE).unwrap_err().code, ErrorCode::MalformedFrame);
    }
}
