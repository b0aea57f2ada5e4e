//! `greylag policy why`: the mesh's own words about somebody's statement, laid out for people.

use std::fmt::Write as _;

use anyhow::{Context, bail};
use clap::Args;
use greylag_protocol::{
    admin::{Explanation, PolicyWord, TableExplanation, WhyRequest, WordOutcome},
    filter::RowFilter,
    messages::control::Verdict,
    obligation::{MaskRule, NoticeMode},
    statement::{AdminCall, AdminReply},
};

use crate::{
    cases::instant,
    cli::{
        connect::Target,
        principal::{Named, Traits},
    },
};

#[derive(Debug, Args)]
pub struct WhyArgs {
    /// As whom: `user:ada`, `agent:planner`, `machine:backup`
    #[arg(long = "as")]
    principal: Named,
    #[command(flatten)]
    traits: Traits,
    /// When, such as `2026-03-02T19:30+01:00`, in UTC without an offset; now if it is left out
    #[arg(long)]
    time: Option<String>,
    /// The door that the statement would come by
    #[arg(long, default_value = "flight")]
    origin: String,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    /// The statement
    sql: String,
    #[command(flatten)]
    target: Target,
}

pub async fn run(args: WhyArgs) -> anyhow::Result<()> {
    let at_unix_ms = match &args.time {
        None => None,
        Some(text) => {
            let at = instant(text, 0).with_context(|| format!("`{text}` is no time"))?;
            Some(u64::try_from(at).with_context(|| format!("`{text}` is before 1970"))?)
        }
    };
    let principal = args.traits.principal(args.principal);
    let who = Named::show(&principal);
    let request = WhyRequest { principal, sql: args.sql, origin: args.origin, at_unix_ms };
    match args.target.connect().await?.admin(&AdminCall::Why(Box::new(request))).await? {
        AdminReply::Why(explanation) if args.json => println!("{}", serde_json::to_string_pretty(&explanation)?),
        AdminReply::Why(explanation) => print!("{}", shown(&who, &explanation)),
        other => bail!("an unexpected answer: {other:?}"),
    }
    Ok(())
}

fn shown(who: &str, explanation: &Explanation) -> String {
    let mut out = String::new();
    let verdict = match &explanation.verdict {
        Verdict::Permit => "permitted".to_owned(),
        Verdict::Deny { reason } => format!("denied: {reason}"),
    };
    // Writing into a string does not fail.
    let _ = writeln!(out, "{who}: {verdict}");
    let by = if explanation.policies.is_empty() { "no policy".to_owned() } else { explanation.policies.join(", ") };
    let _ = writeln!(out, "  decided by {by}, at epoch {}", explanation.epoch.0);
    for table in &explanation.tables {
        of_table(&mut out, table, explanation.verdict == Verdict::Permit);
    }
    for notice in &explanation.notices {
        let mode = match notice.mode {
            NoticeMode::Warn => "warn",
            NoticeMode::Log => "log",
        };
        let _ = writeln!(out, "notice ({mode}) of {}: {}", notice.policies.join(", "), notice.change);
    }
    out
}

fn of_table(out: &mut String, table: &TableExplanation, permitted: bool) {
    let _ = writeln!(out, "{}", table.table);
    if permitted {
        let _ = writeln!(out, "  rows: {}", table.filter.as_ref().map_or("all".into(), RowFilter::to_string));
    }
    for mask in &table.masks {
        for MaskRule { mask: how, when, policies } in &mask.rules {
            let when = when.as_ref().map(|when| format!(" where {when}")).unwrap_or_default();
            let _ = writeln!(out, "  column {} is masked ({how}){when} by {}", mask.column, policies.join(", "));
        }
    }
    for hidden in &table.hidden {
        let _ = writeln!(out, "  column {} is hidden by {}", hidden.column, hidden.policies.join(", "));
    }
    for word in table.words.iter().filter(|word| word.outcome != WordOutcome::OfOthers) {
        let _ = writeln!(out, "  {}", said(word));
    }
    let others = table.words.iter().filter(|word| word.outcome == WordOutcome::OfOthers);
    let mut others: Vec<&str> = others.map(|word| word.policy.as_str()).collect();
    // In order of policy already; one may have its say about rows and about columns.
    others.dedup();
    if !others.is_empty() {
        let _ = writeln!(out, "  about other principals: {}", others.join(", "));
    }
}

fn said(word: &PolicyWord) -> String {
    let outcome = match &word.outcome {
        WordOutcome::OfOthers => "is about others".to_owned(),
        WordOutcome::Holds => "holds".into(),
        WordOutcome::Fails => "does not hold".into(),
        WordOutcome::Errs => "errs, so it counts as not there".into(),
        WordOutcome::Depends { filter: Some(filter), residual } => format!("holds where {filter}  [{residual}]"),
        WordOutcome::Depends { filter: None, residual } => format!("holds where {residual}"),
        WordOutcome::Unusable(why) => format!("CANNOT BE APPLIED: {why}"),
    };
    let mode = if word.mode == "enforce" { String::new() } else { format!(" [{}]", word.mode) };
    format!("policy {}{mode} {} {}: {outcome}", word.policy, word.deed, word.about)
}

#[cfg(test)]
mod tests {
    use greylag_protocol::{
        Epoch,
        messages::control::{Action, TableName},
        obligation::{ColumnMask, HiddenColumn, Mask},
    };

    use super::*;

    #[test]
    fn an_explanation_names_every_policy_with_what_it_does() {
        let word = |policy: &str, deed: &str, outcome| PolicyWord {
            policy: policy.into(),
            mode: "enforce".into(),
            deed: deed.into(),
            about: "rows".into(),
            outcome,
        };
        let masked = MaskRule { mask: Mask::Full, when: None, policies: vec!["m".into()] };
        let table = TableExplanation {
            table: TableName { source: "a".into(), schema: "b".into(), table: "c".into() },
            filter: Some(RowFilter::nothing()),
            masks: vec![ColumnMask { column: "name".into(), rules: vec![masked] }],
            hidden: vec![HiddenColumn { column: "note".into(), policies: vec!["h".into()] }],
            words: vec![
                word("p", "permits", WordOutcome::Depends { filter: None, residual: "resource.x".into() }),
                word("q", "forbids", WordOutcome::OfOthers),
            ],
        };
        let explanation = Explanation {
            action: Action::Select,
            verdict: Verdict::Permit,
            epoch: Epoch(7),
            at_unix_ms: 0,
            policies: vec!["p".into()],
            tables: vec![table],
            notices: vec![],
        };
        assert_eq!(
            shown("user:ada", &explanation),
            "user:ada: permitted\n  decided by p, at epoch 7\na.b.c\n  rows: false\n  column name is masked (full) by m\n  \
             column note is hidden by h\n  policy p permits rows: holds where resource.x\n  about other principals: q\n"
        );
    }
}
