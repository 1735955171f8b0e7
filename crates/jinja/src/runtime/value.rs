//! Values of templates, with Python's notions of truth, equality and order.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::rc::Rc;

use crate::runtime::arguments::Arguments;
use crate::runtime::budget::Budget;
use crate::runtime::dict::Dict;
use crate::runtime::json::tojson;
use crate::runtime::machine::{Loop, Macro};
use crate::runtime::memory::{Items, OVERHEAD_BYTES, Text, VALUE_BYTES};

/// A value of a template.
///
/// Lists, dicts and strings are shared, and a [`Watch`](crate::Watch) recognizes them by their identity.
#[derive(Clone, Debug)]
pub enum Value {
    /// No value at all; the text says what is missing.
    Undefined(Text),
    /// Python's `None`.
    None,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i128),
    /// A float.
    Float(f64),
    /// A string.
    Str(Text),
    /// A list.
    List(Rc<Items>),
    /// A tuple.
    Tuple(Rc<Items>),
    /// Values that Python would make one at a time: a generator or a view of a dict.
    Lazy(Rc<Lazy>),
    /// A dict.
    Dict(Rc<Dict>),
    /// Anything else.
    Object(Object),
}

/// Values made one at a time. A generator gives each value once, to whoever asks first; a loop takes them all, even if it is
/// left early.
#[derive(Debug)]
pub struct Lazy {
    /// The values.
    pub(crate) items: Items,
    /// Name of the type if the values are a view of a dict, which has a length.
    pub(crate) view: Option<&'static str>,
    /// Number of values that the generator has given away.
    pub(crate) taken: Cell<usize>,
}

impl Lazy {
    /// Returns the values that are left.
    pub(crate) fn left(&self) -> &[Value] {
        &self.items[self.taken.get()..]
    }

    /// Takes the first `count` of the values that are left. A view keeps them.
    pub(crate) fn take(&self, count: usize) {
        if self.view.is_none() {
            self.taken.set(self.items.len().min(self.taken.get().saturating_add(count)));
        }
    }
}

/// Values with behaviour.
#[derive(Clone, Debug)]
pub enum Object {
    /// A function that is always there.
    Function(&'static str),
    /// A method of a value.
    Method(Rc<Method>),
    /// The result of `namespace()`.
    Namespace(Rc<RefCell<Dict>>),
    /// `loop`.
    Loop(Rc<Loop>),
    /// A macro, or `caller`.
    Macro(Rc<Macro>),
    /// The result of `cycler()`.
    Cycler(Rc<Cycler>),
    /// The result of `joiner()`.
    Joiner(Rc<Joiner>),
}

/// A method with the value it belongs to.
#[derive(Debug)]
pub struct Method {
    pub(crate) owner: Value,
    pub(crate) name: String,
}

/// State of a `cycler()`.
#[derive(Debug)]
pub struct Cycler {
    pub(crate) items: Items,
    pub(crate) at: RefCell<usize>,
}

/// State of a `joiner()`.
#[derive(Debug)]
pub struct Joiner {
    pub(crate) separator: Text,
    pub(crate) used: RefCell<bool>,
}

/// An entry of a dict.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) key: Value,
    pub(crate) value: Value,
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Str(text.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Int(value as i128)
    }
}

impl From<&serde_json::Value> for Value {
    fn from(json: &serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::None,
            serde_json::Value::Bool(value) => Self::Bool(*value),
            serde_json::Value::Number(number) => {
                let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
                whole.map_or_else(|| Self::Float(number.as_f64().unwrap_or(f64::NAN)), Self::Int)
            }
            serde_json::Value::String(text) => text.as_str().into(),
            serde_json::Value::Array(items) => Self::list(items.iter().map(Self::from).collect()),
            serde_json::Value::Object(fields) => {
                let mut dict = Dict::default();
                for (key, value) in fields {
                    dict.push(key.as_str().into(), value.into());
                }
                Self::Dict(Rc::new(dict))
            }
        }
    }
}

impl Value {
    pub(crate) fn list(items: Vec<Self>) -> Self {
        Self::List(Rc::new(items.into()))
    }

    pub(crate) fn tuple(items: Vec<Self>) -> Self {
        Self::Tuple(Rc::new(items.into()))
    }

    pub(crate) fn generator(items: Vec<Self>) -> Self {
        Self::Lazy(Rc::new(Lazy { items: items.into(), view: None, taken: Cell::new(0) }))
    }

    pub(crate) fn view(name: &'static str, items: Vec<Self>) -> Self {
        Self::Lazy(Rc::new(Lazy { items: items.into(), view: Some(name), taken: Cell::new(0) }))
    }

    /// Returns whether the value is a generator, which cannot be visited twice or from its end.
    pub(crate) fn is_generator(&self) -> bool {
        matches!(self, Self::Lazy(lazy) if lazy.view.is_none())
    }

    pub(crate) fn undefined(what: impl Into<Text>) -> Self {
        Self::Undefined(what.into())
    }

    pub(crate) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    /// Returns the values of an object with string keys, in their order; the entries of other values are empty.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Self)> {
        let items = match self {
            Self::Dict(dict) => dict.items(),
            _ => &[],
        };
        items.iter().filter_map(|item| match &item.key {
            Self::Str(key) => Some((&**key, &item.value)),
            _ => None,
        })
    }

    /// Returns the value of a key of an object.
    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Dict(dict) => dict.input(name),
            _ => None,
        }
    }

    /// Returns the items of a list; other values have none.
    pub fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }

    /// Returns whether the value is an object.
    pub fn is_mapping(&self) -> bool {
        matches!(self, Self::Dict(_))
    }

    /// Returns the value as the filter `tojson` writes it; values that are not JSON become nothing.
    pub fn to_json(&self) -> String {
        tojson(self, Arguments::default(), &Budget::new(self.size()))
            .map_or_else(|_| String::new(), |text| text.to_string())
    }

    /// Returns the text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    /// Returns whether both are the same object in memory.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Str(a), Self::Str(b)) => a.is_same(b),
            (Self::List(a), Self::List(b)) | (Self::Tuple(a), Self::Tuple(b)) => Rc::ptr_eq(a, b),
            (Self::Dict(a), Self::Dict(b)) => Rc::ptr_eq(a, b),
            (Self::None, Self::None) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            _ => false,
        }
    }

    pub(crate) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Str(text) => !text.is_empty(),
            Self::List(items) | Self::Tuple(items) => !items.is_empty(),
            Self::Lazy(lazy) => lazy.view.is_none() || !lazy.items.is_empty(),
            Self::Dict(dict) => dict.len() > 0,
            Self::Object(Object::Loop(state)) => !state.items.is_empty(),
            Self::Object(_) => true,
        }
    }

    /// Returns the name of the type as Python's errors print it.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Lazy(lazy) => lazy.view.unwrap_or("generator"),
            Self::Dict(_) => "dict",
            Self::Object(Object::Function(_)) => "function",
            Self::Object(Object::Method(_)) => "builtin_function_or_method",
            Self::Object(Object::Namespace(_)) => "Namespace",
            Self::Object(Object::Loop(_)) => "LoopContext",
            Self::Object(Object::Macro(_)) => "Macro",
            Self::Object(Object::Cycler(_)) => "Cycler",
            Self::Object(Object::Joiner(_)) => "Joiner",
        }
    }

    /// Returns a number; booleans are 0 and 1.
    pub(crate) fn number(&self) -> Option<Number> {
        match self {
            Self::Bool(value) => Some(Number::Int(i128::from(*value))),
            Self::Int(number) => Some(Number::Int(*number)),
            Self::Float(number) => Some(Number::Float(*number)),
            _ => None,
        }
    }

    /// Returns whether the value holds others.
    pub(crate) fn is_nested(&self) -> bool {
        !matches!(
            self,
            Self::Undefined(_) | Self::None | Self::Bool(_) | Self::Int(_) | Self::Float(_) | Self::Str(_)
        )
    }

    /// Returns the address of a container, by which it is recognized.
    pub(crate) fn address(&self) -> Option<usize> {
        match self {
            Self::List(items) | Self::Tuple(items) => Some(Rc::as_ptr(items) as usize),
            Self::Dict(dict) => Some(Rc::as_ptr(dict) as usize),
            _ => None,
        }
    }

    /// Returns the bytes of a value of the input, whose nesting JSON limits.
    pub(crate) fn size(&self) -> usize {
        let inner: usize = match self {
            Self::Undefined(text) | Self::Str(text) => text.len() + OVERHEAD_BYTES,
            Self::List(items) | Self::Tuple(items) => items.iter().map(Self::size).sum(),
            Self::Dict(dict) => dict.items().iter().map(|item| item.key.size() + item.value.size()).sum(),
            _ => 0,
        };
        inner + VALUE_BYTES
    }
}

/// A number.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    pub(crate) fn float(self) -> f64 {
        match self {
            Self::Int(number) => number as f64,
            Self::Float(number) => number,
        }
    }

    pub(crate) fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (a, b) => a.float().partial_cmp(&b.float()),
        }
    }
}
