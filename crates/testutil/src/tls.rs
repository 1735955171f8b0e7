//! Encrypted servers on localhost, with a certificate authority that only the test knows.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Makes a certificate authority, writes its certificate to `path`, and returns the configuration of a server on `localhost` that it
/// vouches for.
///
/// # Panics
///
/// Panics when the file cannot be written.
pub fn authority(path: &Path) -> ServerConfig {
    let mut authority = CertificateParams::new([]).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let certificate = authority.self_signed(&key).expect("a certificate");
    fs_err::write(path, certificate.pem()).expect("the folder can be written");
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate().expect("a key");
    let names = ["localhost".to_owned()];
    let server = CertificateParams::new(names).and_then(|server| server.signed_by(&key, &issuer));
    let chain = vec![server.expect("a certificate").der().clone()];
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("the provider has these versions").with_no_client_auth();
    builder
        .with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .expect("the key belongs to the certificate")
}

/// Serves the plain server at `to` over TLS and returns the port.
///
/// # Panics
///
/// Panics when `to` is not `http://` with an address, and when no port is free.
pub fn encrypt(config: ServerConfig, to: &str) -> u16 {
    let to: SocketAddr = to.trim_start_matches("http://").parse().expect("an address");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            std::thread::spawn(move || forward(config, stream, to));
        }
    });
    port
}

/// Forwards one request and its answer; a client that does not trust us closes the connection.
fn forward(config: Arc<ServerConfig>, stream: TcpStream, to: SocketAddr) -> Option<()> {
    let mut client = StreamOwned::new(ServerConnection::new(config).ok()?, stream);
    let (mut request, mut byte) = (Vec::new(), [0]);
    while !request.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).ok()?;
        request.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    client.read_exact(&mut body).ok()?;
    request.extend(body);
    let mut server = TcpStream::connect(to).ok()?;
    server.write_all(&request).ok()?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).ok()?;
    client.write_all(&answer).ok()?;
    client.conn.send_close_notify();
    client.flush().ok()
}
