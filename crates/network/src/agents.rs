//! HTTP clients that follow the settings of the network.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use ureq::Agent;

use crate::authorities::tls;
use crate::error::Error;
use crate::proxies::Proxies;

/// Slowest connection that does not time out while a body is sent.
const SLOWEST_BYTES_PER_SECOND: u64 = 16 << 10;

/// When a request times out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeout {
    /// After this time without data.
    Silence(Duration),
    /// After this time in total, including the response.
    Whole(Duration),
}

/// HTTP clients, created on first use. They do not follow redirects, and no HTTP status is an error.
#[derive(Debug)]
pub struct Agents {
    proxies: Proxies,
    timeout: Timeout,
    /// By proxy, so that requests through the same proxy share connections.
    made: Mutex<BTreeMap<Option<String>, Agent>>,
}

impl Agents {
    /// Takes the settings, without connecting.
    pub fn new(proxies: Proxies, timeout: Timeout) -> Self {
        Self { proxies, timeout, made: Mutex::default() }
    }

    /// Returns the client for an address.
    ///
    /// # Errors
    ///
    /// Fails when the environment names a proxy for the address that cannot be used.
    pub fn agent(&self, url: &str) -> Result<Agent, Error> {
        let proxy = self.proxies.of(url)?;
        let key = proxy.as_ref().map(|proxy| proxy.uri().to_string());
        let mut made = self.made.lock().expect("no thread panics while it holds the lock");
        let agent = made.entry(key).or_insert_with(|| {
            let config = Agent::config_builder()
                .proxy(proxy)
                .tls_config(tls())
                .http_status_as_error(false)
                .max_redirects(0)
                .user_agent(concat!("ashlar/", env!("CARGO_PKG_VERSION")));
            let config = match self.timeout {
                Timeout::Silence(silence) => config
                    .timeout_connect(Some(silence))
                    .timeout_recv_response(Some(silence))
                    .timeout_per_read(Some(silence)),
                Timeout::Whole(whole) => config.timeout_global(Some(whole)),
            };
            config.build().new_agent()
        });
        Ok(agent.clone())
    }
}

/// Returns the longest time for sending a body of `bytes` bytes, where `silence` is the longest time without data.
pub fn send_timeout(silence: Duration, bytes: u64) -> Duration {
    silence + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
}
