//! The environment variables that the hub's own tools read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;

/// How the hub is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address of the hub, without a slash at the end (`HF_ENDPOINT`).
    pub endpoint: String,
    /// Access token (`HF_TOKEN`, or the file that `hf auth login` writes); goes to the endpoint only.
    pub token: Option<String>,
    /// Never use the network (`HF_HUB_OFFLINE`).
    pub offline: bool,
    /// Folder of the local cache (`HF_HUB_CACHE`, or `hub` in `HF_HOME`).
    pub cache: Option<PathBuf>,
    /// Attempts in a row without a new byte before giving up.
    pub attempts: u32,
    /// Pause after the first failed attempt; doubles with every further one.
    pub first_pause: Duration,
    /// How long a connection may stay silent.
    pub silence: Duration,
}

impl Settings {
    /// Reads the environment variables that the hub's own tools read.
    ///
    /// # Errors
    ///
    /// Fails when `HF_ENDPOINT` is not an http address.
    pub fn from_env() -> Result<Self, Error> {
        Self::from(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// As [`Settings::from_env`], with another way to look up variables.
    ///
    /// # Errors
    ///
    /// Fails when `HF_ENDPOINT` is not an http address.
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
        let token = variable("HF_TOKEN").or_else(|| fs_err::read_to_string(token_file?).ok());
        let truthy =
            |value: String| matches!(value.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true");
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Error::Settings {
                problem: format!("`HF_ENDPOINT` is `{endpoint}`, which is not an address"),
                hint: "set it to something like `https://huggingface.co`, or unset it".into(),
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
        })
    }
}
