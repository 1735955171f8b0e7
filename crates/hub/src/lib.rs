//! Requests to the Hugging Face hub, for all that read from it or write to it.
//!
//! Here are the token and where it may go, redirects, retries, silence, and the listing of a repository. What is done
//! with files is the stages': `import-model` downloads, `upload` uploads.
//!
//! ```
//! use hub::Settings;
//!
//! let settings = Settings::from(|name| (name == "HF_ENDPOINT").then(|| "http://127.0.0.1:8080/".into()))?;
//! assert_eq!(settings.endpoint, "http://127.0.0.1:8080");
//! # Ok::<(), hub::Error>(())
//! ```

mod client;
mod error;
mod listing;
mod settings;

pub use client::{Client, Failure, Progress, Refusal, Request, Response, quoted, without_query};
pub use error::Error;
pub use listing::{Entry, resolve, tree};
pub use settings::Settings;

/// What a caller wants to know, and to say, while files travel.
pub trait Watch {
    /// Returns whether to stop soon.
    fn stop(&self) -> bool {
        false
    }
    /// A file called `name` begins to travel; `already` of its `total` bytes are there.
    fn begin(&self, name: &str, total: Option<u64>, already: u64) {
        let _ = (name, total, already);
    }
    /// So many more bytes have arrived.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }
    /// The file is there, or it failed.
    fn end(&self) {}
}

/// Watches nothing.
pub struct Unwatched;

impl Watch for Unwatched {}

/// Returns whether `text` is `digits` lower-case hex digits.
pub fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
