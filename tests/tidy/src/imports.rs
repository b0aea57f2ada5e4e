//! Law 1: who may depend on whom. Law 2: where DataFusion may appear. And which crates only one place may use.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{assert_none, files, root};

/// For each of our crates, our crates that it may depend on. `greylag-features` is open to all above the engine.
const MAY_IMPORT: [(&str, &[&str]); 13] = [
    ("greylag-protocol", &[]),
    ("greylag-features", &[]),
    ("greylag-config", &["greylag-protocol"]),
    ("greylag-cluster", &["greylag-protocol", "greylag-config"]),
    ("greylag-governance", &["greylag-protocol"]),
    ("greylag-actors", &["greylag-protocol", "greylag-config", "greylag-cluster", "greylag-governance"]),
    ("greylag-engine", &["greylag-features", "greylag-protocol", "greylag-governance", "greylag-actors"]),
    (
        "greylag-connectors",
        &["greylag-features", "greylag-protocol", "greylag-config", "greylag-actors", "greylag-engine"],
    ),
    ("greylag-gateways", &["greylag-protocol", "greylag-governance"]),
    ("greylag", &["*"]),
    (
        "greylag-simulations",
        &[
            "greylag-features",
            "greylag-protocol",
            "greylag-config",
            "greylag-cluster",
            "greylag-governance",
            "greylag-actors",
            "greylag-engine",
            "greylag-connectors",
        ],
    ),
    ("greylag-tests", &["*"]),
    ("greylag-tidy", &["greylag-protocol"]),
];

/// Crates in which DataFusion may appear.
const WITH_DATAFUSION: [&str; 5] =
    ["greylag-engine", "greylag-connectors", "greylag", "greylag-simulations", "greylag-tests"];

/// Foreign crates that only these of our crates may use.
const ONLY_IN: [(&str, &[&str]); 6] = [
    ("bincode", &["greylag-protocol"]),
    ("openraft", &["greylag-cluster", "greylag-simulations"]),
    ("ractor_cluster", &["greylag-actors"]),
    ("jsonwebtoken", &["greylag-gateways", "greylag-governance"]),
    ("cedar-policy", &["greylag-governance"]),
    ("turmoil", &["greylag-simulations"]),
];

/// Package name to the names it depends on, development included.
fn manifests() -> BTreeMap<String, BTreeSet<String>> {
    let mut all = BTreeMap::new();
    for file in files("toml").into_iter().filter(|f| f.path.ends_with("Cargo.toml")) {
        let table: toml::Table = file.text.parse().unwrap();
        let Some(package) = table.get("package") else { continue };
        let name = package["name"].as_str().unwrap().to_owned();
        let sections = ["dependencies", "dev-dependencies", "build-dependencies"];
        let dependencies =
            sections.iter().filter_map(|s| table.get(*s)?.as_table()).flat_map(|t| t.keys().cloned()).collect();
        all.insert(name, dependencies);
    }
    all
}

#[test]
fn ours_import_ours_only_downwards() {
    let allowed: BTreeMap<_, _> = MAY_IMPORT.into_iter().collect();
    let mut breaches = Vec::new();
    for (name, dependencies) in manifests() {
        let Some(may) = allowed.get(name.as_str()) else {
            breaches.push(format!("`{name}` has no line in the import table"));
            continue;
        };
        for dependency in dependencies.iter().filter(|d| d.starts_with("greylag")) {
            if !may.contains(&"*") && !may.contains(&dependency.as_str()) {
                breaches.push(format!("`{name}` imports `{dependency}`"));
            }
        }
    }
    assert_none("imports go down the house only", breaches);
}

#[test]
fn datafusion_stays_in_its_rooms() {
    let breaches = manifests()
        .into_iter()
        .filter(|(name, _)| !WITH_DATAFUSION.contains(&name.as_str()))
        .filter(|(_, dependencies)| dependencies.iter().any(|d| d.starts_with("datafusion")))
        .map(|(name, _)| name)
        .collect();
    assert_none("DataFusion only in engine, connectors, greylag, simulations, tests", breaches);
}

#[test]
fn guarded_crates_stay_behind_their_module() {
    let mut breaches = Vec::new();
    for (name, dependencies) in manifests() {
        for (guarded, may) in ONLY_IN {
            if dependencies.contains(guarded) && !may.contains(&name.as_str()) {
                breaches.push(format!("`{name}` uses `{guarded}`"));
            }
        }
    }
    let outside_wire = files("rs").into_iter().filter(|f| {
        f.code().contains("bincode::") && f.path != "protocol/src/wire.rs" && !f.path.starts_with("tests/tidy")
    });
    breaches.extend(outside_wire.map(|f| format!("{} uses bincode", f.path)));
    assert_none("guarded crates stay where they are wrapped", breaches);
}

#[test]
fn the_lock_has_one_arrow_and_no_openssl() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let table: toml::Table = lock.parse().unwrap();
    let names: Vec<&str> = table["package"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    let count = |name: &str| names.iter().filter(|n| **n == name).count();
    for single in ["arrow", "arrow-array", "parquet", "datafusion", "sqlparser", "object_store", "rustls", "bincode"] {
        assert_eq!(count(single), 1, "`{single}` must be in the lock exactly once");
    }
    for banned in ["openssl", "openssl-sys", "native-tls"] {
        assert_eq!(count(banned), 0, "`{banned}` must not be in the lock");
    }
}
