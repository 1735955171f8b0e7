//! Jinja templates, rendered as Jinja2 does with the settings of transformers' chat templates.
//!
//! The settings are `trim_blocks` and `lstrip_blocks`, loop controls, `generation` blocks, no escaping, and a sandbox in
//! which values cannot be changed. Values behave as in Python: a missing name is undefined, `None` has no length, `%`
//! formats, negative numbers have Python's remainder, and containers print as Python prints them.
//!
//! Besides the text, [`Output`] says which loop item wrote which part of it, and whether a watched value was printed in
//! the notation of Python or JSON. With that, callers find the turns of a conversation without guessing.
//!
//! Deliberate differences from Jinja2: rendering stops after an amount of work and memory that depends on the size of its
//! input alone, since templates come from strangers; `strftime_now` exists only if a date is given; integers have 128 bits; templates cannot include others.
//!
//! ```
//! # fn main() -> Result<(), jinja::Error> {
//! use jinja::{Template, Value, Watch};
//!
//! let template = Template::new("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")?;
//! let messages = Value::from(&serde_json::json!([{"role": "user", "content": "aloha"}]));
//! let watch = Watch { items: messages.items().to_vec(), ..Watch::default() };
//! let output = template.render(vec![("messages".into(), messages)], &watch, None)?;
//! assert_eq!(output.text, "user: aloha\n");
//! assert_eq!(output.spans[0].range, 0..12);
//! # Ok(())
//! # }
//! ```

mod date;
mod error;
mod runtime;
mod syntax;

pub use date::Date;
pub use error::{Error, ErrorKind, Result};
pub use runtime::{Notation, Output, Printed, Span, Template, Value, Watch};
