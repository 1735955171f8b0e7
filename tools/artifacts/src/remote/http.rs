//! HTTP for the object store, with the same library that talks to the hub.

use std::io::Read as _;
use std::time::Duration;

use http_body_util::BodyExt as _;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use ureq::http::{Method, Request};

/// Time without any byte after which a connection counts as broken.
const SILENCE: Duration = Duration::from_mins(1);
/// Longest answer: files are read in parts.
const ANSWER_BYTES: u64 = 64 << 20;

/// Connects with blocking sockets: requests are made one after another.
#[derive(Debug, Default)]
pub(super) struct Connector;

#[derive(Debug)]
struct Blocking {
    agent: ureq::Agent,
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .user_agent(concat!("ashlar/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(HttpClient::new(Blocking { agent: config.new_agent() }))
    }
}

#[async_trait::async_trait]
impl HttpService for Blocking {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut parts, body) = request.into_parts();
        // Compressed answers would have other lengths.
        parts.headers.insert("accept-encoding", ureq::http::HeaderValue::from_static("identity"));
        let bytes = body.collect().await?.to_bytes();
        let response = if matches!(parts.method, Method::GET | Method::HEAD | Method::DELETE) {
            self.agent.run(Request::from_parts(parts, ()))
        } else {
            self.agent.run(Request::from_parts(parts, bytes.to_vec()))
        };
        let (parts, body) = response.map_err(failed)?.into_parts();
        // The limit counts bytes after they were decompressed; a longer answer has not its announced length then.
        let mut bytes = Vec::new();
        let read = body.into_reader().take(ANSWER_BYTES).read_to_end(&mut bytes);
        read.map_err(|error| failed(ureq::Error::Io(error)))?;
        Ok(HttpResponse::from_parts(parts, bytes.into()))
    }
}

/// Says whether another attempt may succeed.
fn failed(error: ureq::Error) -> HttpError {
    let kind = match &error {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => HttpErrorKind::Connect,
        ureq::Error::Timeout(_) => HttpErrorKind::Timeout,
        ureq::Error::Io(_) => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, error)
}
