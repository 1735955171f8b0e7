//! How every connection is made: certificate authorities, proxies, timeouts, and which addresses need encryption.
//!
//! Requests, retries and credentials are left to the callers: `hub` for the Hugging Face hub, `artifacts` for S3, `evaluate` for
//! endpoints.
//!
//! ```
//! use network::{Agents, Proxies, Timeout};
//!
//! let proxies = Proxies::from_variables(&|name| (name == "ALL_PROXY").then(|| "socks5://proxy:1080".to_owned()));
//! let agents = Agents::new(proxies, Timeout::Whole(std::time::Duration::from_secs(60)));
//! let error = agents.agent("https://example.com").unwrap_err().to_string();
//! assert_eq!(error, "`ALL_PROXY` names a `socks5` proxy, and only HTTP proxies are supported");
//! assert!(agents.agent("http://localhost:8080").is_ok());
//! ```

mod address;
mod agents;
mod authorities;
mod error;
mod proxies;
mod steady;

pub use address::{is_exposed, is_local};
pub use agents::{Agents, Timeout, send_timeout};
pub use authorities::{CERTIFICATE_HINT, distrust};
pub use error::Error;
pub use proxies::Proxies;
pub use steady::{Steady, least_bytes};
