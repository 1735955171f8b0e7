//! Help and version of every program, the reference of the command line.

use std::process::Stdio;

use anyhow::Result;
use outputs::STAGES;
use testutil::{Program, workspace_root};

const COMMON: &str = "\nCommon options:\n";

/// Returns the help of a program, wrapped at 100 columns, without spaces at the end of lines.
fn help(program: &str) -> String {
    let ran = Program::built(program).env("COLUMNS", "100").arg("--help").run();
    ran.succeeded().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Returns the help of a stage without the options that all stages share.
fn own_help(stage: &str) -> String {
    help(stage).split(COMMON).next().unwrap_or_default().to_owned()
}

/// Returns the names of all programs.
fn programs() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for parent in ["stages", "tools"] {
        for entry in fs_err::read_dir(workspace_root().join(parent))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

#[test]
fn every_program_has_a_version() -> Result<()> {
    for name in programs()? {
        let ran = Program::built(&name).arg("--version").run();
        assert_eq!(ran.succeeded(), format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
    }
    Ok(())
}

#[test]
fn help_that_cannot_be_written_is_an_error_unless_nobody_reads_it() -> Result<()> {
    for name in programs()? {
        for flag in ["--help", "--version"] {
            let (reader, closed) = std::io::pipe()?;
            drop(reader);
            let mut program = Program::built(&name);
            program.arg(flag).command().stdout(closed);
            let ran = program.run();
            assert_eq!((ran.code, &*ran.stderr), (Some(0), ""), "{name} {flag}");

            // A device that is always full.
            let Ok(full) = fs_err::OpenOptions::new().write(true).open("/dev/full") else { continue };
            program.command().stdout(Stdio::from(full.into_file()));
            let ran = program.run();
            assert_eq!(ran.code, Some(74), "{name} {flag}: {}", ran.stderr);
            ran.says(&["error: writing to stdout\n", "caused by: No space left on device"]);
        }
    }
    Ok(())
}

#[test]
fn help_of_import_model() {
    insta::assert_snapshot!(own_help("import-model"), @"
    Import a base model from a folder, a GGUF file or the Hugging Face hub

    Usage: import-model [OPTIONS]

    Options:
          --model-dir <PATH>     Folder with the model, or a GGUF file; replaces the source in the
                                 settings
          --id <ORG/NAME>        Repository on the hub; replaces the source in the settings
          --revision <REVISION>  Branch, tag or commit on the hub
          --write-lock <FILE>    Pin the model in this settings file: its commit and the SHA-256 of
                                 every file
          --max-memory <GB>      Memory limit in GB (default: 80% of available memory)
      -h, --help                 Print help
      -V, --version              Print version
    ");
}

#[test]
fn help_of_prepare_data() {
    insta::assert_snapshot!(own_help("prepare-data"), @r"
    Turn data files into a dataset: splits, chat template, tokens, leak check

    Usage: prepare-data [OPTIONS] --tokenizer <ARTIFACT> --data <PATH>...

    Options:
          --tokenizer <ARTIFACT>  Artifact of `import-model`, or a folder with `tokenizer.json`
          --data <PATH>...        Data file, or folder with the files that the settings name
                                  (repeatable)
      -h, --help                  Print help
      -V, --version               Print version
    ");
}

#[test]
fn help_of_train() {
    insta::assert_snapshot!(own_help("train"), @r#"
    Fine-tune a model on a dataset

    Usage: train [OPTIONS] --model <ARTIFACT> --dataset <ARTIFACT>

    Options:
          --model <ARTIFACT>        Artifact with the base model, or a model folder
          --dataset <ARTIFACT>      Artifact with the dataset
          --losses <FILE>           Losses of the training rows, for curriculum = "loss": an artifact of
                                    `validate`, or a file of JSON lines with `id` and `loss`
          --save-every <N>          Save a resume state every N steps [default: 25]
          --keep-last <N>           Number of resume states to keep; checkpoints are never deleted
                                    [default: 2]
          --stop-at <STEP|I/N>      Stop after this step, or after part I of N, and publish a segment
                                    for --resume-from
          --resume-from <ARTIFACT>  Resume from a segment, the artifact of a run with --stop-at
          --prefetch <N>            Prepare the rows of N steps in advance on another thread (does not
                                    change the result) [default: 2]
          --shard-layers            Divide the blocks of the model among the ranks, instead of the rows
                                    of a step: less memory per rank, but no less time (does not change
                                    the result)
          --gradient-norms          Record the gradient norm of each block, the head, the embedding and
                                    the final norm in `telemetry/` at every report (does not change the
                                    result)
          --max-memory <GB>         Memory limit in GB (default: 80% of available memory)
      -h, --help                    Print help
      -V, --version                 Print version

    Learning-rate finder:
          --find-learning-rate   Try learning rates on a short ramp and print a suggestion instead of
                                 training; the curve goes to --out (default: `build/learning-rate`)
          --from <RATE>          First learning rate of the ramp [default: 0.000001]
          --to <RATE>            Last learning rate of the ramp [default: 1]
          --find-steps <STEPS>   Number of steps of the ramp [default: 100]
          --probe-steps <STEPS>  Steps of each short run that tests a rate around the estimate of the
                                 ramp; 0 to print that estimate [default: 40]
    "#);
}

#[test]
fn help_of_validate() {
    insta::assert_snapshot!(own_help("validate"), @r"
    Score every checkpoint of a training run on the validation split

    Usage: validate [OPTIONS] --model <ARTIFACT> --dataset <ARTIFACT> --train <ARTIFACT>

    Options:
          --model <ARTIFACT>    Artifact with the base model, or a model folder
          --dataset <ARTIFACT>  Artifact with the dataset
          --train <ARTIFACT>    Artifact of `train`, or a folder of adapters in the format of mlx-lm or
                                PEFT
          --encoder <ARTIFACT>  Artifact or folder with a sentence encoder, to score the similarity of
                                the answers
          --max-memory <GB>     Memory limit in GB (default: 80% of available memory)
          --unpack <WHEN>       Unpack quantized weights once (`resident`), in each product
                                (`transient`), or as suits the machine (`auto`) [default: auto]
      -h, --help                Print help
      -V, --version             Print version
    ");
}

#[test]
fn help_of_select_best() {
    insta::assert_snapshot!(own_help("select-best"), @"
    Choose the checkpoint with the lowest loss, or the best answers, on the validation split

    Usage: select-best [OPTIONS] --train <ARTIFACT> --validate <ARTIFACT>

    Options:
          --train <ARTIFACT>     Artifact of `train` with the checkpoints
          --validate <ARTIFACT>  Artifact of `validate` with their losses, and perhaps answers
          --model <ARTIFACT>     Artifact of `import-model` with the base model, to name it in the
                                 settings of the adapters
      -h, --help                 Print help
      -V, --version              Print version
    ");
}

#[test]
fn help_of_fuse() {
    insta::assert_snapshot!(own_help("fuse"), @r"
    Merge trained adapters into their base model

    Usage: fuse [OPTIONS] --model <ARTIFACT> --adapters <ARTIFACT> --dataset <ARTIFACT>

    Options:
          --model <ARTIFACT>     Artifact with the base model, or a model folder
          --adapters <ARTIFACT>  Artifact with the adapters, or a folder in the format of mlx-lm or PEFT
          --dataset <ARTIFACT>   Artifact with the dataset; its validation split measures the cost of
                                 fusing
          --max-memory <GB>      Memory limit in GB (default: 80% of available memory)
          --unpack <WHEN>        Unpack quantized weights once (`resident`), in each product
                                 (`transient`), or as suits the machine (`auto`) [default: auto]
      -h, --help                 Print help
      -V, --version              Print version
    ");
}

#[test]
fn help_of_evaluate() {
    insta::assert_snapshot!(own_help("evaluate"), @r"
    Score models on the test split, side by side

    Usage: evaluate [OPTIONS]

    Options:
          --model <NAME=ARTIFACT>     Model to score: a name and an artifact or a model folder
                                      (repeatable; the others are compared with the first)
          --adapters <NAME=ARTIFACT>  Adapters to score with the first model: a name and an artifact or
                                      a folder of mlx-lm or PEFT (repeatable)
          --checkpoints <ARTIFACT>    Artifact of `train` whose checkpoints are scored with the first
                                      model, as `step_N`
          --predictions <NAME=FILE>   Answers made elsewhere: a name and a file of rows with `id` and
                                      `prediction` (repeatable)
          --scores <FILE>             Scores made elsewhere: a file of rows with `model`, the row's id
                                      and numbers; excludes all other inputs
          --dataset <ARTIFACT>        Artifact with the dataset; needed unless all answers come from
                                      files that have the references
          --encoder <ARTIFACT>        Artifact or folder with a sentence encoder, to score the
                                      similarity of meaning
          --guard <PATH>              Guard set of the gate; replaces `gate.guard` in the settings
          --gate <ACTION>             What follows if a model fails the gate: `fail` (exit code 20) or
                                      `note` [default: fail; with `--out`: note]
          --max-memory <GB>           Memory limit in GB (default: 80% of available memory)
          --unpack <WHEN>             Unpack quantized weights once (`resident`), in each product
                                      (`transient`), or as suits the machine (`auto`) [default: auto]
      -h, --help                      Print help
      -V, --version                   Print version
    ");
}

#[test]
fn help_of_report() {
    insta::assert_snapshot!(own_help("report"), @"
    Write the results of a pipeline as one self-contained page

    Usage: report [OPTIONS] --evaluate <ARTIFACT> --train <ARTIFACT> --validate <ARTIFACT> --select-best <ARTIFACT>
           report <COMMAND>

    Commands:
      compare  Write a page that compares the reports of several runs
      sweep    Write a page about the runs of a sweep: what differs beyond noise, and which settings are
               best
      data     Write a page about a dataset: its rows token by token, lengths, duplicates, leaks,
               writing systems
      help     Print this message or the help of the given subcommand(s)

    Options:
          --evaluate <ARTIFACT>      Artifact of evaluate
          --train <ARTIFACT>         Artifact of train
          --validate <ARTIFACT>      Artifact of validate
          --select-best <ARTIFACT>   Artifact of select-best
          --fuse <ARTIFACT>          Artifact of fuse
          --prepare-data <ARTIFACT>  Artifact of prepare-data
          --import-model <ARTIFACT>  Artifact of import-model
      -h, --help                     Print help
      -V, --version                  Print version
    ");
}

#[test]
fn help_of_the_other_pages_of_report() {
    let help = |page: &str| {
        let ran = Program::built("report").env("COLUMNS", "100").args([page, "--help"]).run();
        ran.succeeded().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(help("compare"), @"
    Write a page that compares the reports of several runs

    Usage: report compare [OPTIONS] <RUN>...

    Arguments:
      <RUN>...  Artifact of report, name of a label, or folder with `report.path` (such as
                build/haw-eng/demo); NAME=RUN names it

    Options:
          --out <FILE>   File to write [default: build/compare.html]
          --store <DIR>  Store in which labels are looked up [env: ASHLAR_STORE=] [default: artifacts]
      -h, --help         Print help

    Common options:
      -v, --verbose...  Print debug messages (`-vv`: also traces)
      -q, --quiet       Print errors only
    ");
    insta::assert_snapshot!(help("sweep"), @"
    Write a page about the runs of a sweep: what differs beyond noise, and which settings are best

    Usage: report sweep [OPTIONS] <FILE>

    Arguments:
      <FILE>  `sweep.json` that `sweep` wrote, such as build/sweeps/lr-rank/sweep.json

    Options:
          --out <FILE>   File to write (default: `sweep.html` beside it)
          --store <DIR>  Store with the artifacts of evaluate [env: ASHLAR_STORE=] [default: artifacts]
      -h, --help         Print help

    Common options:
      -v, --verbose...  Print debug messages (`-vv`: also traces)
      -q, --quiet       Print errors only
    ");
    insta::assert_snapshot!(help("data"), @"
    Write a page about a dataset: its rows token by token, lengths, duplicates, leaks, writing systems

    Usage: report data [OPTIONS] <ARTIFACT>

    Arguments:
      <ARTIFACT>  Artifact of prepare-data, or name of its label

    Options:
          --model <ARTIFACT>  Artifact of import-model, for rows beyond its context
          --rows <N>          Number of rows of each split to show token by token [default: 10]
          --out <FILE>        File to write [default: build/data-report.html]
          --store <DIR>       Store in which labels are looked up [env: ASHLAR_STORE=] [default:
                              artifacts]
      -h, --help              Print help

    Common options:
      -v, --verbose...  Print debug messages (`-vv`: also traces)
      -q, --quiet       Print errors only
    ");
}

#[test]
fn help_of_generate() {
    insta::assert_snapshot!(help("generate"), @r#"
    Generate text with a model: one prompt, a chat, or a file of prompts

    Usage: generate [OPTIONS] --model <ARTIFACT|FOLDER> <--prompt <TEXT>|--chat|--input <FILE>>

    Options:
          --model <ARTIFACT|FOLDER>     Artifact with a model, its label in the store, or a model folder
          --adapters <ARTIFACT|FOLDER>  Artifact with adapters, its label in the store, or a folder with
                                        adapters
          --store <DIR>                 Look up labels of artifacts in DIR [env: ASHLAR_STORE=]
                                        [default: artifacts]
          --batch-size <ROWS>           With --input, number of prompts per batch [default: 16]
          --token-ids                   With --input, also write the token ids of each answer
          --dtype <TYPE>                Compute in `auto`, `float32`, `bfloat16` or `float16` [default:
                                        auto]
          --max-memory <GB>             Memory limit in GB (default: 80% of available memory)
          --unpack <WHEN>               Unpack quantized weights once (`resident`), in each product
                                        (`transient`), or as suits the machine (`auto`) [default: auto]
      -v, --verbose...                  Print times and speeds (`-vv`: also traces)
      -q, --quiet                       Print errors only
      -h, --help                        Print help
      -V, --version                     Print version

    Task:
          --prompt <TEXT>              Answer TEXT (`-` reads it from stdin)
          --chat                       Chat on the terminal: `/quit` leaves, `/reset` starts over,
                                       Ctrl-C ends an answer
          --input <FILE>               Answer every row of FILE (`-` for stdin): JSON lines, CSV or TSV
                                       with `prompt`, `messages` or `prompt_tokens`
          --output <FILE>              With --input, write the rows and their answers to FILE instead of
                                       stdout
          --system <TEXT>              Put TEXT before the conversation as system message
          --template-arguments <JSON>  Give the chat template these arguments, such as
                                       `{"enable_thinking": false}`; those used in training are the
                                       default
          --raw                        Continue the prompt as it is, without the chat template
          --compare                    Also answer with the base model, without the adapters

    Sampling:
          --max-tokens <COUNT>      Maximum number of tokens per answer [default: 512]
          --temperature <X>         Divide the logits by X; 0 always chooses the most likely token
                                    [default: 0]
          --top-p <P>               Choose among the fewest tokens whose probabilities add up to P
                                    [default: 1]
          --top-k <COUNT>           Choose among the COUNT most likely tokens; 0 for all [default: 0]
          --min-p <P>               Choose among tokens at least P times as likely as the most likely
                                    one [default: 0]
          --repetition-penalty <X>  Make tokens that occurred before, in prompt or answer, less likely
                                    by a factor of X [default: 1]
          --seed <NUMBER>           Seed of the random numbers: the same seed gives the same text
                                    [default: 0]
          --stop <TEXT>             End an answer before TEXT (repeatable)
    "#);
}

#[test]
fn help_of_sweep() {
    insta::assert_snapshot!(help("sweep"), @"
    Run the pipeline for many settings: a grid, random or model-based search, successive halving

    Runs `make pipeline` for each member of `pipelines/sweeps/NAME.toml`. Stages whose settings and
    inputs are equal run once; what the store has does not run again, so a sweep that was stopped or
    killed resumes where it was. Prints the path of its record, `sweep.json`.

    Usage: sweep [OPTIONS] <SWEEP>

    Arguments:
      <SWEEP>
              Name of a file in `pipelines/sweeps`, or its path

    Options:
          --plan
              Print members, shared work, time and memory, and run nothing

          --members
              Print the members as lines, a name and its settings for `make pipeline SET=…`, and run
              nothing

          --nix <FILE>
              Write the members as a Nix attribute set to FILE, and run nothing

          --slurm <FILE>
              Write a Slurm script with one array task per run to FILE, and run nothing

      -j, --jobs <N>
              Number of runs at the same time, if memory and cores allow

              [default: 1]

          --max-memory <GB>
              Memory for all runs together, in GB (default: 80% of available memory)

          --retries <N>
              Number of times that a failed run is started again

              [default: 1]

          --pipeline <NAME>
              Settings of the pipeline instead of those that the sweep names

          --model <NAME>
              Preset of the model instead of the one that the sweep names

          --set <KEY=VALUE>
              Set one setting of all members (repeatable)

          --make <NAME=VALUE>
              Pass a variable to make (repeatable)

          --store <DIR>
              Store artifacts in DIR

              [env: ASHLAR_STORE=]
              [default: artifacts]

          --build <DIR>
              Keep logs, pointers and results in DIR/sweeps/NAME

              [default: build]

      -v, --verbose...
              Print debug messages (`-vv`: also traces)

      -q, --quiet
              Print errors only

      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version
    ");
}

#[test]
fn help_of_upload() {
    insta::assert_snapshot!(help("upload"), @"
    Push a fused model, an export of it, or adapters to the Hugging Face hub, with a card

    Takes the token from `HF_TOKEN`, or from the file that `hf auth login` writes; `HF_ENDPOINT` selects
    another hub. Files that the hub has with the same hash are not sent again. Prints the address of the
    commit.

    Usage: upload [OPTIONS] --model <ARTIFACT> --id <OWNER/NAME>

    Options:
          --model <ARTIFACT>
              Artifact of `fuse`, or of `select-best` for its adapters, or its label in the store

          --output <NAME>
              Output to push: `model`, `quantized`, `gguf`, `peft` or `adapters`

              [default: model]

          --scores <ARTIFACT>
              Artifact of `evaluate` that scored it; the card then lists scores and intervals
              (`model-index`)

          --dataset <ID>
              Dataset on the hub for the card of `adapters` (repeatable)

          --id <OWNER/NAME>
              Repository on the hub; created if missing

          --revision <BRANCH>
              Branch on the hub; created if missing

              [default: main]

          --private
              Make a new repository private; an existing one is not changed

          --replace-weights
              Remove weights of other models, which would be loaded together with the new ones, from the
              branch

          --message <TEXT>
              First line of the commit message [default: names the output]

          --store <DIR>
              Look up labels of artifacts in DIR

              [env: ASHLAR_STORE=]
              [default: artifacts]

      -v, --verbose...
              Print debug messages (`-vv`: also traces)

      -q, --quiet
              Print errors only

      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version
    ");
}

#[test]
fn all_stages_share_common_options() {
    let common = |stage: &str| help(stage).split_once(COMMON).map(|(_, common)| common.to_owned());
    let first = common(STAGES[0].name).unwrap_or_default();
    for stage in STAGES {
        assert_eq!(common(stage.name).as_ref(), Some(&first), "{}", stage.name);
    }
    insta::assert_snapshot!(first, @r"
          --config <FILE>         Read settings from the stage's table in FILE (repeatable; later files
                                  win)
          --set <KEY=VALUE>       Set one setting (repeatable; `STAGE.KEY=VALUE` is for that stage only)
          --store <DIR>           Store artifacts in DIR [env: ASHLAR_STORE=] [default: artifacts]
          --out <DIR>             Write the artifact to DIR instead of the store
          --resume-dir <DIR>      With --out, keep the resume state in DIR
          --plan                  Show whether the stage would run, and why (exit 0: up to date, 10:
                                  run, 11: resume)
          --force                 Run even if the artifact exists, and compare the result with it
          --check                 Run again and compare the bytes with the existing artifact (exit 70 if
                                  they differ)
          --json                  Print --plan as JSON
      -v, --verbose...            Print debug messages (`-vv`: also traces)
      -q, --quiet                 Print errors only
          --lock-wait <DURATION>  How long to wait for another process that is making the same artifact
                                  (`0`, `30s`, `5m`, `forever`) [default: forever]
          --label <NAME>          Label the artifact, so that `refs/NAME` refers to it
    ");
}

#[test]
fn help_of_artifacts() {
    insta::assert_snapshot!(help("artifacts"), @r"
    List, explain, compare, verify, clean and share the artifacts of a store

    Usage: artifacts [OPTIONS] <COMMAND>

    Commands:
      ls         List artifacts: stage, key, size, last use, metrics and labels
      show       Show one artifact: settings, inputs, outputs, metrics, and how it was made
      path       Print the path of an artifact, for scripts
      status     Show what the store holds, what is left over in it, and what pipelines point at
      why        Explain a key: the nearest other artifact and what differs, followed into the stages
                 that made the inputs
      diff       Compare two artifacts: settings, metrics, inputs and files
      lineage    Show what an artifact was made from, and what was made from it
      verify     Check every byte against the hashes made at publishing
      gc         Remove artifacts that nothing needs, and what killed runs left; shows what it would
                 remove unless told to delete
      keep       Keep an artifact, and everything it was made from, from gc
      push       Copy artifacts to a folder or to S3-compatible storage
      pull       Copy artifacts from a folder or from S3-compatible storage into the store; verifies
                 every byte first
      export     Write an artifact in another format: a model, signed provenance, an RO-Crate, a
                 Croissant dataset
      reproduce  Print the commands that make an artifact again from its plain inputs; run them and
                 compare on request
      help       Print this message or the help of the given subcommand(s)

    Options:
          --store <DIR>  Folder of the store [env: ASHLAR_STORE=] [default: artifacts]
      -v, --verbose...   Print debug messages (`-vv`: also traces)
      -q, --quiet        Print errors only
      -h, --help         Print help
      -V, --version      Print version

    ARTIFACT is the folder of an artifact, a file with its path (build/…/train.path), a label
    (refs/NAME), STAGE/KEY, at least the first 4 digits of a key, or the name of a stage, which means
    its artifact that was made or used last.

    Exit codes: 0 success · 1 failure · 2 wrong command line · 65 no such artifact or store, or a
    damaged one · 74 disk full or unreadable · 75 another gc is running. `verify`: the sum of 1 damaged,
    2 missing, 4 unreadable. `reproduce --run`: 70 different bytes.
    ");
}
