//! The program on real artifacts: what it prints, where it exits, and that it is done once.

mod fixture;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use artifact::{Draft, Manifest};

/// Turns a made-up artifact into a real one, with hashes that hold.
fn publish(made_up: &Path, store: &Path) -> PathBuf {
    let path = made_up.join("manifest.json");
    let manifest = Manifest::from_bytes(&path, &fs_err::read(&path).expect("manifest")).expect("manifest");
    let draft = Draft::new("test", manifest.key_material);
    let key = draft.key().expect("key").to_string();
    let out = store.join(draft.stage()).join(format!("{}-test", &key[..16]));
    fs_err::create_dir_all(out.parent().expect("stage folder")).expect("folder");
    fixture::put(made_up, "data/notes.txt", "made up\n");
    artifact::write_folder(&out, &draft, |data| {
        for entry in fs_err::read_dir(made_up.join("data")).expect("data") {
            let entry = entry.expect("entry");
            fs_err::copy(entry.path(), data.join(entry.file_name())).expect("copy");
        }
        Ok(())
    })
    .expect("artifact");
    out
}

fn published(root: &Path) -> Vec<(&'static str, PathBuf)> {
    let inputs = fixture::write(&root.join("made-up"), &fixture::Run::default());
    let folders = [
        ("--evaluate", Some(inputs.evaluate)),
        ("--train", Some(inputs.train)),
        ("--validate", Some(inputs.validate)),
        ("--select-best", Some(inputs.select_best)),
        ("--fuse", inputs.fuse),
        ("--prepare-data", inputs.prepare_data),
        ("--import-model", inputs.import_model),
    ];
    let publish = |(flag, folder): (&'static str, Option<PathBuf>)| {
        (flag, publish(&folder.expect("a folder"), &root.join("artifacts")))
    };
    folders.into_iter().map(publish).collect()
}

fn report(root: &Path, inputs: &[(&str, PathBuf)], more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_report"));
    command.current_dir(root).env_remove("ASHLAR_STORE").env("NO_COLOR", "1");
    for (flag, path) in inputs {
        command.arg(flag).arg(path);
    }
    command.args(["--set", "resamples=200"]).args(more).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_path_goes_to_stdout_and_the_table_to_stderr_and_the_second_run_finds_the_first() {
    let root = tempfile::tempdir().unwrap();
    let inputs = published(root.path());
    let first = report(root.path(), &inputs, &[]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    let path = text(&first.stdout);
    assert_eq!(path.lines().count(), 1);
    let page = root.path().join(path.trim_end()).join("data/report.html");
    assert!(fs_err::read_to_string(page).expect("page").contains("Fused model"));
    assert!(text(&first.stderr).contains("Fused model: test perplexity 12.2 vs 45.6 for the base"));

    let second = report(root.path(), &inputs, &[]);
    assert_eq!(text(&second.stdout), path);
    assert!(!text(&second.stderr).contains("Fused model"), "{}", text(&second.stderr));
    let checked = report(root.path(), &inputs, &["--check"]);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
}

#[test]
fn bad_data_exits_65_and_bad_settings_exit_2_and_neither_publishes() {
    let root = tempfile::tempdir().unwrap();
    let mut inputs = published(root.path());
    let wrong = report(root.path(), &inputs, &["--set", "confidence=2.5"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong.stderr));
    assert!(text(&wrong.stderr).contains("`confidence` is `2.5`"));

    inputs[1].1 = inputs[2].1.clone();
    let swapped = report(root.path(), &inputs, &[]);
    assert_eq!(swapped.status.code(), Some(65), "{}", text(&swapped.stderr));
    assert!(text(&swapped.stderr).contains("was made by stage `validate`"), "{}", text(&swapped.stderr));
    assert!(text(&swapped.stdout).is_empty());
    let stage = root.path().join("artifacts/report");
    let published = fs_err::read_dir(stage).map_or(0, |folder| {
        folder.filter(|entry| !entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.')).count()
    });
    assert_eq!(published, 0);
}

#[test]
fn the_commands_on_the_page_check_the_artifacts() {
    if Command::new("sha256sum").arg("--version").output().is_err() {
        return; // not on this machine
    }
    let root = tempfile::tempdir().unwrap();
    let inputs = published(root.path());
    let made = report(root.path(), &inputs, &[]);
    let page = root.path().join(text(&made.stdout).trim_end()).join("data/report.html");
    let page = fs_err::read_to_string(page).expect("page");
    let start = page.find("# $1: an artifact").expect("commands");
    let commands = &page[start..start + page[start..].find("</code>").expect("end")];
    let commands =
        commands.replace("&quot;", "\"").replace("&amp;", "&").replace("&gt;", ">").replace("&#39;", "'");
    let check = || Command::new("sh").args(["-c", &commands]).current_dir(root.path()).output().expect("sh");

    let whole = check();
    assert_eq!(text(&whole.stdout).matches("is whole").count(), 7, "{}", text(&whole.stderr));
    let notes = inputs[1].1.join("data/notes.txt");
    fs_err::remove_file(&notes).unwrap();
    fs_err::write(&notes, "touched\n").unwrap();
    let broken = check();
    assert_eq!(text(&broken.stdout).matches("is whole").count(), 6, "{}", text(&broken.stderr));
}
