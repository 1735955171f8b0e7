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
mod hex;
mod listing;
mod oid;
mod settings;
mod watch;

pub use client::{AttemptError, Client, Progress, Refusal, Request, Response, quoted, without_query};
pub use error::Error;
pub use hex::{hex, is_hex};
pub use listing::{Entry, resolve, tree};
pub use oid::git_oid;
pub use settings::Settings;
pub use watch::{Unwatched, Watch};
