//! Keys as the log keeps them, the networks from which they may be used, and the heads of the nodes' audit chains.
//! How a presented key is checked is in `governance::identity`; how chains are verified in `governance::audit`.
//!
//! INVARIANT: no secret is in here, only the SHA-256 of one.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{ErrorCode, MeshError},
    ids::NodeId,
    principal::Principal,
};

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Run statements that return rows.
    Query,
    /// See catalogs, schemas and plans.
    Describe,
    /// Change resources, keys and membership, as far as the principal's roles go.
    Manage,
    /// Read metrics and health in detail.
    Metrics,
}

impl Scope {
    pub const ALL: [Scope; 4] = [Scope::Query, Scope::Describe, Scope::Manage, Scope::Metrics];

    pub const fn as_str(self) -> &'static str {
        match self {
            Scope::Query => "query",
            Scope::Describe => "describe",
            Scope::Manage => "manage",
            Scope::Metrics => "metrics",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = MeshError;
    fn from_str(word: &str) -> Result<Self, MeshError> {
        Self::ALL.into_iter().find(|s| s.as_str() == word).ok_or_else(|| {
            MeshError::new(
                ErrorCode::InvalidResource,
                format!("`{word}` is not a scope: query, describe, manage or metrics"),
            )
        })
    }
}

/// An API key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// The middle of `glk_<id>_<secret>`.
    pub id: String,
    /// SHA-256 of the secret.
    pub secret_hash: [u8; 32],
    /// Whom it stands for.
    pub principal: Principal,
    pub scopes: BTreeSet<Scope>,
    /// Empty: from anywhere.
    pub networks: Vec<Network>,
    pub created_unix_ms: u64,
    /// `None`: until it is revoked.
    pub expires_unix_ms: Option<u64>,
    pub revoked_unix_ms: Option<u64>,
    /// Known to the hour or so: nodes report it seldom.
    pub last_used_unix_ms: Option<u64>,
}

/// A range of addresses, `10.0.0.0/8` or `2001:db8::/32`. An address alone is a range of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    /// First address of the range, as IPv6; IPv4 as `::ffff:a.b.c.d`.
    first: u128,
    /// Bits that must be equal, of 128.
    prefix: u8,
    v4: bool,
}

/// Bits before an IPv4 address that is written as IPv6.
const MAPPED_BITS: u8 = 96;

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        let (bits, v4) = as_bits(address);
        v4 == self.v4 && masked(bits, self.prefix) == self.first
    }
}

/// A client on a dual-stack socket shows an IPv4 address as a mapped one: both are the same.
fn as_bits(address: IpAddr) -> (u128, bool) {
    match address.to_canonical() {
        IpAddr::V4(v4) => (v4.to_ipv6_mapped().to_bits(), true),
        IpAddr::V6(v6) => (v6.to_bits(), false),
    }
}

fn masked(bits: u128, prefix: u8) -> u128 {
    match prefix {
        0 => 0,
        n => bits & (u128::MAX << (128 - u32::from(n))),
    }
}

impl FromStr for Network {
    type Err = MeshError;
    fn from_str(text: &str) -> Result<Self, MeshError> {
        let wrong = |why: &str| MeshError::new(ErrorCode::InvalidResource, format!("network `{text}` {why}"));
        let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address.parse().map_err(|_| wrong("has no valid address"))?;
        let whole: u8 = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => whole,
            // `parse` would take `+8` and `08`.
            Some(l) if l.bytes().all(|b| b.is_ascii_digit()) && (l == "0" || !l.starts_with('0')) => {
                l.parse().ok().filter(|n| *n <= whole).ok_or_else(|| wrong("has no valid prefix length"))?
            }
            Some(_) => return Err(wrong("has no valid prefix length")),
        };
        let (bits, v4) = as_bits(address);
        let prefix = match (address.is_ipv4(), v4) {
            (true, _) => length + MAPPED_BITS,
            (false, true) if length < MAPPED_BITS => return Err(wrong("mixes IPv4 and IPv6")),
            (false, _) => length,
        };
        if masked(bits, prefix) != bits {
            return Err(wrong("has bits set after its prefix"));
        }
        Ok(Self { first: bits, prefix, v4 })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from_bits(self.first);
        match address.to_ipv4_mapped().filter(|_| self.v4) {
            Some(v4) => write!(f, "{v4}/{}", self.prefix - MAPPED_BITS),
            None => write!(f, "{address}/{}", self.prefix),
        }
    }
}

impl TryFrom<String> for Network {
    type Error = MeshError;
    fn try_from(text: String) -> Result<Self, MeshError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> String {
        network.to_string()
    }
}

/// The last record of a node's audit chain at some moment. Once committed, no earlier record can be changed or cut
/// without being found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AuditHead {
    pub node: NodeId,
    /// From 1.
    pub sequence: u64,
    /// SHA-256.
    pub hash: [u8; 32],
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_what_its_prefix_says() {
        let cases = [
            ("10.0.0.0/8", "10.255.1.2", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("192.168.1.7", "192.168.1.7", true),
            ("192.168.1.7", "192.168.1.6", false),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "10.0.0.1", false),
            ("::/0", "fe80::1", true),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("::ffff:10.0.0.0/104", "10.9.9.9", true),
        ];
        for (network, address, inside) in cases {
            let parsed: Network = network.parse().unwrap();
            assert_eq!(parsed.contains(address.parse().unwrap()), inside, "{address} in {network}");
            assert_eq!(parsed.to_string().parse::<Network>().unwrap(), parsed, "{network}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "ten/8",
            "::ffff:0:0/95",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
