//! Declared resources, as `greylag apply -f FILE` reads them: YAML documents, each `{kind, name, ...}`.

use std::collections::BTreeMap;

use greylag_protocol::{ErrorCode, MeshError, Result, SourceName, state::SourceSpec};
use serde::Deserialize;

/// Most documents in one file.
const DOCUMENTS_MAX: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    Source(SourceSpec),
}

#[derive(Deserialize)]
#[serde(tag = "kind", deny_unknown_fields)]
enum Document {
    Source {
        name: SourceName,
        /// Connector kind.
        connector: String,
        #[serde(default)]
        options: BTreeMap<String, Scalar>,
        #[serde(default)]
        labels: BTreeMap<String, String>,
        #[serde(default = "one")]
        replicas: u32,
    },
}

fn one() -> u32 {
    1
}

/// An option's value: people write `port: 5432` and `header: true` without quotes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Bool(bool),
    Integer(i64),
    Text(String),
}

impl From<Scalar> for String {
    fn from(scalar: Scalar) -> String {
        match scalar {
            Scalar::Bool(b) => b.to_string(),
            Scalar::Integer(i) => i.to_string(),
            Scalar::Text(t) => t,
        }
    }
}

/// Reads all documents of a file. GL6002 naming place and field for anything that is not understood.
pub fn parse_resources(text: &str) -> Result<Vec<Resource>> {
    let documents: Vec<Document> = serde_saphyr::from_multiple(text).map_err(|e| invalid(e.to_string()))?;
    if documents.len() > DOCUMENTS_MAX {
        return Err(invalid(format!("{} documents are over the limit of {DOCUMENTS_MAX}", documents.len())));
    }
    documents.into_iter().map(resource).collect()
}

fn resource(document: Document) -> Result<Resource> {
    let Document::Source { name, connector, options, labels, replicas } = document;
    if replicas == 0 {
        return Err(invalid(format!("source `{name}`: `replicas` must be at least 1")));
    }
    let options = options.into_iter().map(|(k, v)| (k, v.into())).collect();
    Ok(Resource::Source(SourceSpec { name, kind: connector, options, labels, replicas }))
}

fn invalid(message: String) -> MeshError {
    MeshError::new(ErrorCode::InvalidResource, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_several_documents() {
        let text = "kind: Source\nname: orders\nconnector: postgres\noptions:\n  host: db\n  port: 5432\n  password: env:PGPASS\nreplicas: 2\n---\nkind: Source\nname: lake\nconnector: files\noptions: { path: /data }\nlabels: { site: a }\n";
        let resources = parse_resources(text).unwrap();
        assert_eq!(resources.len(), 2);
        let Resource::Source(first) = &resources[0];
        assert_eq!((first.options["port"].as_str(), first.replicas), ("5432", 2));
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, word) in [
            ("kind: Source\nname: Bad Name\nconnector: files\n", "Bad Name"),
            ("kind: Source\nname: a\nconnector: files\nreplica: 2\n", "replica"),
            ("kind: Sauce\nname: a\n", "Sauce"),
            ("kind: Source\nname: a\nconnector: files\nreplicas: 0\n", "replicas"),
        ] {
            let error = parse_resources(text).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidResource);
            assert!(error.message.contains(word), "{error}");
        }
    }

    #[test]
    fn samples_are_valid() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("samples");
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            parse_resources(&std::fs::read_to_string(&path).unwrap()).unwrap();
        }
    }
}
