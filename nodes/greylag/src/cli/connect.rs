//! How a client finds its door and its token.

use std::path::PathBuf;

use anyhow::Context;
use arrow::{array::RecordBatch, datatypes::SchemaRef};
use clap::Args;
use futures::TryStreamExt;
use greylag_gateways::flight::roaming::RoamingClient;
use greylag_protocol::{
    Result,
    statement::{AdminCall, AdminReply, BatchStream, SessionOptions},
};

use crate::assembly::ADMIN_TOKEN_FILE;

/// Where to connect and as whom.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// `host:port` of a Flight SQL door, or several with commas: the first that answers is taken, and another if it is lost
    #[arg(long, env = "GREYLAG_SERVER", default_value = "127.0.0.1:50051")]
    pub server: String,
    /// Bearer token; without it the file below is read
    #[arg(long, env = "GREYLAG_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Data directory of a node on this machine, for its admin token
    #[arg(long, default_value = "greylag-data")]
    pub data_dir: PathBuf,
}

impl Target {
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let token = match &self.token {
            Some(token) => token.clone(),
            None => {
                let file = self.data_dir.join(ADMIN_TOKEN_FILE);
                std::fs::read_to_string(&file).with_context(|| {
                    format!(
                        "no token: pass --token, set GREYLAG_TOKEN, or name a node's --data-dir (`{}` cannot be read)",
                        file.display()
                    )
                })?
            }
        };
        Ok(Connection::open(&self.server, token.trim()).await?)
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

    pub async fn with_options(servers: &str, token: &str, options: SessionOptions) -> Result<Self> {
        let doors = servers.split(',').map(|door| door.trim().to_owned()).filter(|door| !door.is_empty()).collect();
        Ok(Self { client: RoamingClient::connect(doors, token, options).await? })
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
