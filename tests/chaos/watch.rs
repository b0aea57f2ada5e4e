//! Looks at the mesh's own books while it suffers: which sub-queries were restarted by which rule, and whether a node is
//! said to be down to which nothing was done. And at the machine that all of it is on.
//!
//! Not here: whether answers are right. What cannot be read now is read at the next look.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use greylag_node::demo::texts;

use crate::{
    report::{Ledger, say},
    schedule::NODES,
    stage::Stage,
};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(1500);
/// Attempts that did not come first, of all coordinators that can be asked.
const RESTARTED: &str = "SELECT concat(query, ' ', CAST(ordinal AS VARCHAR), ' ', CAST(attempt AS VARCHAR)), rule \
    FROM system.subqueries WHERE rule <> 'first'";
const DOWN: &str = "SELECT name FROM system.nodes WHERE status = 'down'";

/// Name of a fault that nobody plays: the machine itself stood still.
pub const MACHINE: &str = "machine";
/// Between two ticks of this process, and how late one must be for the machine to have stood still.
const TICK: Duration = Duration::from_millis(200);
const LATE_MIN: Duration = Duration::from_secs(1);

/// Notices when everything here stands still for longer than connections bear, for ever: what comes of it is put down to it.
pub async fn machine(ledger: Arc<Ledger>) {
    loop {
        let began = Instant::now();
        tokio::time::sleep(TICK).await;
        let late = began.elapsed().saturating_sub(TICK);
        if late > LATE_MIN {
            ledger.fault_lasted(MACHINE, began);
            say(&format!("the machine stood still for {} ms", late.as_millis()));
        }
    }
}

/// Looks for ever.
pub async fn watch(stage: Arc<Stage>, ledger: Arc<Ledger>) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut rules: BTreeMap<String, u64> = BTreeMap::new();
    for door in (0..NODES).cycle() {
        tokio::time::sleep(LOOK).await;
        let began = Instant::now();
        if let Ok(rows) = stage.ask(door, RESTARTED).await
            && let (Ok(attempts), Ok(by)) = (texts(&rows, 0), texts(&rows, 1))
        {
            for (attempt, rule) in attempts.into_iter().zip(by) {
                if seen.insert(attempt) {
                    *rules.entry(rule).or_default() += 1;
                }
            }
            ledger.count(|counts| counts.restarts.clone_from(&rules));
        }
        let down = stage.ask(door, DOWN).await.ok().and_then(|rows| texts(&rows, 0).ok()).unwrap_or_default();
        if !down.is_empty() && ledger.was_calm(began) {
            let what = format!("node{} says that {} is down", door + 1, down.join(", "));
            ledger.offence("false alarm", &what, |counts| counts.false_alarms += 1);
        }
    }
}
