//! Numbers as people read them: a true minus sign, grouped thousands, raised exponents.

/// The minus sign, which is as wide as a plus sign.
pub const MINUS: char = '\u{2212}';

/// Prints `value` with `decimals` digits after the point and commas between thousands.
pub fn fixed(value: f64, decimals: usize) -> String {
    let digits = format!("{:.decimals$}", value.abs());
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
    let mut text = String::new();
    if value < 0.0 && digits.bytes().any(|digit| (b'1'..=b'9').contains(&digit)) {
        text.push(MINUS);
    }
    text.push_str(&grouped(whole));
    if !fraction.is_empty() {
        text.push('.');
        text.push_str(fraction);
    }
    text
}

/// Puts commas between the thousands of a row of digits.
pub fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Raises the digits of a whole number.
pub fn superscript(exponent: &str) -> String {
    const RAISED: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let raise = |c: char| c.to_digit(10).map_or('⁻', |digit| RAISED[digit as usize]);
    exponent.chars().map(raise).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped_and_zero_has_no_sign() {
        assert_eq!(fixed(-1_234_567.891, 2), "\u{2212}1,234,567.89");
        assert_eq!(fixed(-0.001, 2), "0.00");
        assert_eq!(grouped("1000"), "1,000");
        assert_eq!(superscript("-12"), "⁻¹²");
    }
}
