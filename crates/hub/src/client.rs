//! Requests: tokens, redirects, retries, and what the hub's refusals mean.

use std::cell::Cell;
use std::io::Read;
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::http::Uri;

use super::Settings;
use crate::Watch;
use crate::error::Error;

const MAX_REDIRECTS: usize = 10;
/// Attempts to reach a hub that has never answered: most likely there is no network.
const FIRST_ATTEMPTS: u32 = 3;
/// The longest pause, whatever the hub asks for.
const LONGEST_PAUSE: Duration = Duration::from_mins(2);

/// A connection to the hub with its settings.
pub(super) struct Client<'a> {
    agent: Agent,
    pub(super) settings: &'a Settings,
    pub(super) watch: &'a dyn Watch,
    /// Whether anything ever answered.
    answered: Cell<bool>,
}

/// Why one attempt failed.
pub(super) enum Failure {
    /// Another attempt may succeed, after a pause if the hub asks for one.
    Again { problem: String, pause: Option<Duration> },
    /// No attempt will.
    Final(Error),
}

impl Failure {
    pub(super) fn again(problem: String) -> Self {
        Self::Again { problem, pause: None }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Final(error.into())
    }
}

/// A response, and the headers of the hub's own answer that led to it.
pub(super) struct Response {
    last: ureq::http::Response<ureq::Body>,
    /// SHA-256 that the hub gave on the way, in `X-Linked-Etag`.
    pub(super) linked_sha256: Option<String>,
}

impl Response {
    pub(super) fn status(&self) -> u16 {
        self.last.status().as_u16()
    }

    pub(super) fn header(&self, name: &str) -> Option<String> {
        header(&self.last, name)
    }

    pub(super) fn reader(self) -> impl Read {
        self.last.into_body().into_reader()
    }

    /// Reads a small body.
    pub(super) fn read_to_end(&mut self, limit: u64) -> Result<Vec<u8>, Failure> {
        let body = self.last.body_mut().with_config().limit(limit).read_to_vec();
        body.map_err(|error| Failure::again(format!("the answer broke off: {error}")))
    }
}

fn header(response: &ureq::http::Response<ureq::Body>, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(String::from)
}

impl<'a> Client<'a> {
    pub(super) fn new(settings: &'a Settings, watch: &'a dyn Watch) -> Self {
        let config = Agent::config_builder()
            .proxy(if is_local(&settings.endpoint) { None } else { ureq::Proxy::try_from_env() })
            .http_status_as_error(false)
            .max_redirects(0) // followed here, where the token can be kept back
            .timeout_connect(Some(settings.silence))
            .timeout_recv_response(Some(settings.silence))
            .timeout_per_read(Some(settings.silence))
            .user_agent(concat!("ashlar-import-model/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.new_agent(), settings, watch, answered: Cell::new(false) }
    }

    /// Returns the address of `path` on the hub.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.settings.endpoint)
    }

    /// Returns `target` as an absolute address, as seen from `base`.
    pub(super) fn absolute(base: &str, target: &str) -> String {
        let origin = origin(base).unwrap_or_default();
        if target.starts_with("http://") || target.starts_with("https://") {
            target.into()
        } else if let Some(rest) = target.strip_prefix("//") {
            format!("{}://{rest}", base.split(':').next().unwrap_or("https"))
        } else if target.starts_with('/') {
            format!("{origin}{target}")
        } else {
            let path = base.split('?').next().unwrap_or(base);
            let folder = path.rsplit_once('/').map_or(path, |(folder, _)| folder);
            format!("{folder}/{target}")
        }
    }

    /// Sends one GET, from byte `start` on, and follows redirects; the token goes to the hub's own origin only.
    pub(super) fn get(&self, url: &str, start: u64) -> Result<Response, Failure> {
        let mut url = url.to_owned();
        let mut linked_sha256 = None;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(&url).header("accept-encoding", "identity");
            if start > 0 {
                request = request.header("range", format!("bytes={start}-"));
            }
            if let Some(token) = self.settings.token.as_ref().filter(|_| self.is_hub(&url)) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| broken(&url, &error))?;
            self.answered.set(true);
            linked_sha256 = linked_sha256.or_else(|| {
                let tag = header(&response, "x-linked-etag")?.trim_matches('"').to_owned();
                crate::files::is_hex(&tag, 64).then_some(tag)
            });
            match (response.status().as_u16(), header(&response, "location")) {
                (301 | 302 | 303 | 307 | 308, Some(target)) => {
                    let next = Self::absolute(&url, &target);
                    if url.starts_with("https://") && !next.starts_with("https://") {
                        return Err(refused(&url, "redirects to an address without encryption").into());
                    }
                    url = next;
                }
                (200 | 206 | 416, _) => return Ok(Response { last: response, linked_sha256 }),
                (status, _) => return Err(self.status(&url, status, &response)),
            }
        }
        Err(refused(&url, "redirects without end").into())
    }

    /// Runs `attempt` until it succeeds, fails for good, or fails too often in a row.
    ///
    /// `attempt` is told how many attempts went before it; [`Progress`] resets the count.
    pub(super) fn retrying<T>(
        &self,
        url: &str,
        mut attempt: impl FnMut(&mut Progress) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let mut failures = 0;
        loop {
            let mut progress = Progress(false);
            let (problem, pause) = match attempt(&mut progress) {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { problem, pause }) => (problem, pause),
            };
            failures = if progress.0 { 1 } else { failures + 1 };
            let attempts = self.settings.attempts;
            if failures >= if self.answered.get() { attempts } else { attempts.min(FIRST_ATTEMPTS) } {
                let problem =
                    format!("{problem} (`{}`, attempt {failures} of {failures})", without_query(url));
                return Err(Error::Unreachable { id: self.repository(url), problem });
            }
            let backoff = self.settings.first_pause.saturating_mul(1 << (failures - 1).min(10));
            let pause = pause.unwrap_or(backoff).min(LONGEST_PAUSE);
            tracing::warn!("{problem}; trying again in {:.1} s", pause.as_secs_f32());
            self.sleep(pause)?;
        }
    }

    fn sleep(&self, pause: Duration) -> Result<(), Error> {
        let end = Instant::now() + pause;
        loop {
            if self.watch.stop() {
                return Err(Error::Interrupted);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }

    /// Returns whether `url` is on the hub itself: same scheme, host and port.
    fn is_hub(&self, url: &str) -> bool {
        origin(url).is_some() && origin(url) == origin(&self.settings.endpoint)
    }

    /// The repository that an address of the hub is about, for messages.
    fn repository(&self, url: &str) -> String {
        let path = url.strip_prefix(&self.settings.endpoint).unwrap_or(url).trim_start_matches('/');
        let path = path.trim_start_matches("api/models/");
        let end = ["/revision/", "/tree/", "/resolve/"].iter().find_map(|mark| path.find(mark));
        path[..end.unwrap_or(path.len())].into()
    }

    /// Explains an unhappy status.
    fn status(&self, url: &str, status: u16, response: &ureq::http::Response<ureq::Body>) -> Failure {
        let seconds = header(response, "retry-after").and_then(|text| text.trim().parse().ok());
        let pause = seconds.map(Duration::from_secs);
        let code = header(response, "x-error-code").unwrap_or_default();
        let id = self.repository(url);
        let endpoint = &self.settings.endpoint;
        let token = format!(
            "accept the licence on `{endpoint}/{id}`, make a read token on `{endpoint}/settings/tokens` and set \
             `HF_TOKEN`; or give a folder with `MODEL_DIR=` or `--model-dir`"
        );
        let (problem, hint) = match (status, code.as_str()) {
            (408 | 425 | 429 | 500..=599, _) => {
                return Failure::Again { problem: format!("the hub answers {status}"), pause };
            }
            // Addresses of the storage expire; the next attempt gets a fresh one from the hub.
            (400..=499, _) if !self.is_hub(url) => {
                return Failure::again(format!("`{}` answers {status}", without_query(url)));
            }
            (401 | 403, "GatedRepo") => {
                (format!("`{id}` is gated, and the hub refused access ({status})"), token)
            }
            (401, _) => {
                let known = if self.settings.token.is_some() {
                    "the token in `HF_TOKEN` is not good for it"
                } else {
                    "no token is set"
                };
                (
                    format!("`{id}` does not exist, is private or is gated ({status}; {known})"),
                    format!("check the name; if it is right, {token}"),
                )
            }
            (403, _) => (format!("`{id}`: the hub refused access (403)"), token),
            (404, "RevisionNotFound") => (
                format!("`{id}` has no such revision ({})", without_query(url)),
                "check `revision`; `main` is the usual branch".into(),
            ),
            (404, "EntryNotFound") => (
                format!("`{}` does not exist", without_query(url)),
                "the repository changed; run again".into(),
            ),
            (404, _) => (
                format!("`{id}` does not exist on `{endpoint}`"),
                "check `id`: it is `ORG/NAME`, case counts".into(),
            ),
            _ => (format!("`{}` answers {status}", without_query(url)), CHECK_ENDPOINT.into()),
        };
        Failure::Final(Error::Hub { problem, hint })
    }
}

fn broken(url: &str, error: &ureq::Error) -> Failure {
    match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::RequireHttpsOnly(_) => {
            refused(url, &format!("gives an address that cannot be used: {error}")).into()
        }
        _ => Failure::again(format!("no connection: {error}")),
    }
}

fn refused(url: &str, what: &str) -> Error {
    Error::Hub { problem: format!("`{}` {what}", without_query(url)), hint: CHECK_ENDPOINT.into() }
}

const CHECK_ENDPOINT: &str = "check `HF_ENDPOINT`, and what stands between this machine and the hub";

/// What an attempt tells the loop around it.
pub(super) struct Progress(bool);

impl Progress {
    /// Says that this attempt brought something, so that the count of failures starts again.
    pub(super) fn made(&mut self) {
        self.0 = true;
    }
}

/// Whether a hub runs on this machine, where no proxy leads.
fn is_local(endpoint: &str) -> bool {
    let host = endpoint.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    matches!(host.as_str(), "localhost" | "127.0.0.1" | "[::1]")
}

/// Scheme, host and port.
fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?;
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some(format!("{scheme}://{}:{port}", uri.host()?.to_ascii_lowercase()))
}

/// An address without its query, which can hold a signature.
pub(super) fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

/// Percent-encodes a path component.
pub(super) fn quoted(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::{Client, is_local, origin, quoted};

    #[test]
    fn redirects_are_resolved_against_where_they_came_from() {
        let base = "https://hub.org/a/b?x=1";
        for (target, absolute) in [
            ("https://cdn.org/f?s=/", "https://cdn.org/f?s=/"),
            ("//cdn.org/f", "https://cdn.org/f"),
            ("/api/c", "https://hub.org:443/api/c"),
            ("c", "https://hub.org/a/c"),
        ] {
            assert_eq!(Client::absolute(base, target), absolute);
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("https://Hub.org/a"), origin("https://hub.org:443/b?c"));
        for other in [
            "http://hub.org/a",
            "https://hub.org:8443/a",
            "https://hub.org.evil.org/a",
            "https://hub.org@evil.org/a",
        ] {
            assert_ne!(origin("https://hub.org/a"), origin(other), "{other}");
        }
        assert!(is_local("http://127.0.0.1:80") && !is_local("https://huggingface.co"));
    }

    #[test]
    fn branches_with_slashes_are_quoted() {
        assert_eq!(quoted("refs/pr/1"), "refs%2Fpr%2F1");
    }
}
