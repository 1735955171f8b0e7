//! Stages in a plain shell, without make: stdout is the path and nothing else, with a store and without one.

use anyhow::{Result, ensure};
use tests::{Place, Ran, command, programs, root, run};

const STAGES: [&str; 8] =
    ["import-model", "prepare-data", "train", "validate", "select-best", "fuse", "evaluate", "report"];

/// Runs a script with the programs in its `PATH`; `$root` is the repository, `$settings` the flags for small runs.
fn shell(place: &Place, script: &str) -> Result<Ran> {
    let path = format!("{}:{}", programs().display(), std::env::var("PATH")?);
    let settings = format!("--config {}", root().join("tests/fixtures/small.toml").display());
    let mut shell = command("/bin/sh");
    shell.current_dir(place.path()).env("PATH", path).env("root", root()).env("settings", settings);
    run(shell.arg("-euc").arg(script))
}

const CHAIN: &str = r#"
    model=$(import-model $settings --model-dir "$root/data/models/demo")
    data=$(prepare-data $settings --tokenizer "$model" --data "$root/data/haw-eng") \
        && run=$(train $settings --model "$model" --dataset "$data")
    losses=$(validate $settings --model "$model" --dataset "$data" --train "$run")
    best=$(select-best $settings --train "$run" --validate "$losses")
    fused=$(fuse $settings --model "$model" --adapters "$best" --dataset "$data")
    scores=$(evaluate $settings --model base="$model" --model fused="$fused" --dataset "$data")
    report=$(report $settings --import-model "$model" --prepare-data "$data" --train "$run" --validate "$losses" \
        --select-best "$best" --fuse "$fused" --evaluate "$scores")
    for path in "$model" "$data" "$run" "$losses" "$best" "$fused" "$scores" "$report"; do
        [ -f "$path/COMMIT" ] || { echo "not a path: $path"; exit 9; }
        echo "$path"
    done
"#;

/// Every stage writes to a folder of its own and reads those of others.
const FOLDERS: &str = r#"
    i="$settings"
    import-model $i --model-dir "$root/data/models/demo" --out import-model
    prepare-data $i --tokenizer import-model --data "$root/data/haw-eng" --out prepare-data
    train $i --model import-model --dataset prepare-data --out train
    validate $i --model import-model --dataset prepare-data --train train --out validate
    select-best $i --train train --validate validate --out select-best
    fuse $i --model import-model --adapters select-best --dataset prepare-data --out fuse
    evaluate $i --model base=import-model --model fused=fuse --dataset prepare-data --out evaluate
    report $i --import-model import-model --prepare-data prepare-data --train train --validate validate \
        --select-best select-best --fuse fuse --evaluate evaluate --out report
"#;

#[test]
fn paths_go_from_stage_to_stage_and_folders_hold_what_the_store_does() -> Result<()> {
    let place = Place::new()?;
    let chained = shell(&place, CHAIN)?;
    ensure!(chained.code == Some(0), "{}\n{}", chained.stdout, chained.stderr);
    let paths: Vec<&str> = chained.stdout.lines().collect();
    ensure!(paths.len() == STAGES.len(), "more than paths was printed:\n{}", chained.stdout);
    for (path, stage) in paths.iter().zip(STAGES) {
        ensure!(path.starts_with(&format!("artifacts/{stage}/")), "`{path}` is not of `{stage}`");
    }
    ensure!(!chained.stderr.is_empty(), "what people should see goes to stderr");

    let bare = Place::new()?;
    let folders = shell(&bare, FOLDERS)?;
    ensure!(folders.code == Some(0), "{}\n{}", folders.stdout, folders.stderr);
    ensure!(folders.stdout.lines().eq(STAGES), "each stage prints its folder:\n{}", folders.stdout);
    for (path, stage) in paths.iter().zip(STAGES) {
        for name in ["SHA256SUMS", "manifest.json"] {
            let stored = fs_err::read_to_string(place.path().join(path).join(name))?;
            let written = fs_err::read_to_string(bare.path().join(stage).join(name))?;
            ensure!(stored == written, "`{name}` of `{stage}` differs:\n{stored}\n{written}");
        }
        let sums = "cd \"$0/data\" && sha256sum --check --quiet ../SHA256SUMS";
        let checked = run(command("/bin/sh").current_dir(bare.path()).args(["-c", sums, stage]))?;
        ensure!(checked.code == Some(0), "`{stage}`: {}{}", checked.stdout, checked.stderr);
    }
    let mut names: Vec<String> = fs_err::read_dir(bare.path())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.sort();
    let mut expected = STAGES.map(str::to_owned);
    expected.sort();
    ensure!(names == expected, "beside the folders there is: {names:?}");
    Ok(())
}

#[test]
fn help_goes_to_stdout_and_mistakes_go_to_stderr() -> Result<()> {
    let place = Place::new()?;
    for stage in STAGES {
        let help = run(&mut place.stage(stage, &["--help"]))?;
        ensure!(help.code == Some(0) && help.stderr.is_empty(), "`{stage} --help`: {}", help.stderr);
        for part in ["Usage:", "--config", "--set", "--store", "--out", "--plan"] {
            ensure!(help.stdout.contains(part), "`{stage} --help` does not speak of `{part}`");
        }
        let wrong = run(&mut place.stage(stage, &["--no-such-flag"]))?;
        ensure!(wrong.code == Some(2) && wrong.stdout.is_empty(), "`{stage}`: {}", wrong.stderr);
        ensure!(wrong.stderr.contains("--no-such-flag"), "`{stage}`: {}", wrong.stderr);
    }
    Ok(())
}
