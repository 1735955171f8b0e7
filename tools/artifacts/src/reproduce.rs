//! `reproduce`: the commands that make an artifact again from its plain inputs, and whether they give the same bytes.

mod commands;

use std::path::{Path, PathBuf};
use std::process::Command;

use artifact::{Artifact, Bare, Level, TreeHash};

use crate::args::Reproduce;
use crate::catalog::{Catalog, read_manifest};
use crate::error::{Error, Result, bad_file};
use crate::locate::locate;
use crate::text;

use commands::{Made, Step, Word};

/// Plain files that the user has, with their tree hash.
struct Given {
    path: PathBuf,
    tree: TreeHash,
}

/// Prints the commands, and runs them if asked to.
pub(crate) fn run(catalog: &Catalog, options: &Reproduce) -> Result<()> {
    let path = locate(catalog, &options.artifact)?;
    let given = given(&options.files)?;
    let mut steps = Vec::new();
    plan(catalog, &path, options.only, &mut steps)?;
    let mut made: Vec<(PathBuf, Made)> = Vec::new();
    let programs = programs(options)?;
    for (number, step) in steps.iter().enumerate() {
        let artifact = Artifact::open_with(&step.path, Level::Size)?;
        let stage = &artifact.manifest().stage;
        if !outputs::STAGES.iter().any(|known| known.name == *stage) {
            return Err(bad_file(&step.path, format!("was made by `{stage}`, which is no stage")));
        }
        let settings = commands::settings_file(artifact.manifest());
        let place = options.into.join(format!("{stage}.toml"));
        let find =
            |tree: &TreeHash| given.iter().find(|given| given.tree == *tree).map(|given| given.path.clone());
        let inputs = commands::inputs(catalog, &artifact, &made, &find)?;
        let mut arguments = vec![Word::text("--config"), Word::path("", &place)];
        arguments.extend([Word::text("--store"), Word::path("", &options.into)]);
        arguments.extend(inputs);
        let program = programs.join(stage);
        if !options.run {
            let variable = shell_name(stage, number);
            print_step(&program, &place, &settings, &variable, &arguments)?;
            made.push((step.path.clone(), Made::Variable(variable)));
            continue;
        }
        fs_err::create_dir_all(&options.into)?;
        fs_err::write(&place, &settings)?;
        let again = execute(&program, &arguments)?;
        compare(&artifact, &again)?;
        made.push((step.path.clone(), Made::Path(again)));
    }
    Ok(())
}

/// Hashes the given files and folders, and what is directly in the folders, since a stage may read single files.
fn given(paths: &[PathBuf]) -> Result<Vec<Given>> {
    let mut given = Vec::new();
    for path in paths {
        if path.is_dir() {
            let children = crate::catalog::names(path)?.into_iter().map(|name| path.join(name));
            let readable = children
                .filter_map(|child| Some(Given { tree: Bare::scan(&child).ok()?.hash(), path: child }));
            given.extend(readable);
        }
        // A folder may hold anything if only files in it are inputs.
        match Bare::scan(path) {
            Ok(bare) => given.push(Given { path: path.clone(), tree: bare.hash() }),
            Err(error) if !path.is_dir() => return Err(error.into()),
            Err(error) => tracing::debug!("left out: {}", failure::describe(&error)),
        }
    }
    Ok(given)
}

/// Lists the artifacts to make again, those first that others are made from.
fn plan(catalog: &Catalog, path: &Path, only: bool, steps: &mut Vec<Step>) -> Result<()> {
    if steps.iter().any(|step| step.path == path) {
        return Ok(());
    }
    if !only {
        for record in read_manifest(path)?.inputs.values() {
            let (Some(stage), Some(key)) = (&record.stage, &record.key) else { continue };
            let Some(input) = catalog.store.find(stage, key, "")? else {
                return Err(Error::NotFound {
                    name: format!("{stage}/{}", key.short()),
                    store: catalog.store.root().to_owned(),
                });
            };
            plan(catalog, &input, false, steps)?;
        }
    }
    steps.push(Step { path: path.to_owned() });
    Ok(())
}

/// Returns the folder with the programs of stages: the given one, or that of this program.
fn programs(options: &Reproduce) -> Result<PathBuf> {
    match &options.bin {
        Some(bin) => Ok(bin.clone()),
        None => Ok(std::env::current_exe()?.parent().map(Path::to_owned).unwrap_or_default()),
    }
}

/// Prints one step as shell commands, which put the path of the artifact into a variable.
fn print_step(
    program: &Path,
    place: &Path,
    settings: &str,
    variable: &str,
    arguments: &[Word],
) -> Result<()> {
    let words: Vec<String> = arguments.iter().map(shell_word).collect();
    let folder = place.parent().unwrap_or(Path::new("."));
    let text = format!(
        "mkdir -p {} && cat >{} <<'END'\n{settings}END\n{variable}=$({} {})\n",
        quote(&folder.display().to_string()),
        quote(&place.display().to_string()),
        quote(&program.display().to_string()),
        words.join(" ")
    );
    Ok(text::print(&text)?)
}

/// Writes an argument for the shell; a variable holds the path of an artifact that an earlier command made.
fn shell_word(word: &Word) -> String {
    let text = word.text.to_string_lossy();
    match &word.variable {
        None => quote(&text),
        Some(name) if text.is_empty() => format!("\"${name}\""),
        Some(name) => format!("{}\"${name}\"", quote(&text)),
    }
}

/// Returns the name of a shell variable for the path of a step's artifact; several steps can run one stage.
fn shell_name(stage: &str, number: usize) -> String {
    format!("{}_{}", stage.replace('-', "_").to_uppercase(), number + 1)
}

/// Quotes a word for the shell.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Runs a stage and returns the path that it prints.
fn execute(program: &Path, arguments: &[Word]) -> Result<PathBuf> {
    tracing::info!("running {}", program.display());
    let mut command = Command::new(program);
    command
        .args(arguments.iter().map(|word| &word.text))
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::inherit());
    let output = command.output().map_err(|source| {
        let message = format!("cannot run `{}`: {source}", program.display());
        std::io::Error::new(source.kind(), crate::error::Named { message, source })
    })?;
    if let Some(signal) = crate::signal::stopped() {
        return Err(Error::Stopped { signal });
    }
    if !output.status.success() {
        return Err(bad_file(program, format!("failed with {}", output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(PathBuf::from(text.trim_end_matches('\n')))
}

/// Says whether an artifact that was made again has the same bytes.
fn compare(old: &Artifact, new: &Path) -> Result<()> {
    let new = Artifact::open_with(new, Level::Hash)?;
    let (name, key) = (&old.manifest().stage, old.manifest().key.short());
    if old.tree() == new.tree() {
        return Ok(text::print(&format!("{name}/{key}: the same bytes\n"))?);
    }
    let numerics = &old.manifest().key_material.numerics;
    let other_machine = *numerics != new.manifest().key_material.numerics;
    Err(Error::NotReproduced {
        old: old.path().to_owned(),
        new: new.path().to_owned(),
        trees: (old.tree(), new.tree()),
        other_machine,
    })
}
