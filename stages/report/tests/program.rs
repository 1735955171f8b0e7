//! The program on real artifacts: its output, its exit codes, and that it runs once.

mod fixture;

use std::path::{Path, PathBuf};
use std::process::Command;

use artifact::{Draft, Manifest};
use outputs::{Document as _, SweepMember, SweepRecord, SweepRun};
use report::Inputs;
use testutil::{Ran, Sandbox};

/// Publishes a made-up artifact, with valid hashes.
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
    publish_all(root, fixture::write(&root.join("made-up"), &fixture::Run::default()))
}

fn publish_all(root: &Path, inputs: Inputs) -> Vec<(&'static str, PathBuf)> {
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

fn report(sandbox: &Sandbox, inputs: &[(&str, PathBuf)], more: &[&str]) -> Ran {
    let mut program = sandbox.program(env!("CARGO_BIN_EXE_report"));
    program.env("NO_COLOR", "1").args(["--set", "resamples=200"]).args(more);
    for (flag, path) in inputs {
        program.arg(flag).arg(path);
    }
    program.run()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_path_is_on_stdout_the_table_on_stderr_and_a_second_run_finds_the_artifact() {
    let sandbox = Sandbox::new();
    let inputs = published(sandbox.path());
    let first = report(&sandbox, &inputs, &[]);
    let page = sandbox.read(first.path().join("data/report.html"));
    assert!(page.contains("Fused model"));
    first.says(&["Fused model: test perplexity 12.2 vs 45.6 for the base"]);

    let second = report(&sandbox, &inputs, &[]);
    assert_eq!(second.path(), first.path());
    assert!(!second.stderr.contains("Fused model"), "{}", second.stderr);
    report(&sandbox, &inputs, &["--check"]).succeeded();
}

#[test]
fn bad_data_exits_65_bad_settings_exit_2_and_neither_publishes() {
    let sandbox = Sandbox::new();
    let mut inputs = published(sandbox.path());
    let wrong = report(&sandbox, &inputs, &["--set", "confidence=2.5"]).failed(2);
    assert!(wrong.contains("`confidence` is `2.5`: must be between 0 and 1"), "{wrong}");

    inputs[1].1 = inputs[2].1.clone();
    let swapped = report(&sandbox, &inputs, &[]).failed(65);
    assert!(swapped.contains("was made by stage `validate`"), "{swapped}");
    assert!(swapped.contains("hint: give `--train` an artifact of stage `train`"), "{swapped}");
    assert!(!sandbox.trees().keys().any(|name| name.starts_with("report/")));
}

#[test]
fn the_commands_on_the_page_check_the_artifacts() {
    if Command::new("sha256sum").arg("--version").output().is_err() {
        return; // not on this machine
    }
    let sandbox = Sandbox::new();
    let inputs = published(sandbox.path());
    let made = report(&sandbox, &inputs, &[]);
    let page = sandbox.read(made.path().join("data/report.html"));
    let start = page.find("# $1: an artifact").expect("commands");
    let commands = &page[start..start + page[start..].find("</code>").expect("end")];
    let commands =
        commands.replace("&quot;", "\"").replace("&amp;", "&").replace("&gt;", ">").replace("&#39;", "'");
    let check =
        || Command::new("sh").args(["-c", &commands]).current_dir(sandbox.path()).output().expect("sh");

    let whole = check();
    assert_eq!(text(&whole.stdout).matches("is whole").count(), 7, "{}", text(&whole.stderr));
    let notes = inputs[1].1.join("data/notes.txt");
    fs_err::remove_file(&notes).unwrap();
    fs_err::write(&notes, "touched\n").unwrap();
    let broken = check();
    assert_eq!(text(&broken.stdout).matches("is whole").count(), 6, "{}", text(&broken.stderr));
}

#[test]
fn reports_are_compared_and_what_is_no_report_is_named() {
    let sandbox = Sandbox::new();
    let inputs = published(sandbox.path());
    let paths: Vec<PathBuf> = ["smoothing_steps=5", "smoothing_steps=6"]
        .map(|set| report(&sandbox, &inputs, &["--set", set]).path())
        .into();
    let mut program = sandbox.program(env!("CARGO_BIN_EXE_report"));
    let names = ["five=", "six="];
    let given = names.iter().zip(&paths).map(|(name, path)| format!("{name}{}", path.display()));
    let ran = program.arg("compare").args(given).args(["--out", "pages/compare.html"]).run();
    assert_eq!(ran.succeeded(), "pages/compare.html\n");
    let page = sandbox.read("pages/compare.html");
    for part in
        ["2 runs compared", "five", "six", "six against five", "within noise", "Learning curves", "Cost"]
    {
        assert!(page.contains(part), "`{part}` is not on the page");
    }
    let mut program = sandbox.program(env!("CARGO_BIN_EXE_report"));
    let wrong = program.arg("compare").arg(&inputs[1].1).run().failed(65);
    assert!(wrong.contains("was made by stage `train`, not by report"), "{wrong}");
}

/// A sandbox with a page of a comparison, `old.html`, and the arguments that write it again.
fn compared() -> (Sandbox, [String; 3]) {
    let sandbox = Sandbox::new();
    let inputs = published(sandbox.path());
    let run = report(&sandbox, &inputs, &[]).path_text();
    let arguments = ["compare".to_owned(), format!("run={run}"), "--out".to_owned()];
    let mut program = sandbox.program(env!("CARGO_BIN_EXE_report"));
    program.args(&arguments).arg("old.html").run().succeeded();
    (sandbox, arguments)
}

#[test]
fn a_page_goes_where_its_name_leads_and_waits_for_nobody() {
    let (sandbox, arguments) = compared();
    let to = |path: &str| {
        let mut limited = sandbox.program("timeout");
        limited.args(["60", env!("CARGO_BIN_EXE_report")]).args(&arguments).arg(path).run()
    };
    let page = sandbox.read("old.html");
    Command::new("mkfifo").arg(sandbox.join("pipe")).status().expect("mkfifo");
    let refused = to("pipe").failed(2);
    assert!(refused.contains("`pipe` is a named pipe that nobody reads\nhint: "), "{refused}");
    assert!(to(".").failed(2).contains("`.` is a folder"));
    let below = to("old.html/page.html").failed(2);
    assert!(below.contains("`old.html` is not a folder\nhint: choose another path for `--out`"), "{below}");

    assert_eq!(to("/dev/stdout").succeeded(), page);
    assert_eq!(to("/dev/null").succeeded(), "/dev/null\n");
    sandbox.write("real.html", "x");
    std::os::unix::fs::symlink("real.html", sandbox.join("link.html")).expect("a link");
    assert_eq!(to("link.html").succeeded(), "link.html\n");
    assert!(sandbox.join("link.html").is_symlink() && sandbox.read("real.html") == page);
}

#[test]
fn a_page_that_cannot_be_written_leaves_the_old_one() {
    let (sandbox, arguments) = compared();
    let page = sandbox.read("old.html");
    let names = || {
        let entries = fs_err::read_dir(sandbox.path()).expect("the sandbox");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    // A page is longer than 8 blocks, of 512 or 1024 bytes.
    let script = r#"ulimit -f 8; exec "$@""#;
    let mut shell = sandbox.program("sh");
    shell.args(["-c", script, "sh", env!("CARGO_BIN_EXE_report")]).args(&arguments).arg("old.html");
    let said = shell.run().failed(74);
    assert!(said.contains("old.html`") && said.contains("File too large"), "{said}");
    assert!(sandbox.read("old.html") == page, "half a page is left");
    assert_eq!(names(), before);
}

#[test]
#[cfg(target_os = "linux")]
fn stdout_is_named_when_it_cannot_be_written() {
    let (sandbox, arguments) = compared();
    for path in ["old.html", "/dev/stdout"] {
        let mut program = sandbox.program(env!("CARGO_BIN_EXE_report"));
        let full = fs_err::OpenOptions::new().write(true).open("/dev/full").expect("the device");
        program.args(&arguments).arg(path).command().stdout(full.into_file());
        let ran = program.run();
        assert_eq!(ran.code, Some(74), "{path}: {}", ran.stderr);
        ran.says(&["writing to stdout\n", "caused by: No space left on device"]);
    }
}

#[test]
fn a_sweep_is_a_page_with_members_differences_and_the_best_settings() {
    let sandbox = Sandbox::new();
    let made_up = fixture::write(&sandbox.join("made-up"), &fixture::Run::default());
    fixture::add_row_losses(&made_up, 1.0);
    let inputs = publish_all(sandbox.path(), made_up);
    let run = |set: &str, validation_loss: f64| SweepRun {
        report: Some(report(&sandbox, &inputs, &["--set", set]).path_text()),
        validation_loss: Some(validation_loss),
        steps: Some(300),
        ..SweepRun::default()
    };
    let member = |rank: &str, runs: Vec<SweepRun>| SweepMember {
        name: format!("rank-{rank}"),
        values: [("train.rank".to_owned(), rank.to_owned())].into(),
        runs,
    };
    let left = SweepRun { steps: Some(20), validation_loss: Some(1.0), ..SweepRun::default() };
    let failed = SweepRun { failed: true, ..SweepRun::default() };
    let mut record = SweepRecord {
        name: "ranks".to_owned(),
        search: "halving".to_owned(),
        varied: vec!["train.rank".to_owned()],
        trained_steps: 640,
        full_steps: Some(1200),
        members: vec![
            member("4", vec![run("smoothing_steps=5", 2.5)]),
            member("8", vec![run("smoothing_steps=6", 2.25)]),
            member("16", vec![left]),
            member("32", vec![failed]),
        ],
    };
    fs_err::create_dir_all(sandbox.join("ranks")).expect("a folder");
    record.write(&sandbox.join("ranks")).expect("a record");
    sandbox.write("ranks/best.toml", "[train]\nrank = 8\n");
    let page_of = |sandbox: &Sandbox| {
        sandbox.program(env!("CARGO_BIN_EXE_report")).args(["sweep", "ranks/sweep.json"]).run()
    };
    assert_eq!(page_of(&sandbox).succeeded(), "ranks/sweep.html\n");
    let page = sandbox.read("ranks/sweep.html");
    for part in [
        "Best on the validation split: rank 8, with a loss of 2.250",
        "Of 1 other member on the test split: 1 within noise.",
        "left after 20 steps",
        "1 of 1 failed",
        "640 steps were trained",
        "rank = 8",
        "a member has a single run",
    ] {
        assert!(page.contains(part), "`{part}` is not on the page");
    }

    record.members.drain(..2);
    record.write(&sandbox.join("ranks")).expect("a record");
    let refused = page_of(&sandbox).failed(65);
    assert!(refused.contains("no run of this sweep has a report"), "{refused}");
}

#[test]
fn the_pages_for_the_browser_tests_can_be_written() {
    let sandbox = Sandbox::new();
    let out = sandbox.path().join("pages");
    let sample = testutil::built_programs().join("examples/sample");
    sandbox.program(sample).arg(&out).run().succeeded();
    for page in ["report", "many", "compare", "sweep", "data"] {
        assert!(out.join(page).with_extension("html").is_file(), "no page `{page}`");
    }
}
