//! What the hub says about a repository: its commit, its files, their sizes and hashes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::client::{Client, Failure, Progress, quoted};
use crate::{Error, is_hex};

/// A file of a repository, as far as the hub tells.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// How long it is.
    pub bytes: Option<u64>,
    /// SHA-256 of its bytes, which the hub tells of large files only.
    pub sha256: Option<String>,
    /// Git's own hash of what is in the repository.
    pub git_oid: Option<String>,
    /// Where `sha256` comes from, for messages.
    pub promised_by: &'static str,
}

/// Returns the commit that a branch or tag points to.
///
/// # Errors
///
/// Fails when the repository has no such revision, or cannot be asked.
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
    Err(odd(id, &format!("the commit of `{revision}` is `{}`, expected 40 hex digits", info.sha)))
}

/// Returns all files of a commit, following the listing through all its pages.
///
/// # Errors
///
/// Fails when there is no such commit, or when the list makes no sense.
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
    const MAX_PAGES: usize = 1000;
    let mut entries = BTreeMap::new();
    let mut next = Some(client.url(&format!("api/models/{id}/tree/{commit}?recursive=true")));
    for _ in 0..MAX_PAGES {
        let Some(url) = next.take() else { return Ok(entries) };
        let (items, link): (Vec<Item>, _) = json(client, &url)?;
        for item in items {
            if item.r#type != "file" {
                continue;
            }
            let sha256 = item.lfs.as_ref().map(|lfs| lfs.oid.trim_start_matches("sha256:").to_owned());
            if let Some(hash) = sha256.as_ref().filter(|hash| !is_hex(hash, 64)) {
                return Err(odd(
                    id,
                    &format!("the hash of `{}` is `{hash}`, expected 64 hex digits", item.path),
                ));
            }
            let bytes = item.lfs.map(|lfs| lfs.size).or(item.size);
            entries.insert(
                item.path,
                Entry { bytes, sha256, git_oid: item.oid, promised_by: "listed by the hub" },
            );
        }
        next = link.as_deref().and_then(next_page).map(|target| Client::absolute(&url, target));
    }
    Err(odd(id, &format!("the list of files has more than {MAX_PAGES} pages")))
}

fn json<T: DeserializeOwned>(client: &Client<'_>, url: &str) -> Result<(T, Option<String>), Error> {
    client.retrying(url, |_: &mut Progress| {
        let mut response = client.get::<Error>(url, 0)?;
        let link = response.header("link");
        let bytes = response.read_to_end(64 << 20)?;
        let value = serde_json::from_slice(&bytes)
            .map_err(|error| Failure::again(format!("the answer is not the expected JSON: {error}")))?;
        Ok((value, link))
    })
}

/// The address after `rel="next"` in a `Link` header.
fn next_page(header: &str) -> Option<&str> {
    header.split(',').find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = |parameter: &str| matches!(parameter.trim(), r#"rel="next""# | "rel=next");
        parameters.split(';').any(is_next).then_some(target)
    })
}

fn odd(id: &str, problem: &str) -> Error {
    Error::Refused {
        problem: format!("`{id}`: {problem}"),
        hint: "the address in `HF_ENDPOINT` does not behave as the Hugging Face hub does".into(),
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
