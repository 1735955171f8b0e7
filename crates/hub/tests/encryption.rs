//! With an encrypted hub, nothing is asked for or sent without encryption, whatever address the hub names.

use std::net::TcpListener;

use hub::{AttemptError, Client, Error, Refusal, Request, Settings, Unwatched};

fn explain(refusal: &Refusal<'_>) -> Error {
    Error::Refused { reason: format!("status {}", refusal.status), hint: String::new() }
}

#[test]
fn an_address_without_encryption_is_refused_before_anything_connects() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let storage = format!("http://{}", listener.local_addr().expect("it is bound"));
    listener.set_nonblocking(true).expect("a socket can be polled");
    let token = Some("secret".to_owned());
    let nothing = Settings::from(|_| None).expect("nothing is set");
    let settings = Settings { endpoint: "https://hub.invalid".to_owned(), token, ..nothing };
    let client = Client::new(&settings, &Unwatched, explain);
    let addresses = [
        format!("{storage}/upload/x?signature=abc"),
        storage.replace("http:", "HTTP:"),
        "ftp://hub.invalid/x".to_owned(),
        "//hub.invalid/x".to_owned(),
        "hub.invalid/x".to_owned(),
    ];
    for url in &addresses {
        for method in ["PUT", "POST"] {
            let body = &mut &b"weights"[..];
            let request = Request { method, url, headers: &[], body, bytes: 7, with_token: true };
            check(url, client.send::<Error>(request, &[]).err());
        }
        check(url, client.get::<Error>(url, 0).err());
    }
    assert!(listener.accept().is_err(), "something connected to the storage");
}

fn check(url: &str, failed: Option<AttemptError<Error>>) {
    let Some(AttemptError::Fatal(error)) = failed else { panic!("{url}: {failed:?}") };
    let text = error.to_string();
    assert!(text.contains("unencrypted") && !text.contains("signature"), "{url}: {text}");
}
