//! Signatures with a local key: DSSE envelopes, alone and in Sigstore bundles.

use std::io::ErrorKind;
use std::path::Path;

use artifact::FileHash;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::SecretKey;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _, LineEnding};
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Media type of in-toto statements.
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Media type of the bundles that `OpenSSF` model signing writes.
const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// What is wrong with a file that cannot sign, as the end of a sentence.
const NO_KEY: &str = "holds no private key of the curve P-256 in PEM without a password";

/// A private key on the curve P-256.
pub(crate) struct SignerKey {
    key: SigningKey,
    /// SHA-256 of the public key's PEM text, which names the key.
    id: String,
}

impl SignerKey {
    /// Reads a PEM file, as `openssl ecparam -genkey` or `openssl genpkey` writes it, without a password.
    ///
    /// # Errors
    ///
    /// Fails when the file is missing or holds no such key.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bad_key = |reason: String| Error::BadKey { path: path.to_owned(), reason };
        let text = files::read_text(path, files::MAX_JSON_BYTES).map_err(|error| match error.kind() {
            ErrorKind::NotFound => bad_key("does not exist".to_owned()),
            ErrorKind::InvalidData => bad_key(NO_KEY.to_owned()),
            _ => error.into(),
        })?;
        // OpenSSL puts the parameters of the curve before the key.
        let begins = text.find("-----BEGIN EC PRIVATE KEY").or_else(|| text.find("-----BEGIN PRIVATE KEY"));
        let pem = begins.map_or(text.as_str(), |at| &text[at..]);
        let secret = SecretKey::from_sec1_pem(pem).ok().or_else(|| SecretKey::from_pkcs8_pem(pem).ok());
        let secret = secret.ok_or_else(|| bad_key(NO_KEY.to_owned()))?;
        let public = secret.public_key().to_public_key_pem(LineEnding::LF);
        let public = public.map_err(|error| bad_key(format!("has no public key: {error}")))?;
        Ok(Self { key: SigningKey::from(secret), id: FileHash::of(public.as_bytes()).to_string() })
    }

    /// Returns a DSSE envelope around a statement.
    pub(crate) fn envelope(&self, statement: &Value) -> Value {
        let payload = artifact::canonical(statement);
        let signature: Signature = self.key.sign(&pre_authentication_encoding(&payload));
        json!({
            "payload": STANDARD.encode(&payload), "payloadType": PAYLOAD_TYPE,
            "signatures": [{"keyid": self.id, "sig": STANDARD.encode(signature.to_der())}],
        })
    }

    /// Returns a Sigstore bundle around a statement, as `OpenSSF` model signing expects it.
    pub(crate) fn bundle(&self, statement: &Value) -> Value {
        let mut envelope = self.envelope(statement);
        envelope["signatures"][0]["keyid"] = "".into();
        json!({
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": {"publicKey": {"hint": self.id}, "tlogEntries": []},
            "dsseEnvelope": envelope,
        })
    }
}

/// Returns the bytes that are signed: type and payload with their lengths.
fn pre_authentication_encoding(payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}
