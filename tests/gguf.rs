//! GGUF files in and out: models that others wrote, our own exports, and hostile files.

#[path = "gguf/settings.rs"]
mod settings;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dataset::TextTokenizer;
use fuse::gguf::{Gguf, export};
use import_model::gguf::{Blocks, convert};
use mlx_rs::{Array, Dtype};
use models::{Input, LoadOptions, Model, TensorFiles};
use serde_json::Value;
use testutil::{Ran, Sandbox, built_programs, golden, golden_dir, tolerance, workspace_root};

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

fn tokens(folder: &Path) -> Result<Vec<Vec<u32>>> {
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
        assert_eq!(tokens(&folder)?, tokens(&golden(&name))?, "{name}");
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
    let found = convert(&file, blocks, &out)?;
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
    ensure!(tokens(&second)? == tokens(folder)?, "{name} as {kind:?}: other tokens");
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

/// A GGUF file under construction: metadata, tensors and data of a small llama.
struct File(Vec<u8>);

impl File {
    fn new(tensors: u64, entries: u64) -> Self {
        Self(
            [b"GGUF".as_slice(), &3_u32.to_le_bytes(), &tensors.to_le_bytes(), &entries.to_le_bytes()]
                .concat(),
        )
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn text(self, text: &str) -> Self {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    fn put_u32(self, key: &str, value: u32) -> Self {
        self.text(key).u32(4).u32(value)
    }

    fn put_text(self, key: &str, value: &str) -> Self {
        self.text(key).u32(8).text(value)
    }

    fn tensor(self, name: &str, shape: &[u64], storage: u32, offset: u64) -> Self {
        let file = self.text(name).u32(shape.len() as u32);
        shape.iter().fold(file, |file, &extent| file.u64(extent)).u32(storage).u64(offset)
    }

    fn data(mut self, count: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + count, 1);
        self
    }
}

/// A file that another program wrote, to be changed in places.
struct Whole(Vec<u8>);

impl Whole {
    fn read() -> Result<Self> {
        Ok(Self(fs_err::read(golden_dir().join("gguf/qwen2.gguf"))?))
    }

    /// Returns the place after `part`.
    fn after(&self, part: &[u8]) -> Result<usize> {
        let at = self.0.windows(part.len()).position(|found| found == part).context("not in the file")?;
        Ok(at + part.len())
    }

    /// Returns the file with `bytes` at `place`.
    fn replaced(&self, place: usize, bytes: &[u8]) -> Vec<u8> {
        let mut file = self.0.clone();
        file[place..place + bytes.len()].copy_from_slice(bytes);
        file
    }

    fn swap(&self, from: &[u8], to: &[u8]) -> Result<Vec<u8>> {
        Ok(self.replaced(self.after(from)? - from.len(), to))
    }

    /// Returns the file with another value of a 32-bit entry.
    fn put(&self, key: &str, value: u32) -> Result<Vec<u8>> {
        let place = self.after(&File(Vec::new()).text(key).u32(4).0).with_context(|| key.to_owned())?;
        Ok(self.replaced(place, &value.to_le_bytes()))
    }

    /// Returns the file with one more entry.
    fn with(&self, key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
        with_entry(&self.0, &File(Vec::new()).text(key).u32(kind).bytes(value).0)
    }

    /// Returns the file with another type and value of the norms' epsilon.
    fn epsilon(&self, kind: u32, value: f32) -> Result<Vec<u8>> {
        let place = self.after(&File(Vec::new()).text("qwen2.attention.layer_norm_rms_epsilon").0)?;
        Ok(self.replaced(place, &[kind.to_le_bytes(), value.to_le_bytes()].concat()))
    }

    /// Returns the file with another type of one token.
    fn token_kind(&self, id: usize, kind: i32) -> Result<Vec<u8>> {
        let list = self.after(&File(Vec::new()).text("tokenizer.ggml.token_type").u32(9).u32(5).0)?;
        Ok(self.replaced(list + 8 + 4 * id, &kind.to_le_bytes()))
    }
}

/// Returns hostile files with a word that the message must contain.
fn hostile() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let whole = Whole::read()?;
    let one = |shape: &[u64], storage, offset| File::new(1, 0).tensor("t", shape, storage, offset).data(64).0;
    let list = |kind: u32, count: u64| {
        File::new(0, 1).text("tokenizer.ggml.tokens").u32(9).u32(kind).u64(count).data(64).0
    };
    let many = File::new(0, 1).text("a").u32(9).u32(8).u64(10_000_000).data(80_000_000).0;
    Ok(vec![
        ("GGUF", b"GGML and more".to_vec()),
        ("truncated", b"GGUF".to_vec()),
        ("version is 9", [b"GGUF".as_slice(), &9_u32.to_le_bytes()].concat()),
        ("big-endian", [b"GGUF".as_slice(), &3_u32.to_be_bytes()].concat()),
        ("tensors", File::new(u64::MAX, 0).0),
        ("metadata entries", File::new(0, u64::MAX).0),
        ("claims 1000000000 values", list(8, 1_000_000_000)),
        ("claims 18446744073709551615 values", list(4, u64::MAX)),
        ("claims 4294967296 bytes", File::new(0, 1).text("a").u32(8).u64(1 << 32).data(64).0),
        ("lists of lists", list(9, 1)),
        ("unknown value type", File::new(0, 1).text("a").u32(99).data(64).0),
        ("occurs twice", File::new(0, 2).put_u32("a", 1).put_u32("a", 1).0),
        ("dimensions", one(&[1; 9], 0, 0)),
        ("too large", one(&[1 << 62, 1 << 62], 0, 0)),
        ("blocks of 32", one(&[31], 2, 0)),
        ("unknown type 4000", one(&[32], 4000, 0)),
        ("IQ2_XXS", one(&[256], 16, 0)),
        ("ends after the file", one(&[1 << 40], 0, 0)),
        ("ends after the file", one(&[4], 0, u64::MAX - 31)),
        ("multiple of 32", one(&[4], 0, 3)),
        ("overlap", File::new(2, 0).tensor("t", &[9], 0, 0).tensor("u", &[4], 0, 32).data(64).0),
        ("a power of two", File::new(0, 1).put_u32("general.alignment", 0).0),
        ("MiB allowed", many),
        ("claims 4294967296 bytes", list_of_texts(2).u64(1 << 32).data(64).0),
        ("not valid UTF-8", File::new(0, 1).u64(2).bytes(&[0xc0, 0xaf]).u32(4).u32(1).0),
        ("expected 1 to 256", File::new(0, 1).text(&"k".repeat(257)).u32(4).u32(1).0),
        ("expected 0 or 1", File::new(0, 1).text("a").u32(7).bytes(&[7]).0),
        ("`t` occurs twice", File::new(2, 0).tensor("t", &[4], 0, 0).tensor("t", &[4], 0, 32).data(64).0),
        ("0 dimensions", one(&[], 0, 0)),
        ("blocks of 1", one(&[0], 0, 0)),
        ("too large", one(&[1 << 32, 1 << 32, 1 << 32], 0, 0)),
        ("multiple of 32", one(&[4], 0, u64::MAX)),
        ("overlap", File::new(2, 0).tensor("t", &[4], 0, 0).tensor("u", &[4], 0, 0).data(64).0),
        ("a power of two", File::new(0, 1).put_u32("general.alignment", 1 << 31).0),
        ("a power of two", File::new(0, 1).put_text("general.alignment", "32").0),
        ("`general.architecture`", File::new(0, 1).put_u32("general.architecture", 5).0),
        ("ends after the file", whole.0[..whole.0.len() - 1000].to_vec()),
        ("`general.architecture` is missing", File::new(0, 1).put_u32("a", 1).0),
        ("`mamba`", File::new(0, 1).put_text("general.architecture", "mamba").0),
        ("`qwen9`", whole.swap(b"\x05\0\0\0\0\0\0\0qwen2", b"\x05\0\0\0\0\0\0\0qwen9")?),
        ("`bert`", whole.swap(b"\x04\0\0\0\0\0\0\0gpt2", b"\x04\0\0\0\0\0\0\0bert")?),
        ("`gpt-9`", whole.swap(b"\x05\0\0\0\0\0\0\0gpt-2", b"\x05\0\0\0\0\0\0\0gpt-9")?),
        ("blk.0.attn_x.weight", whole.swap(b"blk.0.attn_q.weight", b"blk.0.attn_x.weight")?),
        ("blk.7.attn_q.weight", whole.swap(b"blk.0.attn_q.weight", b"blk.7.attn_q.weight")?),
        ("qwen2.block_count", whole.swap(b"qwen2.block_count\x04\0\0\0", b"qwen2.block_count\x08\0\0\0")?),
        (
            "not the id of a token",
            whole.swap(b"bos_token_id\x04\0\0\0\x02\0\0\0", b"bos_token_id\x04\0\0\0\xff\xff\xff\x7f")?,
        ),
    ])
}

/// Returns files with numbers, types and templates that no model has.
fn hostile_metadata() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let whole = Whole::read()?;
    Ok(vec![
        ("`qwen2.embedding_length` is 0, expected 1 to", whole.put("qwen2.embedding_length", 0)?),
        ("`qwen2.attention.head_count` is 0, expected 1 to", whole.put("qwen2.attention.head_count", 0)?),
        (
            "`qwen2.attention.head_count_kv` is 0, expected 1 to",
            whole.put("qwen2.attention.head_count_kv", 0)?,
        ),
        ("`qwen2.feed_forward_length` is 0, expected 1 to", whole.put("qwen2.feed_forward_length", 0)?),
        ("`qwen2.context_length` is 0, expected 1 to", whole.put("qwen2.context_length", 0)?),
        ("`qwen2.block_count` is 0, expected 1 to", whole.put("qwen2.block_count", 0)?),
        ("`qwen2.block_count` is 1000000000, expected", whole.put("qwen2.block_count", 1_000_000_000)?),
        ("`qwen2.attention.head_count` is 4294967295", whole.put("qwen2.attention.head_count", u32::MAX)?),
        ("`qwen2.attention.head_count` is 3, not a multiple", whole.put("qwen2.attention.head_count", 3)?),
        ("`qwen2.embedding_length` is 50, not a multiple", whole.put("qwen2.embedding_length", 50)?),
        ("layers.3", whole.put("qwen2.block_count", 4)?),
        ("`qwen2.embedding_length` is 4294967295", whole.put("qwen2.embedding_length", u32::MAX)?),
        ("`qwen2.feed_forward_length` is 4294967295", whole.put("qwen2.feed_forward_length", u32::MAX)?),
        ("`qwen2.context_length` is 4294967295", whole.put("qwen2.context_length", u32::MAX)?),
        (
            "`qwen2.attention.key_length` is 0, expected 1 to",
            whole.with("qwen2.attention.key_length", 4, &[0; 4]),
        ),
        ("`qwen2.rope.dimension_count` is 0", whole.with("qwen2.rope.dimension_count", 4, &[0; 4])),
        ("`qwen2.vocab_size` is 0", whole.with("qwen2.vocab_size", 4, &[0; 4])),
        ("`qwen2.vocab_size` is a float", whole.with("qwen2.vocab_size", 6, &[0; 4])),
        (
            "`qwen2.attention.key_length` is -12",
            whole.with("qwen2.attention.key_length", 5, &(-12_i32).to_le_bytes()),
        ),
        ("epsilon` is 0, expected a number above 0", whole.epsilon(6, 0.0)?),
        ("epsilon` is -1, expected a number above 0", whole.epsilon(6, -1.0)?),
        ("epsilon` is NaN", whole.epsilon(6, f32::NAN)?),
        ("epsilon` is an integer, expected a float", whole.epsilon(4, 0.0)?),
        (
            "`qwen2.rope.freq_base_swa` is inf",
            whole.with("qwen2.rope.freq_base_swa", 6, &f32::INFINITY.to_le_bytes()),
        ),
        (
            "`qwen2.rope.scaling.factor` is -2",
            whole.with("qwen2.rope.scaling.factor", 6, &(-2_f32).to_le_bytes()),
        ),
        ("of the token 5 is 99, expected 0 to 6", whole.token_kind(5, 99)?),
        (
            "`tokenizer.chat_template.tool_use` is not a usable chat template: line 2",
            whole.with("tokenizer.chat_template.tool_use", 8, &File(Vec::new()).text("a\n{% if %}").0),
        ),
        (
            "`tokenizer.chat_template` is not a usable chat template: line 1",
            whole.swap(b"{%- for m in", b"{%- fur m in")?,
        ),
    ])
}

/// Returns the file `whole` with one more metadata entry, and with another one that fills up a multiple of the alignment.
fn with_entry(whole: &[u8], entry: &[u8]) -> Vec<u8> {
    let note = |length: usize| File(Vec::new()).put_text("general.description", &"x".repeat(length)).0;
    let missing = (entry.len() + note(0).len()).next_multiple_of(32) - entry.len() - note(0).len();
    let mut bytes = [&whole[..24], entry, &note(missing), &whole[24..]].concat();
    let entries = u64::from_le_bytes(whole[16..24].try_into().expect("eight bytes")) + 2;
    bytes[16..24].copy_from_slice(&entries.to_le_bytes());
    bytes
}

/// Starts a file with one list of `count` texts.
fn list_of_texts(count: u64) -> File {
    File::new(0, 1).text("tokenizer.ggml.tokens").u32(9).u32(8).u64(count)
}

/// Returns the starts of files that are as long as they claim, with a word that the message must contain and their lengths.
fn sparse() -> Vec<(&'static str, Vec<u8>, u64)> {
    let text = File::new(0, 1).text("tokenizer.chat_template").u32(8).u64(1 << 32).0;
    vec![
        ("MiB allowed", list_of_texts(1_000_000_000).0, 9_000_000_000),
        ("MiB allowed", text, 5_000_000_000),
        ("MiB allowed", list_of_texts(2).u64(1 << 32).0, 5_000_000_000),
        ("MiB allowed", File::new(0, 1).text("a").u32(9).u32(0).u64(1 << 32).0, 5_000_000_000),
    ]
}

/// Runs a program to its end; returns its outcome, its peak resident memory in bytes, and its duration.
fn watched(program: &mut testutil::Program) -> Result<(Ran, u64, Duration)> {
    let begun = Instant::now();
    let mut child = program.spawn();
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let mut peak = 0;
    while child.try_wait()?.is_none() {
        let text = fs_err::read_to_string(&status).unwrap_or_default();
        let kibibytes = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = kibibytes.and_then(|number| number.trim().parse().ok()).unwrap_or(0).max(peak);
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok((child.wait_with_output()?.into(), peak << 10, begun.elapsed()))
}

#[test]
fn hostile_files_are_refused_quickly_and_in_little_memory() -> Result<()> {
    let sandbox = Sandbox::new();
    let whole = |(word, bytes): (&'static str, Vec<u8>)| {
        let length = bytes.len() as u64;
        (word, bytes, length)
    };
    let files: Vec<_> =
        hostile()?.into_iter().chain(hostile_metadata()?).map(whole).chain(sparse()).collect();
    assert!(files.len() >= 40);
    for (word, bytes, length) in files {
        let path = sandbox.write("hostile.gguf", bytes);
        fs_err::OpenOptions::new().write(true).open(&path)?.set_len(length)?;
        let mut program = sandbox.program(built_programs().join("import-model"));
        let (ran, peak, elapsed) = watched(program.arg("--model-dir").arg(&path))?;
        let said = ran.failed(65);
        assert!(
            said.contains("hostile.gguf") && said.contains(word) && said.contains("hint: "),
            "{word}: {said}"
        );
        assert!(peak < 64 << 20, "{word}: {} MiB", peak >> 20);
        assert!(elapsed < Duration::from_secs(1), "{word}: {elapsed:?}");
        assert!(sandbox.trees().is_empty(), "{word}");
    }
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
