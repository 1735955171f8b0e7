//! Division of the rows into parts, which become subgroups: by a value, by a number, by length.

use std::collections::{BTreeMap, BTreeSet};

/// Parts of one division that are scored at most.
const MOST: usize = 100;
/// Different numbers from which on a column of numbers is divided into thirds.
const MANY_NUMBERS: usize = 8;
/// Parts that numbers are divided into.
const THIRDS: usize = 3;

/// A subset of the rows, before it is scored.
#[derive(Debug, PartialEq)]
pub(crate) struct Part {
    pub(crate) by: String,
    pub(crate) value: String,
    /// Indices of its rows, sorted.
    pub(crate) rows: Vec<usize>,
}

/// Divides rows by a value of each; rows without one are in no part. The parts are sorted by size, large ones first.
pub(crate) fn parts_by(by: &str, values: &[Option<String>]) -> Vec<Part> {
    let mut found: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (row, value) in values.iter().enumerate() {
        if let Some(value) = value {
            found.entry(value).or_default().push(row);
        }
    }
    let mut parts: Vec<Part> = found
        .into_iter()
        .map(|(value, rows)| Part { by: by.to_owned(), value: value.to_owned(), rows })
        .collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.rows.len()));
    if parts.len() > MOST {
        tracing::warn!(
            "`{by}` divides the rows into {} subgroups; the {MOST} largest are scored",
            parts.len()
        );
        parts.truncate(MOST);
    }
    parts
}

/// Divides rows by a column: into thirds if it has many different numbers, else by its values.
pub(crate) fn parts_by_column(by: &str, values: &[Option<String>]) -> Vec<Part> {
    let number = |value: &String| value.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    let different: BTreeSet<&String> = values.iter().flatten().collect();
    if different.len() < MANY_NUMBERS || !different.iter().all(|value| number(value).is_some()) {
        return parts_by(by, values);
    }
    let numbers: Vec<Option<f64>> = values.iter().map(|value| value.as_ref().and_then(number)).collect();
    let lowest = |rows: &[usize]| rows.iter().filter_map(|&row| numbers[row]).fold(f64::INFINITY, f64::min);
    thirds(by, &numbers, |_, rows, end| format!("{} to {end}", lowest(rows)))
}

/// Divides rows into thirds by the length of their references in characters. Rows of one length are in one part.
pub(crate) fn parts_by_length(by: &str, lengths: &[Option<usize>]) -> Vec<Part> {
    let numbers: Vec<Option<f64>> = lengths.iter().map(|length| length.map(|length| length as f64)).collect();
    let shortest = lengths.iter().flatten().min().copied().unwrap_or_default() as f64;
    thirds(by, &numbers, |before, _, end| {
        format!("{}–{end} characters", before.map_or(shortest, |before| before + 1.0))
    })
}

/// Divides rows into thirds by a number of each; `name` is given the largest number of the part before, the rows, and the largest
/// number of the part.
fn thirds(
    by: &str,
    numbers: &[Option<f64>],
    name: impl Fn(Option<f64>, &[usize], f64) -> String,
) -> Vec<Part> {
    let mut sorted: Vec<f64> = numbers.iter().flatten().copied().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    if sorted.is_empty() {
        return Vec::new();
    }
    // Largest number of each part.
    let mut ends: Vec<f64> =
        (1..=THIRDS).map(|part| sorted[(sorted.len() * part / THIRDS).saturating_sub(1)]).collect();
    ends.dedup();
    let mut parts = Vec::new();
    let mut before: Option<f64> = None;
    for end in ends {
        let is_behind = |number: f64| before.is_none_or(|before| number > before);
        let is_in = |number: &Option<f64>| number.is_some_and(|number| is_behind(number) && number <= end);
        let rows: Vec<usize> = (0..numbers.len()).filter(|&row| is_in(&numbers[row])).collect();
        if !rows.is_empty() {
            parts.push(Part { by: by.to_owned(), value: name(before, &rows, end), rows });
        }
        before = Some(end);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(values: &[&str]) -> Vec<Option<String>> {
        values.iter().map(|value| Some((*value).to_owned())).collect()
    }

    #[test]
    fn lengths_are_divided_into_thirds() {
        let lengths: Vec<Option<usize>> = [5, 1, 3, 2, 4, 6].into_iter().map(Some).chain([None]).collect();
        let parts = parts_by_length("length", &lengths);
        let rows: Vec<_> = parts.iter().map(|part| part.rows.clone()).collect();
        assert_eq!(rows, [vec![1, 3], vec![2, 4], vec![0, 5]]);
        assert_eq!(parts[0].value, "1–2 characters");
        assert_eq!(parts_by_length("length", &[Some(3); 7]).len(), 1);
        assert_eq!(parts_by_length("length", &[Some(3)]).len(), 1);
        assert!(parts_by_length("length", &[None]).is_empty());
    }

    #[test]
    fn large_parts_come_first() {
        let parts = parts_by("story", &texts(&["y", "x", "x", "x"]));
        assert_eq!((parts[0].value.as_str(), &parts[0].rows[..]), ("x", &[1, 2, 3][..]));
        assert_eq!(parts.len(), 2);
    }

    #[test]
    fn many_numbers_are_divided_and_few_are_names() {
        let few = parts_by_column("book", &texts(&["4", "5", "4", "6"]));
        assert_eq!((few.len(), few[0].value.as_str()), (3, "4"));
        let values: Vec<String> = (0..9).map(|n| format!("{}.5", 8 - n)).collect();
        let mut values: Vec<Option<String>> = values.into_iter().map(Some).collect();
        values.push(None);
        let many = parts_by_column("ratio", &values);
        let names: Vec<&str> = many.iter().map(|part| part.value.as_str()).collect();
        assert_eq!(names, ["0.5 to 2.5", "3.5 to 5.5", "6.5 to 8.5"]);
        assert_eq!(many[0].rows, [6, 7, 8]);
        values[3] = Some("unknown".to_owned());
        assert_eq!(parts_by_column("ratio", &values).len(), 9);
    }
}
