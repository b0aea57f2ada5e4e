//! Whether this node reaches the sources whose edges it holds. It asks its own edges for a round trip now and then, and
//! tells the mesh when one fails for long, so that the edge can go to another node, and when it is reached again.
//!
//! It restarts nothing, and an edge that is busy is reached.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use greylag_protocol::{
    ErrorClass, MeshError, Result, SourceName,
    state::{Command, Role},
};
use tokio::time::{Instant, sleep};

use crate::{context::NodeCtx, edge::port::LocalEdge};

/// Between two round trips.
const PAUSE: Duration = Duration::from_secs(2);
/// Longest that a round trip may take.
const PING_MAX: Duration = Duration::from_secs(5);
/// A source is not reached once it has failed so often in a row, and for so long.
const FAILURES: u32 = 3;
const FAILING_TIME: Duration = Duration::from_secs(6);

/// What is known of one source at one version of its declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    version: u64,
    /// Failures in a row, and since when.
    failing: Option<(u32, Duration)>,
    /// What the mesh was told last.
    told: Option<bool>,
}

impl Known {
    fn new(version: u64) -> Self {
        Self { version, failing: None, told: None }
    }

    /// What the mesh should be told now, if anything.
    fn on(&mut self, reached: bool, now: Duration) -> Option<bool> {
        if reached {
            self.failing = None;
            return (self.told != Some(true)).then_some(true);
        }
        let (failures, since) = self.failing.map_or((1, now), |(failures, since)| (failures + 1, since));
        self.failing = Some((failures, since));
        (failures >= FAILURES && now - since >= FAILING_TIME && self.told != Some(false)).then_some(false)
    }
}

/// Runs until the node stops.
pub(crate) async fn watch(ctx: Arc<NodeCtx>) -> Result<()> {
    let (start, mut known) = (Instant::now(), BTreeMap::new());
    loop {
        sleep(PAUSE).await;
        round(&ctx, &mut known, start).await;
    }
}

async fn round(ctx: &NodeCtx, known: &mut BTreeMap<SourceName, Known>, start: Instant) {
    let state = ctx.mesh.state();
    let version = |name: &SourceName| state.sources.get(name).map(|source| source.version);
    let held: BTreeMap<SourceName, u64> = state
        .roles_of(ctx.node)
        .into_iter()
        .filter_map(|role| if let Role::Edge(source) = role { Some(source) } else { None })
        .filter_map(|name| version(&name).map(|version| (name, version)))
        .collect();
    // An edge that was taken away and is given again is looked at anew.
    known.retain(|name, known| held.get(name) == Some(&known.version));
    for (name, version) in held {
        let Some(edge) = ctx.directory.handle::<dyn LocalEdge>(&Role::Edge(name.clone())) else { continue };
        let reached = edge.ping(PING_MAX).await.map_or_else(|error| is_reached(&error), |_| true);
        let of = known.entry(name.clone()).or_insert_with(|| Known::new(version));
        let Some(told) = of.on(reached, start.elapsed()) else { continue };
        let barred = state.unreached.get(&name).is_some_and(|nodes| nodes.contains_key(&ctx.node));
        if told && !barred {
            of.told = Some(true);
            continue;
        }
        let now_unix_ms = ctx.seams.clock.unix_ms();
        let command = Command::Reach { node: ctx.node, source: name.clone(), version, reached: told, now_unix_ms };
        match ctx.mesh.propose(command).await {
            Ok(_) => {
                tracing::info!(source = %name, reached = told, "the mesh knows whether this node reaches a source");
                of.told = Some(told);
            }
            Err(error) => tracing::debug!(%error, "the mesh could not be told of a source"),
        }
    }
}

/// An overloaded source has answered, in its way.
fn is_reached(error: &MeshError) -> bool {
    error.class() == ErrorClass::Overload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_not_reached_after_failures_over_some_time_and_is_at_the_first_success() {
        let mut known = Known::new(1);
        let mut on = |reached, secs| {
            let told = known.on(reached, Duration::from_secs(secs));
            known.told = told.or(known.told);
            told
        };
        assert_eq!(on(true, 0), Some(true));
        assert_eq!(on(true, 2), None);
        // Two failures long apart are not three, and three at once are not long.
        assert_eq!([on(false, 4), on(false, 40), on(true, 42)], [None, None, None]);
        assert_eq!([on(false, 50), on(false, 51), on(false, 52), on(false, 56)], [None, None, None, Some(false)]);
        assert_eq!([on(false, 58), on(true, 60), on(false, 62)], [None, Some(true), None]);
    }
}
