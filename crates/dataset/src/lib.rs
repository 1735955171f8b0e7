//! Training data: from files that people have to tokens that a model trains on.
//!
//! This crate reads rows of any known format ([`source`], [`record`]), puts them into splits ([`split`]) in pinned
//! orders ([`order`]), finds validation and test rows that leak into training ([`leak`]), renders chats as
//! transformers does ([`ChatTemplate`]), marks which tokens count ([`encode()`]), and writes and maps token files
//! ([`SplitWriter`], [`Split`]). Every result depends only on the input: not on the clock, the thread count or a
//! hash map's order.
//!
//! It leaves settings and the order of the work to the stage `prepare-data`, and batching to training; it knows
//! nothing of MLX.
//!
//! ```
//! # fn main() -> dataset::Result<()> {
//! use dataset::{Record, RowReader, Shape};
//! # let folder = tempfile::tempdir()?;
//! let path = folder.path().join("pairs");
//! fs_err::write(&path, "prompt\tcompletion\naloha\thello\n")?;
//! let mut rows = RowReader::open(&path)?;
//! let row = rows.next_row()?.expect("there is a row").expect("it is well formed");
//! let record = Record::from_row(row, &path).expect("it has a known shape");
//! assert_eq!(record.shape, Shape::Completion { prompt: "aloha".into(), completion: "hello".into() });
//! assert_eq!(record.source, "pairs:2");
//! # Ok(())
//! # }
//! ```

mod delimited;
mod encode;
mod error;
mod generation;
mod hash;
mod json;
mod lines;
mod mixture;
mod names;
mod python;
mod record;
mod row;
mod rows;
mod source;
mod spans;
mod template;
mod tokenizer;
mod tokens;

pub mod leak;
pub mod order;
pub mod split;
pub mod text;

pub use encode::{Encoded, LossOn, OnTooLong, as_messages, encode};
pub use error::{Error, Place, Result, RowProblem};
pub use lines::MAX_ROW_BYTES;
pub use mixture::{MixtureComponent, MixtureComponents};
pub use names::Names;
pub use python::Date;
pub use record::{Record, Shape};
pub use row::RawRow;
pub use rows::{RowWriter, StoredRow, read_rows};
pub use source::RowReader;
pub use template::{ChatTemplate, Conversation, Rendered};
pub use tokenizer::{TextTokenizer, Tokens};
pub use tokens::{Row, Split, SplitWriter};
