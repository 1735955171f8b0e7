//! The commit, files, sizes and hashes of a repository.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::client::{AttemptError, Client, Progress, quoted};
use crate::error::Error;
use crate::hex::is_hex;

/// Files that a repository may have; the hub advises to stay below this number.
const MAX_FILES: usize = 100_000;
const MAX_PAGES: usize = 1000;
/// Bytes of one answer; a page of 1,000 files has less than 1 MiB.
const MAX_ANSWER_BYTES: u64 = 16 << 20;

/// A file of a repository as the hub lists it.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// Length in bytes.
    pub bytes: Option<u64>,
    /// SHA-256 of its bytes; the hub lists it for large files only.
    pub sha256: Option<String>,
    /// Git's object id of the file, or of its pointer if the file is large.
    pub git_oid: Option<String>,
    /// Origin of `sha256`, for messages.
    pub promised_by: &'static str,
}

/// Returns the commit that a branch or tag points to.
///
/// # Errors
///
/// Fails when the repository has no such revision or the hub cannot be reached.
pub fn resolve(client: &Client<'_>, id: &str, revision: &str) -> Result<String, Error> {
    #[derive(Deserialize)]
    struct Info {
        sha: String,
    }
    let (info, _): (Info, _) =
        json(client, &client.url(&format!("api/models/{id}/revision/{}", quoted(revision))))?;
    if is_hex(&info.sha, 40) {
        return Ok(info.sha);
    }
    Err(malformed(id, &format!("the commit of `{revision}` does not have 40 hex digits")))
}

/// Returns all files of a commit, from all pages of the list.
///
/// # Errors
///
/// Fails when there is no such commit and when the list is malformed or too long.
pub fn tree(client: &Client<'_>, id: &str, commit: &str) -> Result<BTreeMap<String, Entry>, Error> {
    #[derive(Deserialize)]
    struct Item {
        r#type: String,
        path: String,
        #[serde(default)]
        size: Option<u64>,
        #[serde(default)]
        oid: Option<String>,
        #[serde(default)]
        lfs: Option<Lfs>,
    }
    #[derive(Deserialize)]
    struct Lfs {
        oid: String,
        size: u64,
    }
    let (mut entries, mut seen) = (BTreeMap::new(), BTreeSet::new());
    let mut next = Some(client.url(&format!("api/models/{id}/tree/{commit}?recursive=true")));
    while let Some(url) = next.take() {
        if !seen.insert(url.clone()) {
            return Err(malformed(id, "a page of the list of files leads back to an earlier one"));
        }
        let (items, link): (Vec<Item>, _) = json(client, &url)?;
        for item in items {
            if item.r#type != "file" {
                continue;
            }
            let sha256 = item.lfs.as_ref().map(|lfs| lfs.oid.trim_start_matches("sha256:").to_owned());
            if sha256.as_ref().is_some_and(|hash| !is_hex(hash, 64)) {
                return Err(malformed(
                    id,
                    &format!("the hash of `{}` does not have 64 hex digits", item.path),
                ));
            }
            let bytes = item.lfs.map(|lfs| lfs.size).or(item.size);
            entries.insert(
                item.path,
                Entry { bytes, sha256, git_oid: item.oid, promised_by: "listed by the hub" },
            );
        }
        if entries.len() > MAX_FILES || seen.len() > MAX_PAGES {
            return Err(malformed(id, &format!("it lists more than {MAX_FILES} files or {MAX_PAGES} pages")));
        }
        next = link.as_deref().and_then(next_page).map(|target| Client::absolute(&url, target));
    }
    Ok(entries)
}

fn json<T: DeserializeOwned>(client: &Client<'_>, url: &str) -> Result<(T, Option<String>), Error> {
    client.retrying(url, |_: &mut Progress| {
        let mut response = client.get::<Error>(url, 0)?;
        let link = response.header("link");
        let bytes = response.read_to_end(MAX_ANSWER_BYTES)?;
        let value = serde_json::from_slice(&bytes)
            .map_err(|error| AttemptError::retry(format!("unexpected JSON in the answer: {error}")))?;
        Ok((value, link))
    })
}

/// Returns the address of the link with `rel="next"` in a `Link` header.
fn next_page(header: &str) -> Option<&str> {
    header.split(',').find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = |parameter: &str| matches!(parameter.trim(), r#"rel="next""# | "rel=next");
        parameters.split(';').any(is_next).then_some(target)
    })
}

fn malformed(id: &str, reason: &str) -> Error {
    Error::Refused {
        reason: format!("`{id}`: {reason}"),
        hint: "check `HF_ENDPOINT`: its answers are not those of a Hugging Face hub".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::next_page;

    #[test]
    fn the_next_page_is_found_among_other_links() {
        assert_eq!(
            next_page(r#"<http://h/a>; rel="prev", <http://h/b?c=1>; rel="next""#),
            Some("http://h/b?c=1")
        );
        assert_eq!(next_page(r#"<http://h/a>; rel="last""#), None);
        assert_eq!(next_page(""), None);
    }
}
