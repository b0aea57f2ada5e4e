//! Proves copies of any number of nodes' audit folders, without a mesh: names every record that was changed, dropped,
//! reordered or forged, and says of the rest how far somebody else vouches for it.
//!
//! Three passes over the files, each line by line: whose chain a folder holds, each chain by itself with what it says of
//! others, and each chain against what others say of it. Memory is bounded by the number of folders and by the named
//! maxima, not by the number of records.
//!
//! INVARIANT: a folder as its node has left it has no findings, and one whose vouched-for part was changed by anybody who
//! has not changed all vouchers too has at least one.

mod anchors;
mod owner;
#[cfg(test)]
mod verify_test;
mod walk;

use std::{fmt, io};

use greylag_protocol::{MeshId, NodeId, QueryId, state::AuditHead};
use serde::Serialize;

pub use self::owner::owner;
use self::{anchors::Anchors, owner::Sample, walk::Walk};
use super::{
    line::Chain,
    segment::{Entries, segment_files},
    storage::AuditFiles,
};

/// Findings that are kept for each folder; the rest is counted.
pub const FINDINGS_MAX: usize = 1_000;

/// Statements without an end that are kept for each folder; the rest is counted.
pub const UNENDED_MAX: usize = 100;

/// One node's folder, or a copy of it.
#[derive(Debug)]
pub struct Copy<'a> {
    /// Name for people, such as its path.
    pub label: String,
    pub files: &'a dyn AuditFiles,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// It is not what its hash says, or cannot be read.
    Changed,
    /// It is not there.
    Dropped,
    /// It is not where it belongs.
    Reordered,
    /// By itself it looks right, and contradicts its neighbours or what others vouch for.
    Forged,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Changed => "changed",
            Fault::Dropped => "dropped",
            Fault::Reordered => "reordered",
            Fault::Forged => "forged",
        })
    }
}

/// One or several records in a row of which the same is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub fault: Fault,
    pub folder: String,
    /// `None`: nothing says whose it is.
    pub node: Option<NodeId>,
    /// Where it is, or where it should have been.
    pub file: String,
    /// From 1; 0 where there is none.
    pub line: u64,
    /// First and last record that it is about.
    pub first: u64,
    pub last: u64,
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, folder, file, line, first, last, what, .. } = self;
        write!(f, "{fault}: ")?;
        match self.node {
            Some(node) => write!(f, "{node} ")?,
            None => f.write_str("unknown node ")?,
        }
        match first == last {
            true => write!(f, "record {first}")?,
            false => write!(f, "records {first} to {last}")?,
        }
        write!(f, " ({folder}/{file}")?;
        if *line > 0 {
            write!(f, ", line {line}")?;
        }
        write!(f, "): {what}")
    }
}

/// How far somebody else vouches for a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vouched {
    pub upto: u64,
    pub by: String,
}

/// A folder, as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ChainReport {
    pub folder: String,
    pub mesh: Option<MeshId>,
    pub node: Option<NodeId>,
    pub files: u64,
    pub records: u64,
    pub first: u64,
    pub last: u64,
    pub first_unix_ms: u64,
    pub last_unix_ms: u64,
    /// What comes after can be cut off without being found. `None`: nobody vouches for any of it.
    pub vouched: Option<Vouched>,
    /// Bytes of a last record that was not written to its end.
    pub unfinished_bytes: u64,
    /// Bytes that were removed when it was opened again, as what an unfinished write had left.
    pub repaired_bytes: u64,
    /// Times that the node has begun to write without having closed before.
    pub crashes: u64,
    /// Statements whose first row may have left and whose end is not there: at most [`UNENDED_MAX`] of them.
    pub unended: Vec<QueryId>,
    pub unended_count: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub chains: Vec<ChainReport>,
    /// In the order of the folders, and there of the files.
    pub findings: Vec<Finding>,
    /// Findings over [`FINDINGS_MAX`].
    pub findings_left_out: u64,
    /// Nodes that are vouched for, of which there is no folder here.
    pub absent: Vec<NodeId>,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Findings of one folder, bounded.
#[derive(Debug, Default)]
struct Found {
    folder: String,
    node: Option<NodeId>,
    kept: Vec<Finding>,
    left_out: u64,
}

/// Where something is in a folder.
#[derive(Debug, Clone, Default)]
struct Place {
    file: String,
    line: u64,
}

impl Found {
    fn add(&mut self, fault: Fault, place: &Place, first: u64, last: u64, what: String) {
        if self.kept.len() >= FINDINGS_MAX {
            self.left_out += 1;
            return;
        }
        let (folder, file) = (self.folder.clone(), place.file.clone());
        self.kept.push(Finding { fault, folder, node: self.node, file, line: place.line, first, last, what });
    }
}

/// A folder on its way through the passes.
struct Case<'a> {
    copy: &'a Copy<'a>,
    segments: Vec<(u64, String)>,
    chain: Option<Chain>,
    found: Found,
    report: ChainReport,
}

impl<'a> Case<'a> {
    fn new(copy: &'a Copy<'a>, segments: Vec<(u64, String)>, chain: Option<Chain>) -> Self {
        let (mesh, node) = (chain.map(|c| c.mesh), chain.map(|c| c.node));
        let found = Found { folder: copy.label.clone(), node, ..Found::default() };
        let (folder, files) = (copy.label.clone(), segments.len() as u64);
        let report = ChainReport { folder, mesh, node, files, ..ChainReport::default() };
        Self { copy, segments, chain, found, report }
    }
}

/// What is known besides the files.
#[derive(Debug, Clone, Default)]
pub struct Knowledge {
    /// Heads that are to be believed.
    pub heads: Vec<AuditHead>,
    /// When the folders began to be copied, if they were still written then: what a node has said of another one later
    /// does not prove that the other's end is missing.
    pub copied_unix_ms: Option<u64>,
}

/// Proves all of these together.
pub fn verify(copies: &[Copy<'_>], known: &Knowledge) -> io::Result<Report> {
    let mut samples = Vec::new();
    for copy in copies {
        let segments = segment_files(copy.files)?;
        samples.push((Sample::of(copy.files, &segments)?, segments));
    }
    let meshes = samples.iter().flat_map(|(sample, _)| sample.meshes()).collect();
    let mut cases: Vec<Case<'_>> = copies
        .iter()
        .zip(samples)
        .map(|(copy, (sample, segments))| Case::new(copy, segments, sample.owner(&meshes)))
        .collect();
    let mut anchors = Anchors::given(known, cases.iter().filter_map(|case| case.chain));
    for case in &mut cases {
        by_itself(case, &mut anchors)?;
    }
    for case in &mut cases {
        against_others(case, &anchors)?;
    }
    let here: Vec<Chain> = cases.iter().filter_map(|case| case.chain).collect();
    let absent = anchors.targets().filter(|target| !here.contains(target)).map(|target| target.node).collect();
    let mut report = Report { absent, ..Report::default() };
    for case in cases {
        report.findings.extend(case.found.kept);
        report.findings_left_out += case.found.left_out;
        report.chains.push(case.report);
    }
    Ok(report)
}

fn by_itself(case: &mut Case<'_>, anchors: &mut Anchors) -> io::Result<()> {
    let Some(chain) = case.chain else {
        let (first, file) = case.segments.first().cloned().unwrap_or_default();
        let place = Place { file, line: 0 };
        case.found.add(Fault::Changed, &place, first, first, "nothing in the folder says whose chain it is".into());
        return Ok(());
    };
    let mut walk = Walk::new(chain, &mut case.found, &mut case.report, anchors);
    for (at, (first, name)) in case.segments.iter().enumerate() {
        walk.enter(*first, name, at + 1 == case.segments.len());
        for entry in Entries::of(case.copy.files, name)? {
            walk.step(entry?);
        }
    }
    walk.end();
    Ok(())
}

fn against_others(case: &mut Case<'_>, anchors: &Anchors) -> io::Result<()> {
    let Some(chain) = case.chain else { return Ok(()) };
    let mut check = anchors.check(chain);
    for (_, name) in &case.segments {
        for entry in Entries::of(case.copy.files, name)? {
            let entry = entry?;
            if let Ok(line) = entry.line() {
                check.pass(&line, name, entry.number);
            }
        }
    }
    check.end(&mut case.found, &mut case.report);
    Ok(())
}
