//! Canonical JSON (RFC 8785), and the values that may be part of a key.

use serde_json::Value;

use crate::error::{Error, Result};

/// The largest integer that every JSON reader keeps exact.
const MAX_INTEGER: u64 = (1 << 53) - 1;

/// Returns the canonical JSON of a value.
pub fn canonical(value: &Value) -> Vec<u8> {
    serde_json_canonicalizer::to_vec(value).expect("a JSON value without NaN always has a canonical form")
}

/// Checks that two different values cannot have the same canonical form.
///
/// The domain is stricter than JSON: names are `[a-z0-9_]+`, there is no null, and integers stay within ±(2^53 − 1); larger
/// ones are written as decimal strings.
///
/// # Errors
///
/// [`Error::KeyDomain`] names the first value outside the domain.
pub(crate) fn check_domain(value: &Value) -> Result<()> {
    check(value, "")
}

fn check(value: &Value, pointer: &str) -> Result<()> {
    match value {
        Value::Null => Err(outside(pointer, "null says nothing; leave the field out")),
        Value::Bool(_) | Value::String(_) => Ok(()),
        Value::Number(number) => check_number(number).map_err(|reason| outside(pointer, reason)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, item)| check(item, &join(pointer, &index.to_string()))),
        Value::Object(fields) => fields.iter().try_for_each(|(name, field)| {
            let pointer = join(pointer, name);
            if !is_name(name) {
                return Err(outside(&pointer, "names must match [a-z0-9_]+"));
            }
            check(field, &pointer)
        }),
    }
}

fn check_number(number: &serde_json::Number) -> Result<(), &'static str> {
    let magnitude = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
    match (magnitude, number.as_f64()) {
        (Some(magnitude), _) if magnitude > MAX_INTEGER => {
            Err("integers beyond 2^53 - 1 must be written as decimal strings")
        }
        (Some(_), _) => Ok(()),
        // Canonical JSON prints such a float without exponent, which reads back as an integer out of range.
        (None, Some(float)) if float.abs() > MAX_INTEGER as f64 && float.abs() < 1e21 => {
            Err("numbers between 2^53 and 1e21 are not exact; write them as decimal strings")
        }
        (None, Some(float)) if float.is_finite() => Ok(()),
        _ => Err("the number is not finite"),
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    !name.is_empty() && name.bytes().all(allowed)
}

fn outside(pointer: &str, reason: &str) -> Error {
    let pointer = if pointer.is_empty() { "/" } else { pointer };
    Error::KeyDomain { pointer: pointer.to_owned(), reason: reason.to_owned() }
}

/// Appends a name or an index to a JSON pointer written without its leading slash.
pub(crate) fn join(pointer: &str, name: &str) -> String {
    if pointer.is_empty() { name.to_owned() } else { format!("{pointer}/{name}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Bit patterns and printed forms from RFC 8785, appendix B.
    #[test]
    fn numbers_print_as_rfc_8785_wants() {
        let cases: [(u64, &str); 19] = [
            (0x0000_0000_0000_0000, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5554, "333333333.33333325"),
        ];
        for (bits, text) in cases {
            assert_eq!(canonical(&json!(f64::from_bits(bits))), text.as_bytes(), "{bits:x}");
        }
        assert_eq!(canonical(&json!({"b": 1e-5, "a": 1.0})), br#"{"a":1,"b":0.00001}"#);
    }

    #[test]
    fn integers_are_exact_or_refused() {
        let largest = 9_007_199_254_740_991_i64;
        assert!(check_domain(&json!({"n": largest, "m": -largest})).is_ok());
        for number in [json!(largest + 1), json!(-largest - 1), json!(u64::MAX)] {
            let error = check_domain(&json!({"config": {"n": number}})).unwrap_err();
            assert!(
                error.to_string().starts_with("`config/n` cannot be part of a key: integers beyond"),
                "{error}"
            );
        }
    }

    #[test]
    fn null_and_odd_names_are_refused_with_their_place() {
        let error = check_domain(&json!({"a": [1, {"b": null}]})).unwrap_err();
        assert!(error.to_string().starts_with("`a/1/b` cannot"), "{error}");
        for name in ["", "A", "a-b", "ä", "a b"] {
            assert!(check_domain(&json!({name: 1})).is_err(), "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn order_of_insertion_does_not_matter(names in proptest::collection::btree_set("[a-z0-9_]{1,8}", 1..12)) {
            let object = |names: &mut dyn Iterator<Item = &String>| -> Value {
                names.map(|name| (name.clone(), json!(name.len()))).collect::<serde_json::Map<_, _>>().into()
            };
            let (forward, backward) = (object(&mut names.iter()), object(&mut names.iter().rev()));
            proptest::prop_assert_eq!(canonical(&forward), canonical(&backward));
        }
    }
}
