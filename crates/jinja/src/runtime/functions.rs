//! Functions that every template has, and the attributes of `loop`.

use std::cell::RefCell;
use std::rc::Rc;

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::arguments::Arguments;
use crate::runtime::budget::Budget;
use crate::runtime::containers::check_key;
use crate::runtime::dict::Dict;
use crate::runtime::machine::{Loop, Machine};
use crate::runtime::value::{Cycler, Joiner, Object, Value};

/// Longest range, as in Jinja2's sandbox.
const MAX_RANGE: i128 = 100_000;
const DATE_FUNCTION: &str = "strftime_now";
const FUNCTIONS: [&str; 7] =
    ["range", "dict", "namespace", "cycler", "joiner", "raise_exception", DATE_FUNCTION];

/// Returns the global `name`.
pub(crate) fn global(name: &str, has_date: bool) -> Option<Value> {
    let found = FUNCTIONS.iter().find(|function| **function == name)?;
    (has_date || *found != DATE_FUNCTION).then_some(Value::Object(Object::Function(found)))
}

/// Returns the error of calling an undefined value.
pub(crate) fn missing(what: &str, has_date: bool) -> Error {
    if !has_date && what.starts_with(&format!("'{DATE_FUNCTION}'")) {
        return Error::new(ErrorKind::MissingFunction, DATE_FUNCTION);
    }
    Error::undefined(what)
}

pub(crate) fn call(machine: &mut Machine<'_>, name: &str, mut arguments: Arguments) -> Result<Value> {
    let value = match name {
        "range" => return range(machine, arguments),
        "dict" => Value::Dict(Rc::new(dict(&mut arguments, machine.budget)?)),
        "namespace" => {
            let dict = dict(&mut arguments, machine.budget)?;
            if let Some(item) =
                dict.items().iter().find(|item| item.key.as_str().is_some_and(|k| k.starts_with('_')))
            {
                let name = crate::runtime::print::repr(&item.key, machine.budget)?;
                let reason = "Chat templates cannot store underscore-prefixed attributes on a namespace";
                return Err(Error::of_type(format!("{reason}, but got {}", &*name)));
            }
            machine.namespace(dict)
        }
        "cycler" => {
            let items = arguments.rest();
            if items.is_empty() {
                return Err(Error::of_type("at least one item has to be provided"));
            }
            Value::Object(Object::Cycler(Rc::new(Cycler { items: items.into(), at: RefCell::new(0) })))
        }
        "joiner" => {
            let separator = arguments.text("sep")?.unwrap_or_else(|| ", ".into());
            Value::Object(Object::Joiner(Rc::new(Joiner { separator, used: RefCell::new(false) })))
        }
        DATE_FUNCTION => {
            let format =
                arguments.text("format")?.ok_or_else(|| Error::of_type("strftime_now needs a format"))?;
            let date = machine.date.ok_or_else(|| Error::new(ErrorKind::MissingFunction, DATE_FUNCTION))?;
            // A code of two letters becomes a word of at most nine.
            machine.budget.visits(format.len())?;
            machine.budget.text(format.len().saturating_mul(10))?;
            date.strftime(&format)?.into()
        }
        _ => {
            let message = arguments.require("message")?;
            return Err(Error::new(ErrorKind::Raised, &*machine.text_of(&message)?));
        }
    };
    arguments.finish(name)?;
    Ok(value)
}

fn range(machine: &mut Machine<'_>, mut arguments: Arguments) -> Result<Value> {
    let first = arguments
        .integer("start")?
        .ok_or_else(|| Error::of_type("range expected at least 1 argument, got 0"))?;
    let second = arguments.integer("stop")?;
    let step = i128::from(arguments.integer("step")?.unwrap_or(1));
    arguments.finish("range")?;
    let (start, stop) = second.map_or((0, i128::from(first)), |stop| (i128::from(first), i128::from(stop)));
    if step == 0 {
        return Err(Error::of_type("range() arg 3 must not be zero"));
    }
    let count = ((stop - start + step - step.signum()) / step).max(0);
    if count > MAX_RANGE {
        let reason = format!("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({MAX_RANGE}).");
        return Err(Error::new(ErrorKind::Limit, reason));
    }
    machine.budget.list(count as usize)?;
    machine.budget.steps(count as usize)?;
    Ok(Value::list((0..count).map(|index| Value::Int(start + index * step)).collect()))
}

/// Makes a dict from a dict or pairs, and named arguments.
fn dict(arguments: &mut Arguments, budget: &Budget) -> Result<Dict> {
    let mut dict = match arguments.rest().as_slice() {
        [] => Dict::default(),
        [Value::Dict(given)] => given.copy(budget)?,
        [pairs] => {
            let mut dict = Dict::default();
            for pair in pairs.iterate(budget)? {
                match pair.iterate(budget)?.as_slice() {
                    [key, value] => {
                        check_key(key, budget)?;
                        dict.insert(key.clone(), value.clone(), budget)?;
                    }
                    _ => return Err(Error::of_type("dictionary update sequence element must have length 2")),
                }
            }
            dict
        }
        more => return Err(Error::of_type(format!("dict expected at most 1 argument, got {}", more.len()))),
    };
    for named in std::mem::take(&mut arguments.named) {
        dict.insert(Value::Str(named.name), named.value, budget)?;
    }
    Ok(dict)
}

/// Returns an attribute of `loop`.
pub(crate) fn loop_attribute(state: &Loop, name: &str) -> Option<Value> {
    let (index, length) = (state.index.get(), state.items.len());
    let value = match name {
        "index" => (index + 1).into(),
        "index0" => index.into(),
        "revindex" => (length - index).into(),
        "revindex0" => (length - index - 1).into(),
        "first" => (index == 0).into(),
        "last" => (index + 1 == length).into(),
        "length" => length.into(),
        "depth" => (state.depth + 1).into(),
        "depth0" => state.depth.into(),
        "previtem" => match index.checked_sub(1) {
            Some(previous) => state.items[previous].clone(),
            None => Value::undefined("there is no previous item"),
        },
        "nextitem" => {
            state.items.get(index + 1).cloned().unwrap_or_else(|| Value::undefined("there is no next item"))
        }
        _ => return None,
    };
    Some(value)
}
