//! The shape of the repository: what depends on what, where unsafe code may be, what is listed where.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testutil::{Program, workspace_root as root};

/// Stages that do without MLX.
const PLAIN_STAGES: [&str; 3] = ["prepare-data", "select-best", "report"];
/// Crates that do without MLX.
const PLAIN_CRATES: [&str; 6] = ["artifact", "tensors", "stage", "dataset", "metrics", "chart"];
/// Crates that depend on no other crate of the workspace, except `failure`.
const LONE_CRATES: [&str; 4] = ["artifact", "tensors", "metrics", "chart"];
/// The only ones with unsafe code.
const UNSAFE_CRATES: [&str; 2] = ["mlx-sys", "mlx-ext"];

/// The packages of the workspace, by name.
fn packages() -> Result<BTreeMap<String, Value>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let ran = Program::new(cargo).args(arguments).run();
    let metadata: Value = serde_json::from_str(ran.succeeded())?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    packages
        .iter()
        .map(|package| Ok((package["name"].as_str().context("no name")?.to_owned(), package.clone())))
        .collect()
}

/// Names of what a package depends on when it is built, not when it is tested.
fn dependencies(package: &Value) -> BTreeSet<&str> {
    let all = package["dependencies"].as_array().into_iter().flatten();
    all.filter(|found| found["kind"].is_null()).filter_map(|found| found["name"].as_str()).collect()
}

/// All that a package reaches by way of packages of the workspace, and what these depend on.
fn reached<'a>(packages: &'a BTreeMap<String, Value>, name: &'a str) -> BTreeSet<&'a str> {
    let (mut found, mut open) = (BTreeSet::new(), vec![name]);
    while let Some(next) = open.pop() {
        for dependency in packages.get(next).map(dependencies).unwrap_or_default() {
            if found.insert(dependency) {
                open.push(dependency);
            }
        }
    }
    found
}

/// Names of the folders in `folder`.
fn folders(folder: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs_err::read_dir(root().join(folder))? {
        let entry = entry?;
        if entry.path().join("Cargo.toml").is_file() {
            names.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    ensure!(!names.is_empty(), "`{folder}` holds no package");
    Ok(names)
}

#[test]
fn arrows_point_one_way() -> Result<()> {
    let packages = packages()?;
    let stages = folders("stages")?;
    for name in packages.keys() {
        let reached = reached(&packages, name);
        let stage = reached.iter().find(|found| stages.contains(**found));
        ensure!(stage.is_none(), "`{name}` depends on the stage {stage:?}");
        ensure!(!reached.contains("testutil"), "`{name}` needs `testutil` outside tests");
        ensure!(!reached.contains("tests"), "`{name}` depends on the tests");
        let plain = PLAIN_CRATES.iter().chain(&PLAIN_STAGES).any(|plain| plain == name);
        let mlx = reached.iter().find(|found| found.starts_with("mlx-"));
        ensure!(!plain || mlx.is_none(), "`{name}` depends on {mlx:?}");
    }
    for name in LONE_CRATES {
        let mut siblings = reached(&packages, name)
            .into_iter()
            .filter(|found| packages.contains_key(*found) && *found != "failure");
        let sibling = siblings.next();
        ensure!(sibling.is_none(), "`{name}` depends on its sibling {sibling:?}");
    }
    for (name, forbidden) in [
        ("stage", ["dataset", "metrics"]),
        ("dataset", ["stage", "models"]),
        ("models", ["dataset", "stage"]),
    ] {
        let reached = reached(&packages, name);
        ensure!(!forbidden.iter().any(|found| reached.contains(found)), "`{name}` reaches {reached:?}");
    }
    Ok(())
}

#[test]
fn a_stage_is_one_folder_one_package_and_one_program_of_the_same_name() -> Result<()> {
    let packages = packages()?;
    let stages = folders("stages")?;
    for stage in &stages {
        let package = packages.get(stage).with_context(|| format!("no package `{stage}`"))?;
        let targets = package["targets"].as_array().into_iter().flatten();
        let programs: Vec<&str> = targets
            .filter(|target| target["kind"][0] == "bin")
            .filter_map(|target| target["name"].as_str())
            .collect();
        ensure!(programs == [stage.as_str()], "`stages/{stage}` makes the programs {programs:?}");
    }
    for name in folders("crates")? {
        ensure!(packages.contains_key(&name), "`crates/{name}` is not the package of its name");
    }
    let wiring = fs_err::read_to_string(root().join("pipelines/pipeline.mk"))?;
    let listed = wiring.lines().find_map(|line| line.strip_prefix("STAGES := ")).context("no `STAGES`")?;
    for stage in listed.split_whitespace() {
        ensure!(stages.contains(stage), "`pipelines/pipeline.mk` runs `{stage}`, which has no folder");
    }
    Ok(())
}

#[test]
fn every_test_program_is_listed() -> Result<()> {
    let manifest = fs_err::read_to_string(root().join("tests/Cargo.toml"))?;
    for entry in fs_err::read_dir(root().join("tests"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let program = path.extension().is_some_and(|extension| extension == "rs");
        let listed = manifest.contains(&format!("path = \"{name}\""));
        ensure!(!program || listed, "`tests/{name}` is not in `tests/Cargo.toml`: it never runs");
    }
    Ok(())
}

/// Lists the files below `folder` whose names end in `.rs`.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
fn unsafe_code_stays_in_two_crates() -> Result<()> {
    let lints = fs_err::read_to_string(root().join("Cargo.toml"))?;
    ensure!(lints.contains("unsafe_code = \"forbid\""), "the workspace no longer forbids unsafe code");
    for (name, package) in packages()? {
        let manifest = Path::new(package["manifest_path"].as_str().context("no manifest")?).to_owned();
        if UNSAFE_CRATES.contains(&name.as_str()) {
            continue;
        }
        let text = fs_err::read_to_string(&manifest)?;
        ensure!(text.contains("[lints]\nworkspace = true"), "`{name}` does not inherit the lints");
        let mut found = Vec::new();
        sources(manifest.parent().context("a manifest lies in a folder")?, &mut found)?;
        for source in found.iter().filter(|source| !source.ends_with("tests/layout.rs")) {
            let text = fs_err::read_to_string(source)?;
            let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
            let forms = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait", "unsafe("];
            let word = |line: &str| forms.iter().any(|form| line.contains(form));
            let line = code.clone().position(word);
            ensure!(line.is_none(), "`{}:{}` is unsafe", source.display(), line.unwrap_or_default() + 1);
        }
    }
    Ok(())
}

/// The files that belong to the repository; `None` where there is no git, as in an unpacked archive.
fn tracked() -> Option<Vec<String>> {
    let output = Program::new("git").args(["ls-files", "-z"]).command().output().ok()?;
    let listed = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(listed.split_terminator('\0').map(str::to_owned).collect())
}

#[test]
fn nothing_refers_to_a_folder_outside() -> Result<()> {
    let Some(files) = tracked() else {
        println!("skipped: this is no git checkout");
        return Ok(());
    };
    let here = fs_err::canonicalize(root())?;
    let here = (here.components().count() > 2).then(|| here.to_string_lossy().into_owned());
    for file in files {
        let path = root().join(&file);
        let Ok(metadata) = fs_err::symlink_metadata(&path) else { continue };
        let depth = Path::new(&file).components().count() - 1;
        if metadata.is_symlink() {
            let target = fs_err::read_link(&path)?;
            let ups = target.components().filter(|part| *part == Component::ParentDir).count();
            ensure!(target.is_relative() && ups <= depth, "`{file}` links to `{}`", target.display());
            continue;
        }
        let Ok(text) = fs_err::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            let place = || format!("`{file}:{}`: {line}", number + 1);
            ensure!(climbs(line) <= depth, "out of the repository in {}", place());
            ensure!(
                here.as_deref().is_none_or(|here| !line.contains(here)),
                "this very folder in {}",
                place()
            );
        }
    }
    Ok(())
}

/// The most steps upwards that a path in `line` begins with.
fn climbs(line: &str) -> usize {
    let begins = line.match_indices("../").filter(|(at, _)| {
        let before = line[..*at].chars().next_back();
        !before.is_some_and(|c| c == '/' || c == '.' || c.is_alphanumeric())
    });
    begins
        .map(|(at, _)| {
            let mut rest = &line[at..];
            let mut ups = 0;
            while let Some(more) = rest.strip_prefix("../") {
                (rest, ups) = (more, ups + 1);
            }
            ups
        })
        .max()
        .unwrap_or(0)
}
