//! A stage as a user sees it: what it prints, when it runs, how it fails.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use artifact::{Artifact, Level};
use common::Home;
use testutil::{Ran, filtered};

fn tree(home: &Home, ran: &Ran) -> artifact::TreeHash {
    Artifact::open_with(&home.path().join(ran.path()), Level::Hash).unwrap().tree()
}

#[test]
fn stdout_holds_only_the_path_and_a_second_run_is_a_hit() {
    let home = Home::new();
    let first = home.run("");
    assert!(first.stderr.contains("computing a unit"));
    assert!(first.path().starts_with("artifacts/tally"));
    let second = home.run("-v");
    assert_eq!(second.stdout, first.stdout);
    assert!(second.stderr.starts_with("tally: up to date, artifacts/tally"), "{}", second.stderr);
    assert_eq!(home.artifacts().len(), 1);
    let artifact = Artifact::open(&home.path().join(first.path())).unwrap();
    assert_eq!(artifact.manifest().metric("lines"), Some(3.0));
    assert!(!home.store().join(".work/tally").join(artifact.manifest().key.short()).exists());
}

#[test]
fn hit_is_fast() {
    let home = Home::new();
    home.run("").path();
    let begin = Instant::now();
    for _ in 0..8 {
        home.run("").path();
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[test]
fn changed_setting_gives_another_artifact() {
    let home = Home::new();
    let paths = ["", "--set learning_rate=2e-4", "--set tally.nested.rank=4", "--set nested.rank=16"]
        .map(|arguments| home.run(arguments).path());
    for (index, path) in paths.iter().enumerate() {
        assert!(!paths[..index].contains(path), "{path:?}");
    }
    // Writing out a default, in whatever form, changes nothing.
    assert_eq!(home.run("--set learning_rate=1.0e-4 --set nested.rank=8").path(), paths[0]);
}

#[test]
fn changed_input_with_the_same_content_is_a_hit() {
    let home = Home::new();
    let first = home.run("").path();
    std::thread::sleep(Duration::from_millis(20));
    home.write("data.txt", "one\ntwo\nthree\n");
    assert_eq!(home.run("").path(), first);
    // `title` changes the artifact but not its output `tally`, the only one that the next stage reads.
    let other = home.run("--set title=other").path();
    assert_ne!(other, first);
    let after = |before: &std::path::Path| home.run(&format!("--before {}", before.display())).path();
    assert_eq!(after(&first), after(&other));
    home.write("data.txt", "one\n");
    assert_ne!(home.run("").path(), first);
}

#[test]
fn settings_come_from_files_and_flags_in_order() {
    let home = Home::new();
    home.write(
        "a.toml",
        "name = 'x'\n[train]\nanything = 1\n[tally]\ntitle = 'a'\n[tally.nested]\nrank = 2\n",
    );
    home.write("b.toml", "[tally]\ntitle = 'b'\n");
    let config = |arguments: &str| {
        let path = home.run(arguments).path();
        Artifact::open(&home.path().join(path)).unwrap().manifest().key_material.config.clone()
    };
    let both = config("--config a.toml --config b.toml");
    assert_eq!((both["title"].as_str(), both["nested"]["rank"].as_u64()), (Some("b"), Some(2)));
    assert!(both.get("limit").is_none(), "an unset option is not part of the key");
    let flags = config("--config a.toml --set title=c --set tally.limit=7 --set train.steps=3");
    assert_eq!((flags["title"].as_str(), flags["limit"].as_u64()), (Some("c"), Some(7)));
    // A text that looks like a number stays a text where the setting is one.
    assert_eq!(config("--set title=12")["title"], "12");
}

#[test]
fn numbers_may_stand_in_quotes() {
    let home = Home::new();
    let plain = home.run("--set learning_rate=2.5e-4 --set title=3").path();
    for (name, number) in [("a.toml", "\"2.5e-4\""), ("b.toml", "'0.00025'"), ("c.toml", "2.5e-4")] {
        home.write(name, &format!("[tally]\ntitle = \"3\"\nlearning_rate = {number} # kept\n"));
        assert_eq!(home.run(&format!("--config {name}")).path(), plain, "{number}");
    }
    home.write("late.toml", "[tally]\nlearning_rate = \"1e-3\"\n\nlimit = 'many'\n");
    home.write("empty.toml", "[tally]\nlearning_rate = ''\n");
    home.write("infinite.toml", "[tally]\nlearning_rate = \"inf\"\n");
    let before = home.artifacts().len();
    for (name, place) in [("late.toml", "`late.toml:4`"), ("empty.toml", ":2`"), ("infinite.toml", ":2`")] {
        let ran = home.run(&format!("--config {name}"));
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{name}");
        assert!(ran.stderr.contains(place), "{}", ran.stderr);
    }
    assert_eq!(home.artifacts().len(), before);
}

/// Runs commands that must fail with `code` and publish nothing; returns them with what they print.
#[track_caller]
fn failures(home: &Home, code: i32, commands: &[&str]) -> String {
    let mut text = String::new();
    for arguments in commands {
        let stderr = home.run(arguments).failed(code);
        text.extend(["$ tally ", arguments, "\n", &stderr]);
        assert!(home.artifacts().is_empty(), "{arguments}");
        assert_eq!(home.leftovers(), 0, "{arguments}");
    }
    text
}

#[test]
fn wrong_settings_name_place_and_nearest_key() {
    let home = Home::new();
    home.write("typo.toml", "# settings\n[tally]\ntitle = 'a'\nlearning_rat = 1\n");
    home.write("optional.toml", "[tally]\nlimits = 1\n");
    home.write("below.toml", "[tally]\nnested = { rang = 1 }\n");
    home.write("type.toml", "[tally]\n\nlearning_rate = 'fast'\n");
    home.write("syntax.toml", "[tally]\ntitle = \n");
    home.write("table.toml", "[trian]\nsteps = 1\n");
    home.write("value.toml", "tally = 1\n");
    home.write("nan.toml", "[tally]\nlearning_rate = nan\n");
    let files = ["typo", "optional", "below", "type", "syntax", "table", "value", "nan", "none"];
    let commands = files.map(|name| format!("--config {name}.toml"));
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    insta::assert_snapshot!(failures(&home, 2, &commands), @r#"
    $ tally --config typo.toml
    error: `typo.toml:4`: unknown setting `learning_rat` (stage `tally`)
    hint: did you mean `learning_rate`?
    $ tally --config optional.toml
    error: `optional.toml:2`: unknown setting `limits` (stage `tally`)
    hint: did you mean `limit`?
    $ tally --config below.toml
    error: `below.toml:2`: unknown setting `rang` (stage `tally`)
    hint: did you mean `rank`?
    $ tally --config type.toml
    error: `type.toml:3`: invalid type: string "fast", expected f64
    $ tally --config syntax.toml
    error: `syntax.toml:2`: string values must be quoted, expected literal string
    $ tally --config table.toml
    error: `table.toml:1`: unknown table `trian`
    hint: did you mean `train`?
    $ tally --config value.toml
    error: `value.toml:1`: `tally` must be a table
    $ tally --config nan.toml
    error: setting `learning_rate` is NaN; it must be finite
    $ tally --config none.toml
    error: reading settings
      caused by: failed to open file `none.toml`
      caused by: No such file or directory (os error 2)
    "#);
    let commands = [
        "--set learning_rat=1",
        "--set limits=1",
        "--set nested.rang=1",
        "--set nested={rang=1}",
        "--set trian.steps=1",
        "--set nested.rank=many",
        "--set title.x=1",
        "--set title",
        "--set .title=1",
        "--set learning_rate=0.0 --set nested.rank=0",
        "--set title=/etc",
    ];
    insta::assert_snapshot!(failures(&home, 2, &commands), @r#"
    $ tally --set learning_rat=1
    error: `--set learning_rat=1`: unknown setting `learning_rat` (stage `tally`)
    hint: did you mean `learning_rate`?
    $ tally --set limits=1
    error: `--set limits=1`: unknown setting `limits` (stage `tally`)
    hint: did you mean `limit`?
    $ tally --set nested.rang=1
    error: `--set nested.rang=1`: unknown setting `rang` (stage `tally`)
    hint: did you mean `rank`?
    $ tally --set nested={rang=1}
    error: `--set nested={rang=1}`: unknown field `rang`, expected `rank`
    $ tally --set trian.steps=1
    error: `--set trian.steps=1`: unknown stage `trian`
    hint: did you mean `train`?
    $ tally --set nested.rank=many
    error: `--set nested.rank=many`: invalid type: string "many", expected u64
    $ tally --set title.x=1
    error: `--set title.x=1`: invalid type: map, expected a string
    $ tally --set title
    error: `--set title`: expected KEY=VALUE
    $ tally --set .title=1
    error: `--set .title=1`: `.title` is not a valid name of a setting
    $ tally --set learning_rate=0.0 --set nested.rank=0
    error: 2 settings are wrong:
      `learning_rate` is 0; it must be above 0
      `nested.rank` is 0; it must be at least 1
    $ tally --set title=/etc
    error: setting `title` holds the path `/etc`; settings hold no paths
    "#);
    assert!(failures(&home, 2, &["--no-such-flag"]).contains("--no-such-flag"));
}

#[test]
fn bad_input_exits_with_65_and_ends_in_a_hint() {
    let home = Home::new();
    home.write("data.txt", "one\nbad\n");
    let before = failures(&home, 65, &["", "--before nowhere", "--before ."]);
    fs_err::remove_file(home.path().join("data.txt")).unwrap();
    insta::assert_snapshot!(before + &failures(&home, 65, &[""]), @"
    $ tally 
    error: line 2 is bad
    hint: correct it
    $ tally --before nowhere
    error: opening input `before`
      caused by: artifact `nowhere` does not exist
    hint: give the folder that a stage printed, or `refs/NAME` for a labelled artifact
    $ tally --before .
    error: opening input `before`
      caused by: `.` is not an artifact: it has no file `COMMIT`
    hint: give the folder that a stage printed
    $ tally 
    error: opening input `data`
      caused by: failed to query resolved metadata `data.txt`
      caused by: No such file or directory (os error 2)
    ");
}

#[test]
fn non_finite_result_is_not_published() {
    let home = Home::new();
    insta::assert_snapshot!(failures(&home, 1, &["--nan"]), @"
    $ tally --nan
    computing a unit
    error: publishing the artifact
      caused by: refused to publish: `metric lines` is not finite
    ");
}

#[test]
fn damaged_input_is_noticed_before_it_is_used() {
    let home = Home::new();
    let first = home.run("").path();
    let file = home.path().join(&first).join("data/tally/count.json");
    let mut permissions = fs_err::metadata(&file).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    fs_err::set_permissions(&file, permissions).unwrap();
    fs_err::write(&file, "4\n").unwrap();
    let ran = home.run(&format!("--before {} --set title=next", first.display()));
    assert_eq!(ran.code, Some(65), "{}", ran.stderr);
    assert!(ran.stderr.contains("the bytes of `data/tally/count.json` have changed"), "{}", ran.stderr);
    // As the stage's own result it is moved away and made again.
    let again = home.run("");
    assert!(again.stderr.contains("moved to"), "{}", again.stderr);
    assert_eq!(again.path(), first);
    assert_eq!(home.artifacts().len(), 1);
}

#[test]
fn input_that_changes_during_the_run_stops_publishing() {
    let home = Home::new();
    let child = home.command("--set milliseconds_per_line=300").spawn();
    std::thread::sleep(Duration::from_millis(400));
    home.write("data.txt", "one\ntwo\nthree\nfour\n");
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("`data.txt` changed while the stage was running"), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: run the same command again"), "{}", ran.stderr);
    assert!(home.artifacts().is_empty());
}

#[test]
fn out_writes_what_the_store_would() {
    let home = Home::new();
    let stored = home.path().join(home.run("").path());
    let ran = home.run("--out result");
    assert_eq!(ran.stdout, "result\n");
    let folder = home.path().join("result");
    for name in ["SHA256SUMS", "manifest.json"] {
        assert_eq!(
            fs_err::read(stored.join(name)).unwrap(),
            fs_err::read(folder.join(name)).unwrap(),
            "{name}"
        );
    }
    assert_eq!(Artifact::open(&folder).unwrap().tree(), tree(&home, &home.run("")));
    assert_eq!(home.run("--out result").stdout, "result\n", "the same again is a hit");
    let other = home.run("--out result --set title=x");
    assert_eq!(other.code, Some(2), "{}", other.stderr);
    // Used as an input, it is as good as one from the store.
    assert_eq!(
        home.run("--before result").path(),
        home.run(&format!("--before {}", stored.display())).path()
    );
}

#[test]
fn out_is_reproducible_to_the_byte_where_asked() {
    let home = Home::new();
    for out in ["one", "two"] {
        let ran = home.run_with(&format!("--out {out}"), "SOURCE_DATE_EPOCH", "1");
        assert_eq!(ran.stdout, format!("{out}\n"));
        assert!(!home.path().join(out).join("telemetry").exists());
        std::thread::sleep(Duration::from_millis(1100));
    }
    let commit = |out: &str| fs_err::read(home.path().join(out).join("COMMIT")).unwrap();
    assert_eq!(commit("one"), commit("two"));
    assert!(!home.store().exists());
}

#[test]
fn check_finds_a_stage_that_is_not_deterministic() {
    let home = Home::new();
    home.run("").path();
    let same = home.run("--check");
    assert!(same.stderr.contains("identical bytes"), "{}", same.stderr);
    let forced = home.run("--force --random");
    assert_eq!(forced.code, Some(0));
    assert!(forced.stderr.contains("not deterministic"), "{}", forced.stderr);
    let checked = home.run("--check --random");
    assert_eq!((checked.code, checked.stdout.as_str()), (Some(70), ""));
    assert!(checked.stderr.contains("`noise.txt`"), "{}", checked.stderr);
    assert_eq!(home.artifacts().len(), 1);
}

#[test]
fn plan_shows_what_would_be_done_and_why() {
    let home = Home::new();
    let fresh = home.run("--plan");
    assert_eq!((fresh.code, fresh.stdout.as_str()), (Some(10), ""));
    insta::assert_snapshot!(filtered(&fresh.stderr), @"
    tally: would run [HASH]-rank8
      no artifact of `tally` in `artifacts`
      memory: negligible
    ");
    assert!(!home.store().exists(), "planning must not write");
    let first = home.run("").path();
    let hit = home.run("--plan");
    assert_eq!(hit.path(), first);
    assert!(hit.stderr.contains("tally: up to date"));
    home.run("--set learning_rate=5e-4 --set title=far").path();
    let changed = home.run("--plan --set learning_rate=2e-4");
    assert_eq!(changed.code, Some(10));
    assert!(changed.stderr.contains("config/learning_rate 0.0001 → 0.0002"), "{}", changed.stderr);
    assert!(!changed.stderr.contains("title"), "{}", changed.stderr);

    home.run(&format!("--before {}", first.display())).path();
    home.write("more.txt", "1\n2\n3\n4\n");
    let longer = home.run("--data more.txt --set nested.rank=9");
    assert_eq!(longer.code, Some(2), "--data twice");
    let mut other = home.command("");
    other.args(["--before", first.to_str().unwrap(), "--plan", "--json", "--set", "limit=1"]);
    let ran = other.run();
    assert_eq!(ran.code, Some(10));
    let plan: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((plan["stage"].as_str(), plan["action"].as_str()), (Some("tally"), Some("run")));
    assert_eq!(plan["why"][1], "config/limit (none) → 1");
}

#[test]
fn plan_follows_a_changed_input_to_the_stage_that_made_it() {
    let home = Home::new();
    let small = home.run("").path();
    home.run(&format!("--before {}", small.display())).path();
    let plain = home.write("data2.txt", "x\n");
    fs_err::rename(plain, home.path().join("data.txt")).unwrap();
    let large = home.run("--set nested.rank=32").path();
    home.write("data.txt", "one\ntwo\nthree\n");
    let plan = home.run(&format!("--plan --before {}", large.display()));
    assert_eq!(plan.code, Some(10));
    let line = plan.stderr.lines().find(|line| line.contains("inputs/before")).unwrap();
    assert!(line.contains("⟵ tally (") && line.contains("config/nested/rank 8 → 32"), "{line}");
}

#[test]
fn arguments_that_are_not_utf8_are_recorded() {
    use std::os::unix::ffi::OsStrExt as _;
    let home = Home::new();
    let out = home.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    let ran = home.command("").arg("--out").arg(&out).spawn().wait_with_output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    // The path that is printed is one that exists.
    assert_eq!(ran.stdout, [out.as_os_str().as_bytes(), b"\n"].concat());
    let plan = home.command("--plan --json").arg("--out").arg(&out).run();
    let plan: serde_json::Value = serde_json::from_str(plan.succeeded()).unwrap();
    assert_eq!(plan["path"], stage::json_path(&out));
}

#[test]
fn eight_processes_publish_once() {
    let home = Home::new();
    let children: Vec<_> = (0..8).map(|_| home.command("--set milliseconds_per_line=30").spawn()).collect();
    let ran: Vec<Ran> =
        children.into_iter().map(|child| Ran::from(child.wait_with_output().unwrap())).collect();
    for one in &ran {
        assert_eq!(one.path(), ran[0].path());
    }
    let worked = ran.iter().filter(|one| one.stderr.contains("computing a unit")).count();
    assert_eq!(worked, 1);
    assert_eq!((home.artifacts().len(), home.leftovers()), (1, 0));
}

#[test]
fn locked_key_exits_with_75() {
    let home = Home::new();
    let slow = "--set milliseconds_per_line=500";
    let mut child = home.command(slow).spawn();
    std::thread::sleep(Duration::from_millis(300));
    let ran = home.run(&format!("{slow} --lock-wait 0"));
    assert_eq!(ran.code, Some(75), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("(process {} on", child.id())), "{}", ran.stderr);
    assert!(child.wait().unwrap().success());
}

#[test]
fn label_makes_a_ref_that_serves_as_input() {
    let home = Home::new();
    let path = home.run("--label best").path();
    let direct = home.run(&format!("--before {}", path.display())).path();
    assert_eq!(home.run("--before refs/best").path(), direct);
    assert_eq!(home.run("--before best").path(), direct);
}

#[test]
fn a_label_that_cannot_be_given_is_refused_before_the_work() {
    let home = Home::new();
    home.run("--label Best").path();
    let made = home.artifacts().len();
    for (label, says) in [("bad/name", "not a valid ref name"), ("best", "differs only in case")] {
        for plan in ["", "--plan"] {
            let ran = home.run(&format!("--set title=y --label {label} {plan}"));
            assert_eq!(ran.code, Some(2), "{}", ran.stderr);
            assert!(ran.stderr.contains(says) && !ran.stderr.contains("computing"), "{}", ran.stderr);
        }
    }
    assert_eq!(home.artifacts().len(), made);
}

#[test]
fn unit_is_shared_between_runs() {
    let home = Home::new();
    assert!(home.run("").stderr.contains("computing a unit"));
    let second = home.run("--set title=x");
    assert!(!second.stderr.contains("computing a unit"), "{}", second.stderr);
    assert!(home.run("--out o").stderr.contains("computing a unit"), "--out does not use the store");
}

#[test]
fn closed_pipes_do_no_harm() {
    let home = Home::new();
    let mut child = home.command("").spawn();
    drop(child.stdout.take());
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(home.artifacts().len(), 1);
}

#[test]
fn quiet_prints_no_progress_and_help_lists_flags() {
    let home = Home::new();
    assert_eq!(home.run("-q").stderr, "");
    let help = home.command("--help").run();
    let own = help.succeeded().split("\nCommon options:").next().unwrap();
    insta::assert_snapshot!(own, @"
    Count the lines of a file

    Usage: tally [OPTIONS]

    Options:
          --data <FILE>        File to count
          --before <ARTIFACT>  Artifact of this stage whose count is added
          --random             Write different bytes on every run
          --nan                Write NaN into the results
          --state-bytes <N>    Announce a resume state of N bytes [default: 0]
      -h, --help               Print help
      -V, --version            Print version
    ");
    assert!(home.command("--version").run().succeeded().ends_with(concat!(
        " ",
        env!("CARGO_PKG_VERSION"),
        "\n"
    )));
    assert!(!home.run("").stderr.contains('\u{1b}'), "no colour outside a terminal");
}

#[test]
fn the_last_line_says_what_was_done_and_how_long_it_took() {
    let home = Home::new();
    let last = |arguments: &str| {
        let stderr = filtered(&home.run(arguments).stderr);
        stderr.lines().next_back().unwrap_or_default().to_owned()
    };
    assert_eq!(last(""), "tally: 3 lines in [TIME]");
    assert_eq!(last(""), "tally: up to date, artifacts/tally/[HASH]-rank8 ([TIME])");
    assert_eq!(last("--check"), "tally: 3 lines in [TIME]");
    assert_eq!(last("--out o"), "tally: 3 lines in [TIME]");
    assert_eq!(last("--out o"), "tally: up to date, o ([TIME])");
    assert!(last("--plan").starts_with("  "));
}

#[test]
fn read_only_store_still_serves_hits() {
    let home = Home::new();
    let path = home.run("").path();
    assert!(Command::new("chmod").args(["-R", "a-w"]).arg(home.store()).status().unwrap().success());
    assert_eq!(home.run("").path(), path);
    assert!(Command::new("chmod").args(["-R", "u+w"]).arg(home.store()).status().unwrap().success());
}
