//! Evaluates expressions.

use std::rc::Rc;

use crate::error::{Error, Result};
use crate::runtime::arguments::Arguments;
use crate::runtime::budget::{Budget, Builder};
use crate::runtime::dict::Dict;
use crate::runtime::functions;
use crate::runtime::machine::Machine;
use crate::runtime::operators;
use crate::runtime::scope::Scope;
use crate::runtime::value::{Method, Object, Value};
use crate::runtime::{containers, strings};
use crate::syntax::ast::{Args, Comparison, Entry, Expr, ExprKind};

impl Machine<'_> {
    pub(crate) fn evaluate(&mut self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        self.budget.steps(1)?;
        self.deeper(|machine| machine.evaluate_kind(expr, scope))
    }

    fn evaluate_kind(&mut self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        match &expr.kind {
            ExprKind::None => Ok(Value::None),
            ExprKind::Bool(value) => Ok(Value::Bool(*value)),
            ExprKind::Int(number) => Ok(Value::Int(*number)),
            ExprKind::Float(number) => Ok(Value::Float(*number)),
            ExprKind::Str(text) => {
                self.budget.text(text.len())?;
                Ok(text.as_str().into())
            }
            ExprKind::Name(name) => self.lookup(name, scope),
            ExprKind::List(items) => Ok(Value::list(self.all(items, scope)?)),
            ExprKind::Tuple(items) => Ok(Value::tuple(self.all(items, scope)?)),
            ExprKind::Dict(entries) => self.dict(entries, scope),
            ExprKind::Attribute(owner, name) => {
                let owner = self.evaluate(owner, scope)?;
                attribute(&owner, name, self.budget)
            }
            ExprKind::Item(owner, index) => {
                let owner = self.evaluate(owner, scope)?;
                let index = self.evaluate(index, scope)?;
                item(&owner, &index, self.budget)
            }
            ExprKind::Slice(owner, bounds) => {
                let owner = self.evaluate(owner, scope)?;
                let mut ends = [Value::None, Value::None, Value::None];
                for (end, bound) in ends.iter_mut().zip([&bounds.start, &bounds.stop, &bounds.step]) {
                    if let Some(bound) = bound {
                        *end = self.evaluate(bound, scope)?;
                    }
                }
                containers::slice(&owner, &ends, self.budget)
            }
            ExprKind::Call(..) => self.evaluate_call(expr, None, scope),
            ExprKind::Filter(value, name, args) => {
                let value = self.evaluate(value, scope)?;
                let args = self.arguments(args, scope)?;
                self.line = expr.line;
                self.filter(name, value, args)
            }
            ExprKind::Test(value, name, args, negated) => {
                let value = self.evaluate(value, scope)?;
                let args = self.arguments(args, scope)?;
                self.line = expr.line;
                Ok(Value::Bool(self.test(name, &value, args)? != *negated))
            }
            ExprKind::Not(value) => Ok(Value::Bool(!self.evaluate(value, scope)?.is_true())),
            ExprKind::Negative(value) => operators::negative(&self.evaluate(value, scope)?),
            ExprKind::Positive(value) => operators::positive(&self.evaluate(value, scope)?),
            ExprKind::Binary(operator, left, right) => {
                let left = self.evaluate(left, scope)?;
                let right = self.evaluate(right, scope)?;
                self.line = expr.line;
                operators::binary(self, *operator, &left, &right)
            }
            ExprKind::And(left, right) => {
                let left = self.evaluate(left, scope)?;
                if left.is_true() { self.evaluate(right, scope) } else { Ok(left) }
            }
            ExprKind::Or(left, right) => {
                let left = self.evaluate(left, scope)?;
                if left.is_true() { Ok(left) } else { self.evaluate(right, scope) }
            }
            ExprKind::Compare(first, chain) => self.comparisons(first, chain, scope),
            ExprKind::Concat(parts) => self.concatenation(parts, scope),
            ExprKind::Condition(branches) => {
                if self.evaluate(&branches.test, scope)?.is_true() {
                    return self.evaluate(&branches.then, scope);
                }
                match &branches.otherwise {
                    Some(otherwise) => self.evaluate(otherwise, scope),
                    None => Ok(Value::undefined(
                        "the inline if-expression evaluated to false and no else section was defined.",
                    )),
                }
            }
        }
    }

    fn lookup(&self, name: &str, scope: &Rc<Scope>) -> Result<Value> {
        let found = scope.get(name, self.budget)?;
        Ok(found
            .or_else(|| functions::global(name, self.date.is_some()))
            .unwrap_or_else(|| Value::undefined(format!("'{}' is undefined", shortened(name)))))
    }

    fn all(&mut self, items: &[Expr], scope: &Rc<Scope>) -> Result<Vec<Value>> {
        let _held = self.budget.hold_values(items.len())?;
        let mut values = Vec::with_capacity(items.len());
        for item in items {
            values.push(self.evaluate(item, scope)?);
        }
        Ok(values)
    }

    fn dict(&mut self, entries: &[Entry], scope: &Rc<Scope>) -> Result<Value> {
        let mut dict = Dict::default();
        for entry in entries {
            let key = self.evaluate(&entry.key, scope)?;
            let value = self.evaluate(&entry.value, scope)?;
            containers::check_key(&key, self.budget)?;
            dict.insert(key, value, self.budget)?;
        }
        Ok(Value::Dict(Rc::new(dict)))
    }

    fn comparisons(&mut self, first: &Expr, chain: &[Comparison], scope: &Rc<Scope>) -> Result<Value> {
        let mut left = self.evaluate(first, scope)?;
        for comparison in chain {
            let right = self.evaluate(&comparison.right, scope)?;
            self.line = comparison.right.line;
            if !operators::compare(comparison.operator, &left, &right, self.budget)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn concatenation(&mut self, parts: &[Expr], scope: &Rc<Scope>) -> Result<Value> {
        let mut text = Builder::new(self.budget);
        for part in parts {
            let value = self.evaluate(part, scope)?;
            text.push_str(&self.text_of(&value)?)?;
        }
        Ok(text.finish().into())
    }

    /// Evaluates the arguments of a call.
    pub(crate) fn arguments(&mut self, args: &Args, scope: &Rc<Scope>) -> Result<Arguments> {
        let mut arguments = Arguments::new(self.all(&args.positional, scope)?, Vec::new());
        for arg in &args.named {
            let value = self.evaluate(&arg.value, scope)?;
            self.budget.text(arg.name.len())?;
            arguments.push(arg.name.as_str().into(), value);
        }
        if let Some(list) = &args.list {
            arguments.extend(self.evaluate(list, scope)?.iterate(self.budget)?);
        }
        if let Some(map) = &args.map {
            match self.evaluate(map, scope)? {
                Value::Dict(dict) => {
                    self.budget.list(2 * dict.len())?;
                    for item in dict.items() {
                        let Value::Str(name) = &item.key else {
                            return Err(Error::of_type("keywords must be strings"));
                        };
                        arguments.push(name.clone(), item.value.clone());
                    }
                }
                other => {
                    let kind = other.type_name();
                    return Err(Error::of_type(format!("argument after ** must be a mapping, not {kind}")));
                }
            }
        }
        Ok(arguments)
    }

    /// Evaluates a call, with `caller` as an additional argument if it is that of a call block.
    pub(crate) fn evaluate_call(
        &mut self,
        expr: &Expr,
        caller: Option<Value>,
        scope: &Rc<Scope>,
    ) -> Result<Value> {
        let ExprKind::Call(callee, args) = &expr.kind else {
            return Err(Error::of_type("expected call"));
        };
        let callee = self.evaluate(callee, scope)?;
        let mut arguments = self.arguments(args, scope)?;
        if let Some(value) = caller {
            arguments.push("caller".into(), value);
        }
        self.line = expr.line;
        self.call(&callee, arguments)
    }

    pub(crate) fn call(&mut self, callee: &Value, mut arguments: Arguments) -> Result<Value> {
        match callee {
            Value::Undefined(what) => Err(functions::missing(what, self.date.is_some())),
            Value::Object(Object::Function(name)) => functions::call(self, name, arguments),
            Value::Object(Object::Macro(found)) => self.call_macro(found, arguments),
            Value::Object(Object::Loop(state)) => {
                let items = arguments.require("iterable")?;
                self.recurse(state, &items)
            }
            Value::Object(Object::Joiner(joiner)) => {
                let first = !joiner.used.replace(true);
                Ok(if first { "".into() } else { Value::Str(joiner.separator.clone()) })
            }
            Value::Object(Object::Method(method)) => self.call_method(method, arguments),
            other => Err(Error::of_type(format!("'{}' object is not callable", other.type_name()))),
        }
    }

    fn call_method(&mut self, method: &Method, mut arguments: Arguments) -> Result<Value> {
        let Method { owner, name } = method;
        let value = match owner {
            Value::Str(text) => strings::call(self, text, name, &mut arguments)?,
            _ => containers::call(owner, name, &mut arguments, self.budget)?,
        };
        arguments.finish(name)?;
        Ok(value)
    }
}

/// Returns a name as messages print it.
pub(crate) fn shortened(name: &str) -> &str {
    let end = name.char_indices().nth(100).map_or(name.len(), |(at, _)| at);
    &name[..end]
}

/// Returns `owner.name`: a method first, then an entry.
pub(crate) fn attribute(owner: &Value, name: &str, budget: &Budget) -> Result<Value> {
    if let Value::Undefined(what) = owner {
        return Err(Error::undefined(&**what));
    }
    if let Some(method) = method(owner, name) {
        return Ok(method);
    }
    let found = match owner {
        Value::Dict(dict) => dict.named(name, budget)?.cloned(),
        Value::Object(Object::Namespace(dict)) => dict.borrow().named(name, budget)?.cloned(),
        Value::Object(Object::Loop(state)) => functions::loop_attribute(state, name),
        Value::Object(Object::Cycler(cycler)) if name == "current" => {
            cycler.items.get(*cycler.at.borrow()).cloned()
        }
        Value::Object(Object::Macro(found)) if name == "name" => {
            budget.text(found.def.name.len())?;
            Some(found.def.name.as_str().into())
        }
        Value::Tuple(items) if items.len() == 2 && name == "grouper" => items.first().cloned(),
        Value::Tuple(items) if items.len() == 2 && name == "list" => items.get(1).cloned(),
        _ => None,
    };
    Ok(found.unwrap_or_else(|| no_attribute(owner, shortened(name))))
}

fn method(owner: &Value, name: &str) -> Option<Value> {
    let known = match owner {
        Value::Str(_) => strings::METHODS.contains(&name),
        Value::Dict(_) => containers::DICT_METHODS.contains(&name),
        Value::List(_) | Value::Tuple(_) => containers::LIST_METHODS.contains(&name),
        Value::Object(Object::Loop(_)) => ["cycle", "changed"].contains(&name),
        Value::Object(Object::Cycler(_)) => ["next", "reset"].contains(&name),
        _ => false,
    };
    let changes = match owner {
        Value::Dict(_) => containers::DICT_CHANGES.contains(&name),
        Value::List(_) => containers::LIST_CHANGES.contains(&name),
        _ => false,
    };
    if changes {
        let kind = owner.type_name();
        return Some(Value::undefined(format!("access to attribute '{name}' of '{kind}' object is unsafe.")));
    }
    known.then(|| {
        Value::Object(Object::Method(Rc::new(Method { owner: owner.clone(), name: name.to_owned() })))
    })
}

fn no_attribute(owner: &Value, name: &str) -> Value {
    match owner {
        Value::None => Value::undefined(format!("'None' has no attribute '{name}'")),
        _ => Value::undefined(format!("'{} object' has no attribute '{name}'", owner.type_name())),
    }
}

/// Returns `owner[index]`: an entry first, then an attribute.
pub(crate) fn item(owner: &Value, index: &Value, budget: &Budget) -> Result<Value> {
    if let Value::Undefined(what) = owner {
        return Err(Error::undefined(&**what));
    }
    if let Some(found) = containers::entry(owner, index, budget)? {
        return Ok(found);
    }
    if let Value::Str(name) = index {
        attribute(owner, name, budget)
    } else {
        let index = crate::runtime::print::repr(index, budget)?;
        let what = format!("{} object has no element {}", owner.type_name(), shortened(&index));
        Ok(Value::undefined(what))
    }
}
