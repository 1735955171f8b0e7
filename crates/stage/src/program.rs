//! Identity of the running program: its build, its hash, and the numeric library that it loaded.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use artifact::Memo;
use serde_json::{Value, json};

/// Beginning of the file name of the numeric library.
const NUMERIC_LIBRARY: &str = "libmlx";

/// Describes the program: name, version, source and build. The same on every run of the same build.
pub(crate) fn build() -> Value {
    let features: Vec<&str> = cfg!(debug_assertions).then_some("debug-assertions").into_iter().collect();
    json!({
        "name": name(),
        "version": env!("CARGO_PKG_VERSION"),
        "revision": env!("ASHLAR_BUILD_REVISION"),
        "dirty": env!("ASHLAR_BUILD_DIRTY") == "true",
        "target": env!("ASHLAR_BUILD_TARGET"),
        "profile": env!("ASHLAR_BUILD_PROFILE"),
        "cpu_features": words(env!("ASHLAR_BUILD_CPU_FEATURES")),
        "features": features.iter().chain(artifact::FEATURES).collect::<Vec<_>>(),
        "backend": if env!("ASHLAR_BUILD_BACKEND").is_empty() { "default" } else { env!("ASHLAR_BUILD_BACKEND") },
        "rust": env!("ASHLAR_BUILD_RUSTC"),
    })
}

fn words(text: &str) -> Vec<&str> {
    text.split(',').filter(|word| !word.is_empty()).collect()
}

/// Returns the file name of the program.
fn name() -> String {
    let program = std::env::args_os().next().unwrap_or_default();
    Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Returns the hashes of the program file and of the numeric library, if they can be read. They are computed once.
pub(crate) fn hashes(memo: &Memo) -> (Option<String>, Option<Value>) {
    static HASHES: OnceLock<(Option<String>, Option<Value>)> = OnceLock::new();
    HASHES
        .get_or_init(|| {
            let hash = |path: &Path| Some(artifact::hash_file(path, memo).ok()?.to_string());
            let program = std::env::current_exe().ok().and_then(|path| hash(&path));
            let library = numeric_library()
                .and_then(|path| Some(json!({"file": path.file_name()?.to_str()?, "sha256": hash(&path)?})));
            (program, library)
        })
        .clone()
}

/// Finds the numeric library among the files that are mapped into this process.
#[cfg(target_os = "linux")]
fn numeric_library() -> Option<PathBuf> {
    let maps = fs_err::read_to_string("/proc/self/maps").ok()?;
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
    let is_library = |path: &&Path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(NUMERIC_LIBRARY))
    };
    paths.filter(is_library).map(Path::to_owned).next()
}

/// Finds the numeric library beside the program, or where the program was told to look for it.
#[cfg(not(target_os = "linux"))]
fn numeric_library() -> Option<PathBuf> {
    let folders = std::env::var_os("DYLD_LIBRARY_PATH")?;
    let name = format!("{NUMERIC_LIBRARY}.dylib");
    std::env::split_paths(&folders).map(|folder| folder.join(&name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_is_described() {
        let build = build();
        let revision = build["revision"].as_str().unwrap();
        let is_hash = revision.len() >= 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(revision == "unknown" || is_hash, "{revision}");
        assert!(build["dirty"].is_boolean());
        assert!(build["rust"].as_str().unwrap().starts_with("rustc "), "{build}");
        assert!(build["target"].as_str().unwrap().contains(std::env::consts::ARCH), "{build}");
    }

    #[test]
    fn the_program_file_is_hashed() {
        let (program, _) = hashes(&Memo::default());
        assert_eq!(program.unwrap().len(), 64);
    }
}
