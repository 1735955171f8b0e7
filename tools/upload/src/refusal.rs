//! Explanations of the hub's refusals.

use hub::{Error, Refusal, without_query};

/// Returns an error that says what happened and what to do.
pub(crate) fn explain(refusal: &Refusal<'_>) -> Error {
    let Refusal { url, id, status, message, endpoint, has_token, .. } = refusal;
    let detail = if message.is_empty() { String::new() } else { format!(": {message}") };
    let write_token =
        format!("create a token with write access on `{endpoint}/settings/tokens` and set `HF_TOKEN`");
    let (reason, hint) = match status {
        401 if *has_token => (format!("the hub rejects the token in `HF_TOKEN` (401{detail})"), write_token),
        401 => ("the hub asks for a token (401), and none is set".into(), write_token),
        403 => (
            format!("`{id}`: the token has no write access (403{detail})"),
            format!("{write_token}; or choose your own account with `--id NAME/MODEL`"),
        ),
        404 => (
            format!("`{}` does not exist (404{detail})", without_query(url)),
            "check `--id` and `--revision`, which are case-sensitive".into(),
        ),
        409 => (
            format!("`{id}`: another client is changing the repository (409{detail})"),
            "wait a moment and run the same command again".into(),
        ),
        412 => (
            format!("`{id}` received another commit during the upload (412)"),
            "check what changed, then run the same command again: only files that differ are sent".into(),
        ),
        400 | 413 | 422 => (
            format!("`{id}`: the hub rejects the upload ({status}{detail})"),
            "change the file or setting that the hub names".into(),
        ),
        _ => (format!("`{}` answers {status}{detail}", without_query(url)), Refusal::CHECK_ENDPOINT.into()),
    };
    Error::Refused { reason, hint }
}
