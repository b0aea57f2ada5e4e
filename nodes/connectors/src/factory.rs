//! Opens sources by kind. It knows the kinds and nothing about any of them.

use std::sync::Arc;

use async_trait::async_trait;
use greylag_actors::edge::port::{Connector, ConnectorFactory, Secrets};
use greylag_protocol::{ErrorCode, MeshError, Result, state::SourceSpec};

use crate::{
    files::FilesConnector,
    mysql::{self, MySqlConnector},
    options::did_you_mean,
    postgres::{self, PostgresConnector},
    secrets::{check_references, resolve_options},
    sqlite::{self, SqliteConnector},
};

/// Every kind, in the order in which they are listed to people.
const KINDS: [&str; 4] = ["sqlite", "files", "postgres", "mysql"];

/// The connectors that this binary was built with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Connectors;

impl Connectors {
    pub fn new() -> Self {
        Self
    }
}

#[async_trait]
impl ConnectorFactory for Connectors {
    fn kinds(&self) -> Vec<&'static str> {
        KINDS.to_vec()
    }

    fn validate(&self, spec: &SourceSpec) -> Result<()> {
        check_references(spec)?;
        match spec.kind.as_str() {
            "sqlite" => sqlite::validate(spec),
            "files" => crate::files::validate(spec),
            "postgres" => postgres::validate(spec),
            "mysql" => mysql::validate(spec),
            _ => Err(unknown_kind(spec)),
        }
    }

    async fn open(&self, spec: &SourceSpec, secrets: &dyn Secrets) -> Result<Arc<dyn Connector>> {
        self.validate(spec)?;
        let options = resolve_options(spec, secrets)?;
        match spec.kind.as_str() {
            "sqlite" => SqliteConnector::open(spec, options).await,
            "files" => FilesConnector::open(spec, options).await,
            "postgres" => PostgresConnector::open(spec, options).await,
            "mysql" => MySqlConnector::open(spec, options).await,
            _ => Err(unknown_kind(spec)),
        }
    }
}

fn unknown_kind(spec: &SourceSpec) -> MeshError {
    let message = format!("kind `{}` is not known{}", spec.kind, did_you_mean(&spec.kind, &KINDS));
    MeshError::new(ErrorCode::InvalidResource, message).of_source(spec.name.clone())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use greylag_protocol::SourceName;

    use super::*;

    fn spec(kind: &str, options: &[(&str, &str)]) -> SourceSpec {
        SourceSpec {
            name: SourceName::new("shop").unwrap(),
            kind: kind.into(),
            options: options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            labels: Default::default(),
            replicas: 1,
        }
    }

    #[test]
    fn an_unknown_kind_is_refused_with_the_nearest_one() {
        let error = Connectors::new().validate(&spec("postgre", &[])).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidResource);
        assert_eq!(error.message, "kind `postgre` is not known; did you mean `postgres`?");
    }

    #[test]
    fn a_credential_in_plain_is_refused_before_anything_else() {
        let error = Connectors::new().validate(&spec("sqlite", &[("password", "hunter2")])).unwrap_err();
        assert!(error.message.contains("reference") && !error.message.contains("hunter2"), "{error}");
    }
}
