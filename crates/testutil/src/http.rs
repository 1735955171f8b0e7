//! A minimal HTTP/1.1 with one request per connection.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A request; header names are in lower case.
pub(crate) struct Incoming {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// A response to be written; `body` may be cut short on purpose.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![], body: body.into() }
    }

    pub(crate) fn json(value: &serde_json::Value) -> Self {
        Self::new(200, value.to_string()).header("content-type", "application/json; charset=utf-8")
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Writes the response with at most `body_limit` bytes of the body, then closes.
    pub(crate) fn write(
        &self,
        stream: &mut TcpStream,
        head_only: bool,
        body_limit: usize,
    ) -> std::io::Result<()> {
        stream.write_all(self.head().as_bytes())?;
        if !head_only {
            stream.write_all(&self.body[..self.body.len().min(body_limit)])?;
        }
        stream.flush()
    }

    /// Writes the response with a pause before each byte of the body, until the peer closes the connection.
    pub(crate) fn drip(&self, stream: &mut TcpStream, pause: Duration) {
        let mut written = stream.write_all(self.head().as_bytes());
        for byte in self.body.chunks(1) {
            if written.is_err() {
                return;
            }
            std::thread::sleep(pause);
            written = stream.write_all(byte);
        }
    }

    fn head(&self) -> String {
        let mut head = vec![format!("HTTP/1.1 {} Whatever", self.status), "connection: close".into()];
        head.push(format!("content-length: {}", self.body.len()));
        head.extend(self.headers.iter().map(|(name, value)| format!("{name}: {value}")));
        head.join("\r\n") + "\r\n\r\n"
    }
}

/// Answers with bytes until the peer closes the connection.
pub(crate) fn write_without_end(stream: &mut TcpStream) {
    let head = b"HTTP/1.1 200 Whatever\r\nconnection: close\r\n\r\n";
    let block = vec![b' '; 1 << 16];
    let mut written = stream.write_all(head);
    while written.is_ok() {
        written = stream.write_all(&block);
    }
}

/// Reads the head of one request; `None` if there is none.
pub(crate) fn read_head(reader: &mut BufReader<&TcpStream>) -> Option<Incoming> {
    let mut line = String::new();
    reader.by_ref().take(1 << 20).read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.by_ref().take(1 << 20).read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Some(Incoming { method, target, headers, body: vec![] })
}

impl Incoming {
    /// Reads at most `limit` bytes of the body; returns false if it was shorter than announced.
    pub(crate) fn read_body(&mut self, reader: &mut BufReader<&TcpStream>, limit: usize) -> bool {
        let promised = self.headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let read = reader.take(promised.min(limit as u64)).read_to_end(&mut self.body);
        read.is_ok_and(|bytes| bytes as u64 == promised)
    }
}

/// Decodes percent-encoding.
pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten();
        if let Some(byte) = hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            out.push(byte);
            i += 3;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
