//! Dicts in the order of insertion.

use crate::error::Result;
use crate::runtime::budget::Budget;
use crate::runtime::memory::{Grave, OVERHEAD_BYTES, bury, hold, release};
use crate::runtime::value::{Item, Value};

const ITEM_BYTES: usize = size_of::<Item>();

/// A dict in the order of insertion.
#[derive(Debug)]
pub struct Dict {
    entries: Vec<Item>,
}

impl Default for Dict {
    fn default() -> Self {
        hold(OVERHEAD_BYTES);
        Self { entries: Vec::new() }
    }
}

impl Drop for Dict {
    fn drop(&mut self) {
        release(self.entries.len() * ITEM_BYTES + OVERHEAD_BYTES);
        if self.entries.iter().any(|item| item.key.is_nested() || item.value.is_nested()) {
            bury(Grave::Entries(std::mem::take(&mut self.entries)));
        }
    }
}

impl Dict {
    pub(crate) fn items(&self) -> &[Item] {
        &self.entries
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds an entry whose key is new.
    pub(crate) fn push(&mut self, key: Value, value: Value) {
        hold(ITEM_BYTES);
        self.entries.push(Item { key, value });
    }

    pub(crate) fn insert(&mut self, key: Value, value: Value, budget: &Budget) -> Result<()> {
        match self.position(&key, budget)? {
            Some(at) => self.entries[at].value = value,
            None => self.push(key, value),
        }
        Ok(())
    }

    /// Returns a copy, which shares the values.
    pub(crate) fn copy(&self, budget: &Budget) -> Result<Self> {
        budget.list(self.len() * 2)?;
        let mut copy = Self::default();
        for item in &self.entries {
            copy.push(item.key.clone(), item.value.clone());
        }
        Ok(copy)
    }

    pub(crate) fn get(&self, key: &Value, budget: &Budget) -> Result<Option<&Value>> {
        Ok(self.position(key, budget)?.map(|at| &self.entries[at].value))
    }

    fn position(&self, key: &Value, budget: &Budget) -> Result<Option<usize>> {
        if let Value::Str(name) = key {
            return self.position_of_name(name, budget);
        }
        for (at, item) in self.entries.iter().enumerate() {
            if item.key.equals(key, budget)? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    fn position_of_name(&self, name: &str, budget: &Budget) -> Result<Option<usize>> {
        for (at, item) in self.entries.iter().enumerate() {
            budget.copies(4)?;
            if let Value::Str(key) = &item.key
                && key.len() == name.len()
            {
                budget.copies(name.len())?;
                if **key == *name {
                    return Ok(Some(at));
                }
            }
        }
        Ok(None)
    }

    pub(crate) fn named(&self, name: &str, budget: &Budget) -> Result<Option<&Value>> {
        Ok(self.position_of_name(name, budget)?.map(|at| &self.entries[at].value))
    }

    /// Returns the value of `name` in the input of a rendering.
    pub(crate) fn input(&self, name: &str) -> Option<&Value> {
        let is_named = |item: &&Item| matches!(&item.key, Value::Str(key) if **key == *name);
        self.entries.iter().find(is_named).map(|item| &item.value)
    }

    pub(crate) fn keys(&self) -> Vec<Value> {
        self.entries.iter().map(|item| item.key.clone()).collect()
    }
}
