//! Numbers as people read them: a true minus sign, grouped thousands, as many digits as carry meaning.

pub(crate) use chart::number::fixed;
use chart::number::{MINUS, grouped, superscript};

/// Separates a number from its unit without allowing a line break.
const NARROW_SPACE: char = '\u{202f}';

/// Prints `value` as [`fixed`] does, with a sign unless it rounds to 0.
pub(crate) fn signed(value: f64, decimals: usize) -> String {
    let text = fixed(value, decimals);
    let zero = !text.bytes().any(|digit| (b'1'..=b'9').contains(&digit));
    if zero || text.starts_with(MINUS) { text } else { format!("+{text}") }
}

/// Prints `value` with three significant digits, but never fewer than its whole part has.
pub(crate) fn three_digits(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if value.abs() < 1e-3 || value.abs() >= 1e9 {
        return scientific(value);
    }
    let decimals = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        size if size >= 0.1 => 3,
        size if size >= 0.01 => 4,
        _ => 5,
    };
    fixed(value, decimals)
}

/// Prints `value` as a factor times a power of ten.
pub(crate) fn scientific(value: f64) -> String {
    let text = format!("{value:.2e}");
    let (factor, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let factor =
        if factor.contains('.') { factor.trim_end_matches('0').trim_end_matches('.') } else { factor };
    format!("{}×10{}", factor.replace('-', &MINUS.to_string()), superscript(exponent))
}

/// Prints a count with commas between thousands.
pub(crate) fn count(value: u64) -> String {
    grouped(&value.to_string())
}

/// Prints a count with its noun, in the plural unless the count is 1.
pub(crate) fn counted(value: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(value), if value == 1 { "" } else { "s" })
}

/// Prints a share as a whole percentage, without a sign.
pub(crate) fn percent_of(share: f64) -> String {
    format!("{}%", fixed(share * 100.0, 0))
}

/// Prints a change as a percentage with its sign; small ones keep a decimal.
pub(crate) fn percent(share: f64) -> String {
    let percent = (share * 100.0).abs();
    // Close to 100% is not 100%.
    let decimals = usize::from(percent < 9.95 || (percent > 99.0 && percent < 100.0));
    format!("{}%", signed(share * 100.0, decimals))
}

/// Prints the name of a field as words with a capital first letter.
pub(crate) fn words(name: &str) -> String {
    let text = name.replace('_', " ");
    let mut characters = text.chars();
    characters.next().map_or(String::new(), |first| first.to_uppercase().chain(characters).collect())
}

/// Prints a size in bytes with a decimal unit.
pub(crate) fn bytes(size: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if size < 1000 {
        return format!("{size}{NARROW_SPACE}B");
    }
    let mut value = size as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{}{NARROW_SPACE}{}", three_digits(value), UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_and_groups() {
        assert_eq!(fixed(-1_234_567.891, 2), "\u{2212}1,234,567.89");
        assert_eq!(fixed(-0.001, 2), "0.00");
        assert_eq!(signed(0.001, 2), "0.00");
        assert_eq!(signed(18.8, 1), "+18.8");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(counted(1, "row"), "1 row");
        assert_eq!(words("semantic_similarity"), "Semantic similarity");
    }

    #[test]
    fn digits_follow_the_size() {
        assert_eq!(three_digits(12.345), "12.3");
        assert_eq!(three_digits(9.999), "10.0");
        assert_eq!(three_digits(123.4), "123");
        assert_eq!(three_digits(45_678.9), "45,679");
        assert_eq!(three_digits(0.5), "0.500");
        assert_eq!(three_digits(0.0002), "2×10⁻⁴");
        assert_eq!(three_digits(3.2e12), "3.2×10¹²");
        assert_eq!(three_digits(0.0), "0");
    }

    #[test]
    fn percentages_and_bytes() {
        assert_eq!(percent(-0.73), "\u{2212}73%");
        assert_eq!(percent(0.042), "+4.2%");
        assert_eq!(bytes(999), "999\u{202f}B");
        assert_eq!(bytes(4_321_000), "4.32\u{202f}MB");
        assert_eq!(bytes(999_900), "1.00\u{202f}MB");
    }
}
