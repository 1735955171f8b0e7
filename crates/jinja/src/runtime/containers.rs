//! Lists, tuples, dicts and `loop`: their methods, items and slices.

use crate::error::{Error, Result};
use crate::runtime::arguments::Arguments;
use crate::runtime::print::repr;
use crate::runtime::value::{Object, Value};

pub(crate) const DICT_METHODS: [&str; 5] = ["get", "items", "keys", "values", "copy"];
pub(crate) const DICT_CHANGES: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];
pub(crate) const LIST_METHODS: [&str; 3] = ["index", "count", "copy"];
pub(crate) const LIST_CHANGES: [&str; 9] =
    ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort", "__setitem__"];

/// Calls a method of a value that is not a string.
pub(crate) fn call(owner: &Value, name: &str, arguments: &mut Arguments) -> Result<Value> {
    match owner {
        Value::Dict(dict) => {
            let entries = dict.items().iter();
            Ok(match name {
                "get" => {
                    let key = arguments.require("key")?;
                    check_key(&key)?;
                    let default = arguments.take("default").unwrap_or(Value::None);
                    dict.get(&key).cloned().unwrap_or(default)
                }
                "items" => Value::view(
                    "dict_items",
                    entries.map(|item| Value::tuple(vec![item.key.clone(), item.value.clone()])).collect(),
                ),
                "keys" => Value::view("dict_keys", dict.keys()),
                "values" => Value::view("dict_values", entries.map(|item| item.value.clone()).collect()),
                _ => owner.clone(),
            })
        }
        Value::List(items) | Value::Tuple(items) => match name {
            "index" => {
                let wanted = arguments.require("value")?;
                let at = items.iter().position(|item| *item == wanted);
                at.map(Value::from).ok_or_else(|| Error::of_type(format!("{} is not in list", repr(&wanted))))
            }
            "count" => {
                let wanted = arguments.require("value")?;
                Ok(items.iter().filter(|item| **item == wanted).count().into())
            }
            _ => Ok(owner.clone()),
        },
        Value::Object(Object::Loop(state)) => {
            if name == "cycle" {
                let items = arguments.rest();
                if items.is_empty() {
                    return Err(Error::of_type("no items for cycling given"));
                }
                Ok(items[state.index.get() % items.len()].clone())
            } else {
                let values = arguments.rest();
                let changed = state.changed.borrow().as_ref() != Some(&values);
                state.changed.replace(Some(values));
                Ok(changed.into())
            }
        }
        Value::Object(Object::Cycler(cycler)) => {
            let mut at = cycler.at.borrow_mut();
            let current = cycler.items[*at].clone();
            *at = if name == "next" { (*at + 1) % cycler.items.len() } else { 0 };
            Ok(if name == "next" { current } else { Value::None })
        }
        other => Err(Error::of_type(format!("'{}' object has no method '{name}'", other.type_name()))),
    }
}

/// Fails if `key` cannot be the key of a dict.
pub(crate) fn check_key(key: &Value) -> Result<()> {
    match key {
        Value::List(_) | Value::Dict(_) => {
            Err(Error::of_type(format!("unhashable type: '{}'", key.type_name())))
        }
        _ => Ok(()),
    }
}

/// Returns the item of a container at an index or key, if it has one.
pub(crate) fn entry(owner: &Value, index: &Value) -> Option<Value> {
    let position = |length: usize| {
        let index = match index {
            Value::Int(index) => *index,
            Value::Bool(index) => i128::from(*index),
            _ => return None,
        };
        let index = if index < 0 { index + length as i128 } else { index };
        usize::try_from(index).ok().filter(|index| *index < length)
    };
    match owner {
        Value::Dict(dict) => dict.get(index).cloned(),
        Value::List(items) | Value::Tuple(items) => position(items.len()).map(|at| items[at].clone()),
        Value::Str(text) => {
            let letter = text.chars().nth(position(text.chars().count())?)?;
            Some(letter.to_string().into())
        }
        _ => None,
    }
}

/// Returns `owner[start:stop:step]`.
pub(crate) fn slice(owner: &Value, bounds: &[Value; 3]) -> Result<Value> {
    let bound = |value: &Value| match value {
        Value::None => Ok(None),
        Value::Int(number) => Ok(Some(*number)),
        Value::Bool(value) => Ok(Some(i128::from(*value))),
        Value::Undefined(what) => Err(Error::undefined(&**what)),
        _ => Err(Error::of_type("slice indices must be integers or None or have an __index__ method")),
    };
    let [start, stop, step] = bounds;
    let (start, stop, step) = (bound(start)?, bound(stop)?, bound(step)?.unwrap_or(1));
    if step == 0 {
        return Err(Error::of_type("slice step cannot be zero"));
    }
    let pick = |length: usize| indices(length as i128, start, stop, step);
    match owner {
        Value::List(items) => {
            Ok(Value::list(pick(items.len()).into_iter().map(|at| items[at].clone()).collect()))
        }
        Value::Tuple(items) => {
            Ok(Value::tuple(pick(items.len()).into_iter().map(|at| items[at].clone()).collect()))
        }
        Value::Str(text) => {
            let letters: Vec<char> = text.chars().collect();
            let picked: String = pick(letters.len()).into_iter().map(|at| letters[at]).collect();
            Ok(picked.into())
        }
        Value::Undefined(what) => Err(Error::undefined(&**what)),
        other => Err(Error::of_type(format!("'{}' object is not subscriptable", other.type_name()))),
    }
}

fn indices(length: i128, start: Option<i128>, stop: Option<i128>, step: i128) -> Vec<usize> {
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let place = |bound: Option<i128>, default: i128| match bound {
        None => default,
        Some(bound) => (if bound < 0 { bound.saturating_add(length) } else { bound }).clamp(low, high),
    };
    let (start, stop) = if step > 0 {
        (place(start, 0), place(stop, length))
    } else {
        (place(start, length - 1), place(stop, -1))
    };
    let mut picked = Vec::new();
    let mut at = start;
    while (step > 0 && at < stop) || (step < 0 && at > stop) {
        picked.push(at as usize);
        at = at.saturating_add(step);
    }
    picked
}
