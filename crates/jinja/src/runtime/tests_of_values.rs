//! The tests after `is`.

use crate::error::{Error, Result};
use crate::runtime::arguments::Arguments;
use crate::runtime::machine::Machine;
use crate::runtime::operators::{compare, contains};
use crate::runtime::value::{Number, Object, Value};
use crate::syntax::ast::Comparator;

impl Machine<'_> {
    /// Returns whether `value is name(arguments)`.
    pub(crate) fn test(&mut self, name: &str, value: &Value, mut arguments: Arguments) -> Result<bool> {
        let holds = match name {
            "defined" => !value.is_undefined(),
            "undefined" => value.is_undefined(),
            "none" => matches!(value, Value::None),
            "boolean" => matches!(value, Value::Bool(_)),
            "true" => matches!(value, Value::Bool(true)),
            "false" => matches!(value, Value::Bool(false)),
            "integer" => matches!(value, Value::Int(_)),
            "float" => matches!(value, Value::Float(_)),
            "number" => value.number().is_some(),
            "string" => matches!(value, Value::Str(_)),
            "mapping" => matches!(value, Value::Dict(_)),
            "iterable" => value.is_iterable(),
            "sequence" => is_sequence(value),
            "callable" => matches!(value, Value::Object(object) if !matches!(object, Object::Namespace(_))),
            "escaped" => false,
            "lower" | "upper" => {
                let text = self.text_of(value)?;
                self.budget.visits(2 * text.len())?;
                self.budget.text(text.len().saturating_mul(3))?;
                let cased = if name == "lower" { text.to_lowercase() } else { text.to_uppercase() };
                *text == *cased && has_case(&text)
            }
            "odd" => remainder(value, 2)? == 1,
            "even" => remainder(value, 2)? == 0,
            "divisibleby" => match arguments.require("num")?.number() {
                Some(Number::Int(divisor)) if divisor != 0 => remainder(value, divisor)? == 0,
                _ => return Err(Error::of_type("integer modulo by zero")),
            },
            "sameas" => {
                let other = arguments.require("other")?;
                value.is_same(&other)
            }
            "in" => contains(&arguments.require("seq")?, value, self.budget)?,
            "filter" | "test" => {
                let known = value.as_str().unwrap_or_default();
                if name == "filter" {
                    crate::runtime::filters::NAMES.contains(&known)
                } else {
                    NAMES.contains(&known)
                }
            }
            _ => {
                let operator =
                    comparator(name).ok_or_else(|| Error::undefined(format!("No test named '{name}'.")))?;
                compare(operator, value, &arguments.require("other")?, self.budget)?
            }
        };
        arguments.finish(name)?;
        Ok(holds)
    }
}

const NAMES: [&str; 36] = [
    "defined",
    "undefined",
    "none",
    "boolean",
    "true",
    "false",
    "integer",
    "float",
    "number",
    "string",
    "mapping",
    "iterable",
    "sequence",
    "callable",
    "escaped",
    "lower",
    "upper",
    "odd",
    "even",
    "divisibleby",
    "sameas",
    "in",
    "filter",
    "test",
    "eq",
    "equalto",
    "==",
    "ne",
    "!=",
    "lt",
    "lessthan",
    "<",
    "gt",
    "greaterthan",
    "ge",
    "le",
];

fn comparator(name: &str) -> Option<Comparator> {
    Some(match name {
        "eq" | "equalto" | "==" => Comparator::Equal,
        "ne" | "!=" => Comparator::NotEqual,
        "lt" | "lessthan" | "<" => Comparator::Less,
        "le" | "<=" => Comparator::LessEqual,
        "gt" | "greaterthan" | ">" => Comparator::Greater,
        "ge" | ">=" => Comparator::GreaterEqual,
        _ => return None,
    })
}

/// Returns whether a value has a length and items, as Jinja2 asks it; undefined values do.
fn is_sequence(value: &Value) -> bool {
    matches!(value, Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Dict(_) | Value::Undefined(_))
}

fn has_case(text: &str) -> bool {
    text.chars().any(|letter| letter.is_lowercase() || letter.is_uppercase())
}

fn remainder(value: &Value, divisor: i128) -> Result<i128> {
    match value.number() {
        Some(Number::Int(number)) => Ok(number.wrapping_rem_euclid(divisor)),
        Some(Number::Float(number)) if number.fract() == 0.0 => {
            Ok((number as i128).wrapping_rem_euclid(divisor))
        }
        Some(Number::Float(_)) => Ok(-1),
        None => Err(Error::of_type(format!(
            "unsupported operand type(s) for %: '{}' and 'int'",
            value.type_name()
        ))),
    }
}
