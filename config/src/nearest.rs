//! "Did you mean": the known word nearest to a mistyped one.

/// Most edits for a word to count as near.
const EDITS_MAX: usize = 3;

/// The known word with the fewest edits to `word`, if it is near enough to be worth naming.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|k| (edits(word, k), k))
        .filter(|(d, k)| *d <= EDITS_MAX && *d < k.len())
        .min()
        .map(|(_, k)| k)
}

/// A reader's complaint about an unknown key or word (`unknown field `a`, expected one of b, c`), with the known one that
/// was probably meant.
pub fn with_suggestion(message: &str) -> String {
    match suggestion(message) {
        Some(near) => format!("{}; did you mean `{near}`?", message.trim_end()),
        None => message.to_owned(),
    }
}

fn suggestion(message: &str) -> Option<&str> {
    let (_, complaint) = message.split_once("unknown ")?;
    let word = complaint.split('`').nth(1)?;
    let (_, known) = complaint.split_once("expected ")?;
    let known = known.split(" at line").next()?.lines().next()?;
    let known = known.strip_prefix("one of ").unwrap_or(known).split(',');
    nearest(word, known.map(|name| name.trim().trim_matches('`')))
}

/// Levenshtein distance, by characters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_near_and_not_the_far() {
        let known = ["seeds", "expect", "listen"];
        assert_eq!(nearest("seed", known), Some("seeds"));
        assert_eq!(nearest("expct", known), Some("expect"));
        assert_eq!(nearest("flight", known), None);
        assert_eq!(nearest("", ["a"]), None);
    }

    #[test]
    fn a_complaint_is_completed() {
        for unknown in [
            "unknown field `tabels`, expected one of `tables`, `columns`",
            "unknown field `tabels`, expected one of columns, tables at line 3, column 2",
            "unknown variant `tabels`, expected tables",
        ] {
            assert!(with_suggestion(unknown).ends_with("did you mean `tables`?"), "{unknown}");
        }
        for other in ["unknown field `x`, expected `tables`", "missing field `tables`"] {
            assert_eq!(with_suggestion(other), other);
        }
    }
}
