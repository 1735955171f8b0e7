//! A model hub on localhost that behaves like the real one (paged listings, redirects, byte ranges, tokens, uploads), with
//! faults on request.
//!
//! Two listeners: the hub itself and the host that large files are redirected to. Like the real storage behind the
//! hub, the second answers 400 to a request that carries a token, so a leaked token is noticed.

use std::collections::{BTreeMap, VecDeque};
use std::io::BufReader;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;

use crate::files::{git_oid, sha256_hex};
use crate::http::{self, Incoming, Response};

mod upload;

/// A model repository: branches and the files of every commit.
#[derive(Clone)]
pub struct Repo {
    id: String,
    gated: bool,
    private: bool,
    branches: BTreeMap<String, String>,
    commits: BTreeMap<String, BTreeMap<String, RepoFile>>,
}

#[derive(Clone)]
struct RepoFile {
    bytes: Vec<u8>,
    lfs: bool,
    /// SHA-256 in the listing.
    sha256: String,
    /// Whether the listing leaves out size and hash.
    unlisted: bool,
}

impl RepoFile {
    fn new(bytes: &[u8], lfs: bool) -> Self {
        Self { bytes: bytes.into(), lfs, sha256: sha256_hex(bytes), unlisted: false }
    }

    /// Returns git's hash of the file, or of the pointer to a large one.
    fn oid(&self) -> String {
        if self.lfs { self.sha256[..40].to_owned() } else { git_oid(&self.bytes) }
    }
}

impl Repo {
    /// Makes an empty repository.
    pub fn new(id: &str) -> Self {
        let commit = sha256_hex(id.as_bytes())[..40].to_owned();
        Self {
            id: id.into(),
            gated: false,
            private: false,
            branches: [("main".to_owned(), commit.clone())].into(),
            commits: [(commit, BTreeMap::new())].into(),
        }
    }

    fn main(&mut self) -> &mut BTreeMap<String, RepoFile> {
        self.commits.get_mut(&self.branches["main"]).expect("a branch points to a commit")
    }

    /// Adds a small file, which is kept in git and served by the hub.
    #[must_use]
    pub fn file(mut self, path: &str, bytes: &[u8]) -> Self {
        self.main().insert(path.into(), RepoFile::new(bytes, false));
        self
    }

    /// Adds a large file, which is listed with its SHA-256 and served by another host.
    #[must_use]
    pub fn lfs(mut self, path: &str, bytes: &[u8]) -> Self {
        self.main().insert(path.into(), RepoFile::new(bytes, true));
        self
    }

    /// Puts a wrong hash for `path` into the listing.
    #[must_use]
    pub fn lie_about(mut self, path: &str) -> Self {
        self.main().get_mut(path).expect("the file was added before").sha256 = sha256_hex(b"something else");
        self
    }

    /// Leaves size and hash of `path` out of the listing.
    #[must_use]
    pub fn unlisted(mut self, path: &str) -> Self {
        self.main().get_mut(path).expect("the file was added before").unlisted = true;
        self
    }

    /// Answers only requests with the token `secret`.
    #[must_use]
    pub fn gated(mut self) -> Self {
        self.gated = true;
        self
    }

    /// Returns the commit that the branch `main` points to.
    pub fn commit(&self) -> &str {
        &self.branches["main"]
    }

    /// Returns the files of a branch: path → bytes, and whether it is a large file.
    pub fn contents(&self, branch: &str) -> BTreeMap<String, (Vec<u8>, bool)> {
        let files = self.resolve(branch).and_then(|commit| self.commits.get(commit));
        files
            .into_iter()
            .flatten()
            .map(|(path, file)| (path.clone(), (file.bytes.clone(), file.lfs)))
            .collect()
    }

    /// Returns whether the repository is private.
    pub fn is_private(&self) -> bool {
        self.private
    }

    /// Returns the number of commits.
    pub fn history(&self) -> usize {
        self.commits.len()
    }

    /// Returns the commit of a branch, or the commit itself.
    fn resolve<'a>(&'a self, revision: &'a str) -> Option<&'a String> {
        self.branches.get(revision).or_else(|| Some(self.commits.get_key_value(revision)?.0))
    }
}

/// A fault of one response of the hub.
#[derive(Clone)]
pub enum Fault {
    /// Announces the whole body, but closes the connection after this many bytes.
    DropAfter(usize),
    /// Sends this many bytes of the body, then nothing for this long.
    StallAfter(usize, Duration),
    /// Sends the body byte by byte with this pause before each.
    Drip(Duration),
    /// Answers with this status, and `Retry-After` in seconds if given.
    Status(u16, Option<u64>),
    /// Ignores the byte range: answers 200 with the whole file.
    IgnoreRange,
    /// Sends wrong bytes of the right length.
    WrongBytes,
    /// Sends bytes without end, and without a length.
    Endless,
    /// Closes the connection without an answer.
    Hangup,
    /// Redirects to this address.
    RedirectTo(String),
    /// Answers 200 with this body.
    Body(String),
    /// Reads this many bytes of the request body, then closes the connection.
    CutRequest(usize),
    /// Processes the request, but closes the connection without an answer.
    LoseAnswer,
}

/// A request to the hub.
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
    /// Whether it was sent to the host for large files.
    pub on_storage: bool,
    /// Body.
    pub body: Vec<u8>,
}

struct State {
    repos: Mutex<Vec<Repo>>,
    uploads: Mutex<upload::Uploads>,
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

/// The token that may read gated repositories, and write.
pub const TOKEN: &str = "secret";
/// A token that may only read.
pub const READ_TOKEN: &str = "just-looking";

impl HubServer {
    /// Starts a hub with these repositories on free ports; its listings have three files per page.
    pub fn start(repos: Vec<Repo>) -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0").expect("a free port on localhost");
        let (hub, storage) = (bind(), bind());
        let address = |listener: &TcpListener| listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State {
            repos: Mutex::new(repos),
            uploads: Mutex::default(),
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

    /// Returns the address for `HF_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.state.hub)
    }

    /// Returns the address of the host for large files.
    pub fn storage(&self) -> String {
        format!("http://{}", self.state.storage)
    }

    /// Makes the next requests whose target contains `part` fail, with one fault per request.
    ///
    /// The bytes of a large file come from the storage host, under `/blobs/<path>`; those of a small one from
    /// `/api/resolve-cache/`.
    pub fn fail(&self, part: &str, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.state.faults).push((part.into(), faults.into_iter().collect()));
    }

    /// Accepts files larger than this in parts of this size.
    pub fn split_uploads(&self, part_bytes: usize) {
        lock(&self.state.uploads).part_bytes = Some(part_bytes);
    }

    /// Returns a copy of a repository.
    pub fn repo(&self, id: &str) -> Option<Repo> {
        lock(&self.state.repos).iter().find(|repo| repo.id == id).cloned()
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
    let receiving = stream.try_clone().expect("a socket can be shared");
    let mut reader = BufReader::new(&receiving);
    let Some(mut request) = http::read_head(&mut reader) else { return };
    let target = http::decode(&request.target);
    let fault = next_fault(state, &target);
    let taken = if let Some(Fault::CutRequest(bytes)) = fault { bytes } else { usize::MAX };
    let whole = request.read_body(&mut reader, taken);
    lock(&state.seen).push(Seen {
        method: request.method.clone(),
        target: target.clone(),
        range: request.headers.get("range").cloned(),
        authorization: request.headers.get("authorization").cloned(),
        on_storage,
        body: request.body.clone(),
    });
    let refuses = matches!(fault, Some(Fault::Hangup | Fault::CutRequest(_) | Fault::Status(..)));
    if !whole && !refuses {
        return; // the client closed the connection midway
    }
    let keep_range = !matches!(fault, Some(Fault::IgnoreRange));
    let mut response = match (&fault, on_storage) {
        (Some(Fault::Hangup | Fault::CutRequest(_)), _) => return,
        (Some(Fault::Status(status, retry_after)), _) => {
            let response = Response::new(*status, "come back later");
            match retry_after {
                Some(seconds) => response.header("retry-after", seconds.to_string()),
                None => response,
            }
        }
        (Some(Fault::RedirectTo(address)), _) => Response::new(302, "").header("location", address),
        (Some(Fault::Body(body)), _) => Response::new(200, body.as_str()),
        (_, true) => storage_page(state, &request, &target, keep_range),
        (_, false) => hub_page(state, &request, &target, keep_range),
    };
    let (mut limit, mut pause) = (usize::MAX, Duration::ZERO);
    match fault {
        Some(Fault::LoseAnswer) => return,
        Some(Fault::Endless) => return http::write_without_end(&mut stream),
        Some(Fault::DropAfter(bytes)) => limit = bytes,
        Some(Fault::StallAfter(bytes, time)) => (limit, pause) = (bytes, time),
        Some(Fault::Drip(pause)) => return response.drip(&mut stream, pause),
        Some(Fault::WrongBytes) => response.body.iter_mut().for_each(|byte| *byte ^= 0x55),
        _ => {}
    }
    drop(response.write(&mut stream, request.method == "HEAD", limit)); // the peer may have closed the connection
    std::thread::sleep(pause);
}

fn next_fault(state: &State, target: &str) -> Option<Fault> {
    let mut faults = lock(&state.faults);
    faults
        .iter_mut()
        .filter(|(part, _)| target.contains(part.as_str()))
        .find_map(|(_, queue)| queue.pop_front())
}

/// Answers a request to the hub's host.
fn hub_page(state: &State, request: &Incoming, target: &str, keep_range: bool) -> Response {
    if request.method == "POST" {
        return upload::hub_page(state, request, target);
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = path.trim_start_matches('/');
    let repos = lock(&state.repos);
    let find = |prefix: &str| {
        let rest = path.strip_prefix(prefix)?;
        repos.iter().find_map(|repo| {
            let rest = rest.strip_prefix(&repo.id)?;
            (rest.is_empty() || rest.starts_with('/'))
                .then(|| (repo, rest.trim_start_matches('/').to_owned()))
        })
    };
    let token = |wanted: &str| {
        request.headers.get("authorization").is_some_and(|value| value == &format!("Bearer {wanted}"))
    };
    let found = find("api/models/").or_else(|| find("api/resolve-cache/models/")).or_else(|| find(""));
    let Some((repo, rest)) = found.filter(|(repo, _)| !repo.private || token(TOKEN)) else {
        // The real hub hides which repositories exist.
        return error(401, "RepoNotFound", "Invalid username or password.");
    };
    if repo.gated && !token(TOKEN) {
        return error(401, "GatedRepo", &format!("Access to model {} is restricted.", repo.id));
    }
    // A branch may hold a slash.
    let parts: Vec<&str> = rest.splitn(2, '/').collect();
    let revision = |text: &str| {
        let names = repo.branches.keys().chain(repo.commits.keys());
        names
            .filter(|name| text == name.as_str() || text.starts_with(&format!("{name}/")))
            .max_by_key(|name| name.len())
    };
    match parts.as_slice() {
        [""] => model_info(repo, "main"),
        [kind @ ("revision" | "tree" | "resolve"), rest] => match (revision(rest), *kind) {
            (None, _) => error(404, "RevisionNotFound", &format!("Invalid rev id: {rest}")),
            (Some(name), "revision") => model_info(repo, name),
            (Some(name), "tree") => listing(state, repo, name, query),
            (Some(name), _) => resolve(state, repo, name, rest[name.len()..].trim_start_matches('/')),
        },
        [commit, rest] if path.starts_with("api/resolve-cache/") && repo.commits.contains_key(*commit) => {
            match repo.commits[*commit].get(*rest) {
                Some(file) => bytes(file, request, keep_range),
                None => error(404, "EntryNotFound", "Entry not found"),
            }
        }
        _ => error(404, "", "Not found"),
    }
}

fn model_info(repo: &Repo, revision: &str) -> Response {
    let commit = repo.resolve(revision).expect("the caller found it");
    let siblings: Vec<_> = repo.commits[commit].keys().map(|path| json!({ "rfilename": path })).collect();
    Response::json(&json!({
        "id": repo.id, "modelId": repo.id, "sha": commit, "private": repo.private,
        "gated": if repo.gated { json!("manual") } else { json!(false) }, "siblings": siblings,
    }))
}

/// Returns one page of the tree, folders included, with a link to the next.
fn listing(state: &State, repo: &Repo, revision: &str, query: &str) -> Response {
    let commit = repo.resolve(revision).expect("the caller found it");
    let mut entries: Vec<serde_json::Value> = Vec::new();
    for (path, file) in &repo.commits[commit] {
        if let Some((folder, _)) = path.rsplit_once('/') {
            let known = json!({ "type": "directory", "oid": "0".repeat(40), "size": 0, "path": folder });
            if !entries.contains(&known) {
                entries.push(known);
            }
        }
        let mut entry = json!({ "type": "file", "oid": file.oid(), "size": file.bytes.len(), "path": path });
        if file.unlisted {
            entry = json!({ "type": "file", "path": path });
        } else if file.lfs {
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
        state.hub, repo.id, commit
    );
    page.header("link", next)
}

/// Redirects to the storage host for a large file, and to a relative address on this host for a small one.
fn resolve(state: &State, repo: &Repo, revision: &str, path: &str) -> Response {
    let commit = repo.resolve(revision).expect("the caller found it");
    let Some(file) = repo.commits[commit].get(path) else {
        return error(404, "EntryNotFound", "Entry not found");
    };
    let response = Response::new(if file.lfs { 302 } else { 307 }, "").header("x-repo-commit", commit);
    if file.lfs {
        response
            .header("x-linked-etag", format!("\"{}\"", file.sha256))
            .header("x-linked-size", file.bytes.len().to_string())
            .header(
                "location",
                format!("http://{}/blobs/{}/{path}?commit={commit}&signature=abc", state.storage, repo.id),
            )
    } else {
        response.header("location", format!("/api/resolve-cache/models/{}/{commit}/{path}", repo.id))
    }
}

/// Answers a request to the storage host.
fn storage_page(state: &State, request: &Incoming, target: &str, keep_range: bool) -> Response {
    if request.headers.contains_key("authorization") {
        return Response::new(400, "Only one auth mechanism allowed");
    }
    if request.method == "PUT" {
        return upload::store(state, request, target);
    }
    let (path, query) = target.trim_start_matches("/blobs/").split_once('?').unwrap_or_default();
    let commit = query.split('&').find_map(|pair| pair.strip_prefix("commit=")).unwrap_or_default();
    let repos = lock(&state.repos);
    let file = repos
        .iter()
        .find_map(|repo| repo.commits.get(commit)?.get(path.strip_prefix(&repo.id)?.trim_start_matches('/')));
    file.map_or_else(|| Response::new(403, "expired"), |file| bytes(file, request, keep_range))
}

/// Returns a file, or the requested byte range of it.
fn bytes(file: &RepoFile, request: &Incoming, keep_range: bool) -> Response {
    let total = file.bytes.len();
    let etag = format!("\"{}\"", if file.lfs { file.sha256.clone() } else { file.oid() });
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
