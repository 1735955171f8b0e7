//! Values given to make reach the programs as they are: nothing in them is run by make or by the shell.
//!
//! The programs are scripts that write down their arguments.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use outputs::STAGES;
use testutil::files::{copy, remove};
use testutil::{Program, Ran, workspace_root};

/// Values that would run `touch pwned` if something expanded them, or end in an error if something split them.
const VALUES: [&str; 13] = [
    "'; touch pwned; '",
    "$(touch pwned)",
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
const TARGETS: [(&str, &[&str]); 17] = [
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
];
/// Variables that name a file of the checkout, so that most values end in an error.
const NAMES: [&str; 5] = ["MODEL", "PIPELINE", "ENCODER", "MEMORY", "BACKEND"];

struct Checkout(PathBuf);

impl Checkout {
    fn new(name: &str) -> Result<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("quoting").join(name);
        remove(&folder);
        fs_err::create_dir_all(folder.join("bin"))?;
        for name in ["Makefile", "pipelines"] {
            copy(&workspace_root().join(name), &folder.join(name));
        }
        let script = "#!/bin/sh\nprintf '%s\\0' \"$@\" >>arguments\necho artifacts/x\n";
        for program in STAGES.iter().map(|stage| stage.name).chain(["artifacts", "upload", "generate"]) {
            let path = folder.join("bin").join(program);
            fs_err::write(&path, script)?;
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
        Ok((ran, words.collect()))
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
                    // What else the target needs.
                    let mut variables = vec![(*name, value)];
                    for (other, usual) in [
                        ("ARTIFACT", "train"),
                        ("A", "1234"),
                        ("B", "5678"),
                        ("TO", "out"),
                        ("REMOTE", "away"),
                        ("ID", "a/b"),
                    ] {
                        if names.contains(&other) && other != *name {
                            variables.push((other, usual));
                        }
                    }
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
            let at = arguments.iter().position(|argument| *argument == setting);
            let at = at.with_context(|| format!("SET={set}: {arguments:?}"))?;
            ensure!(arguments[at - 1] == "--set", "{arguments:?}");
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
    names.extend(["BIN", "TARGET_DIR", "NIX_TESTS", "REPEATS", "ANY_OTHER"]);
    names.sort_unstable();
    names.dedup();
    for value in VALUES {
        for name in &names {
            checkout.make("help", &[(name, value)], false)?;
        }
        checkout.make("upload", &[("ID", "a/b"), ("OUTPUT", "adapters"), ("DATASETS", value)], false)?;
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
    ] {
        let (ran, arguments) = checkout.make("train", &[("SET", set)], false)?;
        ensure!(ran.code == Some(0), "SET={set}: {}", ran.stderr);
        let places = arguments.windows(2).filter(|pair| pair[0] == "--set").map(|pair| &pair[1]);
        let places: Vec<&String> = places.take(flags.len()).collect();
        ensure!(places == flags, "SET={set}: {arguments:?}");
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
                    let others = [
                        ("ARTIFACT", "train"),
                        ("A", "1"),
                        ("B", "5"),
                        ("TO", "out"),
                        ("REMOTE", "r"),
                        ("ID", "a/b"),
                    ];
                    let mut variables = vec![(*name, value)];
                    variables.extend(others.iter().filter(|(other, _)| other != name));
                    checkout.make(target, &variables, in_environment)?;
                }
            }
        }
    }
    Ok(())
}
