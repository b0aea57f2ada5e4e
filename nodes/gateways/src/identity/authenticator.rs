//! Tells who a caller is.
//!
//! A token or key in the call's header names the principal. So does a client certificate where the node is configured to
//! read principals in them. Where a call shows both, the header's is the principal, and the certificate must name the same
//! one (kind, id, and organisation as far as both say one): a stolen token is worth nothing to another certificate. Either
//! of them revoked, the call is refused.
//!
//! Where certificates name nobody by configuration, one that is required is a key to the door and no more.
//!
//! INVARIANT: attributes that are reserved come from the mesh's own signature, from configured issuers by their configured
//! names, from the log, or from here; which credential it was is never taken from the credential's own words.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use greylag_governance::identity::{
    Credential, IssuerKeys,
    certificate::{self, CertificateTrust},
    key::{self, KeyUses},
};
use greylag_protocol::{
    ErrorCode, MeshError, Result,
    principal::{Principal, Priority, attribute},
    state::ApiKey,
};

use super::{Presented, secret};
use crate::bearer::Verifier;

/// Most issuers whose tokens a node takes.
pub const ISSUERS_MAX: usize = 64;

/// What the mesh's state says about credentials. Asked at every call, so that a revocation holds at the next one.
pub trait KnownCredentials: Send + Sync + 'static {
    /// Lends the API keys that there are, by their ids.
    fn keys(&self, look: &mut dyn FnMut(&BTreeMap<String, ApiKey>));

    /// Whether the credential of this name has been revoked: `bearer:<id>`, `certificate:<serial>`. Keys need not be
    /// answered for: they say it themselves.
    fn is_revoked(&self, credential: &str) -> bool {
        let _ = credential;
        false
    }
}

/// No keys, and nothing revoked.
struct Nothing;

impl KnownCredentials for Nothing {
    fn keys(&self, look: &mut dyn FnMut(&BTreeMap<String, ApiKey>)) {
        look(&BTreeMap::new());
    }
}

/// The priority that a principal gets which asks for one in a header, where its credential says none.
pub type PriorityRule = Arc<dyn Fn(&Principal, Priority) -> Priority + Send + Sync>;

/// What an [`Authenticator`] is made of.
pub struct AuthenticatorParts {
    /// For tokens that the mesh has signed.
    pub bearer: Verifier,
    pub known: Arc<dyn KnownCredentials>,
    pub issuers: Vec<IssuerKeys>,
    /// Where certificates name principals.
    pub certificates: Option<CertificateTrust>,
    pub priority: PriorityRule,
    /// Milliseconds since the epoch.
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl AuthenticatorParts {
    /// Takes the mesh's own tokens and nothing else.
    pub fn new(bearer: Verifier) -> Self {
        Self {
            bearer,
            known: Arc::new(Nothing),
            issuers: Vec::new(),
            certificates: None,
            priority: Arc::new(|_, asked| asked),
            clock: Arc::new(crate::flight::now_unix_ms),
        }
    }
}

/// One for all doors of a node.
pub struct Authenticator {
    bearer: Verifier,
    known: Arc<dyn KnownCredentials>,
    issuers: BTreeMap<String, IssuerKeys>,
    certificates: Option<CertificateTrust>,
    priority: PriorityRule,
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    uses: Mutex<KeyUses>,
}

impl Authenticator {
    /// GL6001 for two issuers of one name, or more than there may be.
    pub fn new(parts: AuthenticatorParts) -> Result<Self> {
        let wrong = |message: String| Err(MeshError::new(ErrorCode::InvalidConfig, message));
        let mut issuers = BTreeMap::new();
        for keys in parts.issuers {
            let name = keys.issuer().issuer.clone();
            if issuers.insert(name.clone(), keys).is_some() {
                return wrong(format!("issuer `{name}` is named twice"));
            }
        }
        if issuers.len() > ISSUERS_MAX {
            return wrong(format!("there are more than {ISSUERS_MAX} issuers"));
        }
        Ok(Self {
            bearer: parts.bearer,
            known: parts.known,
            issuers,
            certificates: parts.certificates,
            priority: parts.priority,
            clock: parts.clock,
            uses: Mutex::default(),
        })
    }

    /// The caller's principal. GL2001 for what names nobody, GL2002 expired, GL2006 from where it may not come, GL2008
    /// while an issuer's keys cannot be had, GL4007 before there is a mesh.
    pub async fn authenticate(&self, presented: Presented<'_>) -> Result<Principal> {
        let now_unix_ms = (self.clock)();
        let certified = self.certified(presented.certificate, now_unix_ms)?;
        let shown = match presented.authorization {
            Some(header) => Some(self.named(&secret(header)?, presented.from, now_unix_ms).await?),
            None => None,
        };
        for principal in certified.iter().chain(&shown) {
            self.check_revoked(principal)?;
        }
        let principal = match (shown, certified) {
            (Some(shown), Some(certified)) if !agree(&shown, &certified) => {
                return Err(refused("the token or key and the certificate name different principals"));
            }
            (Some(principal), _) | (None, Some(principal)) => principal,
            (None, None) => return Err(refused("send `authorization: Bearer <token or key>` with each call")),
        };
        if let Some(key) = principal.attribute(attribute::CREDENTIAL).and_then(|c| c.strip_prefix("key:")) {
            self.uses().note(key, now_unix_ms);
        }
        Ok(principal)
    }

    fn certified(&self, certificate: Option<&[u8]>, now_unix_ms: u64) -> Result<Option<Principal>> {
        let (Some(certificate), Some(trust)) = (certificate, &self.certificates) else { return Ok(None) };
        certificate::principal_of(certificate, trust, now_unix_ms / 1000).map(Some)
    }

    /// Whom a token or key names.
    async fn named(&self, secret: &str, from: IpAddr, now_unix_ms: u64) -> Result<Principal> {
        let mut claimed = String::new();
        match Credential::of(secret, &mut claimed)? {
            Credential::ApiKey(presented) => {
                let mut checked = Err(MeshError::internal("the mesh's keys could not be read"));
                self.known.keys(&mut |keys| checked = key::check(keys, presented, from, now_unix_ms));
                checked
            }
            Credential::Token { issuer, token } => match self.issuers.get(issuer) {
                Some(issuer) => issuer.verify(token, now_unix_ms).await,
                None => self.bearer.verify(token),
            },
        }
    }

    fn check_revoked(&self, principal: &Principal) -> Result<()> {
        match principal.attribute(attribute::CREDENTIAL) {
            Some(credential) if !self.known.is_revoked(credential) => Ok(()),
            Some(_) => Err(refused("it has been revoked")),
            None => Err(MeshError::internal("a principal does not say by which credential it is named")),
        }
    }

    /// The priority that this principal gets when it asks for one.
    pub(crate) fn priority(&self, principal: &Principal, asked: Priority) -> Priority {
        (self.priority)(principal, asked)
    }

    fn uses(&self) -> std::sync::MutexGuard<'_, KeyUses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keys whose last use the log should learn of now, with the moment. To be asked now and then, and what it answers to
    /// be committed; what is lost on the way is said again at the key's next use, an hour later.
    pub fn due_key_uses(&self, now_unix_ms: u64) -> Vec<(String, u64)> {
        self.uses().due(now_unix_ms)
    }
}

/// Whether two credentials of one call name the same principal.
fn agree(shown: &Principal, certified: &Principal) -> bool {
    let one_organisation = match (shown.organisation(), certified.organisation()) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    };
    shown.id == certified.id && shown.kind == certified.kind && one_organisation
}

fn refused(why: &str) -> MeshError {
    MeshError::new(ErrorCode::Unauthenticated, format!("the call names nobody: {why}"))
}
