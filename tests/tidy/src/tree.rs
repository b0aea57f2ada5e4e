//! The source tree as the laws see it: every tracked-looking file below the root, with its text.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Folders that are not ours to judge.
const SKIPPED: [&str; 4] = ["target", ".git", "node_modules", ".venv"];

pub struct SourceFile {
    /// Relative to the root, with `/`.
    pub path: String,
    pub text: String,
}

impl SourceFile {
    /// The part before the file's own unit tests.
    pub fn code(&self) -> &str {
        self.text.split("#[cfg(test)]\nmod ").next().unwrap_or(&self.text)
    }

    pub fn is_test(&self) -> bool {
        self.path.ends_with("_test.rs")
            || self.path.contains("_test/")
            || self.path.contains("/conformance/")
            || self.path.contains("/tests/")
            || self.path.starts_with("tests/")
    }
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// All files with this extension, sorted.
pub fn files(extension: &str) -> Vec<SourceFile> {
    let root = root();
    let mut found = Vec::new();
    walk(&root, &root, extension, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "no .{extension} files found: the walk is broken");
    found
}

fn walk(root: &Path, dir: &Path, extension: &str, found: &mut Vec<SourceFile>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !SKIPPED.contains(&name.as_str()) {
                walk(root, &path, extension, found);
            }
        } else if path.extension().is_some_and(|e| e == extension) {
            let relative = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
            found.push(SourceFile { path: relative, text: fs::read_to_string(&path).unwrap() });
        }
    }
}

/// Fails with every breach named.
pub fn assert_none(law: &str, breaches: Vec<String>) {
    assert!(breaches.is_empty(), "{law}:\n  {}", breaches.join("\n  "));
}
