//! The `tojson` filter of transformers: Python's `json.dumps`, which keeps non-ASCII characters and escapes no HTML.

use std::fmt::Write as _;

use crate::error::{Error, Result};
use crate::runtime::arguments::Arguments;
use crate::runtime::print::float;
use crate::runtime::value::{Dict, Item, Value};

/// Returns `value` as JSON.
pub(crate) fn tojson(value: &Value, mut arguments: Arguments) -> Result<String> {
    let ascii = arguments.flag("ensure_ascii");
    let indent = match arguments.take("indent") {
        None | Some(Value::None) => None,
        Some(Value::Str(text)) => Some(text.to_string()),
        Some(Value::Bool(value)) => Some(" ".repeat(usize::from(value))),
        Some(Value::Int(width)) => Some(" ".repeat(width.clamp(0, 64) as usize)),
        Some(_) => return Err(Error::of_type("`indent` must be an integer or a string")),
    };
    let (mut item, mut key) = (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    match arguments.take("separators") {
        None | Some(Value::None) => {}
        Some(Value::List(given) | Value::Tuple(given)) => match given.as_slice() {
            [Value::Str(a), Value::Str(b)] => (item, key) = (a.to_string(), b.to_string()),
            _ => return Err(Error::of_type("`separators` must be two strings")),
        },
        Some(_) => return Err(Error::of_type("`separators` must be two strings")),
    }
    let sorted = arguments.flag("sort_keys");
    arguments.finish("tojson")?;
    let style = Dumps { item, key, indent, ascii, sorted };
    let mut out = String::new();
    style.write(&mut out, value, 0)?;
    Ok(out)
}

struct Dumps {
    item: String,
    key: String,
    indent: Option<String>,
    ascii: bool,
    sorted: bool,
}

impl Dumps {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<()> {
        match value {
            Value::None => out.push_str("null"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Int(number) => write!(out, "{number}").expect("a string grows"),
            Value::Float(number) => out.push_str(&json_float(*number)),
            Value::Str(text) => self.string(out, text),
            Value::List(items) | Value::Tuple(items) => {
                self.block(out, ('[', ']'), depth, items, |out, item| self.write(out, item, depth + 1))?;
            }
            Value::Dict(dict) => self.dict(out, dict, depth)?,
            other => {
                let kind = other.type_name();
                return Err(Error::of_type(format!("Object of type {kind} is not JSON serializable")));
            }
        }
        Ok(())
    }

    fn dict(&self, out: &mut String, dict: &Dict, depth: usize) -> Result<()> {
        let mut items: Vec<&Item> = dict.items().iter().collect();
        if self.sorted {
            let mut problem = None;
            items.sort_by(|a, b| match a.key.compare(&b.key, "<") {
                Ok(order) => order.unwrap_or(std::cmp::Ordering::Equal),
                Err(error) => {
                    problem = Some(error);
                    std::cmp::Ordering::Equal
                }
            });
            problem.map_or(Ok(()), Err)?;
        }
        self.block(out, ('{', '}'), depth, &items, |out, item| {
            match &item.key {
                Value::Str(text) => self.string(out, text),
                Value::None => out.push_str("\"null\""),
                Value::Bool(value) => write!(out, "\"{value}\"").expect("a string grows"),
                Value::Int(number) => write!(out, "\"{number}\"").expect("a string grows"),
                Value::Float(number) => write!(out, "\"{}\"", json_float(*number)).expect("a string grows"),
                other => {
                    let kind = other.type_name();
                    let reason = format!("keys must be str, int, float, bool or None, not {kind}");
                    return Err(Error::of_type(reason));
                }
            }
            out.push_str(&self.key);
            self.write(out, &item.value, depth + 1)
        })
    }

    fn block<T>(
        &self,
        out: &mut String,
        (open, close): (char, char),
        depth: usize,
        items: &[T],
        mut each: impl FnMut(&mut String, &T) -> Result<()>,
    ) -> Result<()> {
        out.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push_str(&self.item);
            }
            self.newline(out, depth + 1);
            each(out, item)?;
        }
        if !items.is_empty() {
            self.newline(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn newline(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn string(&self, out: &mut String, text: &str) {
        out.push('"');
        for letter in text.chars() {
            match letter {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                _ if letter < ' ' || (self.ascii && letter > '~') => {
                    for unit in letter.encode_utf16(&mut [0; 2]) {
                        write!(out, "\\u{unit:04x}").expect("a string grows");
                    }
                }
                _ => out.push(letter),
            }
        }
        out.push('"');
    }
}

fn json_float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    float(number)
}
