//! The settings of governance, and quotas: within which bounds they make sense.

use greylag_protocol::{
    ErrorCode, MeshError, Result,
    state::{Command, GovernCommand, GovernanceSettings, Outcome, QuotaCommand, QuotaKey},
    statement::AdminReply,
};

use super::propose;
use crate::NodeCtx;

/// Farthest local time from UTC, minutes (Line Islands).
const UTC_OFFSET_MINUTES_MAX: u32 = 14 * 60;
/// Largest share of an organisation, where others have 1.
const WEIGHT_MAX: u32 = 1_000;

pub(super) async fn put(
    ctx: &NodeCtx,
    settings: Box<GovernanceSettings>,
    expect_version: Option<u64>,
) -> Result<AdminReply> {
    check(&settings)?;
    propose(ctx, GovernCommand::PutSettings { settings, expect_version }).await
}

fn check(settings: &GovernanceSettings) -> Result<()> {
    let wrong = |why: String| Err(MeshError::new(ErrorCode::InvalidResource, why));
    if settings.environment.trim().is_empty() {
        return wrong("`environment` must not be empty".into());
    }
    if settings.utc_offset_minutes.unsigned_abs() > UTC_OFFSET_MINUTES_MAX {
        let minutes = settings.utc_offset_minutes;
        return wrong(format!("`utc_offset`: {minutes} minutes are over {UTC_OFFSET_MINUTES_MAX}"));
    }
    if let Some((name, weight)) = settings.weights.iter().find(|(_, weight)| !(1..=WEIGHT_MAX).contains(*weight)) {
        return wrong(format!("`weights`: {weight} of `{name}` is not between 1 and {WEIGHT_MAX}"));
    }
    let limits_nothing = |at: &usize| {
        let budget = &settings.budgets[*at];
        budget.rows_max.is_none() && budget.bytes_max.is_none()
    };
    // The last may say so for all others, after stricter ones; before others it would only hide them.
    let last = settings.budgets.len().saturating_sub(1);
    if let Some(at) = (0..last).find(|at| {
        let budget = &settings.budgets[*at];
        let for_all = budget.organisation.is_none() && budget.role.is_none() && budget.agent.is_none();
        for_all && limits_nothing(at)
    }) {
        return wrong(format!("`budgets`: number {} limits nobody and hides those after it", at + 1));
    }
    Ok(())
}

/// `changed` tells whether another limit holds than before.
pub(super) async fn set_quota(ctx: &NodeCtx, key: QuotaKey, limit: Option<u64>) -> Result<AdminReply> {
    let name =
        |what: &str| MeshError::new(ErrorCode::InvalidResource, format!("a quota needs {what} that is not empty"));
    if key.organisation.trim().is_empty() {
        return Err(name("an organisation"));
    }
    if key.agent.as_ref().is_some_and(|agent| agent.trim().is_empty()) {
        return Err(name("an agent"));
    }
    let before = ctx.mesh.state().governance.quotas.quotas.get(&key).and_then(|quota| quota.limit);
    let now_unix_ms = ctx.seams.clock.unix_ms();
    match ctx.mesh.propose(Command::Quota(QuotaCommand::SetLimit { key, limit, now_unix_ms })).await? {
        Outcome::Refused(error) => Err(error),
        _ => Ok(AdminReply::Applied { version: 0, changed: before != limit }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use greylag_protocol::state::Budget;

    use super::*;

    #[test]
    fn settings_have_bounds() {
        let rows = |rows_max| Budget { rows_max, ..Budget::default() };
        let of = |change: fn(&mut GovernanceSettings)| {
            let mut settings = GovernanceSettings::default();
            change(&mut settings);
            check(&settings).map_err(|error| error.message)
        };
        assert!(of(|_| ()).is_ok());
        assert!(of(|s| s.utc_offset_minutes = -720).is_ok());
        for (wrong, word) in [
            (of(|s| s.utc_offset_minutes = 900), "utc_offset"),
            (of(|s| s.environment = " ".into()), "environment"),
            (of(|s| s.weights = [("a".to_owned(), 0)].into()), "weights"),
        ] {
            assert!(wrong.unwrap_err().contains(word));
        }
        let budgets = |budgets| check(&GovernanceSettings { budgets, ..GovernanceSettings::default() });
        assert!(budgets(vec![rows(Some(5)), rows(None)]).is_ok());
        assert!(budgets(vec![rows(None), rows(Some(5))]).is_err());
    }
}
