//! What a node tells of itself to monitoring: the only place where metrics have names. Without a recorder (it is the
//! binary's, and only where it is configured) all of this comes to nothing.
//!
//! It measures nothing by itself: whoever knows says it with one of these functions.
//!
//! INVARIANT: every label has a bounded number of values. Names that callers choose are counted apart only for the first
//! of them. `docs/metrics.md` has a line for each metric (checked by a test).

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use greylag_protocol::{ErrorCode, messages::control::BoundRow};
use metrics::{Counter, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::quota::METERED_MAX;

const STATEMENTS: &str = "greylag_statements_total";
const STEP: &str = "greylag_step_seconds";
const ROWS: &str = "greylag_returned_rows_total";
const BYTES: &str = "greylag_returned_bytes_total";
const ATTEMPTS: &str = "greylag_subquery_attempts_total";
const RESTARTS: &str = "greylag_restarts_total";
const WAITING: &str = "greylag_waiting_statements";
const DECISIONS: &str = "greylag_decisions_total";
const REFUSALS: &str = "greylag_quota_refusals_total";
const AUDIT: &str = "greylag_audit_records_total";
const CREDITS: &str = "greylag_used_microcredits_total";
const BOUND_USED: &str = "greylag_bound_used";
const BOUND_MAX: &str = "greylag_bound_max";
const BOUND_REFUSED: &str = "greylag_bound_refused";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric, for people.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub what: &'static str,
}

const fn metric(name: &'static str, kind: Kind, labels: &'static [&'static str], what: &'static str) -> Metric {
    Metric { name, kind, labels, what }
}

use Kind::{Counter as Sum, Gauge, Histogram};

/// All metrics.
pub const METRICS: [Metric; 14] = [
    metric(STATEMENTS, Sum, &["door", "outcome", "code"], "statements that have ended"),
    metric(STEP, Histogram, &["step"], "time that a statement spent in one of its steps"),
    metric(ROWS, Sum, &[], "rows that went to clients"),
    metric(BYTES, Sum, &[], "bytes of those rows, as batches in memory"),
    metric(ATTEMPTS, Sum, &["source", "rule", "outcome"], "attempts at sub-queries that have ended"),
    metric(RESTARTS, Sum, &["of"], "restarts of actors and of whole queries"),
    metric(WAITING, Gauge, &[], "statements that wait for a slot"),
    metric(DECISIONS, Sum, &["verdict", "cached"], "policy decisions given by this node"),
    metric(REFUSALS, Sum, &[], "statements refused or stopped because a quota was spent"),
    metric(AUDIT, Sum, &["outcome"], "audit records written, and refused because they could not be"),
    metric(CREDITS, Sum, &["organisation", "agent"], "price of what statements have used, in millionths of a credit"),
    metric(BOUND_USED, Gauge, &["name", "of"], "how much of a limit is taken, as in system.bounds"),
    metric(BOUND_MAX, Gauge, &["name", "of"], "the limit"),
    metric(BOUND_REFUSED, Gauge, &["name", "of"], "how often it was hit since the node started"),
];

/// Upper bounds of the buckets for [`STEP`], seconds: a cached decision takes microseconds, a statement up to minutes.
pub const SECONDS_BUCKETS: [f64; 15] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0];

/// Bound whose use is the queue of statements.
const QUEUE_BOUND: &str = "limits.queue_statements_max";
/// Limits that are shown; later ones are not.
const BOUNDS_MAX: usize = 4_096;
/// Sources that are told apart.
const SOURCES_MAX: usize = 256;
/// In the place of a name that is not told apart any more.
pub const OTHER: &str = "other";

/// Tells the recorder what each metric is.
pub fn describe() {
    for metric in METRICS {
        match metric.kind {
            Sum => describe_counter!(metric.name, metric.what),
            Gauge => describe_gauge!(metric.name, metric.what),
            Histogram => describe_histogram!(metric.name, metric.what),
        }
    }
}

/// How something has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed,
    Cancelled,
}

impl Outcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A statement has ended; `code` unless it is done.
pub fn statement(door: &str, outcome: Outcome, code: Option<ErrorCode>) {
    let code = code.map(|code| code.to_string()).unwrap_or_default();
    counter!(STATEMENTS, "door" => door.to_owned(), "outcome" => outcome.as_str(), "code" => code).increment(1);
}

/// A statement has spent time in a step.
pub fn step(name: &'static str, time: Duration) {
    histogram!(STEP, "step" => name).record(time);
}

/// Rows have gone to a client.
pub fn returned(rows: u64, bytes: u64) {
    counter!(ROWS).increment(rows);
    counter!(BYTES).increment(bytes);
}

/// An attempt at a sub-query has ended. `rule` is the one under which it was started.
pub fn attempt(source: &str, rule: &str, outcome: Outcome) {
    static SOURCES: Known = Known::new(SOURCES_MAX);
    let source = if SOURCES.admits(source) { source.to_owned() } else { OTHER.to_owned() };
    counter!(ATTEMPTS, "source" => source, "rule" => rule.to_owned(), "outcome" => outcome.as_str()).increment(1);
}

/// A supervisor has started an actor again.
pub fn actor_restarted() {
    counter!(RESTARTS, "of" => "actor").increment(1);
}

/// A query was begun again after rows of it were lost.
pub fn query_restarted() {
    counter!(RESTARTS, "of" => "query").increment(1);
}

/// A policy actor of this node has decided.
pub fn decision(permitted: bool, cached: bool) {
    let (verdict, cached) = (if permitted { "permit" } else { "deny" }, if cached { "yes" } else { "no" });
    counter!(DECISIONS, "verdict" => verdict, "cached" => cached).increment(1);
}

/// A quota has refused or stopped a statement.
pub fn quota_refused() {
    counter!(REFUSALS).increment(1);
}

/// An audit record was written.
pub fn audit_written() {
    counter!(AUDIT, "outcome" => "written").increment(1);
}

/// A statement was refused because its audit record could not be written.
pub fn audit_refused() {
    counter!(AUDIT, "outcome" => "refused").increment(1);
}

/// Counts the credits of one organisation and agent.
pub struct Credits(Counter);

/// Pairs of names that are told apart, in all nodes of this process.
static PAIRS: Known = Known::new(METERED_MAX);

impl Credits {
    pub(crate) fn of(organisation: &str, agent: Option<&str>) -> Self {
        let agent = agent.unwrap_or_default();
        if !PAIRS.admits(&format!("{organisation}\0{agent}")) {
            return Self::of_the_rest();
        }
        Self(counter!(CREDITS, "organisation" => organisation.to_owned(), "agent" => agent.to_owned()))
    }

    pub(crate) fn of_the_rest() -> Self {
        Self(counter!(CREDITS, "organisation" => OTHER, "agent" => OTHER))
    }

    pub(crate) fn add(&self, microcredits: u64) {
        self.0.increment(microcredits);
    }
}

impl std::fmt::Debug for Credits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credits")
    }
}

/// Sets the gauges, shortly before they are read.
pub fn bounds(rows: &[BoundRow]) {
    static SHOWN: Known = Known::new(BOUNDS_MAX);
    let gone = SHOWN.without(rows.iter().map(|row| (row.name.as_str(), row.of.as_str())));
    for (name, of) in gone {
        let labels = [("name", name), ("of", of)];
        [BOUND_USED, BOUND_MAX, BOUND_REFUSED].iter().for_each(|name| gauge!(*name, &labels).set(0));
    }
    for row in rows.iter().filter(|row| SHOWN.admits(&format!("{}\0{}", row.name, row.of))) {
        let labels = [("name", row.name.clone()), ("of", row.of.clone())];
        gauge!(BOUND_USED, &labels).set(row.used as f64);
        gauge!(BOUND_MAX, &labels).set(row.max as f64);
        gauge!(BOUND_REFUSED, &labels).set(row.refused as f64);
    }
    let waiting = rows.iter().filter(|row| row.name == QUEUE_BOUND).map(|row| row.used).sum::<u64>();
    gauge!(WAITING).set(waiting as f64);
}

/// The first names that came, so many at most.
struct Known {
    max: usize,
    names: Mutex<BTreeSet<String>>,
}

impl Known {
    const fn new(max: usize) -> Self {
        Self { max, names: Mutex::new(BTreeSet::new()) }
    }

    /// Pairs that were admitted and are none of these.
    fn without<'a>(&self, these: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(String, String)> {
        let these: BTreeSet<(&str, &str)> = these.collect();
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = names.iter().filter_map(|name| name.split_once('\0')).filter(|pair| !these.contains(pair));
        pairs.map(|(name, of)| (name.to_owned(), of.to_owned())).collect()
    }

    fn admits(&self, name: &str) -> bool {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.contains(name) || (names.len() < self.max && names.insert(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../docs/metrics.md");

    fn line(metric: &Metric) -> String {
        let kind = match metric.kind {
            Sum => "counter",
            Gauge => "gauge",
            Histogram => "histogram",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {kind} | {} | {} |", metric.name, labels.join(", "), metric.what)
    }

    #[test]
    fn the_page_lists_each_metric_and_no_other() {
        let listed: Vec<&str> = PAGE.lines().filter(|line| line.starts_with("| `greylag_")).collect();
        let expected: Vec<String> = METRICS.iter().map(line).collect();
        assert_eq!(listed, expected);
    }

    #[test]
    fn names_end_with_their_unit_and_counters_with_total() {
        for metric in METRICS {
            assert_eq!(metric.kind == Sum, metric.name.ends_with("_total"), "{}", metric.name);
            assert_eq!(metric.kind == Histogram, metric.name.ends_with("_seconds"), "{}", metric.name);
        }
        assert!(SECONDS_BUCKETS.is_sorted());
    }

    fn row(name: &str, of: &str, used: u64) -> BoundRow {
        let (name, of) = (name.to_owned(), of.to_owned());
        BoundRow { node: greylag_protocol::NodeId(1), name, of, max: 9, used, peak: used, refused: 2 }
    }

    #[test]
    fn everything_is_shown_under_its_name_and_labels() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            describe();
            statement("flight", Outcome::Failed, Some(ErrorCode::QuotaExceeded));
            step("planning", Duration::from_millis(3));
            returned(7, 4_096);
            attempt("orders", "R3", Outcome::Done);
            (actor_restarted(), query_restarted(), quota_refused(), audit_written(), audit_refused());
            decision(true, false);
            Credits::of("measured clinic", Some("a")).add(30);
            Credits::of_the_rest().add(4);
            bounds(&[row(QUEUE_BOUND, "", 3), row("limits.measured", "orders", 5)]);
            bounds(&[row(QUEUE_BOUND, "", 4)]);
        });
        let page = recorder.handle().render();
        for metric in METRICS {
            assert!(page.contains(&format!("# TYPE {} ", metric.name)), "{}", metric.name);
            let shown = page.lines().find(|line| line.starts_with(metric.name)).unwrap_or_default();
            assert!(metric.labels.iter().all(|label| shown.contains(&format!("{label}=\""))), "{shown}");
        }
        for line in [
            r#"greylag_statements_total{door="flight",outcome="failed",code="GL5007"} 1"#,
            "greylag_returned_bytes_total 4096",
            r#"greylag_subquery_attempts_total{source="orders",rule="R3",outcome="done"} 1"#,
            r#"greylag_decisions_total{verdict="permit",cached="no"} 1"#,
            r#"greylag_used_microcredits_total{organisation="measured clinic",agent="a"} 30"#,
            r#"greylag_used_microcredits_total{organisation="other",agent="other"} 4"#,
            "greylag_waiting_statements 4",
            r#"greylag_bound_used{name="limits.queue_statements_max",of=""} 4"#,
            r#"greylag_bound_used{name="limits.measured",of="orders"} 0"#,
        ] {
            assert!(page.lines().any(|shown| shown == line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn only_so_many_names_are_told_apart() {
        let known = Known::new(2);
        assert_eq!(["a", "b", "c", "a", "b"].map(|name| known.admits(name)), [true, true, false, true, true]);
    }
}
