//! Who is let in at a node's doors, and over what: `[door]` and `[identity]` of the configuration. It says where things
//! are; nothing is opened here.

use std::{collections::BTreeMap, path::PathBuf};

use greylag_protocol::{ErrorCode, MeshError, Result, principal::attribute};
use serde::{Deserialize, Serialize};

/// Clocks of an issuer and a node may differ by this much, seconds.
const LEEWAY_SECS: u64 = 30;
const LEEWAY_SECS_MAX: u64 = 300;
/// Most issuers of one node.
const ISSUERS_MAX: usize = 64;

/// TLS of the doors. All files are PEM, and are read again when they change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Door {
    /// The doors' certificate with those between it and its authority. Without one, doors open on loopback only.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Authorities of clients' certificates; clients show none if absent.
    pub client_ca: Option<PathBuf>,
    /// Whether clients that show no certificate are turned away.
    pub require_client_certificate: bool,
    /// `host:port` under which clients reach the Flight SQL door; `flight` if absent.
    pub advertise: Option<String>,
}

/// Whose word about a caller is taken, besides the mesh's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Identity {
    pub issuers: Vec<IssuerConfig>,
    /// Where clients' certificates name principals.
    pub certificates: Option<CertificatesConfig>,
}

/// What certificates of clients say. They are of `door.client_ca`, and name a principal as
/// `spiffe://<trust_domain>/<organisation>/<person|agent|service>/<id>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificatesConfig {
    pub trust_domain: String,
    /// Roles by `<organisation>/<kind>/<id>`. A certificate itself gives none.
    #[serde(default)]
    pub roles: BTreeMap<String, Vec<String>>,
}

/// An issuer of tokens (JWT) that are taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// `iss` of its tokens, letter for letter.
    pub issuer: String,
    /// One of them must be in a token's `aud`.
    pub audience: Vec<String>,
    /// What it signs with. A token does not choose.
    pub algorithms: Vec<Algorithm>,
    /// Its key set: `https://` or `file:///`.
    pub jwks: String,
    /// Authorities of the key set's server, PEM; the public ones if absent.
    #[serde(default)]
    pub jwks_ca: Option<PathBuf>,
    #[serde(default = "leeway")]
    pub leeway_secs: u64,
    /// Whether OAuth's scopes in its tokens limit what they may be used for.
    #[serde(default)]
    pub scopes_limit: bool,
    /// The issuer's roles that count, and what they are called here. If absent all count but `admin`.
    #[serde(default)]
    pub role_map: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub claims: ClaimsConfig,
}

fn leeway() -> u64 {
    LEEWAY_SECS
}

/// Which claims of a token say what; a path with stops leads into objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClaimsConfig {
    pub subject: String,
    pub roles: String,
    pub groups: String,
    pub organisation: String,
    pub agent_id: String,
    pub framework: String,
    pub priority: String,
    pub kind: String,
    pub scope: String,
    /// Further claims that become attributes of the same name.
    pub attributes: Vec<String>,
}

impl Default for ClaimsConfig {
    fn default() -> Self {
        Self {
            subject: "sub".into(),
            roles: "roles".into(),
            groups: "groups".into(),
            organisation: attribute::ORGANISATION.into(),
            agent_id: attribute::AGENT_ID.into(),
            framework: attribute::FRAMEWORK.into(),
            priority: attribute::PRIORITY.into(),
            kind: "kind".into(),
            scope: "scope".into(),
            attributes: Vec::new(),
        }
    }
}

/// Signatures that are asymmetric. There are no others, so that none can be configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl Door {
    pub(crate) fn validate(&self) -> Result<()> {
        match (&self.certificate, &self.key) {
            (Some(_), None) => return wrong("`door.certificate` needs `door.key`"),
            (None, Some(_)) => return wrong("`door.key` needs `door.certificate`"),
            (None, None) if self.client_ca.is_some() => return wrong("`door.client_ca` needs `door.certificate`"),
            _ => {}
        }
        if self.require_client_certificate && self.client_ca.is_none() {
            return wrong("`door.require_client_certificate` needs `door.client_ca`");
        }
        match self.advertise.as_deref().map(|at| at.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()))) {
            None => Ok(()),
            Some(Some((host, Ok(1..)))) if !host.is_empty() && !host.contains('/') => Ok(()),
            Some(_) => wrong("`door.advertise` must be `host:port`"),
        }
    }

    /// Whether doors speak TLS.
    pub fn is_tls(&self) -> bool {
        self.certificate.is_some()
    }
}

impl Identity {
    /// What the fields say together. What goes into a principal is checked again where it is used.
    pub(crate) fn validate(&self, door: &Door) -> Result<()> {
        if let Some(certificates) = &self.certificates {
            if door.client_ca.is_none() {
                return wrong("`identity.certificates` needs `door.client_ca`: whose certificates are they?");
            }
            let domain = &certificates.trust_domain;
            if domain.is_empty() || domain.contains(['/', ':']) {
                return wrong("`identity.certificates.trust_domain` must be a name such as `mesh.example`");
            }
            let is_name = |name: &str| {
                let parts: Vec<&str> = name.split('/').collect();
                matches!(parts[..], [org, "person" | "agent" | "service", id] if !org.is_empty() && !id.is_empty())
            };
            if let Some(name) = certificates.roles.keys().find(|name| !is_name(name)) {
                return wrong(&format!(
                    "`identity.certificates.roles` has `{name}`, which is not `organisation/person|agent|service/id`"
                ));
            }
        }
        if self.issuers.len() > ISSUERS_MAX {
            return wrong(&format!("`identity.issuers` has more than {ISSUERS_MAX} entries"));
        }
        for (at, issuer) in self.issuers.iter().enumerate() {
            issuer.validate().map_err(|why| error(&format!("`identity.issuers` entry {}: {why}", at + 1)))?;
            if self.issuers.iter().take(at).any(|other| other.issuer == issuer.issuer) {
                return wrong(&format!("`identity.issuers` names `{}` twice", issuer.issuer));
            }
        }
        Ok(())
    }
}

impl IssuerConfig {
    fn validate(&self) -> Result<(), String> {
        if self.issuer.is_empty() {
            return Err("`issuer` is empty".into());
        }
        if self.audience.is_empty() || self.audience.iter().any(String::is_empty) {
            return Err("`audience` must name at least one".into());
        }
        if self.algorithms.is_empty() {
            return Err("`algorithms` must name at least one".into());
        }
        if !self.jwks.starts_with("https://") && !self.jwks.starts_with("file:///") {
            return Err(format!("`jwks` = `{}` is neither `https://..` nor `file:///..`", self.jwks));
        }
        if self.jwks_ca.is_some() && !self.jwks.starts_with("https://") {
            return Err("`jwks_ca` is for key sets over `https://`".into());
        }
        if self.leeway_secs > LEEWAY_SECS_MAX {
            return Err(format!("`leeway_secs` is over {LEEWAY_SECS_MAX}"));
        }
        match self.claims.attributes.iter().find(|name| attribute::is_reserved(name)) {
            Some(name) => Err(format!("`claims.attributes` has `{name}`, which only the mesh sets")),
            None => Ok(()),
        }
    }
}

fn error(message: &str) -> MeshError {
    MeshError::new(ErrorCode::InvalidConfig, message)
}

fn wrong<T>(message: &str) -> Result<T> {
    Err(error(message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::node::NodeConfig;

    /// The refusal of a configuration, empty if there is none.
    fn refusal(text: &str) -> String {
        match toml::from_str::<NodeConfig>(text) {
            Ok(config) => config.validate().err().map(|error| error.to_string()).unwrap_or_default(),
            Err(error) => error.to_string(),
        }
    }

    const TLS: &str = "flight = '0.0.0.0:50051'\n[door]\ncertificate = 'c'\nkey = 'k'\n";
    const ISSUER: &str = "issuer = 'https://i.example'\naudience = ['greylag']\nalgorithms = ['ES256', 'EdDSA']\n";

    #[test]
    fn a_door_off_loopback_needs_tls() {
        assert_eq!(refusal(TLS), "");
        assert!(refusal("flight = '0.0.0.0:50051'").contains("GL6001"));
        assert_eq!(refusal("flight = '127.0.0.1:50051'"), "");
    }

    #[test]
    fn clients_are_told_an_address_that_they_can_dial() {
        let told = |text: &str| toml::from_str::<NodeConfig>(text).unwrap().advertised_door();
        assert_eq!(told("flight = '10.0.0.1:5'").as_deref(), Some("10.0.0.1:5"));
        for nowhere in ["", "flight = '127.0.0.1:0'", "flight = '0.0.0.0:5'", "[door]\nadvertise = 'a.example:1'"] {
            assert_eq!(told(nowhere), None, "{nowhere}");
        }
        assert_eq!(told("flight = '0.0.0.0:5'\n[door]\nadvertise = 'a.example:1'").as_deref(), Some("a.example:1"));
    }

    #[test]
    fn parts_of_tls_that_do_not_make_a_whole_are_refused() {
        for (text, named) in [
            ("[door]\ncertificate = 'c'", "door.key"),
            ("[door]\nkey = 'k'", "door.certificate"),
            ("[door]\nclient_ca = 'a'", "door.certificate"),
            ("[door]\ncertificate = 'c'\nkey = 'k'\nrequire_client_certificate = true", "door.client_ca"),
            ("[door]\nadvertise = 'a.example'", "door.advertise"),
            ("[door]\nadvertise = ':1'", "door.advertise"),
            ("[door]\nadvertise = 'a:0'", "door.advertise"),
            ("[door]\ncertficate = 'c'", "certficate"),
            ("[identity.certificates]\ntrust_domain = 'mesh.example'", "door.client_ca"),
        ] {
            assert!(refusal(text).contains(named), "{text}: {}", refusal(text));
        }
        let trust = format!("{TLS}client_ca = 'a'\n[identity.certificates]\ntrust_domain = 'mesh.example'\n");
        assert_eq!(refusal(&trust), "");
        assert_eq!(refusal(&format!("{trust}roles = {{ 'clinic/service/e.tl' = ['loader'] }}")), "");
        assert!(refusal(&format!("{trust}roles = {{ 'clinic/god/etl' = ['loader'] }}")).contains("clinic/god/etl"));
    }

    #[test]
    fn an_issuer_says_all_that_pins_its_tokens() {
        let issuer = |more: &str| refusal(&format!("[[identity.issuers]]\n{ISSUER}{more}"));
        assert_eq!(issuer("jwks = 'https://i.example/keys'"), "");
        assert_eq!(issuer("jwks = 'file:///keys.json'\n[identity.issuers.claims]\nroles = 'realm.roles'"), "");
        for (more, named) in [
            ("", "jwks"),
            ("jwks = 'http://i.example/keys'", "jwks"),
            ("jwks = 'file://keys.json'", "jwks"),
            ("jwks = 'file:///keys.json'\njwks_ca = 'ca'", "jwks_ca"),
            ("jwks = 'file:///k'\nleeway_secs = 301", "leeway_secs"),
            ("jwks = 'file:///k'\naudiences = []", "audiences"),
            ("jwks = 'file:///k'\nclaims = { attributes = ['acts_for'] }", "acts_for"),
            ("jwks = 'file:///k'\n[[identity.issuers]]\n", "issuer"),
        ] {
            assert!(issuer(more).contains(named), "{more}: {}", issuer(more));
        }
        let twice = format!("[[identity.issuers]]\n{ISSUER}jwks = 'file:///k'\n").repeat(2);
        assert!(refusal(&twice).contains("twice"));
        for algorithm in ["none", "HS256", "eddsa"] {
            let text = ISSUER.replace("'ES256', 'EdDSA'", &format!("'{algorithm}'"));
            assert!(refusal(&format!("[[identity.issuers]]\n{text}jwks = 'file:///k'")).contains(algorithm));
        }
    }
}
