//! Certificate authorities and proxies for connections to the hub.

use ureq::Proxy;
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::error::Error;

/// Variables that name a proxy for encrypted addresses, in the order in which they count.
const ENCRYPTED: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// The same for unencrypted addresses. As in curl, `HTTP_PROXY` in capitals is not read: a web server sets it to a header.
const UNENCRYPTED: [&str; 3] = ["http_proxy", "ALL_PROXY", "all_proxy"];
const EXCEPTIONS: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// Returns the certificate authorities of the system, or of `SSL_CERT_FILE` and `SSL_CERT_DIR` if they are set; the
/// compiled-in ones where there are none.
pub(crate) fn tls() -> TlsConfig {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!("cannot read certificate authorities: {error}");
    }
    let roots = if found.certs.is_empty() {
        RootCerts::WebPki
    } else {
        let certificates = found.certs.iter().map(|der| Certificate::from_der(der.as_ref()).to_owned());
        RootCerts::new_with_certs(&certificates.collect::<Vec<_>>())
    };
    TlsConfig::builder().root_certs(roots).build()
}

/// The proxies that the environment names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    encrypted: Option<String>,
    unencrypted: Option<String>,
    exceptions: Vec<String>,
}

impl Proxies {
    /// Reads the proxies from variables such as `HTTPS_PROXY` and `NO_PROXY`; `variable` returns a variable that is set.
    ///
    /// # Errors
    ///
    /// Fails on a proxy that is not an HTTP proxy: going around it would not be what the variable asks for.
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let first = |names: &[&str]| -> Result<Option<String>, Error> {
            let Some((name, value)) = names.iter().find_map(|name| Some((*name, variable(name)?))) else {
                return Ok(None);
            };
            check(name, &value).map(|()| Some(value))
        };
        let exceptions = EXCEPTIONS.iter().find_map(|name| variable(name)).unwrap_or_default();
        let exceptions = exceptions.split([',', ' ']).map(|host| host.trim().to_ascii_lowercase());
        Ok(Self {
            encrypted: first(&ENCRYPTED)?,
            unencrypted: first(&UNENCRYPTED)?,
            exceptions: exceptions.filter(|host| !host.is_empty()).collect(),
        })
    }

    /// Returns the proxy of an address, if it has one.
    pub(crate) fn of(&self, url: &str) -> Option<Proxy> {
        let uri: Uri = url.parse().ok()?;
        let host = uri.host()?.trim_matches(['[', ']']).to_ascii_lowercase();
        let is_local = matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1");
        if is_local || self.exceptions.iter().any(|exception| covers(exception, &host)) {
            return None;
        }
        let named = if uri.scheme_str() == Some("https") { &self.encrypted } else { &self.unencrypted };
        Proxy::new(named.as_deref()?).ok()
    }
}

/// Returns whether an entry of `NO_PROXY` is about `host`: the host itself or a domain that it is in.
fn covers(exception: &str, host: &str) -> bool {
    let domain =
        exception.split(':').next().unwrap_or_default().trim_start_matches('*').trim_start_matches('.');
    exception == "*"
        || (!domain.is_empty()
            && (host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))))
}

fn check(name: &str, value: &str) -> Result<(), Error> {
    let refused = |reason: String| Error::Settings {
        reason: format!("`{name}` {reason}"),
        hint: format!("set `{name}` to `http://HOST:PORT`, or unset it and list the hub in `NO_PROXY`"),
    };
    let scheme = value.split_once("://").map_or("http", |(scheme, _)| scheme).to_ascii_lowercase();
    if scheme != "http" && scheme != "https" {
        return Err(refused(format!("names a `{scheme}` proxy, and only HTTP proxies are supported")));
    }
    let has_host = Proxy::new(value).is_ok_and(|proxy| !proxy.host().is_empty() && has_valid_port(&proxy));
    if has_host { Ok(()) } else { Err(refused("is not the address of a proxy".to_owned())) }
}

/// Returns whether the port of a proxy, if it has one, is a number.
fn has_valid_port(proxy: &Proxy) -> bool {
    let authority = proxy.uri().authority().map(ToString::to_string).unwrap_or_default();
    let place = authority.rsplit('@').next().unwrap_or_default();
    let port = place.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
    port.is_none_or(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Result<Proxies, Error> {
        Proxies::from_variables(&|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn proxies_are_used_or_refused() {
        let both = proxies(&[("HTTPS_PROXY", "http://a:1"), ("all_proxy", "http://b:2")]).unwrap();
        assert_eq!(both.of("https://hub.org/x").unwrap().host(), "a");
        assert_eq!(both.of("http://hub.org/x").unwrap().host(), "b");
        assert!(proxies(&[]).unwrap().of("https://hub.org").is_none());
        for bad in ["socks5://a:1", "socks4://a", "ftp://a", "http://", "http://a:port", "http://a b"] {
            let error = proxies(&[("HTTPS_PROXY", bad)]).unwrap_err().to_string();
            assert!(error.contains("HTTPS_PROXY"), "{bad}: {error}");
        }
    }

    #[test]
    fn exceptions_cover_hosts_in_a_domain() {
        for (exceptions, host, is_covered) in [
            ("corp.tld", "hub.corp.tld", true),
            (".corp.tld", "hub.corp.tld", true),
            ("*.corp.tld", "hub.corp.tld", true),
            ("x.org, corp.tld:443", "CORP.tld", true),
            ("*", "hub.org", true),
            ("corp.tld", "evilcorp.tld", false),
            ("hub.corp.tld", "corp.tld", false),
            ("", "hub.org", false),
            (",", "hub.org", false),
        ] {
            let found = proxies(&[("HTTPS_PROXY", "http://a:1"), ("NO_PROXY", exceptions)]).unwrap();
            assert_eq!(found.of(&format!("https://{host}/x")).is_none(), is_covered, "{exceptions} {host}");
        }
        let local = proxies(&[("all_proxy", "http://a:1")]).unwrap();
        assert!(local.of("http://127.0.0.1:80").is_none() && local.of("http://[::1]/").is_none());
    }
}
