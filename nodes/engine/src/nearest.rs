//! Names that somebody may have meant: edit distance over what there is.

/// Most names offered.
const OFFERED_MAX: usize = 3;
/// Longest name that is compared, characters; longer ones are never offered.
const NAME_CHARS_MAX: usize = 64;

/// `; did you mean `a`?`, or nothing if no name is near.
pub(crate) fn suggestion(wanted: &str, names: &[&str]) -> String {
    let near = nearest(wanted, names);
    match near.split_last() {
        None => String::new(),
        Some((only, [])) => format!("; did you mean `{only}`?"),
        Some((last, rest)) => format!("; did you mean `{}` or `{last}`?", rest.join("`, `")),
    }
}

/// At most [`OFFERED_MAX`] names, the nearest first, each once.
pub(crate) fn nearest<'a>(wanted: &str, names: &[&'a str]) -> Vec<&'a str> {
    let bound = (wanted.chars().count() / 3).max(1);
    let mut near: Vec<(usize, &str)> =
        names.iter().filter_map(|name| Some((distance(wanted, name, bound)?, *name))).collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(OFFERED_MAX).map(|(_, name)| name).collect()
}

/// Insertions, deletions and exchanges between two names without regard to case, if at most `bound`.
fn distance(a: &str, b: &str, bound: usize) -> Option<usize> {
    let (a, b): (Vec<char>, Vec<char>) = (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    if a.len().abs_diff(b.len()) > bound || a.len() > NAME_CHARS_MAX || b.len() > NAME_CHARS_MAX {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let exchange = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = exchange.min(row[j] + 1).min(diagonal + 1);
        }
    }
    Some(row[b.len()]).filter(|d| *d <= bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_offered_and_far_ones_are_not() {
        let names = ["orders", "customer", "lineitem", "order", "Order_S"];
        assert_eq!(nearest("order", &names), ["order", "orders"]);
        assert_eq!(nearest("CUSTOMERS", &names), ["customer"]);
        assert_eq!(suggestion("linitem", &names), "; did you mean `lineitem`?");
        assert_eq!(suggestion("zzz", &names), "");
    }
}
