//! `greylag audit`: proves, shows and exports audit folders, or copies of them. It needs no mesh and writes to no folder.

#[cfg(test)]
mod audit_test;
mod export;
mod folders;

use std::{
    io::{BufWriter, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use greylag_governance::audit::{
    AuditRecord, RecordHash,
    verify::{ChainReport, Copy, Knowledge, Report, verify},
};
use greylag_protocol::{NodeId, QueryId, state::AuditHead};

use self::folders::{find, rows};

#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Prove that no record was changed, dropped, reordered or forged. Exit code 1 if one was.
    ///
    /// Give the folders of all nodes together: they vouch for each other. What nobody vouches for yet, at the very end,
    /// can be cut off without being found
    Verify {
        /// Audit folders, or folders that hold several
        #[arg(required = true)]
        dirs: Vec<PathBuf>,
        /// A head that is known from elsewhere: `n2:1200:<hash>`
        #[arg(long = "head", value_name = "NODE:SEQUENCE:HASH", value_parser = head)]
        heads: Vec<AuditHead>,
        /// When the folders began to be copied, if their nodes were running: what a node has said of another one later
        /// than that does not prove that the other's end is missing
        #[arg(long, value_name = "UNIX_MS")]
        copied_unix_ms: Option<u64>,
        #[arg(long)]
        json: bool,
    },
    /// Write all records into one file, a row each
    Export {
        #[arg(long, value_enum)]
        format: export::Format,
        /// Must not exist yet
        #[arg(long)]
        out: PathBuf,
        #[arg(required = true)]
        dirs: Vec<PathBuf>,
    },
    /// Print the records of one statement as JSON
    Show {
        #[arg(required = true)]
        dirs: Vec<PathBuf>,
        #[arg(long)]
        query: QueryId,
    },
}

fn head(text: &str) -> Result<AuditHead, String> {
    let mut parts = text.split(':');
    let (node, sequence, hash) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(node), Some(sequence), Some(hash), None) => (node, sequence, hash),
        _ => return Err("a head is NODE:SEQUENCE:HASH".into()),
    };
    let node = node.trim_start_matches('n').parse().map_err(|_| format!("`{node}` is not a node id"))?;
    let sequence = sequence.parse().map_err(|_| format!("`{sequence}` is not a sequence"))?;
    let RecordHash(hash) = hash.parse()?;
    Ok(AuditHead { node: NodeId(node), sequence, hash })
}

pub fn run(args: AuditArgs) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Verify { dirs, heads, copied_unix_ms, json } => prove(&dirs, &Knowledge { heads, copied_unix_ms }, json),
        What::Export { format, out, dirs } => {
            let exported = export::run(format, &out, &dirs)?;
            println!("{} records of {} folders", exported.records, exported.folders);
            ensure!(
                exported.unreadable == 0,
                "{} lines cannot be read and are not in the file: see `greylag audit verify`",
                exported.unreadable
            );
            Ok(ExitCode::SUCCESS)
        }
        What::Show { dirs, query } => show(&dirs, query),
    }
}

fn prove(dirs: &[PathBuf], known: &Knowledge, json: bool) -> anyhow::Result<ExitCode> {
    let folders = find(dirs)?;
    let copies: Vec<Copy<'_>> =
        folders.iter().map(|folder| Copy { label: folder.path().display().to_string(), files: folder }).collect();
    let report = verify(&copies, known).context("a folder cannot be read")?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    if json {
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
    } else {
        write_report(&report, &mut out)?;
    }
    out.flush()?;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write_report(report: &Report, out: &mut impl Write) -> anyhow::Result<()> {
    for finding in &report.findings {
        writeln!(out, "{finding}")?;
    }
    if report.findings_left_out > 0 {
        writeln!(out, "and {} more", report.findings_left_out)?;
    }
    for chain in &report.chains {
        write_chain(chain, out)?;
    }
    if !report.absent.is_empty() {
        let absent: Vec<String> = report.absent.iter().map(NodeId::to_string).collect();
        writeln!(out, "vouched for, but no folder given: {}", absent.join(", "))?;
    }
    let (folders, records) = (report.chains.len(), report.chains.iter().map(|c| c.records).sum::<u64>());
    let findings = report.findings.len() as u64 + report.findings_left_out;
    match findings {
        0 => writeln!(out, "clean: {records} records in {folders} folders")?,
        _ => writeln!(out, "NOT CLEAN: {findings} findings in {records} records in {folders} folders")?,
    }
    Ok(())
}

fn write_chain(chain: &ChainReport, out: &mut impl Write) -> anyhow::Result<()> {
    let node = chain.node.map_or_else(|| "unknown node".to_owned(), |node| node.to_string());
    let ChainReport { folder, files, first, last, first_unix_ms, last_unix_ms, .. } = chain;
    write!(out, "{node}: records {first} to {last} in {files} files, ")?;
    write!(out, "{} to {}, ", instant(*first_unix_ms), instant(*last_unix_ms))?;
    match &chain.vouched {
        Some(vouched) => write!(out, "vouched for up to {} by {}", vouched.upto, vouched.by)?,
        None => write!(out, "vouched for by nobody")?,
    }
    if chain.crashes > 0 {
        write!(out, ", not closed {} times", chain.crashes)?;
    }
    if chain.repaired_bytes > 0 {
        write!(out, ", {} bytes of unfinished writes removed", chain.repaired_bytes)?;
    }
    if chain.unended_count > 0 {
        write!(out, ", {} statements without an end", chain.unended_count)?;
    }
    if chain.unfinished_bytes > 0 {
        write!(out, ", {} bytes of an unfinished record", chain.unfinished_bytes)?;
    }
    writeln!(out, " ({folder})")?;
    for query in &chain.unended {
        writeln!(out, "  began, and has no end: {query}")?;
    }
    Ok(())
}

/// As `2026-01-31T12:00:00.000Z`.
fn instant(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    arrow::temporal_conversions::timestamp_ms_to_datetime(ms)
        .map_or_else(|| unix_ms.to_string(), |at| at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

fn show(dirs: &[PathBuf], query: QueryId) -> anyhow::Result<ExitCode> {
    let mut found = false;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for folder in find(dirs)? {
        for row in rows(&folder)? {
            let Some(row) = row? else { continue };
            if row.record.facts().is_some_and(|facts| facts.query == query) {
                write_row(row.node, row.sequence, &row.record, &mut out)?;
                found = true;
            }
        }
    }
    out.flush()?;
    if !found {
        eprintln!("no record of {query}");
    }
    Ok(if found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write_row(node: Option<NodeId>, sequence: u64, record: &AuditRecord, out: &mut impl Write) -> anyhow::Result<()> {
    let row = serde_json::json!({ "node": node, "sequence": sequence, "record": record });
    writeln!(out, "{}", serde_json::to_string_pretty(&row)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_and_what_is_none_is_told() {
        let hash = "0123456789abcdef".repeat(4);
        let read = head(&format!("n2:1200:{hash}"));
        assert_eq!(
            read.map(|h| (h.node, h.sequence, RecordHash(h.hash).to_string())),
            Ok((NodeId(2), 1200, hash.clone()))
        );
        for bad in ["", "n2:1", "x:1:00", "n2:x:00", "n2:1:00", &format!("n2:1:{hash}:1")] {
            assert!(head(bad).is_err(), "{bad}");
        }
        assert_eq!(instant(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    }
}
