//! What each policy says about a question, in words: for people who ask why. It decides nothing.

use greylag_protocol::messages::control::Said;

use super::{
    engine::{PolicyEngine, Question, TableFindings},
    findings::{Finding, Outcome, deed},
    stored::Mode,
};

/// Most lines of an answer.
pub const SAID_MAX: usize = 500;

impl PolicyEngine {
    /// One line for each policy that the resource's scope reaches, in order of table, column and policy.
    pub fn why(&self, question: &Question<'_>) -> Vec<Said> {
        let Ok(findings) = self.findings(question) else { return Vec::new() };
        let mut said: Vec<Said> = Vec::new();
        for table in &findings {
            let explain = table.explain.iter().flatten();
            said.extend(table.rows.iter().chain(explain).filter_map(|finding| self.said(table, None, finding)));
            for (column, findings) in &table.columns {
                said.extend(findings.iter().filter_map(|finding| self.said(table, Some(column), finding)));
            }
        }
        said.truncate(SAID_MAX);
        said
    }

    fn said(&self, table: &TableFindings<'_>, column: Option<&str>, finding: &Finding) -> Option<Said> {
        let policy = self.policies().get(finding.policy)?;
        let says = match &finding.outcome {
            Outcome::OfOthers => "is about other principals".to_owned(),
            Outcome::Holds => deed(policy).to_owned(),
            Outcome::Fails => format!("would have it ({}), and its condition does not hold", deed(policy)),
            Outcome::Errs => format!("would have it ({}), and its condition is an error: skipped", deed(policy)),
            Outcome::Depends { residual, .. } => format!("{} where {residual}", deed(policy)),
            Outcome::Unusable(why) => format!("cannot be applied, so it denies: {why}"),
        };
        let mode = match policy.mode {
            Mode::Enforce => "enforce",
            Mode::Warn => "warn",
            Mode::Log => "log",
        };
        Some(Said {
            table: table.rules.facts.name.clone(),
            column: column.map(str::to_owned),
            policy: policy.id.clone(),
            mode: mode.to_owned(),
            says,
        })
    }
}
