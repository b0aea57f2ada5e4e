//! Reads a node's configuration: defaults, then the file, then `GREYLAG_*` of the environment, then flags. Each key
//! remembers where its value came from, so that `greylag node --explain` can say it.

use std::{collections::BTreeMap, path::Path};

use greylag_protocol::{ErrorCode, MeshError, Result};
use serde::Deserialize;
use toml::{Table, Value};

use crate::{
    identity::{CertificatesConfig, Door},
    nearest::nearest,
    node::NodeConfig,
};

/// Prefix of environment variables: `GREYLAG_LIMITS__RUNNING_STATEMENTS_MAX` sets `limits.running_statements_max`.
const ENV_PREFIX: &str = "GREYLAG_";

/// Variables with that prefix that are not keys of the node's configuration.
const ENV_OTHER: [&str; 7] = [
    "GREYLAG_TOKEN",
    "GREYLAG_SERVER",
    "GREYLAG_LOG",
    "GREYLAG_CONFIG",
    "GREYLAG_TLS_CA",
    "GREYLAG_TLS_CERT",
    "GREYLAG_TLS_KEY",
];
/// Prefix of variables that only tests read.
const ENV_TEST_PREFIX: &str = "GREYLAG_TEST_";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    File(String),
    Environment(String),
    Flag,
}

/// A configuration and the origin of every key that is not at its default.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: NodeConfig,
    /// Dotted key to origin.
    pub origins: BTreeMap<String, Origin>,
}

/// Merges all layers. `flags` are dotted keys with TOML values, as the command line gives them. Errors: GL6001 naming
/// the key and its origin.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[(String, Value)],
) -> Result<Loaded> {
    let mut merged = Table::new();
    let mut origins = BTreeMap::new();
    if let Some(path) = file {
        let table = read(path)?;
        for (key, value) in flatten("", &table) {
            check_key(&key, &path.display().to_string())?;
            origins.insert(key.clone(), Origin::File(path.display().to_string()));
            set(&mut merged, &key, value)?;
        }
    }
    for (name, text) in environment {
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else { continue };
        if ENV_OTHER.contains(&name.as_str()) || name.starts_with(ENV_TEST_PREFIX) {
            continue;
        }
        let key = rest.to_ascii_lowercase().replace("__", ".");
        check_key(&key, &name)?;
        set(&mut merged, &key, environment_value(&text))?;
        origins.insert(key, Origin::Environment(name));
    }
    for (key, value) in flags {
        check_key(key, "the command line")?;
        set(&mut merged, key, value.clone())?;
        origins.insert(key.clone(), Origin::Flag);
    }
    let config = NodeConfig::deserialize(Value::Table(merged))
        .map_err(|e| invalid(format!("the configuration cannot be read: {}", e.to_string().trim())))?;
    config.validate()?;
    Ok(Loaded { config, origins })
}

fn read(path: &Path) -> Result<Table> {
    let text =
        std::fs::read_to_string(path).map_err(|e| invalid(format!("`{}` cannot be read: {e}", path.display())))?;
    text.parse::<Table>()
        .map_err(|e| invalid(format!("`{}` is not valid TOML: {}", path.display(), e.to_string().trim())))
}

/// A variable's text as the TOML value it would be in a file; plain words are strings.
fn environment_value(text: &str) -> Value {
    let parsed: Option<Table> = format!("v = {text}").parse().ok();
    parsed.and_then(|mut t| t.remove("v")).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Maps with the user's own keys, which stay whole.
const MAPS: [&str; 2] = ["labels", "identity.certificates.roles"];

/// Leaves of a table with dotted keys.
fn flatten(prefix: &str, table: &Table) -> Vec<(String, Value)> {
    let mut leaves = Vec::new();
    for (key, value) in table {
        let dotted = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) if !MAPS.contains(&dotted.as_str()) => leaves.extend(flatten(&dotted, inner)),
            _ => leaves.push((dotted, value.clone())),
        }
    }
    leaves
}

fn set(table: &mut Table, dotted: &str, value: Value) -> Result<()> {
    match dotted.split_once('.') {
        None => {
            table.insert(dotted.to_owned(), value);
            Ok(())
        }
        Some((head, rest)) => match table.entry(head).or_insert_with(|| Value::Table(Table::new())) {
            Value::Table(inner) => set(inner, rest, value),
            _ => Err(invalid(format!("`{head}` is both a value and a section"))),
        },
    }
}

/// Every key there is, dotted, in order.
fn known_keys() -> Vec<String> {
    let mut whole = NodeConfig::default();
    // Keys that are absent by default have to be present to be listed.
    whole.advertise = Some(String::new());
    whole.join_token = Some(String::new());
    whole.flight = Some(whole.listen);
    whole.metrics = Some(whole.listen);
    let path = || Some(std::path::PathBuf::new());
    whole.door = Door { certificate: path(), key: path(), client_ca: path(), ..Door::default() };
    whole.door.advertise = Some(String::new());
    whole.identity.certificates = Some(CertificatesConfig::default());
    match Value::try_from(&whole) {
        Ok(Value::Table(table)) => flatten("", &table).into_iter().map(|(k, _)| k).collect(),
        _ => Vec::new(),
    }
}

fn check_key(key: &str, origin: &str) -> Result<()> {
    let known = known_keys();
    // An empty map has no key that would be known.
    let in_map = MAPS.iter().any(|map| key == *map || key.strip_prefix(map).is_some_and(|rest| rest.starts_with('.')));
    if in_map || known.iter().any(|k| k == key) {
        return Ok(());
    }
    let hint =
        nearest(key, known.iter().map(String::as_str)).map(|k| format!("; did you mean `{k}`?")).unwrap_or_default();
    Err(invalid(format!("`{key}` (from {origin}) is not a key of the configuration{hint}")))
}

fn invalid(message: String) -> MeshError {
    MeshError::new(ErrorCode::InvalidConfig, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn later_layers_win_and_say_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "name = 'a'\nexpect = 3\nseeds = ['x:1']\njoin_token='gl1.-.f.00'\n[limits]\nqueue_statements_max = 7\n[labels]\nsite = 'b'\n").unwrap();
        let flags = [("name".to_owned(), Value::String("c".into()))];
        let loaded =
            load(Some(file.path()), env(&[("GREYLAG_EXPECT", "5"), ("GREYLAG_NAME", "b"), ("PATH", "/")]), &flags)
                .unwrap();
        assert_eq!(loaded.config.name, "c");
        assert_eq!(loaded.config.expect, 5);
        assert_eq!(loaded.config.limits.queue_statements_max, 7);
        assert_eq!(loaded.config.labels["site"], "b");
        assert_eq!(loaded.origins["name"], Origin::Flag);
        assert_eq!(loaded.origins["expect"], Origin::Environment("GREYLAG_EXPECT".into()));
    }

    #[test]
    fn a_mistyped_key_is_named_with_the_one_that_was_meant() {
        let error = load(None, env(&[("GREYLAG_LIMITS__QUEUE_STATEMENT_MAX", "1")]), &[]).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidConfig);
        assert!(error.message.contains("did you mean `limits.queue_statements_max`?"), "{error}");
    }

    #[test]
    fn a_page_of_figures_off_loopback_has_to_be_wanted() {
        let metrics = |address: &str| ("metrics".to_owned(), Value::String(address.to_owned()));
        let exposed = || ("metrics_exposed".to_owned(), Value::Boolean(true));
        let error = load(None, [], &[metrics("0.0.0.0:9464")]).unwrap_err();
        assert!(error.code == ErrorCode::InvalidConfig && error.message.contains("metrics_exposed"), "{error}");
        for flags in
            [vec![metrics("127.0.0.1:9464")], vec![metrics("[::1]:9464")], vec![metrics("10.0.0.1:1"), exposed()]]
        {
            assert!(load(None, [], &flags).unwrap().config.metrics.is_some());
        }
    }

    #[test]
    fn who_is_let_in_is_read_from_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "[door]\ncertificate = 'c'\nkey = 'k'\nclient_ca = 'a'\n[identity.certificates]\n\
                    trust_domain = 'mesh.example'\n[identity.certificates.roles]\n'clinic/agent/a.7' = ['r']\n\
                    [[identity.issuers]]\nissuer = 'i'\naudience = ['greylag']\nalgorithms = ['ES256']\n\
                    jwks = 'file:///k'\nrole_map = { 'dba' = 'admin' }\n";
        std::fs::write(file.path(), text).unwrap();
        let config = load(Some(file.path()), env(&[("GREYLAG_DOOR__ADVERTISE", "a.example:1")]), &[]).unwrap().config;
        assert_eq!(config.identity.certificates.unwrap().roles["clinic/agent/a.7"], ["r"]);
        assert_eq!(config.identity.issuers[0].role_map.as_ref().unwrap()["dba"], "admin");
        assert_eq!(config.door.advertise.as_deref(), Some("a.example:1"));
        std::fs::write(file.path(), "[door]\ncertificat = 'c'\n").unwrap();
        let error = load(Some(file.path()), [], &[]).unwrap_err();
        assert!(error.message.contains("did you mean `door.certificate`?"), "{error}");
    }

    #[test]
    fn the_annotated_reference_is_the_default() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("greylag.toml");
        assert_eq!(load(Some(&path), [], &[]).unwrap().config, NodeConfig::default());
    }

    #[test]
    fn presets_are_valid() {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("presets")).unwrap() {
            let path = entry.unwrap().path();
            load(Some(&path), [], &[]).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }
}
