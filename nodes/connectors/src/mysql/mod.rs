//! MySQL and MariaDB: tables of one server's databases, read through prepared statements with the binary protocol, whose
//! numbers are exact (the text protocol rounds `FLOAT`). Rows are streamed as they come, never collected by the driver.
//!
//! What it is not: a way to write. Sessions are read-only and statements other than queries are refused.
//!
//! Files: `target` (where), `session` (settings, stopping a statement), `statement` (a sub-query from sending to last
//! row), `decode` (rows to Arrow), `types`, `catalog` (the source's schema), `errors`.

mod catalog;
mod decode;
mod errors;
mod session;
mod statement;
mod target;
mod types;

#[cfg(test)]
mod live_test;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::TryStreamExt;
use greylag_actors::{
    bounds::Bound,
    edge::port::{Connector, ConnectorQuery, Options},
};
use greylag_protocol::{
    ErrorCode, MeshError, Result, SourceName, schema::SourceSchema, state::SourceSpec, statement::BatchStream,
};
use tokio_util::sync::CancellationToken;

use self::{session::Session, target::Target};
use crate::server::{Expiry, Lease, Pool, Producer, ServerOptions, check_is_query, pump};

/// Time for reading the schema, or for a ping.
const CATALOG_TIMEOUT: Duration = Duration::from_secs(30);

/// An opened MySQL or MariaDB source. Connections are made when they are needed.
pub struct MySqlConnector {
    source: SourceName,
    target: Arc<Target>,
    pool: Arc<Pool<Session>>,
    schemas: Vec<String>,
    /// Whether somebody named the schemas.
    schemas_explicit: bool,
}

/// Checks a resource without opening anything; credentials may still be references.
pub fn validate(spec: &SourceSpec) -> Result<()> {
    ServerOptions::read(spec, &spec.options).map(drop)
}

impl MySqlConnector {
    /// From resolved options. Connects to nothing yet.
    pub async fn open(spec: &SourceSpec, options: Options) -> Result<Arc<dyn Connector>> {
        Ok(Arc::new(Self::new(spec, &options).map_err(|error| error.of_source(spec.name.clone()))?))
    }

    fn new(spec: &SourceSpec, options: &Options) -> Result<Self> {
        let server = ServerOptions::read(spec, options)?;
        let target = Target::new(&server)?;
        let schemas_explicit = !server.schemas.is_empty();
        let schemas = match (schemas_explicit, &target.database) {
            (true, _) => server.schemas,
            (false, Some(database)) => vec![database.clone()],
            (false, None) => {
                let message = "option `url` names no database, and option `schemas` is missing";
                return Err(MeshError::new(ErrorCode::InvalidResource, message));
            }
        };
        Ok(Self {
            source: spec.name.clone(),
            target: Arc::new(target),
            pool: Pool::new(&spec.name, server.connections_max),
            schemas,
            schemas_explicit,
        })
    }

    /// A session that answers, idle or new.
    async fn session(&self) -> Result<(Lease<Session>, Session)> {
        let lease = self.pool.lease(CATALOG_TIMEOUT).await?;
        while let Some(mut session) = lease.take_idle() {
            match session.ping().await {
                Ok(()) => return Ok((lease, session)),
                Err(_) => session.close().await,
            }
        }
        let session = Session::connect(&self.target).await?;
        Ok((lease, session))
    }

    async fn begin(&self, query: &ConnectorQuery) -> Result<BatchStream> {
        check_is_query(&query.sql)?;
        let mut expiry = Expiry::new(query.timeout, query.cancel.clone());
        let wait = expiry.left();
        let lease: Lease<Session> = expiry.bound(self.pool.lease(wait)).await?;
        let session = match lease.take_idle() {
            Some(session) => session,
            None => expiry.bound(Session::connect(&self.target)).await?,
        };
        let mut run = statement::Run::new(self.target.clone(), lease, session);
        let left = expiry.left();
        let mut begun = expiry.bound(run.begin(query, left)).await;
        if run.is_reused() && begun.as_ref().is_err_and(|error| error.code == ErrorCode::SourceUnreachable) {
            self.pool.forget_idle();
            let session = expiry.bound(Session::connect(&self.target)).await?;
            run.replace(session);
            begun = expiry.bound(run.begin(query, left)).await;
        }
        match begun {
            Ok(()) => Ok(pump(run, expiry)),
            Err(error) => Err(run.explain(error, &expiry)),
        }
    }
}

#[async_trait]
impl Connector for MySqlConnector {
    fn bounds(&self) -> Vec<Arc<Bound>> {
        vec![self.pool.bound()]
    }

    async fn schema(&self) -> Result<SourceSchema> {
        let mut expiry = Expiry::new(CATALOG_TIMEOUT, CancellationToken::new());
        let read = expiry.bound(async {
            let (lease, mut session) = self.session().await?;
            let schema = catalog::read(&mut session, &self.source, &self.schemas, self.schemas_explicit).await?;
            session.put_back(lease);
            Ok(schema)
        });
        read.await.map_err(|error| error.of_source(self.source.clone()))
    }

    async fn ping(&self) -> Result<()> {
        let mut expiry = Expiry::new(CATALOG_TIMEOUT, CancellationToken::new());
        let pinged = expiry.bound(async {
            let (lease, mut session) = self.session().await?;
            session.ping().await?;
            session.put_back(lease);
            Ok(())
        });
        pinged.await.map_err(|error| error.of_source(self.source.clone()))
    }

    async fn query(&self, query: ConnectorQuery) -> Result<BatchStream> {
        let source = self.source.clone();
        let batches = self.begin(&query).await.map_err(|error| error.of_source(source.clone()))?;
        Ok(Box::pin(batches.map_err(move |error| error.of_source(source.clone()))))
    }
}
