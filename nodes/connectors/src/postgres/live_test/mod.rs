//! Tests against a real PostgreSQL at `GREYLAG_TEST_POSTGRES_URL` (see `tests/databases`). Each test has a schema of
//! its own. Without the variable they pass and say that they did nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ending;
mod measure;
mod schema;
mod sessions;
mod snapshot;
mod suite;
mod types;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use futures::{StreamExt, TryStreamExt};
use greylag_actors::edge::port::{Connector, ConnectorQuery, Options};
use greylag_protocol::{MeshError, Result, SourceName, state::SourceSpec};
use tokio_util::sync::CancellationToken;

use super::PostgresConnector;

/// Time for any test query; far more than it takes.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(super) fn url() -> Option<String> {
    let url = std::env::var("GREYLAG_TEST_POSTGRES_URL").ok();
    if url.is_none() {
        println!("SKIPPED: GREYLAG_TEST_POSTGRES_URL is not set; see tests/databases");
    }
    url
}

pub(super) fn spec(options: &[(&str, &str)]) -> (SourceSpec, Options) {
    let options: BTreeMap<String, String> = options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let name = SourceName::new("shop").unwrap();
    let spec =
        SourceSpec { name, kind: "postgres".into(), options: options.clone(), labels: BTreeMap::new(), replicas: 1 };
    (spec, options)
}

pub(super) async fn connector(options: &[(&str, &str)]) -> Result<Arc<dyn Connector>> {
    let (spec, options) = spec(options);
    PostgresConnector::open(&spec, options).await
}

/// An independent client, for what the connector must not do.
pub(super) async fn admin(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A fresh schema with what `setup` makes in it, and a connector to it.
pub(super) struct Fixture {
    pub admin: tokio_postgres::Client,
    pub connector: Arc<dyn Connector>,
    pub schema: String,
}

impl Fixture {
    /// `None` without a database. `setup` runs with the schema in the search path.
    pub(super) async fn new(name: &str, setup: &str) -> Option<Self> {
        Self::with(name, setup, &[]).await
    }

    pub(super) async fn with(name: &str, setup: &str, options: &[(&str, &str)]) -> Option<Self> {
        let url = url()?;
        let schema = format!("t_{name}");
        let admin = admin(&url).await;
        let fresh =
            format!("DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}; SET search_path = {schema}");
        admin.batch_execute(&fresh).await.unwrap();
        admin.batch_execute(setup).await.unwrap();
        let mut all = vec![("url", url.as_str()), ("schemas", schema.as_str())];
        all.extend_from_slice(options);
        let connector = connector(&all).await.unwrap();
        Some(Self { admin, connector, schema })
    }

    pub(super) async fn rows(&self, sql: &str, schema: SchemaRef) -> Result<Vec<RecordBatch>> {
        self.connector.query(query(sql, schema)).await?.try_collect().await
    }
}

pub(super) fn query(sql: &str, schema: SchemaRef) -> ConnectorQuery {
    ConnectorQuery {
        sql: sql.to_owned(),
        schema,
        batch_rows: 1024,
        timeout: TIMEOUT,
        cancel: CancellationToken::new(),
        label: String::new(),
    }
}

pub(super) fn schema_of(types: &[DataType]) -> SchemaRef {
    let fields = types.iter().enumerate().map(|(i, t)| Field::new(format!("c{i}"), t.clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The error that a query ends with, before or in its stream. Panics if it ends well.
pub(super) async fn failure(connector: &Arc<dyn Connector>, query: ConnectorQuery) -> MeshError {
    let mut stream = match connector.query(query).await {
        Ok(stream) => stream,
        Err(error) => return error,
    };
    loop {
        match stream.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return error,
            None => panic!("the query ended well"),
        }
    }
}
