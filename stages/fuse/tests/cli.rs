//! The program as a shell sees it.

use insta::assert_snapshot;
use testutil::{Program, Sandbox, golden_dir};

const FUSE: &str = env!("CARGO_BIN_EXE_fuse");

#[test]
fn help_describes_the_flags_of_this_stage() {
    let ran = Program::new(FUSE).arg("--help").run();
    assert_snapshot!(ran.succeeded().split("Common options:").next().unwrap_or_default(), @r"
    Merge trained adapters into their base model

    Usage: fuse [OPTIONS] --model <ARTIFACT> --adapters <ARTIFACT> --dataset <ARTIFACT>

    Options:
          --model <ARTIFACT>     Artifact with the base model, or a model folder
          --adapters <ARTIFACT>  Artifact with the adapters, or a folder in the format of mlx-lm or PEFT
          --dataset <ARTIFACT>   Artifact with the dataset; its validation split measures the cost of
                                 fusing
          --max-memory <GB>      Memory limit in GB (default: 80% of available memory)
      -h, --help                 Print help
      -V, --version              Print version
    ");
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
    assert_snapshot!(sandbox.refused(&mut fuse("nowhere", "fuse.peft=true"), 65), @r"
    error: opening input `adapters`
      caused by: artifact `adapters` does not exist
    hint: give the folder that a stage printed, or `refs/NAME` for a labelled artifact
    ");
    assert_snapshot!(sandbox.refused(&mut fuse("nowhere", "fuse.batch_size=0"), 2), @r"
    error: `batch_size` must be at least 1
    ");
}
