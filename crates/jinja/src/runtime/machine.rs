//! Compiled templates, and the machine that renders them.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::date::Date;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::arguments::Arguments;
use crate::runtime::budget::{Budget, check_depth};
use crate::runtime::dict::Dict;
use crate::runtime::evaluate::shortened;
use crate::runtime::memory::{Items, Text};
use crate::runtime::output::{Notation, Output, Printed, Span, Watch, Watched};
use crate::runtime::print::str_of;
use crate::runtime::scope::{Scope, assign};
use crate::runtime::value::{Object, Value};
use crate::syntax::ast::{Body, Expr, FilterCall, ForLoop, IfArm, MacroDef, Stmt, StmtKind};
use crate::syntax::parser::parse;

/// Deepest nesting of macro calls and recursive loops.
const MAX_CALLS: usize = 48;
/// Steps of a round of a loop besides those of its body: it makes a scope.
const STEPS_PER_ROUND: usize = 3;
/// Deepest nesting of statements and expressions while they run, calls included.
const MAX_DEPTH: usize = 4000;
/// Stack that an expression finds at least, and that is added when less is left, in bytes.
const MIN_STACK: usize = 512 << 10;
const MORE_STACK: usize = 4 << 20;
/// Work of allocating another stack, in steps.
const STEPS_PER_STACK: usize = 100;
/// Longest template, in bytes; the longest that are published have some ten thousand.
const MAX_SOURCE_BYTES: usize = 1 << 20;

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
        if source.len() > MAX_SOURCE_BYTES {
            let mebibytes = MAX_SOURCE_BYTES >> 20;
            let reason = format!("the template is longer than {mebibytes} MiB");
            return Err(Error::new(ErrorKind::Limit, reason).at(1));
        }
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
        let budget = Budget::new(context.iter().map(|(name, value)| name.len() + value.size()).sum());
        for (name, value) in context {
            scope.set(&name, value, &budget)?;
        }
        let mut machine = Machine::new(watch, date, &budget);
        let result = machine.run(&self.body, &scope);
        machine.break_cycles();
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
    pub(crate) items: Items,
    pub(crate) index: Cell<usize>,
    pub(crate) depth: usize,
    pub(crate) changed: RefCell<Option<Items>>,
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
    items: Watched<'w>,
    printed: Watched<'w>,
    pub(crate) date: Option<Date>,
    pub(crate) budget: &'w Budget,
    output: Output,
    /// Texts that are not written yet: bodies of macros and `set` blocks.
    captures: Vec<String>,
    /// Namespaces, which may contain themselves.
    namespaces: Vec<Weak<RefCell<Dict>>>,
    /// The watched item that the current loop visits.
    item: Option<usize>,
    loops: usize,
    calls: usize,
    depth: usize,
    pub(crate) line: usize,
}

impl<'w> Machine<'w> {
    fn new(watch: &'w Watch, date: Option<Date>, budget: &'w Budget) -> Self {
        Self {
            items: Watched::new(&watch.items),
            printed: Watched::new(&watch.printed),
            date,
            budget,
            output: Output::default(),
            captures: Vec::new(),
            namespaces: Vec::new(),
            item: None,
            loops: 0,
            calls: 0,
            depth: 0,
            line: 1,
        }
    }

    /// Makes a namespace.
    pub(crate) fn namespace(&mut self, dict: Dict) -> Value {
        let made = Rc::new(RefCell::new(dict));
        if self.namespaces.len() == self.namespaces.capacity() {
            self.namespaces.retain(|namespace| namespace.strong_count() > 0);
        }
        self.namespaces.push(Rc::downgrade(&made));
        Value::Object(Object::Namespace(made))
    }

    /// Empties the namespaces, since one that contains itself would never be freed.
    fn break_cycles(&mut self) {
        for namespace in self.namespaces.drain(..).filter_map(|namespace| namespace.upgrade()) {
            let entries = namespace.take();
            drop(entries);
        }
    }

    /// Does `work` with enough stack, unless it is nested too deeply.
    pub(crate) fn deeper<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return Err(Error::new(ErrorKind::Limit, "maximum recursion depth exceeded"));
        }
        if stacker::remaining_stack().is_none_or(|left| left < MIN_STACK) {
            self.budget.steps(STEPS_PER_STACK)?;
        }
        self.depth += 1;
        let done = stacker::maybe_grow(MIN_STACK, MORE_STACK, || work(self));
        self.depth -= 1;
        done
    }

    fn run(&mut self, body: &[Stmt], scope: &Rc<Scope>) -> Result<Flow> {
        for stmt in body {
            self.line = stmt.line;
            self.budget.steps(1)?;
            let flow = self.deeper(|machine| machine.statement(stmt, scope));
            let flow = flow.map_err(|error| error.at(self.line))?;
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
                let text = self.text_of(&value)?;
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
                assign(target, value, scope, self.budget)?;
            }
            StmtKind::SetBlock(target, filters, body) => {
                let text = self.captured(filters, body, scope)?;
                assign(target, text, scope, self.budget)?;
            }
            StmtKind::Macro(def) => {
                let found = Macro { def: def.clone(), scope: Rc::downgrade(scope) };
                scope.set(&def.name, Value::Object(Object::Macro(Rc::new(found))), self.budget)?;
            }
            StmtKind::Call(def, call) => {
                let caller = Macro { def: def.clone(), scope: Rc::downgrade(scope) };
                let inner = Scope::inside(scope);
                let caller = Value::Object(Object::Macro(Rc::new(caller)));
                let value = self.call_with_caller(call, caller, &inner)?;
                let text = self.text_of(&value)?;
                self.write(&text)?;
            }
            StmtKind::Filter(filters, body) => {
                let value = self.captured(filters, body, scope)?;
                let text = self.text_of(&value)?;
                self.write(&text)?;
            }
            StmtKind::With(assignments, body) => {
                let inner = Scope::inside(scope);
                for assignment in assignments {
                    let value = self.evaluate(&assignment.value, scope)?;
                    assign(&assignment.target, value, &inner, self.budget)?;
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
            self.add_generated(start)?;
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
        self.budget.write(text.len())?;
        let target = self.captures.last_mut().unwrap_or(&mut self.output.text);
        // A string that grows holds up to twice its length.
        self.budget.fits(target.len())?;
        let start = target.len();
        if is_output && text.contains(OPEN) {
            self.budget.visits(text.len())?;
            self.write_marked(text)?;
        } else {
            target.push_str(text);
        }
        if is_output { self.extend_span(start) } else { Ok(()) }
    }

    /// Records the output from `start` as a `generation` block.
    fn add_generated(&mut self, start: usize) -> Result<()> {
        self.budget.record(size_of::<Range<usize>>())?;
        let range = start..self.output.text.len();
        self.output.generation.get_or_insert_default().push(range);
        Ok(())
    }

    /// Records that the text from `start` belongs to the current item.
    fn extend_span(&mut self, start: usize) -> Result<()> {
        let end = self.output.text.len();
        match (self.item, self.output.spans.last_mut()) {
            _ if start == end => {}
            (Some(item), Some(span)) if span.item == item && span.range.end == start => span.range.end = end,
            (Some(item), _) => {
                self.budget.record(size_of::<Span>())?;
                self.output.spans.push(Span { item, range: start..end });
            }
            (None, _) => {}
        }
        Ok(())
    }

    /// Writes a captured text with marks around its generated parts.
    fn write_marked(&mut self, text: &str) -> Result<()> {
        let mut start = self.output.text.len();
        for letter in text.chars() {
            match letter {
                OPEN => start = self.output.text.len(),
                CLOSE => self.add_generated(start)?,
                _ => self.output.text.push(letter),
            }
        }
        Ok(())
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
        self.captured_by(|machine| machine.run(body, scope))
    }

    /// Does `work`, and returns what it writes.
    fn captured_by(&mut self, work: impl FnOnce(&mut Self) -> Result<Flow>) -> Result<String> {
        self.captures.push(String::new());
        let result = work(self);
        let text = self.captures.pop().expect("it was pushed above");
        self.budget.end_capture(text.len());
        result.map(|_| text)
    }

    /// Returns the items that a loop visits.
    fn items(&mut self, found: &ForLoop, scope: &Rc<Scope>) -> Result<Vec<Value>> {
        let over = self.evaluate(&found.over, scope)?;
        over.iterate(self.budget)
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
            items: items.into(),
        });
        let outer = self.item;
        self.loops += 1;
        let mut result = Ok(());
        for (index, item) in state.items.iter().enumerate() {
            if let Err(error) = self.budget.steps(STEPS_PER_ROUND) {
                result = Err(error);
                break;
            }
            state.index.set(index);
            self.item = self.watched_item(item).or(outer);
            let inner = Scope::inside(scope);
            let visited = Value::Object(Object::Loop(state.clone()));
            let ran = inner
                .set("loop", visited, self.budget)
                .and_then(|()| assign(&found.target, item.clone(), &inner, self.budget))
                .and_then(|()| self.run(&found.body, &inner));
            match ran {
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
        // A loop may have been asked whether it changed itself.
        let last = state.changed.take();
        drop(last);
        result.map(|()| Flow::Next)
    }

    /// Returns the items that meet the loop's condition.
    fn kept(&mut self, found: &ForLoop, items: Vec<Value>, scope: &Rc<Scope>) -> Result<Vec<Value>> {
        let Some(condition) = &found.condition else { return Ok(items) };
        let mut kept = Vec::new();
        for item in items {
            let inner = Scope::inside(scope);
            self.budget.steps(STEPS_PER_ROUND)?;
            assign(&found.target, item.clone(), &inner, self.budget)?;
            if self.evaluate(condition, &inner)?.is_true() {
                kept.push(item);
            }
        }
        Ok(kept)
    }

    fn watched_item(&self, value: &Value) -> Option<usize> {
        match value {
            Value::Dict(_) => self.items.position(value),
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
        let items = items.iterate(self.budget)?;
        let depth = state.depth + 1;
        self.calling(|machine| {
            Ok(machine.captured_by(|machine| machine.for_loop(found, items, &scope, depth))?.into())
        })
    }

    fn calling<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
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
        let caller = arguments.position("caller");
        if let Some(at) = caller.filter(|_| !def.params.iter().any(|param| param.name == "caller")) {
            inner.set("caller", arguments.named.remove(at).value, self.budget)?;
        } else {
            inner.set("caller", Value::undefined("No caller defined"), self.budget)?;
        }
        self.budget.copies(def.params.len().saturating_add(def.name.len()))?;
        for param in &def.params {
            arguments.search(&param.name, self.budget)?;
            let value = match (arguments.take(&param.name), &param.default) {
                (Some(value), _) => value,
                (None, Some(default)) => self.evaluate(default, &inner)?,
                (None, None) => {
                    Value::undefined(format!("parameter '{}' was not provided", shortened(&param.name)))
                }
            };
            inner.set(&param.name, value, self.budget)?;
        }
        if def.uses_varargs {
            inner.set("varargs", Value::tuple(arguments.rest()), self.budget)?;
        }
        if def.uses_kwargs {
            let mut dict = Dict::default();
            for named in std::mem::take(&mut arguments.named) {
                dict.insert(Value::Str(named.name), named.value, self.budget)?;
            }
            inner.set("kwargs", Value::Dict(Rc::new(dict)), self.budget)?;
        }
        arguments.finish(&format!("macro '{}'", def.name))?;
        self.budget.steps(STEPS_PER_ROUND)?;
        let line = self.line;
        // Output inside a macro belongs to the caller's item, and loops in it do not see the caller's.
        let text = self.calling(|machine| machine.capture(&def.body, &inner))?;
        self.line = line;
        Ok(text.into())
    }

    fn call_with_caller(&mut self, call: &Expr, caller: Value, scope: &Rc<Scope>) -> Result<Value> {
        self.evaluate_call(call, Some(caller), scope)
    }

    /// Returns the text of a value, and records printed containers that are watched.
    pub(crate) fn text_of(&mut self, value: &Value) -> Result<Text> {
        if !matches!(value, Value::Str(_)) {
            self.record(value, Notation::Python)?;
        }
        str_of(value, self.budget)
    }

    /// Records the watched values in a printed one.
    pub(crate) fn record(&mut self, value: &Value, notation: Notation) -> Result<()> {
        if self.printed.values.is_empty() {
            return Ok(());
        }
        self.record_at(value, notation, 0)
    }

    fn record_at(&mut self, value: &Value, notation: Notation, depth: usize) -> Result<()> {
        check_depth(depth)?;
        self.budget.visits(1)?;
        self.budget.copies(self.printed.search_bytes())?;
        if let Some(at) = self.printed.position(value) {
            self.budget.steps(4)?;
            self.budget.record(size_of::<Printed>())?;
            let line = self.line;
            self.output.printed.push(Printed { value: at, notation, line });
            return Ok(());
        }
        let inner = depth + 1;
        match value {
            Value::List(items) | Value::Tuple(items) => {
                items.iter().try_for_each(|item| self.record_at(item, notation, inner))
            }
            Value::Lazy(lazy) => lazy.items.iter().try_for_each(|item| self.record_at(item, notation, inner)),
            Value::Dict(dict) => {
                dict.items().iter().try_for_each(|item| self.record_at(&item.value, notation, inner))
            }
            _ => Ok(()),
        }
    }
}
