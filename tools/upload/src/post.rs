//! POST requests to the hub.

use hub::{AttemptError, Client, Request, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::Error;

/// Maximum size of an answer, in bytes.
const MAX_ANSWER: u64 = 64 << 20;

/// Sends JSON and reads JSON.
pub(crate) fn post_json<T: DeserializeOwned>(
    client: &Client<'_>,
    url: &str,
    content_type: &str,
    question: &Value,
) -> Result<T, AttemptError<Error>> {
    let body = question.to_string();
    let mut answer = post(client, url, content_type, body.as_bytes(), &[])?;
    let bytes = answer.read_to_end(MAX_ANSWER)?;
    serde_json::from_slice(if bytes.is_empty() { b"null" } else { &bytes })
        .map_err(|error| AttemptError::retry(format!("the answer is not the expected JSON: {error}")))
}

/// Sends a body with the token; the status codes `accepted` count as success too.
pub(crate) fn post(
    client: &Client<'_>,
    url: &str,
    content_type: &str,
    mut body: &[u8],
    accepted: &[u16],
) -> Result<Response, AttemptError<Error>> {
    let bytes = body.len() as u64;
    let accept = if content_type == "application/x-ndjson" { "application/json" } else { content_type };
    let headers = [("content-type", content_type), ("accept", accept)];
    let request =
        Request { method: "POST", url, headers: &headers, body: &mut body, bytes, with_token: true };
    client.send(request, accepted)
}
