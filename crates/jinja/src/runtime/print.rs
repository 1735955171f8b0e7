//! Values as text, as Python's `str` and `repr` print them.

use crate::error::Result;
use crate::runtime::budget::{Budget, Builder, check_depth};
use crate::runtime::dict::Dict;
use crate::runtime::memory::Text;
use crate::runtime::value::{Object, Value};

/// Returns `value` as Python's `str` prints it: `True`, `None`, `[1, 'a']`.
pub(crate) fn str_of(value: &Value, budget: &Budget) -> Result<Text> {
    match value {
        Value::Str(text) => Ok(text.clone()),
        Value::Undefined(_) => Ok("".into()),
        other => repr(other, budget),
    }
}

/// Returns `value` as Python's `repr` prints it.
pub(crate) fn repr(value: &Value, budget: &Budget) -> Result<Text> {
    let mut out = Builder::new(budget);
    write(&mut out, value, 0)?;
    Ok(out.finish().into())
}

fn write(out: &mut Builder<'_>, value: &Value, depth: usize) -> Result<()> {
    check_depth(depth)?;
    out.budget().visits(1)?;
    match value {
        Value::Undefined(_) => out.push_str("Undefined"),
        Value::None => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Int(number) => out.push_str(&number.to_string()),
        Value::Float(number) => {
            out.budget().float()?;
            out.push_str(&float(*number))
        }
        Value::Str(text) => quoted(out, text),
        Value::List(items) => joined(out, "[", items, "]", depth),
        Value::Tuple(items) => joined(out, "(", items, if items.len() == 1 { ",)" } else { ")" }, depth),
        Value::Lazy(lazy) => match lazy.view {
            Some(name) => {
                out.push_str(name)?;
                joined(out, "([", &lazy.items, "])", depth)
            }
            None => out.push_str("<generator object>"),
        },
        Value::Dict(dict) => dict_entries(out, dict, depth),
        Value::Object(Object::Namespace(dict)) => {
            out.push_str("<Namespace ")?;
            dict_entries(out, &dict.borrow(), depth)?;
            out.push('>')
        }
        Value::Object(Object::Macro(found)) => {
            out.push_str("<Macro '")?;
            out.push_str(&found.def.name)?;
            out.push_str("'>")
        }
        Value::Object(_) => out.push_str(&format!("<{}>", value.type_name())),
    }
}

fn joined(out: &mut Builder<'_>, open: &str, items: &[Value], close: &str, depth: usize) -> Result<()> {
    out.push_str(open)?;
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(", ")?;
        }
        write(out, item, depth + 1)?;
    }
    out.push_str(close)
}

fn dict_entries(out: &mut Builder<'_>, dict: &Dict, depth: usize) -> Result<()> {
    out.push('{')?;
    for (index, item) in dict.items().iter().enumerate() {
        if index > 0 {
            out.push_str(", ")?;
        }
        write(out, &item.key, depth + 1)?;
        out.push_str(": ")?;
        write(out, &item.value, depth + 1)?;
    }
    out.push('}')
}

fn quoted(out: &mut Builder<'_>, text: &str) -> Result<()> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote)?;
    for letter in text.chars() {
        match letter {
            '\n' => out.push_str("\\n")?,
            '\r' => out.push_str("\\r")?,
            '\t' => out.push_str("\\t")?,
            '\\' => out.push_str("\\\\")?,
            _ if letter == quote => out.extend(['\\', letter])?,
            _ if is_printable(letter) => out.push(letter)?,
            '\0'..='\u{FF}' => out.escape('x', letter.into(), 2)?,
            '\0'..='\u{FFFF}' => out.escape('u', letter.into(), 4)?,
            _ => out.escape('U', letter.into(), 8)?,
        }
    }
    out.push(quote)
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
        let str_of = |value: &Value| str_of(value, &Budget::new(0)).unwrap().to_string();
        assert_eq!(str_of(&value), r#"{'a': [True, None, 1, 2.0], "it's": 'ʻ\n"x\'\u200b'}"#);
        assert_eq!(str_of(&Value::undefined("x")), "");
        assert_eq!(str_of(&Value::tuple(vec![Value::from(true)])), "(True,)");
    }
}
