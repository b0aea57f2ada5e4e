//! A fresh node's search for its place: it asks its seeds, and whoever they name, again and again, until it is enrolled
//! or is to found a mesh itself. Dropping the future ends the search.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use greylag_protocol::{
    ErrorCode, MeshError, MeshId, Result,
    messages::join::{Candidate, Enrolment, JoinBody, JoinReplyBody, JoinToken},
};
use rustls::pki_types::CertificateDer;
use tokio::{sync::watch, time::Instant};

use super::{
    Hints, JoinDesk,
    ask::{Asker, Reply},
    core::{self, Answer, Step, Verdict},
    roster::Roster,
};
use crate::{
    identity::{
        CertificateAuthority, NodeKey,
        certificate::{fingerprint, node_of, public_key_of, verify_chain, verify_chain_through},
        store::{IdentityStore, Membership},
    },
    seams::Clock,
    transport::{Endpoint, Jitter},
};

/// Pause between two questions to one seed while nothing changes.
const ASK_PAUSE: Duration = Duration::from_millis(250);
/// The same when something has changed: long enough to hear of several changes at once.
const NEWS_PAUSE: Duration = Duration::from_millis(15);
/// Between two lines of progress; also how long an answer of the name service is believed.
const PROGRESS: Duration = Duration::from_secs(3);
/// Who looks around among its neighbours does so at least this long before it founds a mesh: a query by multicast, which
/// may be lost, is repeated after one second and again after two more.
const LOOK_AROUND: Duration = Duration::from_secs(4);
/// Addresses heard of from neighbours that one search asks.
const HINTED_MAX: usize = 256;
/// Most nodes asked for one enrolment.
const ENROL_TRIES_MAX: usize = 32;

pub(crate) struct Seeker {
    pub seeds: Vec<String>,
    pub hints: Option<Hints>,
    pub me: Candidate,
    pub token: JoinToken,
    pub endpoint: Endpoint,
    pub key: Arc<NodeKey>,
    pub store: IdentityStore,
    pub clock: Arc<dyn Clock>,
    pub desk: Arc<JoinDesk>,
    pub seed: u64,
}

/// What a search has come to.
pub(crate) enum Sought {
    /// It is stored already.
    Enrolled(Membership),
    /// This node is to found a mesh with these, in order of id.
    Founder(Vec<Candidate>),
}

struct Search {
    seeker: Seeker,
    asker: Arc<Asker>,
    roster: Arc<Roster>,
    /// Addresses behind names, until the next line of progress.
    resolved: BTreeMap<String, Vec<SocketAddr>>,
    /// Everybody asked, with the last answer.
    answers: BTreeMap<SocketAddr, Option<Answer>>,
    /// Those of whom only neighbours have told. Anybody can be a neighbour.
    hinted: BTreeSet<SocketAddr>,
    since: Instant,
    jitter: Jitter,
}

type Question = BoxFuture<'static, (SocketAddr, Result<Reply>)>;

impl Seeker {
    pub(crate) async fn seek(self) -> Result<Sought> {
        let roster = Arc::new(Roster::new(self.me.clone()));
        self.desk.look_for_others(Arc::new(self.token.clone()), roster.clone());
        self.endpoint.serve_fresh()?;
        let asker = Arc::new(Asker::new(self.endpoint.clone(), self.token.clone())?);
        let jitter = Jitter::new(self.seed);
        let (resolved, answers, hinted) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let since = Instant::now();
        Search { seeker: self, asker, roster, resolved, answers, hinted, since, jitter }.run().await
    }
}

impl Search {
    async fn run(mut self) -> Result<Sought> {
        let mut questions: FuturesUnordered<Question> = FuturesUnordered::new();
        let mut news = self.roster.watch();
        let mut hints = self.seeker.hints.as_ref().map(Hints::watch);
        let mut progress = tokio::time::interval_at(Instant::now() + PROGRESS, PROGRESS);
        loop {
            for target in self.new_targets().await {
                questions.push(self.question(target, None));
            }
            if let Some(sought) = self.consider().await? {
                return Ok(sought);
            }
            tokio::select! {
                Some((target, reply)) = questions.next() => {
                    self.hear(target, reply);
                    let pause = self.jitter.spread(ASK_PAUSE);
                    questions.push(self.question(target, Some(pause)));
                }
                changed = news.changed() => {
                    changed.map_err(|_| MeshError::internal("the roster is gone"))?;
                }
                () = heard_of(&mut hints) => {}
                _ = progress.tick() => {
                    self.report();
                    self.resolved.clear();
                }
            }
        }
    }

    /// Addresses of seeds and candidates that have not been asked so far.
    async fn new_targets(&mut self) -> Vec<SocketAddr> {
        let candidates = self.roster.known().into_values().filter(|c| !c.outbound_only).map(|c| c.address);
        let names: Vec<String> = self.seeker.seeds.iter().cloned().chain(candidates).collect();
        let mut new = Vec::new();
        for name in names {
            if !self.resolved.contains_key(&name) {
                // What cannot be resolved now is tried again after the next line of progress.
                let found = self.seeker.endpoint.resolve(&name).await.unwrap_or_else(|error| {
                    tracing::warn!(address = %name, %error, "an address cannot be resolved");
                    Vec::new()
                });
                self.resolved.insert(name.clone(), found);
            }
            for target in self.resolved.get(&name).into_iter().flatten() {
                self.hinted.remove(target);
                if let std::collections::btree_map::Entry::Vacant(entry) = self.answers.entry(*target) {
                    entry.insert(None);
                    new.push(*target);
                }
            }
        }
        for target in self.seeker.hints.as_ref().map(Hints::addresses).unwrap_or_default() {
            if self.hinted.len() < HINTED_MAX && !self.answers.contains_key(&target) {
                self.answers.insert(target, None);
                self.hinted.insert(target);
                new.push(target);
            }
        }
        new
    }

    fn question(&self, target: SocketAddr, pause: Option<Duration>) -> Question {
        let (asker, roster) = (self.asker.clone(), self.roster.clone());
        let mut news = roster.watch();
        Box::pin(async move {
            if let Some(pause) = pause {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    Ok(()) = news.changed() => tokio::time::sleep(NEWS_PAUSE).await,
                }
            }
            (target, asker.ask(target, JoinBody::Hello(roster.me())).await)
        })
    }

    fn hear(&mut self, target: SocketAddr, reply: Result<Reply>) {
        let answer = match reply {
            Ok(Reply { body: JoinReplyBody::Fresh { me, others }, .. }) => {
                let uuid = me.uuid;
                let alike = |candidate: &Candidate| core::check_alike(&self.seeker.me, candidate).is_ok();
                others.into_iter().filter(alike).for_each(|candidate| self.roster.hear_of(candidate));
                Some(me).filter(alike).into_iter().for_each(|candidate| self.roster.hear(candidate));
                Answer::Fresh(uuid)
            }
            Ok(Reply { body: JoinReplyBody::Formed { mesh, members }, .. }) => Answer::Formed { mesh, members },
            Ok(Reply { body: JoinReplyBody::Refused(error), proven }) => Answer::Refused { error, proven },
            Ok(_) => Answer::Silent(MeshError::new(ErrorCode::MalformedFrame, "a greeting got another answer")),
            // These say that somebody is there, with whom this token leads nowhere.
            Err(error) if core::is_final(&error) => Answer::Refused { error, proven: false },
            Err(error) => Answer::Silent(error),
        };
        // A neighbour that does not know the token refuses nothing: it has nothing to say.
        let answer = match answer {
            Answer::Refused { error, proven: false } if self.hinted.contains(&target) => Answer::Silent(error),
            answer => answer,
        };
        self.answers.insert(target, Some(answer));
    }

    async fn consider(&mut self) -> Result<Option<Sought>> {
        let me = self.roster.me();
        let counts =
            |(target, answer): &(&SocketAddr, &Option<Answer>)| answer.is_some() || !self.hinted.contains(target);
        let answers = self.answers.iter().filter(counts).map(|(_, answer)| answer.as_ref());
        match core::judge(me.uuid, answers) {
            Verdict::Fail(error) => Err(error),
            Verdict::Join { mesh } => {
                let enrolled = self.enrol(mesh).await?;
                if enrolled.is_none() {
                    // Nobody could sign just now: hear them all again.
                    self.answers.values_mut().for_each(|answer| *answer = None);
                }
                Ok(enrolled.map(Sought::Enrolled))
            }
            Verdict::None => match core::decide(&me, &self.roster.known(), self.is_alone(&me)) {
                Step::Found(_) if self.looks_around() => Ok(None),
                Step::Found(members) => Ok(Some(Sought::Founder(members))),
                Step::Follow(_) | Step::WaitForPeers { .. } | Step::WaitForAgreement => Ok(None),
            },
        }
    }

    /// Whether neighbours that are there may not have been heard of yet.
    fn looks_around(&self) -> bool {
        self.seeker.hints.is_some() && self.since.elapsed() < LOOK_AROUND
    }

    /// Whether there are seeds and every one is this node itself.
    fn is_alone(&self, me: &Candidate) -> bool {
        if self.seeker.seeds.is_empty() {
            return false;
        }
        let mut seeds = self.seeker.seeds.iter().map(|seed| self.resolved.get(seed).filter(|found| !found.is_empty()));
        let is_me = |target: &SocketAddr| self.answers.get(target) == Some(&Some(Answer::Fresh(me.uuid)));
        seeds.all(|found| found.is_some_and(|targets| targets.iter().all(is_me)))
    }

    /// Asks members of the mesh for a certificate, one after the other. `None` if nobody can give one now.
    async fn enrol(&mut self, mesh: MeshId) -> Result<Option<Membership>> {
        let mut queue: VecDeque<SocketAddr> = VecDeque::new();
        let mut named: Vec<String> = Vec::new();
        for (target, answer) in &self.answers {
            if let Some(Answer::Formed { members, .. }) = answer {
                queue.push_back(*target);
                named.extend(members.iter().cloned());
            }
        }
        let csr = self.seeker.key.certificate_request()?;
        let mut asked = BTreeSet::new();
        while asked.len() < ENROL_TRIES_MAX {
            let Some(target) = queue.pop_front() else {
                if named.is_empty() {
                    break;
                }
                for name in named.drain(..).take(ENROL_TRIES_MAX) {
                    queue.extend(self.seeker.endpoint.resolve(&name).await.unwrap_or_default());
                }
                continue;
            };
            if !asked.insert(target) {
                continue;
            }
            let body = JoinBody::Enrol { candidate: self.roster.me(), csr: csr.clone() };
            match self.asker.ask(target, body).await {
                Ok(Reply { body: JoinReplyBody::Enrolled(enrolment), .. }) => {
                    self.check(mesh, &enrolment)?;
                    return self.seeker.store.enrol(*enrolment).await.map(Some);
                }
                Ok(Reply { body: JoinReplyBody::AskOthers(others), .. }) => named.extend(others),
                Ok(Reply { body: JoinReplyBody::Refused(error), proven: true }) if core::is_final(&error) => {
                    return Err(error);
                }
                Ok(Reply { body: JoinReplyBody::Refused(error), .. }) | Err(error) => {
                    tracing::info!(%target, %error, "a member could not enrol this node");
                }
                Ok(_) => {}
            }
        }
        Ok(None)
    }

    /// Whether an enrolment is what this node asked for. What is stored is what is believed for ever after.
    fn check(&self, mesh: MeshId, enrolment: &Enrolment) -> Result<()> {
        let wrong = |message: &str| Err(MeshError::new(ErrorCode::ForeignCertificate, message));
        let certificate = CertificateDer::from(enrolment.certificate.as_slice());
        let ca = CertificateDer::from(enrolment.ca_certificate.as_slice());
        if enrolment.mesh != mesh {
            return wrong("the seed has enrolled this node in another mesh");
        }
        if self.seeker.token.ca_pin.is_some_and(|pin| pin != fingerprint(&ca) && !self.is_vouched_for(pin, enrolment)) {
            return wrong("the seed's authority is not the one that the join token pins");
        }
        if public_key_of(&certificate)? != self.seeker.key.public_key() || node_of(&certificate)? != enrolment.node {
            return wrong("the certificate is not this node's");
        }
        verify_chain(&certificate, &ca, self.seeker.clock.unix_ms())?;
        match &enrolment.authority {
            Some(authority) => CertificateAuthority::open(authority, &enrolment.ca_certificate).map(drop),
            None => Ok(()),
        }
    }

    /// Whether the authority has taken over from the one that the token pins, by that one's own word.
    fn is_vouched_for(&self, pin: [u8; 32], enrolment: &Enrolment) -> bool {
        let Some(rotation) = enrolment.rotation.as_ref().filter(|r| fingerprint(&r.former_ca) == pin) else {
            return false;
        };
        let der = |bytes: &Vec<u8>| CertificateDer::from(bytes.clone());
        let (certificate, former) = (der(&enrolment.certificate), der(&rotation.former_ca));
        let between = [der(&rotation.new_by_former)];
        verify_chain_through(&certificate, &between, &former, self.seeker.clock.unix_ms()).is_ok()
    }

    fn report(&self) {
        let me = self.roster.me();
        tracing::info!(mesh = %me.mesh_name, expect = me.expect, known = me.knows.len(), "looking for a mesh");
        for (seed, answer) in &self.answers {
            if let Some(Answer::Silent(error) | Answer::Refused { error, .. }) = answer {
                tracing::warn!(%seed, %error, "a seed does not help");
            }
        }
    }
}

/// Resolves when neighbours have said something; never without any.
async fn heard_of(hints: &mut Option<watch::Receiver<()>>) {
    let heard = match hints {
        Some(hints) => hints.changed().await.is_ok(),
        None => false,
    };
    if !heard {
        std::future::pending().await
    }
}
