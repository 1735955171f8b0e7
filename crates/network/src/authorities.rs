//! Certificate authorities of encrypted connections.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::OnceLock;

use rustls_native_certs::{CertificateResult, load_certs_from_paths, load_native_certs};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Hint for errors about an untrusted certificate.
pub const CERTIFICATE_HINT: &str =
    "if this network has its own certificate authority, name its file in `SSL_CERT_FILE`";

/// Returns the reason if a request failed because the server cannot be trusted: its certificate is unknown, or it does not speak TLS.
/// Another attempt would fail too.
pub fn distrust(error: &ureq::Error) -> Option<String> {
    match error {
        ureq::Error::Io(io) if io.kind() == ErrorKind::InvalidData => Some(io.to_string()),
        _ => None,
    }
}

/// Returns the settings of encrypted connections.
pub(crate) fn tls() -> TlsConfig {
    static AUTHORITIES: OnceLock<RootCerts> = OnceLock::new();
    TlsConfig::builder().root_certs(AUTHORITIES.get_or_init(authorities).clone()).build()
}

/// Returns the certificate authorities of the system, or of `SSL_CERT_FILE` and `SSL_CERT_DIR` if they are set; the
/// compiled-in ones where there are none.
fn authorities() -> RootCerts {
    let found = load_native_certs();
    for error in &found.errors {
        tracing::warn!("cannot read certificate authorities: {error}");
    }
    if let Some(reason) = silent_problem(&found) {
        tracing::warn!("cannot read certificate authorities: {reason}");
    }
    if found.certs.is_empty() {
        return RootCerts::WebPki;
    }
    let certificates = found.certs.iter().map(|der| Certificate::from_der(der.as_ref()).to_owned());
    RootCerts::new_with_certs(&certificates.collect::<Vec<_>>())
}

/// Returns the problem of a variable whose file or folder can be read, but holds no certificate.
fn silent_problem(found: &CertificateResult) -> Option<String> {
    let is_silent = |found: &CertificateResult| found.certs.is_empty() && found.errors.is_empty();
    let is_nothing = is_silent(found);
    let named = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
    // Only a file can be read a second time: it may be empty beside a folder with certificates.
    let is_empty = |path: &PathBuf| {
        is_nothing || (path.is_file() && is_silent(&load_certs_from_paths(Some(path), None)))
    };
    let file = named("SSL_CERT_FILE").filter(is_empty).map(|path| ("SSL_CERT_FILE", path));
    let folder = || named("SSL_CERT_DIR").filter(|_| is_nothing).map(|path| ("SSL_CERT_DIR", path));
    let (variable, path) = file.or_else(folder)?;
    Some(format!("`{variable}` is `{}`, which holds no certificate", path.display()))
}
