//! What must be written down: every error code has its line in `docs/errors.md`, and the README keeps its commands.

use std::fs;

use greylag_protocol::ErrorCode;

use crate::tree::{assert_none, root};

/// The line of `docs/errors.md` for a code.
fn line_of(code: ErrorCode) -> String {
    let class = format!("{:?}", code.class()).to_lowercase();
    format!("| {code} | {} | {class} | {} | {} |", code.sqlstate(), code.summary(), code.hint())
}

const ERRORS_HEAD: &str = "# Error codes

Every error that leaves Greylag has a stable code. `transient` and `overload` errors may succeed when repeated (after a
pause for `overload`); `permanent` ones will fail the same way again. Flight SQL clients find code, SQLSTATE and hint in
the response's metadata (`greylag-code`, `greylag-sqlstate`, `greylag-hint`).

| code | SQLSTATE | class | what happened | what to do |
|---|---|---|---|---|
";

#[test]
fn every_error_code_is_documented() {
    let path = root().join("docs/errors.md");
    if std::env::var_os("GREYLAG_TEST_UPDATE").is_some() {
        let lines: Vec<String> = ErrorCode::ALL.iter().map(|c| line_of(*c)).collect();
        fs::write(&path, format!("{ERRORS_HEAD}{}\n", lines.join("\n"))).unwrap();
    }
    let page = fs::read_to_string(&path).unwrap();
    let breaches = ErrorCode::ALL.iter().map(|c| line_of(*c)).filter(|line| !page.contains(line.as_str())).collect();
    assert_none("docs/errors.md has each code as the code says it", breaches);
}

#[test]
fn the_readme_keeps_its_commands() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for command in ["cargo run --release -p greylag -- demo", "./tests/run"] {
        assert!(readme.contains(command), "README no longer has `{command}`");
    }
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(ci.contains("tests/run"), ".ci/run must call ./tests/run");
}

#[test]
fn what_must_stand_at_the_root_does() {
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "deny.toml"] {
        assert!(root().join(name).is_file(), "{name} is missing");
    }
}
