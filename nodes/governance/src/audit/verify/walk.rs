//! One chain by itself: each line against its hash, its place and the line before it.
//!
//! A line that is not where its number says is told apart by the one after it: if that goes on where the walk stands, the
//! line was put in; if it leaves out one, the line stands in that one's place; if it goes on from the line, there is a gap.
//! What is missing and what stands elsewhere are matched at the end, in bounded memory.

use std::collections::BTreeSet;

use greylag_protocol::QueryId;

use super::{
    super::{
        FORMAT,
        line::{Chain, Line, RecordHash, is_beginning_of},
        record::AuditRecord,
        segment::{Ending, Entry},
    },
    ChainReport, Fault, Found, Place, UNENDED_MAX,
    anchors::Anchors,
};

/// Lines out of place, and gaps, that are kept to be matched; more are findings at once.
const STRAYS_MAX: usize = 10_000;

/// Statements that have begun and not ended, at one time; more are counted as if they never end.
const OPEN_STATEMENTS_MAX: usize = 100_000;

/// A line that waits for the one after it.
struct Waiting {
    entry: Entry,
    place: Place,
    in_last_file: bool,
}

pub(super) struct Walk<'a> {
    chain: Chain,
    found: &'a mut Found,
    report: &'a mut ChainReport,
    anchors: &'a mut Anchors,
    file: String,
    in_last_file: bool,
    waiting: Option<Waiting>,
    /// The record that the next line should be; 0 before the first.
    next: u64,
    /// Hash of the record before it, where it can be believed.
    previous: Option<RecordHash>,
    begin: u64,
    begin_place: Place,
    begin_previous: Option<RecordHash>,
    /// The chain itself says that what was before its first record has been removed, or lost.
    retired_before: bool,
    lost_before: bool,
    missing: Vec<(u64, u64, Place)>,
    strays: Vec<(u64, Place)>,
    open: BTreeSet<QueryId>,
    running: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        chain: Chain,
        found: &'a mut Found,
        report: &'a mut ChainReport,
        anchors: &'a mut Anchors,
    ) -> Self {
        Self {
            chain,
            found,
            report,
            anchors,
            file: String::new(),
            in_last_file: false,
            waiting: None,
            next: 0,
            previous: None,
            begin: 0,
            begin_place: Place::default(),
            begin_previous: None,
            retired_before: false,
            lost_before: false,
            missing: Vec::new(),
            strays: Vec::new(),
            open: BTreeSet::new(),
            running: false,
        }
    }

    /// The lines that follow are of this file.
    pub(super) fn enter(&mut self, first: u64, name: &str, last_file: bool) {
        (self.file, self.in_last_file) = (name.to_owned(), last_file);
        if self.next == 0 {
            (self.next, self.begin) = (first.max(1), first.max(1));
            self.begin_place = Place { file: name.to_owned(), line: 1 };
        }
    }

    pub(super) fn step(&mut self, entry: Entry) {
        let place = Place { file: self.file.clone(), line: entry.number };
        let following = entry.line().ok().map(|line| line.sequence);
        let waiting = Waiting { entry, place, in_last_file: self.in_last_file };
        if let Some(before) = self.waiting.replace(waiting) {
            self.look_at(&before, following);
        }
    }

    pub(super) fn end(mut self) {
        if let Some(last) = self.waiting.take() {
            self.look_at(&last, None);
        }
        self.head();
        self.match_strays();
        self.report.last = self.next.saturating_sub(1);
        let unended = self.open.iter().copied().take(UNENDED_MAX.saturating_sub(self.report.unended.len()));
        self.report.unended_count += self.open.len() as u64;
        self.report.unended.extend(unended);
        self.found.kept.sort_by_key(|finding| finding.first);
    }

    fn look_at(&mut self, waiting: &Waiting, following: Option<u64>) {
        let Waiting { entry, place, .. } = waiting;
        self.report.records += 1;
        match entry.line() {
            Ok(line) => self.place(&line, place, following),
            Err(why) => self.unreadable(waiting, following, why),
        }
    }

    fn unreadable(&mut self, waiting: &Waiting, following: Option<u64>, why: &str) {
        let Waiting { entry, place, in_last_file } = waiting;
        let at_the_end = entry.ending == Ending::Unfinished && *in_last_file;
        if at_the_end && is_beginning_of(&entry.bytes, self.next, self.previous.as_ref()) {
            self.report.records -= 1;
            self.report.unfinished_bytes = entry.bytes.len() as u64;
            return;
        }
        if following == Some(self.next) {
            let what = format!("a line that is no record was put before it: {why}");
            self.found.add(Fault::Forged, place, self.next, self.next, what);
            return;
        }
        self.found.add(Fault::Changed, place, self.next, self.next, format!("it cannot be read: {why}"));
        self.pass_over();
    }

    /// Something stands in the next record's place that is not it.
    fn pass_over(&mut self) {
        self.next += 1;
        self.previous = None;
    }

    fn place(&mut self, line: &Line<'_>, place: &Place, following: Option<u64>) {
        let (sequence, good) = (line.sequence, line.is_of(&self.chain));
        let first_of_all = self.report.records == 1;
        if first_of_all && good && sequence < self.next {
            let what = format!("the file's name says that it begins with record {}", self.next);
            self.found.add(Fault::Reordered, place, sequence, sequence, what);
            (self.next, self.begin) = (sequence, sequence);
        }
        let goes_on = following == sequence.checked_add(1) && sequence > self.next;
        if sequence == self.next {
            self.in_place(line, place, good);
        } else if !good && following == Some(self.next) {
            let what = "its hash is wrong, and it stands where no record is missing".into();
            self.found.add(Fault::Changed, place, sequence, sequence, what);
        } else if !good && !goes_on {
            let what = format!("its hash is wrong, and it says that it is record {sequence}");
            self.found.add(Fault::Changed, place, self.next, self.next, what);
            self.pass_over();
        } else if following == Some(self.next) {
            self.stray(line, place);
        } else if following == Some(self.next + 1) {
            self.gap(self.next, self.next, place);
            self.stray(line, place);
            self.pass_over();
        } else if sequence > self.next {
            self.gap(self.next, sequence - 1, place);
            (self.next, self.previous) = (sequence, None);
            self.in_place(line, place, good);
        } else {
            self.stray(line, place);
        }
    }

    fn in_place(&mut self, line: &Line<'_>, place: &Place, good: bool) {
        if !good {
            self.found.add(Fault::Changed, place, self.next, self.next, "its hash is wrong".into());
            self.pass_over();
            return;
        }
        if self.previous.is_some_and(|previous| previous != line.previous) {
            let what = format!("record {} names another hash for the one before it", self.next);
            self.found.add(Fault::Forged, place, self.next - 1, self.next, what);
        }
        if self.next == self.begin {
            self.begin_previous = Some(line.previous);
        }
        self.note(line, place);
        (self.next, self.previous) = (self.next + 1, Some(line.hash));
    }

    fn stray(&mut self, line: &Line<'_>, place: &Place) {
        self.note(line, place);
        if self.strays.len() < STRAYS_MAX {
            self.strays.push((line.sequence, place.clone()));
        } else {
            self.found.add(Fault::Reordered, place, line.sequence, line.sequence, "it is not in its place".into());
        }
    }

    fn gap(&mut self, first: u64, last: u64, place: &Place) {
        if self.missing.len() < STRAYS_MAX {
            self.missing.push((first, last, place.clone()));
        } else {
            self.found.add(Fault::Dropped, place, first, last, "missing before this line".into());
        }
    }

    /// Takes in what a record says of its chain and of others. Its hash is right.
    fn note(&mut self, line: &Line<'_>, place: &Place) {
        let Ok(record) = serde_json::from_slice::<AuditRecord>(line.record) else {
            let what = "its hash is right, and this release knows no such record".into();
            self.found.add(Fault::Forged, place, line.sequence, line.sequence, what);
            return;
        };
        let at = record.at_unix_ms();
        if self.report.first == 0 || line.sequence < self.report.first {
            (self.report.first, self.report.first_unix_ms) = (line.sequence, at);
        }
        self.report.last_unix_ms = self.report.last_unix_ms.max(at);
        match record {
            AuditRecord::Segment(r) if r.format > FORMAT => {
                let what = format!("its file has format {}, and this release knows up to {FORMAT}", r.format);
                self.found.add(Fault::Forged, place, line.sequence, line.sequence, what);
            }
            AuditRecord::Segment(_) | AuditRecord::Change(_) => {}
            AuditRecord::Opened(r) => {
                self.report.crashes += u64::from(self.running);
                self.report.repaired_bytes = self.report.repaired_bytes.saturating_add(r.repaired_bytes);
                self.running = true;
                self.lost_before |= r.lost_upto.is_some_and(|upto| upto + 1 == self.begin);
            }
            AuditRecord::Closed(_) => self.running = false,
            AuditRecord::Began(r) => self.began(r.facts.query),
            AuditRecord::Statement(r) => {
                self.open.remove(&r.facts.query);
            }
            AuditRecord::Heads(r) => self.anchors.say(self.chain, line.sequence, at, &r.heads),
            AuditRecord::Retired(r) => {
                let fits = r.upto.checked_add(1) == Some(self.begin) && self.begin_previous.is_none_or(|p| p == r.hash);
                self.retired_before |= fits;
            }
        }
    }

    fn began(&mut self, query: QueryId) {
        if self.open.len() >= OPEN_STATEMENTS_MAX {
            self.report.unended_count += 1;
        } else {
            self.open.insert(query);
        }
    }

    /// What was before the first record must have been removed by the node itself.
    fn head(&mut self) {
        if self.begin <= 1 || self.retired_before {
            return;
        }
        let what = match self.lost_before {
            true => "lost: the node has found its folder empty and gone on without them",
            false => "missing before the first record, and the chain does not say that they were removed",
        };
        let place = self.begin_place.clone();
        self.found.add(Fault::Dropped, &place, 1, self.begin - 1, what.into());
    }

    /// What is missing here and stands elsewhere has been moved; the rest is gone, or was put in.
    fn match_strays(&mut self) {
        let mut strays = std::mem::take(&mut self.strays);
        strays.sort_by_key(|(sequence, _)| *sequence);
        for (first, last, place) in std::mem::take(&mut self.missing) {
            let mut from = first;
            strays.retain(|(sequence, at)| {
                if *sequence < from || *sequence > last {
                    return true;
                }
                let what = format!("it belongs before {}, line {}", place.file, place.line);
                self.found.add(Fault::Reordered, at, *sequence, *sequence, what);
                if from < *sequence {
                    self.found.add(Fault::Dropped, &place, from, *sequence - 1, "missing before this line".into());
                }
                from = *sequence + 1;
                false
            });
            if from <= last {
                self.found.add(Fault::Dropped, &place, from, last, "missing before this line".into());
            }
        }
        for (sequence, place) in strays {
            if sequence == self.next {
                self.next += 1;
                let what = "it belongs after the last line".into();
                self.found.add(Fault::Reordered, &place, sequence, sequence, what);
            } else {
                self.found.add(Fault::Forged, &place, sequence, sequence, "it is no part of the chain here".into());
            }
        }
    }
}
