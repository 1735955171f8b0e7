//! What the hub's refusals mean for who gives it a model.

use hub::{Error, Refusal, without_query};

/// Says what happened and what to do.
pub(crate) fn explain(refusal: &Refusal<'_>) -> Error {
    let Refusal { url, id, status, message, endpoint, has_token, .. } = refusal;
    let said = if message.is_empty() { String::new() } else { format!(": {message}") };
    let write_token =
        format!("make a token with write access on `{endpoint}/settings/tokens` and set `HF_TOKEN`");
    let (reason, hint) = match status {
        401 if *has_token => {
            (format!("the hub does not know the token in `HF_TOKEN` (401{said})"), write_token)
        }
        401 => ("the hub wants to know who uploads (401), and no token is set".into(), write_token),
        403 => (
            format!("`{id}`: the token may not write there (403{said})"),
            format!("{write_token}; or upload to an account of yours with `--id NAME/MODEL`"),
        ),
        404 => (
            format!("`{}` does not exist (404{said})", without_query(url)),
            "check `--id` and `--revision`; case counts".into(),
        ),
        409 => (
            format!("`{id}`: something else is changing the repository (409{said})"),
            "wait a moment and run the same command again".into(),
        ),
        412 => (
            format!("`{id}` got another commit while this one was made (412)"),
            "look at what changed, then run the same command again: only what differs is sent".into(),
        ),
        400 | 413 | 422 => (
            format!("`{id}`: the hub does not take the upload ({status}{said})"),
            "what the hub says tells which file or setting it minds".into(),
        ),
        _ => (format!("`{}` answers {status}{said}", without_query(url)), Refusal::CHECK_ENDPOINT.into()),
    };
    Error::Refused { reason, hint }
}
