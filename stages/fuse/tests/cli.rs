//! The program as a shell sees it.

use insta::assert_snapshot;
use testutil::{Sandbox, golden_dir};

const FUSE: &str = env!("CARGO_BIN_EXE_fuse");

#[test]
fn unusable_inputs_and_settings_are_refused() {
    let sandbox = Sandbox::new();
    let fuse = |dataset: &str, setting: &str| {
        let mut program = sandbox.program(FUSE);
        program.arg("--model").arg(golden_dir().join("llama")).args(["--adapters", "adapters"]);
        program.args(["--dataset", dataset, "--set", setting]);
        program
    };
    assert_snapshot!(sandbox.refused(&mut fuse("nowhere", "fuse.peft=true"), 65), @r"
    error: opening input `adapters`
      caused by: artifact `adapters` does not exist
    hint: give the folder that a stage printed, or `refs/NAME` for a labelled artifact
    ");
    assert_snapshot!(sandbox.refused(&mut fuse("nowhere", "fuse.batch_size=0"), 2), @r"
    error: `batch_size` must be at least 1
    ");
}
