//! Helpers that only tests use: a model hub on localhost, damaged weight files, golden folders.
//!
//! Nothing here is shipped, and nothing here judges: helpers build input and show what happened, tests say what
//! is right.
//!
//! ```
//! use testutil::hub::{HubServer, Repo};
//!
//! let hub = HubServer::start(vec![Repo::new("org/tiny").file("config.json", b"{}")]);
//! assert!(hub.endpoint().starts_with("http://127.0.0.1:"));
//! assert!(hub.requests().is_empty());
//! ```

pub mod files;
pub mod hostile;
mod http;
pub mod hub;
