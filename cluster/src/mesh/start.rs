//! A node's way from its data directory to its place in the mesh.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use greylag_config::NodeConfig;
use greylag_protocol::{
    ErrorCode, MeshError, NodeId, NodeUuid, Result,
    frame::StreamTag,
    messages::join::{Candidate, JoinToken},
};
use tokio_util::sync::CancellationToken;

use super::{Alive, Inner, Mesh, MeshStart, Proposer, settle};
use crate::{
    custody::{AuthorityDesk, Renewal, Rotor, Succession, credentials},
    formation::{Admissions, FOUNDERS_MAX, FoundingDesk, Hints, JoinDesk, Seeker, Sought, found, hints, mint},
    health::{self, Gatherer, Stalls},
    identity::{
        Keyring, NodeKey,
        key::PUBLIC_KEY_BYTES,
        store::{Founding, IdentityStore, Membership},
        token,
    },
    raft::{self, RaftNode},
    seams::Seams,
    state::MEMBER_BYTES_MAX,
    transport::{Endpoint, Links, Switchboard, Wiring, accept_all},
};

/// A node that has its key and its port, and no place yet.
struct Arrival {
    config: NodeConfig,
    seams: Seams,
    store: IdentityStore,
    uuid: NodeUuid,
    key: Arc<NodeKey>,
    token: Option<JoinToken>,
    endpoint: Endpoint,
    address: String,
    desk: Arc<JoinDesk>,
    /// Where to look besides the seeds, if that is asked for.
    hints: Option<Hints>,
    members: Arc<OnceLock<Arc<Switchboard>>>,
    alive: Alive,
}

/// The place it has found.
struct Place {
    membership: Membership,
    /// Where this node founds, or was founding when it was stopped.
    founding: Option<Founding>,
    /// Whether it was a member before it was started.
    returns: bool,
}

pub(super) async fn start(start: MeshStart) -> Result<Mesh> {
    let arrival = Arrival::open(start).await?;
    let place = arrival.find_place().await?;
    arrival.settle(place).await
}

impl Arrival {
    async fn open(MeshStart { config, seams }: MeshStart) -> Result<Self> {
        config.validate()?;
        let token = config.join_token.as_deref().map(read_token).transpose()?;
        let store = IdentityStore::new(&seams);
        let (uuid, key) = store.node().await?;
        let endpoint = Endpoint::bind(config.listen, &key, &seams, &config.limits, &config.timing).await?;
        let alive = Alive { stop: CancellationToken::new(), endpoint: endpoint.clone() };
        let address = advertised(&config, &endpoint)?;
        check_size(&config, &address)?;
        let desk = Arc::new(JoinDesk::new());
        let members = Arc::new(OnceLock::new());
        let accepting = accept_all(endpoint.clone(), desk.clone(), members.clone());
        tokio::spawn(alive.stop.clone().run_until_cancelled_owned(accepting));
        let key = Arc::new(key);
        let mut hints = None;
        if config.discovery.mdns {
            hints = Some(look_around(&config, &seams, &endpoint, &address, uuid, &alive.stop).await);
        }
        Ok(Self { config, seams, store, uuid, key, token, endpoint, address, desk, hints, members, alive })
    }

    async fn find_place(&self) -> Result<Place> {
        let (membership, founding) = (self.store.membership().await?, self.store.founding().await?);
        match (membership, founding) {
            (Some(membership), founding) => {
                let founding = founding.filter(|founding| founding.mesh == membership.mesh);
                Ok(Place { membership, founding, returns: true })
            }
            // It was stopped between resolving to found and its own enrolment.
            (None, Some(founding)) => self.found(founding).await,
            (None, None) => self.seek().await,
        }
    }

    async fn seek(&self) -> Result<Place> {
        let (members, token) = if self.config.is_alone() {
            (vec![self.candidate()], None)
        } else {
            let token = self.token.clone().ok_or_else(|| {
                let message = "`join_token` is needed to form a mesh with others, or to join one";
                MeshError::new(ErrorCode::InvalidConfig, message)
            })?;
            let seeker = Seeker {
                seeds: self.config.seeds.clone(),
                hints: self.hints.clone(),
                me: self.candidate(),
                token: token.clone(),
                endpoint: self.endpoint.clone(),
                key: self.key.clone(),
                store: self.store.clone(),
                clock: self.seams.clock.clone(),
                desk: self.desk.clone(),
                seed: self.seams.seed,
            };
            match seeker.seek().await? {
                Sought::Enrolled(membership) => return Ok(Place { membership, founding: None, returns: false }),
                Sought::Founder(members) => (members, Some(token)),
            }
        };
        self.found(mint(&self.config.mesh, members, token.as_ref(), self.seams.clock.unix_ms())?).await
    }

    async fn found(&self, founding: Founding) -> Result<Place> {
        let now = self.seams.clock.unix_ms();
        let (founding, membership) = found(founding, self.uuid, &self.key, &self.store, now, self.life()).await?;
        tracing::info!(mesh = %founding.mesh, members = founding.members.len(), "founding a mesh");
        Ok(Place { membership, founding: Some(founding), returns: false })
    }

    fn candidate(&self) -> Candidate {
        Candidate {
            mesh_name: self.config.mesh.clone(),
            expect: self.config.expect,
            uuid: self.uuid,
            name: self.config.name.clone(),
            address: self.address.clone(),
            labels: self.config.labels.clone(),
            door: self.config.advertised_door(),
            outbound_only: self.config.outbound_only,
            knows: vec![self.uuid],
        }
    }

    /// Takes the place: opens the log, keeps links, and returns once the node takes part.
    async fn settle(self, place: Place) -> Result<Mesh> {
        let Place { membership, founding, returns } = place;
        let me = membership.node;
        let call_timeout = Duration::from_millis(self.config.timing.call_timeout_ms);
        let links = Links::new();
        let raft =
            RaftNode::open(me, &self.seams, &self.config.timing, &self.config.mesh, Arc::new(links.clone())).await?;
        let keyring = self.keyring(&membership).await?;
        let renewal = self.renewal(me, &keyring);
        let membership = renewal.at_home(membership).await?;
        self.endpoint.serve_member(&credentials(&membership, &keyring.trust(), &self.key))?;
        let wiring = Wiring {
            me,
            outbound_only: self.config.outbound_only,
            endpoint: self.endpoint.clone(),
            links: links.clone(),
            membership: crate::transport::Membership::new(me, &membership.members, raft.watch()),
            raft: raft.clone(),
            call_timeout,
            seed: self.seams.seed,
        };
        let board = Switchboard::start(wiring, &self.alive.stop);
        let _ = self.members.set(board.clone());
        let proposer =
            Proposer { me, raft: raft.clone(), board: board.clone(), limit: call_timeout, seed: self.seams.seed };

        self.keep(raft::lead(raft.clone(), links.watch(), self.seams.clock.clone(), self.config.timing.clone()));
        self.keep(renewal.keep(membership.clone(), proposer.clone()));
        let succession = Succession { keyring: keyring.clone(), store: self.store.clone(), proposer: proposer.clone() };
        self.keep(succession.run());

        let gatherer = self.attend_health(&board, &raft)?;
        let (authority, rotor) = (Arc::new(self.authority(&keyring, &proposer)), self.rotor(&keyring, &proposer));
        self.keep(authority.clone().serve(board.serve(StreamTag::Authority)?));
        let admissions = Arc::new(self.admissions(&membership, authority, &proposer));
        let founded = founding.is_some() && raft.state().mesh.is_none();
        match founding.filter(|_| founded) {
            Some(founding) => {
                let founding = FoundingDesk::new(founding, self.store.clone(), self.seams.clock.clone(), self.life())?;
                let founding = Arc::new(founding);
                self.desk.found(founding.clone());
                settle::begin(&founding, &raft, &links, &proposer).await?;
                self.desk.admit(admissions);
            }
            None => self.desk.admit(admissions),
        }
        let taking_part = settle::take_part(&proposer, &links, &self.config.mesh, returns);
        tokio::select! {
            part = taking_part => part?,
            error = raft.stopped() => return Err(error),
        }
        self.keep(settle::describe(proposer.clone(), self.candidate()));
        tracing::info!(node = %me, mesh = %membership.mesh, "the node is a member");
        Ok(Mesh {
            inner: Arc::new(Inner {
                me,
                id: membership.mesh,
                founded,
                seams: self.seams,
                key: self.key,
                raft,
                board,
                proposer,
                keyring,
                gatherer,
                rotor,
                alive: self.alive,
            }),
        })
    }

    /// Runs work until the node stops.
    fn keep(&self, work: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.alive.stop.clone().run_until_cancelled_owned(work));
    }

    /// Watches this node's health, and answers others about it.
    fn attend_health(&self, board: &Arc<Switchboard>, raft: &RaftNode) -> Result<Gatherer> {
        let gatherer = Gatherer {
            board: board.clone(),
            raft: raft.clone(),
            stalls: Stalls::new(Duration::from_millis(self.config.timing.idle_timeout_ms)),
            disk: raft.disk().clone(),
            sockets: self.seams.sockets.clone(),
        };
        let (disk, blocking) = (self.seams.disk.clone(), self.seams.blocking.clone());
        let free_min = self.config.limits.disk_free_bytes_min;
        self.keep(health::watch(gatherer.stalls.clone(), gatherer.disk.clone(), disk, blocking, free_min));
        self.keep(gatherer.clone().serve(board.serve(StreamTag::Health)?));
        Ok(gatherer)
    }

    /// Of the certificates this node issues.
    fn life(&self) -> Duration {
        Duration::from_millis(self.config.timing.certificate_life_ms)
    }

    async fn keyring(&self, membership: &Membership) -> Result<Arc<Keyring>> {
        let keyring = Keyring::new(self.store.trust(membership).await?);
        for (keys, ca) in self.store.authorities(&membership.ca_certificate).await? {
            keyring.put(keys, &ca)?;
        }
        Ok(Arc::new(keyring))
    }

    fn rotor(&self, keyring: &Arc<Keyring>, proposer: &Proposer) -> Rotor {
        Rotor {
            keyring: keyring.clone(),
            store: self.store.clone(),
            proposer: proposer.clone(),
            clock: self.seams.clock.clone(),
        }
    }

    fn renewal(&self, me: NodeId, keyring: &Arc<Keyring>) -> Renewal {
        Renewal {
            me,
            key: self.key.clone(),
            keyring: keyring.clone(),
            store: self.store.clone(),
            endpoint: self.endpoint.clone(),
            clock: self.seams.clock.clone(),
            life: self.life(),
            seed: self.seams.seed,
        }
    }

    fn authority(&self, keyring: &Arc<Keyring>, proposer: &Proposer) -> AuthorityDesk {
        AuthorityDesk {
            keyring: keyring.clone(),
            rotor: self.rotor(keyring, proposer),
            proposer: proposer.clone(),
            clock: self.seams.clock.clone(),
            life: self.life(),
        }
    }

    fn admissions(&self, membership: &Membership, authority: Arc<AuthorityDesk>, proposer: &Proposer) -> Admissions {
        Admissions {
            mesh: membership.mesh,
            me: membership.node,
            mesh_name: self.config.mesh.clone(),
            own_token: self.token.clone(),
            enrolled_with: membership.members.clone(),
            authority,
            proposer: proposer.clone(),
            clock: self.seams.clock.clone(),
        }
    }
}

/// Announces this node to its neighbours and listens to them until it stops.
async fn look_around(
    config: &NodeConfig,
    seams: &Seams,
    endpoint: &Endpoint,
    address: &str,
    uuid: NodeUuid,
    stop: &CancellationToken,
) -> Hints {
    // Neighbours take no names.
    let own = endpoint.resolve(address).await.unwrap_or_default().first().copied();
    let hints = Hints::new(&config.mesh, own);
    let dialled = own.filter(|_| !config.outbound_only);
    let beacon = dialled.and_then(|own| hints::beacon(&config.mesh, uuid, &config.name, own));
    if beacon.is_none() {
        tracing::info!(address, "the neighbours are not told of this node, which they could not dial");
    }
    tokio::spawn(stop.clone().run_until_cancelled_owned(hints.clone().gather(seams.neighbourhood.clone(), beacon)));
    hints
}

fn advertised(config: &NodeConfig, endpoint: &Endpoint) -> Result<String> {
    if let Some(address) = &config.advertise {
        return Ok(address.clone());
    }
    let address = endpoint.local_address()?;
    if address.ip().is_unspecified() && !config.is_alone() && !config.outbound_only {
        let message = format!("`listen` = `{}` is no address that others could dial: set `advertise`", config.listen);
        return Err(MeshError::new(ErrorCode::InvalidConfig, message));
    }
    Ok(address.to_string())
}

/// Whether the mesh would take a node that says so much of itself, and so many to found it. GL6001 if not.
fn check_size(config: &NodeConfig, address: &str) -> Result<()> {
    let labels: usize = config.labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    let door = config.advertised_door().map_or(0, |door| door.len());
    let wrong = |message: String| Err(MeshError::new(ErrorCode::InvalidConfig, message));
    if config.name.len() + address.len() + door + labels + PUBLIC_KEY_BYTES > MEMBER_BYTES_MAX {
        return wrong(format!("`name`, `advertise` and `labels` together are over {MEMBER_BYTES_MAX} bytes"));
    }
    if config.expect as usize > FOUNDERS_MAX {
        return wrong(format!("`expect` is over {FOUNDERS_MAX}: found the mesh with fewer nodes, the others can join"));
    }
    Ok(())
}

/// A token as configured: itself, or a reference to it.
fn read_token(configured: &str) -> Result<JoinToken> {
    let unread = |why: String| MeshError::new(ErrorCode::InvalidConfig, format!("`join_token`: {why}"));
    if let Some(name) = configured.strip_prefix("env:") {
        let value = std::env::var(name).map_err(|_| unread(format!("the environment has no `{name}`")))?;
        token::parse(&value)
    } else if let Some(path) = configured.strip_prefix("file:") {
        let value = std::fs::read_to_string(path).map_err(|error| unread(format!("`{path}`: {error}")))?;
        token::parse(&value)
    } else {
        token::parse(configured)
    }
}
