//! A hub behind the certificate authority of a company: known from `SSL_CERT_FILE`, and refused without it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use testutil::hub::{HubServer, Repo};
use testutil::{Program, Sandbox, golden_dir};

const ID: &str = "org/tiny";

/// Makes an authority, writes its certificate to `path`, and returns a server's configuration that it vouches for.
fn authority(path: &Path) -> ServerConfig {
    let mut authority = CertificateParams::new([]).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let certificate = authority.self_signed(&key).expect("a certificate");
    fs_err::write(path, certificate.pem()).expect("the sandbox can be written");
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

/// Serves `to` over TLS and returns the port.
fn encrypt(config: ServerConfig, to: &str) -> u16 {
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

/// Forwards one request without a body, and its answer; a client that does not trust us closes the connection.
fn forward(config: Arc<ServerConfig>, stream: TcpStream, to: SocketAddr) -> Option<()> {
    let mut client = StreamOwned::new(ServerConnection::new(config).ok()?, stream);
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let mut hub = TcpStream::connect(to).ok()?;
    hub.write_all(&head).ok()?;
    let mut answer = Vec::new();
    hub.read_to_end(&mut answer).ok()?;
    client.write_all(&answer).ok()?;
    client.conn.send_close_notify();
    client.flush().ok()
}

fn golden(name: &str) -> Vec<u8> {
    fs_err::read(golden_dir().join("llama").join(name)).expect("a golden file")
}

/// A repository whose files all come from the hub itself, and whose list has one page.
fn repo() -> Repo {
    Repo::new(ID)
        .file("config.json", &golden("config.json"))
        .file("model.safetensors", &golden("model.safetensors"))
        .file("tokenizer.json", &golden("tokenizer.json"))
}

fn import(sandbox: &Sandbox, port: u16) -> Program {
    let mut program = sandbox.program(env!("CARGO_BIN_EXE_import-model"));
    program.env("HF_ENDPOINT", format!("https://localhost:{port}")).env("HF_HOME", sandbox.join("none"));
    program.args(["--set", &format!("id={ID}")]);
    program
}

#[test]
fn the_authority_of_a_company_is_known_from_ssl_cert_file() {
    let sandbox = Sandbox::new();
    let hub = HubServer::start(vec![repo()]);
    let port = encrypt(authority(&sandbox.join("ca.pem")), &hub.endpoint());
    let unknown = import(&sandbox, port).run();
    unknown.failed(1);
    assert!(unknown.stderr.contains("certificate"), "{}", unknown.stderr);
    assert!(hub.requests().is_empty(), "nothing is asked of a stranger");
    import(&sandbox, port).env("SSL_CERT_FILE", sandbox.join("ca.pem")).run().path();
    // Another authority vouches for another server.
    authority(&sandbox.join("other.pem"));
    let mut other = import(&sandbox, port);
    other.env("SSL_CERT_FILE", sandbox.join("other.pem")).args(["--set", "license=mit"]).run().failed(1);
}

#[test]
fn an_encrypted_hub_that_names_addresses_without_encryption_is_refused() {
    let sandbox = Sandbox::new();
    // Large files come from another host, whose address has no encryption.
    let hub = HubServer::start(vec![
        Repo::new(ID)
            .file("config.json", &golden("config.json"))
            .lfs("model.safetensors", &golden("model.safetensors"))
            .file("tokenizer.json", &golden("tokenizer.json")),
    ]);
    let port = encrypt(authority(&sandbox.join("ca.pem")), &hub.endpoint());
    let ran = import(&sandbox, port).env("SSL_CERT_FILE", sandbox.join("ca.pem")).run();
    ran.failed(1);
    assert!(ran.stderr.contains("redirects to an unencrypted address"), "{}", ran.stderr);
    assert!(hub.requests().iter().all(|request| !request.on_storage));
    assert!(sandbox.trees().is_empty());
    // The next page of the list, too.
    let hub = HubServer::start(vec![repo().file("tokenizer_config.json", &golden("tokenizer_config.json"))]);
    let port = encrypt(authority(&sandbox.join("ca.pem")), &hub.endpoint());
    let ran = import(&sandbox, port).env("SSL_CERT_FILE", sandbox.join("ca.pem")).run();
    ran.failed(1);
    assert!(ran.stderr.contains("is an unencrypted address"), "{}", ran.stderr);
}
