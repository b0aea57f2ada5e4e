//! Law 3: decision code is pure. Law 4: batches never travel through mailboxes. Law 5: a DataFusion session is made
//! in one file. Roles never import each other.

use crate::tree::{SourceFile, assert_none, files};

/// What code that decides may not contain.
const IMPURE: [&str; 10] = [
    "async fn",
    ".await",
    "Instant::now",
    "SystemTime",
    "rand::",
    "HashMap",
    "HashSet",
    "tokio::",
    "std::fs",
    "std::thread",
];

fn decides(file: &SourceFile) -> bool {
    let path = &file.path;
    path.ends_with("/core.rs")
        || path == "cluster/src/state/apply.rs"
        || (path.starts_with("cluster/src/placement/") && !path.ends_with("_test.rs"))
}

/// A line without its comment.
fn bare(line: &str) -> &str {
    line.split("//").next().unwrap_or(line)
}

#[test]
fn decision_code_is_pure() {
    let deciding: Vec<_> = files("rs").into_iter().filter(decides).collect();
    assert!(deciding.len() >= 5, "cores are expected in cluster and actors");
    let mut breaches = Vec::new();
    for file in &deciding {
        for (number, line) in file.code().lines().enumerate() {
            for word in IMPURE.iter().filter(|w| bare(line).contains(**w)) {
                breaches.push(format!("{}:{} has `{word}`", file.path, number + 1));
            }
        }
    }
    assert_none("cores take (state, now, event) and return effects", breaches);
}

#[test]
fn batches_stay_out_of_mailboxes() {
    let mut breaches = Vec::new();
    for file in files("rs").into_iter().filter(|f| f.path.starts_with("actors/")) {
        for block in file.code().split("#[derive(").skip(1) {
            let is_message = block
                .split(')')
                .next()
                .is_some_and(|d| d.contains("RactorMessage") || d.contains("RactorClusterMessage"));
            let body = block.split("\n}").next().unwrap_or(block);
            if is_message && (body.contains("RecordBatch") || body.contains("BatchStream")) {
                breaches.push(format!("{}: a message holds batches", file.path));
            }
        }
    }
    assert_none("batches never travel through mailboxes", breaches);
}

#[test]
fn sessions_are_made_in_one_file() {
    let makers = ["SessionContext::new", "SessionStateBuilder::new", "SessionState::new"];
    let breaches = files("rs")
        .into_iter()
        .filter(|f| !f.is_test() && f.path != "nodes/engine/src/session.rs")
        .filter(|f| makers.iter().any(|m| f.code().contains(m)))
        .map(|f| f.path)
        .collect();
    assert_none("a DataFusion session is made in nodes/engine/src/session.rs only", breaches);
}

#[test]
fn roles_do_not_import_each_other() {
    let roles = ["coordinator", "planner", "policy", "edge"];
    let mut breaches = Vec::new();
    for file in files("rs") {
        let Some(role) = roles.iter().find(|r| file.path.starts_with(&format!("actors/src/{r}/"))) else { continue };
        for other in roles.iter().filter(|o| *o != role) {
            for (number, line) in file.code().lines().enumerate() {
                let names_it = bare(line).contains(&format!("crate::{other}::"));
                // Ports are what a role shows to everybody.
                let by_port = bare(line).contains(&format!("crate::{other}::port"));
                if names_it && !by_port {
                    breaches.push(format!("{}:{} imports `{other}`", file.path, number + 1));
                }
            }
        }
    }
    assert_none("roles speak messages, they do not import each other", breaches);
}
