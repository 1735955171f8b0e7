//! The program as a shell sees it: exit codes, stdout, stderr, published artifacts.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use insta::assert_snapshot;
use testutil::files::{copy_files, golden_dir, sha256_hex, workspace_root};
use testutil::hub::{Fault, HubServer, Repo};
use testutil::{Program, Ran, Sandbox, hostile};

const ID: &str = "org/tiny";

/// A sandbox with an empty home folder, and the address of a hub.
struct Shell {
    sandbox: Sandbox,
    endpoint: String,
}

impl Shell {
    fn new(endpoint: &str) -> Self {
        Self { sandbox: Sandbox::new(), endpoint: endpoint.into() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.sandbox.join(name)
    }

    fn program(&self, arguments: &[&str]) -> Program {
        let mut program = self.sandbox.program(env!("CARGO_BIN_EXE_import-model"));
        program.env("HOME", self.path("home")).env("HF_ENDPOINT", &self.endpoint);
        program.args(arguments);
        program
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        self.program(arguments).run()
    }

    /// Runs the program, which must succeed, and returns the artifact that it printed.
    #[track_caller]
    fn artifact(&self, arguments: &[&str]) -> PathBuf {
        let path = self.path("").join(self.run(arguments).path());
        assert!(path.join("COMMIT").is_file(), "{}", path.display());
        path
    }

    /// Runs the program, which must fail with `code` and publish nothing, and returns its stderr.
    #[track_caller]
    fn refused(&self, arguments: &[&str], code: i32) -> String {
        let said = self.sandbox.refused(&mut self.program(arguments), code);
        assert!(said.contains("error: ") && said.contains("hint: "), "{said}");
        said
    }

    /// Writes a preset with the table `[import-model]`.
    fn preset(&self, table: &str) -> PathBuf {
        self.sandbox.write("preset.toml", format!("# Comment.\n[import-model]\n{table}"))
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

/// The golden model `llama-q4`, whose weights are quantized, as a repository.
fn quantized_repo() -> Repo {
    let folder = golden_dir().join("llama-q4");
    let read = |name: &str| fs_err::read(folder.join(name)).unwrap();
    Repo::new(ID)
        .file("config.json", &read("config.json"))
        .file("tokenizer_config.json", &read("tokenizer_config.json"))
        .lfs("model.safetensors", &read("model.safetensors"))
        .lfs("tokenizer.json", &read("tokenizer.json"))
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
    let first = shell.artifact(&["--model-dir", text(&model)]);
    for name in
        ["data/model/model.safetensors", "data/tokenizer/ids.json", "data/import.json", "manifest.json"]
    {
        assert!(first.join(name).is_file(), "{name}");
    }
    let manifest = fs_err::read_to_string(first.join("manifest.json")).unwrap();
    assert!(!manifest.contains("my model"), "a path of this machine is in {manifest}");
    assert_eq!(shell.run(&["--model-dir", text(&model), "--plan"]).code, Some(0));
    // The same bytes in another folder, with other times, are the same model.
    let moved = shell.path("moved");
    copy_files(&model, &moved);
    assert_eq!(shell.artifact(&["--model-dir", text(&moved)]), first);
    fs_err::write(moved.join("generation_config.json"), "{}").unwrap();
    assert_eq!(shell.run(&["--model-dir", text(&moved), "--plan"]).code, Some(10));
    assert_ne!(shell.artifact(&["--model-dir", text(&moved)]), first);
    let preset = shell.preset("model_dir = \"my model\"\n[train]\nbatch_size = 1\n");
    assert_eq!(shell.artifact(&["--config", text(&preset)]), first);
}

#[test]
fn one_folder_is_written_without_a_store() {
    let shell = no_hub();
    let model = golden_dir().join("llama");
    let out = shell.path("out");
    assert_eq!(shell.artifact(&["--model-dir", text(&model), "--out", text(&out)]), out);
    assert!(out.join("data/model/config.json").is_file());
}

#[test]
fn hostile_weights_end_with_65_and_nothing_published() {
    let shell = no_hub();
    for case in hostile::all() {
        let model = shell.path("model");
        copy_files(&golden_dir().join("llama"), &model);
        fs_err::write(model.join("model.safetensors"), &case.bytes).unwrap();
        let said = shell.refused(&["--model-dir", text(&model)], 65);
        assert!(said.contains("model.safetensors") && said.contains(case.mentions), "{said}");
    }
    assert_snapshot!(shell.refused(&["--model-dir", "nowhere"], 65), @r"
    error: `nowhere`: no such folder
    hint: give the folder with `config.json`, `tokenizer.json` and `model*.safetensors`
    ");
}

#[test]
fn files_without_end_are_refused_before_they_are_hashed() {
    let shell = no_hub();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        let model = shell.path("model");
        copy_files(&golden_dir().join("llama"), &model);
        let start = Instant::now();
        fs_err::OpenOptions::new().write(true).open(model.join(name)).unwrap().set_len(1 << 40).unwrap();
        let said = shell.refused(&["--model-dir", text(&model)], 65);
        assert!(said.contains(name), "{said}");
        assert!(start.elapsed() < Duration::from_secs(10), "{name}: {:?}", start.elapsed());
    }
}

#[test]
fn numbers_that_are_no_tokens_are_told_once() {
    let shell = no_hub();
    let model = shell.path("model");
    copy_files(&golden_dir().join("llama"), &model);
    let ids: Vec<i32> = (-1..100_000).collect();
    let table = serde_json::json!({ "eos_token_id": ids }).to_string();
    fs_err::write(model.join("generation_config.json"), table).unwrap();
    let ran = shell.run(&["--model-dir", text(&model)]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let told: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("no text has it")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("`eos_token_id` in `generation_config.json` is -1, "), "{told:?}");
}

#[test]
fn mistakes_in_the_settings_end_with_2() {
    let shell = no_hub();
    assert_snapshot!(shell.refused(&[], 2), @r"
    error: no model is specified
    hint: use `--model-dir DIR`, `--id ORG/NAME`, or `--config` with a preset in `pipelines/models/`
    ");
    let said = shell.refused(&["--set", "revison=main"], 2);
    assert!(said.contains("`revison`") && said.contains("`revision`"), "{said}");
    let said = shell.run(&["--id", "not a repository"]).failed(2);
    assert!(said.contains("ORG/NAME"), "{said}");
}

#[test]
fn a_settings_file_starts_from_the_one_that_it_includes() {
    let shell = no_hub();
    let folder = golden_dir().join("llama");
    let table = format!("[import-model]\nmodel_dir = \"{}\"\nlicense = \"mit\"\n", text(&folder));
    shell.sandbox.write("common/base.toml", table);
    let preset = shell.sandbox.write("models/mine.toml", "include = \"../common/base.toml\"\n");
    let artifact = shell.artifact(&["--config", text(&preset)]);
    let record = |artifact: &Path| fs_err::read_to_string(artifact.join("data/import.json")).unwrap();
    assert!(record(&artifact).contains("\"mit\""));
    fs_err::write(&preset, "include = \"../common/base.toml\"\n[import-model]\nlicense = \"bsd-2-clause\"\n")
        .unwrap();
    assert!(record(&shell.artifact(&["--config", text(&preset)])).contains("\"bsd-2-clause\""));
    let nested = shell.sandbox.write("models/nested.toml", "include = \"mine.toml\"\n");
    let said = shell.refused(&["--config", text(&nested)], 2);
    assert!(said.contains("models/mine.toml") && said.contains("includes another file"), "{said}");
    fs_err::write(&nested, "include = [\"mine.toml\"]\n").unwrap();
    assert!(shell.run(&["--config", text(&nested)]).failed(2).contains("`include` must be the path"));
    fs_err::write(&nested, "include = \"nowhere.toml\"\n").unwrap();
    let said = shell.run(&["--config", text(&nested)]).failed(2);
    assert!(said.contains("nowhere.toml") && said.contains("nested.toml"), "{said}");
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
        let is_named = !run.config().license.is_empty() || preset.file_name() == "demo.toml";
        assert!(is_named, "{} names no licence", preset.path().display());
        count += 1;
    }
    assert!(count >= 20, "only {count} presets");
}

#[test]
fn without_a_network_nothing_is_published_and_the_hint_is_a_folder() {
    let hub = HubServer::start(vec![]);
    let shell = Shell::new(&hub.endpoint());
    let said = shell.refused(&["--id", ID], 1);
    assert!(said.contains(ID) && said.contains("HF_TOKEN"), "{said}");
    let offline = shell.sandbox.refused(shell.program(&["--id", ID]).env("HF_HUB_OFFLINE", "1"), 1);
    assert_snapshot!(offline, @r"
    error: `org/tiny`: `main` is not in the local hub cache `[SANDBOX]/home/.cache/huggingface/hub`, and `HF_HUB_OFFLINE` forbids the network
    hint: to use a model that is already on this machine, name its folder: `make pipeline MODEL_DIR=/path/to/model`, or `import-model --model-dir /path/to/model`; the hub's local cache is found through `HF_HOME`
    ");
}

#[test]
fn the_key_holds_the_commit_and_a_pinned_model_needs_no_network() {
    let hub = HubServer::start(vec![repo()]);
    let shell = Shell::new(&hub.endpoint());
    let preset = shell.preset("id = \"org/tiny\"\nrevision = \"main\"\n");
    let first = shell.artifact(&["--config", text(&preset), "--write-lock", text(&preset)]);
    assert!(first.file_name().unwrap().to_str().unwrap().contains("tiny"), "{}", first.display());
    let pinned = fs_err::read_to_string(&preset).unwrap();
    assert!(pinned.starts_with("# Comment.\n") && pinned.contains(repo().commit()), "{pinned}");
    assert!(pinned.contains(&sha256_hex(&golden("model.safetensors"))), "{pinned}");

    // By pin or by branch, the same commit is the same artifact; a pinned model needs no request.
    assert_eq!(shell.artifact(&["--id", ID]), first);
    hub.forget();
    assert_eq!(shell.artifact(&["--config", text(&preset)]), first);
    let offline = shell.program(&["--config", text(&preset)]).env("HF_HUB_OFFLINE", "1").run();
    assert_eq!(shell.path("").join(offline.path()), first);
    assert!(hub.requests().is_empty(), "{:?}", hub.requests());

    // Pinning again changes nothing; a pin that differs from the artifact is an error, even on a hit.
    let touched = fs_err::metadata(&preset).unwrap().modified().unwrap();
    shell.artifact(&["--config", text(&preset), "--write-lock", text(&preset)]);
    assert_eq!(fs_err::metadata(&preset).unwrap().modified().unwrap(), touched);
    let other = pinned.replace(&sha256_hex(&golden("config.json")), &"0".repeat(64));
    fs_err::write(&preset, other).unwrap();
    assert_snapshot!(shell.refused(&["--config", text(&preset)], 65), @r"
    error: `artifacts/import-model/[HASH]-tiny/data/model/config.json`: sha256 is `[HASH]`, expected `[HASH]` (pinned in the settings)
    hint: if the change is intended, remove `files` from the model's settings, import, and pin again with `--write-lock`
    ");
}

/// Settings that are part of the key, beside the source.
const KEY_SETTINGS: [&str; 3] =
    ["license = \"mit\"\n", "[import-model.quantize]\nmode = \"nvfp4\"\n", "dequantize = true\n"];

/// Imports with `preset`, pins it, and checks that the pins are those of `files` and are enforced on a hit.
fn pin_and_check(shell: &Shell, preset: &Path, settings: &str, files: &Path) {
    let arguments = ["--config", text(preset), "--write-lock", text(preset)];
    let unpinned = fs_err::read_to_string(preset).unwrap();
    let first = shell.artifact(&arguments);
    let pinned = fs_err::read_to_string(preset).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        let hash = sha256_hex(&fs_err::read(files.join(name)).unwrap());
        assert!(pinned.contains(&format!("\"{name}\" = \"{hash}\"")), "{settings}: {name} in {pinned}");
    }
    assert_eq!(shell.artifact(&arguments), first, "{settings}: pins do not change the key");
    assert_eq!(fs_err::read_to_string(preset).unwrap(), pinned, "{settings}: pinning again changes nothing");
    // Pins can be written on a hit, too.
    fs_err::write(preset, &unpinned).unwrap();
    assert_eq!(shell.artifact(&arguments), first);
    assert_eq!(fs_err::read_to_string(preset).unwrap(), pinned, "{settings}");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let hash = sha256_hex(&fs_err::read(files.join(name)).unwrap());
        fs_err::write(preset, pinned.replace(&hash, &"0".repeat(64))).unwrap();
        let said = shell.refused(&["--config", text(preset)], 65);
        assert!(said.contains(name) && said.contains("pinned in the settings"), "{settings}: {said}");
    }
    fs_err::write(preset, &pinned).unwrap();
    let other = Shell::new(&shell.endpoint);
    other.artifact(&["--config", text(preset)]); // without a hit, the pins pass as well
}

#[test]
fn a_folder_is_pinned_with_every_setting_that_is_part_of_the_key() {
    for settings in KEY_SETTINGS {
        let shell = no_hub();
        let folder = golden_dir().join(if settings.contains("dequantize") { "llama-q4" } else { "llama" });
        let preset = shell.preset(&format!("model_dir = \"{}\"\n{settings}", text(&folder)));
        pin_and_check(&shell, &preset, settings, &folder);
    }
}

#[test]
fn a_repository_is_pinned_with_every_setting_that_is_part_of_the_key() {
    for settings in KEY_SETTINGS {
        let is_quantized = settings.contains("dequantize");
        let hub = HubServer::start(vec![if is_quantized { quantized_repo() } else { repo() }]);
        let shell = Shell::new(&hub.endpoint());
        let preset = shell.preset(&format!("id = \"{ID}\"\nrevision = \"main\"\n{settings}"));
        let folder = golden_dir().join(if is_quantized { "llama-q4" } else { "llama" });
        pin_and_check(&shell, &preset, settings, &folder);
        let pinned = fs_err::read_to_string(&preset).unwrap();
        assert!(pinned.contains("revision = \"") && !pinned.contains("revision = \"main\""), "{pinned}");
    }
}

#[test]
fn without_a_record_of_its_source_a_converted_repository_is_pinned_by_importing_it_again() {
    let hub = HubServer::start(vec![repo()]);
    let shell = Shell::new(&hub.endpoint());
    let preset = shell.preset("id = \"org/tiny\"\n[import-model.quantize]\nmode = \"nvfp4\"\n");
    let arguments = ["--config", text(&preset), "--write-lock", text(&preset)];
    let artifact = shell.artifact(&["--config", text(&preset)]);
    fs_err::remove_file(artifact.join("telemetry/source.json")).unwrap();
    let ran = shell.run(&arguments);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    ran.says(&["no record of the source files", "hint: run the same command with `--force`"]);
    let forced = shell.artifact(&[&arguments[..], &["--force"]].concat());
    assert_eq!(forced, artifact);
    let pinned = fs_err::read_to_string(&preset).unwrap();
    assert!(pinned.contains(&sha256_hex(&golden("config.json"))), "{pinned}");
    // Copied files are compared, with a warning about the others.
    let ran = shell.run(&["--config", text(&preset)]);
    ran.succeeded();
    ran.says(&["has no record of its source"]);
    let wrong = pinned.replace(&sha256_hex(&golden("tokenizer.json")), &"0".repeat(64));
    fs_err::write(&preset, wrong).unwrap();
    shell.refused(&["--config", text(&preset)], 65);
}

#[test]
fn flags_replace_the_source_and_the_pins_of_a_preset() {
    let hub = HubServer::start(vec![repo(), Repo::new("org/other")]);
    let shell = Shell::new(&hub.endpoint());
    let preset = shell.path("other.toml");
    let pins = format!(
        "[import-model]\nid = \"org/other\"\nrevision = \"v7\"\nfiles = {{ \"config.json\" = \"{}\" }}\n",
        "0".repeat(64)
    );
    fs_err::write(&preset, pins).unwrap();
    shell.artifact(&["--config", text(&preset), "--id", ID]);
    let folder = golden_dir().join("llama");
    let from_folder = shell.artifact(&["--config", text(&preset), "--model-dir", text(&folder)]);
    assert_eq!(shell.artifact(&["--model-dir", text(&folder)]), from_folder);
    fs_err::write(&preset, format!("[import-model]\nmodel_dir = \"{}\"\n", text(&folder))).unwrap();
    let said = shell.refused(&["--config", text(&preset), "--id", ID, "--revision", "v8"], 1);
    assert!(said.contains("v8") && said.contains("no such revision"), "{said}");
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
fn a_killed_download_resumes_where_it_stopped() {
    let hub = HubServer::start(vec![repo()]);
    hub.fail("/blobs/org/tiny/model.safetensors", [Fault::StallAfter(3000, Duration::from_mins(1))]);
    let shell = Shell::new(&hub.endpoint());
    let mut program = shell.program(&["--id", ID]);
    let mut child = program.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_partial(&shell.sandbox.store(), 3000);
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    assert!(shell.sandbox.trees().is_empty());
    assert_eq!(shell.run(&["--id", ID, "--plan"]).code, Some(11));
    hub.forget();
    let artifact = shell.artifact(&["--id", ID]);
    let model = fs_err::read(artifact.join("data/model/model.safetensors")).unwrap();
    assert_eq!(sha256_hex(&model), sha256_hex(&golden("model.safetensors")));
    let blobs: Vec<_> = hub.requests().into_iter().filter(|it| it.on_storage).collect();
    assert_eq!(blobs.len(), 1, "only the missing bytes are requested: {blobs:?}");
    assert_eq!(blobs[0].range.as_deref(), Some("bytes=3000-"));
}

#[cfg(unix)]
#[test]
fn an_interrupted_download_ends_with_130_and_resumes() {
    let hub = HubServer::start(vec![repo()]);
    // Pauses between attempts are where a stop is noticed even when no byte comes.
    hub.fail("/blobs/org/tiny/model.safetensors", [Fault::DropAfter(3000), Fault::Status(503, Some(60))]);
    let shell = Shell::new(&hub.endpoint());
    let child = shell.program(&["--id", ID]).spawn();
    wait_for_partial(&shell.sandbox.store(), 3000);
    let start = Instant::now();
    while hub.requests().iter().filter(|it| it.target.contains("/blobs/org/tiny/model")).count() < 2 {
        assert!(start.elapsed() < Duration::from_secs(30), "no second attempt");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    Ran::from(child.wait_with_output().unwrap()).failed(130);
    assert!(shell.sandbox.trees().is_empty());
    shell.artifact(&["--id", ID]);
}
