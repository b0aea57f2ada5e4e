//! How files read: a head that says what they are, names that mean something, lengths a reader can hold.

use crate::tree::{SourceFile, assert_none, files};

const FILE_LINES_MAX: usize = 500;
/// Tables of cases may be longer.
const TEST_FILE_LINES_MAX: usize = 750;
const FUNCTION_LINES_MAX: usize = 70;
const BANNED_NAMES: [&str; 6] = ["utils", "helpers", "common", "manager", "misc", "util"];

fn ours() -> Vec<SourceFile> {
    files("rs")
}

#[test]
fn files_are_short() {
    let breaches = ours()
        .into_iter()
        .map(|f| (f.text.lines().count(), if f.is_test() { TEST_FILE_LINES_MAX } else { FILE_LINES_MAX }, f.path))
        .filter(|(lines, max, _)| lines > max)
        .map(|(lines, _, path)| format!("{path}: {lines} lines"))
        .collect();
    assert_none("files have at most 500 lines", breaches);
}

#[test]
fn files_say_what_they_are() {
    let breaches = ours()
        .into_iter()
        .filter(|f| !f.text.starts_with("//!") && !f.text.starts_with("#!"))
        .map(|f| f.path)
        .collect();
    assert_none("a file opens with what it is", breaches);
}

#[test]
fn names_mean_something() {
    let breaches = ours()
        .into_iter()
        .filter(|f| f.path.trim_end_matches(".rs").split('/').any(|part| BANNED_NAMES.contains(&part)))
        .map(|f| f.path)
        .collect();
    assert_none("no utils, helpers, common, manager, misc", breaches);
}

#[test]
fn functions_are_short() {
    let mut breaches = Vec::new();
    for file in ours().into_iter().filter(|f| !f.is_test()) {
        for (name, line, length) in functions(file.code()) {
            if length > FUNCTION_LINES_MAX {
                breaches.push(format!("{}:{line} `{name}` has {length} lines", file.path));
            }
        }
    }
    assert_none("functions have at most 70 lines", breaches);
}

/// Name, first line and length of each function, told by rustfmt's indentation: it ends at the first `}` that stands
/// as deep as its `fn`.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        let Some(at) = trimmed.find("fn ") else { continue };
        let prefix_is_modifiers = trimmed[..at].split_whitespace().all(|w| {
            matches!(w, "pub" | "async" | "const" | "unsafe" | "extern" | "\"C\"" | "pub(crate)" | "pub(super)")
        });
        if !prefix_is_modifiers || trimmed.ends_with(';') {
            continue;
        }
        let close = format!("{}}}", " ".repeat(indent));
        let Some(end) = lines[start..].iter().position(|l| **l == close) else { continue };
        let name = trimmed[at + 3..].split(['(', '<']).next().unwrap_or("").to_owned();
        found.push((name, start + 1, end + 1));
    }
    found
}

#[test]
fn nothing_is_left_open() {
    let words = ["todo!(", "unimplemented!(", "FIXME", "XXX"];
    let mut breaches = Vec::new();
    for file in ours().into_iter().filter(|f| !f.path.starts_with("tests/tidy/")) {
        for (number, line) in file.text.lines().enumerate() {
            if words.iter().any(|w| line.contains(w)) {
                breaches.push(format!("{}:{}", file.path, number + 1));
            }
        }
    }
    assert_none("nothing is left open in the code", breaches);
}
