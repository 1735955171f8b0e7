//! Answers of a model behind a chat completions endpoint, the kind that OpenAI made common.
//!
//! Requests run on a few threads; answers are in the order of the rows. A request that fails for a while is repeated; one that
//! fails for good makes its row fail. A refused key and a wrong address end the evaluation at once. Rows that stay without an
//! answer after all retries end it when the others have theirs, unless the settings allow it.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Builder;
use std::time::Duration;

use failure::{Error, Kind, Result};
use network::{Agents, Proxies, Timeout, is_exposed};
use serde_json::{Value, json};
use stage::StopFlag;
use ureq::Agent;

use crate::answers::Answer;
use crate::config::{Config, EndpointSettings};
use crate::kept_answers::KeptAnswers;
use crate::rows::{Row, Rows};

/// Pause before the first repetition; it doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause, even if the server asks for more.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Most bytes of a response that are read.
const MAX_BYTES: u64 = 16 << 20;
/// Most characters of a server's message that are shown.
const SHOWN_CHARACTERS: usize = 300;

/// An endpoint, ready for requests.
struct Endpoint<'a> {
    agent: Agent,
    url: String,
    key: Option<String>,
    settings: &'a EndpointSettings,
    max_tokens: usize,
    seed: u64,
}

/// Why there is no answer.
enum Problem {
    /// Another attempt may succeed; with the pause that the server asks for.
    Temporary(String, Option<Duration>),
    /// This row has failed.
    Row(String),
    /// Every row would fail.
    All(Error),
}

/// Prompts for an endpoint.
pub(crate) struct Request<'a> {
    /// Name of the endpoint in the settings.
    pub(crate) name: &'a str,
    pub(crate) settings: &'a EndpointSettings,
    pub(crate) rows: &'a Rows,
    pub(crate) config: &'a Config,
    /// Folder that keeps the answers if the run fails.
    pub(crate) work: &'a Path,
}

/// Outcome of asking for one answer.
enum Asked {
    /// The answer, or a failure that another attempt would not change.
    Done(Answer),
    /// No answer after all retries, and why.
    Unanswered(String),
}

/// What the endpoint gave so far.
struct Received {
    answers: BTreeMap<usize, Answer>,
    unanswered: BTreeMap<usize, String>,
    kept: KeptAnswers,
    error: Option<Error>,
}

impl Received {
    fn add(&mut self, row: usize, asked: Result<Asked>) {
        let added = asked.and_then(|asked| match asked {
            Asked::Done(answer) => {
                self.kept.push(row, &answer)?;
                self.answers.insert(row, answer);
                Ok(())
            }
            Asked::Unanswered(reason) => {
                self.unanswered.insert(row, reason);
                Ok(())
            }
        });
        if let Err(error) = added {
            self.error.get_or_insert(error);
        }
    }
}

/// Asks the endpoint for the answers to the prompts, by index of the row. Answers that an earlier run received are not asked for.
///
/// # Errors
///
/// Fails when the endpoint refuses the key or the model, when no prompt is answered at all, when one stays unanswered and the
/// settings do not allow it, and when `stop` is set.
pub(crate) fn answers(request: &Request<'_>, stop: &StopFlag) -> Result<BTreeMap<usize, Answer>> {
    let Request { name, settings, rows, config, work } = *request;
    let endpoint = Endpoint::new(settings, config)?;
    if endpoint.key.is_some() && is_exposed(&endpoint.url) {
        tracing::warn!("{name}: the API key is sent to `{}` without encryption", settings.base_url);
    }
    let (kept, answers) = KeptAnswers::open(work, name)?;
    if !answers.is_empty() {
        tracing::info!("{name}: {} answers are already there from an earlier run", answers.len());
    }
    let open: Vec<usize> = rows.asked.iter().copied().filter(|row| !answers.contains_key(row)).collect();
    let received = Received { answers, unanswered: BTreeMap::new(), kept, error: None };
    let received = ask_all(&endpoint, rows, &open, received, stop);
    stop.check()?;
    match received.error {
        Some(error) => Err(error),
        None => judge(request, received.answers, received.unanswered),
    }
}

/// Asks for the answers to the rows `open` on as many threads as the settings say.
fn ask_all(
    endpoint: &Endpoint<'_>,
    rows: &Rows,
    open: &[usize],
    received: Received,
    stop: &StopFlag,
) -> Received {
    let next = AtomicUsize::new(0);
    let ended = AtomicBool::new(false);
    let is_ended = || ended.load(Ordering::Relaxed) || stop.requested().is_some();
    let received = Mutex::new(received);
    let ask = || {
        while !is_ended() {
            let Some(&row) = open.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            let asked = endpoint.ask(&rows.all[row], &is_ended);
            let mut received = received.lock().expect("no thread panics while it holds the lock");
            received.add(row, asked);
            ended.fetch_or(received.error.is_some(), Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        // This thread is one of them; the system may allow no further ones.
        for _ in 1..endpoint.settings.concurrency.min(open.len()) {
            let _ = Builder::new().spawn_scoped(scope, ask);
        }
        ask();
    });
    received.into_inner().expect("no thread panicked")
}

/// Fails if too many prompts have no answer; otherwise returns all answers, and warns about failed ones.
fn judge(
    request: &Request<'_>,
    mut answers: BTreeMap<usize, Answer>,
    unanswered: BTreeMap<usize, String>,
) -> Result<BTreeMap<usize, Answer>> {
    let Request { name, settings, .. } = *request;
    let (missing, all) = (unanswered.len(), answers.len() + unanswered.len());
    let first_missing = unanswered.values().next().cloned();
    answers.extend(unanswered.into_iter().map(|(row, reason)| (row, Answer::failed(reason))));
    let failures: Vec<&String> = answers.values().filter_map(|answer| answer.text.as_ref().err()).collect();
    let Some(first) = failures.first() else { return Ok(answers) };
    let (failed, url) = (failures.len(), &settings.base_url);
    if failed == all {
        return Err(Error::failed(format!("`{url}` answered none of {all} prompts: {first}"))
            .hinted("check that the server is running and that `model` is one it serves"));
    }
    if let Some(first) = first_missing.filter(|_| !settings.allow_failed_rows) {
        let message = format!("`{url}` did not answer {missing} of {all} prompts after all retries: {first}");
        return Err(Error::failed(message).hinted(format!(
            "run the same command again, which asks only for the missing answers; or set \
             `endpoints.{name}.allow_failed_rows=true` to count them as 0"
        )));
    }
    tracing::warn!("{name}: {failed} of {all} prompts have no answer and count as 0: {first}");
    Ok(answers)
}

impl<'a> Endpoint<'a> {
    fn new(settings: &'a EndpointSettings, config: &Config) -> Result<Self> {
        let timeout = Duration::from_secs(settings.timeout_seconds);
        let url = format!("{}/chat/completions", settings.base_url.trim_end_matches('/'));
        // Redirects are not followed: the key goes to the configured address only.
        let agent = Agents::new(Proxies::from_env(), Timeout::Whole(timeout)).agent(&url)?;
        let variable = &settings.key_variable;
        let key = Some(variable).filter(|name| !name.is_empty()).and_then(|name| std::env::var(name).ok());
        let key = key.filter(|key| !key.is_empty());
        Ok(Self { agent, url, key, settings, max_tokens: config.max_tokens, seed: config.seed })
    }

    /// Asks for one answer, again after temporary failures.
    fn ask(&self, row: &Row, is_ended: &dyn Fn() -> bool) -> Result<Asked> {
        let mut pause = FIRST_PAUSE;
        let mut left = self.settings.retries;
        loop {
            match self.attempt(row) {
                Ok(answer) => return Ok(Asked::Done(answer)),
                Err(Problem::All(error)) => return Err(error),
                Err(Problem::Row(reason)) => return Ok(Asked::Done(Answer::failed(reason))),
                Err(Problem::Temporary(reason, _)) if left == 0 => return Ok(Asked::Unanswered(reason)),
                Err(Problem::Temporary(reason, asked)) => {
                    tracing::debug!("{reason}; trying again");
                    sleep(asked.unwrap_or(pause).min(LONGEST_PAUSE), is_ended);
                    if is_ended() {
                        return Ok(Asked::Unanswered(reason));
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    left -= 1;
                }
            }
        }
    }

    fn attempt(&self, row: &Row) -> Result<Answer, Problem> {
        let body = serde_json::to_vec(&self.request(row)).expect("texts and numbers are always JSON");
        let mut request = self.agent.post(&self.url).header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = request.send(&body[..]).map_err(|error| self.unreachable(&error))?;
        let pause = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let status = response.status().as_u16();
        // The limit counts bytes after they were decompressed.
        let mut bytes = Vec::new();
        let read = response.body_mut().as_reader().take(MAX_BYTES).read_to_end(&mut bytes);
        read.map_err(|error| Problem::Temporary(format!("`{}`: {error}", self.url), None))?;
        match status {
            200 => answer(&bytes).map_err(Problem::Row),
            401 | 403 => Err(Problem::All(self.refused(status, &bytes, &self.key_hint()))),
            404 | 300..=399 => {
                let hint = "check `base_url` (it usually ends in `/v1`) and `model`";
                Err(Problem::All(self.refused(status, &bytes, hint)))
            }
            408 | 409 | 425 | 429 | 500..=599 => {
                let pause = pause.map(Duration::from_secs);
                Err(Problem::Temporary(format!("status {status}: {}", message(&bytes)), pause))
            }
            _ => Err(Problem::Row(format!("status {status}: {}", message(&bytes)))),
        }
    }

    /// Returns the problem of a request without an answer; a server that is not trusted once is never trusted.
    fn unreachable(&self, error: &ureq::Error) -> Problem {
        let Some(reason) = network::distrust(error) else {
            return Problem::Temporary(format!("`{}`: {error}", self.url), None);
        };
        let message = format!("`{}` cannot be trusted: {reason}", self.url);
        Problem::All(Error::failed(message).hinted(network::CERTIFICATE_HINT))
    }

    fn request(&self, row: &Row) -> Value {
        let messages = if row.messages.is_empty() {
            json!([{"role": "user", "content": row.prompt}])
        } else {
            Value::from(row.messages.clone())
        };
        let mut request = json!({
            "model": self.settings.model,
            "messages": messages,
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "seed": self.seed,
        });
        if let Some(tools) = &row.tools {
            request["tools"] = tools.clone();
        }
        request
    }

    fn key_hint(&self) -> String {
        let variable = &self.settings.key_variable;
        match (variable.is_empty(), &self.key) {
            (true, _) => "name the environment variable with the API key in `key_variable`".to_owned(),
            (false, None) => format!("put the API key into the environment variable `{variable}`"),
            (false, Some(_)) => format!("check the API key in the environment variable `{variable}`"),
        }
    }

    fn refused(&self, status: u16, body: &[u8], hint: &str) -> Error {
        Error::new(Kind::Failed, format!("`{}` answers with status {status}: {}", self.url, message(body)))
            .hinted(hint)
    }
}

/// Reads an answer from the body of a response.
fn answer(body: &[u8]) -> Result<Answer, String> {
    let response: Value =
        serde_json::from_slice(body).map_err(|error| format!("the response is not JSON: {error}"))?;
    let choice = response["choices"].get(0).ok_or("the response has no `choices`")?;
    let (content, calls) = (&choice["message"]["content"], &choice["message"]["tool_calls"]);
    let text = match content.as_str() {
        Some(text) if !text.is_empty() || !calls.is_array() => text.trim().to_owned(),
        _ if calls.is_array() => calls.to_string(),
        _ => return Err("the response has no `message.content`".to_owned()),
    };
    Ok(Answer { text: Ok(text), is_unfinished: choice["finish_reason"] == "length" })
}

/// Returns the message of a refusal, in one short line.
fn message(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
    let named = parsed["error"]["message"].as_str().or_else(|| parsed["error"].as_str());
    let line = named.unwrap_or(&text).split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = line.chars().take(SHOWN_CHARACTERS).collect();
    if short.is_empty() { "no message".to_owned() } else { short }
}

fn sleep(pause: Duration, is_ended: &dyn Fn() -> bool) {
    const STEP: Duration = Duration::from_millis(50);
    let mut left = pause;
    while !left.is_zero() && !is_ended() {
        std::thread::sleep(left.min(STEP));
        left = left.saturating_sub(STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_texts_or_tool_calls() {
        let read = |body: &str| answer(body.as_bytes());
        let text = read(r#"{"choices":[{"message":{"content":" a "},"finish_reason":"length"}]}"#).unwrap();
        assert_eq!((text.text.as_deref(), text.is_unfinished), (Ok("a"), true));
        let calls =
            read(r#"{"choices":[{"message":{"content":null,"tool_calls":[{"function":{"name":"f"}}]}}]}"#);
        assert!(calls.unwrap().text.unwrap().contains("\"f\""));
        for broken in ["", "{}", r#"{"choices":[]}"#, r#"{"choices":[{"message":{}}]}"#] {
            assert!(read(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn messages_of_refusals_are_short() {
        assert_eq!(message(br#"{"error":{"message":"no  such\nmodel"}}"#), "no such model");
        assert_eq!(message(b""), "no message");
        assert_eq!(message("x".repeat(5000).as_bytes()).len(), SHOWN_CHARACTERS);
    }
}
