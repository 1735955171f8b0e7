//! Values of templates, with Python's notions of truth, equality and order.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::rc::Rc;

use crate::error::{Error, Result};
use crate::runtime::arguments::Arguments;
use crate::runtime::json::tojson;
use crate::runtime::machine::{Loop, Macro};

/// A value of a template.
///
/// Lists, dicts and strings are shared, and a [`Watch`](crate::Watch) recognizes them by their identity.
#[derive(Clone, Debug)]
pub enum Value {
    /// No value at all; the text says what is missing.
    Undefined(Rc<str>),
    /// Python's `None`.
    None,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i128),
    /// A float.
    Float(f64),
    /// A string.
    Str(Rc<str>),
    /// A list.
    List(Rc<Vec<Value>>),
    /// A tuple.
    Tuple(Rc<Vec<Value>>),
    /// Values that Python would make one at a time: a generator or a view of a dict.
    Lazy(Rc<Lazy>),
    /// A dict.
    Dict(Rc<Dict>),
    /// Anything else.
    Object(Object),
}

/// Values made one at a time.
#[derive(Clone, Debug)]
pub struct Lazy {
    /// The values.
    pub(crate) items: Vec<Value>,
    /// Name of the type if the values are a view of a dict, which has a length.
    pub(crate) view: Option<&'static str>,
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
    pub(crate) items: Vec<Value>,
    pub(crate) at: RefCell<usize>,
}

/// State of a `joiner()`.
#[derive(Debug)]
pub struct Joiner {
    pub(crate) separator: Rc<str>,
    pub(crate) used: RefCell<bool>,
}

/// A dict in the order of insertion.
#[derive(Clone, Debug, Default)]
pub struct Dict {
    entries: Vec<Item>,
}

/// An entry of a dict.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) key: Value,
    pub(crate) value: Value,
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
        self.entries.push(Item { key, value });
    }

    pub(crate) fn insert(&mut self, key: Value, value: Value) {
        match self.entries.iter_mut().find(|item| item.key == key) {
            Some(item) => item.value = value,
            None => self.push(key, value),
        }
    }

    pub(crate) fn get(&self, key: &Value) -> Option<&Value> {
        match key {
            Value::Str(name) => self.named(name),
            _ => self.entries.iter().find(|item| item.key == *key).map(|item| &item.value),
        }
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Value> {
        let is_named = |item: &&Item| matches!(&item.key, Value::Str(key) if **key == *name);
        self.entries.iter().find(is_named).map(|item| &item.value)
    }

    pub(crate) fn keys(&self) -> Vec<Value> {
        self.entries.iter().map(|item| item.key.clone()).collect()
    }
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
        Self::List(Rc::new(items))
    }

    pub(crate) fn tuple(items: Vec<Self>) -> Self {
        Self::Tuple(Rc::new(items))
    }

    pub(crate) fn generator(items: Vec<Self>) -> Self {
        Self::Lazy(Rc::new(Lazy { items, view: None }))
    }

    pub(crate) fn view(name: &'static str, items: Vec<Self>) -> Self {
        Self::Lazy(Rc::new(Lazy { items, view: Some(name) }))
    }

    pub(crate) fn undefined(what: impl AsRef<str>) -> Self {
        Self::Undefined(what.as_ref().into())
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
            Self::Dict(dict) => dict.named(name),
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
        tojson(self, Arguments::default()).unwrap_or_default()
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
            (Self::Str(a), Self::Str(b)) => Rc::ptr_eq(a, b),
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

    /// Returns the values that a loop visits.
    pub(crate) fn iterate(&self) -> Result<Vec<Self>> {
        match self {
            Self::Undefined(_) => Ok(Vec::new()),
            Self::Str(text) => {
                let mut buffer = [0; 4];
                Ok(text.chars().map(|letter| Self::from(&*letter.encode_utf8(&mut buffer))).collect())
            }
            Self::List(items) | Self::Tuple(items) => Ok(items.to_vec()),
            Self::Lazy(lazy) => Ok(lazy.items.clone()),
            Self::Dict(dict) => Ok(dict.keys()),
            Self::Object(Object::Loop(state)) => Ok(state.items.clone()),
            other => Err(Error::of_type(format!("'{}' object is not iterable", other.type_name()))),
        }
    }

    /// Returns what Python's `len` returns.
    pub(crate) fn length(&self) -> Result<usize> {
        match self {
            Self::Undefined(_) => Ok(0),
            Self::Str(text) => Ok(text.chars().count()),
            Self::List(items) | Self::Tuple(items) => Ok(items.len()),
            Self::Lazy(lazy) if lazy.view.is_some() => Ok(lazy.items.len()),
            Self::Dict(dict) => Ok(dict.len()),
            Self::Object(Object::Loop(state)) => Ok(state.items.len()),
            other => Err(Error::of_type(format!("object of type '{}' has no len()", other.type_name()))),
        }
    }

    /// Compares as Python's `<` does.
    pub(crate) fn compare(&self, other: &Self, operator: &str) -> Result<Option<Ordering>> {
        if let (Some(a), Some(b)) = (self.number(), other.number()) {
            return Ok(a.compare(b));
        }
        match (self, other) {
            (Self::Str(a), Self::Str(b)) => Ok(Some(a.cmp(b))),
            (Self::List(a), Self::List(b)) | (Self::Tuple(a), Self::Tuple(b)) => {
                for (a, b) in a.iter().zip(b.iter()) {
                    if a != b {
                        return a.compare(b, operator);
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
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        if let (Some(a), Some(b)) = (self.number(), other.number()) {
            return a.compare(b) == Some(Ordering::Equal);
        }
        match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => true,
            (Self::Str(a), Self::Str(b)) => a == b,
            (Self::List(a), Self::List(b)) | (Self::Tuple(a), Self::Tuple(b)) => a == b,
            (Self::Lazy(a), Self::Lazy(b)) => a.view.is_some() && b.view.is_some() && a.items == b.items,
            (Self::Dict(a), Self::Dict(b)) => {
                a.len() == b.len() && a.items().iter().all(|item| b.get(&item.key) == Some(&item.value))
            }
            (Self::Object(Object::Namespace(a)), Self::Object(Object::Namespace(b))) => Rc::ptr_eq(a, b),
            _ => false,
        }
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

    fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (a, b) => a.float().partial_cmp(&b.float()),
        }
    }
}
