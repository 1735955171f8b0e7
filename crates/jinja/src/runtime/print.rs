//! Values as text, as Python's `str` and `repr` print them.

use std::fmt::Write as _;

use crate::runtime::value::{Object, Value};

/// Returns `value` as Python's `str` prints it: `True`, `None`, `[1, 'a']`.
pub(crate) fn str_of(value: &Value) -> String {
    match value {
        Value::Str(text) => text.to_string(),
        Value::Undefined(_) => String::new(),
        other => repr(other),
    }
}

/// Returns `value` as Python's `repr` prints it.
pub(crate) fn repr(value: &Value) -> String {
    match value {
        Value::Undefined(_) => "Undefined".to_owned(),
        Value::None => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => float(*number),
        Value::Str(text) => quoted(text),
        Value::List(items) => format!("[{}]", joined(items)),
        Value::Tuple(items) if items.len() == 1 => format!("({},)", repr(&items[0])),
        Value::Tuple(items) => format!("({})", joined(items)),
        Value::Lazy(lazy) => match lazy.view {
            Some(name) => format!("{name}([{}])", joined(&lazy.items)),
            None => "<generator object>".to_owned(),
        },
        Value::Dict(dict) => {
            let entry =
                |item: &crate::runtime::value::Item| format!("{}: {}", repr(&item.key), repr(&item.value));
            let entries: Vec<String> = dict.items().iter().map(entry).collect();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Object(Object::Namespace(dict)) => {
            format!("<Namespace {}>", repr(&Value::Dict(dict.borrow().clone().into())))
        }
        Value::Object(Object::Macro(found)) => format!("<Macro '{}'>", found.def.name),
        Value::Object(_) => format!("<{}>", value.type_name()),
    }
}

fn joined(items: &[Value]) -> String {
    items.iter().map(repr).collect::<Vec<_>>().join(", ")
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for letter in text.chars() {
        match letter {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            _ if letter == quote => out.extend(['\\', letter]),
            _ if is_printable(letter) => out.push(letter),
            '\0'..='\u{FF}' => write!(out, "\\x{:02x}", letter as u32).expect("a string grows"),
            '\0'..='\u{FFFF}' => write!(out, "\\u{:04x}", letter as u32).expect("a string grows"),
            _ => write!(out, "\\U{:08x}", letter as u32).expect("a string grows"),
        }
    }
    out.push(quote);
    out
}

/// Returns whether Python prints `letter` as it is: no controls, separators other than the space, or private letters.
pub(crate) fn is_printable(letter: char) -> bool {
    !matches!(letter,
        '\0'..='\x1f' | '\x7f'..='\u{a0}' | '\u{ad}' | '\u{61c}' | '\u{1680}' | '\u{180e}' | '\u{2000}'..='\u{200f}'
        | '\u{2028}'..='\u{202f}' | '\u{205f}'..='\u{206f}' | '\u{3000}' | '\u{e000}'..='\u{f8ff}' | '\u{feff}'
        | '\u{fdd0}'..='\u{fdef}' | '\u{fff0}'..='\u{fffb}' | '\u{fffe}'..='\u{ffff}' | '\u{e0000}'..='\u{e0fff}'
        | '\u{f0000}'..='\u{10ffff}')
}

/// Returns a float as Python prints it, with the fewest digits that read back as the same number.
pub(crate) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').expect("`{:e}` writes an exponent");
    let exponent: i32 = exponent.parse().expect("`{:e}` writes a whole exponent");
    if (-4..16).contains(&exponent) {
        let plain = format!("{number}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_in_python() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1e16, "1e+16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (1e15, "1000000000000000.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (0.0, "0.0"),
        ];
        for (value, expected) in cases {
            assert_eq!(float(value), expected);
        }
    }

    #[test]
    fn values_print_as_in_python() {
        let value = Value::from(&serde_json::json!({"a": [true, null, 1, 2.0], "it's": "ʻ\n\"x'\u{200b}"}));
        assert_eq!(str_of(&value), r#"{'a': [True, None, 1, 2.0], "it's": 'ʻ\n"x\'\u200b'}"#);
        assert_eq!(str_of(&Value::undefined("x")), "");
        assert_eq!(str_of(&Value::tuple(vec![Value::from(true)])), "(True,)");
    }
}
