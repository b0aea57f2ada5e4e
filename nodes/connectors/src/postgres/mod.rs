//! PostgreSQL: tables of one database, read through the server's own binary format straight into Arrow.
//!
//! The client is our own, down to the socket, over the start-up and authentication parts of `postgres-protocol`:
//! general clients hand every row over as an allocation of its own, which costs more than decoding it. What it is not:
//! a way to write. Sessions are read-only and statements other than queries are refused.
//!
//! Files: `target` (where), `session` (start-up), `wire` (frames), `statement` (a sub-query from sending to last row),
//! `snapshot` (what a transaction sees), `abandon` (cancelling), `decode` (rows to Arrow), `types`, `catalog` (the source's schema), `errors`.

mod abandon;
mod catalog;
mod decode;
mod errors;
mod session;
mod snapshot;
mod statement;
mod target;
mod types;
mod wire;

#[cfg(test)]
mod live_test;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{TryStreamExt, stream};
use greylag_actors::{
    bounds::Bound,
    edge::port::{Connector, ConnectorQuery, EdgeRows, Options},
};
use greylag_protocol::{
    MeshError, Result, SourceName, messages::edge::Keyset, schema::SourceSchema, state::SourceSpec,
    statement::BatchStream,
};
use tokio_util::sync::CancellationToken;

use self::{
    catalog::KnownTypes,
    session::Session,
    statement::{Begun, Run},
    target::Target,
};
use crate::server::{Expiry, Lease, Pool, Producer, ServerOptions, check_is_query, pump};

/// Time for reading the schema, or for a ping.
const CATALOG_TIMEOUT: Duration = Duration::from_secs(30);
const SCHEMA_DEFAULT: &str = "public";

/// An opened PostgreSQL source. Connections are made when they are needed.
pub struct PostgresConnector {
    source: SourceName,
    target: Arc<Target>,
    pool: Arc<Pool<Session>>,
    schemas: Vec<String>,
    /// Whether somebody named the schemas.
    schemas_explicit: bool,
    known_types: Mutex<KnownTypes>,
}

/// A sub-query under way, and what it sees.
struct Started {
    run: Box<Run>,
    expiry: Expiry,
    snapshot: Option<String>,
    after_key: bool,
}

/// Checks a resource without opening anything; credentials may still be references.
pub fn validate(spec: &SourceSpec) -> Result<()> {
    ServerOptions::read(spec, &spec.options).map(drop)
}

impl PostgresConnector {
    /// From resolved options. Connects to nothing yet.
    pub async fn open(spec: &SourceSpec, options: Options) -> Result<Arc<dyn Connector>> {
        Ok(Arc::new(Self::new(spec, &options).map_err(|error| error.of_source(spec.name.clone()))?))
    }

    fn new(spec: &SourceSpec, options: &Options) -> Result<Self> {
        let server = ServerOptions::read(spec, options)?;
        let schemas_explicit = !server.schemas.is_empty();
        let schemas = if schemas_explicit { server.schemas } else { vec![SCHEMA_DEFAULT.to_owned()] };
        Ok(Self {
            source: spec.name.clone(),
            target: Arc::new(Target::new(spec, options)?),
            pool: Pool::new(&spec.name, server.connections_max),
            schemas,
            schemas_explicit,
            known_types: Mutex::default(),
        })
    }

    /// A connection that answers, idle or new.
    async fn session(&self, wait: Duration) -> Result<(Lease<Session>, Session)> {
        let lease = self.pool.lease(wait).await?;
        let session = self.session_for(&lease).await?;
        Ok((lease, session))
    }

    async fn session_for(&self, lease: &Lease<Session>) -> Result<Session> {
        while let Some(mut session) = lease.take_idle() {
            if session.wire.is_quiet().await {
                return Ok(session);
            }
        }
        Session::connect(&self.target).await
    }

    /// Starts a sub-query; one with a `keyset` on a named snapshot, if there can be one.
    async fn begin(&self, mut query: ConnectorQuery, keyset: Option<Keyset>) -> Result<Started> {
        check_is_query(&query.sql)?;
        let (whole, mut snapshot, mut after_key) = (query.sql.clone(), None, false);
        let mut expiry = Expiry::new(query.timeout, query.cancel.clone());
        let wait = expiry.left();
        let (mut lease, mut session) = expiry.bound(self.session(wait)).await?;
        // Once more if it returns types that have to be looked up first.
        for _ in 0..2 {
            if let Some(keyset) = &keyset {
                snapshot = expiry.bound(snapshot::begin(&mut session, keyset)).await?;
                let after = keyset.after.as_ref().filter(|after| snapshot.as_ref() == Some(&after.snapshot));
                after_key = after.is_some();
                query.sql.clone_from(after.map_or(&whole, |after| &after.sql));
                check_is_query(&query.sql)?;
            }
            let known = self.known_types();
            let oids = match statement::begin(self.target.clone(), lease, session, &query, &known, expiry).await? {
                Begun::Running(run, expiry) => return Ok(Started { run, expiry, snapshot, after_key }),
                Begun::UnknownTypes(oids, rest, held) => {
                    (expiry, lease) = (rest, held);
                    oids
                }
            };
            session = expiry.bound(self.session_for(&lease)).await?;
            let looked_up = expiry.bound(catalog::look_up_types(&mut session, &oids)).await?;
            self.known_types.lock().unwrap_or_else(PoisonError::into_inner).extend(looked_up);
        }
        Err(MeshError::internal("types of a sub-query stay unknown"))
    }

    async fn run(&self, query: ConnectorQuery, keyset: Option<Keyset>) -> Result<EdgeRows> {
        let source = self.source.clone();
        let begun = async {
            let Started { mut run, expiry, snapshot, after_key } = self.begin(query, keyset).await?;
            let rows: BatchStream = match run.whole().map_err(|error| run.explain(error, &expiry))? {
                Some(batch) => Box::pin(stream::iter(batch.map(Ok))),
                None => pump(run, expiry),
            };
            Ok(EdgeRows { rows, snapshot, after_key })
        };
        let EdgeRows { rows, snapshot, after_key } =
            begun.await.map_err(|error: MeshError| error.of_source(source.clone()))?;
        let rows = rows.map_err(move |error| error.of_source(source.clone()));
        Ok(EdgeRows { rows: Box::pin(rows), snapshot, after_key })
    }

    fn known_types(&self) -> KnownTypes {
        self.known_types.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Connector for PostgresConnector {
    fn bounds(&self) -> Vec<Arc<Bound>> {
        vec![self.pool.bound()]
    }

    async fn schema(&self) -> Result<SourceSchema> {
        let mut expiry = Expiry::new(CATALOG_TIMEOUT, CancellationToken::new());
        let read = expiry.bound(async {
            let (lease, mut session) = self.session(CATALOG_TIMEOUT).await?;
            let read = catalog::read(&mut session, &self.source, &self.schemas, self.schemas_explicit).await?;
            lease.put_back(session);
            Ok(read)
        });
        let (schema, known) = read.await.map_err(|error| error.of_source(self.source.clone()))?;
        self.known_types.lock().unwrap_or_else(PoisonError::into_inner).extend(known);
        Ok(schema)
    }

    async fn ping(&self) -> Result<()> {
        let mut expiry = Expiry::new(CATALOG_TIMEOUT, CancellationToken::new());
        let pinged = expiry.bound(async {
            let (lease, mut session) = self.session(CATALOG_TIMEOUT).await?;
            session.text_rows("SELECT 1").await?;
            lease.put_back(session);
            Ok(())
        });
        pinged.await.map_err(|error| error.of_source(self.source.clone()))
    }

    async fn query(&self, query: ConnectorQuery) -> Result<BatchStream> {
        self.run(query, None).await.map(|answer| answer.rows)
    }

    async fn query_by_key(&self, query: ConnectorQuery, keyset: Keyset) -> Result<EdgeRows> {
        self.run(query, Some(keyset)).await
    }
}
