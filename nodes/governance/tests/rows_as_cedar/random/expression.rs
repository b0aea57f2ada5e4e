//! Expressions of Cedar while they are drawn: text with operands in it, so that a smaller one can be cut out of them.

use std::{collections::BTreeSet, fmt};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Type {
    Bool,
    Long,
    Text,
    Decimal,
    Instant,
    Texts,
}

/// `text[0] parts[0] text[1] ... text[n]`.
#[derive(Debug, Clone)]
pub struct Expression {
    pub of_type: Type,
    text: Vec<String>,
    parts: Vec<Expression>,
    /// What has been found to be there when it is true, in the words of the guards.
    pub found: BTreeSet<String>,
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, text) in self.text.iter().enumerate() {
            f.write_str(text)?;
            if let Some(part) = self.parts.get(at) {
                part.fmt(f)?;
            }
        }
        Ok(())
    }
}

impl Expression {
    pub fn leaf(of_type: Type, text: impl Into<String>) -> Self {
        Self { of_type, text: vec![text.into()], parts: vec![], found: BTreeSet::new() }
    }

    /// `#` in the pattern stands for the parts, one after the other.
    pub fn of(of_type: Type, pattern: &str, parts: Vec<Self>) -> Self {
        let text: Vec<String> = pattern.split('#').map(str::to_owned).collect();
        assert_eq!(text.len(), parts.len() + 1, "{pattern}");
        Self { of_type, text, parts, found: BTreeSet::new() }
    }

    pub fn and(a: Self, b: Self) -> Self {
        let found = a.found.union(&b.found).cloned().collect();
        Self { found, ..Self::of(Type::Bool, "(# && #)", vec![a, b]) }
    }

    pub fn or(a: Self, b: Self) -> Self {
        let found = a.found.intersection(&b.found).cloned().collect();
        Self { found, ..Self::of(Type::Bool, "(# || #)", vec![a, b]) }
    }

    /// A test of whether something is there.
    pub fn guard(text: &str) -> Self {
        Self { found: BTreeSet::from([text.to_owned()]), ..Self::leaf(Type::Bool, format!("({text})")) }
    }

    /// All that are a step smaller: one of its parts in its place, a constant, or the same with a smaller part.
    pub fn smaller(&self) -> Vec<Self> {
        let mut all: Vec<Self> = self.parts.iter().filter(|p| p.of_type == self.of_type).cloned().collect();
        if self.of_type == Type::Bool && self.to_string() != "true" && self.to_string() != "false" {
            all.extend(["true", "false"].map(|constant| Self::leaf(Type::Bool, constant)));
        }
        for (at, part) in self.parts.iter().enumerate() {
            for smaller in part.smaller() {
                let mut with = self.clone();
                with.parts[at] = smaller;
                all.push(with);
            }
        }
        all
    }
}
