//! Git's hash of a file, which the hub lists for files that are not large.

use std::io::Read;

use sha1::{Digest as _, Sha1};

use crate::hex::hex;

/// Hashes `bytes` bytes from `reader` as git hashes a file of that length; 40 lower-case hex digits.
///
/// # Errors
///
/// Fails when reading fails.
pub fn git_oid(reader: &mut impl Read, bytes: u64) -> std::io::Result<String> {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {bytes}\0"));
    let mut buffer = vec![0; 1 << 18];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hex(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::git_oid;

    #[test]
    fn known_files_have_the_hashes_that_git_prints() -> std::io::Result<()> {
        for (text, oid) in [
            ("", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
            ("hello\n", "ce013625030ba8dba906f756967f9e9ca394464a"),
        ] {
            assert_eq!(git_oid(&mut text.as_bytes(), text.len() as u64)?, oid);
        }
        Ok(())
    }
}
