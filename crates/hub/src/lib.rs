//! Requests to the Hugging Face hub, shared by the programs that download from it and upload to it.
//!
//! Handles the access token and where it may be sent, redirects, retries, timeouts, and the file list of a repository.
//! Files are left to the callers: `import-model` downloads, `upload` uploads.
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

pub use client::{AttemptError, Client, Progress, Refusal, Request, Response, quoted, without_query};
pub use error::Error;
pub use listing::{Entry, resolve, tree};
pub use settings::Settings;

/// Receives the progress of a transfer and can stop it.
pub trait Watch {
    /// Returns the signal that asked the program to stop, if any.
    fn stop(&self) -> Option<i32> {
        None
    }
    /// Called before the file `name` is transferred; `already` of its `total` bytes are present.
    fn begin(&self, name: &str, total: Option<u64>, already: u64) {
        let _ = (name, total, already);
    }
    /// Called after another `bytes` bytes were transferred.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }
    /// Called when the transfer of the file has ended, successful or not.
    fn end(&self) {}
}

/// Shows nothing and never stops.
pub struct Unwatched;

impl Watch for Unwatched {}

/// Returns whether `text` consists of `digits` lower-case hex digits.
pub fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
