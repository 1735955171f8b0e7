//! Rendering: values, what can be done with them, and the machine that runs a syntax tree.

mod arguments;
mod budget;
mod comparison;
mod containers;
mod dict;
mod evaluate;
mod filters;
mod format;
mod functions;
mod json;
mod machine;
mod memory;
mod numerals;
mod operators;
mod output;
mod print;
mod scope;
mod sequences;
mod strings;
mod tests_of_values;
mod value;

pub use machine::Template;
pub use output::{Notation, Output, Printed, Span, Watch};
pub use value::Value;
