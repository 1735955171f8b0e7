//! The program as a shell sees it.

use insta::assert_snapshot;
use testutil::{Program, Sandbox, golden_dir};

const FUSE: &str = env!("CARGO_BIN_EXE_fuse");

#[test]
fn help_describes_the_flags_of_this_stage() {
    let ran = Program::new(FUSE).arg("--help").run();
    assert_snapshot!(ran.succeeded().split("Common options:").next().unwrap_or_default(), @"");
}

#[test]
fn unusable_inputs_and_settings_are_refused() {
    let sandbox = Sandbox::new();
    let fuse = |dataset: &str, setting: &str| {
        let mut program = sandbox.program(FUSE);
        program.arg("--model").arg(golden_dir().join("llama")).args(["--adapters", "adapters"]);
        program.args(["--dataset", dataset, "--set", setting]);
        program
    };
    assert_snapshot!(sandbox.refused(&mut fuse("nowhere", "fuse.peft=true"), 65), @"");
    assert_snapshot!(sandbox.refused(&mut fuse("nowhere", "fuse.batch_size=0"), 2), @"");
}
