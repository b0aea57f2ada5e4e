//! Typed reading of a source's options. Every connector names the keys it knows; anything else is refused with the
//! nearest key it may have meant.
//!
//! INVARIANT: no message made here holds an option's value, since a mistyped key may hold a credential.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr};

use greylag_actors::edge::port::Options;
use greylag_protocol::{ErrorCode, MeshError, Result, SourceName, state::SourceSpec};

/// Most edits between an unknown word and the one proposed for it.
const SUGGESTION_EDITS_MAX: usize = 3;

/// Options of one source, checked against the keys its kind knows.
#[derive(Debug)]
pub(crate) struct OptionReader<'a> {
    source: &'a SourceName,
    options: &'a Options,
}

impl<'a> OptionReader<'a> {
    /// GL6002 for a key that is not among `known`.
    pub(crate) fn new(spec: &'a SourceSpec, options: &'a Options, known: &[&str]) -> Result<Self> {
        for key in options.keys() {
            if !known.contains(&key.as_str()) {
                let message =
                    format!("option `{key}` is not known to kind `{}`{}", spec.kind, did_you_mean(key, known));
                return Err(MeshError::new(ErrorCode::InvalidResource, message).of_source(spec.name.clone()));
            }
        }
        Ok(Self { source: &spec.name, options })
    }

    /// The value as text; an empty value counts as absent.
    pub(crate) fn text(&self, key: &str) -> Option<&'a str> {
        self.options.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The value as given, empty or not.
    pub(crate) fn raw(&self, key: &str) -> Option<&'a str> {
        self.options.get(key).map(String::as_str)
    }

    pub(crate) fn required(&self, key: &str) -> Result<&'a str> {
        self.text(key).ok_or_else(|| self.invalid(format!("option `{key}` is missing")))
    }

    pub(crate) fn number<T>(&self, key: &str, default: T, range: RangeInclusive<T>) -> Result<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.text(key) else { return Ok(default) };
        match text.parse::<T>() {
            Ok(value) if range.contains(&value) => Ok(value),
            _ => Err(self.invalid(format!(
                "option `{key}` must be a whole number between {} and {}",
                range.start(),
                range.end()
            ))),
        }
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.text(key) {
            None => Ok(default),
            Some("true" | "yes" | "on" | "1") => Ok(true),
            Some("false" | "no" | "off" | "0") => Ok(false),
            Some(_) => Err(self.invalid(format!("option `{key}` must be `true` or `false`"))),
        }
    }

    /// The value if it is one of `choices`; the first choice if it is absent.
    pub(crate) fn choice(&self, key: &str, choices: &[&'static str]) -> Result<&'static str> {
        let found = match self.text(key) {
            None => choices.first().copied(),
            Some(text) => choices.iter().copied().find(|choice| *choice == text),
        };
        found.ok_or_else(|| self.invalid(format!("option `{key}` must be one of `{}`", choices.join("`, `"))))
    }

    /// GL6002 about this source.
    pub(crate) fn invalid(&self, message: impl Into<String>) -> MeshError {
        MeshError::new(ErrorCode::InvalidResource, message).of_source(self.source.clone())
    }
}

/// `; did you mean ...?` with the nearest of `known`, or what there is if nothing is near.
pub(crate) fn did_you_mean(word: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|candidate| (edits(word, candidate), *candidate)).min();
    match nearest {
        Some((distance, candidate)) if distance <= SUGGESTION_EDITS_MAX && distance < candidate.len() => {
            format!("; did you mean `{candidate}`?")
        }
        _ => format!("; known are `{}`", known.join("`, `")),
    }
}

/// Levenshtein distance, in characters.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn spec(options: &[(&str, &str)]) -> SourceSpec {
        SourceSpec {
            name: SourceName::new("shop").unwrap(),
            kind: "sqlite".into(),
            options: options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            labels: Default::default(),
            replicas: 1,
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_one_and_without_its_value() {
        let spec = spec(&[("paht", "hunter2")]);
        let error = OptionReader::new(&spec, &spec.options, &["path", "types"]).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidResource);
        assert_eq!(error.message, "option `paht` is not known to kind `sqlite`; did you mean `path`?");
        assert_eq!(error.source.unwrap().as_str(), "shop");
    }

    #[test]
    fn a_key_like_no_other_is_answered_with_what_there_is() {
        assert_eq!(did_you_mean("connection_string", &["path", "types"]), "; known are `path`, `types`");
        assert_eq!(did_you_mean("pat", &["path", "types"]), "; did you mean `path`?");
    }

    #[test]
    fn values_are_read_by_type_and_refused_by_name() {
        let spec = spec(&[("a", "7"), ("b", "yes"), ("c", "auto"), ("d", "900"), ("e", "")]);
        let reader = OptionReader::new(&spec, &spec.options, &["a", "b", "c", "d", "e"]).unwrap();
        assert_eq!(reader.number("a", 1u32, 1..=10).unwrap(), 7);
        assert_eq!(reader.number("missing", 3u32, 1..=10).unwrap(), 3);
        assert_eq!(
            reader.number("d", 1u32, 1..=10).unwrap_err().message,
            "option `d` must be a whole number between 1 and 10"
        );
        assert!(reader.flag("b", false).unwrap());
        assert!(reader.flag("a", false).is_err());
        assert_eq!(reader.choice("c", &["auto", "csv"]).unwrap(), "auto");
        assert_eq!(reader.choice("missing", &["auto", "csv"]).unwrap(), "auto");
        assert!(reader.choice("a", &["auto", "csv"]).is_err());
        assert_eq!(reader.required("e").unwrap_err().message, "option `e` is missing");
        assert_eq!(reader.raw("e"), Some(""));
    }

    #[test]
    fn edits_are_counted_in_characters() {
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("größe", "grösse"), 2);
    }
}
