//! A store with artifacts of toy stages, and the program run on it.

#![expect(dead_code, reason = "each test program uses only some of them")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use artifact::{Artifact, Draft, InputContent, InputRecord, KeyMaterial, Level, Store};
use serde_json::{Value, json};
use testutil::{Program, Ran};

/// Values of `ASHLAR_FAULT`, and the exit codes that follow.
pub(crate) const FAULTS: [(&str, i32); 5] =
    [("enospc", 74), ("eio", 74), ("edquot", 74), ("erofs", 74), ("emfile", 1)];

/// A temporary folder with a store `artifacts`.
pub(crate) struct Toy {
    folder: tempfile::TempDir,
    pub(crate) store: Store,
}

/// An artifact to be made.
pub(crate) struct Recipe<'a> {
    pub(crate) stage: &'a str,
    pub(crate) config: Value,
    /// Role, artifact and output of each input.
    pub(crate) inputs: &'a [(&'a str, &'a Artifact, &'a str)],
    pub(crate) metrics: &'a [(&'a str, f64)],
    /// Files below `data/`.
    pub(crate) files: &'a [(&'a str, &'a [u8])],
    pub(crate) telemetry: &'a [(&'a str, &'a [u8])],
    /// Segment that a training run resumed from.
    pub(crate) resumed_from: Option<&'a Artifact>,
}

impl Default for Recipe<'_> {
    fn default() -> Self {
        Self {
            stage: "train",
            config: json!({}),
            inputs: &[],
            metrics: &[],
            files: &[("out.json", b"{}\n")],
            telemetry: &[],
            resumed_from: None,
        }
    }
}

/// The artifacts of a small pipeline. gc does not remove them while this exists, since they are open.
pub(crate) struct Pipeline {
    pub(crate) model: Artifact,
    pub(crate) data: Artifact,
    pub(crate) train: Artifact,
    pub(crate) evaluate: Artifact,
}

impl Toy {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // As make has it, without a pointer.
        fs_err::create_dir(folder.path().join("build")).unwrap();
        let store = Store::open(&folder.path().join("artifacts")).unwrap();
        Self { folder, store }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn root(&self) -> &Path {
        self.store.root()
    }

    /// Publishes an artifact as a stage does.
    pub(crate) fn make(&self, recipe: &Recipe<'_>) -> Artifact {
        let mut material = KeyMaterial::new(recipe.stage, 1, recipe.config.clone());
        let mut records = BTreeMap::new();
        for (role, input, output) in recipe.inputs {
            let manifest = input.manifest();
            let tree = if output.is_empty() { manifest.tree } else { manifest.outputs[*output].tree };
            material.inputs.insert((*role).to_owned(), InputContent::Tree(tree));
            let record = InputRecord {
                stage: Some(manifest.stage.clone()),
                key: Some(manifest.key),
                tree,
                output: (!output.is_empty()).then(|| (*output).to_owned()),
            };
            records.insert((*role).to_owned(), record);
        }
        let mut draft = Draft::new("toy", material);
        draft.inputs = records;
        draft.metrics = recipe.metrics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        draft.config_defaults = json!({"rank": 8, "seed": 1});
        draft.provenance =
            json!({"tool": {"name": recipe.stage, "version": "0.1.0"}, "start": "2026-01-01T00:00:00Z"});
        if let Some(manifest) = recipe.resumed_from.map(Artifact::manifest) {
            draft.provenance["resumed_from"] =
                json!({"stage": manifest.stage, "key": manifest.key, "tree": manifest.tree, "steps": 1});
        }
        let staging = self.store.stage_new(recipe.stage).unwrap();
        for (folder, files) in [(staging.data(), recipe.files), (staging.telemetry(), recipe.telemetry)] {
            for (name, bytes) in files {
                let path = folder.join(name);
                fs_err::create_dir_all(path.parent().unwrap()).unwrap();
                fs_err::write(path, bytes).unwrap();
            }
        }
        staging.publish(&draft, &mut || Ok(())).unwrap().artifact().clone()
    }

    /// Makes model, data, a training run and an evaluation of it.
    pub(crate) fn pipeline(&self, rank: u64, length: u64) -> Pipeline {
        let model = self.make(&Recipe {
            stage: "import-model",
            files: &[("model/config.json", b"{\"a\":1}\n"), ("model/weights.bin", &[7; 300])],
            ..Recipe::default()
        });
        let rows = format!("{{\"length\":{length}}}\n");
        let data = self.make(&Recipe {
            stage: "prepare-data",
            config: json!({"max_length": length}),
            inputs: &[("tokenizer", &model, "model")],
            files: &[("rows/train.jsonl", rows.as_bytes())],
            ..Recipe::default()
        });
        let train = self.make(&Recipe {
            stage: "train",
            config: json!({"rank": rank, "seed": 1}),
            inputs: &[("model", &model, "model"), ("rows", &data, "rows")],
            metrics: &[("steps", 4.0)],
            files: &[
                ("adapters.bin", format!("{rank} {length}").as_bytes()),
                ("summary.json", b"{\"steps\":4}\n"),
            ],
            telemetry: &[("timing.jsonl", b"{\"ms\":12}\n")],
            resumed_from: None,
        });
        let loss = 4.0 - rank as f64 / 100.0;
        let row = |id: &str, loss: f64, answer: &str| {
            let losses = json!({"fused": {"loss": loss * 2.0, "tokens": 2}});
            let predictions = json!({"fused": answer});
            json!({"id": id, "losses": losses, "predictions": predictions, "reference": "aloha kakou"})
                .to_string()
                + "\n"
        };
        let answer = if rank > 8 { "aloha kakou" } else { "hello" };
        let predictions = row("a", loss * 0.5, answer) + &row("b", loss * 1.5, "aloha");
        let scores = json!({
            "models": {"fused": {
                "generated_rows": 2, "loss": loss, "perplexity": loss.exp(), "chrf": rank as f64,
                "intervals": {"loss": [loss * 0.5, loss * 1.5], "chrf": [rank as f64 - 3.0, rank as f64 + 4.0]},
            }},
            "rows": 2, "split": "test",
            "metrics": {"loss": {"title": "Loss", "better": "lower"}, "chrf": {"title": "chrF", "better": "higher"}},
            "statistics": {"resamples": 500, "confidence": 0.9, "seed": 7, "unit": "row", "units": 2},
        });
        let scores = scores.to_string() + "\n";
        let evaluate = self.make(&Recipe {
            stage: "evaluate",
            inputs: &[("model_0_fused", &train, ""), ("rows", &data, "rows")],
            metrics: &[("fused_loss", loss)],
            files: &[("metrics.json", scores.as_bytes()), ("predictions.jsonl", predictions.as_bytes())],
            ..Recipe::default()
        });
        Pipeline { model, data, train, evaluate }
    }

    /// Runs `artifacts` with arguments separated by spaces, in the temporary folder.
    pub(crate) fn run(&self, arguments: &str) -> Ran {
        self.program(arguments).run()
    }

    pub(crate) fn program(&self, arguments: &str) -> Program {
        let mut program = Program::new(env!("CARGO_BIN_EXE_artifacts"));
        program.current_dir(self.path()).args(arguments.split_whitespace());
        program
    }

    /// Runs a command with `--json` and returns what it prints.
    pub(crate) fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(self.run(&format!("{arguments} --json")).succeeded()).unwrap()
    }

    /// Returns `STAGE/KEY-SLUG` of every artifact.
    pub(crate) fn names(&self) -> Vec<String> {
        names_in(self.root())
    }
}

/// Returns `STAGE/KEY-SLUG` of every artifact in a store, each verified.
pub(crate) fn names_in(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for stage in visible(root) {
        for name in visible(&root.join(&stage)) {
            let path = root.join(&stage).join(&name);
            if stage != "refs" && path.is_dir() {
                Artifact::open_with(&path, Level::Hash).unwrap();
                names.push(format!("{stage}/{name}"));
            }
        }
    }
    names.sort();
    names
}

fn visible(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs_err::read_dir(dir) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with('.')).collect()
}

/// Returns `STAGE/KEY-SLUG` of an artifact.
pub(crate) fn name(artifact: &Artifact) -> String {
    let path = artifact.path();
    let stage = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
    format!("{stage}/{}", path.file_name().unwrap().to_str().unwrap())
}

/// Lists all files below a folder.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// Sets the time of an artifact's last use back by a number of days.
pub(crate) fn age(artifact: &Artifact, days: u64) {
    let time = artifact::now() - std::time::Duration::from_hours(24 * days);
    let times = std::fs::FileTimes::new().set_modified(time);
    fs_err::File::open(artifact.path()).unwrap().file().set_times(times).unwrap();
}
