//! Iteration, length, equality and order of values, as Python defines them.

use std::cmp::Ordering;
use std::rc::Rc;

use crate::error::{Error, Result};
use crate::runtime::budget::{Budget, check_depth};
use crate::runtime::value::{Object, Value};

impl Value {
    /// Returns the values that a loop visits. A generator has none left afterwards.
    pub(crate) fn iterate(&self, budget: &Budget) -> Result<Vec<Self>> {
        if let Self::Str(text) = self {
            budget.visits(text.len())?;
            budget.texts(text.chars().count(), text.len())?;
            let mut buffer = [0; 4];
            return Ok(text.chars().map(|letter| Self::from(&*letter.encode_utf8(&mut buffer))).collect());
        }
        if let Self::Dict(dict) = self {
            budget.list(dict.len())?;
            return Ok(dict.keys());
        }
        let items = self.visited()?;
        budget.list(items.len())?;
        let items = items.to_vec();
        self.take(items.len());
        Ok(items)
    }

    /// Returns the first value that a loop visits. A generator does not give it again.
    pub(crate) fn first(&self, budget: &Budget) -> Result<Option<Self>> {
        if !self.is_generator() {
            return Ok(self.iterate(budget)?.into_iter().next());
        }
        let first = self.visited()?.first().cloned();
        self.take(1);
        Ok(first)
    }

    /// Takes the first `count` of the values that are left in a generator.
    fn take(&self, count: usize) {
        if let Self::Lazy(lazy) = self {
            lazy.take(count);
        }
    }

    /// Returns the items of a sequence other than a string or dict.
    fn visited(&self) -> Result<&[Self]> {
        match self {
            Self::Undefined(_) => Ok(&[]),
            Self::List(items) | Self::Tuple(items) => Ok(items),
            Self::Lazy(lazy) => Ok(lazy.left()),
            Self::Object(Object::Loop(state)) => Ok(&state.items),
            other => Err(Error::of_type(format!("'{}' object is not iterable", other.type_name()))),
        }
    }

    /// Returns whether a loop can visit the value.
    pub(crate) fn is_iterable(&self) -> bool {
        matches!(self, Self::Str(_) | Self::Dict(_)) || self.visited().is_ok()
    }

    /// Returns whether a loop over a value other than a string would visit `item`. A generator has the values after it left.
    pub(crate) fn visits(&self, item: &Self, budget: &Budget) -> Result<bool> {
        let items = self.visited()?;
        for (index, visited) in items.iter().enumerate() {
            if visited.equals(item, budget)? {
                self.take(index + 1);
                return Ok(true);
            }
        }
        self.take(items.len());
        Ok(false)
    }

    /// Returns what Python's `len` returns.
    pub(crate) fn length(&self, budget: &Budget) -> Result<usize> {
        match self {
            Self::Undefined(_) => Ok(0),
            Self::Str(text) => {
                budget.copies(text.len())?;
                Ok(text.chars().count())
            }
            Self::List(items) | Self::Tuple(items) => Ok(items.len()),
            Self::Lazy(lazy) if lazy.view.is_some() => Ok(lazy.items.len()),
            Self::Dict(dict) => Ok(dict.len()),
            Self::Object(Object::Loop(state)) => Ok(state.items.len()),
            other => Err(Error::of_type(format!("object of type '{}' has no len()", other.type_name()))),
        }
    }

    /// Compares as Python's `<` does.
    pub(crate) fn compare(&self, other: &Self, operator: &str, budget: &Budget) -> Result<Option<Ordering>> {
        self.compare_at(other, operator, budget, 0)
    }

    fn compare_at(
        &self,
        other: &Self,
        operator: &str,
        budget: &Budget,
        depth: usize,
    ) -> Result<Option<Ordering>> {
        budget.visits(1)?;
        check_depth(depth)?;
        if let (Some(a), Some(b)) = (self.number(), other.number()) {
            return Ok(a.compare(b));
        }
        match (self, other) {
            (Self::Str(a), Self::Str(b)) => {
                budget.copies(a.len().min(b.len()))?;
                Ok(Some(a.cmp(b)))
            }
            (Self::List(a), Self::List(b)) | (Self::Tuple(a), Self::Tuple(b)) => {
                for (a, b) in a.iter().zip(b.iter()) {
                    if !a.equals_at(b, budget, depth + 1)? {
                        return a.compare_at(b, operator, budget, depth + 1);
                    }
                }
                Ok(Some(a.len().cmp(&b.len())))
            }
            (Self::Undefined(what), _) | (_, Self::Undefined(what)) => Err(Error::undefined(&**what)),
            _ => Err(Error::of_type(format!(
                "'{operator}' not supported between instances of '{}' and '{}'",
                self.type_name(),
                other.type_name()
            ))),
        }
    }

    /// Returns whether both are equal as Python's `==` says.
    pub(crate) fn equals(&self, other: &Self, budget: &Budget) -> Result<bool> {
        self.equals_at(other, budget, 0)
    }

    fn equals_at(&self, other: &Self, budget: &Budget, depth: usize) -> Result<bool> {
        budget.visits(1)?;
        check_depth(depth)?;
        if let (Some(a), Some(b)) = (self.number(), other.number()) {
            return Ok(a.compare(b) == Some(Ordering::Equal));
        }
        match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => Ok(true),
            (Self::Str(a), Self::Str(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                budget.copies(a.len())?;
                Ok(**a == **b)
            }
            (Self::List(a), Self::List(b)) | (Self::Tuple(a), Self::Tuple(b)) => {
                all_equal(a, b, budget, depth + 1)
            }
            (Self::Lazy(a), Self::Lazy(b)) if Rc::ptr_eq(a, b) => Ok(true),
            (Self::Lazy(a), Self::Lazy(b)) => {
                Ok(a.view.is_some() && b.view.is_some() && all_equal(&a.items, &b.items, budget, depth + 1)?)
            }
            (Self::Dict(a), Self::Dict(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for item in a.items() {
                    let Some(found) = b.get(&item.key, budget)? else { return Ok(false) };
                    if !found.equals_at(&item.value, budget, depth + 1)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (Self::Object(Object::Namespace(a)), Self::Object(Object::Namespace(b))) => Ok(Rc::ptr_eq(a, b)),
            _ => Ok(false),
        }
    }
}

/// Returns whether two sequences have equal items.
pub(crate) fn all_equal(a: &[Value], b: &[Value], budget: &Budget, depth: usize) -> Result<bool> {
    if a.len() != b.len() {
        return Ok(false);
    }
    for (a, b) in a.iter().zip(b) {
        if !a.equals_at(b, budget, depth)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Sorts `items` so that none is before one that is less; equal ones keep their order. Unlike the sort of the standard
/// library, it takes comparisons that fail or contradict each other, as those of NaN do.
pub(crate) fn merge_sort<T>(items: Vec<T>, less: &mut impl FnMut(&T, &T) -> Result<bool>) -> Result<Vec<T>> {
    if items.len() < 2 {
        return Ok(items);
    }
    let mut left = items;
    let right = left.split_off(left.len() / 2);
    let mut left = merge_sort(left, less)?.into_iter().peekable();
    let mut right = merge_sort(right, less)?.into_iter().peekable();
    let mut merged = Vec::with_capacity(left.len() + right.len());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let next = if less(b, a)? { right.next() } else { left.next() };
        merged.extend(next);
    }
    merged.extend(left);
    merged.extend(right);
    Ok(merged)
}
