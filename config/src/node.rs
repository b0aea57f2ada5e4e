//! One node's configuration: every key with its default. Keys are read from TOML by [`super::load`]; this file only
//! says what there is and checks that values make sense together.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use greylag_protocol::{ErrorCode, MeshError, Result};
use serde::{Deserialize, Serialize};

use crate::{
    audit::Audit,
    identity::{Door, Identity},
};

/// Bounds of a certificate's life: seconds, for tests, and a year.
const CERTIFICATE_LIFE_MS_MIN: u64 = 3_000;
const CERTIFICATE_LIFE_MS_MAX: u64 = 365 * 24 * 3600 * 1000;

/// One node's configuration. See `greylag.toml` beside this crate for every key with its default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Name of this node, for people and for the label `node`.
    pub name: String,
    /// Name of the mesh: nodes of another name are not joined.
    pub mesh: String,
    pub data_dir: PathBuf,
    /// UDP address of the mesh endpoint.
    pub listen: SocketAddr,
    /// `host:port` under which others reach it; `listen` if empty.
    pub advertise: Option<String>,
    /// `host:port` of nodes to form or join a mesh with, this one among them or not.
    pub seeds: Vec<String>,
    /// Nodes that found the mesh together.
    pub expect: u32,
    pub discovery: Discovery,
    /// Reference (`env:NAME`, `file:/path`) or the token itself.
    pub join_token: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Flight SQL door; none if absent.
    pub flight: Option<SocketAddr>,
    /// Page for Prometheus (`/metrics`); none if absent.
    pub metrics: Option<SocketAddr>,
    /// That page may be off loopback, though it asks nobody who they are.
    pub metrics_exposed: bool,
    /// Behind NAT or a firewall: dials everyone, is dialled by nobody.
    pub outbound_only: bool,
    /// One node, loopback, no questions asked.
    pub dev: bool,
    pub door: Door,
    pub identity: Identity,
    pub limits: Limits,
    pub timing: Timing,
    pub audit: Audit,
}

/// Where a node looks for others, besides its seeds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Discovery {
    /// Announces this node on the local network by multicast DNS, and asks whoever does so as if it were a seed.
    pub mdns: bool,
}

/// Named bounds. Every queue, cache, frame and retry loop has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Statements running at once.
    pub running_statements_max: u32,
    /// Statements waiting to run.
    pub queue_statements_max: u32,
    /// Memory of one query before it spills or fails, bytes.
    pub query_memory_bytes_max: u64,
    /// Memory of all queries of the node, bytes.
    pub node_memory_bytes_max: u64,
    /// Rows that wait for their reader on disk, over all queries of the node, bytes.
    pub spill_bytes_max: u64,
    /// Rows of a sub-query held back at the gate before they are released, bytes.
    pub hold_back_bytes_max: u64,
    /// Attempts at one sub-query.
    pub subquery_attempts_max: u32,
    /// Restarts over all sub-queries of a query, and of the query itself.
    pub query_restarts_max: u32,
    /// Sub-queries that one edge runs at once; more wait.
    pub edge_subqueries_max: u32,
    /// Bi-streams that a peer may have open.
    pub peer_streams_max: u32,
    /// Clients connected to a door at once; more are told so and let go.
    pub door_connections_max: u32,
    /// Free space below which a node's disk counts as full, bytes. It says so and goes on.
    pub disk_free_bytes_min: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    pub heartbeat_ms: u64,
    pub election_ms_min: u64,
    pub election_ms_max: u64,
    pub keep_alive_ms: u64,
    pub idle_timeout_ms: u64,
    /// Time that a voter which is down has to come back before its seat goes to another member.
    pub voter_grace_ms: u64,
    /// Longest time that queries under way have to end on a node that drains, before its roles are taken from it.
    pub drain_grace_ms: u64,
    /// Longest a statement may take when its client sets no limit.
    pub statement_timeout_ms: u64,
    /// Longest any control call may take.
    pub call_timeout_ms: u64,
    /// Age after which a source's schema is read again.
    pub schema_ttl_ms: u64,
    /// Life of the certificates that this node issues. Members renew theirs when a third of it is left.
    pub certificate_life_ms: u64,
    /// Time over which a durable write is slow. Some such writes and the node says that its disk is.
    pub slow_disk_ms: u64,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            name: "node".into(),
            mesh: "greylag".into(),
            data_dir: PathBuf::from("greylag-data"),
            listen: SocketAddr::from(([127, 0, 0, 1], 7400)),
            advertise: None,
            seeds: Vec::new(),
            expect: 1,
            discovery: Discovery::default(),
            join_token: None,
            labels: BTreeMap::new(),
            flight: None,
            metrics: None,
            metrics_exposed: false,
            outbound_only: false,
            dev: false,
            door: Door::default(),
            identity: Identity::default(),
            limits: Limits::default(),
            timing: Timing::default(),
            audit: Audit::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            running_statements_max: 16,
            queue_statements_max: 256,
            query_memory_bytes_max: 1 << 30,
            node_memory_bytes_max: 4 << 30,
            spill_bytes_max: 16 << 30,
            hold_back_bytes_max: 8 << 20,
            subquery_attempts_max: 12,
            query_restarts_max: 32,
            edge_subqueries_max: 32,
            peer_streams_max: 1024,
            door_connections_max: 1024,
            disk_free_bytes_min: 32 << 20,
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat_ms: 150,
            election_ms_min: 500,
            election_ms_max: 800,
            keep_alive_ms: 300,
            idle_timeout_ms: 1500,
            voter_grace_ms: 30_000,
            drain_grace_ms: 10_000,
            statement_timeout_ms: 300_000,
            call_timeout_ms: 5_000,
            schema_ttl_ms: 60_000,
            certificate_life_ms: 72 * 3600 * 1000,
            slow_disk_ms: 500,
        }
    }
}

impl NodeConfig {
    /// Checks values that only make sense together. GL6001 naming the key.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message: String| Err(MeshError::new(ErrorCode::InvalidConfig, message));
        if self.name.is_empty() || self.name.len() > 63 {
            return wrong("`name` must have 1-63 characters".into());
        }
        if self.expect == 0 {
            return wrong("`expect` must be at least 1".into());
        }
        if self.expect > 1 && self.seeds.is_empty() && !self.discovery.mdns {
            return wrong(format!("`expect` is {} but `seeds` is empty", self.expect));
        }
        if self.dev && (self.expect > 1 || !self.seeds.is_empty() || self.discovery.mdns) {
            return wrong("`dev` is a mesh of one: it takes no `seeds`, no `expect` and no `discovery.mdns`".into());
        }
        if self.dev && !self.listen.ip().is_loopback() {
            return wrong("`dev` listens on loopback only: see `listen`".into());
        }
        if let Some(flight) = self.flight.filter(|f| !f.ip().is_loopback() && !self.door.is_tls()) {
            return wrong(format!("`flight` = `{flight}`: a door off loopback needs TLS: see `door.certificate`"));
        }
        if let Some(metrics) = self.metrics.filter(|m| !m.ip().is_loopback() && !self.metrics_exposed) {
            return wrong(format!(
                "`metrics` = `{metrics}`: the page asks nobody who they are, so off loopback it opens only with \
                 `metrics_exposed = true`"
            ));
        }
        if let Some(metrics) = self.metrics.filter(|m| !m.ip().is_loopback() && !self.metrics_exposed) {
            return wrong(format!(
                "`metrics` = `{metrics}`: the page asks nobody who they are, so off loopback it opens only with \
                 `metrics_exposed = true`"
            ));
        }
        if self.labels.contains_key("node") {
            return wrong("the label `node` always is the node's name and cannot be set".into());
        }
        self.door.validate()?;
        self.identity.validate(&self.door)?;
        self.timing.validate()?;
        self.audit.validate()?;
        self.limits.validate()
    }

    /// Where the audit chain is kept.
    pub fn audit_dir(&self) -> PathBuf {
        self.audit.dir.clone().unwrap_or_else(|| self.data_dir.join("audit"))
    }

    /// Whether it is a mesh of one without having to look for anybody. Who looks around may found one with others, or
    /// join one; that it has found nobody yet tells nothing.
    pub fn is_alone(&self) -> bool {
        self.dev || (self.seeds.is_empty() && self.expect == 1 && !self.discovery.mdns)
    }

    /// `host:port` under which others reach this node.
    pub fn advertised(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.listen.to_string())
    }

    /// `host:port` under which clients reach the Flight SQL door. `None` where there is none that others could be told:
    /// no door, or one on all of a machine's addresses or on a port that is not known beforehand.
    pub fn advertised_door(&self) -> Option<String> {
        let flight = self.flight?;
        let own = (flight.port() != 0 && !flight.ip().is_unspecified()).then(|| flight.to_string());
        self.door.advertise.clone().or(own)
    }
}

impl Timing {
    fn validate(&self) -> Result<()> {
        let ordered = self.heartbeat_ms > 0
            && self.heartbeat_ms * 2 <= self.election_ms_min
            && self.election_ms_min < self.election_ms_max
            && self.keep_alive_ms * 2 <= self.idle_timeout_ms;
        let wrong = |message: String| Err(MeshError::new(ErrorCode::InvalidConfig, message));
        if !ordered {
            return wrong("`timing` must have heartbeat_ms * 2 <= election_ms_min < election_ms_max and keep_alive_ms * 2 <= idle_timeout_ms".into());
        }
        if !(CERTIFICATE_LIFE_MS_MIN..=CERTIFICATE_LIFE_MS_MAX).contains(&self.certificate_life_ms) {
            return wrong(format!(
                "`timing.certificate_life_ms` must be between {CERTIFICATE_LIFE_MS_MIN} and {CERTIFICATE_LIFE_MS_MAX}"
            ));
        }
        Ok(())
    }
}

impl Limits {
    fn validate(&self) -> Result<()> {
        let counts = [
            ("running_statements_max", u64::from(self.running_statements_max)),
            ("query_memory_bytes_max", self.query_memory_bytes_max),
            ("node_memory_bytes_max", self.node_memory_bytes_max),
            ("subquery_attempts_max", u64::from(self.subquery_attempts_max)),
            ("edge_subqueries_max", u64::from(self.edge_subqueries_max)),
            ("peer_streams_max", u64::from(self.peer_streams_max)),
            ("door_connections_max", u64::from(self.door_connections_max)),
        ];
        match counts.iter().find(|(_, v)| *v == 0) {
            Some((key, _)) => {
                Err(MeshError::new(ErrorCode::InvalidConfig, format!("`limits.{key}` must be at least 1")))
            }
            None => Ok(()),
        }
    }
}
