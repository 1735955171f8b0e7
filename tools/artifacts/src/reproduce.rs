//! `reproduce`: the commands that make an artifact again from its plain inputs, and whether they give the same bytes.

mod commands;
mod folders;
mod plain;
mod plan;
mod script;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use artifact::{Artifact, Level};

use crate::args::Reproduce;
use crate::catalog::Catalog;
use crate::error::{Error, Result, bad_file};
use crate::locate::locate;
use crate::text;

use commands::{Made, Word};
use folders::Folders;

/// Prints the commands, and runs them if asked to.
pub(crate) fn run(catalog: &Catalog, options: &Reproduce) -> Result<()> {
    let path = locate(catalog, &options.artifact)?;
    folders::refuse_the_store(catalog.store.root(), options)?;
    let steps = plan::steps(catalog, &path, options)?;
    let programs = programs(options)?;
    let folders = Folders::new(options)?;
    let mut made: Vec<(PathBuf, Made)> = Vec::new();
    if !options.run {
        text::print(script::BEGINNING)?;
    }
    for (number, step) in steps.iter().enumerate() {
        crate::signal::check()?;
        let artifact = Artifact::open_with(&step.path, Level::Size)?;
        let manifest = artifact.manifest();
        let program = programs.join(&manifest.stage);
        let settings = folders.settings(&manifest.stage);
        let content = commands::settings_file(manifest);
        let mut arguments = vec![Word::text("--config"), Word::path("", &settings)];
        arguments.extend([Word::text("--store"), Word::path("", &folders.store())]);
        arguments.extend(commands::inputs(catalog, &artifact, &step.plain, &made)?);
        arguments.extend(commands::other_flags(manifest));
        if !options.run {
            let variable = script::variable(&manifest.stage, number);
            script::print_step(&program, &settings, &content, &variable, &arguments)?;
            made.push((step.path.clone(), Made::Variable(variable)));
            continue;
        }
        fs_err::create_dir_all(settings.parent().unwrap_or(&settings))?;
        fs_err::write(&settings, &content)?;
        let again = execute(&program, &arguments)?;
        compare(&artifact, &again)?;
        made.push((step.path.clone(), Made::Path(again)));
    }
    if options.run {
        let store = text::escape(&folders.store().display().to_string());
        tracing::info!("the new artifacts are in `{store}`");
    }
    Ok(())
}

/// Returns the folder with the programs of stages: the given one, or that of this program.
fn programs(options: &Reproduce) -> Result<PathBuf> {
    match &options.bin {
        Some(bin) => Ok(bin.clone()),
        None => Ok(std::env::current_exe()?.parent().map(Path::to_owned).unwrap_or_default()),
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
    crate::signal::check()?;
    if !output.status.success() {
        return Err(bad_file(program, format!("failed with {}", output.status)));
    }
    let mut path = output.stdout;
    if path.ends_with(b"\n") {
        path.pop();
    }
    Ok(OsString::from_vec(path).into())
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
