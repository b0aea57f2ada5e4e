//! The stages of a statement's life, by the names under which people see them: in `system.queries`, metrics, spans,
//! `EXPLAIN` and the audit.

use serde::{Deserialize, Serialize};

macro_rules! steps {
    ($($name:ident $word:literal $number:expr, $what:literal;)*) => {
        /// A stage of a statement's life.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Step { $(#[doc = $what] $name,)* }

        impl Step {
            pub const ALL: &'static [Step] = &[$(Step::$name,)*];
            /// As a column, a metric's label and a span say it.
            pub const fn name(self) -> &'static str { match self { $(Step::$name => $word,)* } }
            /// Its number in the contract, which is a name and not its turn; none for what is not a stage there.
            pub const fn number(self) -> Option<u8> { match self { $(Step::$name => $number,)* } }
            /// What it is for, in one line.
            pub const fn what(self) -> &'static str { match self { $(Step::$name => $what,)* } }
        }
    };
}

steps! {
    Admission "admission" Some(1), "a slot among so many, in turn by priority and organisation";
    Tables "tables" Some(2), "the tables that the statement touches";
    Decision "decision" Some(3), "a policy actor's decision about them";
    Cost "cost" Some(4), "what it will probably read, against the principal's budget";
    Quota "quota" Some(5), "credits set aside in the quotas that it is charged to";
    RowFilters "row_filters" Some(6), "rows that may not be seen are left out at the scan";
    Dialect "dialect" Some(7), "from a foreign dialect into this one";
    Snapshot "snapshot" Some(8), "which state of its sources it reads";
    Execution "execution" Some(9), "sub-queries at the edges, the rest here";
    Healing "healing" Some(10), "another text for one that cannot be planned";
    Masks "masks" Some(11), "values that may not be seen are replaced at the scan";
    Metering "metering" Some(12), "what it has used is charged before rows leave";
    Audit "audit" Some(13), "a record of who did what";
    Planning "planning" None, "from text to a plan that can run";
}

/// Time spent in each step, microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTimes([u64; Step::ALL.len()]);

impl StepTimes {
    pub fn add(&mut self, step: Step, us: u64) {
        if let Some(sum) = self.0.get_mut(step as usize) {
            *sum = sum.saturating_add(us);
        }
    }

    pub fn get(&self, step: Step) -> u64 {
        self.0.get(step as usize).copied().unwrap_or_default()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Step, u64)> {
        Step::ALL.iter().map(|step| (*step, self.get(*step)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_thirteen_have_their_numbers_and_each_its_own_place() {
        let numbers: BTreeSet<u8> = Step::ALL.iter().filter_map(|step| step.number()).collect();
        assert_eq!(numbers, (1..=13).collect());
        let names: BTreeSet<&str> = Step::ALL.iter().map(|step| step.name()).collect();
        assert_eq!(names.len(), Step::ALL.len());
        let mut times = StepTimes::default();
        for (at, step) in Step::ALL.iter().enumerate() {
            times.add(*step, at as u64);
            times.add(*step, 1);
        }
        assert!(times.iter().enumerate().all(|(at, (_, us))| us == at as u64 + 1));
    }
}
