//! The structure of the repository: dependencies, imports, unsafe code, lists that must agree, and prose.

#[path = "layout/modules.rs"]
mod modules;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use outputs::STAGES;
use regex::Regex;
use serde_json::Value;
use testutil::{Program, workspace_root as root};

use modules::{Modules, code, misplaced_import, phrases, sources};

/// Stages that do not need MLX.
const PLAIN_STAGES: [&str; 3] = ["prepare-data", "select-best", "report"];
/// Crates that do not need MLX.
const PLAIN_CRATES: [&str; 14] = [
    "artifact", "files", "gguf", "tensors", "threads", "stage", "dataset", "jinja", "metrics", "chart",
    "failure", "outputs", "network", "hub",
];
/// Crates that depend on no other crate of the workspace, except `failure`, `files` and `threads`.
const LONE_CRATES: [&str; 10] =
    ["artifact", "gguf", "jinja", "tensors", "threads", "metrics", "chart", "failure", "outputs", "network"];
/// The only crates with unsafe code.
const UNSAFE_CRATES: [&str; 2] = ["mlx-sys", "mlx-ext"];

/// Returns the packages of the workspace by name.
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

/// Returns the names of the dependencies of a package, without those of its tests.
fn dependencies(package: &Value) -> BTreeSet<&str> {
    let all = package["dependencies"].as_array().into_iter().flatten();
    all.filter(|found| found["kind"].is_null()).filter_map(|found| found["name"].as_str()).collect()
}

/// Returns all dependencies that a package reaches through packages of the workspace.
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

/// Returns the names of the packages in `folder`.
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
    let programs: BTreeSet<String> = folders("stages")?.union(&folders("tools")?).cloned().collect();
    for name in packages.keys() {
        let reached = reached(&packages, name);
        let program = reached.iter().find(|found| programs.contains(**found));
        ensure!(program.is_none(), "`{name}` depends on the program {program:?}");
        ensure!(!reached.contains("testutil"), "`{name}` needs `testutil` outside tests");
        ensure!(!reached.contains("tests"), "`{name}` depends on the tests");
        let plain = PLAIN_CRATES.iter().chain(&PLAIN_STAGES).any(|plain| plain == name);
        let mlx = reached.iter().find(|found| found.starts_with("mlx-"));
        ensure!(!plain || mlx.is_none(), "`{name}` depends on {mlx:?}");
    }
    for name in LONE_CRATES {
        let mut siblings = reached(&packages, name).into_iter().filter(|found| {
            packages.contains_key(*found) && !["failure", "files", "threads"].contains(found)
        });
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
fn a_program_is_one_folder_one_package_and_one_binary_of_the_same_name() -> Result<()> {
    let packages = packages()?;
    for parent in ["stages", "tools"] {
        for name in folders(parent)? {
            let package = packages.get(&name).with_context(|| format!("no package `{name}`"))?;
            let targets = package["targets"].as_array().into_iter().flatten();
            let programs: Vec<&str> = targets
                .filter(|target| target["kind"][0] == "bin")
                .filter_map(|target| target["name"].as_str())
                .collect();
            ensure!(programs == [name.as_str()], "`{parent}/{name}` makes the programs {programs:?}");
        }
    }
    for name in folders("crates")? {
        ensure!(packages.contains_key(&name), "`crates/{name}` is not the package of its name");
    }
    Ok(())
}

/// `outputs::STAGES` is the list of stages; Make and Nix need the names in their own languages.
#[test]
fn all_lists_of_stages_agree() -> Result<()> {
    let names = STAGES.map(|stage| stage.name);
    let sorted: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    ensure!(folders("stages")? == sorted, "the folders in `stages` are not those of `outputs::STAGES`");

    let wiring = fs_err::read_to_string(root().join("pipelines/pipeline.mk"))?;
    let listed =
        wiring.lines().find_map(|line| line.strip_prefix("override STAGES := ")).context("no `STAGES`")?;
    ensure!(listed.split_whitespace().eq(names), "`pipelines/pipeline.mk` runs `{listed}`");
    for name in names {
        let has_inputs = wiring.lines().any(|line| line.starts_with(&format!("{name}-inputs")));
        ensure!(has_inputs, "`pipelines/pipeline.mk` has no `{name}-inputs`");
    }
    let nix = fs_err::read_to_string(root().join("pipelines/pipeline.nix"))?;
    for name in names {
        ensure!(nix.contains(&format!("{name} = stage \"{name}\"")), "`pipelines/pipeline.nix` omits {name}");
    }

    let kinds = fs_err::read_to_string(root().join("nix/stages.nix"))?;
    let entry = Regex::new(r"(?ms)^  ([a-z-]+) = \{.*?^    makes = \[ (.*?) \];")?;
    let kinds: BTreeMap<&str, BTreeSet<&str>> = entry
        .captures_iter(&kinds)
        .map(|found| {
            let (_, [name, makes]) = found.extract();
            (name, makes.split_whitespace().map(|output| output.trim_matches('"')).collect())
        })
        .collect();
    let expected: BTreeMap<&str, BTreeSet<&str>> =
        STAGES.iter().map(|stage| (stage.name, stage.outputs.iter().copied().collect())).collect();
    ensure!(kinds == expected, "`nix/stages.nix` has {kinds:?}, `outputs::STAGES` {expected:?}");

    // The script takes the folders themselves.
    let script = fs_err::read_to_string(root().join("nix/host-tools.sh"))?;
    ensure!(script.contains("\"$root\"/stages/* \"$root\"/tools/*"), "`nix/host-tools.sh` misses a folder");
    let own_list = names.iter().find(|name| script.contains(*name));
    ensure!(own_list.is_none(), "`nix/host-tools.sh` has its own list with {own_list:?}");
    Ok(())
}

/// The names of output files and folders are constants of `outputs`.
#[test]
fn the_readme_lists_every_folder() -> Result<()> {
    let readme = fs_err::read_to_string(root().join("README.md"))?;
    let (_, after) = readme.split_once("## Where things are").context("README.md has no such section")?;
    let tree = after.split("```").nth(1).context("no list")?;
    let listed: BTreeSet<String> =
        tree.lines().filter_map(|line| Some(line.split_once("/ ")?.0.trim().to_owned())).collect();
    let mut wanted = folders("crates")?;
    let Some(files) = tracked() else { return Ok(()) };
    wanted.extend(files.iter().filter_map(|file| Some(file.split_once('/')?.0.to_owned())));
    wanted.retain(|name| !name.starts_with('.'));
    ensure!(listed == wanted, "listed: {listed:?}\nthere:  {wanted:?}");
    Ok(())
}

#[test]
fn the_changelog_names_the_version_of_every_stage() -> Result<()> {
    let changelog = fs_err::read_to_string(root().join("CHANGELOG.md"))?;
    let constant = Regex::new(r"(?m)^ *const VERSION: u32 = (\d+);")?;
    for stage in STAGES {
        let mut versions = BTreeSet::new();
        for path in sources(&root().join("stages").join(stage.name).join("src"))? {
            let text = fs_err::read_to_string(&path)?;
            versions.extend(constant.captures_iter(&text).map(|found| found[1].to_owned()));
        }
        let version = versions.first().with_context(|| format!("{} has no version", stage.name))?;
        let line = format!("- `{}` has version {version}: ", stage.name);
        ensure!(versions.len() == 1 && changelog.contains(&line), "CHANGELOG.md lacks `{line}`");
    }
    Ok(())
}

#[test]
fn output_names_are_written_once() -> Result<()> {
    let outputs = STAGES.iter().flat_map(|stage| stage.outputs).chain([&outputs::TOKEN_LOSSES]);
    let outputs: BTreeSet<&str> = outputs.copied().collect();
    let mut found = Vec::new();
    for (path, code) in shipped_code()? {
        if path.starts_with("crates/outputs") {
            continue;
        }
        for (line, name) in code.lines().flat_map(|line| outputs.iter().map(move |name| (line, name))) {
            // Words such as `model` have other uses; file names do not.
            let is_file = name.contains('.') && line.contains(&format!("{name}\""));
            let in_use = ["join(\"", "output(\"", "output_path(\""];
            if is_file || in_use.iter().any(|call| line.contains(&format!("{call}{name}\""))) {
                found.push(format!("{}: {}", path.display(), line.trim()));
            }
        }
    }
    ensure!(found.is_empty(), "use the constants of `outputs`:\n{}", found.join("\n"));
    Ok(())
}

#[test]
fn modules_of_a_crate_form_no_cycle() -> Result<()> {
    let mut cycles = Vec::new();
    for parent in ["crates", "stages", "tools"] {
        // The root of `mlx-sys` is the bindings, which its modules need.
        for name in folders(parent)?.into_iter().filter(|name| name != "mlx-sys") {
            let modules = Modules::read(&root().join(parent).join(&name).join("src"))?;
            cycles.extend(modules.cycle().map(|cycle| format!("{name}: {}", cycle.join(" → "))));
        }
    }
    ensure!(cycles.is_empty(), "modules import each other:\n{}", cycles.join("\n"));
    Ok(())
}

#[test]
fn main_is_short_and_every_package_has_a_readme() -> Result<()> {
    for parent in ["crates", "stages", "tools"] {
        for name in folders(parent)? {
            let folder = root().join(parent).join(&name);
            ensure!(folder.join("README.md").is_file(), "`{parent}/{name}` has no README.md");
            let main = folder.join("src/main.rs");
            if main.is_file() {
                let lines = fs_err::read_to_string(&main)?.lines().count();
                ensure!(
                    lines < 60,
                    "`{}` has {lines} lines; the work belongs in the library",
                    main.display()
                );
            }
        }
    }
    Ok(())
}

#[test]
fn imports_have_one_style() -> Result<()> {
    let mut found = Vec::new();
    for parent in ["crates", "stages", "tools", "tests"] {
        for path in sources(&root().join(parent))? {
            let text = fs_err::read_to_string(&path)?;
            found.extend(misplaced_import(&text).map(|line| format!("{}: {line}", path.display())));
        }
    }
    ensure!(found.is_empty(), "imports are std, external, crate, in three groups:\n{}", found.join("\n"));
    Ok(())
}

/// Errors of programs and libraries are `failure::Error` and types that implement `failure::Failure`.
#[test]
fn anyhow_stays_in_tests() -> Result<()> {
    for (name, package) in packages()? {
        ensure!(!dependencies(&package).contains("anyhow"), "`{name}` depends on anyhow outside its tests");
    }
    Ok(())
}

/// Moves that publish nothing: a damaged resume state is set aside, and rows are rewritten in the output folder of a job.
const MOVES: [&str; 2] = ["crates/tuner/src/resume_state.rs", "stages/prepare-data/src/leaks.rs"];

/// Files and folders are renamed into place in one module, which also syncs them.
#[test]
fn files_are_replaced_in_one_place() -> Result<()> {
    let calls = Regex::new(r"\b(std::fs|fs_err|fs)::rename\(|\.persist(_noclobber)?\(|\brenameat")?;
    let files = shipped_code()?.into_iter().filter(|(_, code)| calls.is_match(code)).map(|(path, _)| path);
    let allowed = ["crates/artifact/src/os.rs", "crates/artifact/src/atomic.rs"];
    let is_allowed = |path: &PathBuf| allowed.iter().chain(&MOVES).any(|allowed| path.ends_with(allowed));
    let files: Vec<PathBuf> = files.filter(|path| !is_allowed(path)).collect();
    ensure!(files.is_empty(), "use `artifact` to replace files: {files:?}");
    Ok(())
}

/// Authorities, proxies and timeouts are set in one crate, from which every program that connects gets its clients.
#[test]
fn connections_are_set_up_in_one_place() -> Result<()> {
    let calls =
        Regex::new(r"Agent::(config_builder|new_with|from)|ureq::(agent|get|post|put|request|config)\b")?;
    let files = shipped_code()?.into_iter().filter(|(_, code)| calls.is_match(code)).map(|(path, _)| path);
    let files: Vec<PathBuf> =
        files.filter(|path| path != Path::new("crates/network/src/agents.rs")).collect();
    ensure!(files.is_empty(), "use `network::Agents` to connect: {files:?}");
    Ok(())
}

/// A thermometer of the prose in sources and documents, not a rule: some of these phrases are fine.
#[test]
fn prose_is_plain() -> Result<()> {
    let Some(files) = tracked() else { return Ok(()) };
    let kinds = ["rs", "md", "toml", "nix", "sh", "mk", "py"];
    let (mut lines, mut found) = (0, Vec::new());
    for file in files.iter().filter(|file| !file.starts_with("tests/layout")) {
        let path = Path::new(file);
        let is_text = path.extension().is_some_and(|extension| kinds.iter().any(|kind| extension == *kind));
        if is_text || file == "Makefile" {
            let Ok(text) = fs_err::read_to_string(root().join(path)) else { continue };
            lines += text.lines().count();
            found.extend(phrases(&text).into_iter().map(|phrase| format!("{file}: {phrase}")));
        }
    }
    println!("{} matches in {lines} lines", found.len());
    ensure!(found.len() * 1000 <= lines, "{} in {lines} lines:\n{}", found.len(), found.join("\n"));
    Ok(())
}

/// Returns the code of crates, stages and tools without tests, by path in the repository.
fn shipped_code() -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for parent in ["crates", "stages", "tools"] {
        for name in folders(parent)?.into_iter().filter(|name| name != "testutil") {
            let folder = Path::new(parent).join(name).join("src");
            for path in sources(&root().join(&folder))? {
                let shown = path.strip_prefix(root()).unwrap_or(&path).to_owned();
                found.push((shown, code(&path)?));
            }
        }
    }
    Ok(found)
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

/// A backend moves to another MLX in its `requirements-BACKEND.txt`; this test names the other places that must follow.
#[test]
fn everything_uses_the_mlx_that_is_pinned() -> Result<()> {
    let read = |path: &str| fs_err::read_to_string(root().join(path));
    let pin = Regex::new(r"(?m)^mlx[a-z0-9-]*==([0-9.]+)")?;
    let pinned = |backend: &str| -> Result<String> {
        let text = read(&format!("crates/mlx-sys/native/requirements-{backend}.txt"))?;
        Ok(pin.captures(&text).with_context(|| format!("no version for {backend}"))?[1].to_owned())
    };
    let (cpu, metal, cuda) = (pinned("cpu")?, pinned("metal")?, pinned("cuda")?);
    for (path, wanted) in [
        ("tests/interop/requirements.txt", format!("mlx[cpu]=={cpu};")),
        ("tests/interop/requirements.txt", format!("mlx=={metal};")),
        ("tests/bench/requirements-mlx-lm.txt", format!("mlx[cpu]=={cpu};")),
        ("tests/bench/requirements-mlx-lm.txt", format!("mlx=={metal};")),
        ("tests/bench/requirements-mlx-lm-cuda.txt", format!("mlx[cuda13]=={cuda}\n")),
        ("nix/mlx.nix", format!("version = \"{cpu}\";")),
    ] {
        ensure!(read(path)?.contains(&wanted), "`{path}` does not have `{}`", wanted.trim());
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
        let folder = manifest.parent().context("a manifest is in a folder")?;
        for source in sources(folder)?.iter().filter(|source| !source.ends_with("tests/layout.rs")) {
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

/// Returns the files of the repository; `None` without git, as in an unpacked archive.
fn tracked() -> Option<Vec<String>> {
    let output = Program::new("git").args(["ls-files", "-z"]).command().output().ok()?;
    let listed = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(listed.split_terminator('\0').map(str::to_owned).collect())
}

#[test]
fn nothing_refers_to_a_folder_outside() -> Result<()> {
    let Some(files) = tracked() else {
        println!("skipped: not a git checkout");
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
            ensure!(climbs(line) <= depth, "a path leaves the repository in {}", place());
            ensure!(
                here.as_deref().is_none_or(|here| !line.contains(here)),
                "a path of this machine in {}",
                place()
            );
        }
    }
    Ok(())
}

/// Returns the largest number of `../` that a path in `line` begins with.
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
