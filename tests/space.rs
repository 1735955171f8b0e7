//! Bytes that a stage will write are counted before it works: a disk that is too small is refused at once, one that is large enough
//! is not.
//!
//! Needs a mount namespace of its own for small file systems; says so and passes where there is none.

use anyhow::{Result, ensure};
use testutil::{Program, Ran, SMALL_SETTINGS, Sandbox, built_programs, workspace_root};

/// Runs the rest of its arguments while `$2` is an empty file system of the size `$1`.
const SCRIPT: &str = r#"mount -t tmpfs -o size="$1" tmpfs "$2" || exit 99; shift 2; "$@""#;

/// Runs a stage whose store is on a file system of this size; `None` if none can be mounted.
fn run_on(size: &str, sandbox: &Sandbox, stage: &str, arguments: &[&str]) -> Result<Option<Ran>> {
    let disk = sandbox.join("disk");
    fs_err::create_dir_all(&disk)?;
    let mut shell = Program::new("unshare");
    shell.args(["-rm", "sh", "-c", SCRIPT, "sh", size]).arg(&disk).arg(built_programs().join(stage));
    shell.arg("--config").arg(workspace_root().join(SMALL_SETTINGS));
    shell.arg("--store").arg(disk.join("store")).args(arguments).env("ASHLAR_MIN_FREE_BYTES", "0");
    let ran = shell.run();
    Ok(if ran.code == Some(99) || ran.stderr.contains("unshare:") { None } else { Some(ran) })
}

/// Checks that a stage refuses the small disk before it writes, and works on the large one.
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
fn check(sandbox: &Sandbox, stage: &str, arguments: &[&str], small: &str, large: &str) -> Result<()> {
    let Some(refused) = run_on(small, sandbox, stage, arguments)? else {
        println!("skipped: cannot mount here");
        return Ok(());
    };
    ensure!(refused.code == Some(74), "{stage}: {:?} {}", refused.code, refused.stderr);
    ensure!(refused.stderr.contains("too little space at `"), "{stage}: {}", refused.stderr);
    ensure!(refused.stderr.contains("hint: free some space"), "{stage}: {}", refused.stderr);
    if let Some(ran) = run_on(large, sandbox, stage, arguments)? {
        ensure!(ran.code == Some(0), "{stage}: {:?} {}", ran.code, ran.stderr);
    }
    Ok(())
}

#[test]
fn every_stage_that_writes_much_counts_it_first() -> Result<()> {
    let sandbox = Sandbox::new();
    let folder = "tests/golden/gemma3_text";
    check(&sandbox, "import-model", &["--model-dir", folder], "100k", "16m")?;

    let model = sandbox.model(folder);
    let data = ["--tokenizer", &model, "--data", "data/haw-eng"];
    check(&sandbox, "prepare-data", &data, "300k", "64m")?;

    let dataset = sandbox.dataset(&model);
    let inputs = ["--model", &model, "--dataset", &dataset];
    // Many resume states that are kept, and many checkpoints.
    let many = ["--keep-last", "100000", "--set", "steps=100000", "--set", "checkpoint_every=1"];
    let Some(refused) = run_on("16m", &sandbox, "train", &[&inputs[..], &many].concat())? else {
        return Ok(());
    };
    ensure!(refused.code == Some(74), "{:?} {}", refused.code, refused.stderr);
    ensure!(refused.stderr.contains("too little space at `"), "{}", refused.stderr);
    check(&sandbox, "train", &inputs, "40k", "16m")?;

    let run = sandbox.make("train", &inputs);
    let losses = sandbox.make("validate", &[&inputs[..], &["--train", &run]].concat());
    let best = sandbox.make("select-best", &["--train", &run, "--validate", &losses]);
    check(&sandbox, "fuse", &[&inputs[..], &["--adapters", &best]].concat(), "100k", "16m")
}
