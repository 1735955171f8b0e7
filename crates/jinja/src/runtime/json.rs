//! The `tojson` filter of transformers: Python's `json.dumps`, which keeps non-ASCII characters and escapes no HTML.

use crate::error::{Error, Result};
use crate::runtime::arguments::Arguments;
use crate::runtime::budget::{Budget, Builder, check_depth};
use crate::runtime::comparison::merge_sort;
use crate::runtime::dict::Dict;
use crate::runtime::memory::Text;
use crate::runtime::operators::too_long;
use crate::runtime::print::float;
use crate::runtime::value::{Item, Value};

/// Widest indentation of a level, as an integer.
const MAX_INDENT: i128 = 4096;

/// Returns `value` as JSON.
pub(crate) fn tojson(value: &Value, mut arguments: Arguments, budget: &Budget) -> Result<Text> {
    let ascii = arguments.flag("ensure_ascii");
    let indent = match arguments.take("indent") {
        None | Some(Value::None) => None,
        Some(Value::Str(text)) => Some(text),
        Some(Value::Bool(value)) => Some(spaces(usize::from(value), budget)?),
        Some(Value::Int(width)) if width > MAX_INDENT => return Err(too_long()),
        Some(Value::Int(width)) => Some(spaces(width.max(0) as usize, budget)?),
        Some(_) => return Err(Error::of_type("`indent` must be an integer or a string")),
    };
    let mut item: Text = if indent.is_some() { "," } else { ", " }.into();
    let mut key: Text = ": ".into();
    match arguments.take("separators") {
        None | Some(Value::None) => {}
        Some(Value::List(given) | Value::Tuple(given)) => match &given[..] {
            [Value::Str(a), Value::Str(b)] => (item, key) = (a.clone(), b.clone()),
            _ => return Err(Error::of_type("`separators` must be two strings")),
        },
        Some(_) => return Err(Error::of_type("`separators` must be two strings")),
    }
    let sorted = arguments.flag("sort_keys");
    arguments.finish("tojson")?;
    let style = Dumps { item, key, indent, ascii, sorted };
    let mut out = Builder::new(budget);
    style.write(&mut out, value, 0)?;
    Ok(out.finish().into())
}

fn spaces(count: usize, budget: &Budget) -> Result<Text> {
    budget.text(count)?;
    Ok(" ".repeat(count).into())
}

struct Dumps {
    item: Text,
    key: Text,
    indent: Option<Text>,
    ascii: bool,
    sorted: bool,
}

impl Dumps {
    fn write(&self, out: &mut Builder<'_>, value: &Value, depth: usize) -> Result<()> {
        check_depth(depth)?;
        out.budget().visits(1)?;
        match value {
            Value::None => out.push_str("null"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Int(number) => out.push_str(&number.to_string()),
            Value::Float(number) => out.push_str(&json_float(*number, out.budget())?),
            Value::Str(text) => self.string(out, text),
            Value::List(items) | Value::Tuple(items) => {
                self.block(out, ['[', ']'], depth, items, |out, item| self.write(out, item, depth + 1))
            }
            Value::Dict(dict) => self.dict(out, dict, depth),
            other => {
                let kind = other.type_name();
                Err(Error::of_type(format!("Object of type {kind} is not JSON serializable")))
            }
        }
    }

    fn dict(&self, out: &mut Builder<'_>, dict: &Dict, depth: usize) -> Result<()> {
        let budget = out.budget();
        budget.list(dict.len())?;
        let mut items: Vec<&Item> = dict.items().iter().collect();
        if self.sorted {
            items = merge_sort(items, &mut |a, b| {
                Ok(a.key.compare(&b.key, "<", budget)?.is_some_and(std::cmp::Ordering::is_lt))
            })?;
        }
        self.block(out, ['{', '}'], depth, &items, |out, item| {
            match &item.key {
                Value::Str(text) => self.string(out, text)?,
                Value::None => out.push_str("\"null\"")?,
                Value::Bool(value) => out.push_str(&format!("\"{value}\""))?,
                Value::Int(number) => out.push_str(&format!("\"{number}\""))?,
                Value::Float(number) => out.push_str(&format!("\"{}\"", json_float(*number, budget)?))?,
                other => {
                    let kind = other.type_name();
                    let reason = format!("keys must be str, int, float, bool or None, not {kind}");
                    return Err(Error::of_type(reason));
                }
            }
            out.push_str(&self.key)?;
            self.write(out, &item.value, depth + 1)
        })
    }

    fn block<T>(
        &self,
        out: &mut Builder<'_>,
        [open, close]: [char; 2],
        depth: usize,
        items: &[T],
        mut each: impl FnMut(&mut Builder<'_>, &T) -> Result<()>,
    ) -> Result<()> {
        out.push(open)?;
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push_str(&self.item)?;
            }
            self.newline(out, depth + 1)?;
            each(out, item)?;
        }
        if !items.is_empty() {
            self.newline(out, depth)?;
        }
        out.push(close)
    }

    fn newline(&self, out: &mut Builder<'_>, depth: usize) -> Result<()> {
        match &self.indent {
            Some(indent) => {
                out.push('\n')?;
                out.repeat(indent, depth)
            }
            None => Ok(()),
        }
    }

    fn string(&self, out: &mut Builder<'_>, text: &str) -> Result<()> {
        out.push('"')?;
        for letter in text.chars() {
            match letter {
                '"' => out.push_str("\\\"")?,
                '\\' => out.push_str("\\\\")?,
                '\n' => out.push_str("\\n")?,
                '\r' => out.push_str("\\r")?,
                '\t' => out.push_str("\\t")?,
                '\u{8}' => out.push_str("\\b")?,
                '\u{c}' => out.push_str("\\f")?,
                _ if letter < ' ' || (self.ascii && letter > '~') => {
                    for unit in letter.encode_utf16(&mut [0; 2]) {
                        out.escape('u', u32::from(*unit), 4)?;
                    }
                }
                _ => out.push(letter)?,
            }
        }
        out.push('"')
    }
}

fn json_float(number: f64, budget: &Budget) -> Result<String> {
    budget.float()?;
    Ok(if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        float(number)
    })
}
