//! Logs: to standard error, filtered by `GREYLAG_LOG` (`info`, `greylag_cluster=debug`, ...).
//!
//! INVARIANT: ractor_cluster prints whole payloads at DEBUG, so it never goes below WARN here, whatever is asked.

use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, LevelFilter, filter_fn},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// Variable that holds the filter.
const VARIABLE: &str = "GREYLAG_LOG";

/// Crates that say too much, each with the most that is let through.
const CEILINGS: [(&str, LevelFilter); 3] =
    [("ractor", LevelFilter::WARN), ("ractor_cluster", LevelFilter::WARN), ("openraft", LevelFilter::ERROR)];

pub fn start(default: &str) {
    let wanted = std::env::var(VARIABLE).unwrap_or_else(|_| default.to_owned());
    let filter = EnvFilter::try_new(&wanted).unwrap_or_else(|error| {
        eprintln!("{VARIABLE} is not a filter ({error}): taken as `{default}`");
        EnvFilter::new(default)
    });
    // A ceiling as a directive of the filter would lose to any longer target.
    let ceiling = filter_fn(|metadata| is_under_ceiling(metadata.target(), *metadata.level()));
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(true).with_filter(filter.and(ceiling));
    // A second start (tests) keeps the first.
    let _ = tracing_subscriber::registry().with(lines).try_init();
}

fn is_under_ceiling(target: &str, level: tracing::Level) -> bool {
    let crate_name = target.split("::").next().unwrap_or_default();
    CEILINGS.iter().all(|(name, most)| *name != crate_name || level <= *most)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn payloads_stay_out_of_logs_however_narrow_the_target() {
        for target in ["ractor_cluster", "ractor_cluster::node::node_session", "ractor::actor"] {
            assert!(is_under_ceiling(target, Level::WARN), "{target}");
            assert!(!is_under_ceiling(target, Level::INFO), "{target}");
            assert!(!is_under_ceiling(target, Level::TRACE), "{target}");
        }
        assert!(!is_under_ceiling("openraft::core", Level::WARN));
        assert!(is_under_ceiling("ractors_of_others::x", Level::TRACE));
        assert!(is_under_ceiling("greylag_cluster", Level::TRACE));
    }
}
