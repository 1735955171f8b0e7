//! Compiled templates, and the machine that renders them.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::date::Date;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::arguments::Arguments;
use crate::runtime::output::{Notation, Output, Printed, Span, Watch};
use crate::runtime::print::str_of;
use crate::runtime::scope::{Scope, assign};
use crate::runtime::value::{Object, Value};
use crate::syntax::ast::{Body, Expr, FilterCall, ForLoop, IfArm, MacroDef, Stmt, StmtKind};
use crate::syntax::parser::parse;

/// Steps of one rendering; a long conversation takes some hundred thousand.
const FUEL: u64 = 20_000_000;
/// Longest text that a template may build.
pub(crate) const MAX_TEXT_BYTES: usize = 64 << 20;
/// Deepest nesting of macro calls and recursive loops.
const MAX_CALLS: usize = 48;

// Noncharacters: valid in a string, but never part of a text. They enclose generated text in a captured string.
const OPEN: char = '\u{FDD0}';
const CLOSE: char = '\u{FDD1}';

/// A compiled template.
#[derive(Clone, Debug)]
pub struct Template {
    body: Arc<Body>,
    has_generation: bool,
}

impl Template {
    /// Compiles `source`.
    ///
    /// # Errors
    ///
    /// Fails when the source does not parse.
    pub fn new(source: &str) -> Result<Self> {
        let body = parse(source)?;
        let has_generation = has_generation(&body);
        Ok(Self { body: Arc::new(body), has_generation })
    }

    /// Renders the template with the variables in `context`. `strftime_now` prints `date`.
    ///
    /// # Errors
    ///
    /// Fails when the template raises an exception, uses values in ways that they do not support, or works too long.
    pub fn render(&self, context: Vec<(String, Value)>, watch: &Watch, date: Option<Date>) -> Result<Output> {
        let scope = Rc::new(Scope::default());
        for (name, value) in context {
            scope.set(&name, value);
        }
        let mut machine = Machine::new(watch, date);
        let result = machine.run(&self.body, &scope);
        let line = machine.line;
        result.map_err(|error| error.at(line))?;
        let mut output = machine.output;
        output.generation = self.has_generation.then(|| output.generation.unwrap_or_default());
        Ok(output)
    }
}

fn has_generation(body: &[Stmt]) -> bool {
    body.iter().any(|stmt| match &stmt.kind {
        StmtKind::Generation(_) => true,
        StmtKind::If(arms, otherwise) => {
            arms.iter().any(|arm| has_generation(&arm.body)) || has_generation(otherwise)
        }
        StmtKind::For(found) => has_generation(&found.body) || has_generation(&found.otherwise),
        StmtKind::Macro(def) | StmtKind::Call(def, _) => has_generation(&def.body),
        StmtKind::SetBlock(_, _, body)
        | StmtKind::Filter(_, body)
        | StmtKind::With(_, body)
        | StmtKind::Block(body) => has_generation(body),
        _ => false,
    })
}

/// State of a loop.
#[derive(Debug)]
pub struct Loop {
    pub(crate) items: Vec<Value>,
    pub(crate) index: Cell<usize>,
    pub(crate) depth: usize,
    pub(crate) changed: RefCell<Option<Vec<Value>>>,
    /// The loop itself and where it is, if it is recursive.
    recursion: Option<(Arc<ForLoop>, Weak<Scope>)>,
}

/// A macro and where it was defined.
#[derive(Debug)]
pub struct Macro {
    pub(crate) def: Arc<MacroDef>,
    scope: Weak<Scope>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// Renders one template.
pub(crate) struct Machine<'w> {
    watch: &'w Watch,
    pub(crate) date: Option<Date>,
    output: Output,
    /// Texts that are not written yet: bodies of macros and `set` blocks.
    captures: Vec<String>,
    /// The watched item that the current loop visits.
    item: Option<usize>,
    loops: usize,
    calls: usize,
    fuel: u64,
    pub(crate) line: usize,
}

impl<'w> Machine<'w> {
    fn new(watch: &'w Watch, date: Option<Date>) -> Self {
        Self {
            watch,
            date,
            output: Output::default(),
            captures: Vec::new(),
            item: None,
            loops: 0,
            calls: 0,
            fuel: FUEL,
            line: 1,
        }
    }

    pub(crate) fn spend(&mut self, steps: usize) -> Result<()> {
        self.fuel = self.fuel.saturating_sub(steps as u64);
        if self.fuel == 0 {
            return Err(Error::new(ErrorKind::Limit, "it works too long"));
        }
        Ok(())
    }

    fn run(&mut self, body: &[Stmt], scope: &Rc<Scope>) -> Result<Flow> {
        for stmt in body {
            self.line = stmt.line;
            self.spend(1)?;
            let flow = self.statement(stmt, scope).map_err(|error| error.at(self.line))?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&mut self, stmt: &Stmt, scope: &Rc<Scope>) -> Result<Flow> {
        match &stmt.kind {
            StmtKind::Text(text) => self.write(text)?,
            StmtKind::Output(expr) => {
                let value = self.evaluate(expr, scope)?;
                let text = self.text_of(&value);
                self.write(&text)?;
            }
            StmtKind::If(arms, otherwise) => {
                for IfArm { test, body } in arms {
                    if self.evaluate(test, scope)?.is_true() {
                        return self.run(body, scope);
                    }
                }
                return self.run(otherwise, scope);
            }
            StmtKind::For(found) => {
                let items = self.items(found, scope)?;
                return self.for_loop(found, items, scope, 0);
            }
            StmtKind::Set(target, expr) => {
                let value = self.evaluate(expr, scope)?;
                if self.loops > 0 && self.item.is_none() {
                    self.item = self.watched_item(&value);
                }
                assign(target, value, scope)?;
            }
            StmtKind::SetBlock(target, filters, body) => {
                let text = self.captured(filters, body, scope)?;
                assign(target, text, scope)?;
            }
            StmtKind::Macro(def) => {
                let found = Macro { def: def.clone(), scope: Rc::downgrade(scope) };
                scope.set(&def.name, Value::Object(Object::Macro(Rc::new(found))));
            }
            StmtKind::Call(def, call) => {
                let caller = Macro { def: def.clone(), scope: Rc::downgrade(scope) };
                let inner = Scope::inside(scope);
                let caller = Value::Object(Object::Macro(Rc::new(caller)));
                let value = self.call_with_caller(call, caller, &inner)?;
                let text = self.text_of(&value);
                self.write(&text)?;
            }
            StmtKind::Filter(filters, body) => {
                let value = self.captured(filters, body, scope)?;
                let text = self.text_of(&value);
                self.write(&text)?;
            }
            StmtKind::With(assignments, body) => {
                let inner = Scope::inside(scope);
                for assignment in assignments {
                    let value = self.evaluate(&assignment.value, scope)?;
                    assign(&assignment.target, value, &inner)?;
                }
                return self.run(body, &inner);
            }
            StmtKind::Block(body) => return self.run(body, &Scope::inside(scope)),
            StmtKind::Generation(body) => return self.generation(body, scope),
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn generation(&mut self, body: &[Stmt], scope: &Rc<Scope>) -> Result<Flow> {
        // As a call block in Jinja2, the body has a scope of its own.
        let inner = Scope::inside(scope);
        if self.captures.is_empty() {
            let start = self.output.text.len();
            let flow = self.run(body, &inner)?;
            let range = start..self.output.text.len();
            self.output.generation.get_or_insert_default().push(range);
            return Ok(flow);
        }
        self.write(&OPEN.to_string())?;
        let flow = self.run(body, &inner)?;
        self.write(&CLOSE.to_string())?;
        Ok(flow)
    }

    /// Writes to the innermost captured text, or to the output.
    fn write(&mut self, text: &str) -> Result<()> {
        let is_output = self.captures.is_empty();
        let target = self.captures.last_mut().unwrap_or(&mut self.output.text);
        if target.len() + text.len() > MAX_TEXT_BYTES {
            return Err(Error::new(ErrorKind::Limit, "the rendered text is too long"));
        }
        let start = target.len();
        if is_output && text.contains(OPEN) {
            self.write_marked(text);
        } else {
            target.push_str(text);
        }
        if is_output {
            self.extend_span(start);
        }
        Ok(())
    }

    /// Records that the text from `start` belongs to the current item.
    fn extend_span(&mut self, start: usize) {
        let end = self.output.text.len();
        match (self.item, self.output.spans.last_mut()) {
            _ if start == end => {}
            (Some(item), Some(span)) if span.item == item && span.range.end == start => span.range.end = end,
            (Some(item), _) => self.output.spans.push(Span { item, range: start..end }),
            (None, _) => {}
        }
    }

    /// Writes a captured text with marks around its generated parts.
    fn write_marked(&mut self, text: &str) {
        let mut start = self.output.text.len();
        for letter in text.chars() {
            match letter {
                OPEN => start = self.output.text.len(),
                CLOSE => {
                    let range = start..self.output.text.len();
                    self.output.generation.get_or_insert_default().push(range);
                }
                _ => self.output.text.push(letter),
            }
        }
    }

    /// Runs `body`, and returns its text after the filters.
    fn captured(&mut self, filters: &[FilterCall], body: &[Stmt], scope: &Rc<Scope>) -> Result<Value> {
        let text = self.capture(body, &Scope::inside(scope))?;
        let mut value = Value::from(text);
        for FilterCall { name, args } in filters {
            let args = self.arguments(args, scope)?;
            value = self.filter(name, value, args)?;
        }
        Ok(value)
    }

    fn capture(&mut self, body: &[Stmt], scope: &Rc<Scope>) -> Result<String> {
        self.captures.push(String::new());
        let result = self.run(body, scope);
        let text = self.captures.pop().expect("it was pushed above");
        result.map(|_| text)
    }

    /// Returns the items that a loop visits.
    fn items(&mut self, found: &ForLoop, scope: &Rc<Scope>) -> Result<Vec<Value>> {
        let over = self.evaluate(&found.over, scope)?;
        over.iterate()
    }

    fn for_loop(
        &mut self,
        found: &Arc<ForLoop>,
        items: Vec<Value>,
        scope: &Rc<Scope>,
        depth: usize,
    ) -> Result<Flow> {
        let items = self.kept(found, items, scope)?;
        if items.is_empty() {
            return self.run(&found.otherwise, &Scope::inside(scope));
        }
        let state = Rc::new(Loop {
            index: Cell::new(0),
            depth,
            changed: RefCell::new(None),
            recursion: found.recursive.then(|| (found.clone(), Rc::downgrade(scope))),
            items,
        });
        let outer = self.item;
        self.loops += 1;
        let mut result = Ok(());
        for (index, item) in state.items.iter().enumerate() {
            state.index.set(index);
            self.item = self.watched_item(item).or(outer);
            let inner = Scope::inside(scope);
            inner.set("loop", Value::Object(Object::Loop(state.clone())));
            match assign(&found.target, item.clone(), &inner).and_then(|()| self.run(&found.body, &inner)) {
                Ok(Flow::Break) => break,
                Ok(_) => {}
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        self.loops -= 1;
        self.item = outer;
        result.map(|()| Flow::Next)
    }

    /// Returns the items that meet the loop's condition.
    fn kept(&mut self, found: &ForLoop, items: Vec<Value>, scope: &Rc<Scope>) -> Result<Vec<Value>> {
        let Some(condition) = &found.condition else { return Ok(items) };
        let mut kept = Vec::new();
        for item in items {
            let inner = Scope::inside(scope);
            assign(&found.target, item.clone(), &inner)?;
            if self.evaluate(condition, &inner)?.is_true() {
                kept.push(item);
            }
        }
        Ok(kept)
    }

    fn watched_item(&self, value: &Value) -> Option<usize> {
        match value {
            Value::Dict(_) => self.watch.items.iter().position(|item| item.is_same(value)),
            _ => None,
        }
    }

    /// Runs a recursive loop again over `items`, and returns its text.
    pub(crate) fn recurse(&mut self, state: &Loop, items: &Value) -> Result<Value> {
        let Some((found, scope)) = &state.recursion else {
            return Err(Error::of_type(
                "The loop must have the 'recursive' marker to be called recursively.",
            ));
        };
        let scope = scope.upgrade().ok_or_else(|| Error::of_type("the loop has ended"))?;
        let items = items.iterate()?;
        self.deeper(|machine| {
            machine.captures.push(String::new());
            let result = machine.for_loop(found, items, &scope, state.depth + 1);
            let text = machine.captures.pop().expect("it was pushed above");
            result.map(|_| Value::from(text))
        })
    }

    fn deeper<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.calls >= MAX_CALLS {
            return Err(Error::new(ErrorKind::Limit, "maximum recursion depth exceeded"));
        }
        self.calls += 1;
        let done = work(self);
        self.calls -= 1;
        done
    }

    pub(crate) fn call_macro(&mut self, found: &Macro, mut arguments: Arguments) -> Result<Value> {
        let def = &found.def;
        let outer = found.scope.upgrade().ok_or_else(|| Error::of_type("the macro's scope has ended"))?;
        let inner = Scope::inside(&outer);
        // `caller` may be given by a call block, or not at all.
        let caller = arguments.named.iter().position(|named| named.name == "caller");
        if let Some(at) = caller.filter(|_| !def.params.iter().any(|param| param.name == "caller")) {
            inner.set("caller", arguments.named.remove(at).value);
        } else {
            inner.set("caller", Value::undefined("No caller defined"));
        }
        for param in &def.params {
            let value = match (arguments.take(&param.name), &param.default) {
                (Some(value), _) => value,
                (None, Some(default)) => self.evaluate(default, &inner)?,
                (None, None) => Value::undefined(format!("parameter '{}' was not provided", param.name)),
            };
            inner.set(&param.name, value);
        }
        if def.uses_varargs {
            inner.set("varargs", Value::tuple(arguments.rest()));
        }
        if def.uses_kwargs {
            let mut dict = crate::runtime::value::Dict::default();
            for named in std::mem::take(&mut arguments.named) {
                dict.insert(named.name.into(), named.value);
            }
            inner.set("kwargs", Value::Dict(Rc::new(dict)));
        }
        arguments.finish(&format!("macro '{}'", def.name))?;
        let line = self.line;
        // Output inside a macro belongs to the caller's item, and loops in it do not see the caller's.
        let text = self.deeper(|machine| machine.capture(&def.body, &inner))?;
        self.line = line;
        Ok(text.into())
    }

    fn call_with_caller(&mut self, call: &Expr, caller: Value, scope: &Rc<Scope>) -> Result<Value> {
        self.evaluate_call(call, Some(caller), scope)
    }

    /// Returns the text of a value, and records printed containers that are watched.
    pub(crate) fn text_of(&mut self, value: &Value) -> String {
        if !matches!(value, Value::Str(_)) {
            self.record(value, Notation::Python);
        }
        str_of(value)
    }

    /// Records the watched values in a printed one.
    pub(crate) fn record(&mut self, value: &Value, notation: Notation) {
        if self.watch.printed.is_empty() {
            return;
        }
        if let Some(at) = self.watch.printed.iter().position(|watched| watched.is_same(value)) {
            let line = self.line;
            self.output.printed.push(Printed { value: at, notation, line });
            return;
        }
        match value {
            Value::List(items) | Value::Tuple(items) => {
                items.iter().for_each(|item| self.record(item, notation));
            }
            Value::Lazy(lazy) => lazy.items.iter().for_each(|item| self.record(item, notation)),
            Value::Dict(dict) => dict.items().iter().for_each(|item| self.record(&item.value, notation)),
            _ => {}
        }
    }
}
