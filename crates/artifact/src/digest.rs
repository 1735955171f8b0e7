//! SHA-256 digests as types: of a file, of a tree, of key material.

use std::fmt;
use std::io::Read;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// Text that is not 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a hash: expected 64 lower-case hexadecimal digits")]
pub struct ParseHashError(String);

fn parse_hex(text: &str) -> Result<[u8; 32], ParseHashError> {
    let error = || ParseHashError(text.chars().take(80).collect());
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return Err(error());
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let (high, low) = (digit(pair[0]).ok_or_else(error)?, digit(pair[1]).ok_or_else(error)?);
        *byte = high << 4 | low;
    }
    Ok(bytes)
}

macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(crate) [u8; 32]);

        impl $name {
            /// Returns the 32 bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Returns the first 16 hexadecimal digits, enough to name a folder.
            pub fn short(&self) -> String {
                self.to_string()[..16].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{self}", $prefix)
            }
        }

        impl FromStr for $name {
            type Err = ParseHashError;
            fn from_str(text: &str) -> Result<Self, ParseHashError> {
                parse_hex(text.strip_prefix($prefix).unwrap_or(text)).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&format_args!("{}{self}", $prefix))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let digits = text
                    .strip_prefix($prefix)
                    .ok_or_else(|| serde::de::Error::custom(concat!("expected a hash that starts with `", $prefix, "`")))?;
                parse_hex(digits).map(Self).map_err(serde::de::Error::custom)
            }
        }
    };
}

hash_type!(
    /// SHA-256 of the bytes of one file.
    FileHash,
    ""
);
hash_type!(
    /// The `tree-v1` hash of the files in a folder. Serialized as `tree-v1:<64 hex>`.
    TreeHash,
    "tree-v1:"
);
hash_type!(
    /// The `key-v1` hash of stage, version, settings and inputs; computed by [`KeyMaterial`](crate::KeyMaterial) only.
    Key,
    ""
);

impl FileHash {
    /// Hashes bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha256(bytes))
    }

    /// Hashes everything that `reader` yields, in constant memory.
    ///
    /// # Errors
    ///
    /// Fails when reading fails.
    pub fn of_reader(reader: &mut impl Read) -> std::io::Result<Self> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(Self(hasher.finalize().into())),
                Ok(count) => hasher.update(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_prints_and_parses_back() {
        let hash = TreeHash(sha256(b"abc"));
        assert_eq!(hash.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hash.short(), "ba7816bf8f01cfea");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(format!("{hash:?}").parse(), Ok(hash));
        let json = serde_json::to_string(&hash).unwrap();
        assert!(json.starts_with("\"tree-v1:ba78"));
        assert_eq!(serde_json::from_str::<TreeHash>(&json).unwrap(), hash);
    }

    #[test]
    fn hash_refuses_other_text() {
        for text in ["", "abc", &"A".repeat(64), &"g".repeat(64), &"0".repeat(65)] {
            assert!(text.parse::<Key>().is_err(), "{text}");
        }
        assert!(serde_json::from_str::<TreeHash>(&format!("\"{}\"", "0".repeat(64))).is_err());
    }

    #[test]
    fn reader_and_memory_agree() {
        let bytes: Vec<u8> = (0..600_000_u32).map(|n| n as u8).collect();
        assert_eq!(FileHash::of_reader(&mut bytes.as_slice()).unwrap(), FileHash::of(&bytes));
    }
}
