//! Uploading to a hub on this machine: what arrives, what is not sent twice, what is refused, and what comes back down.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use artifact::{Draft, KeyMaterial, write_folder};
use hub::{Settings, Unwatched};
use serde_json::{Value, json};
use tempfile::TempDir;
use testutil::files::golden_dir;
use testutil::hub::{Fault, HubServer, READ_TOKEN, Repo, Seen, TOKEN};
use upload::{Error, LocalFile, Outcome, Target, local_files, push};

const ID: &str = "jane/tuned";

/// An artifact as `fuse` makes it: a golden model with these further files.
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

struct Bench {
    dir: TempDir,
    hub: HubServer,
    files: Vec<LocalFile>,
}

impl Bench {
    fn new(repos: Vec<Repo>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = local_files(&fused(dir.path(), &[("README.md", b"# Tuned\n")])).unwrap();
        Self { dir, hub: HubServer::start(repos), files }
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
        self.push_to(&Target { id: ID, revision: "main", private: false, message: "first" }, TOKEN)
    }

    fn push_to(&self, target: &Target<'_>, token: &str) -> Result<Outcome, Error> {
        push(&self.files, target, &self.settings(token), &Unwatched)
    }

    /// What was sent to the hosts, as method and target, from what contains `part` on.
    fn sent(&self, part: &str) -> Vec<Seen> {
        self.hub.requests().into_iter().filter(|it| it.method != "GET" && it.target.contains(part)).collect()
    }

    /// Checks that the branch holds exactly our files (and what the hub put there), byte for byte.
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
    let done = bench.push().unwrap();
    assert_eq!(done.changed, ["README.md", "tokenizer.json", "tokenizer_config.json"]);
    assert_eq!(done.removed, ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]);
    let there = bench.hub.repo(ID).unwrap().contents("main");
    assert_eq!(there["notes.txt"].0, b"kept", "what is not the model's stays");
    assert_eq!(there["README.md"].0, b"# Tuned\n");
    assert_eq!(there.len(), 6, "{:?}", there.keys());
    let puts = bench.sent("/upload/");
    assert_eq!(puts.len(), 1, "the weights are there already: {puts:?}");
}

#[test]
fn large_files_go_in_parts_where_the_hub_wants_it() {
    let bench = Bench::new(vec![]);
    bench.hub.split_uploads(10_000);
    // The second part of the first file breaks off once: only that part is sent again.
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
    let target = Target { id: ID, revision: "run/7", private: true, message: "a branch" };
    bench.push_to(&target, TOKEN).unwrap();
    bench.push_to(&target, TOKEN).unwrap();
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
fn whatever_breaks_is_tried_again_and_ends_in_the_same_commit() {
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
fn an_upload_that_was_cut_goes_on_with_what_is_missing() {
    let bench = Bench::new(vec![]);
    bench.hub.fail("/commit/", std::iter::repeat_n(Fault::Hangup, 6));
    let error = bench.push().unwrap_err().to_string();
    assert!(error.contains("attempt") && error.contains("hint: "), "{error}");
    assert_eq!(bench.hub.repo(ID).unwrap().history(), 1);
    bench.hub.forget();
    let done = bench.push().unwrap();
    assert_eq!(done.sent_bytes, 0, "large files are there already");
    assert!(bench.sent("/upload/").is_empty());
    bench.assert_there("main");
}

#[test]
fn refusals_say_what_to_do() {
    let target = |id| Target { id, revision: "main", private: false, message: "m" };
    let bench = Bench::new(vec![Repo::new(ID)]);
    let refused = |id, token: &str| bench.push_to(&target(id), token).unwrap_err().to_string();
    for (message, words) in [
        (refused(ID, "wrong"), ["401", "HF_TOKEN"]),
        (refused(ID, READ_TOKEN), ["403", "write access"]),
        (refused("foreign/model", TOKEN), ["403", "may not make it"]),
        (refused(ID, ""), ["no token is set", "HF_TOKEN"]),
        (refused("no owner", TOKEN), ["`no owner`", "OWNER/NAME"]),
        (refused("../etc", TOKEN), ["`../etc`", "OWNER/NAME"]),
    ] {
        let has = words.iter().all(|word| message.contains(word)) && message.contains("\nhint: ");
        assert!(has, "{words:?} in {message}");
    }
    bench.hub.fail("/commit/", [Fault::Status(412, None)]);
    let message = bench.push().unwrap_err().to_string();
    assert!(message.contains("another commit") && message.contains("only what differs"), "{message}");
    bench.hub.fail("/branch/", [Fault::Status(418, None)]);
    let odd = bench.push_to(&Target { revision: "b", ..target(ID) }, TOKEN).unwrap_err().to_string();
    assert!(odd.contains("418") && odd.contains("HF_ENDPOINT"), "{odd}");
    let commit = Target { revision: &"a".repeat(40), ..target(ID) };
    assert!(bench.push_to(&commit, TOKEN).unwrap_err().to_string().contains("no branch"));
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
fn nothing_but_a_whole_artifact_with_a_card_is_uploaded() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path, words: &[&str]| {
        let error = local_files(path).expect_err("this must not be uploaded");
        let message = error.to_string();
        assert!(error.is_bad_input() && message.contains("\nhint: "), "{message}");
        assert!(words.iter().all(|word| message.contains(word)), "{words:?} in {message}");
    };
    refused(&golden_dir().join("llama"), &["not an artifact", "fuse"]);
    refused(&fused(dir.path(), &[]), &["README.md"]);
    let whole = tempfile::tempdir().unwrap();
    let path = fused(whole.path(), &[("README.md", b"# Tuned\n")]);
    assert_eq!(local_files(&path).unwrap().len(), 5);
    for name in ["config.json", "model.safetensors"] {
        let file = path.join("data/model").join(name);
        let mut bytes = fs_err::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        set_writable(&file);
        fs_err::write(&file, &bytes).unwrap();
        refused(&path, &["damaged", name]);
        bytes[middle] ^= 1;
        fs_err::write(&file, &bytes).unwrap();
    }
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
    assert!(error.is_bad_input() && error.to_string().contains("changed while"), "{error}");
    assert_eq!(bench.hub.repo(ID).unwrap().history(), 1);
}

fn program(bench: &Bench, arguments: &[&str], token: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_upload"));
    command
        .env_clear()
        .env("HOME", bench.dir.path())
        .env("HF_ENDPOINT", bench.hub.endpoint())
        .args(arguments);
    command.env("HF_TOKEN", token).current_dir(bench.dir.path()).output().unwrap()
}

#[test]
fn the_program_prints_the_address_and_ends_with_the_right_code() {
    let bench = Bench::new(vec![]);
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let done = program(&bench, &["--model", "fused", "--id", ID, "--private"], TOKEN);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    let repo = bench.hub.repo(ID).unwrap();
    let address = format!("{}/{ID}/tree/{}\n", bench.hub.endpoint(), repo.commit());
    assert_eq!(String::from_utf8_lossy(&done.stdout), address);
    assert!(repo.is_private());
    for (arguments, token, code, word) in [
        (["--model", "fused", "--id", "x"], TOKEN, 2, "OWNER/NAME"),
        (["--model", "fused", "--id", ID], READ_TOKEN, 1, "403"),
        (["--model", "fused", "--id", ID], "", 2, "HF_TOKEN"),
        (["--model", "nowhere", "--id", ID], TOKEN, 65, "`nowhere`"),
    ] {
        let output = program(&bench, &arguments, token);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert!(said(&output).contains(word) && said(&output).contains("hint: "), "{}", said(&output));
        assert!(output.stdout.is_empty());
    }
}
