//! Pushes a fused model and its card to a repository of the Hugging Face hub.
//!
//! What goes up is the output `model/` of an artifact, every byte of which was checked before; nothing else is taken.
//! The hub is asked first what it has: a file that is there with the same hash is not sent again, and when all are
//! there nothing happens. So an upload that broke off goes on with what is missing, and one that is done is done.
//! All files appear in one commit, large ones having travelled before it.

mod error;
mod files;
mod objects;
mod push;
mod refusal;

pub use error::Error;
pub use files::{LocalFile, local_files};
pub use push::{Outcome, Target, push};
