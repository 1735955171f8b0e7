//! Lists the checkpoints to score: those of a training run, or the adapters in a folder of another tool.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use artifact::FileHash;
use failure::{Context, Error, Kind, Result};
use serde_json::Value;

/// File that every folder of adapters contains, whichever tool wrote it.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// mlx-lm's file of adapters; the files of checkpoints have `STEP_` in front.
const MLX_ADAPTERS: &str = "adapters.safetensors";

/// A checkpoint to score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Step of the checkpoint; 0 is the base model.
    pub step: u64,
    /// Folder with its adapters; `None` for the base model.
    pub adapters: Option<PathBuf>,
}

impl Candidate {
    const BASE: Self = Self { step: 0, adapters: None };
}

/// Lists the base model and the checkpoints of a training run, by step.
///
/// # Errors
///
/// Fails when the folder cannot be read or contains something other than folders named after steps.
pub fn candidates(checkpoints: &Path) -> Result<Vec<Candidate>> {
    let trained = outputs::checkpoint_adapters(checkpoints)?.into_iter();
    let trained = trained.map(|(step, adapters)| Candidate { step, adapters: Some(adapters) });
    Ok(std::iter::once(Candidate::BASE).chain(trained).collect())
}

/// Lists the base model and the adapters in a folder of mlx-lm or PEFT, by step; `work` gets a folder per checkpoint.
///
/// mlx-lm writes `0000100_adapters.safetensors` and the like beside the final `adapters.safetensors`; each is a
/// checkpoint. The final one gets the step `iters` of the settings, or the step after all others if that is later. It is
/// left out if it equals the last checkpoint.
///
/// # Errors
///
/// Fails when a file cannot be read or written, or when the settings are not JSON.
pub fn foreign_candidates(folder: &Path, work: &Path) -> Result<Vec<Candidate>> {
    let config = folder.join(ADAPTER_CONFIG);
    let settings: Value = serde_json::from_str(&files::read_text(&config, files::MAX_JSON_BYTES)?)
        .map_err(|error| Error::wrap(Kind::BadInput, error))
        .with_context(|| format!("reading `{}`", config.display()))?;
    let last = folder.join(MLX_ADAPTERS);
    if settings.get("peft_type").is_some() || !last.is_file() {
        return Ok(vec![Candidate::BASE, Candidate { step: 1, adapters: Some(folder.to_owned()) }]);
    }
    let mut steps = mlx_checkpoints(folder)?;
    let newest = steps.last_key_value().map(|(step, path)| (*step, path.clone()));
    let (after, is_saved) = match &newest {
        Some((step, path)) => (step + 1, hash(path)? == hash(&last)?),
        None => (1, false),
    };
    if !is_saved {
        let stated = settings["iters"].as_u64().unwrap_or(0);
        steps.insert(stated.max(after), last);
    }
    let mut all = vec![Candidate::BASE];
    for (step, path) in steps {
        let adapters = work.join(outputs::checkpoint_name(step));
        fs_err::create_dir_all(&adapters)?;
        // A link, because the adapters of full fine-tuning are as large as the model.
        fs_err::os::unix::fs::symlink(fs_err::canonicalize(path)?, adapters.join(MLX_ADAPTERS))?;
        fs_err::copy(&config, adapters.join(ADAPTER_CONFIG))?;
        all.push(Candidate { step, adapters: Some(adapters) });
    }
    Ok(all)
}

/// Returns the files of mlx-lm's checkpoints by step, without the final one.
fn mlx_checkpoints(folder: &Path) -> Result<BTreeMap<u64, PathBuf>> {
    let mut steps = BTreeMap::new();
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = name.strip_suffix(MLX_ADAPTERS).and_then(|rest| rest.strip_suffix('_'));
        if let Some(step) = number.and_then(|number| number.parse().ok()) {
            steps.insert(step, path);
        }
    }
    Ok(steps)
}

fn hash(path: &Path) -> Result<FileHash> {
    Ok(FileHash::of_reader(&mut files::open(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(all: &[Candidate]) -> Vec<u64> {
        all.iter().map(|candidate| candidate.step).collect()
    }

    #[test]
    fn checkpoints_are_listed_by_step_after_the_base_model() {
        let folder = tempfile::tempdir().unwrap();
        for step in ["0000120", "0000030"] {
            fs_err::create_dir(folder.path().join(step)).unwrap();
        }
        assert_eq!(steps(&candidates(folder.path()).unwrap()), [0, 30, 120]);
        fs_err::create_dir(folder.path().join("last")).unwrap();
        let error = candidates(folder.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::BadInput);
        assert!(error.to_string().contains("/last`"), "{error}");
    }

    #[test]
    fn the_final_adapters_of_mlx_lm_are_left_out_if_they_are_a_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs_err::write(folder.path().join(name), text).unwrap();
        put(ADAPTER_CONFIG, "{\"iters\": 250}");
        put("0000100_adapters.safetensors", "a");
        put("0000200_adapters.safetensors", "b");
        for (last, expected) in [("b", vec![0, 100, 200]), ("c", vec![0, 100, 200, 250])] {
            put(MLX_ADAPTERS, last);
            let work = tempfile::tempdir().unwrap();
            assert_eq!(steps(&foreign_candidates(folder.path(), work.path()).unwrap()), expected);
        }
        put(ADAPTER_CONFIG, "{\"iters\": 7, \"peft_type\": \"LORA\"}");
        let peft = foreign_candidates(folder.path(), folder.path()).unwrap();
        assert_eq!(peft[1], Candidate { step: 1, adapters: Some(folder.path().to_owned()) });
        put(ADAPTER_CONFIG, "{");
        assert_eq!(foreign_candidates(folder.path(), folder.path()).unwrap_err().kind(), Kind::BadInput);
    }
}
