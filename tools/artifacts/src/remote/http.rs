//! HTTP for the object store, with the same library that talks to the hub.

use std::io::Read as _;
use std::time::Duration;

use http_body_util::BodyExt as _;
use network::{Agents, Proxies, Steady, Timeout, send_timeout};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use ureq::http::{Method, Request};

/// Time without data, or with very little, after which a connection counts as broken.
const SILENCE: Duration = Duration::from_mins(1);
/// Longest answer: files are read in parts.
const ANSWER_BYTES: u64 = 64 << 20;

/// Connects with blocking sockets: requests are made one after another.
#[derive(Debug, Default)]
pub(super) struct Connector;

/// A server with a certificate that nobody here trusts.
#[derive(Debug, thiserror::Error)]
#[error("the server cannot be trusted: {0}")]
pub(super) struct Untrusted(String);

#[derive(Debug)]
struct Blocking {
    agents: Agents,
    silence: Duration,
}

impl Blocking {
    fn new(proxies: Proxies, silence: Duration) -> Self {
        Self { agents: Agents::new(proxies, Timeout::Silence(silence)), silence }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Blocking::new(Proxies::from_env(), SILENCE)))
    }
}

#[async_trait::async_trait]
impl HttpService for Blocking {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut parts, body) = request.into_parts();
        let agent = self.agents.agent(&parts.uri.to_string());
        let agent = agent.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        // Compressed answers would have other lengths.
        parts.headers.insert("accept-encoding", ureq::http::HeaderValue::from_static("identity"));
        let bytes = body.collect().await?.to_bytes();
        let response = if matches!(parts.method, Method::GET | Method::HEAD | Method::DELETE) {
            agent.run(Request::from_parts(parts, ()))
        } else {
            let timeout = send_timeout(self.silence, bytes.len() as u64);
            let request = agent.configure_request(Request::from_parts(parts, bytes.to_vec()));
            agent.run(request.timeout_send_body(Some(timeout)).build())
        };
        let (parts, body) = response.map_err(failed)?.into_parts();
        // The limit counts bytes after they were decompressed; a longer answer has not its announced length then.
        let mut bytes = Vec::new();
        let body = Steady::new(body.into_reader(), self.silence, Duration::MAX);
        let read = body.take(ANSWER_BYTES).read_to_end(&mut bytes);
        read.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))?;
        Ok(HttpResponse::from_parts(parts, bytes.into()))
    }
}

/// Says whether another attempt may succeed.
fn failed(error: ureq::Error) -> HttpError {
    if let Some(reason) = network::distrust(&error) {
        return HttpError::new(HttpErrorKind::Unknown, Untrusted(reason));
    }
    let kind = match &error {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => HttpErrorKind::Connect,
        ureq::Error::Timeout(_) => HttpErrorKind::Timeout,
        ureq::Error::Io(_) => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, error)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::time::Instant;

    use object_store::client::HttpRequestBody;

    use super::*;

    /// Sends a byte of an endless answer every few milliseconds, until the client is gone.
    fn drip(listener: &TcpListener) {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        let mut written = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n");
        while written.is_ok() {
            std::thread::sleep(Duration::from_millis(5));
            written = stream.write_all(b" ");
        }
    }

    #[test]
    fn a_dripped_answer_ends_and_may_be_asked_for_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/bucket/x", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || drip(&listener));
        let service = Blocking::new(Proxies::default(), Duration::from_millis(100));
        let request = Request::get(url).body(HttpRequestBody::empty()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let begun = Instant::now();
        let error = runtime.block_on(service.call(request)).unwrap_err();
        assert_eq!(error.kind(), HttpErrorKind::Interrupted);
        assert!(failure::describe(&error).contains(" bytes in "), "{}", failure::describe(&error));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        drop(service);
        server.join().unwrap();
    }
}
