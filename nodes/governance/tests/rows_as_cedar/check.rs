//! One case: what the engine rules, against what Cedar's authorizer says of each row, column and table.

use std::collections::BTreeMap;

use greylag_governance::policy::{
    Catalog, Mode, Policy, PolicyEngine, Question, Ruling, Touched,
    reference::{Reference, Row, Subject},
};
use greylag_protocol::{
    Epoch, MeshError,
    filter::{FilterNode, RowFilter},
    messages::control::{Action, Verdict},
    obligation::{Mask, NoticeMode, TableObligation},
};

use crate::{
    random::{policy::Draft, principal::declared},
    world::{Asked, Case},
};

/// What was met, by name.
pub type Tally = BTreeMap<String, u64>;

pub const REFUSED: &str = "a policy without a flaw was refused";

/// What went wrong: of which kind, and what exactly.
#[derive(Debug, Clone)]
pub struct Failure {
    pub kind: &'static str,
    pub what: String,
}

type Checked<T = ()> = Result<T, Failure>;

fn fail<T>(kind: &'static str, what: impl Into<String>) -> Checked<T> {
    Err(Failure { kind, what: what.into() })
}

fn asked(error: MeshError) -> Failure {
    Failure { kind: "Cedar could not be asked", what: error.to_string() }
}

struct Count<'a>(&'a mut Tally);

impl Count<'_> {
    fn one(&mut self, what: &str) {
        *self.0.entry(what.to_owned()).or_default() += 1;
    }
}

pub fn check(case: &Case, tally: &mut Tally) -> Checked {
    let mut count = Count(tally);
    count.one("cases");
    let mut catalog = Catalog::default();
    case.tables.iter().for_each(|table| catalog.insert(table.facts.clone()));
    let without = PolicyEngine::new(Epoch(1), vec![], &catalog, declared());
    let mut policies = Vec::new();
    for draft in &case.policies {
        policies.extend(accepted(draft, &without, &mut count)?);
    }
    let engine = PolicyEngine::new(Epoch(1), policies.clone(), &catalog, declared());
    let touched: Vec<Touched> = case
        .tables
        .iter()
        .filter(|table| table.touched)
        .map(|table| Touched { table: table.facts.name.clone(), columns: table.columns.clone() })
        .collect();
    let (principal, circumstances) = (&case.principal, &case.circumstances);
    let question = Question { principal, action: case.action, touched: &touched, circumstances };
    let ruling = engine.decide(&question);
    let later = Question { circumstances: &case.later, ..question.clone() };
    if engine.key(&question).is_some() && engine.key(&question) == engine.key(&later) {
        count.one("rulings that may be kept");
        let again = engine.decide(&later);
        if again != ruling {
            return fail("a ruling that may be kept and is another later", format!("{ruling:?}\n{again:?}"));
        }
    }
    let names: Vec<_> = touched.iter().map(|touched| touched.table.clone()).collect();
    let reference = Reference::new(&policies, principal, circumstances, &names, &declared()).map_err(asked)?;
    let judge = Judge { case, reference, ruling: &ruling };
    judge.verdict(&mut count)?;
    judge.notices(&mut count)
}

/// The policy, if it is accepted; it must be unless it has a flaw.
fn accepted(draft: &Draft, engine: &PolicyEngine, count: &mut Count<'_>) -> Checked<Option<Policy>> {
    count.one("policies");
    let text = draft.to_string();
    let outcome = Policy::parse(&draft.id, &text).and_then(|policy| engine.check(&policy).map(|_| policy));
    match (outcome, &draft.flaws[..]) {
        (Ok(policy), flaws) => {
            count.one(if flaws.is_empty() {
                "policies accepted"
            } else {
                "policies accepted with a flaw out of reach"
            });
            Ok(Some(policy))
        }
        (Err(error), []) => fail(REFUSED, format!("{error}\n{text}")),
        (Err(_), [flaw, ..]) => {
            count.one(&format!("refused: {flaw}"));
            Ok(None)
        }
    }
}

struct Judge<'a> {
    case: &'a Case,
    reference: Reference<'a>,
    ruling: &'a Ruling,
}

impl Judge<'_> {
    fn touched(&self) -> impl Iterator<Item = &Asked> {
        self.case.tables.iter().filter(|table| table.touched)
    }

    fn permits(&self, action: Action, subject: Subject<'_>, upto: Mode) -> Checked<bool> {
        self.reference.permits(action, subject, upto).map_err(asked)
    }

    /// Whether Cedar lets a row, or the table, through for the action.
    fn lets(&self, table: &Asked, row: Option<&Row>, upto: Mode) -> Checked<bool> {
        let facts = &table.facts;
        let of_row = |row: Option<&Row>| match row {
            Some(row) => self.permits(Action::Select, Subject::Row(facts, row), upto),
            None => Ok(true),
        };
        match self.case.action {
            Action::Select => of_row(row),
            Action::Explain => Ok(of_row(row)? && self.permits(Action::Explain, Subject::Table(facts), upto)?),
            action => self.permits(action, Subject::Table(facts), upto),
        }
    }

    /// The first column that the statement reads and must not.
    fn hidden(&self, table: &Asked, upto: Mode) -> Checked<Option<String>> {
        for column in table.columns.iter().flatten() {
            if self.hides(table, column, upto)? {
                return Ok(Some(column.clone()));
            }
        }
        Ok(None)
    }

    fn hides(&self, table: &Asked, column: &str, upto: Mode) -> Checked<bool> {
        match self.case.action {
            Action::Select | Action::Explain => {
                self.reference.hides(Action::Select, &table.facts, column, upto).map_err(asked)
            }
            Action::Describe => self.reference.hides(Action::Describe, &table.facts, column, upto).map_err(asked),
            Action::Manage => Ok(false),
        }
    }

    fn verdict(&self, count: &mut Count<'_>) -> Checked {
        let manage = self.case.action == Action::Manage;
        if manage && self.case.principal.is_admin() {
            count.one("administrators managing");
            return match self.ruling.verdict {
                Verdict::Permit => Ok(()),
                _ => fail("an administrator may not manage", format!("{:?}", self.ruling)),
            };
        }
        if self.touched().next().is_none() {
            let expected = !manage || self.permits(Action::Manage, Subject::Mesh, Mode::Enforce)?;
            count.one(&format!("nothing touched: {expected}"));
            return match (&self.ruling.verdict, expected) {
                (Verdict::Permit, true) | (Verdict::Deny { .. }, false) => Ok(()),
                _ => fail("managing the mesh", format!("Cedar says {expected}: {:?}", self.ruling)),
            };
        }
        match &self.ruling.verdict {
            Verdict::Permit => {
                count.one("verdicts: permit");
                self.touched().try_for_each(|table| self.permitted(table, count))
            }
            Verdict::Deny { reason } => self.denied(reason, count),
        }
    }

    fn permitted(&self, table: &Asked, count: &mut Count<'_>) -> Checked {
        if let Some(column) = self.hidden(table, Mode::Enforce)? {
            return fail("a hidden column may be read", column);
        }
        let obligation = self.ruling.obligations.iter().find(|o| o.table == table.facts.name);
        let filter = obligation.and_then(|o| o.filter.as_ref());
        let of_rows = matches!(self.case.action, Action::Select | Action::Explain);
        if filter.is_some() {
            count.one("row filters");
        }
        if !of_rows && (filter.is_some() || !self.lets(table, None, Mode::Enforce)?) {
            return fail("a table is permitted that Cedar denies", format!("{:?}", self.ruling));
        }
        for row in table.rows.iter().filter(|_| of_rows) {
            let passes = filter.is_none_or(|filter| passes(filter, row));
            let expected = self.lets(table, Some(row), Mode::Enforce)?;
            if filter.is_some() {
                count.one(if expected { "rows that pass a filter" } else { "rows that do not" });
            }
            if passes != expected {
                let filter = filter.map(ToString::to_string).unwrap_or_default();
                return fail(
                    if passes { "a row passes that Cedar denies" } else { "a row is kept back that Cedar permits" },
                    format!("{row:?}\nfilter: {filter}"),
                );
            }
            self.masks(table, row, obligation, count)?;
        }
        self.hidden_listed(table, obligation, count)
    }

    fn masks(&self, table: &Asked, row: &Row, obligation: Option<&TableObligation>, count: &mut Count<'_>) -> Checked {
        for column in &table.facts.columns {
            if table.columns.as_ref().is_some_and(|columns| !columns.contains(&column.name)) {
                continue;
            }
            let rules = obligation.and_then(|o| o.masks.iter().find(|m| m.column == column.name)).map(|m| &m.rules);
            let rule = rules
                .and_then(|rules| rules.iter().find(|rule| rule.when.as_ref().is_none_or(|when| passes(when, row))));
            let expected = self.reference.mask(&table.facts, &column.name, row, Mode::Enforce).map_err(asked)?;
            if rule.map(|rule| &rule.mask) != expected.as_ref() {
                let what = format!("{row:?}: `{}`: {rules:?}, but {expected:?}", column.name);
                return fail("a column is masked otherwise", what);
            }
            match (&expected, rules) {
                (Some(mask), _) => count.one(&format!("values masked: {}", kind_of(mask))),
                (None, Some(_)) => count.one("values shown that are masked in other rows"),
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// The columns that the ruling says are hidden, where all may be asked for.
    fn hidden_listed(&self, table: &Asked, obligation: Option<&TableObligation>, count: &mut Count<'_>) -> Checked {
        for column in table.facts.columns.iter().filter(|_| table.columns.is_none()) {
            let listed = obligation.is_some_and(|o| o.hidden.iter().any(|h| h.column == column.name));
            let expected = self.hides(table, &column.name, Mode::Enforce)?;
            if listed != expected {
                return fail("a column is hidden otherwise", format!("`{}`: {listed}, {expected}", column.name));
            }
            if listed {
                count.one("columns hidden");
            }
        }
        Ok(())
    }

    /// Each reason to deny, held against Cedar's word.
    fn denied(&self, reason: &str, count: &mut Count<'_>) -> Checked {
        let denies_all = |table: &Asked| -> Checked<bool> {
            if !matches!(self.case.action, Action::Select | Action::Explain) {
                return Ok(!self.lets(table, None, Mode::Enforce)?);
            }
            for row in &table.rows {
                if self.lets(table, Some(row), Mode::Enforce)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let kind = match reason {
            _ if reason.starts_with("no policy permits") => "nothing permits",
            _ if reason.contains("forbids column") => "a hidden column is read",
            _ if reason.starts_with("policy") && reason.contains("forbids") => "a policy forbids",
            _ => return fail("denied for no good reason", reason),
        };
        count.one(&format!("verdicts: deny: {kind}"));
        for table in self.touched() {
            let is_so = match kind {
                "a hidden column is read" => self.hidden(table, Mode::Enforce)?.is_some(),
                _ => denies_all(table)? && self.says_so(table, kind)?,
            };
            if is_so {
                return Ok(());
            }
        }
        fail("a denial that Cedar does not share", reason)
    }

    /// Whether the policies that are named as forbidding do so for every row.
    fn says_so(&self, table: &Asked, kind: &str) -> Checked<bool> {
        if kind == "nothing permits" {
            return Ok(true);
        }
        let facts = &table.facts;
        for id in &self.ruling.policies {
            let holds = |action, subject| self.reference.holds(id, action, subject).map_err(asked);
            let of_table = match self.case.action {
                Action::Select => Some(false),
                action => holds(action, Subject::Table(facts))?,
            };
            if of_table == Some(true) {
                continue;
            }
            for row in &table.rows {
                if holds(Action::Select, Subject::Row(facts, row))? != Some(true) {
                    return Ok(false);
                }
            }
        }
        Ok(!self.ruling.policies.is_empty())
    }

    /// What a policy that does not enforce would change is told.
    fn notices(&self, count: &mut Count<'_>) -> Checked {
        let mut tables = self.touched();
        let (Some(table), None) = (tables.next(), tables.next()) else { return Ok(()) };
        if self.case.action == Action::Manage && self.case.principal.is_admin() {
            return Ok(());
        }
        let of_rows = matches!(self.case.action, Action::Select | Action::Explain);
        let rows: Vec<Option<&Row>> = if of_rows { table.rows.iter().map(Some).collect() } else { vec![None] };
        let modes = [(Mode::Enforce, Mode::Warn, NoticeMode::Warn), (Mode::Warn, Mode::Log, NoticeMode::Log)];
        for (before, after, mode) in modes {
            let told = self.ruling.notices.iter().any(|notice| notice.mode == mode);
            if told {
                count.one("notices");
                continue;
            }
            for row in &rows {
                let seen = |upto| Ok(self.lets(table, *row, upto)? && self.hidden(table, upto)?.is_none());
                if seen(before)? != seen(after)? {
                    return fail("a change was not told", format!("{mode:?} {row:?}: {:?}", self.ruling));
                }
            }
        }
        Ok(())
    }
}

fn passes(filter: &RowFilter, row: &Row) -> bool {
    assert!(!matches!(filter.nodes(), [FilterNode::Constant(true)]), "a filter that keeps nothing back");
    filter.passes(&|column| row.get(column).cloned())
}

fn kind_of(mask: &Mask) -> &'static str {
    match mask {
        Mask::Truncate(_) => "date",
        Mask::Partial { .. } => "partial",
        Mask::Hash => "hash",
        Mask::Full => "full",
        Mask::Redact(_) => "redact",
        Mask::Null => "null",
    }
}
