//! Who a node's doors let in, from its configuration and the mesh's state: the authenticator that all its doors share,
//! and their TLS.
//!
//! It checks no credential itself; it says where keys, issuers and certificates are.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use greylag_cluster::Mesh;
use greylag_config::identity::{Door, Identity, IssuerConfig};
use greylag_gateways::{
    bearer::Verifier,
    identity::{Authenticator, AuthenticatorParts, HttpsKeys, KnownCredentials},
    tls::{ServerTls, TlsFiles},
};
use greylag_governance::identity::{
    ClaimNames, FileKeys, IssuerKeys, KeyCacheLimits, KeySource, TrustedIssuer, certificate::CertificateTrust,
};
use greylag_protocol::{
    ErrorCode, MeshError, Result,
    state::{ApiKey, Command, GovernCommand},
};

/// How often the log is told of keys that were used, at most once an hour each.
const USES_PAUSE: Duration = Duration::from_secs(60);

/// API keys as the replicated state has them.
struct StateKeys(Mesh);

impl KnownCredentials for StateKeys {
    fn keys(&self, look: &mut dyn FnMut(&BTreeMap<String, ApiKey>)) {
        look(&self.0.state().governance.keys);
    }
}

/// What the configuration says, read and checked before there is a mesh to ask. GL6001 for what cannot be used.
pub struct DoorIdentity {
    issuers: Vec<IssuerKeys>,
    certificates: Option<CertificateTrust>,
    pub tls: Option<Arc<ServerTls>>,
}

impl DoorIdentity {
    pub fn open(door: &Door, identity: &Identity) -> Result<Self> {
        let issuers = identity.issuers.iter().map(issuer).collect::<Result<_>>()?;
        let certificates = identity.certificates.clone();
        let certificates = certificates.map(|c| CertificateTrust { trust_domain: c.trust_domain, roles: c.roles });
        let tls = match (&door.certificate, &door.key) {
            (Some(certificate), Some(key)) => Some(Arc::new(ServerTls::load(TlsFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca: door.client_ca.clone(),
                client_required: door.require_client_certificate,
            })?)),
            _ => None,
        };
        Ok(Self { issuers, certificates, tls })
    }

    /// The authenticator of a node that has its place in the mesh.
    pub fn authenticator(self, mesh: &Mesh) -> Result<Arc<Authenticator>> {
        let (facts, clock) = (mesh.clone(), mesh.seams().clock.clone());
        let bearer = Verifier::new(move || {
            let state = facts.state();
            state.mesh.as_ref().map(|m| (m.id, m.bearer_public_key.clone()))
        });
        let parts = AuthenticatorParts {
            known: Arc::new(StateKeys(mesh.clone())),
            issuers: self.issuers,
            certificates: self.certificates,
            clock: Arc::new(move || clock.unix_ms()),
            ..AuthenticatorParts::new(bearer)
        };
        Authenticator::new(parts).map(Arc::new)
    }
}

fn issuer(config: &IssuerConfig) -> Result<IssuerKeys> {
    let algorithms = config.algorithms.iter().map(|algorithm| {
        // The two enums have the same names, so that what one reads the other does.
        let name = serde_json::to_value(algorithm).and_then(serde_json::from_value);
        name.map_err(|_| wrong(format!("issuer `{}`: an algorithm is not known", config.issuer)))
    });
    let algorithms = algorithms.collect::<Result<Vec<_>>>()?;
    let mut trusted = TrustedIssuer::new(&config.issuer, config.audience.iter().cloned(), algorithms)?;
    trusted.leeway_secs = config.leeway_secs;
    let names = config.claims.clone();
    trusted.claims = ClaimNames {
        subject: names.subject,
        roles: names.roles,
        groups: names.groups,
        organisation: names.organisation,
        agent_id: names.agent_id,
        framework: names.framework,
        priority: names.priority,
        kind: names.kind,
        scope: names.scope,
        scopes_limit: config.scopes_limit,
        attributes: names.attributes.into_iter().collect(),
        role_map: config.role_map.clone(),
    };
    trusted.validate()?;
    let source: Arc<dyn KeySource> = match FileKeys::from_url(&config.jwks) {
        Some(file) => Arc::new(file),
        None => Arc::new(HttpsKeys::new(&config.jwks, config.jwks_ca.as_deref())?),
    };
    Ok(IssuerKeys::new(trusted, source, KeyCacheLimits::default()))
}

fn wrong(message: String) -> MeshError {
    MeshError::new(ErrorCode::InvalidConfig, message)
}

/// Tells the log when keys were used last, until the node stops. What cannot be told is said again at the next use.
pub async fn report_key_uses(mesh: Mesh, authenticator: Arc<Authenticator>) {
    loop {
        tokio::time::sleep(USES_PAUSE).await;
        let uses = authenticator.due_key_uses(mesh.seams().clock.unix_ms());
        if uses.is_empty() {
            continue;
        }
        if let Err(error) = mesh.propose(Command::Govern(GovernCommand::KeysUsed { uses })).await {
            tracing::info!(%error, "the log could not be told of the last use of keys");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use greylag_config::NodeConfig;

    use super::*;

    /// Every algorithm that can be configured is one that is known, and the fields arrive where they belong.
    #[test]
    fn what_is_configured_is_what_is_trusted() {
        let text = "[[identity.issuers]]\nissuer = 'https://i.example'\naudience = ['greylag']\njwks = 'file:///k'\n\
                    algorithms = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'EdDSA']\n\
                    leeway_secs = 7\nscopes_limit = true\nrole_map = { dba = 'admin' }\n\
                    claims = { roles = 'realm.roles', attributes = ['ward'] }\n";
        let config: NodeConfig = toml::from_str(text).unwrap();
        let keys = issuer(&config.identity.issuers[0]).unwrap();
        let trusted = keys.issuer();
        assert_eq!((trusted.algorithms.len(), trusted.leeway_secs), (9, 7));
        assert_eq!((trusted.claims.roles.as_str(), trusted.claims.subject.as_str()), ("realm.roles", "sub"));
        assert!(trusted.claims.scopes_limit && trusted.claims.attributes.contains("ward"));
        assert_eq!(trusted.claims.role_map.as_ref().unwrap()["dba"], "admin");
    }
}
