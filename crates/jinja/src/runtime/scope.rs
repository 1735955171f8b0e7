//! Variables, and assignments to them.

use std::cell::RefCell;
use std::rc::Rc;

use crate::error::{Error, Result};
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

    pub(crate) fn set(&self, name: &str, value: Value) {
        let mut variables = self.variables.borrow_mut();
        match variables.iter_mut().find(|variable| variable.name == name) {
            Some(variable) => variable.value = value,
            None => variables.push(Variable { name: name.to_owned(), value }),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<Value> {
        let own = self.variables.borrow();
        let found = own.iter().find(|variable| variable.name == name).map(|variable| variable.value.clone());
        found.or_else(|| self.parent.as_ref().and_then(|parent| parent.get(name)))
    }
}

/// Assigns a value in `scope`.
pub(crate) fn assign(target: &Target, value: Value, scope: &Rc<Scope>) -> Result<()> {
    match target {
        Target::Name(name) => scope.set(name, value),
        Target::Attribute(owner, name) => match scope.get(owner) {
            Some(Value::Object(Object::Namespace(dict))) if name.starts_with('_') => {
                drop(dict);
                let reason = "Chat templates cannot store underscore-prefixed attributes on a namespace";
                return Err(Error::of_type(format!("{reason}, but got '{name}'")));
            }
            Some(Value::Object(Object::Namespace(dict))) => {
                dict.borrow_mut().insert(name.as_str().into(), value);
            }
            _ => return Err(Error::of_type("cannot assign attribute on non-namespace object")),
        },
        Target::Tuple(targets) => {
            let values = value.iterate()?;
            let (expected, found) = (targets.len(), values.len());
            if found > expected {
                return Err(Error::of_type(format!("too many values to unpack (expected {expected})")));
            }
            if found < expected {
                let reason = format!("not enough values to unpack (expected {expected}, got {found})");
                return Err(Error::of_type(reason));
            }
            for (target, value) in targets.iter().zip(values) {
                assign(target, value, scope)?;
            }
        }
    }
    Ok(())
}
