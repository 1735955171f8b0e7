//! Filters of single values; `sequences.rs` has those of sequences.

use crate::error::{Error, Result};
use crate::runtime::arguments::Arguments;
use crate::runtime::budget::{Budget, Builder};
use crate::runtime::evaluate::shortened;
use crate::runtime::format::{self, whole_digits};
use crate::runtime::json;
use crate::runtime::machine::Machine;
use crate::runtime::memory::Text;
use crate::runtime::operators::{too_large, whole_part};
use crate::runtime::output::Notation;
use crate::runtime::strings::{allow_case_change, capitalize, replace, split_lines, strip};
use crate::runtime::value::{Number, Value};
use crate::syntax::lexer::is_space;

pub(crate) const NAMES: [&str; 48] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
    "wordwrap",
];

impl Machine<'_> {
    /// Returns `value|name(arguments)`.
    pub(crate) fn filter(&mut self, name: &str, value: Value, mut arguments: Arguments) -> Result<Value> {
        let result = match name {
            "tojson" => {
                self.record(&value, Notation::Json)?;
                return Ok(Value::Str(json::tojson(&value, arguments, self.budget)?));
            }
            "map" | "select" | "reject" | "selectattr" | "rejectattr" => {
                return self.filter_each(name, &value, arguments);
            }
            "format" => {
                let text = self.text_of(&value)?;
                let values = if arguments.named.is_empty() {
                    Value::tuple(arguments.rest())
                } else {
                    crate::runtime::functions::call(self, "dict", arguments)?
                };
                return Ok(format::percent(self, &text, &values)?.into());
            }
            "default" | "d" => {
                let default = arguments.take("default_value").unwrap_or_else(|| "".into());
                let falsy = arguments.flag("boolean");
                if value.is_undefined() || (falsy && !value.is_true()) { default } else { value }
            }
            "abs" => absolute(&value)?,
            "int" => whole(&value, &mut arguments, self.budget)?,
            "float" => real(&value, &mut arguments, self.budget)?,
            "round" => round(&value, &mut arguments, self.budget)?,
            "attr" => {
                let name = arguments.text("name")?.unwrap_or_else(|| "".into());
                attribute_only(&value, &name, self.budget)?
            }
            "safe" => value,
            _ => match self.sequence_filter(name, &value, &mut arguments)? {
                Some(found) => found,
                None => self.text_filter(name, &value, &mut arguments)?,
            },
        };
        arguments.finish(name)?;
        Ok(result)
    }

    /// Filters that work on the text of a value.
    fn text_filter(&mut self, name: &str, value: &Value, arguments: &mut Arguments) -> Result<Value> {
        if !NAMES.contains(&name) {
            return Err(Error::undefined(format!("No filter named '{name}'.")));
        }
        let budget = self.budget;
        let text = self.text_of(value)?;
        budget.copies(text.len())?;
        if matches!(name, "lower" | "upper" | "capitalize" | "title") {
            allow_case_change(&text, budget)?;
        }
        Ok(match name {
            "string" => Value::Str(text),
            "lower" => text.to_lowercase().into(),
            "upper" => text.to_uppercase().into(),
            "capitalize" => capitalize(&text).into(),
            "title" => title(&text).into(),
            "trim" => strip(&text, arguments.text("chars")?.as_deref(), true, true, budget)?.into(),
            "replace" => {
                let (old, new) = (arguments.require("old")?, arguments.require("new")?);
                let count = arguments.integer("count")?.filter(|count| *count >= 0);
                replace(&text, &self.text_of(&old)?, &self.text_of(&new)?, count, budget)?.into()
            }
            "indent" => indent(&text, arguments, budget)?.into(),
            "center" => {
                let width = arguments.integer("width")?.unwrap_or(80);
                let mut given = Arguments::new(vec![Value::Int(width.into())], Vec::new());
                crate::runtime::strings::call(self, &text, "center", &mut given)?
            }
            "truncate" => truncate(&text, arguments, budget)?.into(),
            "wordcount" => {
                budget.visits(text.len())?;
                words(&text).into()
            }
            "wordwrap" => wrap(&text, arguments, budget)?.into(),
            "urlencode" => url_encoded(&text, budget)?.into(),
            _ => escaped(&text, budget)?.into(),
        })
    }
}

fn escaped(text: &str, budget: &Budget) -> Result<String> {
    let mut out = Builder::new(budget);
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;")?,
            '<' => out.push_str("&lt;")?,
            '>' => out.push_str("&gt;")?,
            '\'' => out.push_str("&#39;")?,
            '"' => out.push_str("&#34;")?,
            _ => out.push(letter)?,
        }
    }
    Ok(out.finish())
}

fn hex_digit(value: u8) -> char {
    char::from_digit(value.into(), 16).expect("four bits").to_ascii_uppercase()
}

fn url_encoded(text: &str, budget: &Budget) -> Result<String> {
    let mut out = Builder::new(budget);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"/_.-~".contains(&byte) {
            out.push(byte as char)?;
        } else {
            out.extend(['%', hex_digit(byte >> 4), hex_digit(byte & 15)])?;
        }
    }
    Ok(out.finish())
}

/// Capitalizes the words of a text, which begin after spaces, hyphens and opening brackets.
fn title(text: &str) -> String {
    let mut out = String::new();
    let mut begins = true;
    for letter in text.chars() {
        if is_space(letter) || "-({[<".contains(letter) {
            out.push(letter);
            begins = true;
        } else if begins {
            out.extend(letter.to_uppercase());
            begins = false;
        } else {
            out.extend(letter.to_lowercase());
        }
    }
    out
}

fn indent(text: &str, arguments: &mut Arguments, budget: &Budget) -> Result<String> {
    let (prefix, count): (Text, usize) = match arguments.take("width") {
        None => (" ".into(), 4),
        Some(Value::Str(text)) => (text, 1),
        Some(Value::Int(width)) => (" ".into(), usize::try_from(width.max(0)).unwrap_or(usize::MAX)),
        Some(other) => return Err(Error::of_type(format!("width must be int, not {}", other.type_name()))),
    };
    let (first, blank) = (arguments.flag("first"), arguments.flag("blank"));
    // Jinja2 makes the indentation even if no line needs it.
    budget.fits(prefix.len().saturating_mul(count))?;
    budget.text(text.len() + 1)?;
    // Jinja2 appends a newline, so that the last line stays if it is empty.
    let lines = split_lines(&format!("{text}\n"), false, budget)?;
    let mut out = Builder::new(budget);
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            out.push('\n')?;
        }
        if (index > 0 && (blank || !line.is_empty())) || (index == 0 && first) {
            out.repeat(&prefix, count)?;
        }
        out.push_str(line)?;
    }
    Ok(out.finish())
}

fn truncate(text: &str, arguments: &mut Arguments, budget: &Budget) -> Result<String> {
    let length = arguments.integer("length")?.unwrap_or(255).max(0) as usize;
    let kill_words = arguments.flag("killwords");
    let end = arguments.text("end")?.unwrap_or_else(|| "...".into());
    let leeway = arguments.integer("leeway")?.unwrap_or(5).max(0) as usize;
    budget.visits(text.len())?;
    budget.text(text.len().saturating_mul(2).saturating_add(end.len()))?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.to_owned());
    }
    let kept: String = text.chars().take(length.saturating_sub(end.chars().count())).collect();
    let kept = match kept.rsplit_once(' ') {
        Some((words, _)) if !kill_words => words.to_owned(),
        _ => kept,
    };
    Ok(kept + &end)
}

fn words(text: &str) -> usize {
    text.split(|letter: char| !(letter.is_alphanumeric() || letter == '_'))
        .filter(|word| !word.is_empty())
        .count()
}

/// Breaks lines at spaces; only words longer than the width are broken.
fn wrap(text: &str, arguments: &mut Arguments, budget: &Budget) -> Result<String> {
    let width = arguments.integer("width")?.unwrap_or(79).max(1) as usize;
    let breaks = arguments.take("break_long_words").is_none_or(|value| value.is_true());
    let newline = arguments.text("wrapstring")?.unwrap_or_else(|| "\n".into());
    budget.visits(text.len())?;
    let mut lines = Lines { out: Builder::new(budget), newline: &newline, has_lines: false };
    for paragraph in split_lines(text, false, budget)? {
        budget.copies(64)?;
        // White space before the first word stays.
        let mut line = paragraph[..paragraph.len() - paragraph.trim_start().len()].to_owned();
        let mut length = line.chars().count();
        let mut begins = true;
        for word in paragraph.split_whitespace() {
            let mut word = word;
            let mut letters = word.chars().count();
            if !line.is_empty() && length.saturating_add(1).saturating_add(letters) > width {
                lines.push(&line)?;
                line.clear();
                length = 0;
            }
            while breaks && letters > width {
                let end = word.char_indices().nth(width).map_or(word.len(), |(at, _)| at);
                lines.push(&word[..end])?;
                word = &word[end..];
                letters -= width;
            }
            if !line.is_empty() && !std::mem::take(&mut begins) {
                line.push(' ');
                length += 1;
            }
            begins = false;
            line.push_str(word);
            length += letters;
        }
        lines.push(&line)?;
    }
    Ok(lines.out.finish())
}

/// Lines joined by a text.
struct Lines<'b> {
    out: Builder<'b>,
    newline: &'b str,
    has_lines: bool,
}

impl Lines<'_> {
    fn push(&mut self, line: &str) -> Result<()> {
        if std::mem::replace(&mut self.has_lines, true) {
            self.out.push_str(self.newline)?;
        }
        self.out.push_str(line)
    }
}

fn absolute(value: &Value) -> Result<Value> {
    match (value, value.number()) {
        (_, Some(Number::Int(number))) => number.checked_abs().map(Value::Int).ok_or_else(too_large),
        (_, Some(Number::Float(number))) => Ok(Value::Float(number.abs())),
        (Value::Undefined(what), _) => Err(Error::undefined(&**what)),
        _ => Err(Error::of_type(format!("bad operand type for abs(): '{}'", value.type_name()))),
    }
}

fn whole(value: &Value, arguments: &mut Arguments, budget: &Budget) -> Result<Value> {
    let default = arguments.take("default").unwrap_or(Value::Int(0));
    let base = arguments.integer("base")?.unwrap_or(10).clamp(2, 36) as u32;
    let found = match value {
        Value::Str(text) => {
            budget.visits(text.len())?;
            budget.text(text.len())?;
            let text = text.trim_matches(is_space).replace('_', "");
            let digits = match base {
                16 => text.trim_start_matches("0x").trim_start_matches("0X"),
                8 => text.trim_start_matches("0o"),
                2 => text.trim_start_matches("0b"),
                _ => &text,
            };
            let number = i128::from_str_radix(digits, base).ok();
            match number {
                Some(number) => Some(number),
                None => parsed(&text, budget)?.filter(|n| n.is_finite()).map(whole_part).transpose()?,
            }
        }
        _ => match value.number() {
            Some(Number::Int(number)) => Some(number),
            Some(Number::Float(number)) if number.is_finite() => Some(whole_part(number)?),
            _ => None,
        },
    };
    match value {
        Value::Undefined(what) => Err(Error::undefined(&**what)),
        _ => Ok(found.map_or(default, Value::Int)),
    }
}

fn real(value: &Value, arguments: &mut Arguments, budget: &Budget) -> Result<Value> {
    let default = arguments.take("default").unwrap_or(Value::Float(0.0));
    let found = match value {
        Value::Undefined(what) => return Err(Error::undefined(&**what)),
        Value::Str(text) => {
            budget.visits(text.len())?;
            budget.text(text.len())?;
            parsed(&text.trim_matches(is_space).replace('_', ""), budget)?
        }
        _ => value.number().map(Number::float),
    };
    Ok(found.map_or(default, Value::Float))
}

/// Reads a float.
fn parsed(text: &str, budget: &Budget) -> Result<Option<f64>> {
    budget.float_digits(text.len())?;
    Ok(text.parse().ok())
}

fn round(value: &Value, arguments: &mut Arguments, budget: &Budget) -> Result<Value> {
    let precision = arguments.integer("precision")?.unwrap_or(0).clamp(-300, 300) as i32;
    let method = arguments.text("method")?.unwrap_or_else(|| "common".into());
    let Some(number) = value.number() else {
        return Err(Error::of_type(format!("type {} doesn't define __round__ method", value.type_name())));
    };
    if let (Number::Int(number), true) = (number, precision >= 0 && &*method == "common") {
        return Ok(Value::Int(number));
    }
    let factor = 10f64.powi(precision);
    let scaled = number.float() * factor;
    if scaled.is_infinite() && number.float().is_finite() && &*method != "common" {
        return Err(too_large());
    }
    let rounded = match &*method {
        "ceil" => scaled.ceil() / factor,
        "floor" => scaled.floor() / factor,
        "common" if precision >= 0 => {
            let digits = precision as usize;
            budget.float_digits(digits + whole_digits(number.float()))?;
            // The decimal text of a float is rounded correctly, ties to even.
            parsed(&format!("{:.digits$}", number.float()), budget)?.unwrap_or(scaled / factor)
        }
        "common" => scaled.round_ties_even() / factor,
        _ => return Err(Error::of_type("method must be common, ceil or floor")),
    };
    Ok(Value::Float(rounded))
}

/// Returns an attribute, never an entry.
fn attribute_only(value: &Value, name: &str, budget: &Budget) -> Result<Value> {
    match value {
        Value::Dict(_) => {
            let found = crate::runtime::evaluate::attribute(value, name, budget)?;
            let is_method = matches!(found, Value::Object(crate::runtime::value::Object::Method(_)));
            Ok(if is_method {
                found
            } else {
                Value::undefined(format!("'dict object' has no attribute '{}'", shortened(name)))
            })
        }
        _ => crate::runtime::evaluate::attribute(value, name, budget),
    }
}
