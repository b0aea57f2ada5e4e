//! Whether `system.nodes` names what is done to a node while it is done, as another node tells it. That it takes a moment,
//! or is not seen at all before it is over, is counted; a name for what nobody has done is an offence.
//!
//! Not here: `unreachable` and `ok`. They name nothing, and what begins to fail is one of them first.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use greylag_node::demo::texts;

use crate::{
    report::Ledger,
    schedule::{Fault, NODES},
    stage::Stage,
    watch::MACHINE,
};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(300);
/// Longest that one node is asked.
const ASKING_MAX: Duration = Duration::from_secs(3);
/// A stall is told for so long after its end, and a link that was cut is away for some seconds.
const AFTERMATH: Duration = Duration::from_secs(15);

/// The node to which something is done that has a name, and the name.
fn named(fault: &Fault) -> Option<(usize, &'static str)> {
    match fault {
        Fault::Stop { node } => Some((*node, "stalled")),
        Fault::OneWay { node, .. } => Some((*node, "one-way")),
        Fault::DiskFull { node } => Some((*node, "disk-full")),
        _ => None,
    }
}

/// Whether a node may be called this while faults of these kinds are played, or have just been. A pair of nodes of which
/// one hears the other is called so at both ends, whichever of them it was done to.
fn is_explained(word: &str, kinds: &BTreeSet<&str>) -> bool {
    let any = |of: &[&str]| of.iter().any(|kind| kinds.contains(kind));
    match word {
        "ok" | "unreachable" => true,
        "stalled" => any(&["stop", MACHINE]),
        "one-way" => any(&["one-way", "halves", "leader-alone", "loss", "bandwidth", "stop"]),
        "disk-full" => any(&["disk-full"]),
        // The disk is the machine's own, and as fast as that.
        "slow-disk" => true,
        _ => false,
    }
}

/// Looks for as long as the fault lasts.
pub async fn look(stage: &Stage, ledger: &Ledger, fault: &Fault, lasts: Duration) {
    let Some((victim, expected)) = named(fault) else { return };
    let (began, mut after) = (Instant::now(), None);
    let sql = format!("SELECT health, detail FROM system.nodes WHERE name = '{}'", Stage::name(victim));
    for witness in (0..NODES).cycle().skip(victim + 1).filter(|witness| *witness != victim) {
        let left = lasts.saturating_sub(began.elapsed());
        if left.is_zero() {
            break;
        }
        let asked = tokio::time::timeout(left.min(ASKING_MAX), stage.ask(witness, &sql)).await;
        let words = asked.ok().and_then(Result::ok).and_then(|rows| texts(&rows, 0).ok()).unwrap_or_default();
        for word in words {
            if word == expected {
                after = after.or(Some(began.elapsed()));
            } else if !is_explained(&word, &ledger.kinds_since(began.checked_sub(AFTERMATH).unwrap_or(began))) {
                let what = format!("node{} calls node{} `{word}` during {fault}", witness + 1, victim + 1);
                ledger.offence("wrong name", &what, |counts| counts.wrong_names += 1);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    ledger.count(|counts| {
        let of = if after.is_some() { &mut counts.named } else { &mut counts.unnamed };
        *of.entry(fault.kind().to_owned()).or_default() += 1;
        if let Some(after) = after {
            let slowest = counts.named_after_ms.entry(fault.kind().to_owned()).or_default();
            *slowest = (*slowest).max(after.as_millis() as u64);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_done_explains_a_name() {
        let cases: [(&str, &[&str], bool); 10] = [
            ("stalled", &[MACHINE], true),
            ("ok", &[], true),
            ("unreachable", &["kill"], true),
            ("stalled", &["stop", "kill"], true),
            ("stalled", &["kill", "one-way", "disk-full"], false),
            ("one-way", &["one-way"], true),
            ("one-way", &["disk-full", "kill"], false),
            ("disk-full", &["disk-full"], true),
            ("disk-full", &["stop"], false),
            ("something", &["stop"], false),
        ];
        for (word, kinds, explained) in cases {
            assert_eq!(is_explained(word, &kinds.iter().copied().collect()), explained, "{word} by {kinds:?}");
        }
    }
}
