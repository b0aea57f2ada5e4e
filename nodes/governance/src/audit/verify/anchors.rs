//! What others say of a chain: sequence and hash of some of its records, from their own `heads` records or given from
//! outside.
//!
//! Since every record's hash covers all before it, the last anchor of each voucher proves all of them; the earlier ones
//! only tell where a forgery begins. So where there are too many, every second one may go.

use std::collections::BTreeMap;

use greylag_protocol::NodeId;

use super::{
    super::{
        line::{Chain, Line, RecordHash},
        record::HeadSeen,
    },
    ChainReport, Fault, Found, Knowledge, Place, Vouched,
};

/// Anchors that are kept for each chain, besides the last of each voucher.
pub const ANCHORS_MAX: usize = 1 << 16;

/// Who says so: a record of a chain, or the one who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Voucher {
    by: Option<NodeId>,
    sequence: u64,
    /// Said after the folders began to be copied: more may have been written since the target was.
    late: bool,
}

impl Voucher {
    fn name(&self) -> String {
        match self.by {
            Some(node) => format!("{node} in its record {}", self.sequence),
            None => "the head that was given".into(),
        }
    }
}

type Said = BTreeMap<(u64, RecordHash), Voucher>;

/// All of them, by the chain that they are about.
#[derive(Debug, Default)]
pub(super) struct Anchors {
    said: BTreeMap<Chain, Said>,
    /// The last of each voucher.
    last: BTreeMap<(Chain, Option<NodeId>), (u64, RecordHash, Voucher)>,
    until_unix_ms: u64,
}

impl Anchors {
    /// Heads do not say of which mesh they are: of each that is here.
    pub(super) fn given(known: &Knowledge, chains: impl Iterator<Item = Chain>) -> Self {
        let until_unix_ms = known.copied_unix_ms.unwrap_or(u64::MAX);
        let mut anchors = Self { until_unix_ms, ..Self::default() };
        for mesh in chains.map(|chain| chain.mesh) {
            for head in &known.heads {
                let voucher = Voucher { by: None, sequence: 0, late: false };
                anchors.add(Chain { mesh, node: head.node }, head.sequence, RecordHash(head.hash), voucher);
            }
        }
        anchors
    }

    /// `by` says so in this record of its chain.
    pub(super) fn say(&mut self, by: Chain, sequence: u64, at_unix_ms: u64, heads: &[HeadSeen]) {
        for head in heads {
            let target = Chain { mesh: by.mesh, node: head.node };
            let voucher = Voucher { by: Some(by.node), sequence, late: at_unix_ms > self.until_unix_ms };
            self.add(target, head.sequence, head.hash, voucher);
        }
    }

    fn add(&mut self, target: Chain, sequence: u64, hash: RecordHash, voucher: Voucher) {
        let last = self.last.entry((target, voucher.by)).or_insert((sequence, hash, voucher));
        if sequence >= last.0 {
            *last = (sequence, hash, voucher);
        }
        let said = self.said.entry(target).or_default();
        let kept = said.entry((sequence, hash)).or_insert(voucher);
        // One that counts for more, in place of another that says the same.
        if (kept.late, kept.by == Some(target.node)) > (voucher.late, voucher.by == Some(target.node)) {
            *kept = voucher;
        }
        if said.len() > ANCHORS_MAX {
            let mut keep = false;
            said.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = &Chain> {
        self.said.keys()
    }

    /// Compares a chain with what is said of it.
    pub(super) fn check(&self, chain: Chain) -> Check {
        let mut said = self.said.get(&chain).cloned().unwrap_or_default();
        for ((target, _), (sequence, hash, voucher)) in &self.last {
            if *target == chain {
                said.entry((*sequence, *hash)).or_insert(*voucher);
            }
        }
        Check { chain, said, last: 0, end: Place::default(), agreed: 0, vouched: None, contradicted: None }
    }
}

/// The first record that is not the one that somebody vouches for.
#[derive(Debug)]
struct Contradicted {
    place: Place,
    after: u64,
    sequence: u64,
    voucher: Voucher,
    others: u64,
}

#[derive(Debug)]
pub(super) struct Check {
    chain: Chain,
    said: Said,
    /// The last record that is there, and where.
    last: u64,
    end: Place,
    /// The last record of which somebody says the same.
    agreed: u64,
    vouched: Option<(u64, Voucher)>,
    contradicted: Option<Contradicted>,
}

impl Check {
    pub(super) fn pass(&mut self, line: &Line<'_>, file: &str, number: u64) {
        let sequence = line.sequence;
        if self.last == 0 && sequence > 1 {
            // What the first record names as the one before it, which is in a file that has been removed.
            self.compare(sequence - 1, line.previous, file, number);
        }
        if sequence >= self.last {
            self.last = sequence;
            self.end = Place { file: file.to_owned(), line: number };
        }
        self.compare(sequence, line.hash, file, number);
    }

    fn compare(&mut self, sequence: u64, stated: RecordHash, file: &str, number: u64) {
        let range = (sequence, RecordHash([0; 32]))..=(sequence, RecordHash([0xff; 32]));
        for ((_, hash), voucher) in self.said.range(range) {
            if *hash == stated {
                self.agreed = self.agreed.max(sequence);
                let by_another = voucher.by != Some(self.chain.node);
                if by_another && self.contradicted.is_none() && self.vouched.is_none_or(|(upto, _)| upto < sequence) {
                    self.vouched = Some((sequence, *voucher));
                }
            } else if let Some(contradicted) = &mut self.contradicted {
                contradicted.others += 1;
            } else {
                let place = Place { file: file.to_owned(), line: number };
                let (after, voucher) = (self.agreed, *voucher);
                self.contradicted = Some(Contradicted { place, after, sequence, voucher, others: 0 });
            }
        }
    }

    pub(super) fn end(self, found: &mut Found, report: &mut ChainReport) {
        report.vouched = self.vouched.map(|(upto, voucher)| Vouched { upto, by: voucher.name() });
        if let Some(Contradicted { place, after, sequence, voucher, others }) = self.contradicted {
            let mut what = format!("{} vouches for another record {sequence}", voucher.name());
            if others > 0 {
                what.push_str(&format!(", and later ones are contradicted {others} times"));
            }
            found.add(Fault::Forged, &place, after + 1, sequence, what);
        }
        let beyond = self.said.iter().rev().find(|((sequence, _), voucher)| *sequence > self.last && !voucher.late);
        if let Some(((sequence, _), voucher)) = beyond {
            let what = format!(
                "{} vouches for record {sequence}: the end was cut off, or copied before that was written",
                voucher.name()
            );
            found.add(Fault::Dropped, &self.end, self.last + 1, *sequence, what);
        }
    }
}
