//! The program as a shell sees it: exit codes, stdout, stderr, what is published.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testutil::files::{contents, copy_files, golden_dir, sha256_hex, workspace_root};
use testutil::hostile;
use testutil::hub::{Fault, HubServer, Repo};

const ID: &str = "org/tiny";

/// A place to run in: a store, a home without settings, and the hub if there is one.
struct Shell {
    dir: TempDir,
    endpoint: String,
}

impl Shell {
    fn new(endpoint: &str) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), endpoint: endpoint.into() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_import-model"));
        command.env_clear().env("HOME", self.path("home")).env("HF_ENDPOINT", &self.endpoint);
        command.args(arguments).arg("--store").arg(self.path("store")).current_dir(self.dir.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Done {
        self.command(arguments).output().unwrap().into()
    }

    /// Every file of every published artifact.
    fn published(&self) -> Vec<String> {
        let all = contents(&self.path("store"));
        all.into_keys()
            .filter(|name| name.ends_with("/COMMIT") && !name.contains("/.") && !name.starts_with('.'))
            .collect()
    }
}

struct Done {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Done {
    /// The artifact that was printed, after checking that nothing else was.
    fn artifact(&self) -> PathBuf {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        assert_eq!(self.stdout.lines().count(), 1, "{}", self.stdout);
        let path = PathBuf::from(self.stdout.trim_end());
        assert!(path.join("COMMIT").is_file(), "{}", path.display());
        path
    }

    fn assert_fails(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        assert_eq!(self.stdout, "");
        for part in says.iter().chain(&["error: ", "hint: "]) {
            assert!(self.stderr.contains(part), "no `{part}` in: {}", self.stderr);
        }
    }
}

fn golden(name: &str) -> Vec<u8> {
    fs_err::read(golden_dir().join("llama").join(name)).unwrap()
}

fn repo() -> Repo {
    Repo::new(ID)
        .file("config.json", &golden("config.json"))
        .file("tokenizer_config.json", &golden("tokenizer_config.json"))
        .lfs("model.safetensors", &golden("model.safetensors"))
        .lfs("tokenizer.json", &golden("tokenizer.json"))
}

fn no_hub() -> Shell {
    Shell::new("http://127.0.0.1:9")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_folder_is_imported_once_and_by_content() {
    let shell = no_hub();
    let model = shell.path("my model");
    copy_files(&golden_dir().join("llama"), &model);
    let first = shell.run(&["--model-dir", text(&model)]).artifact();
    for name in
        ["data/model/model.safetensors", "data/tokenizer/ids.json", "data/import.json", "manifest.json"]
    {
        assert!(first.join(name).is_file(), "{name}");
    }
    let manifest = fs_err::read_to_string(first.join("manifest.json")).unwrap();
    assert!(!manifest.contains("my model"), "a path of this machine is in {manifest}");
    assert_eq!(shell.run(&["--model-dir", text(&model), "--plan"]).code, Some(0));
    // The same bytes elsewhere, with other times, are the same model.
    let moved = shell.path("moved");
    copy_files(&model, &moved);
    assert_eq!(shell.run(&["--model-dir", text(&moved)]).artifact(), first);
    fs_err::write(moved.join("generation_config.json"), "{}").unwrap();
    assert_eq!(shell.run(&["--model-dir", text(&moved), "--plan"]).code, Some(10));
    assert_ne!(shell.run(&["--model-dir", text(&moved)]).artifact(), first);
    let preset = shell.path("preset.toml");
    fs_err::write(&preset, "[import-model]\nmodel_dir = \"my model\"\n[train]\nbatch_size = 1\n").unwrap();
    assert_eq!(shell.run(&["--config", text(&preset)]).artifact(), first);
}

#[test]
fn one_folder_is_written_without_a_store() {
    let shell = no_hub();
    let model = golden_dir().join("llama");
    let out = shell.path("out");
    let done = Command::new(env!("CARGO_BIN_EXE_import-model"))
        .args(["--model-dir", text(&model), "--out", text(&out)])
        .env_clear()
        .env("HOME", shell.path("home"))
        .output()
        .unwrap();
    assert_eq!(Done::from(done).artifact(), out);
    assert!(out.join("data/model/config.json").is_file());
}

#[test]
fn hostile_weights_end_with_65_and_nothing_published() {
    let shell = no_hub();
    for case in hostile::all() {
        let model = shell.path("model");
        copy_files(&golden_dir().join("llama"), &model);
        fs_err::write(model.join("model.safetensors"), &case.bytes).unwrap();
        shell.run(&["--model-dir", text(&model)]).assert_fails(65, &["model.safetensors", case.mentions]);
    }
    shell.run(&["--model-dir", "nowhere"]).assert_fails(65, &["`nowhere`", "no such folder"]);
    assert_eq!(shell.published(), [""; 0]);
}

#[test]
fn mistakes_in_the_settings_end_with_2() {
    let shell = no_hub();
    shell.run(&[]).assert_fails(2, &["no model is named", "--model-dir"]);
    shell.run(&["--set", "revison=main"]).assert_fails(2, &["`revison`", "`revision`"]);
    let wrong = shell.run(&["--id", "not a repository"]);
    assert_eq!(wrong.code, Some(2), "{}", wrong.stderr);
    assert!(wrong.stderr.contains("ORG/NAME"), "{}", wrong.stderr);
}

#[test]
fn every_preset_can_be_read() {
    let store = tempfile::tempdir().unwrap();
    let mut count = 0;
    for preset in fs_err::read_dir(workspace_root().join("pipelines/models")).unwrap().flatten() {
        let common = stage::CommonArgs {
            config: vec![preset.path()],
            store: store.path().into(),
            ..Default::default()
        };
        let run = stage::Run::<import_model::Config>::new(&common);
        let run = run.unwrap_or_else(|error| panic!("{}: {error}", preset.path().display()));
        assert!(run.config().source().is_ok(), "{}", preset.path().display());
        count += 1;
    }
    assert!(count >= 10, "only {count} presets");
}

#[test]
fn without_a_network_nothing_is_published_and_a_folder_is_proposed() {
    let hub = HubServer::start(vec![]);
    let shell = Shell::new(&hub.endpoint());
    shell.run(&["--id", ID]).assert_fails(1, &[ID, "HF_TOKEN"]);
    let offline = shell.command(&["--id", ID]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    Done::from(offline).assert_fails(1, &[ID, "HF_HUB_OFFLINE", "--model-dir", "MODEL_DIR="]);
    assert_eq!(shell.published(), [""; 0]);
}

#[test]
fn the_key_holds_the_commit_and_a_pinned_model_needs_no_network() {
    let hub = HubServer::start(vec![repo()]);
    let shell = Shell::new(&hub.endpoint());
    let preset = shell.path("tiny.toml");
    fs_err::write(&preset, "# Licence: none.\n[import-model]\nid = \"org/tiny\"\nrevision = \"main\"\n")
        .unwrap();
    let first = shell.run(&["--config", text(&preset), "--write-lock", text(&preset)]).artifact();
    assert!(first.file_name().unwrap().to_str().unwrap().contains("tiny"), "{}", first.display());
    let pinned = fs_err::read_to_string(&preset).unwrap();
    assert!(pinned.starts_with("# Licence: none.\n") && pinned.contains(repo().commit()), "{pinned}");
    assert!(pinned.contains(&sha256_hex(&golden("model.safetensors"))), "{pinned}");

    // Pinned or by branch, it is the same commit, so the same artifact; pinned, nobody is asked.
    assert_eq!(shell.run(&["--id", ID]).artifact(), first);
    hub.forget();
    assert_eq!(shell.run(&["--config", text(&preset)]).artifact(), first);
    let offline = shell.command(&["--config", text(&preset)]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!(Done::from(offline).artifact(), first);
    assert!(hub.requests().is_empty(), "{:?}", hub.requests());

    // Pinning again touches nothing; a pin that the artifact does not match is an error, even on a hit.
    let touched = fs_err::metadata(&preset).unwrap().modified().unwrap();
    shell.run(&["--config", text(&preset), "--write-lock", text(&preset)]).artifact();
    assert_eq!(fs_err::metadata(&preset).unwrap().modified().unwrap(), touched);
    let other = pinned.replace(&sha256_hex(&golden("config.json")), &"0".repeat(64));
    fs_err::write(&preset, other).unwrap();
    shell.run(&["--config", text(&preset)]).assert_fails(65, &["config.json", "pinned in the settings"]);
}

#[test]
fn flags_take_the_place_of_a_preset_and_its_pins() {
    let hub = HubServer::start(vec![repo(), Repo::new("org/other")]);
    let shell = Shell::new(&hub.endpoint());
    let preset = shell.path("other.toml");
    let pins = format!(
        "[import-model]\nid = \"org/other\"\nrevision = \"v7\"\nfiles = {{ \"config.json\" = \"{}\" }}\n",
        "0".repeat(64)
    );
    fs_err::write(&preset, pins).unwrap();
    shell.run(&["--config", text(&preset), "--id", ID]).artifact();
    let folder = golden_dir().join("llama");
    let from_folder = shell.run(&["--config", text(&preset), "--model-dir", text(&folder)]).artifact();
    assert_eq!(shell.run(&["--model-dir", text(&folder)]).artifact(), from_folder);
    fs_err::write(&preset, format!("[import-model]\nmodel_dir = \"{}\"\n", text(&folder))).unwrap();
    shell
        .run(&["--config", text(&preset), "--id", ID, "--revision", "v8"])
        .assert_fails(1, &["v8", "no such revision"]);
}

/// Waits until the model's first bytes are in a partial file below `store`.
fn wait_for_partial(store: &Path, bytes: u64) {
    fn find(dir: &Path) -> Option<u64> {
        fs_err::read_dir(dir).ok()?.flatten().find_map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                find(&path)
            } else {
                path.ends_with("model.safetensors.part").then(|| entry.metadata().ok().map(|it| it.len()))?
            }
        })
    }
    let start = Instant::now();
    while find(store).is_none_or(|there| there < bytes) {
        assert!(start.elapsed() < Duration::from_secs(30), "the download did not start");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_killed_download_goes_on_where_it_stopped() {
    let hub = HubServer::start(vec![repo()]);
    hub.fail("/blobs/org/tiny/model.safetensors", [Fault::StallAfter(3000, Duration::from_mins(1))]);
    let shell = Shell::new(&hub.endpoint());
    let mut child = shell.command(&["--id", ID]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_partial(&shell.path("store"), 3000);
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    assert_eq!(shell.published(), [""; 0]);
    assert_eq!(shell.run(&["--id", ID, "--plan"]).code, Some(11));
    hub.forget();
    let artifact = shell.run(&["--id", ID]).artifact();
    let model = fs_err::read(artifact.join("data/model/model.safetensors")).unwrap();
    assert_eq!(sha256_hex(&model), sha256_hex(&golden("model.safetensors")));
    let blobs: Vec<_> = hub.requests().into_iter().filter(|it| it.on_storage).collect();
    assert_eq!(blobs.len(), 1, "only what was missing is asked for: {blobs:?}");
    assert_eq!(blobs[0].range.as_deref(), Some("bytes=3000-"));
}

#[cfg(unix)]
#[test]
fn an_interrupted_download_ends_with_130_and_goes_on() {
    let hub = HubServer::start(vec![repo()]);
    // Pauses between attempts are where a stop is noticed even when no byte comes.
    hub.fail("/blobs/org/tiny/model.safetensors", [Fault::DropAfter(3000), Fault::Status(503, Some(60))]);
    let shell = Shell::new(&hub.endpoint());
    let child = shell.command(&["--id", ID]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_partial(&shell.path("store"), 3000);
    let start = Instant::now();
    while hub.requests().iter().filter(|it| it.target.contains("/blobs/org/tiny/model")).count() < 2 {
        assert!(start.elapsed() < Duration::from_secs(30), "no second attempt");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let done = Done::from(child.wait_with_output().unwrap());
    assert_eq!(done.code, Some(130), "{}", done.stderr);
    assert_eq!((done.stdout.as_str(), shell.published().len()), ("", 0));
    shell.run(&["--id", ID]).artifact();
}
