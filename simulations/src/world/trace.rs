//! The trace of a run: every datagram with its bytes, every disk operation that lasts, every note, at its virtual time,
//! folded into one hash. Two runs are the same run if their hashes are.

use std::{cell::RefCell, net::SocketAddr, time::Duration};

/// What a trace comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub hash: u64,
    pub events: u64,
    pub bytes: u64,
}

#[derive(Default)]
struct Trace {
    summary: Summary,
    notes: Vec<String>,
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::new(Trace::default());
}

/// FNV-1a: no keys, no state outside the trace.
pub fn fold(hash: u64, bytes: &[u8]) -> u64 {
    let start = if hash == 0 { 0xcbf2_9ce4_8422_2325 } else { hash };
    bytes.iter().fold(start, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

fn record(head: &str, bytes: &[u8]) {
    let at = turmoil::sim_elapsed().unwrap_or_default();
    TRACE.with(|trace| {
        let summary = &mut trace.borrow_mut().summary;
        summary.hash = fold(fold(summary.hash, format!("{at:?} {head}").as_bytes()), bytes);
        summary.events += 1;
        summary.bytes += bytes.len() as u64;
    });
}

pub fn datagram(direction: &str, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
    record(&format!("{direction} {from} {to}"), bytes);
}

pub fn disk(what: &str, bytes: &[u8]) {
    record(what, bytes);
}

/// A line for people, in the hash as well, from inside a host.
pub fn note(text: impl Into<String>) {
    note_at(turmoil::sim_elapsed().unwrap_or_default(), text);
}

/// The same from outside, where nobody but the caller knows the virtual time.
pub fn note_at(at: Duration, text: impl Into<String>) {
    let text = text.into();
    record(&text, &[]);
    TRACE.with(|trace| trace.borrow_mut().notes.push(format!("{:>8.3} {text}", at.as_secs_f64())));
}

pub fn summary() -> Summary {
    TRACE.with(|trace| trace.borrow().summary)
}

pub fn notes() -> Vec<String> {
    TRACE.with(|trace| trace.borrow().notes.clone())
}
