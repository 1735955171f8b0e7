//! A hub behind the certificate authority of a company: known from `SSL_CERT_FILE`, and refused without it.

use testutil::hub::{HubServer, Repo};
use testutil::tls::{authority, encrypt};
use testutil::{Program, Sandbox, golden_dir};

const ID: &str = "org/tiny";

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
fn a_file_without_authorities_is_named_like_a_missing_one() {
    let sandbox = Sandbox::new();
    let hub = HubServer::start(vec![repo()]);
    let port = encrypt(authority(&sandbox.join("ca.pem")), &hub.endpoint());
    sandbox.write("empty.pem", "");
    for name in ["empty.pem", "missing.pem"] {
        let ran = import(&sandbox, port).env("SSL_CERT_FILE", sandbox.join(name)).run();
        ran.failed(1);
        let warning = ran.stderr.lines().find(|line| line.contains("cannot read certificate authorities: "));
        assert!(warning.is_some_and(|line| line.contains(name)), "{name}: {}", ran.stderr);
    }
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
