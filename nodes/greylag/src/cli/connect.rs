//! How a client finds its door and its token.

use std::path::PathBuf;

use anyhow::Context;
use arrow::{array::RecordBatch, datatypes::SchemaRef};
use clap::Args;
use futures::TryStreamExt;
use greylag_gateways::{
    flight::{client::Access, roaming::RoamingClient},
    tls::ClientTls,
};
use greylag_protocol::{
    Result,
    statement::{AdminCall, AdminReply, BatchStream, SessionOptions},
};

use crate::assembly::ADMIN_TOKEN_FILE;

/// Where to connect and as whom.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// `host:port` of a Flight SQL door, or several with commas: the first that answers is taken, and another if it is lost.
    /// Doors on other machines, and those with `grpc+tls://` before them, are spoken to over TLS
    #[arg(long, env = "GREYLAG_SERVER", default_value = "127.0.0.1:50051")]
    pub server: String,
    /// Bearer token or API key; without it, and without --cert, the file below is read
    #[arg(long, env = "GREYLAG_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Data directory of a node on this machine, for its admin token
    #[arg(long, default_value = "greylag-data")]
    pub data_dir: PathBuf,
    /// Authorities (PEM) of the doors' certificates, in place of the public ones; all doors are spoken to over TLS then
    #[arg(long, env = "GREYLAG_TLS_CA")]
    pub tls_ca: Option<PathBuf>,
    /// Certificate (PEM) to show to doors, which are spoken to over TLS then. Without --token it says who you are
    #[arg(long = "cert", env = "GREYLAG_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long = "key", env = "GREYLAG_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

impl Target {
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        Ok(Connection::open_as(&self.server, self.access()?).await?)
    }

    fn access(&self) -> anyhow::Result<Access> {
        let identity = self.tls_cert.as_deref().zip(self.tls_key.as_deref());
        let tls = match (&self.tls_ca, identity) {
            (None, None) => None,
            (ca, identity) => Some(ClientTls::load(ca.as_deref(), identity)?),
        };
        let token = match &self.token {
            Some(token) => Some(token.trim().to_owned()),
            None if identity.is_some() => None,
            None => Some(self.admin_token()?),
        };
        Ok(Access { token, tls })
    }

    fn admin_token(&self) -> anyhow::Result<String> {
        let file = self.data_dir.join(ADMIN_TOKEN_FILE);
        let token = std::fs::read_to_string(&file).with_context(|| {
            format!(
                "no token: pass --token, set GREYLAG_TOKEN, show a certificate with --cert and --key, or name a node's --data-dir (`{}` cannot be read)",
                file.display()
            )
        })?;
        Ok(token.trim().to_owned())
    }
}

/// An authenticated connection to a mesh, through whichever of its doors answers.
pub struct Connection {
    client: RoamingClient,
}

impl Connection {
    /// Statements are resumable: a result goes on at another door when this one is lost.
    pub async fn open(servers: &str, token: &str) -> Result<Self> {
        Self::with_options(servers, token, SessionOptions { resumable: true, ..SessionOptions::default() }).await
    }

    /// As [`Connection::open`], by whatever a client shows.
    pub async fn open_as(servers: &str, access: Access) -> Result<Self> {
        Self::connect(servers, access, SessionOptions { resumable: true, ..SessionOptions::default() }).await
    }

    pub async fn with_options(servers: &str, token: &str, options: SessionOptions) -> Result<Self> {
        Self::connect(servers, Access::by_token(token), options).await
    }

    async fn connect(servers: &str, access: Access, options: SessionOptions) -> Result<Self> {
        let doors = servers.split(',').map(|door| door.trim().to_owned()).filter(|door| !door.is_empty()).collect();
        Ok(Self { client: RoamingClient::connect_as(doors, access, options).await? })
    }

    /// Starts a statement; rows come as they are ready.
    pub async fn stream(&self, sql: &str) -> Result<(SchemaRef, BatchStream)> {
        let answer = self.client.query(sql).await?;
        Ok((answer.schema, answer.batches))
    }

    /// Runs a statement and keeps all its rows.
    pub async fn query(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        let (_, batches) = self.stream(sql).await?;
        batches.try_collect().await
    }

    pub fn client(&self) -> &RoamingClient {
        &self.client
    }

    pub async fn admin(&self, call: &AdminCall) -> Result<AdminReply> {
        self.client.admin(call).await
    }
}
