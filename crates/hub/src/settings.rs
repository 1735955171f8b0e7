//! Settings from the environment variables of the hub's own tools.

use std::path::{Path, PathBuf};
use std::time::Duration;

use network::Proxies;

use crate::error::Error;

/// Longest file with an access token, in bytes.
const MAX_TOKEN_BYTES: u64 = 1 << 16;

/// How to reach the hub.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address of the hub, without a trailing slash (`HF_ENDPOINT`).
    pub endpoint: String,
    /// Access token (`HF_TOKEN`, or the file that `hf auth login` writes); sent to the endpoint only.
    pub token: Option<String>,
    /// Never use the network (`HF_HUB_OFFLINE`).
    pub offline: bool,
    /// Folder of the local cache (`HF_HUB_CACHE`, or `hub` in `HF_HOME`).
    pub cache: Option<PathBuf>,
    /// Number of attempts in a row without a new byte before giving up.
    pub attempts: u32,
    /// Pause after the first failed attempt; doubles after each further one.
    pub first_pause: Duration,
    /// Longest time without data before a connection times out.
    pub silence: Duration,
    /// Proxies between this machine and the hub (`HTTPS_PROXY`, `NO_PROXY`).
    pub proxies: Proxies,
}

impl Settings {
    /// Reads the settings from the environment.
    ///
    /// # Errors
    ///
    /// Fails when `HF_ENDPOINT` is not an HTTP address.
    pub fn from_env() -> Result<Self, Error> {
        Self::from(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// Reads the settings from variables that `variable` looks up.
    ///
    /// # Errors
    ///
    /// As [`Settings::from_env`].
    pub fn from(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let folder = |name: &str| {
            let text = variable(name)?;
            let below_home =
                text.strip_prefix("~/").and_then(|rest| Some(Path::new(&variable("HOME")?).join(rest)));
            Some(below_home.unwrap_or_else(|| PathBuf::from(text)))
        };
        let home = folder("HF_HOME")
            .or_else(|| folder("XDG_CACHE_HOME").map(|dir| dir.join("huggingface")))
            .or_else(|| folder("HOME").map(|dir| dir.join(".cache/huggingface")));
        let cache = folder("HF_HUB_CACHE")
            .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| home.as_ref().map(|dir| dir.join("hub")));
        let token_file = folder("HF_TOKEN_PATH").or_else(|| home.map(|dir| dir.join("token")));
        let token = variable("HF_TOKEN").or_else(|| files::read_text(&token_file?, MAX_TOKEN_BYTES).ok());
        let truthy =
            |value: String| matches!(value.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true");
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Error::Settings {
                reason: format!("`HF_ENDPOINT` is `{endpoint}`, which is not an HTTP address"),
                hint: "set it to an address such as `https://huggingface.co`, or unset it".into(),
            });
        }
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').into(),
            token: token.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()),
            offline: variable("HF_HUB_OFFLINE").is_some_and(truthy),
            cache,
            attempts: 6,
            first_pause: Duration::from_secs(1),
            silence: Duration::from_secs(30),
            proxies: Proxies::from_variables(&variable),
        })
    }
}
