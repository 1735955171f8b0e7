//! Sends requests: access token, redirects, retries, refusals.

use std::cell::Cell;
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use network::{Agents, Steady, Timeout, is_exposed, least_bytes, send_timeout};
use ureq::http::Uri;
use ureq::{Agent, SendBody};

use crate::error::Error;
use crate::hex::is_hex;
use crate::settings::Settings;
use crate::watch::Watch;

const MAX_REDIRECTS: usize = 10;
/// Attempts to reach a hub that has never answered: the network is probably down.
const FIRST_ATTEMPTS: u32 = 3;
/// Longest pause between attempts, even if the hub asks for more.
const LONGEST_PAUSE: Duration = Duration::from_mins(2);
/// Longest time for a small answer, as a multiple of the time without data that ends a connection.
const ANSWER_SILENCES: u32 = 10;
/// Most bytes that are read of the body of a refusal.
const MAX_REASON_BYTES: u64 = 1 << 16;

/// A connection to the hub with its settings.
pub struct Client<'a> {
    agents: Agents,
    settings: &'a Settings,
    watch: &'a dyn Watch,
    explain: fn(&Refusal<'_>) -> Error,
    /// Whether the hub has answered any request.
    answered: Cell<bool>,
}

/// Why one attempt failed.
#[derive(Debug)]
pub enum AttemptError<E = Error> {
    /// Another attempt may succeed.
    Retry {
        /// The problem.
        reason: String,
        /// The pause that the hub asks for.
        pause: Option<Duration>,
    },
    /// Another attempt would fail too.
    Fatal(E),
}

impl<E> AttemptError<E> {
    /// Makes an error after which another attempt may succeed.
    pub fn retry(reason: String) -> Self {
        Self::Retry { reason, pause: None }
    }
}

impl<E> From<E> for AttemptError<E> {
    fn from(error: E) -> Self {
        Self::Fatal(error)
    }
}

/// An answer of the hub that another attempt would not change.
#[derive(Debug)]
pub struct Refusal<'a> {
    /// Requested address, with its query.
    pub url: &'a str,
    /// Repository of the request.
    pub id: String,
    /// HTTP status.
    pub status: u16,
    /// The hub's error code, such as `GatedRepo`; empty if it sent none.
    pub code: String,
    /// The hub's message; empty if it sent none.
    pub message: String,
    /// Address of the hub.
    pub endpoint: &'a str,
    /// Whether a token is configured.
    pub has_token: bool,
}

/// A request with a body.
pub struct Request<'a> {
    /// `POST` or `PUT`.
    pub method: &'static str,
    /// Address.
    pub url: &'a str,
    /// Headers in addition to the token's.
    pub headers: &'a [(&'a str, &'a str)],
    /// Body.
    pub body: &'a mut dyn Read,
    /// Length of the body in bytes.
    pub bytes: u64,
    /// Whether to send the token; it is sent to the hub's own origin only, even if this is set.
    pub with_token: bool,
}

/// A response after all redirects.
pub struct Response {
    last: ureq::http::Response<ureq::Body>,
    /// SHA-256 of the file, from the header `X-Linked-Etag` of the hub's redirect.
    pub linked_sha256: Option<String>,
    /// Longest time without data.
    silence: Duration,
}

impl Response {
    /// Returns the HTTP status.
    pub fn status(&self) -> u16 {
        self.last.status().as_u16()
    }

    /// Returns the value of a header.
    pub fn header(&self, name: &str) -> Option<String> {
        header(&self.last, name)
    }

    /// Returns a reader of the body, which streams it from the connection. It times out when no bytes come, or very few.
    pub fn reader(self) -> impl Read {
        Steady::new(self.last.into_body().into_reader(), self.silence, Duration::MAX)
    }

    /// Reads a small body into memory.
    ///
    /// # Errors
    ///
    /// Asks for another attempt when the connection breaks or is too slow; fails when the body is longer than `limit` bytes.
    pub fn read_to_end<E: From<Error>>(&mut self, limit: u64) -> Result<Vec<u8>, AttemptError<E>> {
        let body = read_body(&mut self.last, limit, self.silence);
        body.map_err(|error| match error.kind() {
            ErrorKind::FileTooLarge => AttemptError::Fatal(too_long(limit).into()),
            _ => AttemptError::retry(format!("the connection broke during the answer: {error}")),
        })
    }
}

/// Reads a body of at most `limit` bytes, which count after it was decompressed.
fn read_body(
    response: &mut ureq::http::Response<ureq::Body>,
    limit: u64,
    silence: Duration,
) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let reader = Steady::new(response.body_mut().as_reader(), silence, silence * ANSWER_SILENCES);
    reader.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

fn header(response: &ureq::http::Response<ureq::Body>, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(String::from)
}

impl<'a> Client<'a> {
    /// Makes a client without connecting. `explain` turns a refusal into an error with a hint.
    pub fn new(settings: &'a Settings, watch: &'a dyn Watch, explain: fn(&Refusal<'_>) -> Error) -> Self {
        if settings.token.is_some() && is_exposed(&settings.endpoint) {
            tracing::warn!("the access token is sent to `{}` without encryption", settings.endpoint);
        }
        let agents = Agents::new(settings.proxies.clone(), Timeout::Silence(settings.silence));
        Self { agents, settings, watch, explain, answered: Cell::new(false) }
    }

    /// Returns the agent for an address. `get` follows redirects itself and withholds the token from other origins.
    ///
    /// # Errors
    ///
    /// Refuses an unencrypted address unless the hub's own is unencrypted, and a proxy that cannot be used.
    fn agent<E: From<Error>>(&self, url: &str) -> Result<Agent, AttemptError<E>> {
        if self.settings.endpoint.starts_with("https://") && !url.starts_with("https://") {
            return Err(AttemptError::Fatal(refused(url, "is an unencrypted address").into()));
        }
        self.agents.agent(url).map_err(|error| AttemptError::Fatal(Error::from(error).into()))
    }

    /// Returns the settings.
    pub fn settings(&self) -> &'a Settings {
        self.settings
    }

    /// Returns the receiver of progress.
    pub fn watch(&self) -> &'a dyn Watch {
        self.watch
    }

    /// Returns the address of `path` on the hub.
    pub fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.settings.endpoint)
    }

    /// Resolves the address `target` against `base`.
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

    /// Sends one GET for the bytes from `start` and follows redirects. The token goes to the hub's own origin only.
    ///
    /// # Errors
    ///
    /// Fails on every status except 200, 206 and 416.
    pub fn get<E: From<Error>>(&self, url: &str, start: u64) -> Result<Response, AttemptError<E>> {
        let mut url = url.to_owned();
        let mut linked_sha256 = None;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent::<E>(&url)?.get(&url).header("accept-encoding", "identity");
            if start > 0 {
                request = request.header("range", format!("bytes={start}-"));
            }
            if let Some(token) = self.settings.token.as_ref().filter(|_| self.is_hub(&url)) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let mut response = request.call().map_err(|error| connection_error(&url, &error))?;
            self.answered.set(true);
            linked_sha256 = linked_sha256.or_else(|| {
                let tag = header(&response, "x-linked-etag")?.trim_matches('"').to_owned();
                is_hex(&tag, 64).then_some(tag)
            });
            match (response.status().as_u16(), header(&response, "location")) {
                (301 | 302 | 303 | 307 | 308, Some(target)) => {
                    let next = Self::absolute(&url, &target);
                    if url.starts_with("https://") && !next.starts_with("https://") {
                        let error = refused(&url, "redirects to an unencrypted address");
                        return Err(AttemptError::Fatal(error.into()));
                    }
                    url = next;
                }
                (200 | 206 | 416, _) => {
                    return Ok(Response { last: response, linked_sha256, silence: self.settings.silence });
                }
                (status, _) => return Err(self.status_error(&url, status, &mut response)),
            }
        }
        Err(AttemptError::Fatal(refused(&url, "redirects too many times").into()))
    }

    /// Sends one request with a body. Redirects are not followed, because they could send the body to another host.
    ///
    /// # Errors
    ///
    /// Fails on every status from 300 that is not in `accepted`, and refuses to send to another machine without encryption.
    pub fn send<E: From<Error>>(
        &self,
        request: Request<'_>,
        accepted: &[u16],
    ) -> Result<Response, AttemptError<E>> {
        let Request { method, url, headers, body, bytes, with_token } = request;
        if is_exposed(url) {
            return Err(AttemptError::Fatal(refused(url, "is an unencrypted address").into()));
        }
        let agent = self.agent::<E>(url)?;
        let mut builder = match method {
            "PUT" => agent.put(url),
            _ => agent.post(url),
        };
        builder = builder.header("content-length", bytes.to_string());
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let token = self.settings.token.as_ref().filter(|_| with_token && self.is_hub(url));
        if let Some(token) = token {
            builder = builder.header("authorization", format!("Bearer {token}"));
        }
        let timeout = send_timeout(self.settings.silence, bytes);
        let builder = builder.config().timeout_send_body(Some(timeout)).build();
        let mut response =
            builder.send(SendBody::from_reader(body)).map_err(|error| connection_error(url, &error))?;
        self.answered.set(true);
        match response.status().as_u16() {
            status if status < 300 || accepted.contains(&status) => {
                Ok(Response { last: response, linked_sha256: None, silence: self.settings.silence })
            }
            status => Err(self.status_error(url, status, &mut response)),
        }
    }

    /// Calls `attempt` until it succeeds, fails for good, or fails too often in a row.
    ///
    /// Progress resets the count of failures.
    ///
    /// # Errors
    ///
    /// Returns the fatal error of an attempt, [`Error::Unreachable`] after the last attempt, or [`Error::Interrupted`]
    /// after a signal.
    pub fn retrying<T, E: From<Error>>(
        &self,
        url: &str,
        mut attempt: impl FnMut(&mut Progress) -> Result<T, AttemptError<E>>,
    ) -> Result<T, E> {
        let mut failures = 0;
        loop {
            let (mut progress, begun) = (Progress::default(), Instant::now());
            let (reason, pause) = match attempt(&mut progress) {
                Ok(value) => return Ok(value),
                Err(AttemptError::Fatal(error)) => return Err(error),
                Err(AttemptError::Retry { reason, pause }) => (reason, pause),
            };
            let is_progress = progress.counts(begun.elapsed(), self.settings.silence);
            failures = if is_progress { 1 } else { failures + 1 };
            let attempts = self.settings.attempts;
            let limit = if self.answered.get() { attempts } else { attempts.min(FIRST_ATTEMPTS) };
            if failures >= limit {
                let reason = format!("{reason} (`{}`, attempt {failures} of {failures})", without_query(url));
                return Err(Error::Unreachable { id: self.repository(url), reason }.into());
            }
            let backoff = self.settings.first_pause.saturating_mul(1 << (failures - 1).min(10));
            let pause = pause.unwrap_or(backoff).min(LONGEST_PAUSE);
            tracing::warn!("{reason}; retrying in {:.1} s", pause.as_secs_f32());
            self.sleep(pause)?;
        }
    }

    fn sleep(&self, pause: Duration) -> Result<(), Error> {
        let end = Instant::now() + pause;
        loop {
            if let Some(signal) = self.watch.stop() {
                return Err(Error::Interrupted { signal });
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

    /// Returns the repository of an address of the hub, for messages.
    fn repository(&self, url: &str) -> String {
        let path = url.strip_prefix(&self.settings.endpoint).unwrap_or(url).trim_start_matches('/');
        let path = path.trim_start_matches("api/models/");
        let marks = ["/revision/", "/tree/", "/resolve/", "/preupload/", "/commit/", "/branch/", ".git/"];
        let end = marks.iter().find_map(|mark| path.find(mark));
        path[..end.unwrap_or(path.len())].into()
    }

    /// Returns the error for a status that is not a success.
    fn status_error<E: From<Error>>(
        &self,
        url: &str,
        status: u16,
        response: &mut ureq::http::Response<ureq::Body>,
    ) -> AttemptError<E> {
        let seconds = header(response, "retry-after").and_then(|text| text.trim().parse().ok());
        let pause = seconds.map(Duration::from_secs);
        match status {
            408 | 425 | 429 | 500..=599 => {
                return AttemptError::Retry { reason: format!("the hub answered {status}"), pause };
            }
            // Addresses of the file storage expire; the next attempt gets a fresh one from the hub.
            400..=499 if !self.is_hub(url) => {
                return AttemptError::retry(format!("`{}` answered {status}", without_query(url)));
            }
            _ => {}
        }
        let refusal = Refusal {
            url,
            id: self.repository(url),
            status,
            code: header(response, "x-error-code").unwrap_or_default(),
            message: header(response, "x-error-message")
                .unwrap_or_else(|| reason(response, self.settings.silence)),
            endpoint: &self.settings.endpoint,
            has_token: self.settings.token.is_some(),
        };
        AttemptError::Fatal((self.explain)(&refusal).into())
    }
}

/// Returns the field `error` or `message` of an answer's body as one line.
fn reason(response: &mut ureq::http::Response<ureq::Body>, silence: Duration) -> String {
    let body = read_body(response, MAX_REASON_BYTES, silence).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = json["error"].as_str().or_else(|| json["message"].as_str()).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn connection_error<E: From<Error>>(url: &str, error: &ureq::Error) -> AttemptError<E> {
    if let Some(reason) = network::distrust(error) {
        let reason = format!("`{}` cannot be trusted: {reason}", without_query(url));
        let hint = network::CERTIFICATE_HINT.to_owned();
        return AttemptError::Fatal(Error::Refused { reason, hint }.into());
    }
    match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::RequireHttpsOnly(_) => {
            AttemptError::Fatal(refused(url, &format!("returned an unusable address: {error}")).into())
        }
        _ => AttemptError::retry(format!("no connection: {error}")),
    }
}

fn too_long(limit: u64) -> Error {
    Error::Refused {
        reason: format!("an answer of the hub has more than {limit} bytes"),
        hint: Refusal::CHECK_ENDPOINT.into(),
    }
}

fn refused(url: &str, reason: &str) -> Error {
    Error::Refused {
        reason: format!("`{}` {reason}", without_query(url)),
        hint: Refusal::CHECK_ENDPOINT.into(),
    }
}

impl Refusal<'_> {
    /// Hint for answers that a hub should not give.
    pub const CHECK_ENDPOINT: &'static str =
        "check `HF_ENDPOINT` and the proxies between this machine and the hub";
}

/// Records whether an attempt made progress.
#[derive(Default)]
pub struct Progress {
    is_made: bool,
    bytes: u64,
}

impl Progress {
    /// Records progress.
    pub fn made(&mut self) {
        self.is_made = true;
    }

    /// Records new bytes, which are progress unless they came too slowly.
    pub fn received(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Returns whether an attempt of that length made progress.
    fn counts(&self, time: Duration, silence: Duration) -> bool {
        let is_slow = time >= silence && self.bytes < least_bytes(time);
        self.is_made || (self.bytes > 0 && !is_slow)
    }
}

/// Returns scheme, host and port of an address.
fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?;
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some(format!("{scheme}://{}:{port}", uri.host()?.to_ascii_lowercase()))
}

/// Returns an address without its query, which can contain a signature.
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
    use super::{Client, origin, quoted};

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
    }

    #[test]
    fn branches_with_slashes_are_quoted() {
        assert_eq!(quoted("refs/pr/1"), "refs%2Fpr%2F1");
    }
}
