//! What a stage does about damaged artifacts and changing inputs: nothing wrong is used, nothing wrong is published.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use artifact::{Artifact, Level};
use common::Home;
use testutil::Ran;

/// Settings that make an output of 66 MiB.
const LARGE: &str = "--set padding_bytes=69206016";

/// Makes everything below `path` writable.
fn make_writable(path: &Path) {
    assert!(std::process::Command::new("chmod").args(["-R", "u+w"]).arg(path).status().unwrap().success());
}

/// Flips one bit in the middle of a file.
fn flip(path: &Path) {
    let file = fs_err::OpenOptions::new().read(true).write(true).open(path).unwrap().into_file();
    let middle = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
}

/// Waits until files written now count as settled, so that their hashes are remembered.
fn settle() {
    std::thread::sleep(Duration::from_secs(3));
}

fn artifact(home: &Home, ran: &Ran) -> PathBuf {
    home.path().join(ran.path())
}

#[test]
fn flipped_bit_in_a_large_output_is_noticed_and_heals() {
    let home = Home::new();
    let made = artifact(&home, &home.run(LARGE));
    make_writable(&made);
    settle();
    assert!(home.run(LARGE).stderr.contains("up to date"), "a sound one is a hit, and is remembered");
    flip(&made.join("data/tally/padding.bin"));
    let again = home.run(LARGE);
    assert!(again.stderr.contains("damaged") && again.stderr.contains("quarantine"), "{}", again.stderr);
    Artifact::open_with(&artifact(&home, &again), Level::Hash).unwrap();
}

#[test]
fn flipped_bit_in_a_large_input_is_refused_by_the_next_stage() {
    let home = Home::new();
    let made = artifact(&home, &home.run(LARGE));
    make_writable(&made);
    settle();
    let next = format!("--before {} --set nested.rank=9", made.display());
    assert_eq!(
        home.run(&format!("{next} --set learning_rate=3")).code,
        Some(0),
        "the input is sound and remembered"
    );
    flip(&made.join("data/tally/padding.bin"));
    let refused = home.run(&next);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(65), ""), "{}", refused.stderr);
    assert!(refused.stderr.contains("padding.bin` have changed"), "{}", refused.stderr);
}

#[test]
fn missing_data_folder_heals() {
    let home = Home::new();
    let made = artifact(&home, &home.run(""));
    let tree = Artifact::open(&made).unwrap().tree();
    make_writable(&made);
    fs_err::remove_dir_all(made.join("data")).unwrap();
    let again = home.run_with("", "LC_ALL", "C");
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert_eq!(Artifact::open(&artifact(&home, &again)).unwrap().tree(), tree);
}

type Change = fn(&Path);

/// Starts a slow run on a folder, does something, and returns how the run ended.
fn run_while(change: impl FnOnce(&Path)) -> (Home, Ran) {
    let home = Home::new();
    let folder = home.path().join("input");
    fs_err::create_dir(&folder).unwrap();
    fs_err::write(folder.join("count.json"), "1\n2\n3\n").unwrap();
    let mut command = testutil::Program::new(common::program());
    command.current_dir(home.path()).args(["--data", "input", "--set", "milliseconds_per_line=300"]);
    let child = command.spawn();
    std::thread::sleep(Duration::from_millis(500));
    change(&folder);
    let ran = Ran::from(child.wait_with_output().unwrap());
    (home, ran)
}

#[test]
fn input_that_changes_during_the_run_never_reaches_the_store() {
    let (home, ran) = run_while(|_| {});
    assert_eq!((ran.code, home.artifacts().len()), (Some(0), 1), "{}", ran.stderr);
    let changes: [(&str, Change); 5] = [
        ("added", |folder| fs_err::write(folder.join("chat_template.jinja"), "x").unwrap()),
        ("added below", |folder| {
            fs_err::create_dir(folder.join("sub")).unwrap();
            fs_err::write(folder.join("sub/x"), "x").unwrap();
        }),
        ("removed", |folder| fs_err::remove_file(folder.join("count.json")).unwrap()),
        ("rewritten", |folder| fs_err::write(folder.join("count.json"), "1\n2\n4\n").unwrap()),
        ("replaced", |folder| {
            fs_err::write(folder.join(".new"), "1\n2\n4\n").unwrap();
            fs_err::rename(folder.join(".new"), folder.join("count.json")).unwrap();
        }),
    ];
    for (name, change) in changes {
        let (home, ran) = run_while(change);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{name}: {}", ran.stderr);
        assert!(ran.stderr.contains("while the stage was running"), "{name}: {}", ran.stderr);
        assert_eq!((home.artifacts().len(), home.leftovers()), (0, 0), "{name}");
    }
}

#[test]
fn file_that_appears_in_an_input_artifact_never_reaches_the_store() {
    let home = Home::new();
    let made = artifact(&home, &home.run(""));
    make_writable(&made);
    for (rank, name) in [(8, "chat_template.jinja"), (9, ".hidden")] {
        let rank = format!("nested.rank={rank}");
        let slow = ["--set", "milliseconds_per_line=1500", "--set", &rank, "--before"];
        let child =
            testutil::Program::new(common::program()).current_dir(home.path()).args(slow).arg(&made).spawn();
        std::thread::sleep(Duration::from_millis(500));
        let added = made.join("data/tally").join(name);
        fs_err::write(&added, "x").unwrap();
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{name}: {}", ran.stderr);
        assert!(ran.stderr.contains("while the stage was running"), "{name}: {}", ran.stderr);
        fs_err::remove_file(added).unwrap();
        assert_eq!((home.artifacts().len(), home.leftovers()), (1, 0), "{name}");
    }
}

#[test]
fn planted_staging_link_is_left_alone() {
    let home = Home::new();
    home.run("").succeeded();
    let private = home.path().join("private");
    fs_err::create_dir(&private).unwrap();
    fs_err::set_permissions(&private, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink(&private, home.store().join("tally/.tmp-00000000-1-x")).unwrap();
    home.run("--set nested.rank=9").succeeded();
    assert_eq!(fs_err::metadata(&private).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn an_artifact_that_another_program_has_locked_is_not_made_again() {
    let home = Home::new();
    let made = home.path().join(home.run("").path());
    let folder = fs_err::File::open(&made).unwrap();
    folder.file().lock().unwrap();
    for arguments in ["", "--check"] {
        let busy = home.run_with(arguments, "ASHLAR_PATIENCE", "50ms");
        assert_eq!(busy.code, Some(75), "{}", busy.stderr);
        assert!(busy.stderr.contains("another process has locked"), "{}", busy.stderr);
        assert!(busy.stderr.contains("hint: run the same command again when"), "{}", busy.stderr);
    }
    assert!(made.exists() && !home.store().join(".quarantine").exists());
    let child = home.command("").spawn();
    std::thread::sleep(std::time::Duration::from_millis(100));
    drop(folder);
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert!(ran.succeeded().contains("tally/") && ran.stderr.contains("up to date"), "{}", ran.stderr);
}

#[test]
fn damaged_output_folder_is_named_with_the_file_and_the_remedy() {
    let home = Home::new();
    home.run("--out o").path();
    let title = home.path().join("o/data/title.json");
    make_writable(&title);
    fs_err::write(&title, "\"pla1n\"\n").unwrap();
    for flags in ["", "--force", "--plan"] {
        let refused = home.run(&format!("--out o {flags}"));
        assert_eq!(refused.code, Some(65), "{flags}: {}", refused.stderr);
        for part in ["artifact `o` is damaged", "title.json", "hint: delete the folder"] {
            assert!(refused.stderr.contains(part), "{flags}: {}", refused.stderr);
        }
    }
    fs_err::write(&title, "\"plain\"\n").unwrap();
    fs_err::write(home.path().join("o/notes.txt"), "").unwrap();
    let refused = home.run("--out o");
    assert!(refused.stderr.contains("hint: move `notes.txt` out of the folder"), "{}", refused.stderr);
    fs_err::remove_file(home.path().join("o/notes.txt")).unwrap();
    assert_eq!(home.run("--out o").code, Some(0));
    let occupied = home.run("--out o --force");
    assert_eq!(occupied.code, Some(2), "{}", occupied.stderr);
    fs_err::remove_dir_all(home.path().join("o")).unwrap();
    assert_eq!(home.run("--out o --plan").code, Some(10));
}
