//! What the policy role keeps between questions: the policies at one epoch, parsed; the catalogs it was asked about, with
//! everything known of them; and rulings already made. Pure: state, time and questions come in.
//!
//! INVARIANT: a policy that cannot be read denies everything that is asked, with its name: nobody knows what it forbids.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use greylag_governance::policy::{
    Catalog, Circumstances, Policy, PolicyEngine, Question, Ruling, RulingCache, Tagging, Touched,
};
use greylag_protocol::{
    Epoch, MeshError, Result,
    messages::control::{Action, AskedTable, DecideRequest, Discerned, Verdict},
    principal::Principal,
    state::Governance,
};

/// Catalogs kept, by what was asked about.
const ENGINES_MAX: usize = 128;

/// See the module. Rulings are shared with the tasks that make them.
#[derive(Default)]
pub struct Office {
    since: Option<Epoch>,
    parsed: BTreeMap<String, Result<Policy>>,
    policies: Option<Result<Arc<[Policy]>>>,
    tags: Vec<Tagging>,
    governance: Governance,
    engines: BTreeMap<[u8; 32], (u64, Arc<PolicyEngine>)>,
    asked: u64,
    rulings: Rulings,
}

pub type Rulings = Arc<Mutex<RulingCache>>;

pub fn locked(rulings: &Rulings) -> MutexGuard<'_, RulingCache> {
    rulings.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Office {
    pub fn rulings(&self) -> &Rulings {
        &self.rulings
    }

    /// Takes over what the log says now. Only policies whose text has changed are read again.
    pub fn update(&mut self, governance: &Governance) {
        if self.since == Some(governance.decided_since) {
            return;
        }
        let before = std::mem::take(&mut self.parsed);
        for (id, stored) in &governance.policies {
            let known = before.get(id).filter(|known| known.as_ref().is_ok_and(|policy| policy.text == stored.text));
            let policy = known.cloned().unwrap_or_else(|| Policy::parse(id, &stored.text));
            self.parsed.insert(id.clone(), policy);
        }
        self.policies = Some(self.parsed.values().cloned().collect());
        self.tags = governance.tags.iter().flat_map(|(tag, places)| Tagging::of(tag, &places.value)).collect();
        // What decisions do not depend on is left out of the copy.
        self.governance = Governance {
            attributes: governance.attributes.clone(),
            settings: governance.settings.clone(),
            ..Governance::default()
        };
        self.since = Some(governance.decided_since);
        self.engines.clear();
        locked(&self.rulings).clear();
    }

    /// Everything that is known about these tables.
    pub fn engine(&mut self, asked: &[AskedTable]) -> Result<Arc<PolicyEngine>> {
        let policies = match &self.policies {
            Some(policies) => policies.clone()?,
            None => return Err(MeshError::internal("the policies have not been read yet")),
        };
        let digest = Catalog::digest(asked)?;
        self.asked += 1;
        if let Some((used, engine)) = self.engines.get_mut(&digest) {
            *used = self.asked;
            return Ok(engine.clone());
        }
        if self.engines.len() >= ENGINES_MAX
            && let Some(oldest) = self.engines.iter().min_by_key(|(_, (used, _))| *used).map(|(digest, _)| *digest)
        {
            self.engines.remove(&oldest);
        }
        let catalog = Catalog::of_asked(asked, &self.tags);
        let (epoch, declared) = (self.since.unwrap_or_default(), self.governance.attributes.clone());
        let engine = Arc::new(PolicyEngine::over(epoch, policies, &catalog, digest, declared));
        self.engines.insert(digest, (self.asked, engine.clone()));
        Ok(engine)
    }

    pub fn circumstances(&self, origin: &str, now_unix_ms: u64) -> Circumstances {
        let settings = &self.governance.settings.value;
        Circumstances {
            origin: origin.to_owned(),
            environment: settings.environment.clone(),
            now_unix_ms: i64::try_from(now_unix_ms).unwrap_or(i64::MAX),
            utc_offset_minutes: settings.utc_offset_minutes,
        }
    }
}

/// A question about a statement, ready to be answered away from the actor.
pub struct Case {
    pub engine: Arc<PolicyEngine>,
    pub circumstances: Circumstances,
    pub rulings: Rulings,
}

impl Case {
    /// A ruling made before, if there is one.
    pub fn kept(&self, request: &DecideRequest) -> Option<Ruling> {
        let touched = touched(&request.asked);
        let key = self.engine.key(&self.question(&request.principal, request.action, &touched))?;
        locked(&self.rulings).get(key)
    }

    /// The ruling, which is kept from then on.
    pub fn decide(&self, request: &DecideRequest) -> Ruling {
        self.rule(&request.principal, request.action, &touched(&request.asked))
    }

    /// What the principal may know of each table.
    pub fn discern(&self, principal: &Principal, asked: &[AskedTable]) -> Vec<Discerned> {
        asked.iter().map(|table| self.discern_one(principal, table)).collect()
    }

    fn discern_one(&self, principal: &Principal, asked: &AskedTable) -> Discerned {
        let touched = touched(std::slice::from_ref(asked));
        let described = self.rule(principal, Action::Describe, &touched);
        if described.verdict != Verdict::Permit {
            return Discerned::default();
        }
        let hidden = described.obligations.iter().flat_map(|o| &o.hidden).map(|h| h.column.clone()).collect();
        let selected = self.rule(principal, Action::Select, &touched);
        let filtered = selected.obligations.iter().any(|o| o.filter.is_some());
        Discerned { described: true, hidden, whole: selected.verdict == Verdict::Permit && !filtered }
    }

    fn rule(&self, principal: &Principal, action: Action, touched: &[Touched]) -> Ruling {
        let question = self.question(principal, action, touched);
        let Some(key) = self.engine.key(&question) else { return self.engine.decide(&question) };
        if let Some(kept) = locked(&self.rulings).get(key) {
            return kept;
        }
        let ruling = self.engine.decide(&question);
        locked(&self.rulings).put(key, ruling.clone());
        ruling
    }

    fn question<'a>(&'a self, principal: &'a Principal, action: Action, touched: &'a [Touched]) -> Question<'a> {
        Question { principal, action, touched, circumstances: &self.circumstances }
    }
}

/// Which columns a statement reads is not known before it is planned: what may not be read is an obligation.
fn touched(asked: &[AskedTable]) -> Vec<Touched> {
    asked.iter().map(|asked| Touched { table: asked.table.clone(), columns: None }).collect()
}
