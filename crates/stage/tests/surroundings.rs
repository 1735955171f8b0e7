//! What surrounds a run decides nothing: the folder it starts in, time zone, locale, umask, times of files, another repository's
//! settings of git. What stands in its way is named.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use artifact::{Artifact, Level, TreeHash};
use common::{Home, program};
use testutil::{Program, Ran};

/// Exit code of `timeout`.
const TOO_LATE: i32 = 124;

fn tree(path: &Path) -> TreeHash {
    Artifact::open_with(path, Level::Hash).unwrap().tree()
}

/// Runs the stage with a limit of ten seconds.
fn limited(home: &Home, arguments: &[&str]) -> Ran {
    let mut timeout = Program::new("timeout");
    timeout.current_dir(home.path()).arg("10").arg(program()).args(["--data", "data.txt"]).args(arguments);
    timeout.run()
}

#[test]
fn environment_and_place_change_neither_key_nor_bytes() {
    let home = Home::new();
    let first = home.run("").path();
    let (name, expected) = (first.file_name().unwrap().to_owned(), tree(&home.path().join(&first)));
    let variables: [&[(&str, &str)]; 5] = [
        &[("TZ", "Pacific/Honolulu"), ("LC_ALL", "tr_TR.UTF-8")],
        &[("LANG", "C"), ("OMP_NUM_THREADS", "1"), ("RAYON_NUM_THREADS", "7")],
        &[("HOME", "/nonexistent"), ("TMPDIR", "/tmp")],
        &[("MALLOC_PERTURB_", "165"), ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")],
        &[("COLUMNS", "20"), ("TERM", "dumb"), ("NO_COLOR", "1")],
    ];
    for (number, pairs) in variables.iter().enumerate() {
        let store = home.path().join(format!("store {number} 'with\nodd name"));
        let elsewhere = home.path().join("elsewhere");
        fs_err::create_dir_all(&elsewhere).unwrap();
        let mut command = Program::new(program());
        command.current_dir(&elsewhere).args(["--data", "../data.txt", "--store"]).arg(&store);
        for (name, value) in *pairs {
            command.env(name, value);
        }
        command.run().succeeded();
        let made = fs_err::read_dir(store.join("tally")).unwrap().next().unwrap().unwrap().path();
        assert_eq!((made.file_name().unwrap(), tree(&made)), (&*name, expected), "{pairs:?}");
    }
}

#[test]
fn stage_folder_on_another_file_system_is_named_with_the_remedy() {
    let home = Home::new();
    home.run("").path();
    // A damaged artifact cannot be moved from there to `.quarantine/`.
    let mount = r#"mount --bind "$PWD/artifacts/tally" "$PWD/artifacts/tally" || exit 99
        chmod -R u+w artifacts/tally; rm artifacts/tally/*/data/tally/count.json; exec "$1" --data data.txt"#;
    let mut shell = Program::new("unshare");
    let ran = shell.current_dir(home.path()).args(["-rm", "sh", "-c", mount, "sh"]).arg(program()).run();
    if ran.code == Some(99) || ran.stderr.contains("unshare:") {
        eprintln!("skipped: cannot mount here");
        return;
    }
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("link or mount the whole store, not a folder in it"), "{}", ran.stderr);
}

#[test]
fn a_linked_folder_of_a_stage_is_refused_with_the_remedy() {
    let home = Home::new();
    let elsewhere = home.path().join("elsewhere");
    fs_err::create_dir(&elsewhere).unwrap();
    fs_err::create_dir(home.store()).unwrap();
    std::os::unix::fs::symlink(&elsewhere, home.store().join("tally")).unwrap();
    let ran = home.run("");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(65), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("`artifacts/tally` is a link"), "{}", ran.stderr);
    assert!(ran.stderr.contains("link or mount the whole store, not a folder in it"), "{}", ran.stderr);
    assert_eq!(fs_err::read_dir(&elsewhere).unwrap().count(), 0);
}

#[test]
fn umask_is_left_alone_and_what_is_published_is_readable_as_asked() {
    for (umask, readable) in [("000", true), ("022", true), ("077", false)] {
        let home = Home::new();
        let script = r#"umask "$1"; "$2" --data data.txt --store s --out o && touch after"#;
        let mut shell = Program::new("sh");
        shell.current_dir(home.path()).args(["-c", script, "sh", umask]).arg(program()).run().succeeded();
        let mode =
            |name: &str| fs_err::metadata(home.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("after") & 0o022 == 0o022, umask == "000", "{umask}");
        // Folders outside a store are as the umask says, and files are read-only whatever it says.
        let mask = u32::from_str_radix(umask, 8).unwrap();
        for name in ["o/data", "o/data/tally"] {
            assert_eq!(mode(name), 0o777 & !mask, "`{name}` with umask {umask} is {:o}", mode(name));
        }
        assert_eq!(mode("o/COMMIT") & 0o222, 0);
        if readable {
            assert_eq!(mode("o/COMMIT") & 0o444, 0o444, "umask {umask}");
        }
    }
}

#[test]
fn times_of_inputs_decide_nothing() {
    let home = Home::new();
    let path = home.run("").path();
    let epoch = SystemTime::UNIX_EPOCH;
    let century = Duration::from_hours(24 * 36_500);
    for time in [epoch, epoch + Duration::from_secs(1), epoch + century, epoch + 2 * century, epoch - century]
    {
        let times = std::fs::FileTimes::new().set_modified(time).set_accessed(time);
        fs_err::File::options()
            .write(true)
            .open(home.path().join("data.txt"))
            .unwrap()
            .file()
            .set_times(times)
            .unwrap();
        let again = home.run_with("", "LC_ALL", "C");
        assert_eq!(again.path(), path, "{time:?}");
        assert!(again.stderr.contains("up to date"), "{time:?}: {}", again.stderr);
    }
}

#[test]
fn git_settings_of_the_folder_are_never_run() {
    let home = Home::new();
    let marker = home.path().join("was-run");
    let script = home.write("monitor.sh", &format!("#!/bin/sh\ntouch '{}'\n", marker.display()));
    fs_err::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let text = format!(
        "[core]\n\tfsmonitor = {0}\n\tpager = {0}\n\tsshCommand = {0}\n\thooksPath = .\n[diff]\n\texternal = {0}\n",
        script.display()
    );
    Program::new("git").current_dir(home.path()).args(["init", "-q"]).run();
    home.write(".git/config", &text);
    // A program named git comes first in the path, too.
    let fake = home.write("bin/git", &format!("#!/bin/sh\ntouch '{}'\n", marker.display()));
    fs_err::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", home.path().join("bin").display(), std::env::var("PATH").unwrap());
    let ran = home.command("").env("PATH", path).env("GIT_DIR", home.path().join(".git")).run();
    assert!(!marker.exists(), "git was run");
    // What is recorded is what the program was built from, not the repository that one stands in.
    let provenance = fs_err::read_to_string(home.path().join(ran.path()).join("provenance.json")).unwrap();
    assert!(provenance.contains("\"revision\""), "{provenance}");
}

#[test]
fn pipes_and_devices_in_the_store_are_named_without_waiting() {
    for kind in ["pipe", "device", "endless file"] {
        for place in ["artifacts/STORE", "artifacts/refs/best", "artifacts/.memo"] {
            let home = Home::new();
            home.run("").path();
            let path = home.path().join(place);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            let _ = fs_err::remove_file(&path);
            let _ = fs_err::remove_dir_all(&path);
            match kind {
                "pipe" => drop(Program::new("mkfifo").arg(&path).run().succeeded()),
                "device" => fs_err::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
                _ => fs_err::File::create(&path).unwrap().set_len(1 << 42).unwrap(),
            }
            let ran = limited(&home, &["--before", "best"]);
            assert!(
                ran.code.is_some_and(|code| code != TOO_LATE && code != 101),
                "{kind} {place}: {}",
                ran.stderr
            );
            assert!(ran.code != Some(0) && ran.stderr.contains('`'), "{kind} {place}: {}", ran.stderr);
            let ran = limited(&home, &["--set", "nested.rank=9"]);
            let may_fail = place.ends_with("STORE");
            assert!(
                ran.code == Some(0) || may_fail && ran.stderr.contains("STORE`"),
                "{kind} {place}: {}",
                ran.stderr
            );
        }
    }
}

/// Runs a script with the store mounted read-only; `None` where that cannot be done.
fn read_only(home: &Home, script: &str) -> Option<Ran> {
    let mount = r#"mount --bind "$PWD/artifacts" "$PWD/artifacts" && mount -o remount,bind,ro "$PWD/artifacts" || exit 99"#;
    let mut shell = Program::new("unshare");
    shell
        .current_dir(home.path())
        .args(["-rm", "sh", "-c", &format!("{mount}\n{script}"), "sh"])
        .arg(program());
    let ran = shell.run();
    (ran.code != Some(99) && !ran.stderr.contains("unshare:")).then_some(ran)
}

#[test]
fn read_only_store_serves_hits_and_names_itself_in_a_miss() {
    let home = Home::new();
    let path = home.run("").path();
    let Some(hit) = read_only(&home, r#""$1" --data data.txt"#) else {
        eprintln!("skipped: cannot mount here");
        return;
    };
    assert_eq!(hit.path(), path, "{}", hit.stderr);
    let miss = read_only(&home, r#""$1" --data data.txt --set nested.rank=9"#).unwrap();
    assert_eq!((miss.code, miss.stdout.as_str()), (Some(74), ""), "{}", miss.stderr);
    assert!(miss.stderr.contains("artifacts") && miss.stderr.contains("Read-only"), "{}", miss.stderr);
    let label = read_only(&home, r#""$1" --data data.txt --label best"#).unwrap();
    assert_eq!(label.code, Some(74), "{}", label.stderr);
    assert!(label.stderr.contains("artifacts/refs"), "{}", label.stderr);
}

#[test]
fn store_of_another_user_is_named_in_a_miss() {
    let home = Home::new();
    let path = home.run("").path();
    let open = |path: &Path| fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    open(home.path());
    open(&home.store());
    let as_nobody = |arguments: &str| {
        let mut setpriv = Program::new("setpriv");
        setpriv.current_dir(home.path()).args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        setpriv.arg(program()).args(["--data", "data.txt"]).args(arguments.split_whitespace()).run()
    };
    let hit = as_nobody("");
    if hit.stderr.contains("setpriv:") || hit.stderr.contains("Permission denied") && hit.code == Some(127) {
        eprintln!("skipped: cannot become another user here");
        return;
    }
    assert_eq!(hit.path(), path, "{}", hit.stderr);
    let miss = as_nobody("--set nested.rank=9");
    assert_eq!((miss.code, miss.stdout.as_str()), (Some(1), ""), "{}", miss.stderr);
    assert!(
        miss.stderr.contains("artifacts") && miss.stderr.contains("Permission denied"),
        "{}",
        miss.stderr
    );
}

#[test]
fn limit_of_the_shell_on_files_is_an_error_that_names_the_file() {
    let home = Home::new();
    let script = r#"ulimit -f 64; exec "$1" --data data.txt --set padding_bytes=3000000"#;
    let mut shell = Program::new("bash");
    let ran = shell.current_dir(home.path()).args(["-c", script, "sh"]).arg(program()).run();
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(74), ""), "{:?} {}", ran.signal, ran.stderr);
    assert!(ran.stderr.contains("padding.bin") && ran.stderr.contains("too large"), "{}", ran.stderr);
    assert_eq!((home.artifacts().len(), home.leftovers()), (0, 0));
}

#[test]
fn records_without_end_and_links_in_place_of_an_artifact_are_damage_and_heal() {
    for name in ["COMMIT", "SHA256SUMS", "manifest.json", "provenance.json", ""] {
        let home = Home::new();
        let made = home.path().join(home.run("").path());
        let expected = tree(&made);
        Program::new("chmod").args(["-R", "u+w"]).arg(&made).run().succeeded();
        if name.is_empty() {
            let moved = home.path().join("moved");
            fs_err::rename(&made, &moved).unwrap();
            fs_err::os::unix::fs::symlink(&moved, &made).unwrap();
        } else {
            fs_err::File::options().write(true).open(made.join(name)).unwrap().set_len(1 << 40).unwrap();
        }
        let again = limited(&home, &[]);
        assert_eq!(again.code, Some(0), "`{name}`: {}", again.stderr);
        assert!(again.stderr.contains("quarantine"), "`{name}`: {}", again.stderr);
        assert_eq!(tree(&made), expected, "`{name}`");
        assert!(fs_err::symlink_metadata(&made).unwrap().is_dir());
    }
}

#[test]
fn files_in_place_of_folders_are_named_before_any_work() {
    let home = Home::new();
    for (arguments, flag) in [
        ("--store data.txt", "--store"),
        ("--store data.txt/below --plan", "--store"),
        ("--out data.txt", "--out"),
        ("--out data.txt/below --plan", "--out"),
        ("--out o --resume-dir data.txt", "--resume-dir"),
    ] {
        let said = home.run(arguments).failed(2);
        let expected = format!("error: `data.txt` is not a folder\nhint: choose another path for `{flag}`\n");
        assert_eq!(said, expected, "{arguments}");
    }
    assert!(!home.path().join("o").exists() && !home.store().exists());
    assert_eq!(fs_err::read_to_string(home.path().join("data.txt")).unwrap(), "one\ntwo\nthree\n");
    // With `--out`, there need be no store.
    home.run("--store data.txt --out o").succeeded();
}

#[test]
fn folder_of_a_user_is_left_alone_whatever_it_holds() {
    let home = Home::new();
    let files = ["dd/INCOMPLETE", "dd/data/precious", "dd/thesis.txt", "dd/SHA256SUMS"];
    for name in files {
        home.write(name, "");
    }
    let said = home.run("--out dd").failed(2);
    assert_eq!(
        said,
        "error: `dd` is not empty: it holds `thesis.txt`\nhint: give `--out` a new or empty folder\n"
    );
    assert!(files.iter().all(|name| home.path().join(name).is_file()));
}

#[test]
fn file_that_a_user_puts_into_the_output_is_named_and_the_work_is_kept() {
    let home = Home::new();
    let arguments = "--out o --set milliseconds_per_line=300";
    let child = home.command(arguments).spawn();
    std::thread::sleep(Duration::from_millis(500));
    home.write("o/thesis.txt", "mine");
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{}", ran.stderr);
    ran.says(&[
        "`o` holds `thesis.txt`, which is not part of the artifact",
        "hint: move it out of the folder, then run the same command again",
    ]);
    assert!(!ran.stderr.contains("delete"), "{}", ran.stderr);
    fs_err::rename(home.path().join("o/thesis.txt"), home.path().join("thesis.txt")).unwrap();
    let again = home.run(arguments);
    again.succeeded();
    again.says(&["up to date"]);
}

#[test]
fn empty_variables_are_as_good_as_none() {
    let home = Home::new();
    assert!(home.run_with("", "ASHLAR_STORE", "").path().starts_with("artifacts/tally"));
    assert!(home.run_with("--help", "ASHLAR_STORE", "").succeeded().contains("[default: artifacts]"));
    // A folder as if the variable named the one in which the stage runs.
    let plan = |home: &Home| home.run_with("--out o --plan", "ASHLAR_SCRATCH", "");
    let key = home.run("--out made").path();
    let key = Artifact::open(&home.path().join(key)).unwrap().manifest().key.short();
    home.write(&format!("tally-{key}-{}/done", rustix::process::geteuid().as_raw()), "1");
    assert_eq!(plan(&home).code, Some(10), "it would resume from a folder that nobody named");
}

#[test]
fn full_pipe_as_stderr_keeps_no_signal_away() {
    use rustix::process::{Pid, Signal, kill_process};
    let home = Home::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut filler = writer.try_clone().unwrap();
    let filling = std::thread::spawn(move || {
        let _ = std::io::Write::write_all(&mut filler, &vec![0; 1 << 20]);
    });
    let mut stage = home.command("--set milliseconds_per_line=60000");
    stage.command().stderr(writer);
    let mut child = stage.spawn();
    std::thread::sleep(Duration::from_millis(500));
    kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::TERM).unwrap();
    let begun = std::time::Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > Duration::from_secs(7) {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(143), "it did not end by itself");
    drop(reader);
    filling.join().unwrap();
}

#[test]
fn resume_state_that_does_not_fit_into_its_folder_is_refused_before_the_work() {
    let home = Home::new();
    home.run("").path();
    for name in ["tmp", "shared"] {
        fs_err::create_dir(home.path().join(name)).unwrap();
    }
    for (flags, scratch, folder, chosen_by) in [
        ("--check", "", "tmp", "TMPDIR"),
        ("--out o", "", "tmp", "TMPDIR"),
        ("--out o", "shared", "shared", "ASHLAR_SCRATCH"),
        ("--out o --resume-dir keep", "", "keep", "--resume-dir"),
    ] {
        let run = |bytes: &str| {
            let mut program = home.command(&format!("-v {flags} --state-bytes {bytes}"));
            program.env("TMPDIR", home.path().join("tmp")).env("ASHLAR_SCRATCH", scratch).run()
        };
        let refused = run("1000000000000000000");
        assert_eq!(refused.code, Some(74), "{flags}: {}", refused.stderr);
        for part in ["too little space at `", folder, chosen_by, "1000000000000000000 needed"] {
            assert!(refused.stderr.contains(part), "{flags}: {}", refused.stderr);
        }
        assert!(!refused.stderr.contains("debug: line 1"), "{flags}: {}", refused.stderr);
        let accepted = run("1000");
        assert_eq!(accepted.code, Some(0), "{flags}: {}", accepted.stderr);
        let _ = fs_err::remove_dir_all(home.path().join("o"));
    }
}
