//! Arguments of a call, as functions take them.

use crate::error::{Error, Result};
use crate::runtime::budget::Budget;
use crate::runtime::memory::{Held, Text};
use crate::runtime::value::Value;

/// A named argument.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) name: Text,
    pub(crate) value: Value,
}

impl Named {
    fn is(&self, name: &str) -> bool {
        *self.name == *name
    }
}

/// The values of a call's arguments.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arguments {
    pub(crate) positional: Vec<Value>,
    pub(crate) named: Vec<Named>,
    taken: usize,
    held: Held,
}

impl Arguments {
    pub(crate) fn new(positional: Vec<Value>, named: Vec<Named>) -> Self {
        let held = Held::new(size_of_val(&*positional) + size_of_val(&*named));
        Self { positional, named, taken: 0, held }
    }

    /// Adds positional arguments.
    pub(crate) fn extend(&mut self, values: Vec<Value>) {
        self.held.add(size_of_val(&*values));
        self.positional.extend(values);
    }

    /// Adds a named argument.
    pub(crate) fn push(&mut self, name: Text, value: Value) {
        self.held.add(size_of::<Named>());
        self.named.push(Named { name, value });
    }

    /// Returns the index of the named argument `name`.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.named.iter().position(|named| named.is(name))
    }

    /// Spends the work of searching for the named argument `name`, including comparisons with names of the same length.
    pub(crate) fn search(&self, name: &str, budget: &Budget) -> Result<()> {
        let same = self.named.iter().filter(|named| named.name.len() == name.len()).count();
        budget.copies((4 * self.named.len()).saturating_add(same.saturating_mul(name.len())))
    }

    /// Takes the next parameter, by position or by `name`.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        if self.taken < self.positional.len() {
            self.taken += 1;
            return Some(std::mem::replace(&mut self.positional[self.taken - 1], Value::None));
        }
        let at = self.position(name)?;
        Some(self.named.remove(at).value)
    }

    pub(crate) fn require(&mut self, name: &str) -> Result<Value> {
        self.take(name).ok_or_else(|| Error::of_type(format!("missing required argument: '{name}'")))
    }

    /// Takes a string; `None` and a missing argument give nothing.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<Text>> {
        match self.take(name) {
            None | Some(Value::None) => Ok(None),
            Some(Value::Str(text)) => Ok(Some(text)),
            Some(other) => Err(Error::of_type(format!("'{name}' must be str, not {}", other.type_name()))),
        }
    }

    /// Takes an integer; `None` and a missing argument give nothing.
    pub(crate) fn integer(&mut self, name: &str) -> Result<Option<i64>> {
        match self.take(name) {
            None | Some(Value::None) => Ok(None),
            Some(Value::Int(number)) => Ok(Some(number.clamp(i64::MIN.into(), i64::MAX.into()) as i64)),
            Some(Value::Bool(value)) => Ok(Some(i64::from(value))),
            Some(other) => {
                let kind = other.type_name();
                Err(Error::of_type(format!("'{kind}' object cannot be interpreted as an integer")))
            }
        }
    }

    /// Takes a flag, false if it is missing.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        self.take(name).is_some_and(|value| value.is_true())
    }

    /// Takes the positional arguments that are left.
    pub(crate) fn rest(&mut self) -> Vec<Value> {
        let mut rest = std::mem::take(&mut self.positional);
        rest.drain(..std::mem::take(&mut self.taken));
        rest
    }

    /// Returns a copy for one more call.
    pub(crate) fn copy(&self, budget: &Budget) -> Result<Self> {
        budget.list(self.positional.len() + 2 * self.named.len())?;
        Ok(self.clone())
    }

    /// Fails if arguments are left.
    pub(crate) fn finish(&self, function: &str) -> Result<()> {
        if self.taken < self.positional.len() {
            let given = self.positional.len();
            return Err(Error::of_type(format!(
                "{function}() takes {} arguments but {given} were given",
                self.taken
            )));
        }
        match self.named.first() {
            Some(named) => {
                let name = &*named.name;
                Err(Error::of_type(format!("{function}() got an unexpected keyword argument '{name}'")))
            }
            None => Ok(()),
        }
    }
}
