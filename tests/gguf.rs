//! GGUF files in and out: models that others wrote, our own exports, and hostile files.

#[path = "gguf/file.rs"]
mod file;
#[path = "gguf/hostile.rs"]
mod hostile;
#[path = "gguf/settings.rs"]
mod settings;
#[path = "gguf/tokens.rs"]
mod tokens;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use dataset::TextTokenizer;
use fuse::gguf::{Gguf, export};
use import_model::Space;
use import_model::gguf::{Blocks, convert};
use mlx_rs::{Array, Dtype};
use models::{Input, LoadOptions, Model, TensorFiles};
use serde_json::Value;
use testutil::{Sandbox, built_programs, golden, golden_dir, tolerance, workspace_root};

use file::{File, with_entry};
use hostile::watched;

const TEXTS: [&str; 6] = [
    "The king of the king.",
    " leading and  double spaces",
    "E hele mai ʻoe i ka hale 123",
    "naïve café, 日本語 и русский",
    "line\nbreaks\r\n\tand tabs",
    "<bos>special<eos> 0x00 <0x",
];

fn model(folder: &Path) -> Result<Model> {
    Ok(Model::load(folder, &LoadOptions { dtype: Some(Dtype::Float32), unpack: true })?)
}

/// Returns the logits of the tokens of the golden case `name`.
fn logits(folder: &Path, name: &str) -> Result<Array> {
    let tokens = TensorFiles::open_file(&golden(name).join("expected.safetensors"))?.array("input_ids")?;
    let model = model(folder)?;
    Ok(model.logits(&model.hidden(Input::tokens(&tokens))?)?.as_dtype(Dtype::Float32)?)
}

fn difference(a: &Array, b: &Array) -> Result<f32> {
    ensure!(a.shape() == b.shape(), "shapes {:?} and {:?}", a.shape(), b.shape());
    Ok(a.subtract(b)?.abs()?.max(None)?.item_exact())
}

fn tokens_of(folder: &Path) -> Result<Vec<Vec<u32>>> {
    let tokenizer = TextTokenizer::open(folder)?;
    TEXTS.iter().map(|text| Ok(tokenizer.encode(text, true)?)).collect()
}

fn json(path: &Path) -> Result<Value> {
    Ok(serde_json::from_str(&fs_err::read_to_string(path)?)?)
}

/// Imports a file with the program and returns the artifact.
fn imported(sandbox: &Sandbox, file: &Path) -> PathBuf {
    let mut program = sandbox.program(built_programs().join("import-model"));
    sandbox.join("").join(program.arg("--model-dir").arg(file).run().path())
}

#[test]
fn models_that_another_program_wrote_have_the_logits_and_tokens_of_the_originals() -> Result<()> {
    mlx_ext::init(&mlx_ext::Options::default())?;
    let sandbox = Sandbox::new();
    let mut count = 0;
    for entry in fs_err::read_dir(golden_dir().join("gguf"))? {
        let file = entry?.path();
        if file.extension().is_none_or(|extension| extension != "gguf") {
            continue;
        }
        let name = file.file_stem().and_then(|name| name.to_str()).context("no name")?.to_owned();
        let folder = imported(&sandbox, &file).join("data/model");
        let expected =
            TensorFiles::open_file(&golden(&name).join("expected.safetensors"))?.array("logits")?;
        let worst = difference(&logits(&folder, &name)?, &expected)?;
        assert!(worst <= tolerance::LOGITS, "{name}: logits are off by {worst}");
        assert_eq!(tokens_of(&folder)?, tokens_of(&golden(&name))?, "{name}");
        let (found, original) =
            (json(&folder.join("config.json"))?, json(&golden(&name).join("config.json"))?);
        for key in ["model_type", "bos_token_id", "eos_token_id", "pad_token_id", "rope_scaling", "head_dim"]
        {
            if !original[key].is_null() {
                assert_eq!(found[key], original[key], "{name}: {key}");
            }
        }
        let template = |folder: &Path| {
            Ok::<_, anyhow::Error>(json(&folder.join("tokenizer_config.json"))?["chat_template"].clone())
        };
        assert_eq!(template(&folder)?, template(&golden(&name))?, "{name}");
        count += 1;
    }
    assert!(count >= 8, "{count} files");
    Ok(())
}

#[test]
fn a_mistral_keeps_its_window_and_one_without_a_window_has_none() -> Result<()> {
    mlx_ext::init(&mlx_ext::Options::default())?;
    let sandbox = Sandbox::new();
    let file = golden_dir().join("gguf/mistral.gguf");
    let config = json(&imported(&sandbox, &file).join("data/model/config.json"))?;
    assert_eq!((&config["model_type"], &config["sliding_window"]), (&"mistral".into(), &4096.into()));
    let mut bytes = fs_err::read(&file)?;
    let key = File(Vec::new()).text("mistral.attention.sliding_window").u32(4).0;
    let at = bytes.windows(key.len()).position(|part| part == key).context("no window")? + key.len();
    bytes[at..at + 4].fill(0);
    let file = sandbox.write("without.gguf", bytes);
    let config = json(&imported(&sandbox, &file).join("data/model/config.json"))?;
    assert_eq!((&config["model_type"], &config["sliding_window"]), (&"mistral".into(), &Value::Null));
    Ok(())
}

#[test]
fn named_chat_templates_are_kept() -> Result<()> {
    let sandbox = Sandbox::new();
    let entry = File(Vec::new()).put_text("tokenizer.chat_template.tool_use", "{{ tools }}").0;
    let whole = fs_err::read(golden_dir().join("gguf/qwen2.gguf"))?;
    let file = sandbox.write("named.gguf", with_entry(&whole, &entry));
    let templates =
        &json(&imported(&sandbox, &file).join("data/tokenizer/tokenizer_config.json"))?["chat_template"];
    assert_eq!(templates[0]["name"], "default");
    assert_eq!(templates[1], serde_json::json!({ "name": "tool_use", "template": "{{ tools }}" }));
    Ok(())
}

/// Exports the model in `folder` and imports the file again.
fn round_trip(folder: &Path, kind: Gguf, blocks: Blocks, work: &Path, name: &str) -> Result<PathBuf> {
    let file = work.join(format!("{name}.gguf"));
    export(folder, kind, &file)?;
    let out = work.join(name);
    let found = convert(&file, blocks, &out, &Space::new(work, work, None)?)?;
    import_model::model::check(&found)?;
    Ok(out)
}

/// Checks that a model which went through GGUF once does not change the second time.
fn is_stable(folder: &Path, kind: Gguf, name: &str) -> Result<()> {
    let sandbox = Sandbox::new();
    let work = sandbox.join("");
    let first = round_trip(folder, kind, Blocks::Dequantize, &work, "first")?;
    let second = round_trip(&first, kind, Blocks::Dequantize, &work, "second")?;
    let expected = logits(&first, name)?;
    let off = difference(&expected, &logits(&second, name)?)?;
    ensure!(off == 0.0, "{name} as {kind:?}: logits differ by {off}");
    ensure!(tokens_of(&second)? == tokens_of(folder)?, "{name} as {kind:?}: other tokens");
    // Packed groups have exactly the values of the blocks.
    let packed = round_trip(folder, kind, Blocks::Pack, &work, "packed")?;
    let is_packed = !json(&packed.join("config.json"))?["quantization"].is_null();
    ensure!(is_packed == (kind != Gguf::F16), "{name} as {kind:?}: packed {is_packed}");
    let off = difference(&expected, &logits(&packed, name)?)?;
    ensure!(off <= tolerance::LOGITS, "{name} as {kind:?}: packed and floats differ by {off}");
    Ok(())
}

#[test]
fn an_exported_model_that_is_imported_again_has_identical_logits() -> Result<()> {
    mlx_ext::init(&mlx_ext::Options::default())?;
    for name in ["llama", "llama3-rope", "mistral", "qwen2", "qwen3", "gemma3_text"] {
        is_stable(&golden(name), Gguf::F16, name)?;
    }
    // The golden models are narrower than a block.
    for kind in [Gguf::Q8_0, Gguf::Q4_0, Gguf::Q4_1] {
        is_stable(&demo(), kind, "gemma3_text")?;
    }
    Ok(())
}

/// Returns the demo model's folder.
fn demo() -> PathBuf {
    workspace_root().join("data/models/demo")
}

#[test]
fn the_record_says_what_stayed_packed_and_what_became_floats() -> Result<()> {
    mlx_ext::init(&mlx_ext::Options::default())?;
    let sandbox = Sandbox::new();
    let folder = sandbox.join("models");
    fs_err::create_dir_all(&folder)?;
    export(&demo(), Gguf::Q8_0, &folder.join("mine.gguf"))?;
    let artifact = imported(&sandbox, &folder.join("mine.gguf"));
    let record = json(&artifact.join("data/import.json"))?;
    assert_eq!(record["source"]["type"], "folder");
    assert_eq!(record["gguf"]["file"], "mine.gguf");
    let names = |kind: &str, storage: &str| record["gguf"][kind][storage].as_array().map_or(0, Vec::len);
    assert!(names("packed", "Q8_0") >= 20 && names("floats", "F32") >= 7, "{record}");
    // A folder with this one file, whatever else is in it, is the same model.
    fs_err::write(folder.join("notes.txt"), "x")?;
    assert_eq!(imported(&sandbox, &folder), artifact);
    let ran = |set: &str| {
        let mut program = sandbox.program(built_programs().join("import-model"));
        program.arg("--model-dir").arg(&folder).args(["--set", set]).run()
    };
    let floats = sandbox.join("").join(ran("import-model.dequantize=true").path());
    let record = json(&floats.join("data/import.json"))?;
    assert!(record["gguf"]["packed"].as_object().context("no table")?.is_empty(), "{record}");
    assert!(json(&floats.join("data/model/config.json"))?["quantization"].is_null());
    let packed = sandbox.join("").join(ran("import-model.quantize.group_size=32").path());
    assert_eq!(json(&packed.join("data/model/config.json"))?["quantization"]["group_size"], 32);
    fs_err::copy(folder.join("mine.gguf"), folder.join("other.gguf"))?;
    let said = ran("import-model.dequantize=true").failed(65);
    assert!(
        said.contains("several GGUF files: `mine.gguf`, `other.gguf`") && said.contains("hint: "),
        "{said}"
    );
    Ok(())
}

/// Writes the demo model with an embedding of `rows` rows, of which those that it lacks are zero, to the folder `out`.
fn with_rows(rows: usize, out: &Path) -> Result<()> {
    testutil::files::copy(&demo(), out);
    let mut config = json(&out.join("config.json"))?;
    config["vocab_size"] = rows.into();
    fs_err::write(out.join("config.json"), config.to_string())?;
    let file = fs_err::read(out.join("model.safetensors"))?;
    let (length, rest) = file.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into()?) as usize);
    let mut header: serde_json::Map<String, Value> = serde_json::from_slice(header)?;
    header.remove("__metadata__");
    let mut written: Vec<u8> = Vec::new();
    for (name, tensor) in &mut header {
        let offset = |index: usize| tensor["data_offsets"][index].as_u64().context("no offset");
        let values = &data[offset(0)? as usize..offset(1)? as usize];
        let start = written.len();
        written.extend(values);
        if name.ends_with("embed_tokens.weight") {
            let width = tensor["shape"][1].as_u64().context("no width")? as usize;
            tensor["shape"][0] = rows.into();
            written.resize(start + rows * width * 4, 0);
        }
        tensor["data_offsets"] = serde_json::json!([start, written.len()]);
    }
    let mut header = serde_json::to_string(&header)?;
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    let length = (header.len() as u64).to_le_bytes();
    Ok(fs_err::write(out.join("model.safetensors"), [&length, header.as_bytes(), &written].concat())?)
}

/// An embedding that is read back is in memory once, beside that of the fused model: its parts are not kept.
#[test]
#[cfg(target_os = "linux")]
fn an_export_needs_little_more_memory_than_the_model() -> Result<()> {
    const ROWS: usize = 320_000;
    let sandbox = Sandbox::new();
    let folder = sandbox.join("wide");
    with_rows(ROWS, &folder)?;
    let embedding = ROWS as u64 * 160 * 4;
    let model = sandbox.model(&folder.to_string_lossy());
    let dataset = sandbox.dataset(&model);
    let given = ["--model", &model, "--dataset", &dataset];
    let train = sandbox.make("train", &[&given[..], &["--set", "train.steps=1"]].concat());
    let adapters = sandbox.join("").join(&train).join("data/checkpoints/0000001/adapters");
    let adapters = adapters.to_string_lossy();
    let peak = |format: &str| -> Result<u64> {
        let format = format!("fuse.gguf={format}");
        let given = [&given[..], &["--adapters", &adapters, "--set", &format]].concat();
        let (ran, peak, _) = watched(&mut sandbox.stage("fuse", &given))?;
        ran.succeeded();
        Ok(peak)
    };
    let (without, with) = (peak("\"\"")?, peak("q8_0")?);
    println!("{} MB without, {} MB with GGUF", without / 1_000_000, with / 1_000_000);
    // Two heads are compared: one embedding more than without GGUF, and some logits. Joined parts would add another embedding.
    ensure!(with < without + embedding * 5 / 4, "{with} bytes with GGUF, {without} without");
    Ok(())
}
