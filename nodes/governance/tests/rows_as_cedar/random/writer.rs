//! Draws expressions that are valid in Cedar's strict mode for what they are about, and at times on purpose not.

use std::collections::BTreeSet;

use greylag_governance::policy::{ColumnFacts, TableFacts, ValueKind};

use super::{
    dice::Dice,
    expression::{
        Expression as E,
        Type::{self, Bool, Decimal, Instant, Long, Text, Texts},
    },
    principal::{FRAMEWORKS, GROUPS, IDS, ORGANISATIONS, ROLES, TAGS},
    values::{DECIMALS, INSTANTS, LONGS, PATTERNS, TEXTS, decimal, near, quoted, quoted_pattern},
};

/// What `resource` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    Row,
    Column,
    Table,
    /// Several of them: only what all have can be asked, before asking which it is.
    Anything,
}

pub struct Writer<'a> {
    pub dice: &'a mut Dice,
    pub about: About,
    pub table: &'a TableFacts,
    /// What is known to be there.
    known: BTreeSet<String>,
    /// What the atom being drawn needs to be there.
    needs: BTreeSet<String>,
    pub flaws: Vec<&'static str>,
}

/// Cedar's words that are no identifiers.
const RESERVED: [&str; 9] = ["true", "false", "if", "then", "else", "in", "is", "like", "has"];

fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !RESERVED.contains(&name)
}

const fn type_of(kind: ValueKind) -> Type {
    match kind {
        ValueKind::Bool => Bool,
        ValueKind::Integer => Long,
        ValueKind::Text => Text,
        ValueKind::Decimal => Decimal,
        ValueKind::Instant => Instant,
    }
}

impl<'a> Writer<'a> {
    pub fn new(dice: &'a mut Dice, about: About, table: &'a TableFacts) -> Self {
        Self { dice, about, table, known: BTreeSet::new(), needs: BTreeSet::new(), flaws: vec![] }
    }

    /// Something true or false.
    pub fn truth(&mut self, depth: usize) -> E {
        if depth == 0 {
            return self.atom(0);
        }
        match self.dice.weighted(&[36, 20, 18, 8, 8, 4, 6]) {
            1 => {
                let a = self.truth(depth - 1);
                let b = self.knowing(&a, |w| w.truth(depth - 1));
                E::and(a, b)
            }
            2 => {
                let (a, b) = (self.truth(depth - 1), self.truth(depth - 1));
                E::or(a, b)
            }
            3 => E::of(Bool, "!#", vec![self.truth(depth - 1)]),
            4 => {
                let test = self.truth(depth - 1);
                let then = self.knowing(&test, |w| w.truth(depth - 1));
                let otherwise = self.truth(depth - 1);
                E::of(Bool, "(if # then # else #)", vec![test, then, otherwise])
            }
            5 => {
                let op = self.dice.word(&["(# == #)", "(# != #)"]);
                E::of(Bool, op, vec![self.truth(depth - 1), self.truth(depth - 1)])
            }
            6 if self.about == About::Anything => {
                let is_row = E::leaf(Bool, "resource is Row");
                let about = std::mem::replace(&mut self.about, About::Row);
                let of_row = self.truth(depth - 1);
                self.about = about;
                E::and(is_row, of_row)
            }
            _ => self.atom(depth - 1),
        }
    }

    fn knowing<T>(&mut self, test: &E, then: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.known.clone();
        self.known.extend(test.found.iter().cloned());
        let result = then(self);
        self.known = before;
        result
    }

    /// A comparison or the like, behind the guards that it needs.
    fn atom(&mut self, depth: usize) -> E {
        let outer = std::mem::take(&mut self.needs);
        let mut atom = self.bare_atom(depth);
        let needs = std::mem::replace(&mut self.needs, outer);
        for need in needs.into_iter().rev() {
            let guard = E::guard(&need);
            atom = match self.dice.weighted(&[75, 10, 12, 3]) {
                0 => E::and(guard, atom),
                1 => E::of(Bool, "(if # then # else #)", vec![guard, atom, E::leaf(Bool, "true")]),
                2 => E::of(Bool, "(if # then # else #)", vec![guard, atom, E::leaf(Bool, "false")]),
                _ if self.dice.percent(40) => {
                    self.flaws.push("unguarded");
                    atom
                }
                _ => E::and(guard, atom),
            };
        }
        atom
    }

    fn bare_atom(&mut self, depth: usize) -> E {
        // Of rows mostly what depends on them: a constant decides too much.
        let weights = match self.about {
            About::Row => [55, 12, 14, 8, 5, 3, 1, 2],
            _ => [35, 9, 12, 12, 8, 20, 3, 1],
        };
        match self.dice.weighted(&weights) {
            0 => self.comparison(depth),
            1 => {
                let text = match self.column(Text).filter(|_| self.dice.percent(80)) {
                    Some(column) => column,
                    None => self.term(Text, depth),
                };
                E::of(Bool, &format!("(# like {})", pattern(self.dice)), vec![text])
            }
            2 => self.membership(depth),
            3 => self.presence(),
            4 => self.term(Bool, depth),
            5 => self.hierarchy(),
            6 => self.sets(),
            _ => self.wrong(),
        }
    }

    fn comparison(&mut self, depth: usize) -> E {
        let of_type = self.type_of_column().unwrap_or(match self.dice.weighted(&[35, 30, 15, 15, 8]) {
            0 => Long,
            1 => Text,
            2 => Decimal,
            3 => Instant,
            _ => Bool,
        });
        let (mut left, mut right) = (self.term(of_type, depth), self.term(of_type, depth));
        if self.about == About::Row && self.dice.percent(85) {
            left = self.column(of_type).unwrap_or(left);
        }
        if self.dice.percent(30) {
            std::mem::swap(&mut left, &mut right);
        }
        let ops: &[&str] = match of_type {
            Long | Instant => &["==", "!=", "<", "<=", ">", ">="],
            Decimal => &["==", "!=", "lessThan", "lessThanOrEqual", "greaterThan", "greaterThanOrEqual"],
            _ => &["==", "!="],
        };
        let op = *self.dice.pick(ops);
        let pattern = if op.starts_with(char::is_alphabetic) { format!("#.{op}(#)") } else { format!("(# {op} #)") };
        E::of(Bool, &pattern, vec![left, right])
    }

    /// Whether a set contains something.
    fn membership(&mut self, depth: usize) -> E {
        let of_column = self.type_of_column().filter(|of_type| *of_type != Bool);
        let of_type = of_column.unwrap_or(*self.dice.pick(&[Text, Text, Long, Decimal, Instant]));
        let sought = match self.column(of_type).filter(|_| self.dice.percent(90)) {
            Some(column) => column,
            None => self.term(of_type, depth),
        };
        if of_type == Text && self.dice.percent(35) {
            let set = self.texts();
            return E::of(Bool, "#.contains(#)", vec![set, sought]);
        }
        let count = 1 + self.dice.below(4);
        let mut elements: Vec<E> = (0..count).map(|_| self.constant(of_type)).collect();
        if self.dice.percent(20) {
            elements.extend(self.column(of_type));
        }
        elements.push(sought);
        let pattern = format!("[{}].contains(#)", vec!["#"; elements.len() - 1].join(", "));
        E::of(Bool, &pattern, elements)
    }

    /// A set of texts that is known beforehand.
    fn texts(&mut self) -> E {
        match self.dice.below(3) {
            0 => self.optional(Texts, "principal", "teams"),
            1 => E::leaf(Texts, "context.tables"),
            _ => {
                let all: Vec<String> = (0..=self.dice.below(3)).map(|_| quoted(self.dice.word(&TEXTS))).collect();
                E::leaf(Texts, format!("[{}]", all.join(", ")))
            }
        }
    }

    fn sets(&mut self) -> E {
        let a = self.texts();
        if self.dice.percent(25) {
            return E::of(Bool, "#.isEmpty()", vec![a]);
        }
        let b = self.texts();
        E::of(Bool, self.dice.word(&["#.containsAny(#)", "#.containsAll(#)", "(# == #)"]), vec![a, b])
    }

    fn presence(&mut self) -> E {
        let column = match self.about {
            About::Row if self.dice.percent(75) => self.any_column().cloned(),
            _ => None,
        };
        let text = match column {
            Some(column) => format!("resource has {}", self.has_name(&column.name)),
            None => (self.dice.word(&[
                "principal has level",
                "principal has cleared",
                "principal has organisation",
                "principal has acts_for",
                "principal has agent_id",
                "context has framework",
                "principal.hasTag(\"desk\")",
                "principal.hasTag(\"organisation\")",
                "principal has nothing_of_that_name",
            ]))
            .to_owned(),
        };
        E::guard(&text)
    }

    fn has_name(&mut self, name: &str) -> String {
        if is_identifier(name) && self.dice.percent(80) { name.to_owned() } else { quoted(name) }
    }

    fn hierarchy(&mut self) -> E {
        let role = format!("Role::{}", quoted(self.dice.word(&ROLES)));
        let group = format!("Group::{}", quoted(self.dice.word(&GROUPS)));
        let user = format!("User::{}", quoted(self.dice.word(&IDS)));
        let organisation = format!("Organisation::{}", quoted(self.dice.word(&ORGANISATIONS)));
        let name = &self.table.name;
        let table = format!("Table::{}", quoted(&name.to_string()));
        let schema = format!("Schema::{}", quoted(&format!("{}.{}", name.source, name.schema)));
        let tag = format!("Tag::{}", quoted(self.dice.word(&super::policy::TAGS)));
        let text = match self.dice.below(12) {
            0 | 1 => format!("principal in {role}"),
            2 => format!("principal in [{role}, Role::\"nobody\"]"),
            3 => format!("principal in {organisation}"),
            4 => format!("principal == {user}"),
            5 => format!("principal is {}", self.dice.word(&["User", "Agent", "Machine"])),
            6 => format!("principal is User in {group}"),
            7 => format!("resource in {}", self.dice.pick(&[table, schema, tag])),
            8 => format!("resource in [{tag}, Tag::\"pii\"]"),
            9 => format!("resource is {}", self.dice.word(&["Row", "Column", "Table"])),
            10 => {
                self.needs.insert("principal has acts_for".into());
                format!("principal.acts_for == {user}")
            }
            _ => self.dice.word(&["action == Action::\"select\"", "action in Action::\"read\""]).to_owned(),
        };
        E::leaf(Bool, format!("({text})"))
    }

    /// Something that has a value.
    fn term(&mut self, of_type: Type, depth: usize) -> E {
        if self.dice.percent(if depth == 0 { 3 } else { 10 }) && of_type != Texts {
            let test = self.choice_test();
            let parts = vec![test, self.term(of_type, 0), self.term(of_type, 0)];
            return E::of(of_type, "(if # then # else #)", parts);
        }
        match self.dice.weighted(&[40, 35, 25]) {
            0 => self.column(of_type),
            1 => None,
            _ => self.of_asker(of_type, depth),
        }
        .unwrap_or_else(|| self.constant(of_type))
    }

    /// A test without guards of its own: what it needs is asked for before the whole atom.
    fn choice_test(&mut self) -> E {
        match self.column(Bool).filter(|_| self.dice.percent(40)) {
            Some(column) => column,
            None if self.dice.percent(50) => self.comparison(0),
            None => self.presence(),
        }
    }

    fn constant(&mut self, of_type: Type) -> E {
        let text = match of_type {
            Bool => self.dice.word(&["true", "false"]).to_owned(),
            Long => {
                let value = *self.dice.pick(&LONGS);
                near(self.dice, value).to_string()
            }
            Text => quoted(self.dice.word(&TEXTS)),
            Decimal => {
                let value = *self.dice.pick(&DECIMALS);
                format!("decimal(\"{}\")", decimal(near(self.dice, value)))
            }
            Instant => format!("datetime(\"{}\")", self.dice.pick(&INSTANTS).0),
            Texts => return self.texts(),
        };
        E::leaf(of_type, text)
    }

    /// Of the principal, the context, or the resource when it is no row.
    fn of_asker(&mut self, of_type: Type, depth: usize) -> Option<E> {
        Some(match of_type {
            Bool => self.optional(Bool, "principal", "cleared"),
            Long => match self.dice.below(4) {
                0 => self.optional(Long, "principal", "level"),
                1 if depth > 0 => self.arithmetic(),
                _ => E::leaf(
                    Long,
                    self.dice.word(&["context.hour", "context.minute", "context.priority", "context.weekday"]),
                ),
            },
            Decimal => return None,
            Instant => match self.dice.below(3) {
                0 => E::leaf(Instant, "context.now"),
                1 => E::leaf(Instant, "context.now.offset(duration(\"-1d2h\"))"),
                _ => E::leaf(Instant, "context.now.toDate()"),
            },
            Text => self.of_asker_text(),
            Texts => return None,
        })
    }

    fn of_asker_text(&mut self) -> E {
        match (self.dice.below(8), self.about) {
            (0, _) => E::leaf(Text, self.dice.word(&["context.origin", "context.environment"])),
            (1, _) => self.optional(Text, "context", "framework"),
            (2, _) => {
                let name = self.dice.word(&["organisation", "agent_id", "framework", "request_id"]);
                self.optional(Text, "principal", name)
            }
            (3, _) => self.optional(Text, "principal", "city"),
            (4, _) => {
                let tag = quoted(self.dice.word(&TAGS));
                self.needs.insert(format!("principal.hasTag({tag})"));
                E::leaf(Text, format!("principal.getTag({tag})"))
            }
            (5, _) => {
                self.needs.insert("principal has acts_for".into());
                E::leaf(Text, "principal.acts_for.id")
            }
            (6, About::Column) => E::leaf(Text, self.dice.word(&["resource.name", "resource.table", "resource.type"])),
            (6, About::Table) => {
                E::leaf(Text, self.dice.word(&["resource.name", "resource.schema", "resource.source"]))
            }
            (7, _) => E::leaf(Text, quoted(self.dice.word(&FRAMEWORKS))),
            _ => E::leaf(Text, "principal.id"),
        }
    }

    fn optional(&mut self, of_type: Type, of: &str, name: &str) -> E {
        let need = format!("{of} has {name}");
        if !self.known.contains(&need) {
            self.needs.insert(need);
        }
        E::leaf(of_type, format!("{of}.{name}"))
    }

    /// Of what is known beforehand; it may overflow.
    fn arithmetic(&mut self) -> E {
        let known = E::leaf(Long, self.dice.word(&["context.hour", "context.weekday"]));
        let constant = self.constant(Long);
        E::of(Long, self.dice.word(&["(# + #)", "(# - #)", "(# * #)"]), vec![known, constant])
    }

    fn any_column(&mut self) -> Option<&'a ColumnFacts> {
        let table = self.table;
        (!table.columns.is_empty()).then(|| self.dice.pick(&table.columns))
    }

    /// Of a row, mostly: a type that one of its columns has.
    fn type_of_column(&mut self) -> Option<Type> {
        let kind = (self.about == About::Row && self.dice.percent(85)).then(|| self.any_column()?.kind);
        kind.flatten().map(type_of)
    }

    /// One of the row's columns of a type.
    fn column(&mut self, of_type: Type) -> Option<E> {
        if self.about != About::Row {
            return None;
        }
        let fitting: Vec<&ColumnFacts> =
            self.table.columns.iter().filter(|c| c.kind.map(type_of) == Some(of_type)).collect();
        if fitting.is_empty() {
            return None;
        }
        let column = *self.dice.pick(&fitting);
        let name = &column.name;
        if column.nullable {
            let plain = format!("resource has {}", if is_identifier(name) { name.clone() } else { quoted(name) });
            let in_quotes = format!("resource has {}", quoted(name));
            if !self.known.contains(&plain) && !self.known.contains(&in_quotes) {
                self.needs.insert(plain);
            }
        }
        Some(E::leaf(
            of_type,
            match is_identifier(name) && self.dice.percent(85) {
                true => format!("resource.{name}"),
                false => format!("resource[{}]", quoted(name)),
            },
        ))
    }

    /// What is to be refused, of rows: and said so.
    fn wrong(&mut self) -> E {
        let of = |w: &mut Self, of_type| w.column(of_type);
        let long = of(self, Long);
        let instant = of(self, Instant);
        let text = of(self, Text);
        let (flaw, atom) = match (self.dice.below(6), long, instant, text) {
            (0, Some(long), ..) => ("arithmetic on a column", E::of(Bool, "((# + 1) > 2)", vec![long])),
            (1, _, Some(instant), _) => {
                ("method of a date", E::of(Bool, "(#.toDate() == datetime(\"2024-02-29\"))", vec![instant]))
            }
            (2, _, _, Some(text)) => ("columns as a set", E::of(Bool, "[#].containsAny([\"a\"])", vec![text])),
            (3, _, _, Some(text)) => ("different types", E::of(Bool, "(# == 1)", vec![text])),
            (4, Some(long), ..) => ("different types", E::of(Bool, "(# < \"a\")", vec![long])),
            _ if self.about == About::Row => {
                ("no such column", E::leaf(Bool, "(resource.there_is_no_such_column == 1)"))
            }
            _ => return self.hierarchy(),
        };
        self.flaws.push(flaw);
        atom
    }
}

fn pattern(dice: &mut Dice) -> String {
    quoted_pattern(dice.word(&PATTERNS))
}
