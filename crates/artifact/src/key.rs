//! The `key-v1` hash: SHA-256 of the canonical JSON (RFC 8785) of what was asked.

use serde_json::Value;

use crate::digest::sha256;
use crate::{Error, Key, Result};

/// The largest integer that every JSON reader keeps exact.
const MAX_INTEGER: u64 = (1 << 53) - 1;

impl Key {
    /// Returns the key of `material`.
    ///
    /// The domain is stricter than JSON, so that no two meanings share a key: names are `[a-z0-9_]+`, there is no
    /// null, integers stay within ±(2^53 − 1) (larger ones are written as decimal strings).
    ///
    /// # Errors
    ///
    /// Fails when a value is outside the domain; the error names it.
    pub fn of(material: &Value) -> Result<Self> {
        check(material, "")?;
        Ok(Self::from_bytes(sha256(&canonical(material))))
    }

    /// Returns the key without `numerics`: what was asked, whichever machine answers.
    ///
    /// # Errors
    ///
    /// As [`Key::of`].
    pub fn recipe_of(material: &Value) -> Result<Self> {
        let mut recipe = material.clone();
        if let Value::Object(fields) = &mut recipe {
            fields.remove("numerics");
            fields.insert("schema".to_owned(), "key-v1-loose".into());
        }
        Self::of(&recipe)
    }
}

/// Returns the canonical JSON of a value.
pub fn canonical(value: &Value) -> Vec<u8> {
    serde_json_canonicalizer::to_vec(value).expect("a JSON value without NaN always has a canonical form")
}

fn check(value: &Value, pointer: &str) -> Result<()> {
    let refuse = |reason: &str| {
        let pointer = if pointer.is_empty() { "/" } else { pointer };
        Err(Error::KeyDomain { pointer: pointer.to_owned(), reason: reason.to_owned() })
    };
    let join = |part: &str| if pointer.is_empty() { part.to_owned() } else { format!("{pointer}/{part}") };
    match value {
        Value::Null => refuse("null says nothing; leave the field out"),
        Value::Bool(_) | Value::String(_) => Ok(()),
        Value::Number(number) => {
            let magnitude = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            match magnitude {
                Some(magnitude) if magnitude > MAX_INTEGER => {
                    refuse("integers beyond 2^53 - 1 must be written as decimal strings")
                }
                Some(_) => Ok(()),
                None => match number.as_f64() {
                    // Printed without exponent, it would be read back as an integer out of range.
                    Some(float) if float.abs() > MAX_INTEGER as f64 && float.abs() < 1e21 => {
                        refuse("numbers between 2^53 and 1e21 are not exact; write them as decimal strings")
                    }
                    Some(float) if float.is_finite() => Ok(()),
                    _ => refuse("the number is not finite"),
                },
            }
        }
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(index, item)| check(item, &join(&index.to_string())))
        }
        Value::Object(fields) => fields.iter().try_for_each(|(name, field)| {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            if name.is_empty() || !name.bytes().all(plain) {
                return Err(Error::KeyDomain {
                    pointer: join(name),
                    reason: "names must match [a-z0-9_]+".to_owned(),
                });
            }
            check(field, &join(name))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const VECTOR_B: &str = concat!(
        r#"{"config":{"batch_size":4,"iters":200,"learning_rate":0.00001,"lora":{"dropout":0,"rank":8,"scale":20},"#,
        r#""seed":"42","weight_decay":0.1},"inputs":{"base_model":{"sha256":"#,
        r#""0000000000000000000000000000000000000000000000000000000000000000","type":"tree"},"dataset":{"sha256":"#,
        r#""53416f2131ca93f164c4df3c4bb97edc2f7e46a07f4ffb8eea061156dfec05cc","type":"tree"}},"#,
        r#""numerics":{"backend":"cpu","dtype":"bf16","mlx":"0.32.1"},"schema":"key-v1","stage":"train","#,
        r#""stage_version":3}"#
    );

    fn vector_b() -> Value {
        json!({
            "schema": "key-v1", "stage": "train", "stage_version": 3,
            "config": {
                "learning_rate": 1e-5, "batch_size": 4, "iters": 200, "weight_decay": 0.1, "seed": "42",
                "lora": {"rank": 8, "scale": 20.0, "dropout": 0.0},
            },
            "inputs": {
                "base_model": {"type": "tree", "sha256": "0".repeat(64)},
                "dataset": {
                    "type": "tree",
                    "sha256": "53416f2131ca93f164c4df3c4bb97edc2f7e46a07f4ffb8eea061156dfec05cc",
                },
            },
            "numerics": {"mlx": "0.32.1", "backend": "cpu", "dtype": "bf16"},
        })
    }

    #[test]
    fn vector_b_has_its_known_key() {
        assert_eq!(String::from_utf8(canonical(&vector_b())).unwrap(), VECTOR_B);
        let key = Key::of(&vector_b()).unwrap();
        assert_eq!(key.to_string(), "d6d0121c856b7b50ad509de6b316416bb4c915bf15a5df76e16cb1de83ea4c36");
        assert_eq!(key.short(), "d6d0121c856b7b50");
    }

    #[test]
    fn key_survives_writing_and_reading() {
        let again: Value = serde_json::from_slice(&canonical(&vector_b())).unwrap();
        assert_eq!(Key::of(&again).unwrap(), Key::of(&vector_b()).unwrap());
    }

    #[test]
    fn recipe_ignores_numerics_only() {
        let mut other = vector_b();
        other["numerics"]["mlx"] = "9".into();
        assert_eq!(Key::recipe_of(&other).unwrap(), Key::recipe_of(&vector_b()).unwrap());
        assert_ne!(Key::of(&other).unwrap(), Key::of(&vector_b()).unwrap());
        other["config"]["iters"] = 201.into();
        assert_ne!(Key::recipe_of(&other).unwrap(), Key::recipe_of(&vector_b()).unwrap());
    }

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
        assert!(Key::of(&json!({"n": largest, "m": -largest})).is_ok());
        for number in [json!(largest + 1), json!(-largest - 1), json!(u64::MAX)] {
            let error = Key::of(&json!({"config": {"n": number}})).unwrap_err();
            assert!(
                error.to_string().starts_with("`config/n` cannot be part of a key: integers beyond"),
                "{error}"
            );
        }
    }

    #[test]
    fn null_and_odd_names_are_refused_with_their_place() {
        let error = Key::of(&json!({"a": [1, {"b": null}]})).unwrap_err();
        assert!(error.to_string().starts_with("`a/1/b` cannot"), "{error}");
        for name in ["", "A", "a-b", "ä", "a b"] {
            assert!(Key::of(&json!({name: 1})).is_err(), "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn order_of_insertion_does_not_matter(names in proptest::collection::btree_set("[a-z0-9_]{1,8}", 1..12)) {
            let forward: Value = names.iter().map(|n| (n.clone(), json!(n.len()))).collect::<serde_json::Map<_, _>>().into();
            let backward: Value = names.iter().rev().map(|n| (n.clone(), json!(n.len()))).collect::<serde_json::Map<_, _>>().into();
            proptest::prop_assert_eq!(Key::of(&forward).unwrap(), Key::of(&backward).unwrap());
        }
    }
}
