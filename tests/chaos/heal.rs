//! After the faults: the mesh must be whole again by itself, within a bound, and then every answer right at every door.

use std::time::{Duration, Instant};

use greylag_node::tpch::difference;

use crate::{
    report::{Ledger, say},
    schedule::NODES,
    stage::{Stage, everybody, placed_roles},
    workload::Questions,
};

/// Longest time from the end of the last fault until all nodes are up, all roles are held, and each door answers.
pub const HEALED_MAX: Duration = Duration::from_secs(60);
/// One statement that touches every source.
pub const ALL_SOURCES: &str = "SELECT n_name, count(*) AS n, sum(ps_availqty) AS q FROM lineitem \
    JOIN orders ON l_orderkey = o_orderkey JOIN customer ON o_custkey = c_custkey \
    JOIN nation ON c_nationkey = n_nationkey \
    JOIN partsupp ON ps_partkey = l_partkey AND ps_suppkey = l_suppkey GROUP BY n_name";

/// Waits until the mesh is whole at every door. The time that it took, or what is still missing.
pub async fn whole(stage: &Stage) -> anyhow::Result<Duration> {
    let began = Instant::now();
    for index in 0..NODES {
        for sql in [everybody(), placed_roles(), format!("SELECT 1 FROM ({ALL_SOURCES}) t")] {
            let left = HEALED_MAX.saturating_sub(began.elapsed());
            stage.wait_rows(index, &sql, left).await?;
        }
    }
    Ok(began.elapsed())
}

/// The same between faults, for those that must find the mesh whole.
pub async fn settle(stage: &Stage, ledger: &Ledger) {
    match whole(stage).await {
        Ok(took) => say(&format!("settled after {} ms", took.as_millis())),
        Err(error) => {
            ledger.offence("stuck", &format!("the mesh does not settle: {error:#}"), |counts| counts.stuck += 1);
        }
    }
}

/// Asks everything at every door, once. Nothing is done to the mesh now, so every error counts.
pub async fn verify(stage: &Stage, questions: &Questions, ledger: &Ledger) {
    for index in 0..NODES {
        for question in questions.quick.iter().chain(&questions.large) {
            ledger.count(|counts| counts.statements += 1);
            let what = format!("{} at node{} after healing", question.name, index + 1);
            match stage.ask(index, &question.sql).await {
                Ok(rows) => match difference(&question.expected, &rows) {
                    Ok(found) if found.is_none() => ledger.count(|counts| counts.right += 1),
                    found => ledger.offence("wrong", &format!("{what}: {found:?}"), |counts| counts.wrong += 1),
                },
                Err(error) => {
                    ledger.offence("calm", &format!("{what}: {error:#}"), |counts| counts.calm_errors += 1);
                }
            }
        }
    }
}
