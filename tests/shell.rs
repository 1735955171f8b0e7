//! Stages in a plain shell, without make: stdout is the path and nothing else, with a store and without one.

use anyhow::{Result, ensure};
use outputs::STAGES;
use testutil::{Program, Ran, SMALL_SETTINGS, Sandbox, built_programs, workspace_root};

/// Runs a script with the programs in its `PATH`; `$root` is the repository, `$settings` the flags for small runs.
fn shell(sandbox: &Sandbox, script: &str) -> Result<Ran> {
    let path = format!("{}:{}", built_programs().display(), std::env::var("PATH")?);
    let settings = format!("--config {}", workspace_root().join(SMALL_SETTINGS).display());
    let mut shell = sandbox.program("/bin/sh");
    shell.env("PATH", path).env("root", workspace_root()).env("settings", settings);
    Ok(shell.arg("-euc").arg(script).run())
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

/// Every stage writes to its own folder and reads those of others.
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
fn paths_pass_from_stage_to_stage_and_folders_equal_the_store() -> Result<()> {
    let names = STAGES.map(|stage| stage.name);
    let sandbox = Sandbox::new();
    let chained = shell(&sandbox, CHAIN)?;
    let paths: Vec<&str> = chained.succeeded().lines().collect();
    ensure!(paths.len() == names.len(), "more than paths was printed:\n{}", chained.stdout);
    for (path, stage) in paths.iter().zip(names) {
        ensure!(path.starts_with(&format!("artifacts/{stage}/")), "`{path}` is not of `{stage}`");
    }
    ensure!(!chained.stderr.is_empty(), "messages for people belong on stderr");

    let bare = Sandbox::new();
    let folders = shell(&bare, FOLDERS)?;
    ensure!(folders.succeeded().lines().eq(names), "each stage prints its folder:\n{}", folders.stdout);
    for (path, stage) in paths.iter().zip(names) {
        for name in ["SHA256SUMS", "manifest.json"] {
            let stored = sandbox.read(format!("{path}/{name}"));
            let written = bare.read(format!("{stage}/{name}"));
            ensure!(stored == written, "`{name}` of `{stage}` differs:\n{stored}\n{written}");
        }
        let sums = "cd \"$0/data\" && sha256sum --check --quiet ../SHA256SUMS";
        bare.program("/bin/sh").args(["-c", sums, stage]).run().succeeded();
    }
    let mut found: Vec<String> = fs_err::read_dir(bare.path())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    found.sort();
    let mut expected = names;
    expected.sort_unstable();
    ensure!(found == expected, "stages left more than their folders: {found:?}");
    Ok(())
}

#[test]
fn usage_errors_go_to_stderr() {
    for stage in STAGES {
        let ran = Program::built(stage.name).arg("--no-such-flag").run();
        ran.failed(2);
        ran.says(&["--no-such-flag"]);
    }
}
