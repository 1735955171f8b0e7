//! Values given to make reach the programs as they are: nothing in them is run by make or by the shell.
//!
//! The programs are scripts that write down their arguments.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use outputs::STAGES;
use testutil::files::{copy, copy_files, remove};
use testutil::{Program, Ran, workspace_root};

/// Values that would run `touch pwned` if something expanded them, or end in an error if something split them.
const VALUES: [&str; 16] = [
    "'; touch pwned; '",
    "$(touch pwned)",
    "help: ;touch pwned #",
    "; touch pwned #",
    "--help",
    "$(shell touch pwned)",
    "${shell touch pwned}",
    "`touch pwned`",
    "\"; touch pwned; \"",
    "a b  c",
    "it's",
    "#not a comment",
    "x & touch pwned",
    "x | touch pwned",
    "back\\slash\\",
    "~/x * ?",
];
/// What make is asked for, and the variables that it passes on.
const TARGETS: [(&str, &[&str]); 21] = [
    ("plan", &["STORE", "DATA", "MODEL_DIR"]),
    ("import-model", &["STORE", "MODEL_DIR", "BUILD"]),
    ("train", &["STORE", "DATA", "BUILD"]),
    ("pin", &["STORE"]),
    ("ls", &["STORE"]),
    ("show", &["ARTIFACT", "STORE"]),
    ("status", &["BUILD"]),
    ("why", &["ARTIFACT"]),
    ("diff", &["A", "B", "FORMAT"]),
    ("lineage", &["ARTIFACT", "FORMAT"]),
    ("gc", &["GRACE", "BUILD"]),
    ("keep", &["ARTIFACT"]),
    ("push", &["REMOTE", "ARTIFACT"]),
    ("pull", &["REMOTE", "ARTIFACT"]),
    ("export", &["ARTIFACT", "TO", "KEY"]),
    ("reproduce", &["ARTIFACT", "DATA", "MODEL_DIR"]),
    ("upload", &["ID", "REVISION", "OUTPUT"]),
    ("compare", &["OUT", "STORE", "BUILD"]),
    ("data-report", &["OUT", "MODEL_DIR"]),
    ("sweep", &["SWEEP", "JOBS", "MAX_MEMORY", "RETRIES", "NIX", "SLURM", "BUILD", "DATA"]),
    ("sweep-page", &["OUT", "BUILD"]),
];
/// Variables without which some targets refuse to run.
const NEEDED: [(&str, &str); 8] = [
    ("ARTIFACT", "train"),
    ("A", "1234"),
    ("B", "5678"),
    ("TO", "out"),
    ("REMOTE", "away"),
    ("ID", "a/b"),
    ("RUNS", "a b"),
    ("SWEEP", "lr"),
];
/// Variables that name a file of the checkout, so that most values end in an error.
const NAMES: [&str; 5] = ["MODEL", "PIPELINE", "ENCODER", "MEMORY", "BACKEND"];

/// Line that a fake program prints after its arguments.
const END: &str = "end of the arguments";

/// Returns a variable together with the others that its target requires.
fn with_needed<'a>(name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    NEEDED.into_iter().filter(|(other, _)| *other != name).chain([(name, value)]).collect()
}

/// Returns whether a program would take a value for an option: it is a word of its own, and not after `--`.
fn is_taken_for_an_option(value: &str, arguments: &[String]) -> bool {
    let mut programs = arguments.split(|word| word == END);
    value.starts_with('-')
        && programs.any(|words| words.iter().take_while(|word| *word != "--").any(|word| word == value))
}

struct Checkout(PathBuf);

impl Checkout {
    fn new(name: &str) -> Result<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("quoting").join(name);
        remove(&folder);
        fs_err::create_dir_all(folder.join("bin"))?;
        for name in ["Makefile", "pipelines"] {
            copy(&workspace_root().join(name), &folder.join(name));
        }
        let script = format!("#!/bin/sh\nprintf '%s\\0' \"$@\" '{END}' >>arguments\necho artifacts/x\n");
        for program in STAGES.iter().map(|stage| stage.name).chain(["artifacts", "upload", "sweep"]) {
            let path = folder.join("bin").join(program);
            fs_err::write(&path, &script)?;
            fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self(folder))
    }

    /// Runs make and returns the arguments of all programs that it ran.
    fn make(
        &self,
        target: &str,
        variables: &[(&str, &str)],
        in_environment: bool,
    ) -> Result<(Ran, Vec<String>)> {
        let arguments = self.0.join("arguments");
        let _ = fs_err::remove_file(&arguments);
        let mut make = Program::new("make");
        make.current_dir(&self.0).args([target, "BIN=bin"]);
        for (name, value) in variables {
            // Make reads `$$` as `$`.
            if in_environment {
                make.env(name, value);
            } else {
                make.arg(format!("{name}={value}"));
            }
        }
        let ran = make.run();
        ensure!(!self.0.join("pwned").exists(), "make {target} with {variables:?} ran a value");
        ensure!(!self.0.join("build/pwned").exists(), "make {target} with {variables:?} ran a value");
        let text = fs_err::read(&arguments).unwrap_or_default();
        let words = text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let words: Vec<String> = words.collect();
        for (name, value) in variables {
            ensure!(!is_taken_for_an_option(value, &words), "make {target} {name}={value}: {words:?}");
        }
        Ok((ran, words))
    }

    /// Returns the number of runs of the pipeline with its usual settings that have pointers.
    fn runs(&self) -> Result<usize> {
        Ok(fs_err::read_dir(self.0.join("build/haw-eng/demo"))?.count())
    }
}

#[test]
fn values_reach_the_programs_as_they_are() -> Result<()> {
    let checkout = Checkout::new("values")?;
    for (target, names) in TARGETS {
        for name in names {
            for (number, value) in VALUES.into_iter().enumerate() {
                // From the environment, too, but fewer.
                for in_environment in [false, true].into_iter().take(if number < 5 { 2 } else { 1 }) {
                    let variables = with_needed(name, value);
                    let (ran, arguments) = checkout.make(target, &variables, in_environment)?;
                    let is_passed = arguments.iter().any(|argument| argument.contains(value));
                    // `BUILD` names folders that make itself writes to.
                    let is_folder = *name == "BUILD" && ran.code == Some(0);
                    ensure!(
                        is_passed || is_folder,
                        "make {target} {name}={value}: {:?}\n{}\n{arguments:?}",
                        ran.code,
                        ran.stderr
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn settings_with_spaces_and_quotes_are_whole() -> Result<()> {
    let checkout = Checkout::new("settings")?;
    for value in VALUES {
        // Words of one value are joined by one space, and a word with `=` begins the next setting.
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        let set = format!("prepare-data.system={value} train.rank=4");
        let (ran, arguments) = checkout.make("train", &[("SET", &set)], false)?;
        ensure!(ran.code == Some(0), "SET={set}: {}", ran.stderr);
        for setting in [format!("prepare-data.system={value}"), "train.rank=4".to_owned()] {
            ensure!(arguments.contains(&format!("--set={setting}")), "SET={set}: {arguments:?}");
        }
    }
    Ok(())
}

#[test]
fn no_variable_of_the_command_line_is_expanded() -> Result<()> {
    let checkout = Checkout::new("variables")?;
    let help = checkout.make("help", &[], false)?.0.stdout;
    let is_name = |word: &&str| word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    let words = help.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let mut names: Vec<&str> = words.filter(|word| !word.is_empty()).filter(is_name).collect();
    ensure!(["DELETE", "FUZZ_SECONDS", "STORE"].iter().all(|name| names.contains(name)), "{names:?}");
    names.extend(["BIN", "NIX_TESTS", "REPEATS", "ANY_OTHER"]);
    names.sort_unstable();
    names.dedup();
    for value in VALUES {
        for name in &names {
            checkout.make("help", &[(name, value)], false)?;
        }
    }
    Ok(())
}

#[test]
fn no_variable_of_the_makefiles_can_be_given_as_a_command() -> Result<()> {
    let checkout = Checkout::new("makefiles")?;
    let is_name = |word: &&str| word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    let mut names = Vec::new();
    for file in ["Makefile", "pipelines/pipeline.mk", "pipelines/store.mk", "pipelines/sweep.mk"] {
        for line in fs_err::read_to_string(checkout.0.join(file))?.lines() {
            let line = line.strip_prefix("override ").unwrap_or(line);
            let name = line.split_once(" := ").map_or("", |(name, _)| name.trim_end());
            names.extend(Some(name).filter(|name| !name.is_empty()).filter(is_name).map(str::to_owned));
        }
    }
    ensure!(["SOURCES", "STAGES", "RUN"].iter().all(|name| names.iter().any(|n| n == name)), "{names:?}");
    for name in &names {
        for value in &VALUES[..5] {
            checkout.make("help", &[(name, value)], false)?;
        }
    }
    Ok(())
}

#[test]
fn programs_may_be_in_a_folder_of_any_name() -> Result<()> {
    let checkout = Checkout::new("programs")?;
    for value in VALUES.into_iter().chain(["ls: ;touch pwned #", "a:b", "a;b", "a%b", "a=b", "-"]) {
        copy_files(&checkout.0.join("bin"), &checkout.0.join(value));
        for target in ["ls", "train", "sweep"] {
            let (ran, arguments) = checkout.make(target, &with_needed("BIN", value), false)?;
            ensure!(ran.code == Some(0) && arguments.len() > 1, "make {target} BIN={value}: {}", ran.stderr);
        }
    }
    Ok(())
}

#[test]
fn lists_are_split_into_words_and_nothing_else() -> Result<()> {
    let checkout = Checkout::new("lists")?;
    for value in VALUES {
        for in_environment in [false, true] {
            let variables = [("ID", "a/b"), ("OUTPUT", "adapters"), ("DATASETS", value), ("RUNS", value)];
            for (target, flag) in [("upload", "--dataset="), ("compare", "")] {
                let (ran, arguments) = checkout.make(target, &variables, in_environment)?;
                ensure!(ran.code == Some(0), "make {target} with {value}: {}", ran.stderr);
                let words: Vec<String> =
                    value.split_whitespace().map(|word| format!("{flag}{word}")).collect();
                let has_all = arguments.windows(words.len()).any(|some| some == words);
                ensure!(has_all, "make {target} with {value}: {arguments:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_number_of_jobs_is_not_run() -> Result<()> {
    let checkout = Checkout::new("jobs")?;
    for value in ["$(touch pwned)", "`touch pwned`", "a;touch pwned #", "a'b"] {
        for in_environment in [false, true] {
            let variables = [("SWEEP", "lr"), ("JOBS", value)];
            let (ran, arguments) = checkout.make("sweep", &variables, in_environment)?;
            ensure!(ran.code == Some(0), "JOBS={value}: {}", ran.stderr);
            ensure!(arguments.contains(&format!("--jobs={value}")), "JOBS={value}: {arguments:?}");
        }
    }
    // Make lists the variables of the command line behind its own options.
    let (_, arguments) = checkout.make("sweep", &[("SWEEP", "lr"), ("SET", "a=1 -j;touch pwned")], false)?;
    ensure!(!arguments.iter().any(|argument| argument.starts_with("--jobs")), "{arguments:?}");
    Ok(())
}

#[test]
fn the_page_of_a_sweep_is_beside_its_record() -> Result<()> {
    let checkout = Checkout::new("pages")?;
    for (value, folder) in
        [("lr", "lr"), ("a  b.v2", "a  b.v2"), ("pipelines/sweeps/lr.v2.toml", "lr.v2"), ("--help", "--help")]
    {
        let (_, arguments) = checkout.make("sweep-page", &[("SWEEP", value)], false)?;
        let record = format!("build/sweeps/{folder}/sweep.json");
        ensure!(arguments.contains(&record), "SWEEP={value}: {arguments:?}");
    }
    Ok(())
}

#[test]
fn an_empty_value_means_the_default() -> Result<()> {
    let checkout = Checkout::new("empty")?;
    for target in ["train", "status", "gc", "export", "upload", "compare", "sweep"] {
        let (_, usual) = checkout.make(target, &NEEDED, false)?;
        let runs = checkout.runs()?;
        for name in
            ["MODEL", "PIPELINE", "BUILD", "STORE", "DATA", "BACKEND", "GRACE", "OUTPUT", "OUT", "JOBS"]
        {
            for in_environment in [false, true] {
                let (ran, arguments) = checkout.make(target, &with_needed(name, ""), in_environment)?;
                ensure!(ran.code == Some(0), "make {target} {name}=: {}", ran.stderr);
                ensure!(arguments == usual, "make {target} {name}=: {arguments:?}");
                ensure!(checkout.runs()? == runs, "make {target} {name}= made another run");
            }
        }
    }
    // The default of BIN is what make builds.
    let (ran, _) = checkout.make("ls", &[("BIN", "")], false)?;
    ensure!(ran.stderr.contains("No rule to make target"), "{}", ran.stderr);
    Ok(())
}

#[test]
fn a_backend_that_does_not_exist_is_refused_by_its_name() -> Result<()> {
    let checkout = Checkout::new("backends")?;
    for value in VALUES.into_iter().chain(["cpu cuda", "cpu/.."]) {
        for in_environment in [false, true] {
            let (ran, _) = checkout.make("native", &[("BACKEND", value)], in_environment)?;
            ensure!(ran.code == Some(2), "BACKEND={value}: {:?}", ran.code);
            ensure!(ran.stderr.contains("choose cpu, cuda or metal"), "BACKEND={value}: {}", ran.stderr);
        }
    }
    Ok(())
}

#[test]
fn a_stage_that_does_not_exist_is_named() -> Result<()> {
    let checkout = Checkout::new("stages")?;
    for value in ["nosuch", "train|fuse", "*", "tra in", VALUES[0]] {
        let (ran, _) = checkout.make("why", &[("STAGE", value)], false)?;
        ensure!(ran.code == Some(2), "STAGE={value}: {:?}\n{}", ran.code, ran.stderr);
        ensure!(ran.stderr.contains("which is no stage of the pipeline"), "STAGE={value}: {}", ran.stderr);
    }
    Ok(())
}

#[test]
fn names_of_presets_are_not_run() -> Result<()> {
    let checkout = Checkout::new("names")?;
    for target in ["plan", "train", "why", "help", "reproduce"] {
        for name in NAMES {
            for value in VALUES {
                for in_environment in [false, true] {
                    checkout.make(target, &[(name, value), ("ARTIFACT", "train")], in_environment)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn settings_are_passed_on_as_they_were_written() -> Result<()> {
    let checkout = Checkout::new("written")?;
    for (set, flags) in [
        ("train.rank", &["train.rank"][..]),
        ("^a b  c=1 d", &["^a b", "c=1 d"]),
        ("a=1\nb=2", &["a=1", "b=2"]),
        ("=x ^y", &["=x ^y"]),
        ("--help", &["--help"]),
    ] {
        let (ran, arguments) = checkout.make("train", &[("SET", set)], false)?;
        ensure!(ran.code == Some(0), "SET={set}: {}", ran.stderr);
        let settings = arguments.iter().filter_map(|argument| argument.strip_prefix("--set="));
        let settings: Vec<&str> = settings.take(flags.len()).collect();
        ensure!(settings == flags, "SET={set}: {arguments:?}");
    }
    Ok(())
}

#[test]
fn a_line_break_in_a_variable_is_refused_by_its_name() -> Result<()> {
    let checkout = Checkout::new("breaks")?;
    for (target, names) in TARGETS {
        for name in names {
            let variables = [("ARTIFACT", "train"), (*name, "a'\nb\n")];
            let (ran, _) = checkout.make(target, &variables, false)?;
            let reason = format!("*** {name} contains a line break");
            ensure!(ran.code == Some(2) && ran.stderr.contains(&reason), "{target} {name}: {}", ran.stderr);
        }
    }
    Ok(())
}

#[test]
fn line_breaks_do_not_begin_a_command() -> Result<()> {
    let checkout = Checkout::new("lines")?;
    let values = [
        "x\ntouch pwned\n",
        "x'\ntouch pwned\n'",
        "x\n\ttouch pwned",
        "x'\n@touch pwned #",
        "x' ;\\\ntouch pwned\n'",
    ];
    for (target, names) in TARGETS.iter().chain(&[("plan", &NAMES[..]), ("train", &["SET"][..])]) {
        for name in *names {
            for value in values {
                for in_environment in [false, true] {
                    checkout.make(target, &with_needed(name, value), in_environment)?;
                }
            }
        }
    }
    Ok(())
}
