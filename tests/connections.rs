//! Connections of the programs: authorities from `SSL_CERT_FILE`, proxies, and storage without encryption.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use testutil::tls::{authority, encrypt};
use testutil::{Program, Sandbox};

const MODEL: &str = "tests/golden/gemma3_text";
/// A bucket without objects.
const NO_OBJECTS: &str = "<ListBucketResult><Name>bucket</Name><KeyCount>0</KeyCount></ListBucketResult>";
const ANSWER: &str = r#"{"choices":[{"message":{"content":"ok"},"finish_reason":"stop"}]}"#;
/// A host that does not exist.
const NOBODY: &str = "https://nobody.invalid";

/// Starts a server that gives every request the same answer; returns its address and the number of requests.
fn serve(answer: &'static str) -> Result<(String, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let requests = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&requests);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            seen.fetch_add(1, Ordering::SeqCst);
            let _ = respond(&stream, answer);
        }
    });
    Ok((address, requests))
}

fn respond(mut stream: &TcpStream, answer: &str) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut length, mut line) = (0, String::new());
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    reader.read_exact(&mut vec![0; length])?;
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", answer.len());
    stream.write_all(head.as_bytes())?;
    Ok(stream.write_all(answer.as_bytes())?)
}

/// Pulls from a bucket at `endpoint`.
fn pull(sandbox: &Sandbox, endpoint: &str) -> Program {
    let mut program = Program::built("artifacts");
    program.arg("--store").arg(sandbox.store()).args(["pull", "s3://bucket/p"]);
    program.env("AWS_ENDPOINT_URL", endpoint).env("AWS_REGION", "us-east-1");
    program.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
    program
}

/// Evaluates an endpoint beside a small model.
struct Evaluation {
    sandbox: Sandbox,
    model: String,
    dataset: String,
}

impl Evaluation {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let model = sandbox.model(MODEL);
        let dataset = sandbox.dataset(&model);
        Self { sandbox, model, dataset }
    }

    fn of(&self, endpoint: &str) -> Program {
        let model = format!("base={}", self.model);
        let mut program = self.sandbox.stage("evaluate", &["--model", &model, "--dataset", &self.dataset]);
        for setting in [
            &format!("endpoints.remote.base_url={endpoint}/v1"),
            "endpoints.remote.model=some-model",
            "endpoints.remote.key_variable=CONNECTIONS_TEST_KEY",
            "generated_rows=2",
        ] {
            program.args(["--set", setting]);
        }
        program.env("CONNECTIONS_TEST_KEY", "secret");
        program
    }
}

#[test]
fn storage_of_a_company_is_trusted_through_ssl_cert_file() -> Result<()> {
    let sandbox = Sandbox::new();
    let (server, requests) = serve(NO_OBJECTS)?;
    let port = encrypt(authority(&sandbox.join("ca.pem")), &server);
    let pull = || pull(&sandbox, &format!("https://localhost:{port}"));
    let said = pull().run().failed(1).clone();
    ensure!(said.contains("cannot be trusted") && said.contains("SSL_CERT_FILE"), "{said}");
    ensure!(!said.contains("retries"), "tried again: {said}");
    ensure!(requests.load(Ordering::SeqCst) == 0, "something was asked of a stranger");
    let said = pull().env("SSL_CERT_FILE", sandbox.join("ca.pem")).run().failed(65).clone();
    ensure!(said.contains("holds no artifacts") && requests.load(Ordering::SeqCst) > 0, "{said}");
    Ok(())
}

#[test]
fn an_endpoint_of_a_company_is_trusted_through_ssl_cert_file() -> Result<()> {
    let evaluation = Evaluation::new();
    let (server, requests) = serve(ANSWER)?;
    let port = encrypt(authority(&evaluation.sandbox.join("ca.pem")), &server);
    let endpoint = format!("https://localhost:{port}");
    let said = evaluation.of(&endpoint).run().failed(1).clone();
    ensure!(said.contains("cannot be trusted") && said.contains("SSL_CERT_FILE"), "{said}");
    ensure!(requests.load(Ordering::SeqCst) == 0, "something was asked of a stranger");
    let authority = evaluation.sandbox.join("ca.pem");
    evaluation.of(&endpoint).env("SSL_CERT_FILE", authority).run().path();
    ensure!(requests.load(Ordering::SeqCst) == 2, "{requests:?} requests for 2 rows");
    Ok(())
}

#[test]
fn a_proxy_of_an_unsupported_kind_is_refused_by_name() -> Result<()> {
    let evaluation = Evaluation::new();
    for (variable, proxy, kind) in
        [("ALL_PROXY", "socks5://127.0.0.1:1", "socks5"), ("https_proxy", "ftp://x", "ftp")]
    {
        let mut import = evaluation.sandbox.stage("import-model", &["--set", "id=a/b"]);
        import.env("HF_ENDPOINT", NOBODY);
        for mut program in [pull(&evaluation.sandbox, NOBODY), evaluation.of(NOBODY), import] {
            let said = program.env(variable, proxy).run().failed(2).clone();
            ensure!(said.contains(&format!("`{variable}` names a `{kind}` proxy")), "{said}");
            ensure!(said.contains("list `nobody.invalid` in `NO_PROXY`"), "{said}");
        }
    }
    // This machine needs no proxy.
    let (server, _) = serve(NO_OBJECTS)?;
    let mut local = pull(&evaluation.sandbox, &format!("http://{server}"));
    let said = local.env("ALL_PROXY", "socks5://127.0.0.1:1").run().failed(65).clone();
    ensure!(said.contains("holds no artifacts"), "{said}");
    Ok(())
}

#[test]
fn storage_on_another_machine_needs_encryption_or_permission() -> Result<()> {
    let sandbox = Sandbox::new();
    let (proxy, requests) = serve(NO_OBJECTS)?;
    let pull = || {
        let mut program = pull(&sandbox, "http://192.0.2.2:8481");
        program.env("http_proxy", format!("http://{proxy}"));
        program
    };
    let said = pull().run().failed(2).clone();
    ensure!(said.contains("no encryption") && said.contains("AWS_ALLOW_HTTP=true"), "{said}");
    ensure!(requests.load(Ordering::SeqCst) == 0, "something was sent");
    // The server stands in for a proxy, and does not act as one.
    pull().env("AWS_ALLOW_HTTP", "true").run().failed(1);
    ensure!(requests.load(Ordering::SeqCst) > 0, "nothing was sent");
    Ok(())
}
