//! Proxies that the environment names, and the hosts that need none.

use ureq::Proxy;

use crate::address::{host, is_local};
use crate::error::Error;

/// Variables that name a proxy for encrypted addresses, in the order in which they count.
const ENCRYPTED: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// The same for unencrypted addresses. As in curl, `HTTP_PROXY` in capitals is not read: a web server sets it to a header.
const UNENCRYPTED: [&str; 3] = ["http_proxy", "ALL_PROXY", "all_proxy"];
const EXCEPTIONS: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The proxies that the environment names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    encrypted: Option<Named>,
    unencrypted: Option<Named>,
    exceptions: Vec<String>,
}

/// A variable and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    variable: &'static str,
    value: String,
}

impl Proxies {
    /// Reads the proxies from the environment.
    pub fn from_env() -> Self {
        Self::from_variables(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// Reads the proxies from variables such as `HTTPS_PROXY` and `NO_PROXY`; `variable` returns a variable that is set.
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&'static str]| {
            names.iter().find_map(|name| Some(Named { variable: name, value: variable(name)? }))
        };
        let exceptions = EXCEPTIONS.iter().find_map(|name| variable(name)).unwrap_or_default();
        let exceptions = exceptions.split([',', ' ']).map(|host| host.trim().to_ascii_lowercase());
        Self {
            encrypted: first(&ENCRYPTED),
            unencrypted: first(&UNENCRYPTED),
            exceptions: exceptions.filter(|host| !host.is_empty()).collect(),
        }
    }

    /// Returns the proxy of an address, if it has one. Addresses on this machine have none.
    ///
    /// # Errors
    ///
    /// Fails on a proxy that is not an HTTP proxy: going around it would not be what the variable asks for.
    pub fn of(&self, url: &str) -> Result<Option<Proxy>, Error> {
        let Some(host) = host(url) else { return Ok(None) };
        if is_local(url) || self.exceptions.iter().any(|exception| covers(exception, &host)) {
            return Ok(None);
        }
        let is_encrypted = url.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("https:"));
        let named = if is_encrypted { &self.encrypted } else { &self.unencrypted };
        named.as_ref().map(|named| named.proxy(&host)).transpose()
    }
}

impl Named {
    /// Parses the proxy; `host`, for which it is needed, is named in the hint.
    fn proxy(&self, host: &str) -> Result<Proxy, Error> {
        let Self { variable, value } = self;
        let refused = |reason: String| Error {
            reason: format!("`{variable}` {reason}"),
            hint: format!(
                "set `{variable}` to `http://HOST:PORT`, or list `{host}` in `NO_PROXY` to connect without a proxy"
            ),
        };
        let scheme = value.split_once("://").map_or("http", |(scheme, _)| scheme).to_ascii_lowercase();
        if scheme != "http" && scheme != "https" {
            return Err(refused(format!("names a `{scheme}` proxy, and only HTTP proxies are supported")));
        }
        let proxy = Proxy::new(value).ok();
        let proxy = proxy.filter(|proxy| !proxy.host().is_empty() && has_valid_port(proxy));
        proxy.ok_or_else(|| refused("is not the address of a proxy".to_owned()))
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

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::from_variables(&|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn proxies_are_used_or_refused() {
        let both = proxies(&[("HTTPS_PROXY", "http://a:1"), ("all_proxy", "http://b:2")]);
        let host = |url| both.of(url).unwrap().unwrap().host().to_owned();
        assert_eq!((host("https://hub.org/x"), host("HTTPS://hub.org/x")), ("a".to_owned(), "a".to_owned()));
        assert_eq!(host("http://hub.org/x"), "b");
        assert!(proxies(&[]).of("https://hub.org").unwrap().is_none());
        for bad in ["socks5://a:1", "socks4://a", "ftp://a", "http://", "http://a:port", "http://a b"] {
            for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
                let named = proxies(&[(variable, bad)]);
                let error = named.of("https://hub.org/x").unwrap_err();
                assert!(error.reason.contains(variable), "{bad}: {error}");
                assert!(error.hint.contains("list `hub.org` in `NO_PROXY`"), "{}", error.hint);
                // It is not used for this machine, so that it need not be an HTTP proxy.
                assert!(named.of("https://localhost:1").unwrap().is_none());
            }
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
            let found = proxies(&[("HTTPS_PROXY", "http://a:1"), ("NO_PROXY", exceptions)]);
            let proxy = found.of(&format!("https://{host}/x")).unwrap();
            assert_eq!(proxy.is_none(), is_covered, "{exceptions} {host}");
        }
        let local = proxies(&[("all_proxy", "http://a:1")]);
        let is_direct = |url| local.of(url).unwrap().is_none();
        assert!(is_direct("http://127.0.0.1:80") && is_direct("http://[::1]/"));
    }
}
