//! Filters of sequences.

use std::cmp::Ordering;

use crate::error::{Error, Result};
use crate::runtime::arguments::Arguments;
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
        let found = match name {
            "length" | "count" => value.length()?.into(),
            "list" => Value::list(value.iterate()?),
            "first" => {
                let first = value.iterate()?.into_iter().next();
                first.unwrap_or_else(|| Value::undefined("No first item, sequence was empty."))
            }
            "last" => {
                let last = value.iterate()?.pop();
                last.unwrap_or_else(|| Value::undefined("No last item, sequence was empty."))
            }
            "reverse" => {
                if let Value::Str(text) = value {
                    text.chars().rev().collect::<String>().into()
                } else {
                    let mut items = value.iterate()?;
                    items.reverse();
                    Value::generator(items)
                }
            }
            "items" => match value {
                Value::Undefined(_) => Value::generator(Vec::new()),
                Value::Dict(dict) => {
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
                Value::list(sorted(value.iterate()?, path.as_ref(), cased, reverse)?)
            }
            "unique" => unique(value, arguments)?,
            "min" | "max" => extreme(value, name == "max", arguments)?,
            "sum" => self.sum(value, arguments)?,
            "dictsort" => dict_sorted(value, arguments)?,
            "groupby" => grouped(value, arguments)?,
            "batch" => batches(value, arguments)?,
            "slice" => slices(value, arguments)?,
            _ => return Ok(None),
        };
        Ok(Some(found))
    }

    fn join(&mut self, value: &Value, arguments: &mut Arguments) -> Result<Value> {
        let separator = arguments.take("d").unwrap_or_else(|| "".into());
        let separator = self.text_of(&separator);
        let path = arguments.take("attribute");
        let mut out = String::new();
        for (index, item) in value.iterate()?.into_iter().enumerate() {
            let item = path.as_ref().map_or_else(|| Ok(item.clone()), |path| at_path(&item, path))?;
            if index > 0 {
                out.push_str(&separator);
            }
            out.push_str(&self.text_of(&item));
            self.spend(1)?;
            if out.len() > crate::runtime::machine::MAX_TEXT_BYTES {
                return Err(operators::too_long());
            }
        }
        Ok(out.into())
    }

    fn sum(&mut self, value: &Value, arguments: &mut Arguments) -> Result<Value> {
        let path = arguments.take("attribute").filter(|path| !matches!(path, Value::None));
        let mut sum = arguments.take("start").unwrap_or(Value::Int(0));
        for item in value.iterate()? {
            let item = path.as_ref().map_or_else(|| Ok(item.clone()), |path| at_path(&item, path))?;
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
        let items = value.iterate()?;
        if name == "map" {
            return self.map(items, arguments);
        }
        let path = if name.ends_with("attr") { Some(arguments.require("attribute")?) } else { None };
        let test = arguments.text("name")?;
        let rest = arguments.rest();
        let mut kept = Vec::new();
        for item in items {
            let tested = path.as_ref().map_or_else(|| Ok(item.clone()), |path| at_path(&item, path))?;
            let holds = match &test {
                Some(test) => {
                    self.test(test, &tested, Arguments::new(rest.clone(), arguments.named.clone()))?
                }
                None => tested.is_true(),
            };
            self.spend(1)?;
            if holds != name.starts_with("reject") {
                kept.push(item);
            }
        }
        Ok(Value::generator(kept))
    }

    fn map(&mut self, items: Vec<Value>, mut arguments: Arguments) -> Result<Value> {
        let mut mapped = Vec::new();
        let path = arguments.named.iter().position(|named| named.name == "attribute");
        if let Some(path) = path.map(|at| arguments.named.remove(at).value) {
            let default = arguments.take("default");
            for item in items {
                let found = at_path(&item, &path)?;
                mapped.push(if found.is_undefined() { default.clone().unwrap_or(found) } else { found });
            }
            return Ok(Value::generator(mapped));
        }
        let name =
            arguments.text("filter")?.ok_or_else(|| Error::of_type("map requires a filter argument"))?;
        let rest = arguments.rest();
        for item in items {
            self.spend(1)?;
            mapped.push(self.filter(&name, item, Arguments::new(rest.clone(), arguments.named.clone()))?);
        }
        Ok(Value::generator(mapped))
    }
}

/// Returns the value at a path such as `function.name` or `0`.
fn at_path(value: &Value, path: &Value) -> Result<Value> {
    let Value::Str(path) = path else { return evaluate::item(value, path) };
    let mut found = value.clone();
    for part in path.split('.') {
        let index = part.parse().map_or_else(|_| Value::from(part), Value::Int);
        found = evaluate::item(&found, &index)?;
    }
    Ok(found)
}

/// Returns `value` as sorting sees it: without case unless `cased`.
fn sort_key(value: &Value, cased: bool) -> Value {
    match value {
        Value::Str(text) if !cased => text.to_lowercase().into(),
        other => other.clone(),
    }
}

fn sorted(items: Vec<Value>, path: Option<&Value>, cased: bool, reverse: bool) -> Result<Vec<Value>> {
    struct Keyed {
        key: Value,
        item: Value,
    }
    let mut keyed = Vec::new();
    for item in items {
        let key = match path {
            None | Some(Value::None) => sort_key(&item, cased),
            Some(Value::Str(paths)) if paths.contains(',') => {
                let keys = paths.split(',').map(|path| at_path(&item, &path.into()));
                Value::list(keys.map(|key| Ok(sort_key(&key?, cased))).collect::<Result<_>>()?)
            }
            Some(path) => sort_key(&at_path(&item, path)?, cased),
        };
        keyed.push(Keyed { key, item });
    }
    let mut problem = None;
    keyed.sort_by(|a, b| {
        let (a, b) = if reverse { (b, a) } else { (a, b) };
        match a.key.compare(&b.key, "<") {
            Ok(order) => order.unwrap_or(Ordering::Equal),
            Err(error) => {
                problem.get_or_insert(error);
                Ordering::Equal
            }
        }
    });
    match problem {
        Some(error) => Err(error),
        None => Ok(keyed.into_iter().map(|keyed| keyed.item).collect()),
    }
}

fn unique(value: &Value, arguments: &mut Arguments) -> Result<Value> {
    let cased = arguments.flag("case_sensitive");
    let path = arguments.take("attribute");
    let mut seen = Vec::new();
    let mut kept = Vec::new();
    for item in value.iterate()? {
        let key = path.as_ref().map_or_else(|| Ok(item.clone()), |path| at_path(&item, path))?;
        let key = sort_key(&key, cased);
        if !seen.contains(&key) {
            seen.push(key);
            kept.push(item);
        }
    }
    Ok(Value::generator(kept))
}

fn extreme(value: &Value, largest: bool, arguments: &mut Arguments) -> Result<Value> {
    let cased = arguments.flag("case_sensitive");
    let path = arguments.take("attribute");
    let mut best: Option<(Value, Value)> = None;
    for item in value.iterate()? {
        let key = path.as_ref().map_or_else(|| Ok(item.clone()), |path| at_path(&item, path))?;
        let key = sort_key(&key, cased);
        let wins = match &best {
            None => true,
            Some((least, _)) if largest => key.compare(least, ">")?.is_some_and(Ordering::is_gt),
            Some((least, _)) => key.compare(least, "<")?.is_some_and(Ordering::is_lt),
        };
        if wins {
            best = Some((key, item));
        }
    }
    Ok(best.map_or_else(|| Value::undefined("No aggregated item, sequence was empty."), |(_, item)| item))
}

fn dict_sorted(value: &Value, arguments: &mut Arguments) -> Result<Value> {
    let cased = arguments.flag("case_sensitive");
    let by = arguments.text("by")?.unwrap_or_else(|| "key".to_owned());
    let reverse = arguments.flag("reverse");
    let Value::Dict(dict) = value else { return Err(Error::of_type("dictsort needs a mapping")) };
    let pair = |item: &crate::runtime::value::Item| Value::tuple(vec![item.key.clone(), item.value.clone()]);
    let pairs = dict.items().iter().map(pair).collect();
    let path = Value::Int(i128::from(by == "value"));
    Ok(Value::list(sorted(pairs, Some(&path), cased, reverse)?))
}

/// Returns pairs of an attribute's value and the items that have it, sorted by the value.
fn grouped(value: &Value, arguments: &mut Arguments) -> Result<Value> {
    let path = arguments.require("attribute")?;
    let default = arguments.take("default");
    let cased = arguments.flag("case_sensitive");
    let keyed = |item: Value| {
        let key = at_path(&item, &path)?;
        let key = if key.is_undefined() { default.clone().unwrap_or(key) } else { key };
        Ok(Value::tuple(vec![key, item]))
    };
    let pairs: Vec<Value> = value.iterate()?.into_iter().map(keyed).collect::<Result<_>>()?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for pair in sorted(pairs, Some(&Value::Int(0)), cased, false)? {
        let Value::Tuple(pair) = pair else { continue };
        let (key, item) = (&pair[0], pair[1].clone());
        match groups.last_mut() {
            Some((last, items)) if sort_key(last, cased) == sort_key(key, cased) => items.push(item),
            _ => groups.push((key.clone(), vec![item])),
        }
    }
    Ok(Value::list(
        groups.into_iter().map(|(key, items)| Value::tuple(vec![key, Value::list(items)])).collect(),
    ))
}

fn batches(value: &Value, arguments: &mut Arguments) -> Result<Value> {
    let size = arguments.integer("linecount")?.unwrap_or(1).max(1) as usize;
    let fill = arguments.take("fill_with").filter(|fill| !matches!(fill, Value::None));
    let mut batches: Vec<Vec<Value>> = value.iterate()?.chunks(size).map(<[Value]>::to_vec).collect();
    if let (Some(fill), Some(last)) = (fill, batches.last_mut()) {
        last.resize(size, fill);
    }
    Ok(Value::generator(batches.into_iter().map(Value::list).collect()))
}

fn slices(value: &Value, arguments: &mut Arguments) -> Result<Value> {
    let count = arguments.integer("slices")?.unwrap_or(1).clamp(1, 100_000) as usize;
    let fill = arguments.take("fill_with").filter(|fill| !matches!(fill, Value::None));
    let items = value.iterate()?;
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
