//! Audit folders among those that were named, and their records one by one. What cannot be read is told and passed over;
//! whether the rest is right, `verify` says.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use greylag_governance::audit::{AuditRecord, Entries, Folder, RecordHash, segment_files, verify::owner};
use greylag_protocol::NodeId;

/// Folders below one that was named: `copies/n1/audit`.
const DEPTH_MAX: u32 = 4;

/// Audit folders in one call.
const FOLDERS_MAX: usize = 1_000;

/// All audit folders among or below these, in order.
pub fn find(dirs: &[PathBuf]) -> anyhow::Result<Vec<Folder>> {
    let mut found = Vec::new();
    for dir in dirs {
        let before = found.len();
        look(dir, DEPTH_MAX, &mut found).with_context(|| format!("`{}`", dir.display()))?;
        ensure!(found.len() > before, "no audit files in `{}` or below", dir.display());
    }
    found.sort();
    found.dedup();
    Ok(found.into_iter().map(Folder::at).collect())
}

fn look(dir: &Path, depth: u32, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if !segment_files(&Folder::at(dir.to_owned()))?.is_empty() {
        if found.len() >= FOLDERS_MAX {
            bail!("more than {FOLDERS_MAX} audit folders");
        }
        found.push(dir.canonicalize()?);
        return Ok(());
    }
    if depth == 0 {
        return Ok(());
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            look(&entry.path(), depth - 1, found)?;
        }
    }
    Ok(())
}

/// One record with its place.
#[derive(Debug, Clone)]
pub struct Row {
    pub node: Option<NodeId>,
    pub sequence: u64,
    pub hash: RecordHash,
    pub record: AuditRecord,
}

/// All lines of a folder; `None` for one that is no record.
pub fn rows(folder: &Folder) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Option<Row>>>> {
    let node = owner(folder)?.map(|chain| chain.node);
    let files = segment_files(folder)?;
    let lines = files.into_iter().flat_map(move |(_, name)| {
        let (entries, error) = match Entries::of(folder, &name) {
            Ok(entries) => (Some(entries), None),
            Err(error) => (None, Some(error)),
        };
        error.into_iter().map(Err).chain(entries.into_iter().flatten())
    });
    Ok(lines.map(move |entry| {
        let entry = entry?;
        let Ok(line) = entry.line() else { return Ok(None) };
        let (sequence, hash) = (line.sequence, line.hash);
        Ok(entry.record().map(|record| Row { node, sequence, hash, record }))
    }))
}
