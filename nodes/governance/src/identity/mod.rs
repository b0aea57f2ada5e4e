//! Who stands behind a statement: bearer tokens, API keys and client certificates, all to one [`Principal`].
//!
//! [`TokenCheck`] checks a JWT against an issuer's keys, [`KeyCache`] says which keys those are and when to fetch them,
//! [`IssuerKeys`] fetches them, [`key::check`] checks an API key, [`certificate::principal_of`] reads a certificate.
//! [`Credential::of`] tells them apart. The mesh's own bearer tokens are the gateways': one issuer, one key, no fetch.
//!
//! It opens no connection and knows no door: time, bytes and addresses come in as arguments, and keys are fetched by
//! whoever implements [`KeySource`].
//!
//! INVARIANT: a credential that is not wholly valid names nobody. An algorithm is never taken from the token.
//!
//! [`Principal`]: greylag_protocol::principal::Principal

pub mod certificate;
mod claims;
mod issuer_keys;
mod jwks;
mod jwt;
pub mod key;
mod source;

pub use claims::ClaimNames;
pub use issuer_keys::IssuerKeys;
pub use jwks::{FetchTicket, KeyCache, KeyCacheLimits, KeySet, Lookup, SET_BYTES_MAX};
pub use jwt::{SigningAlgorithm, TokenCheck, TrustedIssuer};
pub use source::{FileKeys, FixedKeys, KeySource};

use greylag_protocol::{ErrorCode, MeshError};

/// Longest token or key that is looked at, bytes.
pub const CREDENTIAL_BYTES_MAX: usize = 16 << 10;

/// What a caller has put after `Bearer`, or as its password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential<'a> {
    /// `glk_<id>_<secret>`
    ApiKey(&'a str),
    /// A JWT, by the issuer it claims. The claim only says by whose keys it is to be checked.
    Token { issuer: &'a str, token: &'a str },
}

impl<'a> Credential<'a> {
    /// Tells what it is. `issuer` is where the token's issuer is written to. GL2001 if it is neither.
    pub fn of(text: &'a str, issuer: &'a mut String) -> Result<Self, MeshError> {
        if text.len() > CREDENTIAL_BYTES_MAX {
            return Err(refused("it is too long"));
        }
        if text.starts_with(key::PREFIX) {
            return Ok(Credential::ApiKey(text));
        }
        *issuer = jwt::claimed_issuer(text)?;
        Ok(Credential::Token { issuer, token: text })
    }
}

fn refused(why: impl std::fmt::Display) -> MeshError {
    MeshError::new(ErrorCode::Unauthenticated, format!("the credential is refused: {why}"))
}

#[cfg(test)]
mod fixture;
