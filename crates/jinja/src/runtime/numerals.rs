//! Which characters Python takes for digits and numerals. The standard library only knows the general categories.
//!
//! The tables are those of Unicode 14, as in Python 3.11; later versions add a few.

use std::ops::RangeInclusive;

/// The first of each run of ten decimal digits.
const ZEROS: [u32; 61] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50,
    0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40,
    0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066,
    0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950,
    0x11c50, 0x11d50, 0x11da0, 0x16a60, 0x16ac0, 0x16b50, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];

/// Five runs of decimal digits in mathematical alphabets.
const MATHEMATICAL: RangeInclusive<u32> = 0x1d7ce..=0x1d7ff;

/// Digits that are not decimal: superscripts, subscripts, digits in circles and those of scripts without place values.
const OTHER_DIGITS: [RangeInclusive<u32>; 20] = [
    0xb2..=0xb3,
    0xb9..=0xb9,
    0x1369..=0x1371,
    0x19da..=0x19da,
    0x2070..=0x2070,
    0x2074..=0x2079,
    0x2080..=0x2089,
    0x2460..=0x2468,
    0x2474..=0x247c,
    0x2488..=0x2490,
    0x24ea..=0x24ea,
    0x24f5..=0x24fd,
    0x24ff..=0x24ff,
    0x2776..=0x277e,
    0x2780..=0x2788,
    0x278a..=0x2792,
    0x10a40..=0x10a43,
    0x10e60..=0x10e68,
    0x11052..=0x1105a,
    0x1f100..=0x1f10a,
];

/// Ideographs with a numeric value.
const IDEOGRAPHS: &str = "㐅㒃㠪㭍一七万三九二五亖亿什仟仨伍佰億兆兩八六十千卄卅卌叁参參叄四壱壹幺廾廿弌弍弎弐拾捌柒漆玖百肆萬貮貳贰阡陆陌陸零\
    \u{f96b}\u{f973}\u{f978}\u{f9b2}\u{f9d1}\u{f9d3}\u{f9fd}\u{20001}\u{20064}\u{200e2}\u{20121}\
    \u{2092a}\u{20983}\u{2098c}\u{2099c}\u{20aea}\u{20afd}\u{20b19}\u{22390}\u{22998}\u{23b1b}\u{2626d}\u{2f890}";

/// Returns whether `letter` is a digit of a decimal number.
pub(crate) fn is_decimal(letter: char) -> bool {
    let code = u32::from(letter);
    MATHEMATICAL.contains(&code) || ZEROS.iter().any(|zero| (*zero..zero + 10).contains(&code))
}

/// Returns whether `letter` is a digit.
pub(crate) fn is_digit(letter: char) -> bool {
    is_decimal(letter) || OTHER_DIGITS.iter().any(|digits| digits.contains(&u32::from(letter)))
}

/// Returns whether `letter` has a numeric value.
pub(crate) fn is_numeric(letter: char) -> bool {
    letter.is_numeric() || IDEOGRAPHS.contains(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of characters are those of Python 3.11.
    #[test]
    fn there_are_as_many_digits_as_in_python() {
        let count = |holds: fn(char) -> bool| (char::MIN..=char::MAX).filter(|&c| holds(c)).count();
        assert_eq!((count(is_decimal), count(is_digit), IDEOGRAPHS.chars().count()), (660, 788, 81));
        assert!((char::MIN..=char::MAX).all(|letter| !is_digit(letter) || letter.is_numeric()));
    }
}
