//! Lists, tuples, dicts and `loop`: their methods, items and slices.

use crate::error::{Error, Result};
use crate::runtime::arguments::Arguments;
use crate::runtime::budget::{Budget, check_depth};
use crate::runtime::comparison::all_equal;
use crate::runtime::memory::Items;
use crate::runtime::print::repr;
use crate::runtime::value::{Object, Value};

pub(crate) const DICT_METHODS: [&str; 5] = ["get", "items", "keys", "values", "copy"];
pub(crate) const DICT_CHANGES: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];
pub(crate) const LIST_METHODS: [&str; 3] = ["index", "count", "copy"];
pub(crate) const LIST_CHANGES: [&str; 9] =
    ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort", "__setitem__"];

/// Calls a method of a value that is not a string.
pub(crate) fn call(owner: &Value, name: &str, arguments: &mut Arguments, budget: &Budget) -> Result<Value> {
    match owner {
        Value::Dict(dict) => {
            let entries = dict.items().iter();
            if name != "get" {
                budget.list(4 * dict.len())?;
            }
            Ok(match name {
                "get" => {
                    let key = arguments.require("key")?;
                    check_key(&key, budget)?;
                    let default = arguments.take("default").unwrap_or(Value::None);
                    dict.get(&key, budget)?.cloned().unwrap_or(default)
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
                for (at, item) in items.iter().enumerate() {
                    if item.equals(&wanted, budget)? {
                        return Ok(at.into());
                    }
                }
                Err(Error::of_type(format!("{} is not in list", &*repr(&wanted, budget)?)))
            }
            "count" => {
                let wanted = arguments.require("value")?;
                let mut count = 0;
                for item in items.iter() {
                    count += usize::from(item.equals(&wanted, budget)?);
                }
                Ok(count.into())
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
                let same = match &*state.changed.borrow() {
                    Some(last) => all_equal(last, &values, budget, 0)?,
                    None => false,
                };
                let last = state.changed.replace(Some(Items::from(values)));
                drop(last);
                Ok((!same).into())
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
pub(crate) fn check_key(key: &Value, budget: &Budget) -> Result<()> {
    check_key_at(key, budget, 0)
}

fn check_key_at(key: &Value, budget: &Budget, depth: usize) -> Result<()> {
    budget.visits(1)?;
    check_depth(depth)?;
    match key {
        Value::List(_) | Value::Dict(_) | Value::Lazy(_) => {
            Err(Error::of_type(format!("unhashable type: '{}'", key.type_name())))
        }
        Value::Tuple(items) => items.iter().try_for_each(|item| check_key_at(item, budget, depth + 1)),
        _ => Ok(()),
    }
}

/// Returns the item of a container at an index or key, if it has one.
pub(crate) fn entry(owner: &Value, index: &Value, budget: &Budget) -> Result<Option<Value>> {
    let position = |length: usize| {
        let index = match index {
            Value::Int(index) => *index,
            Value::Bool(index) => i128::from(*index),
            _ => return None,
        };
        let index = if index < 0 { index.saturating_add(length as i128) } else { index };
        usize::try_from(index).ok().filter(|index| *index < length)
    };
    Ok(match owner {
        Value::Dict(dict) => dict.get(index, budget)?.cloned(),
        Value::List(items) | Value::Tuple(items) => position(items.len()).map(|at| items[at].clone()),
        Value::Str(text) if matches!(index, Value::Int(_) | Value::Bool(_)) => {
            budget.copies(2 * text.len())?;
            let letter = position(text.chars().count()).and_then(|at| text.chars().nth(at));
            letter.map(|letter| letter.to_string().into())
        }
        _ => None,
    })
}

/// Returns `owner[start:stop:step]`.
pub(crate) fn slice(owner: &Value, bounds: &[Value; 3], budget: &Budget) -> Result<Value> {
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
    let pick = |length: usize| indices(length as i128, start, stop, step, budget);
    match owner {
        Value::List(items) => {
            Ok(Value::list(pick(items.len())?.into_iter().map(|at| items[at].clone()).collect()))
        }
        Value::Tuple(items) => {
            Ok(Value::tuple(pick(items.len())?.into_iter().map(|at| items[at].clone()).collect()))
        }
        Value::Str(text) => {
            budget.text(text.len())?;
            let length = text.chars().count();
            if step == 1 {
                let (start, stop) = ends(length as i128, start, stop, step);
                let kept = usize::try_from(stop - start).unwrap_or(0);
                return Ok(text.chars().skip(start as usize).take(kept).collect::<String>().into());
            }
            budget.fits(text.len().saturating_mul(16))?;
            let letters: Vec<char> = text.chars().collect();
            let picked: String = pick(length)?.into_iter().map(|at| letters[at]).collect();
            Ok(picked.into())
        }
        Value::Undefined(what) => Err(Error::undefined(&**what)),
        other => Err(Error::of_type(format!("'{}' object is not subscriptable", other.type_name()))),
    }
}

/// Returns where a slice begins, and the first place that it does not reach.
fn ends(length: i128, start: Option<i128>, stop: Option<i128>, step: i128) -> (i128, i128) {
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let place = |bound: Option<i128>, default: i128| match bound {
        None => default,
        Some(bound) => (if bound < 0 { bound.saturating_add(length) } else { bound }).clamp(low, high),
    };
    if step > 0 {
        (place(start, 0), place(stop, length))
    } else {
        (place(start, length - 1), place(stop, -1))
    }
}

fn indices(
    length: i128,
    start: Option<i128>,
    stop: Option<i128>,
    step: i128,
    budget: &Budget,
) -> Result<Vec<usize>> {
    let (start, stop) = ends(length, start, stop, step);
    budget
        .list(2 * usize::try_from((stop - start).abs() / step.saturating_abs() + 1).unwrap_or(usize::MAX))?;
    let mut picked = Vec::new();
    let mut at = start;
    while (step > 0 && at < stop) || (step < 0 && at > stop) {
        picked.push(at as usize);
        at = at.saturating_add(step);
    }
    Ok(picked)
}
