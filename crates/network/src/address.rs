//! Whether an address is on this machine, and whether it is encrypted.

use ureq::http::Uri;

/// Returns whether an address is on this machine: no proxy is used for it, and nobody else can listen.
pub fn is_local(url: &str) -> bool {
    host(url).is_some_and(|host| matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1"))
}

/// Returns whether others could read what is sent to an address: it is not encrypted, and not on this machine.
pub fn is_exposed(url: &str) -> bool {
    let is_encrypted = url.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("https://"));
    !is_encrypted && !is_local(url)
}

/// Returns the host of an address in lower case, without brackets.
pub(crate) fn host(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    Some(uri.host()?.trim_matches(['[', ']']).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_local() {
        for local in
            ["http://127.0.0.1:8080/v1", "http://LOCALHOST/v1", "http://[::1]:80", "https://localhost"]
        {
            assert!(is_local(local) && !is_exposed(local), "{local}");
        }
        for other in [
            "http://localhost.example.com/v1",
            "http://localhost:80@example.com/v1",
            "http://127.0.0.1.example.com",
            "HTTP://192.0.2.2",
            "http://localhost\\@example.com",
            "example.com",
            "",
        ] {
            assert!(!is_local(other) && is_exposed(other), "{other}");
        }
        assert!(!is_exposed("https://example.com") && !is_exposed("HTTPS://example.com"));
    }
}
