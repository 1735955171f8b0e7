//! Filters of sequences.

use std::cmp::Ordering;

use crate::error::{Error, Result};
use crate::runtime::arguments::Arguments;
use crate::runtime::budget::{Budget, Builder};
use crate::runtime::comparison::merge_sort;
use crate::runtime::evaluate;
use crate::runtime::machine::Machine;
use crate::runtime::operators;
use crate::runtime::value::Value;

impl Machine<'_> {
    /// Applies a filter of sequences; returns nothing if `name` is none of them.
    pub(crate) fn sequence_filter(
        &mut self,
        name: &str,
        value: &Value,
        arguments: &mut Arguments,
    ) -> Result<Option<Value>> {
        let budget = self.budget;
        let found = match name {
            "length" | "count" => value.length(budget)?.into(),
            "list" => Value::list(value.iterate(budget)?),
            "first" => {
                let first = value.first(budget)?;
                first.unwrap_or_else(|| Value::undefined("No first item, sequence was empty."))
            }
            "last" if value.is_generator() => {
                return Err(Error::of_type("'generator' object is not reversible"));
            }
            "last" => {
                let last = value.iterate(budget)?.pop();
                last.unwrap_or_else(|| Value::undefined("No last item, sequence was empty."))
            }
            "reverse" => {
                if let Value::Str(text) = value {
                    budget.visits(text.len())?;
                    budget.text(text.len())?;
                    text.chars().rev().collect::<String>().into()
                } else {
                    let mut items = value.iterate(budget)?;
                    items.reverse();
                    // What cannot be read from its end becomes a list.
                    let is_list = value.is_generator() || value.is_undefined();
                    if is_list { Value::list(items) } else { Value::generator(items) }
                }
            }
            "items" => match value {
                Value::Undefined(_) => Value::generator(Vec::new()),
                Value::Dict(dict) => {
                    budget.list(6 * dict.len())?;
                    let pair = |item: &crate::runtime::value::Item| {
                        Value::tuple(vec![item.key.clone(), item.value.clone()])
                    };
                    Value::generator(dict.items().iter().map(pair).collect())
                }
                _ => return Err(Error::of_type("Can only get item pairs from a mapping.")),
            },
            "join" => self.join(value, arguments)?,
            "sort" => {
                let (reverse, cased) = (arguments.flag("reverse"), arguments.flag("case_sensitive"));
                let path = arguments.take("attribute");
                Value::list(sorted(value.iterate(budget)?, path.as_ref(), cased, reverse, budget)?)
            }
            "unique" => unique(value, arguments, budget)?,
            "min" | "max" => extreme(value, name == "max", arguments, budget)?,
            "sum" => self.sum(value, arguments)?,
            "dictsort" => dict_sorted(value, arguments, budget)?,
            "groupby" => grouped(value, arguments, budget)?,
            "batch" => batches(value, arguments, budget)?,
            "slice" => slices(value, arguments, budget)?,
            _ => return Ok(None),
        };
        Ok(Some(found))
    }

    fn join(&mut self, value: &Value, arguments: &mut Arguments) -> Result<Value> {
        let budget = self.budget;
        let separator = arguments.take("d").unwrap_or_else(|| "".into());
        let separator = self.text_of(&separator)?;
        let path = arguments.take("attribute");
        let mut out = Builder::new(budget);
        for (index, item) in value.iterate(budget)?.into_iter().enumerate() {
            budget.steps(1)?;
            let item = at_optional_path(item, path.as_ref(), budget)?;
            if index > 0 {
                out.push_str(&separator)?;
            }
            out.push_str(&self.text_of(&item)?)?;
        }
        Ok(out.finish().into())
    }

    fn sum(&mut self, value: &Value, arguments: &mut Arguments) -> Result<Value> {
        let budget = self.budget;
        let path = arguments.take("attribute").filter(|path| !matches!(path, Value::None));
        let mut sum = arguments.take("start").unwrap_or(Value::Int(0));
        for item in value.iterate(budget)? {
            budget.steps(1)?;
            let item = at_optional_path(item, path.as_ref(), budget)?;
            sum = operators::binary(self, crate::syntax::ast::Operator::Add, &sum, &item)?;
        }
        Ok(sum)
    }

    /// Filters that apply a filter or test to every item.
    pub(crate) fn filter_each(
        &mut self,
        name: &str,
        value: &Value,
        mut arguments: Arguments,
    ) -> Result<Value> {
        let budget = self.budget;
        let items = value.iterate(budget)?;
        let _held = budget.hold_values(items.len())?;
        if name == "map" {
            return self.map(items, arguments);
        }
        let path = if name.ends_with("attr") { Some(arguments.require("attribute")?) } else { None };
        let test = arguments.text("name")?;
        let rest = Arguments::new(arguments.rest(), std::mem::take(&mut arguments.named));
        let mut kept = Vec::new();
        for item in items {
            budget.steps(1)?;
            let tested = at_optional_path(item.clone(), path.as_ref(), budget)?;
            let holds = match &test {
                Some(test) => self.test(test, &tested, rest.copy(budget)?)?,
                None => tested.is_true(),
            };
            if holds != name.starts_with("reject") {
                kept.push(item);
            }
        }
        Ok(Value::generator(kept))
    }

    fn map(&mut self, items: Vec<Value>, mut arguments: Arguments) -> Result<Value> {
        let budget = self.budget;
        let _held = budget.hold_values(items.len())?;
        let mut mapped = Vec::with_capacity(items.len());
        let path = arguments.position("attribute");
        if let Some(path) = path.map(|at| arguments.named.remove(at).value) {
            let default = arguments.take("default");
            for item in items {
                budget.steps(1)?;
                let found = at_path(&item, &path, budget)?;
                mapped.push(if found.is_undefined() { default.clone().unwrap_or(found) } else { found });
            }
            return Ok(Value::generator(mapped));
        }
        let name =
            arguments.text("filter")?.ok_or_else(|| Error::of_type("map requires a filter argument"))?;
        let rest = Arguments::new(arguments.rest(), arguments.named);
        for item in items {
            budget.steps(1)?;
            let rest = rest.copy(budget)?;
            mapped.push(self.deeper(|machine| machine.filter(&name, item, rest))?);
        }
        Ok(Value::generator(mapped))
    }
}

/// Returns `value`, or what is at `path` in it.
fn at_optional_path(value: Value, path: Option<&Value>, budget: &Budget) -> Result<Value> {
    match path {
        Some(path) => at_path(&value, path, budget),
        None => Ok(value),
    }
}

/// Returns the value at a path such as `function.name` or `0`.
fn at_path(value: &Value, path: &Value, budget: &Budget) -> Result<Value> {
    let Value::Str(path) = path else { return evaluate::item(value, path, budget) };
    let mut found = value.clone();
    for part in path.split('.') {
        budget.steps(1)?;
        budget.copies(part.len())?;
        let index = part.parse().map_or_else(|_| Value::from(part), Value::Int);
        found = evaluate::item(&found, &index, budget)?;
    }
    Ok(found)
}

/// Returns `value` as sorting sees it: without case unless `cased`.
fn sort_key(value: &Value, cased: bool, budget: &Budget) -> Result<Value> {
    Ok(match value {
        Value::Str(text) if !cased => {
            budget.visits(text.len())?;
            budget.text(text.len().saturating_mul(3))?;
            text.to_lowercase().into()
        }
        other => other.clone(),
    })
}

fn sorted(
    items: Vec<Value>,
    path: Option<&Value>,
    cased: bool,
    reverse: bool,
    budget: &Budget,
) -> Result<Vec<Value>> {
    struct Keyed {
        key: Value,
        item: Value,
    }
    budget.list(4 * items.len())?;
    let mut keyed = Vec::new();
    for item in items {
        budget.steps(1)?;
        let key = match path {
            None | Some(Value::None) => sort_key(&item, cased, budget)?,
            Some(Value::Str(paths)) if paths.contains(',') => {
                let mut keys = Vec::new();
                for path in paths.split(',') {
                    keys.push(sort_key(&at_path(&item, &path.into(), budget)?, cased, budget)?);
                }
                Value::list(keys)
            }
            Some(path) => sort_key(&at_path(&item, path, budget)?, cased, budget)?,
        };
        keyed.push(Keyed { key, item });
    }
    let sorted = merge_sort(keyed, &mut |a, b| {
        let (a, b) = if reverse { (b, a) } else { (a, b) };
        Ok(a.key.compare(&b.key, "<", budget)?.is_some_and(Ordering::is_lt))
    })?;
    Ok(sorted.into_iter().map(|keyed| keyed.item).collect())
}

fn unique(value: &Value, arguments: &mut Arguments, budget: &Budget) -> Result<Value> {
    let cased = arguments.flag("case_sensitive");
    let path = arguments.take("attribute");
    let mut seen: Vec<Value> = Vec::new();
    let mut kept = Vec::new();
    'items: for item in value.iterate(budget)? {
        budget.steps(1)?;
        let key = sort_key(&at_optional_path(item.clone(), path.as_ref(), budget)?, cased, budget)?;
        for other in &seen {
            if other.equals(&key, budget)? {
                continue 'items;
            }
        }
        seen.push(key);
        kept.push(item);
    }
    Ok(Value::generator(kept))
}

fn extreme(value: &Value, largest: bool, arguments: &mut Arguments, budget: &Budget) -> Result<Value> {
    let cased = arguments.flag("case_sensitive");
    let path = arguments.take("attribute");
    let mut best: Option<(Value, Value)> = None;
    for item in value.iterate(budget)? {
        budget.steps(1)?;
        let key = sort_key(&at_optional_path(item.clone(), path.as_ref(), budget)?, cased, budget)?;
        let wins = match &best {
            None => true,
            Some((least, _)) if largest => key.compare(least, ">", budget)?.is_some_and(Ordering::is_gt),
            Some((least, _)) => key.compare(least, "<", budget)?.is_some_and(Ordering::is_lt),
        };
        if wins {
            best = Some((key, item));
        }
    }
    Ok(best.map_or_else(|| Value::undefined("No aggregated item, sequence was empty."), |(_, item)| item))
}

fn dict_sorted(value: &Value, arguments: &mut Arguments, budget: &Budget) -> Result<Value> {
    let cased = arguments.flag("case_sensitive");
    let by = arguments.text("by")?.unwrap_or_else(|| "key".into());
    let reverse = arguments.flag("reverse");
    let Value::Dict(dict) = value else { return Err(Error::of_type("dictsort needs a mapping")) };
    budget.list(6 * dict.len())?;
    let pair = |item: &crate::runtime::value::Item| Value::tuple(vec![item.key.clone(), item.value.clone()]);
    let pairs = dict.items().iter().map(pair).collect();
    let path = Value::Int(i128::from(&*by == "value"));
    Ok(Value::list(sorted(pairs, Some(&path), cased, reverse, budget)?))
}

/// Returns pairs of an attribute's value and the items that have it, sorted by the value.
fn grouped(value: &Value, arguments: &mut Arguments, budget: &Budget) -> Result<Value> {
    let path = arguments.require("attribute")?;
    let default = arguments.take("default");
    let cased = arguments.flag("case_sensitive");
    let mut pairs = Vec::new();
    for item in value.iterate(budget)? {
        budget.steps(1)?;
        let key = at_path(&item, &path, budget)?;
        let key = if key.is_undefined() { default.clone().unwrap_or(key) } else { key };
        pairs.push(Value::tuple(vec![key, item]));
    }
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for pair in sorted(pairs, Some(&Value::Int(0)), cased, false, budget)? {
        let Value::Tuple(pair) = pair else { continue };
        let (key, item) = (&pair[0], pair[1].clone());
        let is_same = match groups.last() {
            Some((last, _)) => {
                sort_key(last, cased, budget)?.equals(&sort_key(key, cased, budget)?, budget)?
            }
            None => false,
        };
        match groups.last_mut().filter(|_| is_same) {
            Some((_, items)) => items.push(item),
            None => groups.push((key.clone(), vec![item])),
        }
    }
    budget.list(6 * groups.len())?;
    Ok(Value::list(
        groups.into_iter().map(|(key, items)| Value::tuple(vec![key, Value::list(items)])).collect(),
    ))
}

fn batches(value: &Value, arguments: &mut Arguments, budget: &Budget) -> Result<Value> {
    let size = arguments.integer("linecount")?.unwrap_or(1).max(1) as usize;
    let fill = arguments.take("fill_with").filter(|fill| !matches!(fill, Value::None));
    let items = value.iterate(budget)?;
    budget.list(3 * items.len())?;
    let mut batches: Vec<Vec<Value>> = items.chunks(size).map(<[Value]>::to_vec).collect();
    if let (Some(fill), Some(last)) = (fill, batches.last_mut()) {
        budget.list(size)?;
        last.resize(size, fill);
    }
    Ok(Value::generator(batches.into_iter().map(Value::list).collect()))
}

fn slices(value: &Value, arguments: &mut Arguments, budget: &Budget) -> Result<Value> {
    let count = arguments.integer("slices")?.unwrap_or(1).max(1) as usize;
    let fill = arguments.take("fill_with").filter(|fill| !matches!(fill, Value::None));
    let items = value.iterate(budget)?;
    budget.list(count.saturating_mul(3))?;
    budget.steps(count)?;
    let (each, longer) = (items.len() / count, items.len() % count);
    let mut start = 0;
    let mut slices = Vec::new();
    for index in 0..count {
        let end = start + each + usize::from(index < longer);
        let mut slice = items[start..end].to_vec();
        if let (Some(fill), true) = (&fill, index >= longer) {
            slice.push(fill.clone());
        }
        slices.push(Value::list(slice));
        start = end;
    }
    Ok(Value::generator(slices))
}
