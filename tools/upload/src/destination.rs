//! The destination of an upload: a branch of a repository on the hub.

use hub::{Settings, is_hex};

use crate::error::Error;

/// Repository and branch that receive a model.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// The repository, `OWNER/NAME`.
    pub id: &'a str,
    /// The branch.
    pub revision: &'a str,
    /// Whether a new repository is private.
    pub private: bool,
    /// Whether to remove weights of other models from the branch.
    pub replace_weights: bool,
    /// First line of the commit message.
    pub message: &'a str,
}

impl Destination<'_> {
    /// Checks names and access before the first request.
    pub(crate) fn check(&self, settings: &Settings) -> Result<(), Error> {
        let is_id = self.id.split_once('/').is_some_and(|(owner, name)| is_plain(owner) && is_plain(name));
        if !is_id {
            return wrong(
                format!("`{}` is not the name of a repository", self.id),
                "the form is `OWNER/NAME`, such as `jane/my-model`",
            );
        }
        if self.revision.is_empty() || is_hex(self.revision, 40) {
            return wrong(
                format!("`{}` is not a branch", self.revision),
                "a commit cannot be changed; name a branch with `--revision`, or leave it out for `main`",
            );
        }
        if settings.offline {
            return wrong("`HF_HUB_OFFLINE` forbids the network".into(), "unset it to upload");
        }
        if network::is_exposed(&settings.endpoint) {
            return wrong(
                format!(
                    "`HF_ENDPOINT` is `{}`: the token and the model would be sent without encryption",
                    settings.endpoint
                ),
                "set it to an `https://` address; only a hub on this machine needs no encryption",
            );
        }
        if settings.token.is_none() {
            let hint = format!(
                "create a token with write access on `{}/settings/tokens` and set `HF_TOKEN`",
                settings.endpoint
            );
            return wrong("no token is set, and the hub accepts no anonymous uploads".into(), &hint);
        }
        Ok(())
    }
}

/// Returns whether the hub allows `name` for an account or a repository.
fn is_plain(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !name.is_empty() && name.len() <= 96 && name.bytes().all(allowed) && !name.starts_with(['.', '-'])
}

fn wrong(reason: String, hint: &str) -> Result<(), Error> {
    Err(Error::Settings { reason, hint: hint.to_owned() })
}
