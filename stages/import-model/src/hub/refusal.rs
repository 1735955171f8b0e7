//! Errors for the hub's refusals of a download.

use hub::{Error, Refusal, without_query};

/// Returns the error for a refusal, with a hint.
pub(super) fn explain(refusal: &Refusal<'_>) -> Error {
    let Refusal { url, id, status, code, endpoint, .. } = refusal;
    let token = format!(
        "accept the licence on `{endpoint}/{id}`, create a read token on `{endpoint}/settings/tokens` and set \
         `HF_TOKEN` to it; or use a folder with `MODEL_DIR=` or `--model-dir`"
    );
    let (reason, hint) = match (status, code.as_str()) {
        (401 | 403, "GatedRepo") => {
            (format!("`{id}` is gated, and the hub refused access ({status})"), token)
        }
        (401, _) => {
            let token_state = if refusal.has_token {
                "the token in `HF_TOKEN` does not give access"
            } else {
                "no token is set"
            };
            (
                format!("`{id}` does not exist, is private or is gated ({status}; {token_state})"),
                format!("check the name; if it is right, {token}"),
            )
        }
        (403, _) => (format!("`{id}`: the hub refused access (403)"), token),
        (404, "RevisionNotFound") => (
            format!("`{id}` has no such revision ({})", without_query(url)),
            "check `revision`; most repositories use the branch `main`".into(),
        ),
        (404, "EntryNotFound") => (
            format!("`{}` does not exist", without_query(url)),
            "the repository has changed; run the same command again".into(),
        ),
        (404, _) => (
            format!("`{id}` does not exist on `{endpoint}`"),
            "check `id`: its form is `ORG/NAME`, and it is case-sensitive".into(),
        ),
        _ => (format!("`{}` answered {status}", without_query(url)), Refusal::CHECK_ENDPOINT.into()),
    };
    Error::Refused { reason, hint }
}
