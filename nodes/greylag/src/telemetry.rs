//! Logs: to standard error, filtered by `GREYLAG_LOG` (`info`, `greylag_cluster=debug`, ...).
//!
//! INVARIANT: ractor_cluster prints whole payloads at DEBUG, so it never goes below INFO here, whatever is asked.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Variable that holds the filter.
const VARIABLE: &str = "GREYLAG_LOG";

/// Ceilings for crates that say too much, put last so that they win.
const CEILINGS: [&str; 3] = ["ractor=warn", "ractor_cluster=warn", "openraft=error"];

pub fn start(default: &str) {
    let wanted = std::env::var(VARIABLE).unwrap_or_else(|_| default.to_owned());
    let directives = std::iter::once(wanted.as_str()).chain(CEILINGS).collect::<Vec<_>>().join(",");
    let filter = EnvFilter::try_new(directives).unwrap_or_else(|_| EnvFilter::new(default));
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(true);
    // A second start (tests) keeps the first.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
}
