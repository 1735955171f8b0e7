//! Models and adapters of other people, as the programs meet them: folders that are something else, names that other
//! tools write, and hints that work where they are printed.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use outputs::{Document as _, Scores};
use serde_json::{Value, json};
use tensors::{Dtype, TensorHeader, TensorLayout, TensorWriter};
use testutil::{Sandbox, files, golden};

/// A named matrix of small numbers.
fn matrix(name: String, rows: usize, columns: usize) -> (TensorLayout, Vec<u8>) {
    let number = |index: usize| ((index * 37 % 19) as f32 - 9.0) / 30.0;
    let bytes = (0..rows * columns).flat_map(|index| number(index).to_le_bytes()).collect();
    (TensorLayout { name, dtype: Dtype::F32, shape: vec![rows, columns] }, bytes)
}

fn write(path: &Path, tensors: &[(TensorLayout, Vec<u8>)]) -> Result<()> {
    let layouts: Vec<TensorLayout> = tensors.iter().map(|(layout, _)| layout.clone()).collect();
    let mut writer = TensorWriter::create(path, &layouts)?;
    for (_, bytes) in tensors {
        writer.write(bytes)?;
    }
    Ok(writer.finish()?)
}

/// Returns the shapes of the tensors of a golden model whose names end in `ending`.
fn shapes(case: &str, ending: &str) -> Result<Vec<(String, Vec<usize>)>> {
    let header = TensorHeader::read(&golden(case).join("model.safetensors"))?;
    let wanted = header.into_tensors().into_iter().filter(|(name, _)| name.ends_with(ending));
    Ok(wanted.map(|(name, info)| (name, info.shape)).collect())
}

struct Fixture {
    sandbox: Sandbox,
    model: String,
    dataset: String,
}

impl Fixture {
    fn new(case: &str) -> Self {
        let sandbox = Sandbox::new();
        let model = sandbox.model(&format!("tests/golden/{case}"));
        let dataset = sandbox.dataset(&model);
        Self { sandbox, model, dataset }
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.sandbox.join(name);
        fs_err::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Writes an adapter of PEFT for all `q_proj`, whose names begin with `prefix` in place of the model's own.
    fn peft(&self, case: &str, folder: &str, prefix: &str) -> Result<PathBuf> {
        let folder = self.folder(folder)?;
        let mut tensors = Vec::new();
        for (name, shape) in shapes(case, "q_proj.weight")? {
            let layer = &name[name.find("layers.").context("a layer")?..name.len() - ".weight".len()];
            tensors.push(matrix(format!("{prefix}{layer}.lora_A.weight"), 2, shape[1]));
            tensors.push(matrix(format!("{prefix}{layer}.lora_B.weight"), shape[0], 2));
        }
        write(&folder.join("adapter_model.safetensors"), &tensors)?;
        let config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]});
        fs_err::write(folder.join("adapter_config.json"), config.to_string())?;
        Ok(folder)
    }

    /// Writes an adapter of mlx-lm for the `q_proj` of the last two of three blocks.
    fn mlx_lm(&self, case: &str, folder: &str) -> Result<PathBuf> {
        let folder = self.folder(folder)?;
        let mut tensors = Vec::new();
        for (name, shape) in
            shapes(case, "q_proj.weight")?.into_iter().filter(|(name, _)| !name.contains("layers.0"))
        {
            let layer = name.trim_end_matches(".weight");
            tensors.push(matrix(format!("{layer}.lora_a"), shape[1], 4));
            tensors.push(matrix(format!("{layer}.lora_b"), 4, shape[0]));
        }
        write(&folder.join("adapters.safetensors"), &tensors)?;
        Ok(folder)
    }

    fn evaluate(&self, adapters: &Path) -> testutil::Program {
        let (model, adapters) = (format!("base={}", self.model), format!("a={}", adapters.display()));
        let inputs = ["--model", &model, "--adapters", &adapters, "--dataset", &self.dataset];
        self.sandbox.stage("evaluate", &inputs)
    }

    /// Returns the loss of an adapter, which must differ from that of the base.
    fn loss(&self, adapters: &Path) -> Result<f64> {
        let artifact = self.evaluate(adapters).run().path_text();
        let scores = Scores::read(&Path::new(&artifact).join("data").join(Scores::FILE))?;
        let [base, adapted] = ["base", "a"].map(|name| scores.models[name].loss.unwrap_or(f64::NAN));
        ensure!((base - adapted).abs() > 1e-4, "the adapter changes nothing: {base} and {adapted}");
        Ok(adapted)
    }
}

#[test]
fn a_text_adapter_loads_on_a_multimodal_model_whichever_way_it_is_named() -> Result<()> {
    let fixture = Fixture::new("gemma3");
    let prefixes = [
        "base_model.model.model.language_model.",
        "base_model.model.language_model.model.",
        "base_model.model.model.",
        "model.",
    ];
    let mut losses = Vec::new();
    for (number, prefix) in prefixes.iter().enumerate() {
        losses.push(fixture.loss(&fixture.peft("gemma3", &format!("adapter-{number}"), prefix)?)?);
    }
    ensure!(losses.iter().all(|loss| loss.to_bits() == losses[0].to_bits()), "{losses:?}");
    Ok(())
}

#[test]
fn an_adapter_of_a_multimodal_model_loads_on_its_text_model() -> Result<()> {
    let fixture = Fixture::new("gemma3_text");
    let own = fixture.loss(&fixture.peft("gemma3_text", "own", "base_model.model.model.")?)?;
    let other =
        fixture.loss(&fixture.peft("gemma3_text", "other", "base_model.model.model.language_model.")?)?;
    ensure!(own.to_bits() == other.to_bits(), "{own} and {other}");
    Ok(())
}

#[test]
fn adapters_of_older_mlx_lm_are_read_or_explained_and_the_hint_works() -> Result<()> {
    let fixture = Fixture::new("llama");
    let folder = fixture.mlx_lm("llama", "old")?;
    let ran = fixture.evaluate(&folder).run();
    ran.failed(65);
    ran.says(&["there is no `adapter_config.json`", "hint: write one"]);
    // The hint ends with the file to write.
    let config = ran.stderr.lines().find(|line| line.starts_with("hint:")).context("a hint")?;
    let config = &config[config.find('{').context("a config")?..];
    fs_err::write(folder.join("adapter_config.json"), config)?;
    let new = fixture.loss(&folder)?;
    let old = json!({"lora_layers": 2, "lora_parameters": {"rank": 4, "scale": 20.0, "keys": ["self_attn.q_proj"]}});
    fs_err::write(folder.join("adapter_config.json"), old.to_string())?;
    ensure!(fixture.loss(&folder)?.to_bits() == new.to_bits(), "`lora_layers` is read as `num_layers`");
    fs_err::write(folder.join("adapter_config.json"), "{\"lora_parameters\": {\"rank\": 4}}")?;
    let ran = fixture.evaluate(&folder).run();
    ran.failed(65);
    ran.says(&["`lora_layers`", "hint: add `\"num_layers\": N`"]);
    Ok(())
}

#[test]
fn a_folder_that_is_something_else_is_named_by_every_program() -> Result<()> {
    let fixture = Fixture::new("llama");
    let adapter = fixture.peft("llama", "adapter", "base_model.model.model.")?;
    let path = adapter.join("adapter_config.json");
    let mut config: Value = serde_json::from_str(&fs_err::read_to_string(&path)?)?;
    config["base_model_name_or_path"] = json!("org/base");
    fs_err::write(&path, config.to_string())?;
    let text = adapter.to_string_lossy().into_owned();
    let named = format!("x={text}");
    let programs = [
        ("import-model", vec!["--model-dir", &text]),
        ("train", vec!["--model", &text, "--dataset", &fixture.dataset]),
        ("evaluate", vec!["--model", &named, "--dataset", &fixture.dataset]),
    ];
    for (program, arguments) in programs {
        let ran = fixture.sandbox.stage(program, &arguments).run();
        ran.failed(65);
        ran.says(&["adapter of the base model `org/base`", "hint: ", "--adapters"]);
    }
    // A folder of checkpoints, each with an adapter.
    let run = fixture.folder("run")?;
    for checkpoint in ["checkpoint-60", "checkpoint-500"] {
        fs_err::create_dir(run.join(checkpoint))?;
        files::copy_files(&adapter, &run.join(checkpoint));
    }
    let ran = fixture.evaluate(&run).run();
    ran.failed(65);
    let inside = run.join("checkpoint-500");
    ran.says(&[&format!("hint: a folder in it has one: give `{}`", inside.display())]);
    fixture.loss(&inside)?;
    // A model in the place of an adapter.
    let model = fixture.folder("model")?;
    files::copy_files(&golden("llama"), &model);
    let ran = fixture.evaluate(&model).run();
    ran.failed(65);
    ran.says(&["this is not the folder of an adapter", "hint: give a folder with `adapter_config.json`"]);
    Ok(())
}

#[test]
fn settings_of_adapters_that_belong_to_another_base_are_refused_by_name() -> Result<()> {
    let fixture = Fixture::new("llama");
    let adapter = fixture.peft("llama", "adapter", "base_model.model.model.")?;
    let path = adapter.join("adapter_config.json");
    let plain: Value = serde_json::from_str(&fs_err::read_to_string(&path)?)?;
    let cases = [
        json!({"init_lora_weights": "pissa"}),
        json!({"init_lora_weights": "pissa_niter_16"}),
        json!({"init_lora_weights": "olora"}),
        json!({"init_lora_weights": "corda"}),
        json!({"init_lora_weights": "loftq"}),
        json!({"init_lora_weights": "next"}),
        json!({"lora_bias": true}),
        json!({"trainable_token_indices": [3]}),
        json!({"layer_replication": [[0, 2]]}),
        json!({"use_qalora": true}),
        json!({"target_parameters": ["x"]}),
        json!({"invented_next_year": 1}),
    ];
    for change in cases {
        let mut config = plain.clone();
        let (name, value) = change.as_object().and_then(|it| it.iter().next()).context("one setting")?;
        config[name] = value.clone();
        fs_err::write(&path, config.to_string())?;
        let ran = fixture.evaluate(&adapter).run();
        ran.failed(65);
        let named = format!("`{name}` is");
        ran.says(&[named.as_str(), "merge_and_unload"]);
    }
    Ok(())
}
