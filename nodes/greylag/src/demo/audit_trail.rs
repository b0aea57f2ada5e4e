//! What the governance tour asks of the nodes' audit folders, as files and without the mesh: that a change is in them with
//! both epochs, and that `greylag audit verify` names what somebody has touched.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// Pause between two looks at the files.
const LOOK: Duration = Duration::from_millis(50);

/// Segments of a folder, the oldest first; none before a node has written anything.
fn segments(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(folder).with_context(|| format!("`{}`", folder.display()))?;
    let mut files = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "ndjson"));
    files.sort();
    Ok(files)
}

/// All records of all folders. A last line that is being written is left out.
fn records(folders: &[PathBuf]) -> anyhow::Result<Vec<Value>> {
    let mut records = Vec::new();
    for file in folders.iter().map(|folder| segments(folder)).collect::<anyhow::Result<Vec<_>>>()?.concat() {
        let text = std::fs::read_to_string(&file)?;
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.extend(lines.filter_map(|line| line.get("record").cloned()));
    }
    Ok(records)
}

/// Waits until the folders hold the change of a policy from one epoch to the other, and statements of the principal that
/// were decided on both sides of it.
pub async fn shows_change(
    folders: &[PathBuf],
    policy: &str,
    (before, after): (u64, u64),
    principal: &str,
    patience: Duration,
) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let why = match missing(&records(folders)?, policy, (before, after), principal) {
            None => return Ok(()),
            Some(why) => why,
        };
        ensure!(started.elapsed() < patience, "the audit has no {why}");
        tokio::time::sleep(LOOK).await;
    }
}

fn missing(records: &[Value], policy: &str, (before, after): (u64, u64), principal: &str) -> Option<&'static str> {
    let of = |kind: &'static str| records.iter().filter(move |record| record["kind"] == kind);
    let change = of("change").find(|record| {
        let names_it = record["what"].as_str().is_some_and(|what| what.contains(policy));
        names_it && record["epoch_before"].as_u64() == Some(before) && record["epoch_after"].as_u64() == Some(after)
    });
    if change.is_none() {
        return Some("record of the change with both epochs");
    }
    let decided = |is: &dyn Fn(u64) -> bool| {
        of("statement").any(|record| {
            record["who"]["principal"] == principal && record["decision"]["epoch"].as_u64().is_some_and(is)
        })
    };
    if !decided(&|epoch| epoch <= before) {
        return Some("statement that was decided before the change");
    }
    (!decided(&|epoch| epoch >= after)).then_some("statement that was decided after the change")
}

/// Copies the folders, has the copies verified, flips one bit in a record of one of them, and has them verified again. The
/// finding that names it, or why there is none.
pub fn finds_tampering(copies: &Path, folders: &[PathBuf]) -> anyhow::Result<String> {
    let mut copied = Vec::new();
    for (at, folder) in folders.iter().enumerate() {
        let copy = copies.join(format!("node{}", at + 1));
        std::fs::create_dir_all(&copy)?;
        for file in segments(folder)? {
            std::fs::copy(&file, copy.join(file.file_name().context("a file has no name")?))?;
        }
        copied.push(copy);
    }
    let (clean, output) = verify(&copied)?;
    ensure!(clean, "untouched copies are found fault with: {output}");
    let (file, line) = flip(&copied)?;
    let (clean, output) = verify(&copied)?;
    ensure!(!clean, "a flipped bit in line {line} of `{}` is not found", file.display());
    let name = file.file_name().and_then(|name| name.to_str()).context("a file has no name")?;
    let finding = output.lines().find(|found| found.contains(name) && found.contains(&line.to_string()));
    finding.map(str::to_owned).with_context(|| format!("line {line} of `{name}` is not named: {output}"))
}

fn verify(folders: &[PathBuf]) -> anyhow::Result<(bool, String)> {
    let done = Command::new(std::env::current_exe()?).args(["audit", "verify"]).args(folders).output()?;
    let output = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    match done.status.code() {
        Some(0) => Ok((true, output)),
        Some(1) => Ok((false, output)),
        other => bail!("`greylag audit verify` ended with {other:?}: {output}"),
    }
}

/// Flips a bit inside the principal's name of a statement's record: the line still is JSON. Its file and line number.
fn flip(folders: &[PathBuf]) -> anyhow::Result<(PathBuf, usize)> {
    for file in folders.iter().map(|folder| segments(folder)).collect::<anyhow::Result<Vec<_>>>()?.concat() {
        let mut bytes = std::fs::read(&file)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut at = 0;
        for (number, line) in text.split_inclusive('\n').enumerate() {
            let (kind, name) = ("\"kind\":\"statement\"", "\"principal\":\"");
            if let (true, Some(found)) = (line.contains(kind), line.find(name)) {
                bytes[at + found + name.len()] ^= 1;
                std::fs::write(&file, bytes)?;
                return Ok((file, number + 1));
            }
            at += line.len();
        }
    }
    bail!("the audit holds no statement")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_is_shown_with_statements_on_both_sides() {
        let change = json!({ "kind": "change", "what": "policy p", "epoch_before": 4, "epoch_after": 5 });
        let statement =
            |epoch: u64| json!({ "kind": "statement", "who": { "principal": "ada" }, "decision": { "epoch": epoch } });
        let missing = |records: &[Value]| missing(records, "p", (4, 5), "ada");
        assert_eq!(missing(&[change.clone(), statement(4), statement(5)]), None);
        assert!(missing(&[statement(4), statement(5)]).unwrap().contains("the change"));
        assert!(missing(&[change.clone(), statement(5)]).unwrap().contains("before"));
        assert!(missing(&[change, statement(3)]).unwrap().contains("after"));
    }

    #[test]
    fn one_bit_of_one_statement_is_flipped() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("audit-1.ndjson");
        let text = "{\"record\":{\"kind\":\"opened\"}}\n{\"record\":{\"kind\":\"statement\",\"who\":{\"principal\":\"berta\"}}}\n";
        std::fs::write(&file, text).unwrap();
        assert_eq!(flip(&[dir.path().to_owned()]).unwrap(), (file.clone(), 2));
        let bytes = std::fs::read(&file).unwrap();
        let flipped: Vec<usize> = (0..text.len()).filter(|at| bytes[*at] != text.as_bytes()[*at]).collect();
        assert_eq!((bytes.len(), flipped.len()), (text.len(), 1));
        assert!(serde_json::from_slice::<Value>(bytes.split(|b| *b == b'\n').nth(1).unwrap()).is_ok());
    }
}
