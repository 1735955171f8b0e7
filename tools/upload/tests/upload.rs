//! Uploads to a hub on this machine: files arrive whole and only once, failures are retried, refusals are explained.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use artifact::{Draft, KeyMaterial, write_folder};
use failure::{Failure as _, Kind};
use hub::{Settings, Unwatched};
use serde_json::{Value, json};
use testutil::hub::{Fault, HubServer, READ_TOKEN, Repo, Seen, TOKEN};
use testutil::{Program, Ran, Sandbox, filtered, golden_dir};
use upload::{Destination, Error, LocalFile, Outcome, Part, contents, push};

const ID: &str = "jane/tuned";
const MAIN: Destination<'_> =
    Destination { id: ID, revision: "main", private: false, replace_weights: false, message: "first" };

/// Makes an artifact like that of `fuse`: a golden model with these further files.
fn fused(folder: &Path, more: &[(&str, &[u8])]) -> PathBuf {
    let draft = Draft::new("fused", KeyMaterial::new("fuse", 1, json!({})));
    let out = folder.join("fused");
    write_folder(&out, &draft, |data| {
        let model = data.join("model");
        fs_err::create_dir(&model)?;
        for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            fs_err::copy(golden_dir().join("llama").join(name), model.join(name))?;
        }
        for (name, bytes) in more {
            fs_err::write(model.join(name), bytes)?;
        }
        Ok(fs_err::write(data.join("fuse.json"), "{}\n")?)
    })
    .unwrap();
    out
}

/// Returns the files of the model in an artifact.
fn local_files(path: &Path) -> Result<Vec<LocalFile>, Error> {
    contents(path, Part::Model, &[], None, "tuned").map(|contents| contents.files)
}

struct Bench {
    sandbox: Sandbox,
    hub: HubServer,
    files: Vec<LocalFile>,
}

impl Bench {
    fn new(repos: Vec<Repo>) -> Self {
        let sandbox = Sandbox::new();
        let files = local_files(&fused(sandbox.path(), &[("README.md", b"# Tuned\n")])).unwrap();
        Self { sandbox, hub: HubServer::start(repos), files }
    }

    fn settings(&self, token: &str) -> Settings {
        let endpoint = self.hub.endpoint();
        let settings = Settings::from(|name| (name == "HF_ENDPOINT").then(|| endpoint.clone())).unwrap();
        Settings {
            token: (!token.is_empty()).then(|| token.to_owned()),
            first_pause: Duration::from_millis(5),
            silence: Duration::from_secs(2),
            ..settings
        }
    }

    fn push(&self) -> Result<Outcome, Error> {
        self.push_to(&MAIN, TOKEN)
    }

    fn push_to(&self, destination: &Destination<'_>, token: &str) -> Result<Outcome, Error> {
        push(&self.files, destination, &self.settings(token), &Unwatched)
    }

    /// Returns the requests other than GET whose target contains `part`.
    fn sent(&self, part: &str) -> Vec<Seen> {
        self.hub.requests().into_iter().filter(|it| it.method != "GET" && it.target.contains(part)).collect()
    }

    /// Checks that the branch holds exactly our files and those of the hub, byte for byte.
    fn assert_there(&self, branch: &str) {
        let mut there = self.hub.repo(ID).unwrap().contents(branch);
        there.remove(".gitattributes");
        assert_eq!(there.len(), self.files.len(), "{:?}", there.keys());
        for file in &self.files {
            let (bytes, is_large) = &there[&file.name];
            assert!(*bytes == fs_err::read(&file.path).unwrap(), "`{}` has other bytes", file.name);
            assert_eq!(
                *is_large,
                ["model.safetensors", "tokenizer.json"].contains(&&*file.name),
                "{}",
                file.name
            );
        }
    }
}

#[test]
fn a_model_and_its_card_arrive_in_one_commit_and_only_once() {
    let bench = Bench::new(vec![]);
    let first = bench.push().unwrap();
    bench.assert_there("main");
    assert_eq!(first.changed.len(), 5);
    assert_eq!(first.commit, bench.hub.repo(ID).unwrap().commit());
    assert_eq!(bench.hub.repo(ID).unwrap().history(), 2, "one commit beside the first");
    assert!(!bench.hub.repo(ID).unwrap().is_private());
    assert!(bench.sent("/upload/").iter().all(|it| it.on_storage && it.authorization.is_none()));
    bench.hub.forget();
    let again = bench.push().unwrap();
    assert_eq!(again, Outcome { commit: first.commit, changed: vec![], removed: vec![], sent_bytes: 0 });
    let sent: Vec<String> = bench.sent("").into_iter().map(|it| it.target).collect();
    assert_eq!(sent, ["/api/repos/create"], "nothing is sent twice");
}

#[test]
fn only_what_changed_is_sent_and_older_weights_go() {
    let weights = fs_err::read(golden_dir().join("llama/model.safetensors")).unwrap();
    let repo = Repo::new(ID)
        .file("README.md", b"# An older card\n")
        .file("notes.txt", b"kept")
        .file("config.json", &fs_err::read(golden_dir().join("llama/config.json")).unwrap())
        .lfs("model.safetensors", &weights)
        .lfs("model-00001-of-00002.safetensors", b"of an older model")
        .file("model.safetensors.index.json", b"{}");
    let bench = Bench::new(vec![repo]);
    let error = bench.push().unwrap_err();
    assert!(error.to_string().contains("`model-00001-of-00002.safetensors`"), "{error}");
    assert_eq!(error.kind(), Kind::Usage);
    assert_eq!(bench.hub.repo(ID).unwrap().contents("main").len(), 6, "nothing was removed or sent");
    assert!(bench.sent("/upload/").is_empty());
    let replacing =
        Destination { id: ID, revision: "main", private: false, replace_weights: true, message: "first" };
    let done = bench.push_to(&replacing, TOKEN).unwrap();
    assert_eq!(done.changed, ["README.md", "tokenizer.json", "tokenizer_config.json"]);
    assert_eq!(done.removed, ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]);
    let there = bench.hub.repo(ID).unwrap().contents("main");
    assert_eq!(there["notes.txt"].0, b"kept", "files of others are kept");
    assert_eq!(there["README.md"].0, b"# Tuned\n");
    assert_eq!(there.len(), 6, "{:?}", there.keys());
    let puts = bench.sent("/upload/");
    assert_eq!(puts.len(), 1, "the weights are there already: {puts:?}");
}

#[test]
fn large_files_go_in_byte_ranges_if_the_hub_asks() {
    let bench = Bench::new(vec![]);
    bench.hub.split_uploads(10_000);
    // The second byte range of the first file breaks off once: only that range is sent again.
    bench.hub.fail("/2?signature", [Fault::CutRequest(4000)]);
    bench.push().unwrap();
    bench.assert_there("main");
    let parts = bench.sent("/part/");
    let bytes: u64 =
        bench.files.iter().filter(|file| file.bytes > 10_000).map(|file| file.bytes.div_ceil(10_000)).sum();
    assert_eq!(parts.len() as u64, bytes + 1);
    assert!(parts.iter().all(|it| it.authorization.is_none() && it.body.len() <= 10_000));
    assert!(bench.sent("complete_multipart").iter().all(|it| it.authorization.is_none()));
}

#[test]
fn a_branch_and_a_private_repository_are_made() {
    let bench = Bench::new(vec![]);
    let destination =
        Destination { id: ID, revision: "run/7", private: true, replace_weights: false, message: "a branch" };
    bench.push_to(&destination, TOKEN).unwrap();
    bench.push_to(&destination, TOKEN).unwrap();
    bench.assert_there("run/7");
    let repo = bench.hub.repo(ID).unwrap();
    assert!(repo.is_private());
    assert_eq!(repo.contents("main").len(), 1, "`main` is as it was");
    let header: Value =
        serde_json::from_slice(bench.sent("/commit/")[0].body.split(|&byte| byte == b'\n').next().unwrap())
            .unwrap();
    assert_eq!(header["value"]["summary"], "a branch");
}

#[test]
fn every_failure_is_retried_and_ends_in_the_same_commit() {
    let faults: [(&str, &[Fault]); 9] = [
        ("/api/repos/create", &[Fault::Hangup, Fault::Status(503, Some(0))]),
        ("/api/repos/create", &[Fault::LoseAnswer]),
        ("/preupload/", &[Fault::Status(500, None), Fault::DropAfter(5)]),
        ("/objects/batch", &[Fault::Status(429, Some(0)), Fault::Hangup]),
        ("/upload/", &[Fault::CutRequest(100), Fault::Status(403, None), Fault::Hangup, Fault::LoseAnswer]),
        ("/objects/verify", &[Fault::Hangup]),
        ("/commit/", &[Fault::CutRequest(50), Fault::Status(502, None)]),
        ("/commit/", &[Fault::LoseAnswer]),
        ("/tree/", &[Fault::DropAfter(10), Fault::Hangup]),
    ];
    for (part, faults) in faults {
        let bench = Bench::new(vec![]);
        bench.hub.fail(part, faults.iter().cloned());
        let done = bench.push().unwrap_or_else(|error| panic!("{part}: {error}"));
        bench.assert_there("main");
        assert_eq!(bench.hub.repo(ID).unwrap().history(), 2, "{part}: more than one commit");
        assert_eq!(done.commit, bench.hub.repo(ID).unwrap().commit(), "{part}");
    }
}

#[test]
fn an_interrupted_upload_resumes_with_the_missing_files() {
    let bench = Bench::new(vec![]);
    bench.hub.fail("/commit/", std::iter::repeat_n(Fault::Hangup, 6));
    let error = bench.push().unwrap_err();
    assert!(error.to_string().contains("attempt 6 of 6") && error.hint().is_some(), "{error}");
    assert_eq!(bench.hub.repo(ID).unwrap().history(), 1);
    bench.hub.forget();
    let done = bench.push().unwrap();
    assert_eq!(done.sent_bytes, 0, "large files are there already");
    assert!(bench.sent("/upload/").is_empty());
    bench.assert_there("main");
}

/// Formats an error as the program prints it, without the port of the hub.
fn report(bench: &Bench, error: Error) -> String {
    failure::Error::from(error).report().replace(&bench.hub.endpoint(), "[HUB]")
}

#[test]
fn refusals_say_what_to_do() {
    let destination =
        |id| Destination { id, revision: "main", private: false, replace_weights: false, message: "m" };
    let bench = Bench::new(vec![Repo::new(ID)]);
    let refused = |destination: &Destination<'_>, token: &str| {
        report(&bench, bench.push_to(destination, token).unwrap_err())
    };
    let mut reports = vec![
        refused(&destination(ID), "wrong"),
        refused(&destination(ID), READ_TOKEN),
        refused(&destination("foreign/model"), TOKEN),
        refused(&destination(ID), ""),
        refused(&destination("no owner"), TOKEN),
        refused(&destination("../etc"), TOKEN),
        refused(&Destination { revision: &"a".repeat(40), ..destination(ID) }, TOKEN),
    ];
    bench.hub.fail("/commit/", [Fault::Status(412, None)]);
    reports.push(refused(&destination(ID), TOKEN));
    bench.hub.fail("/branch/", [Fault::Status(418, None)]);
    reports.push(refused(&Destination { revision: "b", ..destination(ID) }, TOKEN));
    insta::assert_snapshot!(reports.join("\n"), @"
    error: the hub rejects the token in `HF_TOKEN` (401: Invalid username or password.)
    hint: create a token with write access on `[HUB]/settings/tokens` and set `HF_TOKEN`
    error: `jane/tuned`: the token has no write access (403: You have read access but not the required permissions.)
    hint: create a token with write access on `[HUB]/settings/tokens` and set `HF_TOKEN`; or choose your own account with `--id NAME/MODEL`
    error: `foreign/model` does not exist, and the token may not create it (403)
    hint: create the repository on the hub first, or use a token with write access to this account
    error: no token is set, and the hub accepts no anonymous uploads
    hint: create a token with write access on `[HUB]/settings/tokens` and set `HF_TOKEN`
    error: `no owner` is not the name of a repository
    hint: the form is `OWNER/NAME`, such as `jane/my-model`
    error: `../etc` is not the name of a repository
    hint: the form is `OWNER/NAME`, such as `jane/my-model`
    error: `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa` is not a branch
    hint: a commit cannot be changed; name a branch with `--revision`, or leave it out for `main`
    error: `jane/tuned` received another commit during the upload (412)
    hint: check what changed, then run the same command again: only files that differ are sent
    error: `[HUB]/api/models/jane/tuned/branch/b` answers 418
    hint: check `HF_ENDPOINT` and the proxies between this machine and the hub
    ");
    assert_eq!(bench.hub.repo(ID).unwrap().history(), 1, "nothing was committed");
}

#[test]
fn a_token_goes_to_the_hub_only() {
    let bench = Bench::new(vec![]);
    bench.hub.fail("/commit/", [Fault::RedirectTo(format!("{}/steal", bench.hub.storage()))]);
    let error = bench.push().unwrap_err().to_string();
    assert!(error.contains("302"), "{error}");
    assert!(bench.hub.requests().iter().all(|it| !it.on_storage || it.authorization.is_none()));
}

#[test]
fn only_a_whole_artifact_with_a_card_is_uploaded() {
    let refused = |path: &Path| {
        let error = failure::Error::from(local_files(path).expect_err("this must not be uploaded"));
        assert_eq!(error.kind(), Kind::BadInput, "{error:?}");
        filtered(&error.report())
    };
    let sandbox = Sandbox::new();
    let mut reports = vec![refused(&golden_dir().join("llama")), refused(&fused(sandbox.path(), &[]))];
    let sandbox = Sandbox::new();
    let path = fused(sandbox.path(), &[("README.md", b"# Tuned\n")]);
    assert_eq!(local_files(&path).unwrap().len(), 5);
    for name in ["config.json", "model.safetensors"] {
        let file = path.join("data/model").join(name);
        let mut bytes = fs_err::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        set_writable(&file);
        fs_err::write(&file, &bytes).unwrap();
        reports.push(refused(&path));
        bytes[middle] ^= 1;
        fs_err::write(&file, &bytes).unwrap();
    }
    insta::assert_snapshot!(reports.join("\n"), @"
    error: `[REPOSITORY]/tests/golden/llama` is not an artifact: it has no file `COMMIT`
    hint: give the artifact of `fuse`
    error: `[SANDBOX]/fused`: `model` has no card `README.md`
    hint: give the artifact of `fuse`, which writes the card
    error: artifact `[SANDBOX]/fused` is damaged: the bytes of `data/model/config.json` have changed
    hint: delete that folder and run the stage that made it again
    error: artifact `[SANDBOX]/fused` is damaged: the bytes of `data/model/model.safetensors` have changed
    hint: delete that folder and run the stage that made it again
    ");
}

fn set_writable(file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    for path in [file, file.parent().unwrap()] {
        fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn a_small_file_that_changed_on_the_way_is_not_sent() {
    let bench = Bench::new(vec![]);
    let card = bench.files.iter().find(|file| file.name == "README.md").unwrap();
    set_writable(&card.path);
    fs_err::write(&card.path, b"# Other\n").unwrap();
    let error = bench.push().unwrap_err();
    assert!(error.kind() == Kind::BadInput && error.to_string().contains("changed during"), "{error}");
    assert_eq!(bench.hub.repo(ID).unwrap().history(), 1);
}

fn run(bench: &Bench, arguments: &[&str], token: &str) -> Ran {
    let mut program = bench.sandbox.program(env!("CARGO_BIN_EXE_upload"));
    program.env("HOME", bench.sandbox.path()).env("HF_ENDPOINT", bench.hub.endpoint()).env("HF_TOKEN", token);
    program.args(arguments).run()
}

#[test]
fn the_program_prints_the_address_and_ends_with_the_right_code() {
    let bench = Bench::new(vec![]);
    let done = run(&bench, &["--model", "fused", "--id", ID, "--private"], TOKEN);
    let repo = bench.hub.repo(ID).unwrap();
    assert_eq!(done.succeeded(), format!("{}/{ID}/tree/{}\n", bench.hub.endpoint(), repo.commit()));
    assert!(repo.is_private());
    let again = run(&bench, &["--model", "fused", "--id", ID], TOKEN);
    assert_eq!((again.succeeded(), again.stderr.as_str()), (&*done.stdout, "upload: up to date\n"));
    let mut reports = filtered(&done.stderr);
    for (arguments, token, code) in [
        (["--model", "fused", "--id", "x"], TOKEN, 2),
        (["--model", "fused", "--id", ID], READ_TOKEN, 1),
        (["--model", "fused", "--id", ID], "", 2),
        (["--model", "nowhere", "--id", ID], TOKEN, 65),
    ] {
        reports += &run(&bench, &arguments, token).failed(code).replace(&bench.hub.endpoint(), "[HUB]");
    }
    for (output, dataset) in [("model", "jane/stories"), ("adapters", "stories 2")] {
        let arguments = ["--model", "fused", "--id", ID, "--output", output, "--dataset", dataset];
        reports += &run(&bench, &arguments, TOKEN).failed(2);
    }
    insta::assert_snapshot!(reports, @"
    created the repository `jane/tuned`
    uploading `model.safetensors`, 364.28 KiB
    uploading `tokenizer.json`, 13.04 KiB
    upload: 5 of 5 files changed, 0 removed, 377.32 KiB of large files sent
    error: `x` is not the name of a repository
    hint: the form is `OWNER/NAME`, such as `jane/my-model`
    error: `jane/tuned` does not exist, and the token may not create it (403)
    hint: create the repository on the hub first, or use a token with write access to this account
    error: no token is set, and the hub accepts no anonymous uploads
    hint: create a token with write access on `[HUB]/settings/tokens` and set `HF_TOKEN`
    error: artifact `nowhere` does not exist
    hint: give the folder that a stage printed, or `refs/NAME` for a labelled artifact
    error: `--dataset jane/stories` is for the card of `adapters`
    hint: set `fuse.datasets`; the card that `fuse` writes names them
    error: `stories 2` is not the name of a dataset
    hint: the form is `OWNER/NAME`, such as `jane/stories`
    ");
}

#[test]
fn help_lists_the_options() {
    insta::assert_snapshot!(Program::new(env!("CARGO_BIN_EXE_upload")).arg("-h").run().succeeded(), @r#"
    Push a fused model, an export of it, or adapters to the Hugging Face hub, with a card

    Usage: upload [OPTIONS] --model <ARTIFACT> --id <OWNER/NAME>

    Options:
          --model <ARTIFACT>   Artifact of `fuse`, or of `select-best` for its adapters, or its label in
                               the store
          --output <NAME>      Output to push: `model`, `quantized`, `gguf`, `peft` or `adapters`
                               [default: model]
          --scores <ARTIFACT>  Artifact of `evaluate` that scored it; the card then lists scores and
                               intervals (`model-index`)
          --dataset <ID>       Dataset on the hub for the card of `adapters` (repeatable)
          --id <OWNER/NAME>    Repository on the hub; created if missing
          --revision <BRANCH>  Branch on the hub; created if missing [default: main]
          --private            Make a new repository private; an existing one is not changed
          --replace-weights    Remove weights of other models, which would be loaded together with the
                               new ones, from the branch
          --message <TEXT>     First line of the commit message [default: names the output]
          --store <DIR>        Look up labels of artifacts in DIR [env: ASHLAR_STORE=] [default:
                               artifacts]
      -v, --verbose...         Print debug messages (`-vv`: also traces)
      -q, --quiet              Print errors only
      -h, --help               Print help (see more with '--help')
      -V, --version            Print version
    "#);
}

#[test]
fn nothing_is_sent_to_another_machine_without_encryption() {
    let bench = Bench::new(vec![]);
    // An address that nobody answers: a request would end with `Unreachable` after its retries.
    for endpoint in ["http://192.0.2.2:8481", "http://localhost:80@192.0.2.2:8481"] {
        let settings = Settings { endpoint: endpoint.to_owned(), ..bench.settings(TOKEN) };
        let error = push(&bench.files, &MAIN, &settings, &Unwatched).unwrap_err();
        assert!(matches!(error, Error::Settings { .. }), "{error:?}");
        assert_eq!(error.kind().exit_code(), 2);
        assert!(error.to_string().contains("without encryption"), "{error}");
    }
}
