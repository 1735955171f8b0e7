//! Finds plain inputs: among the files that the user gave, or in an artifact that was read as a plain folder or file.

use std::path::{Path, PathBuf};

use artifact::{Bare, Manifest, Tree, TreeFile, TreeHash};

use crate::error::Result;

/// Plain files that the user has, with their tree hash.
#[derive(Debug)]
pub(super) struct Given {
    path: PathBuf,
    tree: TreeHash,
}

/// Place of a plain input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plain {
    /// A file or folder of the user.
    Given(PathBuf),
    /// A file or folder in an artifact.
    Inside {
        /// Folder of the artifact.
        artifact: PathBuf,
        /// Path below it, such as `data/gguf`.
        below: PathBuf,
    },
}

/// Hashes the given files and folders, and what is directly in the folders, since a stage may read single files.
pub(super) fn given(paths: &[PathBuf]) -> Result<Vec<Given>> {
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

/// Returns the given file or folder with a tree hash.
pub(super) fn among(given: &[Given], role: &str, tree: &TreeHash) -> Option<PathBuf> {
    let found = given.iter().filter(|given| given.tree == *tree);
    preferred(found.map(|given| (given.path.clone(), given.path.is_file())), role)
}

/// Returns the path below an artifact of the output, or of the single file, with a tree hash.
pub(super) fn below(manifest: &Manifest, role: &str, tree: &TreeHash) -> Option<PathBuf> {
    let is_file = |path: &str| manifest.files.iter().any(|file| file.path == path);
    let outputs = manifest.outputs.iter().filter(|(_, output)| output.tree == *tree);
    let outputs = outputs.map(|(name, _)| (name.as_str(), is_file(name)));
    let files = manifest.files.iter().filter(|file| tree_of_file(file) == Some(*tree));
    let files = files.map(|file| (file.path.as_str(), true));
    preferred(outputs.chain(files), role).map(|path| Path::new("data").join(path))
}

/// Returns the tree hash that a file has as an input.
fn tree_of_file(file: &artifact::File) -> Option<TreeHash> {
    let name = file.path.rsplit('/').next().unwrap_or(&file.path).to_owned();
    let file = TreeFile { path: name, size_bytes: file.size, sha256: file.sha256 };
    Some(Tree::from_files(Path::new(""), vec![file]).ok()?.hash())
}

/// Chooses between a file and a folder that holds nothing else, which have one hash: what the role is usually read from.
fn preferred<T>(found: impl Iterator<Item = (T, bool)>, role: &str) -> Option<T> {
    let wants_file = ["data_", "predictions_", "scores", "guard", "losses"];
    let wants_file = wants_file.iter().any(|part| role.starts_with(part)) || role.contains("_data_");
    let mut found: Vec<(T, bool)> = found.collect();
    let index = found.iter().position(|(_, is_file)| *is_file == wants_file).unwrap_or(0);
    (index < found.len()).then(|| found.swap_remove(index).0)
}

#[cfg(test)]
mod tests {
    use artifact::FileHash;

    use super::*;

    fn file(path: &str) -> TreeFile {
        TreeFile { path: path.to_owned(), size_bytes: 1, sha256: FileHash::of(path.as_bytes()) }
    }

    fn tree(files: Vec<TreeFile>) -> Tree {
        Tree::from_files(Path::new("data"), files).unwrap()
    }

    #[test]
    fn an_output_and_a_file_of_it_are_found_by_their_content() {
        let files = ["gguf/model.gguf", "metrics.json", "model/config.json", "model/weights.bin"].map(file);
        let manifest = Manifest::of_bare_folder(&tree(files.to_vec()));
        let renamed = |index: usize, path: &str| TreeFile { path: path.to_owned(), ..files[index].clone() };
        let model = tree(vec![renamed(2, "config.json"), renamed(3, "weights.bin")]).hash();
        let gguf = tree(vec![renamed(0, "model.gguf")]).hash();
        let metrics = tree(vec![files[1].clone()]).hash();
        let weights = tree(vec![renamed(3, "weights.bin")]).hash();
        for (role, tree, expected) in [
            ("model_2_fused_gguf", model, Some("data/model")),
            ("source", gguf, Some("data/gguf")),
            ("data_0", gguf, Some("data/gguf/model.gguf")),
            ("scores", metrics, Some("data/metrics.json")),
            ("source", weights, Some("data/model/weights.bin")),
            ("source", tree(vec![file("other")]).hash(), None),
        ] {
            assert_eq!(below(&manifest, role, &tree).as_deref(), expected.map(Path::new), "{role}");
        }
    }

    #[test]
    fn a_folder_with_one_file_is_given_as_the_role_wants_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("tokenizer");
        fs_err::create_dir(&folder).unwrap();
        fs_err::write(folder.join("tokenizer.json"), "{}").unwrap();
        let given = given(std::slice::from_ref(&folder)).unwrap();
        let tree = Bare::scan(&folder).unwrap().hash();
        assert_eq!(among(&given, "tokenizer", &tree), Some(folder.clone()));
        assert_eq!(among(&given, "train_data_0", &tree), Some(folder.join("tokenizer.json")));
        assert_eq!(among(&[], "tokenizer", &tree), None);
    }
}
