//! A node's Ed25519 key: it signs the node's certificate request, its TLS handshakes and its sub-queries, and it never
//! leaves the node.

use greylag_protocol::{ErrorCode, MeshError, Result};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// Bytes of a raw Ed25519 public key.
pub const PUBLIC_KEY_BYTES: usize = 32;

pub struct NodeKey {
    pair: Ed25519KeyPair,
    pkcs8: Vec<u8>,
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeKey(..)")
    }
}

impl NodeKey {
    pub fn generate() -> Result<Self> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| MeshError::internal("a node key could not be generated"))?;
        Self::from_pkcs8(document.as_ref().to_vec())
    }

    /// From PKCS#8, DER, as `pkcs8` gives it.
    pub fn from_pkcs8(pkcs8: Vec<u8>) -> Result<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8)
            .map_err(|error| MeshError::internal(format!("a key could not be read: {error}")))?;
        Ok(Self { pair, pkcs8 })
    }

    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// Raw, 32 bytes.
    pub fn public_key(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// Ed25519 signature, 64 bytes.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(bytes).as_ref().to_vec()
    }

    /// The key as TLS wants it.
    pub fn tls_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pkcs8.clone()).into()
    }

    /// PKCS#10 request, DER, whose signature proves that this node has the key. It asks for no name: the mesh gives one.
    pub fn certificate_request(&self) -> Result<Vec<u8>> {
        let key = self.rcgen_key()?;
        let params = rcgen::CertificateParams::new(Vec::new()).map_err(super::certificate::made)?;
        Ok(params.serialize_request(&key).map_err(super::certificate::made)?.der().to_vec())
    }

    /// Key of QUIC's stateless resets. It is the same after every restart, so that a peer that still talks to the
    /// process before the restart is told at once instead of waiting for a time-out.
    pub fn reset_key(&self) -> hmac::Key {
        let root = hmac::Key::new(hmac::HMAC_SHA256, &self.pkcs8);
        hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, b"greylag stateless reset").as_ref())
    }

    pub(crate) fn rcgen_key(&self) -> Result<rcgen::KeyPair> {
        rcgen::KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(self.pkcs8.as_slice()),
            &rcgen::PKCS_ED25519,
        )
        .map_err(super::certificate::made)
    }
}

/// Checks an Ed25519 signature against a raw public key. GL3005 if it does not fit.
pub fn verify(public_key: &[u8], bytes: &[u8], signature: &[u8]) -> Result<()> {
    UnparsedPublicKey::new(&ED25519, public_key)
        .verify(bytes, signature)
        .map_err(|_| MeshError::new(ErrorCode::BadSignature, "a signature does not fit its signer's key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_fits_its_bytes_and_key_alone() {
        let (one, two) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        let signature = one.sign(b"rows");
        assert_eq!(signature.len(), 64);
        assert_eq!(verify(one.public_key(), b"rows", &signature), Ok(()));
        for (key, bytes) in [(one.public_key(), b"Rows"), (two.public_key(), b"rows")] {
            assert_eq!(verify(key, bytes, &signature).unwrap_err().code, ErrorCode::BadSignature);
        }
        assert_eq!(verify(&[], b"rows", &[]).unwrap_err().code, ErrorCode::BadSignature);
    }

    #[test]
    fn a_key_read_back_is_the_same_key() {
        let key = NodeKey::generate().unwrap();
        let again = NodeKey::from_pkcs8(key.pkcs8().to_vec()).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        assert_eq!(hmac::sign(&again.reset_key(), b"x").as_ref(), hmac::sign(&key.reset_key(), b"x").as_ref());
        assert!(NodeKey::from_pkcs8(b"not a key".to_vec()).is_err());
    }
}
