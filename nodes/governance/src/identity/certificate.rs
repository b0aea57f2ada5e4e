//! A client certificate to a principal. That it is signed by an authority the door trusts, and that the client has its
//! key, is TLS's to prove before anybody asks here.
//!
//! Who it is stands in a URI among the alternative names: `spiffe://<trust domain>/<organisation>/<kind>/<id>`, with
//! kind `person`, `agent` or `service` (SPIFFE-ID, section 2). The subject's common name means nothing: any authority
//! writes there what it is asked to.
//!
//! INVARIANT: a certificate with no such name, or with two, names nobody.

use std::collections::BTreeMap;

use greylag_protocol::{
    ErrorCode, MeshError, Result,
    principal::{Principal, PrincipalKind, attribute},
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::refused;

/// Longest name that is taken, bytes (SPIFFE-ID, section 2.3).
const NAME_BYTES_MAX: usize = 2048;

/// What certificates may say under one authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateTrust {
    pub trust_domain: String,
    /// Roles of principals, by `<organisation>/<kind>/<id>`. A certificate itself gives none.
    pub roles: BTreeMap<String, Vec<String>>,
}

/// The principal that a certificate names. GL2001, or GL2002 if it has expired.
pub fn principal_of(certificate: &[u8], trust: &CertificateTrust, now_unix_secs: u64) -> Result<Principal> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .ok()
        .filter(|(rest, _)| rest.is_empty())
        .ok_or_else(|| refused("the certificate cannot be read"))?;
    let now = i64::try_from(now_unix_secs).unwrap_or(i64::MAX);
    if certificate.validity().not_after.timestamp() < now {
        return Err(MeshError::new(ErrorCode::TokenExpired, "the certificate has expired"));
    }
    if certificate.validity().not_before.timestamp() > now {
        return Err(refused("the certificate is not valid yet"));
    }
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.ok_or_else(|| refused("the certificate has no alternative names"))?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(refused("the certificate must have one URI among its names"));
    };
    let path = in_domain(uri, &trust.trust_domain).ok_or_else(|| refused("the certificate is of another domain"))?;
    let mut principal = named(path).ok_or_else(|| refused("the certificate's name is no principal's"))?;
    principal.roles = trust.roles.get(path).cloned().unwrap_or_default();
    let credential = format!("certificate:{}", certificate.raw_serial_as_string().replace(':', ""));
    principal.attributes.insert(attribute::CREDENTIAL.into(), credential);
    Ok(principal)
}

fn in_domain<'a>(uri: &'a str, domain: &str) -> Option<&'a str> {
    let rest = uri.strip_prefix("spiffe://").filter(|_| uri.len() <= NAME_BYTES_MAX)?;
    rest.strip_prefix(domain)?.strip_prefix('/').filter(|_| !domain.is_empty())
}

fn named(path: &str) -> Option<Principal> {
    let mut parts = path.split('/');
    let (organisation, kind, id) = (parts.next()?, parts.next()?, parts.next()?);
    // SPIFFE's own letters: no escapes, so that one name has one spelling.
    let is_plain = |part: &str| {
        let letters = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        letters && !part.is_empty() && part != "." && part != ".."
    };
    if parts.next().is_some() || ![organisation, id].into_iter().all(is_plain) {
        return None;
    }
    let kind = match kind {
        "person" => PrincipalKind::Person,
        "agent" => PrincipalKind::Agent,
        "service" => PrincipalKind::Service,
        _ => return None,
    };
    let mut attributes = BTreeMap::from([(attribute::ORGANISATION.to_owned(), organisation.to_owned())]);
    if kind == PrincipalKind::Agent {
        attributes.insert(attribute::AGENT_ID.into(), id.into());
    }
    Some(Principal { id: id.into(), kind, roles: Vec::new(), attributes })
}

#[cfg(test)]
#[path = "certificate_test.rs"]
mod tests;
