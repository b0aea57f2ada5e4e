//! Names with `*` in them: which tables and columns a policy or a tag is about.
//!
//! `*` stands for any characters within one part of a name; nothing else is special.

use greylag_protocol::{
    filter::{LikePart, is_like},
    messages::control::TableName,
};

/// A name in which `*` stands for any characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern {
    text: String,
    parts: Vec<LikePart>,
}

impl NamePattern {
    pub fn new(text: &str) -> Self {
        let mut parts = Vec::new();
        for (at, piece) in text.split('*').enumerate() {
            if at > 0 {
                parts.push(LikePart::Any);
            }
            if !piece.is_empty() {
                parts.push(LikePart::Text(piece.to_owned()));
            }
        }
        Self { text: text.to_owned(), parts }
    }

    pub fn matches(&self, name: &str) -> bool {
        is_like(name, &self.parts)
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// `source.schema.table`, each part with `*`. `*` alone is every table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePattern([NamePattern; 3]);

impl TablePattern {
    /// `None` unless it is `*` or has three parts that are not empty.
    pub fn parse(text: &str) -> Option<Self> {
        let text = if text.trim() == "*" { "*.*.*" } else { text.trim() };
        let parts: Vec<&str> = text.splitn(3, '.').collect();
        match parts[..] {
            [source, schema, table] if !source.is_empty() && !schema.is_empty() && !table.is_empty() => {
                Some(Self([source, schema, table].map(NamePattern::new)))
            }
            _ => None,
        }
    }

    pub fn matches(&self, table: &TableName) -> bool {
        let [source, schema, name] = &self.0;
        source.matches(&table.source) && schema.matches(&table.schema) && name.matches(&table.table)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parts_match_each_for_itself() {
        let table = |text: &str| {
            let parts: Vec<&str> = text.splitn(3, '.').collect();
            TableName { source: parts[0].into(), schema: parts[1].into(), table: parts[2].into() }
        };
        for (pattern, name, expected) in [
            ("*", "a.b.c", true),
            ("a.b.c", "a.b.c", true),
            ("a.*.c", "a.b.c", true),
            ("a.*.c*", "a.b.cd", true),
            ("a*.c.*", "a.b.c", false),
            ("a.b.*", "a.b.c.d", true),
            ("A.b.c", "a.b.c", false),
        ] {
            assert_eq!(TablePattern::parse(pattern).unwrap().matches(&table(name)), expected, "{pattern} on {name}");
        }
        for wrong in ["", "a", "a.b", "a..c", ".b.c"] {
            assert!(TablePattern::parse(wrong).is_none(), "{wrong}");
        }
    }
}
