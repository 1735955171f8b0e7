//! What the hub's refusals mean for who wants a model.

use hub::{Error, Refusal, without_query};

/// Says what happened and what to do.
pub(super) fn explain(refusal: &Refusal<'_>) -> Error {
    let Refusal { url, id, status, code, endpoint, .. } = refusal;
    let token = format!(
        "accept the licence on `{endpoint}/{id}`, make a read token on `{endpoint}/settings/tokens` and set \
         `HF_TOKEN`; or give a folder with `MODEL_DIR=` or `--model-dir`"
    );
    let (reason, hint) = match (status, code.as_str()) {
        (401 | 403, "GatedRepo") => {
            (format!("`{id}` is gated, and the hub refused access ({status})"), token)
        }
        (401, _) => {
            let known = if refusal.has_token {
                "the token in `HF_TOKEN` is not good for it"
            } else {
                "no token is set"
            };
            (
                format!("`{id}` does not exist, is private or is gated ({status}; {known})"),
                format!("check the name; if it is right, {token}"),
            )
        }
        (403, _) => (format!("`{id}`: the hub refused access (403)"), token),
        (404, "RevisionNotFound") => (
            format!("`{id}` has no such revision ({})", without_query(url)),
            "check `revision`; `main` is the usual branch".into(),
        ),
        (404, "EntryNotFound") => {
            (format!("`{}` does not exist", without_query(url)), "the repository changed; run again".into())
        }
        (404, _) => (
            format!("`{id}` does not exist on `{endpoint}`"),
            "check `id`: it is `ORG/NAME`, case counts".into(),
        ),
        _ => (format!("`{}` answers {status}", without_query(url)), Refusal::CHECK_ENDPOINT.into()),
    };
    Error::Refused { reason, hint }
}
