//! Imports from a hub on localhost.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

mod cache;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use failure::{Failure as _, Kind};
use import_model::hub::{Hub, Settings};
use import_model::{Config, Error, Unwatched, Watch};
use tempfile::TempDir;
use testutil::files::{contents, golden_dir, sha256_hex};
use testutil::hub::{Fault, HubServer, Repo, TOKEN};

const ID: &str = "org/tiny";

fn temp() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn golden(name: &str) -> Vec<u8> {
    fs_err::read(golden_dir().join("llama").join(name)).expect("a golden file")
}

/// The golden model `llama` with the other files of a real repository.
fn repo() -> Repo {
    Repo::new(ID)
        .file(".gitattributes", b"*.safetensors filter=lfs")
        .file("README.md", b"# Tiny")
        .file("config.json", &golden("config.json"))
        .file("tokenizer_config.json", &golden("tokenizer_config.json"))
        .file("original/params.json", b"{}")
        .lfs("model.safetensors", &golden("model.safetensors"))
        .lfs("tokenizer.json", &golden("tokenizer.json"))
        .lfs("pytorch_model.bin", b"a pickle")
}

fn settings(hub: &HubServer) -> Settings {
    let endpoint = hub.endpoint();
    let settings = Settings::from(|name| (name == "HF_ENDPOINT").then(|| endpoint.clone())).unwrap();
    Settings { first_pause: Duration::from_millis(5), silence: Duration::from_secs(2), ..settings }
}

struct Import {
    out: TempDir,
    resume: TempDir,
}

impl Import {
    fn new() -> Self {
        Self { out: temp(), resume: temp() }
    }

    fn run(&self, settings: &Settings) -> Result<(), Error> {
        self.run_with(settings, &Config { id: ID.into(), ..Config::default() }, &Unwatched)
    }

    fn run_with(&self, settings: &Settings, config: &Config, watch: &dyn Watch) -> Result<(), Error> {
        let revision = if config.revision.is_empty() { "main" } else { &config.revision };
        let commit = Hub::new(settings, watch).resolve(&config.id, revision)?;
        let config = Config { commit, ..config.clone() };
        import_model::run(&config, settings, watch, self.resume.path(), self.out.path()).map(drop)
    }

    fn model(&self) -> BTreeMap<String, String> {
        contents(&self.out.path().join("model"))
    }

    /// Checks that the model is complete and has the right bytes.
    fn assert_complete(&self) {
        let names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
        let expected: BTreeMap<_, _> = names.map(|name| (name.to_owned(), sha256_hex(&golden(name)))).into();
        assert_eq!(self.model(), expected);
    }
}

fn message(result: Result<(), Error>) -> String {
    let text = failure::Error::from(result.expect_err("this must fail")).report();
    assert!(text.contains("\nhint: "), "no hint in: {text}");
    text
}

#[test]
fn a_model_is_listed_over_pages_and_downloaded_over_redirects() {
    let hub = HubServer::start(vec![repo()]);
    let import = Import::new();
    import.run(&settings(&hub)).unwrap();
    import.assert_complete();
    let record = fs_err::read_to_string(import.out.path().join("import.json")).unwrap();
    assert!(record.contains(repo().commit()), "{record}");
    let seen = hub.requests();
    let count = |part: &str| seen.iter().filter(|request| request.target.contains(part)).count();
    assert!(count("/tree/") >= 3, "the listing has several pages: {seen:#?}");
    assert_eq!(count("/api/resolve-cache/"), 2, "small files come over a relative redirect");
    assert_eq!(count("/blobs/"), 2, "large files come from another host");
    assert_eq!(count(".bin") + count("README") + count("original/"), 0, "what is not kept is not downloaded");
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let hub = HubServer::start(vec![repo().gated()]);
    let settings = Settings { token: Some(TOKEN.into()), ..settings(&hub) };
    let import = Import::new();
    import.run(&settings).unwrap();
    import.assert_complete();
    for request in hub.requests() {
        assert_eq!(request.authorization.is_some(), !request.on_storage, "{request:?}");
    }
}

#[test]
fn the_token_does_not_follow_a_redirect_to_a_stranger() {
    let (hub, stranger) = (HubServer::start(vec![repo()]), HubServer::start(vec![repo()]));
    let elsewhere = format!("{}/{ID}/resolve/{}/config.json", stranger.endpoint(), repo().commit());
    hub.fail("/resolve/", [Fault::RedirectTo(elsewhere)]);
    let settings = Settings { token: Some(TOKEN.into()), ..settings(&hub) };
    Import::new().run(&settings).unwrap();
    assert!(!stranger.requests().is_empty());
    assert!(stranger.requests().iter().all(|request| request.authorization.is_none()));
}

#[test]
fn a_dropped_connection_resumes_where_it_stopped() {
    let hub = HubServer::start(vec![repo()]);
    hub.fail(
        "/blobs/org/tiny/model.safetensors",
        [Fault::DropAfter(1000), Fault::Hangup, Fault::DropAfter(2000)],
    );
    let import = Import::new();
    import.run(&settings(&hub)).unwrap();
    import.assert_complete();
    let ranges: Vec<_> = hub
        .requests()
        .into_iter()
        .filter(|it| it.target.contains("/blobs/org/tiny/model"))
        .map(|it| it.range)
        .collect();
    let range = |start: u32| Some(format!("bytes={start}-"));
    assert_eq!(ranges, [None, range(1000), range(1000), range(3000)]);
}

#[test]
fn a_silent_connection_times_out_and_is_resumed() {
    let hub = HubServer::start(vec![repo()]);
    hub.fail("/blobs/org/tiny/model.safetensors", [Fault::StallAfter(1000, Duration::from_secs(20))]);
    let settings = Settings { silence: Duration::from_millis(300), ..settings(&hub) };
    let (import, start) = (Import::new(), Instant::now());
    import.run(&settings).unwrap();
    import.assert_complete();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn an_answer_that_comes_byte_by_byte_times_out() {
    let drip = || Fault::Drip(Duration::from_millis(10));
    for part in ["/blobs/org/tiny/model.safetensors", "/tree/", "/resolve-cache/"] {
        let hub = HubServer::start(vec![repo()]);
        let settings = Settings { silence: Duration::from_millis(120), attempts: 2, ..settings(&hub) };
        hub.fail(part, [drip()]);
        let import = Import::new();
        import.run(&settings).unwrap();
        import.assert_complete();
        // The bytes that came do not count as progress.
        hub.fail(part, vec![drip(); 2]);
        let error = Import::new().run(&settings).unwrap_err().to_string();
        assert!(error.contains("only ") && error.contains("attempt 2 of 2"), "{part}: {error}");
    }
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let hub = HubServer::start(vec![repo()]);
    hub.fail("/blobs/org/tiny/model.safetensors", [Fault::DropAfter(1000), Fault::IgnoreRange]);
    let import = Import::new();
    import.run(&settings(&hub)).unwrap();
    import.assert_complete();
}

#[test]
fn small_files_survive_dropped_connections_too() {
    let hub = HubServer::start(vec![repo()]);
    hub.fail("/resolve-cache/", [Fault::DropAfter(10), Fault::DropAfter(20)]);
    hub.fail("/tree/", [Fault::DropAfter(30), Fault::Hangup]);
    hub.fail("/revision/", [Fault::DropAfter(5)]);
    let import = Import::new();
    import.run(&settings(&hub)).unwrap();
    import.assert_complete();
}

#[test]
fn a_file_with_a_wrong_hash_is_refused_and_deleted() {
    for hub in [HubServer::start(vec![repo().lie_about("model.safetensors")]), {
        let hub = HubServer::start(vec![repo()]);
        hub.fail("/blobs/org/tiny/model.safetensors", [Fault::WrongBytes]);
        hub
    }] {
        let import = Import::new();
        let error = import.run(&settings(&hub)).expect_err("the bytes are wrong");
        assert_eq!(error.kind(), Kind::BadInput);
        let text = error.to_string();
        assert!(text.contains("model.safetensors") && text.contains("listed by the hub"), "{text}");
        assert!(contents(import.out.path()).is_empty());
        let left = contents(import.resume.path());
        assert!(!left.keys().any(|name| name.contains("model.safetensors")), "{left:?}");
    }
}

#[test]
fn a_damaged_partial_file_is_started_over() {
    let hub = HubServer::start(vec![repo()]);
    let import = Import::new();
    fs_err::create_dir_all(import.resume.path().join("download")).unwrap();
    let part = import.resume.path().join("download/model.safetensors.part");
    for left in [
        vec![7; 500],
        vec![7; golden("model.safetensors").len()],
        vec![7; golden("model.safetensors").len() + 9],
    ] {
        drop(fs_err::remove_dir_all(import.out.path().join("model")));
        drop(fs_err::remove_dir_all(import.out.path().join("tokenizer")));
        drop(fs_err::remove_file(import.resume.path().join("download/model.safetensors")));
        fs_err::write(&part, left).unwrap();
        import.run(&settings(&hub)).unwrap();
        import.assert_complete();
    }
}

#[test]
fn a_broken_hub_is_given_up() {
    let model = "/blobs/org/tiny/model.safetensors";
    let drops = || std::iter::repeat_n(Fault::DropAfter(1000), 50);
    // Wrong bytes with dropped connections; a server that starts over each time and never gets further.
    for faults in [vec![Fault::WrongBytes; 50], drops().collect()] {
        let hub = HubServer::start(vec![repo().lie_about("model.safetensors")]);
        hub.fail(model, faults);
        let start = Instant::now();
        Import::new().run(&settings(&hub)).expect_err("never right");
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn refusals_are_explained() {
    let hub = HubServer::start(vec![repo(), Repo::new("org/closed").gated()]);
    let settings = settings(&hub);
    let import = |id: &str, revision: &str, token: Option<&str>| {
        let settings = Settings { token: token.map(Into::into), ..settings.clone() };
        let config = Config { id: id.into(), revision: revision.into(), ..Config::default() };
        message(Import::new().run_with(&settings, &config, &Unwatched))
    };
    let text = import("org/closed", "main", None);
    assert!(text.contains("gated") && text.contains("HF_TOKEN") && text.contains("/org/closed`"), "{text}");
    let text = import("org/closed", "main", Some("stale"));
    assert!(text.contains("gated"), "{text}");
    let text = import("org/nothing", "main", None);
    assert!(text.contains("`org/nothing` does not exist, is private or is gated"), "{text}");
    let text = import(ID, "v9", None);
    assert!(text.contains("no such revision") && text.contains("v9"), "{text}");
    hub.fail("/revision/", [Fault::Status(404, None)]);
    assert!(import(ID, "main", None).contains("`org/tiny` does not exist on"));
    hub.fail("/revision/", [Fault::Status(403, None)]);
    assert!(import(ID, "main", None).contains("refused access (403)"));
}

#[test]
fn a_busy_hub_is_retried() {
    let hub = HubServer::start(vec![repo()]);
    hub.fail("/revision/", [Fault::Status(503, None), Fault::Status(429, Some(1))]);
    hub.fail("/blobs/", [Fault::Status(500, None), Fault::Status(403, None)]);
    let (import, start) = (Import::new(), Instant::now());
    import.run(&settings(&hub)).unwrap();
    import.assert_complete();
    assert!(start.elapsed() >= Duration::from_secs(1), "Retry-After was not obeyed");
    hub.fail("/revision/", std::iter::repeat_n(Fault::Status(503, None), 100));
    let text = message(Import::new().run(&settings(&hub)));
    assert!(
        text.contains("503") && text.contains("attempt 6 of 6") && text.contains("--model-dir"),
        "{text}"
    );
}

#[test]
fn without_a_network_the_hint_is_a_folder() {
    let gone = HubServer::start(vec![]).endpoint(); // nothing listens on this port any more
    let settings = Settings { endpoint: gone, ..settings(&HubServer::start(vec![])) };
    let import = Import::new();
    let text = message(import.run(&Settings { attempts: 2, ..settings }));
    assert!(
        text.contains("`org/tiny`") && text.contains("MODEL_DIR=") && text.contains("--model-dir"),
        "{text}"
    );
    assert!(contents(import.out.path()).is_empty());
}

#[test]
fn unusable_repositories_are_refused_before_their_weights_are_downloaded() {
    let mamba = Repo::new(ID)
        .file("config.json", br#"{"model_type":"mamba"}"#)
        .lfs("tokenizer.json", &golden("tokenizer.json"))
        .lfs("model.safetensors", &golden("model.safetensors"));
    let pickled =
        Repo::new(ID).file("config.json", b"{}").file("tokenizer.json", b"{}").lfs("pytorch_model.bin", b"x");
    for (repo, says) in [(mamba, "`mamba`"), (pickled, "only pickle files")] {
        let hub = HubServer::start(vec![repo]);
        let text = message(Import::new().run(&settings(&hub)));
        assert!(text.contains(says), "{text}");
        assert!(hub.requests().iter().all(|request| !request.target.contains("model.safetensors")));
    }
}

#[test]
fn a_hostile_shard_from_the_hub_is_refused() {
    let hostile = Repo::new(ID)
        .file("config.json", &golden("config.json"))
        .file("tokenizer_config.json", &golden("tokenizer_config.json"))
        .lfs("tokenizer.json", &golden("tokenizer.json"))
        .lfs("model.safetensors", &testutil::hostile::all().pop().unwrap().bytes);
    let hub = HubServer::start(vec![hostile]);
    let import = Import::new();
    assert!(message(import.run(&settings(&hub))).contains("no tensor"));
    assert!(contents(import.out.path()).is_empty());
}

#[test]
fn pins_choose_the_files_and_their_bytes() {
    let hub = HubServer::start(vec![repo()]);
    let import = Import::new();
    import.run(&settings(&hub)).unwrap();
    let pinned = Config { id: ID.into(), files: import.model(), ..Config::default() };
    let again = Import::new();
    again.run_with(&settings(&hub), &pinned, &Unwatched).unwrap();
    again.assert_complete();
    for name in ["model.safetensors", "config.json"] {
        let mut wrong = pinned.clone();
        wrong.files.insert(name.into(), sha256_hex(b"older"));
        let other = Import::new();
        let text = message(other.run_with(&settings(&hub), &wrong, &Unwatched));
        assert!(text.contains(name) && text.contains("pinned in the settings"), "{text}");
        assert!(contents(other.out.path()).is_empty());
    }
    let mut gone = pinned;
    gone.files.insert("special_tokens_map.json".into(), sha256_hex(b""));
    assert!(
        message(Import::new().run_with(&settings(&hub), &gone, &Unwatched))
            .contains("`special_tokens_map.json` is pinned")
    );
}

#[test]
fn settings_of_chats_are_kept_and_other_files_of_their_name_are_not() {
    for (text, is_kept) in [(r#"{"end_tokens":[7]}"#, true), (r#"[{"role":"user"}]"#, false)] {
        let hub = HubServer::start(vec![repo().file("chat.json", text.as_bytes())]);
        let import = Import::new();
        import.run(&settings(&hub)).unwrap();
        for output in ["model", "tokenizer"] {
            let file = import.out.path().join(output).join("chat.json");
            assert_eq!(file.exists(), is_kept, "{output}: {text}");
            assert!(!is_kept || fs_err::read_to_string(file).unwrap() == text);
        }
    }
}

#[test]
fn a_damaged_download_of_an_earlier_process_is_downloaded_again() {
    let hub = HubServer::start(vec![repo()]);
    for name in ["model.safetensors", "config.json"] {
        let import = Import::new();
        let folder = import.resume.path().join("download");
        fs_err::create_dir_all(&folder).unwrap();
        let mut damaged = golden(name);
        *damaged.last_mut().unwrap() ^= 1;
        fs_err::write(folder.join(name), damaged).unwrap();
        import.run(&settings(&hub)).unwrap();
        import.assert_complete();
    }
}

#[test]
fn the_variables_of_the_hub_are_read() {
    let home = temp();
    fs_err::write(home.path().join("token"), "from-file\n").unwrap();
    let path = home.path().display().to_string();
    let with = |pairs: &[(&str, &str)]| {
        let map: BTreeMap<String, String> = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Settings::from(|name| map.get(name).cloned())
    };
    let read =
        with(&[("HF_HOME", &path), ("HF_ENDPOINT", "http://mirror/"), ("HF_HUB_OFFLINE", "1")]).unwrap();
    assert_eq!(
        (read.endpoint.as_str(), read.token.as_deref(), read.offline),
        ("http://mirror", Some("from-file"), true)
    );
    assert_eq!(read.cache, Some(home.path().join("hub")));
    let read =
        with(&[("HF_HOME", &path), ("HF_HUB_CACHE", "/c"), ("HF_TOKEN", "t"), ("HF_HUB_OFFLINE", "0")])
            .unwrap();
    assert_eq!((read.cache, read.token.as_deref(), read.offline), (Some("/c".into()), Some("t"), false));
    let read = with(&[("HOME", "/h")]).unwrap();
    assert_eq!(
        (read.cache, read.endpoint.as_str()),
        (Some("/h/.cache/huggingface/hub".into()), "https://huggingface.co")
    );
    let read = with(&[("HOME", "/h"), ("HF_HOME", "~/models")]).unwrap();
    assert_eq!(read.cache, Some("/h/models/hub".into()));
    assert!(with(&[("HF_ENDPOINT", "mirror")]).is_err());
}

#[test]
fn endless_answers_are_cut_off() {
    // Small files whose size is not listed: one with the chat template, one that every model has.
    for name in ["tokenizer_config.json", "config.json"] {
        let hub = HubServer::start(vec![repo().unlisted(name)]);
        let whole = Import::new();
        whole.run(&settings(&hub)).unwrap();
        whole.assert_complete();
        hub.fail(&format!("/{name}"), [Fault::Endless]);
        let (import, start) = (Import::new(), Instant::now());
        let text = message(import.run(&settings(&hub)));
        assert!(text.contains(name) && text.contains("lists no size"), "{text}");
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
        let left: u64 = fs_err::read_dir(import.resume.path().join("download"))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(left < 1 << 20, "{left} bytes are left");
    }
    // Files whose size is listed, and the list itself.
    for (part, says) in [("/api/resolve-cache/", "sent more than the"), ("/tree/", "more than")] {
        let hub = HubServer::start(vec![repo()]);
        hub.fail(part, std::iter::repeat_n(Fault::Endless, 100));
        let import = Import::new();
        let text = message(import.run(&Settings { attempts: 2, ..settings(&hub) }));
        assert!(text.contains(says), "{text}");
        assert!(contents(import.out.path()).is_empty());
    }
}

#[test]
fn lists_that_no_repository_has_are_refused_at_once() {
    let files: Vec<_> = (0..=100_000).map(|index| format!(r#"{{"type":"file","path":"{index}"}}"#)).collect();
    for (list, says) in [
        (format!("[{}]", files.join(",")), "more than 100000 files"),
        (" ".repeat((16 << 20) + 1), "an answer of the hub has more than 16777216 bytes"),
    ] {
        let hub = HubServer::start(vec![repo()]);
        hub.fail("/tree/", [Fault::Body(list)]);
        let text = message(Import::new().run(&settings(&hub)));
        assert!(text.contains(says), "{text}");
    }
}

#[test]
fn a_shard_larger_than_any_disk_is_refused_before_the_download() {
    let entry = |name: &str| format!(r#"{{"type":"file","path":"{name}"}}"#);
    let shard = |name: &str, bytes: u64| {
        let oid = "0".repeat(64);
        format!(r#"{{"type":"file","path":"{name}","lfs":{{"oid":"{oid}","size":{bytes}}}}}"#)
    };
    for shards in [
        vec![shard("model.safetensors", u64::MAX)],
        vec![
            shard("model-00001-of-00002.safetensors", 1 << 63),
            shard("model-00002-of-00002.safetensors", 1 << 63),
        ],
    ] {
        let hub = HubServer::start(vec![repo()]);
        let list = [vec![entry("config.json"), entry("tokenizer.json")], shards].concat().join(",");
        hub.fail("/tree/", [Fault::Body(format!("[{list}]"))]);
        let text = message(Import::new().run(&settings(&hub)));
        assert!(text.contains("free"), "{text}");
    }
}

#[test]
fn a_repository_with_countless_templates_is_refused_before_they_are_downloaded() {
    let files = (0..65).map(|index| format!("additional_chat_templates/t{index}.jinja"));
    let repo = files.fold(repo(), |repo, name| repo.file(&name, b"x"));
    let hub = HubServer::start(vec![repo]);
    let text = message(Import::new().run(&settings(&hub)));
    assert!(text.contains("has 65 files; up to 64"), "{text}");
    assert!(hub.requests().iter().all(|request| !request.target.contains("/resolve/")));
}

/// Stops after this number of bytes.
struct StopAfter(AtomicU64);

impl Watch for StopAfter {
    fn stop(&self) -> Option<i32> {
        (self.0.load(Ordering::SeqCst) == 0).then_some(2)
    }
    fn advance(&self, bytes: u64) {
        let left = self.0.load(Ordering::SeqCst);
        self.0.store(left.saturating_sub(bytes), Ordering::SeqCst);
    }
}

#[test]
fn an_interrupted_download_keeps_its_bytes() {
    let hub = HubServer::start(vec![repo()]);
    let import = Import::new();
    let config = Config { id: ID.into(), ..Config::default() };
    let stopped = import.run_with(&settings(&hub), &config, &StopAfter(AtomicU64::new(1)));
    assert!(matches!(stopped, Err(Error::Hub(::hub::Error::Interrupted { signal: 2 }))), "{stopped:?}");
    assert!(contents(import.out.path()).is_empty());
    import.run(&settings(&hub)).unwrap();
    import.assert_complete();
}
