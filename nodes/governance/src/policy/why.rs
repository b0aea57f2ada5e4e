//! What each policy says about a question, for people: the same findings that the ruling is made of.

use greylag_protocol::{
    Result,
    admin::{PolicyWord, WordOutcome},
    messages::control::{Action, TableName},
};

use super::{
    condition::Shared,
    engine::{PolicyEngine, Question, TableFindings},
    findings::{Finding, Outcome, deed},
};

impl PolicyEngine {
    /// What the policies say about each table of the question, in the question's order; about the mesh, if it touches
    /// none. A table that is not known is an error.
    pub fn words(&self, question: &Question<'_>) -> Result<Vec<(TableName, Vec<PolicyWord>)>> {
        let found = self.findings(question)?;
        Ok(found.iter().map(|table| (table.rules.facts.name.clone(), self.words_of(question, table))).collect())
    }

    fn words_of(&self, question: &Question<'_>, found: &TableFindings<'_>) -> Vec<PolicyWord> {
        let about_rows = match question.action {
            Action::Select | Action::Explain => "rows",
            Action::Describe => "the table",
            Action::Manage if question.touched.is_empty() => "the mesh",
            Action::Manage => "the table",
        };
        let mut words: Vec<PolicyWord> =
            found.rows.iter().filter_map(|f| self.word(f, about_rows.to_owned())).collect();
        words.extend(found.explain.iter().flatten().filter_map(|f| self.word(f, "explaining the table".to_owned())));
        for (column, findings) in &found.columns {
            for word in findings.iter().filter_map(|f| self.word(f, format!("column {column}"))) {
                let same = |w: &&mut PolicyWord| {
                    w.policy == word.policy && w.outcome == word.outcome && w.about.starts_with("column")
                };
                match words.iter_mut().find(same) {
                    Some(known) => {
                        let columns = known.about.trim_start_matches("columns ").trim_start_matches("column ");
                        known.about = format!("columns {columns}, {column}");
                    }
                    None => words.push(word),
                }
            }
        }
        words.sort_by(|a, b| (&a.policy, &a.about).cmp(&(&b.policy, &b.about)));
        words
    }

    fn word(&self, finding: &Finding, about: String) -> Option<PolicyWord> {
        let policy = self.policies().get(finding.policy)?;
        Some(PolicyWord {
            policy: policy.id.clone(),
            mode: policy.mode.as_str().to_owned(),
            deed: deed(policy).to_owned(),
            about,
            outcome: said(&finding.outcome),
        })
    }
}

fn said(outcome: &Outcome) -> WordOutcome {
    match outcome {
        Outcome::OfOthers => WordOutcome::OfOthers,
        Outcome::Holds => WordOutcome::Holds,
        Outcome::Fails => WordOutcome::Fails,
        Outcome::Errs => WordOutcome::Errs,
        Outcome::Depends { when, residual } => {
            // The row that stands for any: in a policy's own words, the resource.
            let residual = residual.replace("Row::\"row\"", "resource");
            WordOutcome::Depends { filter: Shared::to_filter(when), residual }
        }
        Outcome::Unusable(why) => WordOutcome::Unusable(why.clone()),
    }
}

#[cfg(test)]
#[path = "why_test.rs"]
mod tests;
