//! A model hub on localhost that behaves as the real one does: listing in pages, redirects, ranges, tokens, faults.
//!
//! Two listeners: the hub itself and the host that large files are redirected to. Like the real storage behind the
//! hub, the second answers 400 to a request that carries a token, so a leaked token is seen at once.

use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;

use crate::files::sha256_hex;
use crate::http::{self, Incoming, Response};

/// A model repository: one commit, which every branch name points to.
#[derive(Clone)]
pub struct Repo {
    id: String,
    commit: String,
    gated: bool,
    files: BTreeMap<String, RepoFile>,
}

#[derive(Clone)]
struct RepoFile {
    bytes: Vec<u8>,
    lfs: bool,
    /// The hash that the listing claims.
    sha256: String,
}

impl Repo {
    /// Makes an empty repository.
    pub fn new(id: &str) -> Self {
        let commit = sha256_hex(id.as_bytes())[..40].to_owned();
        Self { id: id.into(), commit, gated: false, files: BTreeMap::new() }
    }

    /// Adds a small file, which the hub keeps in git and serves itself.
    #[must_use]
    pub fn file(mut self, path: &str, bytes: &[u8]) -> Self {
        self.files
            .insert(path.into(), RepoFile { bytes: bytes.into(), lfs: false, sha256: sha256_hex(bytes) });
        self
    }

    /// Adds a large file, which is listed with its SHA-256 and served by another host.
    #[must_use]
    pub fn lfs(mut self, path: &str, bytes: &[u8]) -> Self {
        self.files
            .insert(path.into(), RepoFile { bytes: bytes.into(), lfs: true, sha256: sha256_hex(bytes) });
        self
    }

    /// Makes the listing claim another hash for `path` than its bytes have.
    #[must_use]
    pub fn lie_about(mut self, path: &str) -> Self {
        self.files.get_mut(path).expect("the file was added before").sha256 = sha256_hex(b"something else");
        self
    }

    /// Answers only requests that carry the token `secret`.
    #[must_use]
    pub fn gated(mut self) -> Self {
        self.gated = true;
        self
    }

    /// Returns the commit that every branch points to.
    pub fn commit(&self) -> &str {
        &self.commit
    }
}

/// What the hub does wrong, once, when a path is asked for.
#[derive(Clone)]
pub enum Fault {
    /// Promises the whole body and closes the connection after this many bytes of it.
    DropAfter(usize),
    /// Sends this many bytes of the body, then nothing for this long.
    StallAfter(usize, Duration),
    /// Answers with this status, and `Retry-After` in seconds if given.
    Status(u16, Option<u64>),
    /// Answers a range request with the whole file and 200.
    IgnoreRange,
    /// Sends as many bytes as promised, but others.
    WrongBytes,
    /// Closes the connection before any answer.
    Hangup,
    /// Redirects to this address.
    RedirectTo(String),
}

/// A request that the hub got.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `GET`, `HEAD`, …
    pub method: String,
    /// Path and query, decoded.
    pub target: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// Whether it went to the host for large files.
    pub on_storage: bool,
}

struct State {
    repos: Vec<Repo>,
    page_size: usize,
    hub: SocketAddr,
    storage: SocketAddr,
    seen: Mutex<Vec<Seen>>,
    faults: Mutex<Vec<(String, VecDeque<Fault>)>>,
    stop: AtomicBool,
}

/// A running hub; it stops when dropped.
pub struct HubServer {
    state: Arc<State>,
}

/// The token that opens gated repositories.
pub const TOKEN: &str = "secret";

impl HubServer {
    /// Starts a hub with these repositories, on free ports, three files to a page of its listing.
    pub fn start(repos: Vec<Repo>) -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0").expect("a free port on localhost");
        let (hub, storage) = (bind(), bind());
        let address = |listener: &TcpListener| listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State {
            repos,
            page_size: 3,
            hub: address(&hub),
            storage: address(&storage),
            seen: Mutex::default(),
            faults: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        for (listener, on_storage) in [(hub, false), (storage, true)] {
            let state = Arc::clone(&state);
            std::thread::spawn(move || serve(&listener, &state, on_storage));
        }
        Self { state }
    }

    /// Returns the address to give as `HF_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.state.hub)
    }

    /// Returns the address of the host for large files.
    pub fn storage(&self) -> String {
        format!("http://{}", self.state.storage)
    }

    /// Makes the next requests whose target contains `part` go wrong, one fault a request.
    ///
    /// The bytes of a large file come from the storage host, under `/blobs/<path>`; those of a small one from
    /// `/api/resolve-cache/`.
    pub fn fail(&self, part: &str, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.state.faults).push((part.into(), faults.into_iter().collect()));
    }

    /// Returns all requests so far, in order of arrival.
    pub fn requests(&self) -> Vec<Seen> {
        lock(&self.state.seen).clone()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        lock(&self.state.seen).clear();
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        for address in [self.state.hub, self.state.storage] {
            drop(TcpStream::connect(address)); // wakes the listener, which then sees `stop`
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(listener: &TcpListener, state: &Arc<State>, on_storage: bool) {
    for stream in listener.incoming() {
        if state.stop.load(Ordering::SeqCst) {
            return;
        }
        if let Ok(stream) = stream {
            let state = Arc::clone(state);
            std::thread::spawn(move || answer(stream, &state, on_storage));
        }
    }
}

fn answer(mut stream: TcpStream, state: &State, on_storage: bool) {
    let Some(request) = http::read(&stream) else { return };
    let target = http::decode(&request.target);
    lock(&state.seen).push(Seen {
        method: request.method.clone(),
        target: target.clone(),
        range: request.headers.get("range").cloned(),
        authorization: request.headers.get("authorization").cloned(),
        on_storage,
    });
    let fault = next_fault(state, &target);
    let keep_range = !matches!(fault, Some(Fault::IgnoreRange));
    let mut response = if on_storage {
        blob(state, &request, &target, keep_range)
    } else {
        hub_page(state, &request, &target, keep_range)
    };
    let (mut limit, mut pause) = (usize::MAX, Duration::ZERO);
    match fault {
        Some(Fault::Hangup) => return,
        Some(Fault::DropAfter(bytes)) => limit = bytes,
        Some(Fault::StallAfter(bytes, time)) => (limit, pause) = (bytes, time),
        Some(Fault::WrongBytes) => response.body.iter_mut().for_each(|byte| *byte ^= 0x55),
        Some(Fault::RedirectTo(address)) => response = Response::new(302, "").header("location", address),
        Some(Fault::Status(status, retry_after)) => {
            response = Response::new(status, "come back later");
            if let Some(seconds) = retry_after {
                response = response.header("retry-after", seconds.to_string());
            }
        }
        Some(Fault::IgnoreRange) | None => {}
    }
    drop(response.write(&mut stream, request.method == "HEAD", limit)); // the peer may be gone: its business
    std::thread::sleep(pause);
}

fn next_fault(state: &State, target: &str) -> Option<Fault> {
    let mut faults = lock(&state.faults);
    faults
        .iter_mut()
        .filter(|(part, _)| target.contains(part.as_str()))
        .find_map(|(_, queue)| queue.pop_front())
}

/// Answers on the hub's own host.
fn hub_page(state: &State, request: &Incoming, target: &str, keep_range: bool) -> Response {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = path.trim_start_matches('/');
    let find = |prefix: &str| {
        let rest = path.strip_prefix(prefix)?;
        state
            .repos
            .iter()
            .find_map(|repo| Some((repo, rest.strip_prefix(&format!("{}/", repo.id))?.to_owned())))
    };
    let Some((repo, rest)) =
        find("api/models/").or_else(|| find("api/resolve-cache/models/")).or_else(|| find(""))
    else {
        // The real hub does not tell strangers which repositories exist.
        return error(401, "RepoNotFound", "Invalid username or password.");
    };
    if repo.gated
        && request.headers.get("authorization").is_none_or(|value| value != &format!("Bearer {TOKEN}"))
    {
        return error(401, "GatedRepo", &format!("Access to model {} is restricted.", repo.id));
    }
    let known = |revision: &str| revision == repo.commit || revision == "main";
    let parts: Vec<&str> = rest.splitn(3, '/').collect();
    match parts.as_slice() {
        ["revision" | "tree" | "resolve", revision, ..] if !known(revision) => {
            error(404, "RevisionNotFound", &format!("Invalid rev id: {revision}"))
        }
        ["revision", ..] => model_info(repo),
        ["tree", ..] => listing(state, repo, query),
        ["resolve", _, file] => resolve(state, repo, file),
        [commit, ..] if *commit == repo.commit && path.starts_with("api/resolve-cache/") => {
            match repo.files.get(&rest[commit.len() + 1..]) {
                Some(file) => bytes(file, request, keep_range),
                None => error(404, "EntryNotFound", "Entry not found"),
            }
        }
        _ => error(404, "", "Not found"),
    }
}

fn model_info(repo: &Repo) -> Response {
    let siblings: Vec<_> = repo.files.keys().map(|path| json!({ "rfilename": path })).collect();
    Response::json(&json!({
        "id": repo.id, "modelId": repo.id, "sha": repo.commit, "private": false,
        "gated": if repo.gated { json!("manual") } else { json!(false) }, "siblings": siblings,
    }))
}

/// One page of the tree, folders included, with a link to the next.
fn listing(state: &State, repo: &Repo, query: &str) -> Response {
    let mut entries: Vec<serde_json::Value> = Vec::new();
    for (path, file) in &repo.files {
        if let Some((folder, _)) = path.rsplit_once('/') {
            let known = json!({ "type": "directory", "oid": "0".repeat(40), "size": 0, "path": folder });
            if !entries.contains(&known) {
                entries.push(known);
            }
        }
        let mut entry =
            json!({ "type": "file", "oid": file.sha256[..40], "size": file.bytes.len(), "path": path });
        if file.lfs {
            entry["lfs"] = json!({ "oid": file.sha256, "size": file.bytes.len(), "pointerSize": 134 });
        }
        entries.push(entry);
    }
    let start: usize =
        query.split('&').find_map(|pair| pair.strip_prefix("cursor=")?.parse().ok()).unwrap_or(0);
    let end = entries.len().min(start + state.page_size);
    let page = Response::json(&json!(entries[start.min(end)..end]));
    if end == entries.len() {
        return page;
    }
    let next = format!(
        "<http://{}/api/models/{}/tree/{}?recursive=true&cursor={end}>; rel=\"next\"",
        state.hub, repo.id, repo.commit
    );
    page.header("link", next)
}

/// Sends the client on: large files to the storage host, small ones to a cache on this host, by a relative address.
fn resolve(state: &State, repo: &Repo, path: &str) -> Response {
    let Some(file) = repo.files.get(path) else { return error(404, "EntryNotFound", "Entry not found") };
    let response = Response::new(if file.lfs { 302 } else { 307 }, "").header("x-repo-commit", &repo.commit);
    if file.lfs {
        response
            .header("x-linked-etag", format!("\"{}\"", file.sha256))
            .header("x-linked-size", file.bytes.len().to_string())
            .header("location", format!("http://{}/blobs/{}/{path}?signature=abc", state.storage, repo.id))
    } else {
        response.header("location", format!("/api/resolve-cache/models/{}/{}/{path}", repo.id, repo.commit))
    }
}

/// Answers on the storage host.
fn blob(state: &State, request: &Incoming, target: &str, keep_range: bool) -> Response {
    if request.headers.contains_key("authorization") {
        return Response::new(400, "Only one auth mechanism allowed");
    }
    let path = target.split('?').next().unwrap_or("").trim_start_matches("/blobs/");
    let file = state
        .repos
        .iter()
        .find_map(|repo| repo.files.get(path.strip_prefix(&repo.id)?.trim_start_matches('/')));
    file.map_or_else(|| Response::new(403, "expired"), |file| bytes(file, request, keep_range))
}

/// The bytes of a file, or of the part that the request asks for.
fn bytes(file: &RepoFile, request: &Incoming, keep_range: bool) -> Response {
    let total = file.bytes.len();
    let etag = format!("\"{}\"", if file.lfs { file.sha256.as_str() } else { &file.sha256[..40] });
    let range = request.headers.get("range").filter(|_| keep_range);
    let start =
        range.and_then(|value| value.strip_prefix("bytes=")?.split('-').next()?.parse::<usize>().ok());
    match start {
        None => Response::new(200, file.bytes.clone()).header("etag", etag).header("accept-ranges", "bytes"),
        Some(start) if start >= total => {
            Response::new(416, "").header("content-range", format!("bytes */{total}"))
        }
        Some(start) => Response::new(206, &file.bytes[start..])
            .header("etag", etag)
            .header("content-range", format!("bytes {start}-{}/{total}", total - 1)),
    }
}

fn error(status: u16, code: &str, message: &str) -> Response {
    let body = json!({ "error": message }).to_string();
    Response::new(status, body).header("x-error-code", code).header("x-error-message", message)
}
