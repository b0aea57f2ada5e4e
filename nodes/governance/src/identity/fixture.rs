//! Keys and tokens for the tests of this folder: real ones, made anew in each run.

#![allow(clippy::unwrap_used, clippy::panic)]

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::jwt::{SigningAlgorithm, TrustedIssuer};

pub const ISSUER: &str = "https://issuer.example";
pub const NOW_SECS: u64 = 1_700_000_000;

/// A key pair of an issuer.
pub struct Signer {
    pub kid: String,
    pub algorithm: Algorithm,
    key: EncodingKey,
    jwk: Value,
}

impl Signer {
    pub fn ed(kid: &str) -> Self {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let jwk =
            json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": URL_SAFE_NO_PAD.encode(pair.public_key_raw())});
        let key = EncodingKey::from_ed_der(&pair.serialize_der());
        Self { kid: kid.into(), algorithm: Algorithm::EdDSA, key, jwk }
    }

    pub fn ec(kid: &str, algorithm: Algorithm) -> Self {
        let (kind, curve) = match algorithm {
            Algorithm::ES256 => (&rcgen::PKCS_ECDSA_P256_SHA256, "P-256"),
            _ => (&rcgen::PKCS_ECDSA_P384_SHA384, "P-384"),
        };
        let pair = KeyPair::generate_for(kind).unwrap();
        let point = &pair.public_key_raw()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let jwk = json!({"kty": "EC", "crv": curve, "kid": kid, "x": x, "y": y, "use": "sig"});
        Self { kid: kid.into(), algorithm, key: EncodingKey::from_ec_der(&pair.serialize_der()), jwk }
    }

    /// Making RSA keys takes seconds without optimisation, so this one is fixed. It signs nothing but tests.
    pub fn rsa(kid: &str, algorithm: Algorithm) -> Self {
        let key = EncodingKey::from_rsa_der(&STANDARD.decode(RSA_DER.replace('\n', "")).unwrap());
        let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, algorithm).unwrap();
        let mut jwk = serde_json::to_value(&jwk).unwrap();
        jwk["kid"] = kid.into();
        jwk.as_object_mut().unwrap().remove("alg");
        Self { kid: kid.into(), algorithm, key, jwk }
    }

    pub fn jwk(&self) -> Value {
        self.jwk.clone()
    }

    pub fn token(&self, claims: &Value) -> String {
        self.token_with(Header { kid: Some(self.kid.clone()), ..Header::new(self.algorithm) }, claims)
    }

    pub fn token_with(&self, header: Header, claims: &Value) -> String {
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}

/// A key set as an issuer serves it.
pub fn set(signers: &[&Signer]) -> Vec<u8> {
    let keys: Vec<Value> = signers.iter().map(|s| s.jwk()).collect();
    serde_json::to_vec(&json!({ "keys": keys })).unwrap()
}

pub fn trusted(algorithms: &[SigningAlgorithm]) -> TrustedIssuer {
    TrustedIssuer::new(ISSUER, ["greylag".to_owned()], algorithms.iter().copied()).unwrap()
}

pub fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "greylag", "sub": "ada", "exp": NOW_SECS + 60, "roles": ["doctor"]})
}

/// Nothing in these tests waits for anything outside them, so a future that is polled often enough ends.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for _ in 0..1000 {
        if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
    panic!("the future waits for something that does not come");
}

const RSA_DER: &str =
    "MIIEogIBAAKCAQEAtKYN5U8sghiCiRGprqm1igfaN8wzP7JeAw+Z0yIt5tAK3fHLkqxr2wwrEpThoEmkrtHXPXUQge7R8kTDi1t7
3GAn+sud1NOo7o1AcIFfupOZLGl/5knyusS7tluA+MvgG/vBpOGu7gXsZfV5iLpoWu51XB1uhoAsnsGAbmXTklXmo0QsZPyyA2cb
KxhOWN215XEWrNdrjbCWQ8EEL7qxT4hcvdTlOyOvbpnQTYd065KwYf6AgungzqpDV6DfDYhDsflRaqSPDqTFTuJcstLvlQIvwwXN
/4F64LSSV2ROF9rKy34g0wOYjUWnS4qck0NH+TPLZenjANvCeu4qQOVJKwIDAQABAoIBAA/MEZ0C3m6F/CxGWiNG/fQTGbcVaUnh
rCzyWU5IR+FOQhUEhvvNjiT6nG2kjVJ5/ie3e+4I5aenHb7k2oC+QEeWNQjOc3/f/n7V5VOxTJDBRXzHwQJ/ZvWELLIWsGGRWoi3
7Egh4C06YWDNJZKaUnPZNHQYssiaPsynOTbuOqEqMbjKWUX0vZ+fxfV4KzFRNT7vTtVFNc2ZxjbC/UmcxpYAPCG2cU2pacdwt+kc
fHt9iv/h9o+LaK+dginmpaFo9i/kjryN9QnKIL+/BFs/gHLsGdGqJjCPaVGwuIioIHXQmguPj4A2s4eNmqfMEPPy/c4BbBbySCD9
uLTIdV08I1ECgYEA/snVodN5WchUk9ChYBDU+G64S5eF+52qrRnDE8furr0jVDcJOS5Tc7bNA7ukJa7lgK3DU9mtJOsjCnZWoJ2M
pF01h6lZ6QHRkucSdHuNkHx8EuMOV/i7EbMhgOQ+D8MS4vaIIDsO4UXC47iyUyQDYGfYauD0kMfWh0hnGU+lHjkCgYEAtYH3UOL9
RBz9/9xEmoExaKFbOK0O1Pzzj1rOdBBU3jiSlxGaLX9E2GFA1ZnG1CEdSNV3gMAy2godJHKnCwU9y7G7rMJ3eF1bPFPmanW5nViO
HsLu2KtazsvWD+oHmFeufre4WxqPX2dDxVeroPDtXdoz1yUJX9WuuGIMZch9YoMCgYA6pWCcEB41kUwOfg43G4i56lpXY/g+E2uO
zog9jF6fL//qyYRA+i3RS7li65T764b+GIEGUutsvQbiyJxl+f2+c4n3wP5mCLohkziHQU0zfcPdYRATJbiBeXbzwRWb8S3uugpZ
SN7C8ZjLa974DikMzrpc14zTqnvxxbOdetyp2QKBgDuYVqm6Pcn1cvhlTCkmriBaimcLe0k3XIj/GbZF/neQP6FWaDb0CJi7Jdx8
RyozTTgyzq/5azjoBTWIZ4xYxjdxPdu1ZiChFmmyan8d9DnTb6Zt/popeQFZMAm9n4zHjUWR8PgIunZqo3fSF0oakPU1xbuoL3HF
6T4lA0kQEQsdAoGAaloF3VYMuU2ZQgziG3ABsH8fLrNWGT98y/2FZmw4PPc11c4yO9BMoZxL+cCj+yBlHFB2mIvni5Au6JWPPxK2
7MrrQoSGz8wPSElAEDTojQhH1sotbqdSOOTbrpq8Pt9TUXIwMop/XBdOvT4jcr93GXlERN7WUfPepMPvyPiKkvM=";
