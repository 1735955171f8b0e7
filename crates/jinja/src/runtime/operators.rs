//! Arithmetic and comparison with Python's rules.

use std::cmp::Ordering;

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::budget::Budget;
use crate::runtime::format;
use crate::runtime::machine::Machine;
use crate::runtime::value::{Number, Value};
use crate::syntax::ast::{Comparator, Operator};

pub(crate) fn too_long() -> Error {
    Error::new(ErrorKind::Limit, "the text is too long")
}

pub(crate) fn too_large() -> Error {
    Error::new(ErrorKind::Limit, "the number is too large")
}

/// Returns a finite float without its digits after the point. Python's integers have no limit, ours have 128 bits.
pub(crate) fn whole_part(number: f64) -> Result<i128> {
    const LIMIT: f64 = (1_u128 << 127) as f64;
    if (-LIMIT..LIMIT).contains(&number) { Ok(number.trunc() as i128) } else { Err(too_large()) }
}

fn symbol(operator: Operator) -> &'static str {
    match operator {
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::FloorDivide => "//",
        Operator::Modulo => "%",
        Operator::Power => "** or pow()",
    }
}

/// Returns `left operator right`.
pub(crate) fn binary(
    machine: &mut Machine<'_>,
    operator: Operator,
    left: &Value,
    right: &Value,
) -> Result<Value> {
    if let (Operator::Modulo, Value::Str(text)) = (operator, left) {
        return Ok(format::percent(machine, text, right)?.into());
    }
    if let Value::Undefined(what) = left {
        return Err(Error::undefined(&**what));
    }
    if let Value::Undefined(what) = right {
        return Err(Error::undefined(&**what));
    }
    if let (Some(a), Some(b)) = (left.number(), right.number()) {
        return arithmetic(operator, a, b);
    }
    match (operator, left, right) {
        (Operator::Add, Value::Str(a), Value::Str(b)) => {
            machine.budget.text(a.len() + b.len())?;
            Ok([&**a, &**b].concat().into())
        }
        (Operator::Add, Value::List(a), Value::List(b)) => {
            machine.budget.list(a.len() + b.len())?;
            Ok(Value::list(a.iter().chain(b.iter()).cloned().collect()))
        }
        (Operator::Add, Value::Tuple(a), Value::Tuple(b)) => {
            machine.budget.list(a.len() + b.len())?;
            Ok(Value::tuple(a.iter().chain(b.iter()).cloned().collect()))
        }
        (Operator::Multiply, Value::Int(_) | Value::Bool(_), _) => repeated(machine, right, left),
        (Operator::Multiply, ..) => repeated(machine, left, right),
        (Operator::Add, Value::Str(_) | Value::List(_) | Value::Tuple(_), _) => {
            let (kind, other) = (left.type_name(), right.type_name());
            Err(Error::of_type(format!("can only concatenate {kind} (not \"{other}\") to {kind}")))
        }
        _ => Err(unsupported(operator, left, right)),
    }
}

fn unsupported(operator: Operator, left: &Value, right: &Value) -> Error {
    Error::of_type(format!(
        "unsupported operand type(s) for {}: '{}' and '{}'",
        symbol(operator),
        left.type_name(),
        right.type_name()
    ))
}

fn repeated(machine: &mut Machine<'_>, sequence: &Value, count: &Value) -> Result<Value> {
    let Some(Number::Int(count)) = count.number() else {
        return Err(unsupported(Operator::Multiply, sequence, count));
    };
    let count = usize::try_from(count.max(0)).map_err(|_| too_large())?;
    match sequence {
        Value::Str(text) => {
            machine.budget.text(text.len().saturating_mul(count))?;
            Ok(text.repeat(count).into())
        }
        Value::List(items) | Value::Tuple(items) => {
            machine.budget.list(items.len().saturating_mul(count))?;
            let items = items.iter().cycle().take(items.len() * count).cloned().collect();
            Ok(if matches!(sequence, Value::List(_)) { Value::list(items) } else { Value::tuple(items) })
        }
        _ => Err(unsupported(Operator::Multiply, sequence, &Value::Int(0))),
    }
}

fn arithmetic(operator: Operator, a: Number, b: Number) -> Result<Value> {
    let zero = |what: &str| Err(Error::of_type(what));
    if let (Number::Int(a), Number::Int(b)) = (a, b) {
        let result = match operator {
            Operator::Add => a.checked_add(b),
            Operator::Subtract => a.checked_sub(b),
            Operator::Multiply => a.checked_mul(b),
            Operator::Divide if b == 0 => return zero("division by zero"),
            Operator::Divide => return Ok(Value::Float(a as f64 / b as f64)),
            Operator::FloorDivide | Operator::Modulo if b == 0 => {
                return zero("integer division or modulo by zero");
            }
            Operator::FloorDivide => {
                a.checked_div(b).map(|quotient| quotient - i128::from(a % b != 0 && (a < 0) != (b < 0)))
            }
            Operator::Modulo => {
                a.checked_rem(b).map(|rest| if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest })
            }
            Operator::Power if b < 0 => return power(a as f64, b as f64).map(Value::Float),
            Operator::Power => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
        };
        return result.map(Value::Int).ok_or_else(too_large);
    }
    let (a, b) = (a.float(), b.float());
    let result = match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide if b == 0.0 => return zero("float division by zero"),
        Operator::Divide => a / b,
        Operator::FloorDivide | Operator::Modulo if b == 0.0 => return zero("float floor division by zero"),
        Operator::FloorDivide => (a / b).floor(),
        Operator::Modulo => {
            let rest = a % b;
            if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
        }
        Operator::Power => power(a, b)?,
    };
    Ok(Value::Float(result))
}

/// Returns `base ** exponent` of floats, with Python's errors where a float cannot hold the result.
fn power(base: f64, exponent: f64) -> Result<f64> {
    let result = base.powf(exponent);
    if !base.is_finite() || !exponent.is_finite() || result.is_finite() {
        Ok(result)
    } else if base == 0.0 {
        Err(Error::of_type("0.0 cannot be raised to a negative power"))
    } else if result.is_nan() {
        Err(Error::of_type("complex numbers are not supported"))
    } else {
        Err(too_large())
    }
}

pub(crate) fn negative(value: &Value) -> Result<Value> {
    match (value, value.number()) {
        (_, Some(Number::Int(number))) => number.checked_neg().map(Value::Int).ok_or_else(too_large),
        (_, Some(Number::Float(number))) => Ok(Value::Float(-number)),
        (Value::Undefined(what), _) => Err(Error::undefined(&**what)),
        _ => Err(Error::of_type(format!("bad operand type for unary -: '{}'", value.type_name()))),
    }
}

pub(crate) fn positive(value: &Value) -> Result<Value> {
    match (value, value.number()) {
        (_, Some(Number::Int(number))) => Ok(Value::Int(number)),
        (_, Some(Number::Float(number))) => Ok(Value::Float(number)),
        (Value::Undefined(what), _) => Err(Error::undefined(&**what)),
        _ => Err(Error::of_type(format!("bad operand type for unary +: '{}'", value.type_name()))),
    }
}

pub(crate) fn compare(operator: Comparator, left: &Value, right: &Value, budget: &Budget) -> Result<bool> {
    let ordered =
        |name, holds: fn(Ordering) -> bool| Ok(left.compare(right, name, budget)?.is_some_and(holds));
    match operator {
        Comparator::Equal => left.equals(right, budget),
        Comparator::NotEqual => Ok(!left.equals(right, budget)?),
        Comparator::Less => ordered("<", Ordering::is_lt),
        Comparator::LessEqual => ordered("<=", Ordering::is_le),
        Comparator::Greater => ordered(">", Ordering::is_gt),
        Comparator::GreaterEqual => ordered(">=", Ordering::is_ge),
        Comparator::In => contains(right, left, budget),
        Comparator::NotIn => Ok(!contains(right, left, budget)?),
    }
}

/// Returns whether `item` is in `container`.
pub(crate) fn contains(container: &Value, item: &Value, budget: &Budget) -> Result<bool> {
    match container {
        Value::Str(text) => match item {
            Value::Str(part) => Ok(budget.search(text, part)? && text.contains(&**part)),
            other => {
                let kind = other.type_name();
                Err(Error::of_type(format!("'in <string>' requires string as left operand, not {kind}")))
            }
        },
        Value::Dict(dict) => Ok(dict.get(item, budget)?.is_some()),
        Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
            Err(Error::of_type(format!("argument of type '{}' is not iterable", container.type_name())))
        }
        other => other.visits(item, budget),
    }
}
