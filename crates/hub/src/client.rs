//! Requests: tokens, redirects, retries, and what the hub's refusals mean.

use std::cell::Cell;
use std::io::Read;
use std::time::{Duration, Instant};

use ureq::http::Uri;
use ureq::{Agent, SendBody};

use crate::{Error, Settings, Watch, is_hex};

const MAX_REDIRECTS: usize = 10;
/// Attempts to reach a hub that has never answered: most likely there is no network.
const FIRST_ATTEMPTS: u32 = 3;
/// The longest pause, whatever the hub asks for.
const LONGEST_PAUSE: Duration = Duration::from_mins(2);
/// No line is slower than this while a body is sent.
const SLOWEST_BYTES_PER_SECOND: u64 = 16 << 10;
/// What is read of an answer that only says why not.
const MAX_REASON: u64 = 1 << 16;

/// A connection to the hub with its settings.
pub struct Client<'a> {
    agent: Agent,
    settings: &'a Settings,
    watch: &'a dyn Watch,
    explain: fn(&Refusal<'_>) -> Error,
    /// Whether anything ever answered.
    answered: Cell<bool>,
}

/// Why one attempt failed.
#[derive(Debug)]
pub enum Failure<E = Error> {
    /// Another attempt may succeed, after a pause if the hub asks for one.
    Again {
        /// What went wrong.
        problem: String,
        /// How long to wait.
        pause: Option<Duration>,
    },
    /// No attempt will.
    Final(E),
}

impl<E> Failure<E> {
    /// Says that another attempt may succeed.
    pub fn again(problem: String) -> Self {
        Self::Again { problem, pause: None }
    }
}

impl<E> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Self::Final(error)
    }
}

/// A status that no further attempt will change.
#[derive(Debug)]
pub struct Refusal<'a> {
    /// What was asked for, with its query.
    pub url: &'a str,
    /// The repository that it is about.
    pub id: String,
    /// The number.
    pub status: u16,
    /// The hub's own code, such as `GatedRepo`; empty if it gave none.
    pub code: String,
    /// What the hub says in words; empty if it says nothing.
    pub message: String,
    /// The hub's address.
    pub endpoint: &'a str,
    /// Whether a token was at hand.
    pub has_token: bool,
}

/// A request that changes something.
pub struct Request<'a> {
    /// `POST` or `PUT`.
    pub method: &'static str,
    /// Where to.
    pub url: &'a str,
    /// Headers beside the token's.
    pub headers: &'a [(&'a str, &'a str)],
    /// What is sent.
    pub body: &'a mut dyn Read,
    /// How many bytes that is.
    pub bytes: u64,
    /// Whether the token is sent along; to the hub's own origin only, whatever stands here.
    pub with_token: bool,
}

/// A response, and the headers of the hub's own answer that led to it.
pub struct Response {
    last: ureq::http::Response<ureq::Body>,
    /// SHA-256 that the hub gave on the way, in `X-Linked-Etag`.
    pub linked_sha256: Option<String>,
}

impl Response {
    /// The number of the answer.
    pub fn status(&self) -> u16 {
        self.last.status().as_u16()
    }

    /// The text of a header.
    pub fn header(&self, name: &str) -> Option<String> {
        header(&self.last, name)
    }

    /// The body, as it arrives.
    pub fn reader(self) -> impl Read {
        self.last.into_body().into_reader()
    }

    /// Reads a small body.
    ///
    /// # Errors
    ///
    /// Fails, for now, when the connection breaks or more than `limit` bytes come.
    pub fn read_to_end<E>(&mut self, limit: u64) -> Result<Vec<u8>, Failure<E>> {
        let body = self.last.body_mut().with_config().limit(limit).read_to_vec();
        body.map_err(|error| Failure::again(format!("the answer broke off: {error}")))
    }
}

fn header(response: &ureq::http::Response<ureq::Body>, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(String::from)
}

impl<'a> Client<'a> {
    /// Makes a client; nothing is connected yet. `explain` turns a refusal into words.
    pub fn new(settings: &'a Settings, watch: &'a dyn Watch, explain: fn(&Refusal<'_>) -> Error) -> Self {
        let config = Agent::config_builder()
            .proxy(if is_local(&settings.endpoint) { None } else { ureq::Proxy::try_from_env() })
            .http_status_as_error(false)
            .max_redirects(0) // followed here, where the token can be kept back
            .timeout_connect(Some(settings.silence))
            .timeout_recv_response(Some(settings.silence))
            .timeout_per_read(Some(settings.silence))
            .user_agent(concat!("ashlar/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.new_agent(), settings, watch, explain, answered: Cell::new(false) }
    }

    /// How the hub is reached.
    pub fn settings(&self) -> &'a Settings {
        self.settings
    }

    /// Who watches.
    pub fn watch(&self) -> &'a dyn Watch {
        self.watch
    }

    /// Returns the address of `path` on the hub.
    pub fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.settings.endpoint)
    }

    /// Returns `target` as an absolute address, as seen from `base`.
    pub fn absolute(base: &str, target: &str) -> String {
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
    ///
    /// # Errors
    ///
    /// Fails on any status but 200, 206 and 416.
    pub fn get<E: From<Error>>(&self, url: &str, start: u64) -> Result<Response, Failure<E>> {
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
            let mut response = request.call().map_err(|error| broken(&url, &error))?;
            self.answered.set(true);
            linked_sha256 = linked_sha256.or_else(|| {
                let tag = header(&response, "x-linked-etag")?.trim_matches('"').to_owned();
                is_hex(&tag, 64).then_some(tag)
            });
            match (response.status().as_u16(), header(&response, "location")) {
                (301 | 302 | 303 | 307 | 308, Some(target)) => {
                    let next = Self::absolute(&url, &target);
                    if url.starts_with("https://") && !next.starts_with("https://") {
                        let error = refused(&url, "redirects to an address without encryption");
                        return Err(Failure::Final(error.into()));
                    }
                    url = next;
                }
                (200 | 206 | 416, _) => return Ok(Response { last: response, linked_sha256 }),
                (status, _) => return Err(self.status(&url, status, &mut response)),
            }
        }
        Err(Failure::Final(refused(&url, "redirects without end").into()))
    }

    /// Sends one request with a body; never follows a redirect, which could carry the body anywhere.
    ///
    /// # Errors
    ///
    /// Fails on any status from 300 on that is not among `fine`.
    pub fn send<E: From<Error>>(&self, request: Request<'_>, fine: &[u16]) -> Result<Response, Failure<E>> {
        let Request { method, url, headers, body, bytes, with_token } = request;
        let mut builder = match method {
            "PUT" => self.agent.put(url),
            _ => self.agent.post(url),
        };
        builder = builder.header("content-length", bytes.to_string());
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let token = self.settings.token.as_ref().filter(|_| with_token && self.is_hub(url));
        if let Some(token) = token {
            builder = builder.header("authorization", format!("Bearer {token}"));
        }
        let patience = self.settings.silence + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
        let builder = builder.config().timeout_send_body(Some(patience)).build();
        let mut response = builder.send(SendBody::from_reader(body)).map_err(|error| broken(url, &error))?;
        self.answered.set(true);
        match response.status().as_u16() {
            status if status < 300 || fine.contains(&status) => {
                Ok(Response { last: response, linked_sha256: None })
            }
            status => Err(self.status(url, status, &mut response)),
        }
    }

    /// Runs `attempt` until it succeeds, fails for good, or fails too often in a row.
    ///
    /// [`Progress`] resets the count of failures.
    ///
    /// # Errors
    ///
    /// Returns what failed for good, [`Error::Unreachable`] when patience is over, [`Error::Interrupted`] on a signal.
    pub fn retrying<T, E: From<Error>>(
        &self,
        url: &str,
        mut attempt: impl FnMut(&mut Progress) -> Result<T, Failure<E>>,
    ) -> Result<T, E> {
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
                return Err(Error::Unreachable { id: self.repository(url), problem }.into());
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
        let marks = ["/revision/", "/tree/", "/resolve/", "/preupload/", "/commit/", "/branch/", ".git/"];
        let end = marks.iter().find_map(|mark| path.find(mark));
        path[..end.unwrap_or(path.len())].into()
    }

    /// Explains an unhappy status.
    fn status<E: From<Error>>(
        &self,
        url: &str,
        status: u16,
        response: &mut ureq::http::Response<ureq::Body>,
    ) -> Failure<E> {
        let seconds = header(response, "retry-after").and_then(|text| text.trim().parse().ok());
        let pause = seconds.map(Duration::from_secs);
        match status {
            408 | 425 | 429 | 500..=599 => {
                return Failure::Again { problem: format!("the hub answers {status}"), pause };
            }
            // Addresses of the storage expire; the next attempt gets a fresh one from the hub.
            400..=499 if !self.is_hub(url) => {
                return Failure::again(format!("`{}` answers {status}", without_query(url)));
            }
            _ => {}
        }
        let refusal = Refusal {
            url,
            id: self.repository(url),
            status,
            code: header(response, "x-error-code").unwrap_or_default(),
            message: header(response, "x-error-message").unwrap_or_else(|| reason(response)),
            endpoint: &self.settings.endpoint,
            has_token: self.settings.token.is_some(),
        };
        Failure::Final((self.explain)(&refusal).into())
    }
}

/// What the body of an answer says in `error`, as one line.
fn reason(response: &mut ureq::http::Response<ureq::Body>) -> String {
    let body = response.body_mut().with_config().limit(MAX_REASON).read_to_vec().unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = json["error"].as_str().or_else(|| json["message"].as_str()).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn broken<E: From<Error>>(url: &str, error: &ureq::Error) -> Failure<E> {
    match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::RequireHttpsOnly(_) => {
            Failure::Final(refused(url, &format!("gives an address that cannot be used: {error}")).into())
        }
        _ => Failure::again(format!("no connection: {error}")),
    }
}

fn refused(url: &str, what: &str) -> Error {
    Error::Refused {
        problem: format!("`{}` {what}", without_query(url)),
        hint: Refusal::CHECK_ENDPOINT.into(),
    }
}

impl Refusal<'_> {
    /// What to do when a hub does not behave as one.
    pub const CHECK_ENDPOINT: &'static str =
        "check `HF_ENDPOINT`, and what stands between this machine and the hub";
}

/// What an attempt tells the loop around it.
pub struct Progress(bool);

impl Progress {
    /// Says that this attempt brought something, so that the count of failures starts again.
    pub fn made(&mut self) {
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
pub fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

/// Percent-encodes a path component.
pub fn quoted(text: &str) -> String {
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
