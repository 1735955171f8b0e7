//! Variables, and assignments to them.

use std::cell::RefCell;
use std::rc::Rc;

use crate::error::{Error, Result};
use crate::runtime::budget::Budget;
use crate::runtime::value::{Object, Value};
use crate::syntax::ast::Target;

/// Variables by name; a name that is not here is looked up in the parent.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    variables: RefCell<Vec<Variable>>,
    parent: Option<Rc<Scope>>,
}

#[derive(Debug)]
struct Variable {
    name: String,
    value: Value,
}

impl Scope {
    pub(crate) fn inside(parent: &Rc<Self>) -> Rc<Self> {
        Rc::new(Self { variables: RefCell::default(), parent: Some(parent.clone()) })
    }

    pub(crate) fn set(&self, name: &str, value: Value, budget: &Budget) -> Result<()> {
        let mut variables = self.variables.borrow_mut();
        budget.copies(name.len())?;
        match position(&variables, name, budget)? {
            Some(at) => variables[at].value = value,
            None => variables.push(Variable { name: name.to_owned(), value }),
        }
        Ok(())
    }

    pub(crate) fn get(&self, name: &str, budget: &Budget) -> Result<Option<Value>> {
        let mut scope = self;
        loop {
            let variables = scope.variables.borrow();
            budget.copies(16)?;
            if let Some(at) = position(&variables, name, budget)? {
                return Ok(Some(variables[at].value.clone()));
            }
            match &scope.parent {
                Some(parent) => scope = parent,
                None => return Ok(None),
            }
        }
    }
}

/// Returns the index of the variable `name`. Spends the work of comparing names of the same length.
fn position(variables: &[Variable], name: &str, budget: &Budget) -> Result<Option<usize>> {
    budget.copies(4 * variables.len())?;
    for (at, variable) in variables.iter().enumerate() {
        if variable.name.len() == name.len() {
            budget.copies(name.len())?;
            if variable.name == name {
                return Ok(Some(at));
            }
        }
    }
    Ok(None)
}

/// Assigns a value in `scope`.
pub(crate) fn assign(target: &Target, value: Value, scope: &Rc<Scope>, budget: &Budget) -> Result<()> {
    match target {
        Target::Name(name) => scope.set(name, value, budget)?,
        Target::Attribute(owner, name) => match scope.get(owner, budget)? {
            Some(Value::Object(Object::Namespace(dict))) if name.starts_with('_') => {
                drop(dict);
                let reason = "Chat templates cannot store underscore-prefixed attributes on a namespace";
                return Err(Error::of_type(format!("{reason}, but got '{name}'")));
            }
            Some(Value::Object(Object::Namespace(dict))) => {
                budget.text(name.len())?;
                dict.borrow_mut().insert(name.as_str().into(), value, budget)?;
            }
            _ => return Err(Error::of_type("cannot assign attribute on non-namespace object")),
        },
        Target::Tuple(targets) => {
            let values = value.iterate(budget)?;
            let (expected, found) = (targets.len(), values.len());
            if found > expected {
                return Err(Error::of_type(format!("too many values to unpack (expected {expected})")));
            }
            if found < expected {
                let reason = format!("not enough values to unpack (expected {expected}, got {found})");
                return Err(Error::of_type(reason));
            }
            for (target, value) in targets.iter().zip(values) {
                assign(target, value, scope, budget)?;
            }
        }
    }
    Ok(())
}
