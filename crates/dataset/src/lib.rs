//! Training data: from data files to the tokens that a model trains on.
//!
//! - [`RowReader`] reads rows of JSON lines, CSV or TSV, and [`Record`] gives them a meaning.
//! - [`split`] assigns rows to splits, and [`order`] shuffles them reproducibly.
//! - [`ChatTemplate`] renders conversations as transformers does; [`encode()`] tokenizes them and marks the targets.
//! - [`SplitWriter`] writes token files, and [`Split`] maps them into memory.
//! - [`leak`] finds validation and test rows that occur in training.
//!
//! Results depend only on the input: not on the clock, the number of threads or the order of a hash map.
//!
//! The stage `prepare-data` owns the settings and the order of the work; training owns batching. This crate does not use
//! MLX.
//!
//! ```
//! # fn main() -> dataset::Result<()> {
//! use dataset::{Record, RowReader, Shape};
//! # let folder = tempfile::tempdir()?;
//! let path = folder.path().join("pairs");
//! fs_err::write(&path, "prompt\tcompletion\naloha\thello\n")?;
//! let mut rows = RowReader::open(&path)?;
//! let row = rows.next_row()?.expect("the file has a row").expect("the row is well formed");
//! let record = Record::from_row(row, &path).expect("the row has a known shape");
//! assert_eq!(record.shape, Shape::Completion { prompt: "aloha".into(), completion: "hello".into() });
//! assert_eq!(record.source, "pairs:2");
//! # Ok(())
//! # }
//! ```

mod chat;
mod delimited;
mod delimiter;
mod encode;
mod error;
mod foreign;
mod hash;
mod hostile;
mod json;
mod layouts;
mod lines;
mod message;
mod mixture;
mod names;
mod record;
mod row;
mod rows;
mod shell;
mod source;
mod special;
mod template;
mod tokenizer;
mod tokens;
mod turns;
mod values;

pub mod leak;
pub mod order;
pub mod split;
pub mod text;

pub use encode::{EncodeSettings, Encoded, LossOn, OnRewrittenTurn, OnTooLong, TurnEnd, TurnNotes, encode};
pub use error::{Error, Place, Result, RowProblem};
pub use foreign::needs_conversion;
pub use hostile::open_tokenizer;
pub use jinja::Date;
pub use lines::MAX_ROW_BYTES;
pub use message::{as_messages, is_assistant};
pub use mixture::{MixtureComponent, MixtureComponents};
pub use names::Names;
pub use record::{AUTHORITIES, Record, Shape, is_entropy};
pub use row::RawRow;
pub use rows::{RowWriter, StoredRow, check_rows, read_rows};
pub use shell::quoted;
pub use source::RowReader;
pub use special::{ControlTokens, OnSpecial};
pub use template::{ChatTemplate, Conversation, Rendered};
pub use tokenizer::{
    TemplateSettings, TextTokenizer, Tokens, chat_templates, check_templates, tokenizer_files,
};
pub use tokens::{Row, Split, SplitWriter, is_target};
