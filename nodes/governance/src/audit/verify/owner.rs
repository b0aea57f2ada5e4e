//! Whose chain a folder holds: what its files say of themselves, believed as far as the hashes agree with it.
//!
//! One record that says so and was changed is not enough to be taken in: of all that is claimed, the claim by which the
//! most hashes of a sample are right is taken. Where none is by which any is, what other folders say is tried too.

use std::{collections::BTreeSet, io};

use greylag_protocol::{MeshId, NodeId};

use super::super::{
    line::Chain,
    record::AuditRecord,
    segment::{Entries, Entry, segment_files},
    storage::AuditFiles,
};

/// Lines that are looked at, of the first file and of each other, and in all.
const FIRST_FILE_LINES: usize = 32;
const FILE_LINES: usize = 2;
const SAMPLE_LINES_MAX: usize = 200;

/// Nodes that are tried besides those that are named: their numbers are given out from 1 on.
const NODES_TRIED: u64 = 64;

/// Some lines of a folder.
pub(super) struct Sample {
    entries: Vec<Entry>,
    claims: BTreeSet<Chain>,
}

impl Sample {
    pub(super) fn of(files: &dyn AuditFiles, segments: &[(u64, String)]) -> io::Result<Self> {
        let mut entries: Vec<Entry> = Vec::new();
        for (at, (_, name)) in segments.iter().enumerate() {
            let lines = if at == 0 { FIRST_FILE_LINES } else { FILE_LINES };
            for entry in Entries::of(files, name)?.take(lines.min(SAMPLE_LINES_MAX - entries.len())) {
                entries.push(entry?);
            }
        }
        let claims = entries.iter().filter_map(Entry::record).filter_map(|r| claimed(&r)).collect();
        Ok(Self { entries, claims })
    }

    /// The chain by which the most of its hashes are right. `meshes` are those that other folders claim.
    pub(super) fn owner(&self, meshes: &BTreeSet<MeshId>) -> Option<Chain> {
        let right =
            |chain: &Chain| self.entries.iter().filter(|e| e.line().is_ok_and(|line| line.is_of(chain))).count();
        let best = self.claims.iter().copied().max_by_key(right);
        if best.is_some_and(|chain| right(&chain) > 0) {
            return best;
        }
        let nodes = || (1..=NODES_TRIED).map(NodeId).chain(self.claims.iter().map(|c| c.node));
        let tried = meshes.iter().flat_map(|mesh| nodes().map(|node| Chain { mesh: *mesh, node }));
        tried.filter(|chain| right(chain) > 0).max_by_key(right).or(best)
    }

    pub(super) fn meshes(&self) -> impl Iterator<Item = MeshId> {
        self.claims.iter().map(|chain| chain.mesh)
    }
}

fn claimed(record: &AuditRecord) -> Option<Chain> {
    match record {
        AuditRecord::Segment(r) => Some(Chain { mesh: r.mesh, node: r.node }),
        AuditRecord::Opened(r) => Some(Chain { mesh: r.mesh, node: r.node }),
        _ => None,
    }
}

/// Whose chain the folder holds, as far as it can be told from itself.
pub fn owner(files: &dyn AuditFiles) -> io::Result<Option<Chain>> {
    let sample = Sample::of(files, &segment_files(files)?)?;
    let meshes = sample.meshes().collect();
    Ok(sample.owner(&meshes))
}
