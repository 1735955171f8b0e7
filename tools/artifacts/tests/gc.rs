//! gc removes what nothing needs and nothing else, whatever else happens at the same time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use artifact::{Artifact, Level, Store};
use common::{FAULTS, Recipe, Toy, age, name, names_in};
use serde_json::{Value, json};

/// Makes a pipeline that was used some days ago; returns the names of model, data, train and evaluate.
fn aged(toy: &Toy, rank: u64, days: u64) -> [String; 4] {
    let made = toy.pipeline(rank, 64);
    let all = [&made.model, &made.data, &made.train, &made.evaluate];
    for artifact in all {
        age(artifact, days);
    }
    let names = all.map(name);
    drop(made);
    // A child of another test has the locks as well, until it runs its program.
    for name in &names {
        let folder = fs_err::File::open(toy.root().join(name)).unwrap();
        folder.file().lock().unwrap();
        folder.file().unlock().unwrap();
    }
    names
}

fn removed(report: &Value) -> BTreeSet<String> {
    let paths = report["remove"].as_array().unwrap().iter().map(|found| found["path"].as_str().unwrap());
    paths.map(|path| path.trim_start_matches("artifacts/").to_owned()).collect()
}

fn set<const N: usize>(names: [&String; N]) -> BTreeSet<String> {
    names.into_iter().cloned().collect()
}

#[test]
fn the_dry_run_shows_what_the_real_run_removes() {
    let toy = Toy::new();
    let [model, data, old_train, old_evaluate] = aged(&toy, 8, 20);
    let [_, _, train, evaluate] = aged(&toy, 16, 3);
    // Recent runs were made from the old model and data.
    let before = toy.names();
    let plan = toy.json("gc");
    assert_eq!(removed(&plan), set([&old_train, &old_evaluate]));
    assert_eq!((toy.names(), &plan["dry_run"]), (before, &json!(true)));
    assert!(toy.run("gc").succeeded().contains("this was a dry run: remove them with --delete"));
    let report = toy.json("gc --delete");
    assert_eq!(removed(&report), removed(&plan));
    assert_eq!(report["removed"], 2);
    assert_eq!(toy.names().into_iter().collect::<BTreeSet<_>>(), set([&model, &data, &train, &evaluate]));
    assert!(toy.run("gc --delete").succeeded().starts_with("removed 0 items"));
    assert_eq!(toy.run("verify").code, Some(0));
}

#[test]
fn labels_pointers_and_kept_runs_are_roots_with_all_they_were_made_from() {
    for root in ["label", "train.path", "train.path.17", ".train.path.17", "keep"] {
        let toy = Toy::new();
        let names = aged(&toy, 8, 100);
        let other = aged(&toy, 16, 100);
        let train = &names[2];
        match root {
            "label" => {
                let artifact = Artifact::open_with(&toy.root().join(train), Level::Size).unwrap();
                toy.store.set_ref("best", &artifact).unwrap();
            }
            "keep" => {
                toy.run(&format!("keep {train} --note paper")).succeeded();
                assert!(toy.run("keep").succeeded().contains("paper"));
            }
            // A pointer, or the file in which it is just being written.
            pointer => {
                let folder = toy.path().join("build/haw-eng/demo");
                fs_err::create_dir_all(&folder).unwrap();
                // Relative to the folder in which make ran.
                fs_err::write(folder.join(pointer), format!("elsewhere/artifacts/{train}\n")).unwrap();
            }
        }
        let expected = set([&names[3], &other[2], &other[3]]);
        assert_eq!(removed(&toy.json("gc --delete")), expected, "{root}");
        assert_eq!(
            toy.names().into_iter().collect::<BTreeSet<_>>(),
            set([&names[0], &names[1], train]),
            "{root}"
        );
    }
}

#[test]
fn what_is_no_longer_kept_goes() {
    let toy = Toy::new();
    let names = aged(&toy, 8, 100);
    toy.run(&format!("keep {}", names[3])).succeeded();
    assert_eq!(removed(&toy.json("gc")).len(), 0);
    toy.run(&format!("keep {} --remove", names[3])).succeeded();
    assert_eq!(removed(&toy.json("gc")).len(), 4);
    assert_eq!(toy.run("keep").succeeded(), "nothing is kept\n");
}

#[test]
fn what_is_gone_can_be_released() {
    let toy = Toy::new();
    let names = aged(&toy, 8, 100);
    for name in [&names[2], &names[3]] {
        toy.run(&format!("keep {name}")).succeeded();
        testutil::files::remove(&toy.root().join(name));
    }
    assert_eq!(toy.run("keep").succeeded().matches("(missing)").count(), 2);
    let short = |name: &str| name.split('-').next().unwrap().to_owned();
    let (train, evaluate) = (short(&names[2]), short(&names[3]));
    let said = toy.run(&format!("keep {train} --remove"));
    assert_eq!(said.succeeded(), format!("{train} may be removed by gc again\n"));
    let digits = &evaluate.split('/').nth(1).unwrap()[..6];
    toy.run(&format!("keep {digits} --remove")).succeeded();
    assert_eq!(toy.run("keep").succeeded(), "nothing is kept\n");
    assert!(toy.run(&format!("keep {train} --remove")).failed(65).contains("no artifact"));
}

#[test]
fn an_open_artifact_is_spared_with_what_it_was_made_from() {
    let toy = Toy::new();
    let names = aged(&toy, 8, 100);
    let open = Artifact::open_with(&toy.root().join(&names[3]), Level::Size).unwrap();
    let report = toy.json("gc --delete");
    assert_eq!(report["spared"][0]["reason"], "in use");
    assert_eq!((report["spared"].as_array().unwrap().len(), toy.names().len()), (4, 4));
    drop(open);
    let open = Artifact::open_with(&toy.root().join(&names[0]), Level::Size).unwrap();
    toy.run("gc --delete").succeeded();
    assert_eq!(toy.names(), [names[0].clone()]);
    drop(open);
    toy.run("gc --delete").succeeded();
    assert!(toy.names().is_empty());
}

#[test]
fn what_is_used_after_it_was_listed_is_spared() {
    let toy = Toy::new();
    let names = aged(&toy, 8, 100);
    let path = toy.root().join(&names[3]);
    let listed = fs_err::metadata(&path).unwrap().modified().unwrap();
    let lock = toy.store.lock_collection().unwrap();
    Artifact::open_with(&path, Level::Size).unwrap().mark_used();
    let outcome = toy.store.discard(&lock, &path, listed).unwrap();
    assert_eq!(outcome, artifact::Discarded::Changed);
    let error = toy.run("gc --delete").failed(75);
    assert!(error.contains("gc of this store"), "{error}");
    drop(lock);
    assert_eq!(removed(&toy.json("gc")).len(), 0, "it is recent now, and the others are its origin");
}

#[test]
fn leftovers_of_killed_runs_go() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    let key = made.train.manifest().key.short();
    let root = toy.root().to_owned();
    let old = artifact::now() - Duration::from_hours(100 * 24);
    let make = |path: &str, time: std::time::SystemTime| {
        let path = root.join(path);
        fs_err::create_dir_all(&path).unwrap();
        fs_err::write(path.join("file"), "12345").unwrap();
        let times = std::fs::FileTimes::new().set_modified(time);
        for path in [path.join("file"), path] {
            fs_err::File::open(path).unwrap().file().set_times(times).unwrap();
        }
    };
    let hours = artifact::now() - Duration::from_hours(2);
    make(".work/train/0123456789abcdef", old);
    make(".work/train/aaaaaaaaaaaaaaaa", hours);
    make(&format!(".work/train/{key}"), hours);
    make(".quarantine/old", old);
    make(".quarantine/new", hours);
    make(".trash/1-0-x", hours);
    make("train/.tmp-0-1-x", old);
    let report = toy.json("gc --delete");
    let expected: BTreeSet<String> = [
        ".work/train/0123456789abcdef".to_owned(),
        format!(".work/train/{key}"),
        ".quarantine/old".to_owned(),
        ".trash/1-0-x".to_owned(),
        "train/.tmp-0-1-x".to_owned(),
    ]
    .into();
    assert_eq!(removed(&report), expected);
    for path in &expected {
        assert!(!root.join(path).exists(), "{path}");
    }
    assert!(root.join(".work/train/aaaaaaaaaaaaaaaa/file").exists() && root.join(".quarantine/new").exists());
    assert_eq!(toy.names().len(), 4);
}

#[test]
fn a_wrong_clock_removes_nothing() {
    let toy = Toy::new();
    aged(&toy, 8, 500);
    let error = toy.run("gc --delete").failed(1);
    assert!(error.contains("is more than a year ahead of the store"), "{error}");
    assert_eq!(toy.names().len(), 4);
    assert_eq!(removed(&toy.json("gc --trust-clock")).len(), 4);
    let made = toy.pipeline(8, 64);
    let future = artifact::now() + Duration::from_hours(10 * 365 * 24);
    let times = std::fs::FileTimes::new().set_modified(future);
    fs_err::File::open(made.train.path()).unwrap().file().set_times(times).unwrap();
    let error = toy.run("gc --delete").failed(1);
    assert!(error.contains("is behind the store"), "{error}");
}

#[test]
fn a_label_that_cannot_be_read_stops_gc() {
    let toy = Toy::new();
    aged(&toy, 8, 100);
    fs_err::create_dir_all(toy.root().join("refs")).unwrap();
    fs_err::write(toy.root().join("refs/best"), "garbage\n").unwrap();
    let ran = toy.run("gc --delete");
    ran.failed(65);
    ran.says(&["ref `best` is malformed: `artifacts/refs/best`", "hint: delete that file"]);
    assert_eq!(toy.names().len(), 4);
}

#[test]
fn killed_at_any_operation_leaves_whole_artifacts_and_the_next_gc_finishes() {
    for turn in 1.. {
        let toy = Toy::new();
        aged(&toy, 8, 100);
        fs_err::create_dir_all(toy.root().join(".quarantine/new")).unwrap();
        let ran = toy.program("gc --delete --grace 0").env("ASHLAR_FAULT", format!("kill@{turn}")).run();
        let left = toy.names();
        // No artifact without its origin, either.
        assert_eq!(toy.run("verify").code, Some(0), "kill@{turn}");
        let finished = ran.code == Some(0);
        assert!(finished || ran.signal == Some(9), "kill@{turn}: {ran:?}");
        toy.run("gc --delete --grace 0").succeeded();
        assert!(toy.names().is_empty() && left.len() <= 4, "kill@{turn}");
        let trash = toy.root().join(".trash");
        assert!(!trash.exists() || fs_err::read_dir(trash).unwrap().next().is_none(), "kill@{turn}");
        if finished {
            assert!(turn > 20, "only {turn} operations");
            return;
        }
    }
}

#[test]
fn failing_operations_are_reported_with_a_path_and_leave_whole_artifacts() {
    for (fault, code) in FAULTS {
        let mut failed = 0;
        for turn in 1..40 {
            let toy = Toy::new();
            aged(&toy, 8, 100);
            let ran = toy.program("gc --delete").env("ASHLAR_FAULT", format!("{fault}@{turn}")).run();
            let left = toy.names();
            if ran.code == Some(0) {
                assert!(left.is_empty(), "{fault}@{turn}: {ran:?}");
                continue;
            }
            failed += 1;
            assert_eq!(ran.code, Some(code), "{fault}@{turn}: {}", ran.stderr);
            assert!(
                ran.stderr.contains('`') && ran.stderr.contains("artifacts"),
                "{fault}@{turn}: {}",
                ran.stderr
            );
        }
        assert!(failed > 15, "only {failed} operations failed");
    }
}

#[test]
fn what_this_user_may_not_remove_stays_with_what_it_was_made_from() {
    let mut denied = BTreeSet::new();
    for turn in 1.. {
        let toy = Toy::new();
        aged(&toy, 8, 100);
        let trashed = toy.root().join(".trash/1-x");
        fs_err::create_dir_all(&trashed).unwrap();
        let fault = format!("eacces@{turn}");
        let ran = toy.program("gc --delete --json").env("ASHLAR_FAULT", &fault).run();
        assert_eq!(toy.run("verify").code, Some(0), "{fault}: an artifact lacks its origin");
        // The list is printed whatever fails, unless that happens before anything is removed.
        let Ok(report) = serde_json::from_str::<Value>(&ran.stdout) else {
            assert!(toy.names().len() == 4 && trashed.exists(), "{fault}: {ran:?}");
            continue;
        };
        let left = toy.names().len() + usize::from(trashed.exists());
        assert_eq!(report["removed"], 5 - left, "{fault}: {ran:?}");
        let spared = report["spared"].as_array().unwrap();
        if ran.code != Some(0) {
            assert_eq!(spared.len(), left, "{fault}: {ran:?}");
        } else if spared.is_empty() {
            break;
        } else {
            let reason = |spared: &Value| spared["reason"].as_str().unwrap().to_owned();
            let found = spared.iter().find(|spared| reason(spared).starts_with("belongs to another user"));
            denied.insert(found.unwrap()["path"].as_str().unwrap().to_owned());
        }
    }
    // Four artifacts, and what a killed gc of that user left.
    assert_eq!(denied.len(), 4, "{denied:?}");
}

#[test]
fn an_artifact_that_cannot_be_read_keeps_what_it_was_made_from() {
    let toy = Toy::new();
    let names = aged(&toy, 8, 100);
    let [model, data, train, evaluate] = &names;
    let manifest = toy.root().join(train).join("manifest.json");
    let spoil = || {
        testutil::Program::new("chmod").args(["-R", "u+w"]).arg(toy.root().join(train)).run().succeeded();
        fs_err::write(&manifest, "{").unwrap();
        let times = std::fs::FileTimes::new().set_modified(artifact::now() - Duration::from_hours(100 * 24));
        fs_err::File::open(toy.root().join(train)).unwrap().file().set_times(times).unwrap();
    };
    // Its label says that it stays, but its manifest no longer says what it was made from.
    toy.store.set_ref("best", &Artifact::open_with(&toy.root().join(train), Level::Size).unwrap()).unwrap();
    spoil();
    for command in ["gc", "gc --delete"] {
        let error = toy.run(command).failed(65);
        assert!(error.contains("cannot tell what") && error.contains("verify --quarantine"), "{error}");
    }
    for name in [model, data, evaluate] {
        assert!(toy.root().join(name).exists(), "{name}");
    }
    // Nobody asks for it: it stays for `verify`, and the others go.
    fs_err::remove_file(toy.root().join("refs/best")).unwrap();
    assert_eq!(removed(&toy.json("gc --delete")), set([model, data, evaluate]));
    assert!(toy.root().join(train).exists());
}

#[test]
fn folders_that_no_stage_has_are_not_looked_at() {
    let toy = Toy::new();
    toy.pipeline(8, 64);
    // As on a disk that is mounted as the store; root may list it even so.
    let folder = toy.root().join("lost+found");
    fs_err::create_dir_all(folder.join("#1234")).unwrap();
    let set_mode = |mode| fs_err::set_permissions(&folder, PermissionsExt::from_mode(mode)).unwrap();
    set_mode(0o000);
    for command in ["ls", "status", "gc", "gc --delete", "verify"] {
        let ran = toy.run(command);
        assert!(!ran.succeeded().contains("lost+found"), "{command}: {ran:?}");
    }
    set_mode(0o700);
}

#[test]
fn a_pipe_among_the_records_is_not_waited_for() {
    let toy = Toy::new();
    let names = aged(&toy, 8, 100);
    let train = toy.root().join(&names[2]);
    testutil::Program::new("chmod").args(["-R", "u+w"]).arg(&train).run().succeeded();
    for (file, commands) in [
        ("manifest.json", &["ls", "status", "gc", "why evaluate", "lineage evaluate", "verify"][..]),
        ("provenance.json", &["show train", "verify"]),
    ] {
        let kept = fs_err::read(train.join(file)).unwrap();
        fs_err::remove_file(train.join(file)).unwrap();
        testutil::Program::new("mkfifo").arg(train.join(file)).run().succeeded();
        for command in commands {
            let mut program = testutil::Program::new("timeout");
            program.current_dir(toy.path()).arg("10").arg(env!("CARGO_BIN_EXE_artifacts"));
            let ran = program.args(command.split(' ')).run();
            assert!(ran.code.is_some_and(|code| code != 124), "`{command}` waits for the pipe `{file}`");
        }
        fs_err::remove_file(train.join(file)).unwrap();
        fs_err::write(train.join(file), kept).unwrap();
    }
    for folder in ["refs", ".kept"] {
        fs_err::create_dir_all(toy.root().join(folder)).unwrap();
        let pipe = toy.root().join(folder).join("pipe");
        testutil::Program::new("mkfifo").arg(&pipe).run().succeeded();
        for command in ["gc", "ls"] {
            let mut program = testutil::Program::new("timeout");
            program.current_dir(toy.path()).arg("10").arg(env!("CARGO_BIN_EXE_artifacts"));
            let ran = program.arg(command).run();
            assert!(ran.code.is_some_and(|code| code != 124), "`{command}` waits for a pipe in `{folder}`");
        }
        fs_err::remove_file(&pipe).unwrap();
    }
}

#[test]
fn quarantine_killed_at_any_operation_loses_nothing() {
    for turn in 1.. {
        let toy = Toy::new();
        let made = toy.pipeline(8, 64);
        let manifest = made.train.path().join("manifest.json");
        fs_err::remove_file(&manifest).unwrap();
        let ran = toy.program("verify --quarantine").env("ASHLAR_FAULT", format!("kill@{turn}")).run();
        let quarantine = toy.root().join(".quarantine");
        let moved = fs_err::read_dir(&quarantine).map_or(0, Iterator::count);
        assert_eq!(usize::from(made.train.path().exists()) + moved, 1, "kill@{turn}: exactly one copy");
        if ran.signal.is_none() {
            // The evaluation lacks its input as well.
            assert_eq!((moved, ran.code), (1, Some(3)));
            return;
        }
    }
}

/// Writers publish chains and readers open artifacts by path, while gc removes all that nobody uses, without any grace.
fn race(rounds: u64) {
    let toy = Toy::new();
    let done = AtomicBool::new(false);
    let store = Store::open(toy.root()).unwrap();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2_u64)
            .map(|writer| {
                let toy = &toy;
                scope.spawn(move || {
                    for round in 0..rounds {
                        // Each artifact stays open until the next one was made from it, as in a stage.
                        let made = toy.pipeline(writer * 1_000_000 + round % 5, 64);
                        for artifact in [&made.model, &made.data, &made.train, &made.evaluate] {
                            artifact.mark_used();
                            artifact.verify(Level::Hash).unwrap();
                        }
                    }
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            let mut opened = 0_u64;
            while !done.load(Ordering::Relaxed) {
                for stage in ["import-model", "prepare-data", "train", "evaluate"] {
                    for name in store.names(stage).unwrap() {
                        // Either it is gone, or it is whole and stays so while it is open.
                        match Artifact::open_with(&store.root().join(stage).join(&name), Level::Hash) {
                            Ok(artifact) => {
                                artifact.verify(Level::Hash).unwrap();
                                opened += 1;
                            }
                            Err(artifact::Error::NotAnArtifact { .. }) => {}
                            Err(error) => assert!(
                                !store.root().join(stage).join(&name).exists(),
                                "{stage}/{name}: {error}"
                            ),
                        }
                    }
                }
            }
            opened
        });
        let mut collected = 0;
        while !writers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let ran = toy.run("gc --delete --grace 0 --json");
            let report: Value = serde_json::from_str(ran.succeeded()).unwrap();
            collected += report["removed"].as_u64().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0, "nothing was read");
        assert!(collected > 0, "nothing was collected");
        for writer in writers {
            writer.join().unwrap();
        }
    });
    names_in(toy.root());
}

#[test]
fn writers_and_readers_never_lose_what_they_use() {
    race(40);
}

#[test]
#[ignore = "takes minutes; `make soak` runs it"]
fn writers_and_readers_never_lose_what_they_use_for_long() {
    race(1000);
}

#[test]
fn two_collections_at_once_remove_everything_once() {
    let toy = Toy::new();
    for seed in 0..30 {
        age(&toy.make(&Recipe { config: json!({"seed": seed}), ..Recipe::default() }), 100);
    }
    let codes: Vec<Option<i32>> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| toy.run("gc --delete").code)).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert!(codes.iter().all(|code| matches!(code, Some(0 | 75))) && codes.contains(&Some(0)), "{codes:?}");
    toy.run("gc --delete").succeeded();
    assert!(toy.names().is_empty());
}
