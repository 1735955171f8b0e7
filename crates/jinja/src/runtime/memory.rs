//! Strings and lists of values. Their memory is counted, and nested ones are dropped without recursion.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

use crate::runtime::value::{Item, Value};

/// Memory of a string or list besides its content: the allocation and its counters.
pub(crate) const OVERHEAD_BYTES: usize = 48;
pub(crate) const VALUE_BYTES: usize = size_of::<Value>();

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static GRAVES: RefCell<Vec<Grave>> = const { RefCell::new(Vec::new()) };
    static IS_BURYING: Cell<bool> = const { Cell::new(false) };
}

/// Returns the bytes of all strings, lists and dicts of this thread.
pub(crate) fn held() -> usize {
    HELD.with(Cell::get)
}

pub(crate) fn hold(bytes: usize) {
    // The counter is gone while a thread ends.
    let _ = HELD.try_with(|held| held.set(held.get().saturating_add(bytes)));
}

pub(crate) fn release(bytes: usize) {
    let _ = HELD.try_with(|held| held.set(held.get().saturating_sub(bytes)));
}

/// Memory of values under construction, counted until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Held(usize);

impl Held {
    pub(crate) fn new(bytes: usize) -> Self {
        hold(bytes);
        Self(bytes)
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        hold(bytes);
        self.0 += bytes;
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        Self::new(self.0)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        release(self.0);
    }
}

/// A shared string.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(Rc<Letters>);

#[derive(PartialEq, Eq)]
struct Letters(Box<str>);

impl Drop for Letters {
    fn drop(&mut self) {
        release(self.0.len() + OVERHEAD_BYTES);
    }
}

impl Text {
    /// Returns whether both are the same string in memory.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        hold(text.len() + OVERHEAD_BYTES);
        Self(Rc::new(Letters(text.into_boxed_str())))
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0.0
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(formatter)
    }
}

/// The values of a list, tuple or loop.
#[derive(Debug, Default)]
pub struct Items(Vec<Value>);

impl From<Vec<Value>> for Items {
    fn from(values: Vec<Value>) -> Self {
        hold(values.len() * VALUE_BYTES + OVERHEAD_BYTES);
        Self(values)
    }
}

impl Deref for Items {
    type Target = [Value];

    fn deref(&self) -> &[Value] {
        &self.0
    }
}

impl Drop for Items {
    fn drop(&mut self) {
        release(self.0.len() * VALUE_BYTES + OVERHEAD_BYTES);
        if self.0.iter().any(Value::is_nested) {
            bury(Grave::Values(std::mem::take(&mut self.0)));
        }
    }
}

/// Values that wait to be dropped.
pub(crate) enum Grave {
    Values(Vec<Value>),
    Entries(Vec<Item>),
}

/// Drops values whose nesting may be deeper than the stack: what they hold is dropped one level after another.
pub(crate) fn bury(grave: Grave) {
    let waiting = GRAVES.try_with(|graves| graves.borrow_mut().push(grave));
    if waiting.is_err() || IS_BURYING.try_with(|burying| burying.replace(true)).unwrap_or(true) {
        return;
    }
    while let Ok(Some(grave)) = GRAVES.try_with(|graves| graves.borrow_mut().pop()) {
        match grave {
            Grave::Values(values) => drop(values),
            Grave::Entries(entries) => drop(entries),
        }
    }
    let _ = IS_BURYING.try_with(|burying| burying.set(false));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_and_deep_ones_dropped() {
        let before = held();
        let mut deep = Value::list(vec!["text".into()]);
        for _ in 0..500_000 {
            deep = Value::list(vec![deep]);
        }
        assert!(held() > before + 500_000 * VALUE_BYTES);
        drop(deep);
        assert_eq!(held(), before);
    }
}
