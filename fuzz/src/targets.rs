//! The parsers, with inputs to begin from and tokens of their formats.
//!
//! A target accepts or refuses its input; it fails only when something of its own goes wrong, such as writing a file.

#![expect(clippy::unnecessary_wraps, reason = "the functions of all targets have the same type")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use artifact::{Artifact, Draft, FileHash, KeyMaterial, Level, write_folder};
use dataset::{RowReader, TextTokenizer};
use failure::{Context as _, Result, ensure};
use jinja::{Template, Value, Watch};
use serde_json::json;
use tensors::TensorHeader;

/// A parser of foreign bytes.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Feeds an input to the parser, with a folder for files.
    pub(crate) run: fn(&Path, &[u8]) -> Result<()>,
    /// Makes inputs to begin from.
    pub(crate) first: fn() -> Result<Vec<Vec<u8>>>,
    /// Pieces of the format.
    pub(crate) tokens: &'static [&'static str],
}

const JSON: &[&str] = &[
    "{", "}", "[", "]", "\"", ":", ",", "null", "true", "\\u0000", "\\ud800", "1e400", "{\"a\":", "\u{FEFF}",
];

pub(crate) const TARGETS: &[Target] = &[
    Target { name: "manifest", run: manifest, first: manifests, tokens: JSON },
    Target {
        name: "sums",
        run: sums,
        first: all_sums,
        tokens: &["  ", "\n", "../", "/", "manifest.json", "\0", "e3b0c44298fc1c14"],
    },
    Target { name: "jsonl", run: rows, first: json_lines, tokens: JSON },
    Target {
        name: "csv",
        run: rows,
        first: tables,
        tokens: &[",", ";", "\t", "|", "\"", "\"\"", "\r\n", "\n", "prompt", "\u{FEFF}", "sep=;\n"],
    },
    Target {
        name: "template",
        run: template,
        first: templates,
        tokens: &[
            "{{",
            "}}",
            "{%",
            "%}",
            "{#",
            "#}",
            "-%}",
            "{%-",
            "{% for m in messages %}",
            "{% endfor %}",
            "{% if x %}",
            "{% endif %}",
            "{% set ns.x = ns.x + ns.x %}",
            "{% set x %}",
            "{% endset %}",
            "{% macro f(a) %}",
            "{% endmacro %}",
            "{{ f(1) }}",
            "messages",
            "loop.index",
            "namespace(x=1)",
            "range(99999)",
            " * 99999",
            " ** 99",
            "| join",
            "| tojson",
            "| list",
            "| sort",
            "| map('f')",
            "| replace('', 'x')",
            "| indent(99999)",
            ".split('')",
            "'%s' % ",
            "'{}'.format(",
            "[",
            "]",
            "(",
            ")",
            "not ",
            " is ",
            "{% generation %}",
            "{% raw %}",
            "{% endraw %}",
            "~",
            "+",
            "[::-1]",
            "recursive",
            "{% call f() %}",
            "{% endcall %}",
            "{% filter upper %}",
        ],
    },
    Target {
        name: "safetensors",
        run: safetensors,
        first: tensor_files,
        tokens: &[
            "\"dtype\":\"F32\"",
            "\"shape\":[",
            "\"data_offsets\":[0,8]",
            "__metadata__",
            "{",
            "}",
            ",",
            "[",
            "]",
        ],
    },
    Target {
        name: "gguf",
        run: gguf,
        first: gguf_files,
        tokens: &["GGUF", "general.alignment", "general.architecture", "llama"],
    },
    Target {
        name: "tokenizer",
        run: tokenizer,
        first: tokenizers,
        tokens: &[
            "\"normalizer\":",
            "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"x\"}",
            "{\"type\":\"Prepend\",\"prepend\":\"\"}",
            "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA\"}",
            "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a+)+$\"},\"behavior\":\"Isolated\",\"invert\":false}",
            "{\"type\":\"Metaspace\"}",
            "{\"type\":\"ByteLevel\"}",
            "\"dropout\":0.5",
            "\"type\":\"Unigram\"",
            "\"type\":\"WordPiece\"",
            "\"merges\":[",
            "null",
            "[",
            "]",
            "{",
            "}",
        ],
    },
    Target {
        name: "config",
        run: config,
        first: configs,
        tokens: &[
            "\"num_attention_heads\":",
            "\"num_hidden_layers\":",
            "\"rope_scaling\":{",
            "\"rope_theta\":0",
            "\"head_dim\":",
            "\"quantization\":{",
            "null",
            "-1",
            "0",
            "{",
            "}",
            ",",
        ],
    },
];

/// Returns the files of a small artifact by name.
fn sample() -> Result<&'static BTreeMap<String, Vec<u8>>> {
    static FILES: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    if let Some(files) = FILES.get() {
        return Ok(files);
    }
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("artifact");
    let draft = Draft::new("plain", KeyMaterial::new("demo", 1, json!({"rank": 8, "names": ["a", "b"]})));
    write_folder(&out, &draft, |data| {
        fs_err::create_dir(data.join("rows"))?;
        fs_err::write(data.join("rows/train.jsonl"), "{}\n")?;
        fs_err::write(data.join("stats.json"), "{\"rows\":1}\n")?;
        Ok(())
    })?;
    let mut files = BTreeMap::new();
    for name in ["manifest.json", "SHA256SUMS", "provenance.json"] {
        files.insert(name.to_owned(), fs_err::read(out.join(name))?);
    }
    Ok(FILES.get_or_init(|| files))
}

fn manifests() -> Result<Vec<Vec<u8>>> {
    Ok(vec![sample()?["manifest.json"].clone()])
}

fn all_sums() -> Result<Vec<Vec<u8>>> {
    Ok(vec![sample()?["SHA256SUMS"].clone()])
}

/// A manifest with other words in it may be one of another artifact, because its `COMMIT` fits.
fn manifest(folder: &Path, input: &[u8]) -> Result<()> {
    open_artifact(folder, "manifest.json", input).map(drop)
}

fn sums(folder: &Path, input: &[u8]) -> Result<()> {
    let opened = open_artifact(folder, "SHA256SUMS", input)?;
    ensure!(!opened || input == sample()?["SHA256SUMS"], "a changed `SHA256SUMS` was accepted");
    Ok(())
}

/// Opens the sample with one of its files replaced, and with a `COMMIT` that fits; returns whether it was accepted.
fn open_artifact(folder: &Path, replaced: &str, input: &[u8]) -> Result<bool> {
    let mut commit = String::new();
    for name in ["SHA256SUMS", "manifest.json", "provenance.json"] {
        let content = if name == replaced { input } else { &sample()?[name] };
        fs_err::write(folder.join(name), content)?;
        commit.extend([&FileHash::of(content).to_string(), "  ", name, "\n"]);
    }
    fs_err::write(folder.join("COMMIT"), commit)?;
    let data = folder.join("data/rows");
    fs_err::create_dir_all(&data)?;
    fs_err::write(data.join("train.jsonl"), "{}\n")?;
    fs_err::write(folder.join("data/stats.json"), "{\"rows\":1}\n")?;
    Ok(Artifact::open_with(folder, Level::Hash).is_ok())
}

fn json_lines() -> Result<Vec<Vec<u8>>> {
    let texts = [
        "{\"text\": \"aloha\"}\n{\"prompt\": \"a\", \"completion\": \"b\", \"weight\": 0.5}\n",
        "[{\"text\": \"a\"},\n {\"text\": \"b\", \"n\": [1, 2.5, null, {\"x\": \"\\u02bb\"}]}]\n",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", \"content\": \"e\"}]}\r\n",
        "{\n  \"text\": \"over lines\"\n}\n{\n  \"text\": \"x\"\n}\n",
    ];
    Ok(texts.map(|text| text.as_bytes().to_vec()).to_vec())
}

fn tables() -> Result<Vec<Vec<u8>>> {
    let texts = [
        "prompt,completion\na,b\n\"c, \"\"d\"\"\ne\",f\n",
        "prompt\tcompletion\r\na\tb\r\n",
        "sep=;\nprompt;completion\n1;2\n",
        "a|b|c\n\"x\"|y|z\n",
    ];
    Ok(texts.map(|text| text.as_bytes().to_vec()).to_vec())
}

fn rows(folder: &Path, input: &[u8]) -> Result<()> {
    let path = folder.join("rows");
    fs_err::write(&path, input)?;
    if let Ok(mut reader) = RowReader::open(&path) {
        while let Ok(Some(_)) = reader.next_row() {}
    }
    Ok(())
}

fn templates() -> Result<Vec<Vec<u8>>> {
    let texts = [
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m.content | trim }}{% endfor %}{% if add_generation_prompt %}x{% endif %}",
        "{%- set ns = namespace(x='a', i=0) -%}{%- for m in messages[::-1] -%}{% set ns.x = ns.x ~ m.role %}{%- endfor -%}{{ ns.x | upper }}",
        "{% macro f(a, b=2) %}{% for x in a recursive %}{{ x }}{{ loop(x.y) if x.y is defined }}{% endfor %}{% endmacro %}{{ f(messages) }}",
        "{{ messages | map(attribute='role') | join(', ') }}{{ messages | tojson(indent=2) }}{{ '%s-%5.2f' % ('a', 1.5) }}{{ '{:>8}'.format(1) }}",
        "{% generation %}{{ messages[0]['content'].split('a')[-1].strip() }}{% endgeneration %}{{ range(3) | list | sort | reverse | first }}",
        "{% call(x) f(1) %}{{ x }}{% endcall %}{% filter lower %}A{% endfilter %}{% with a = 1 %}{{ a ** 2 // 3 % 2 }}{% endwith %}{# c #}{% raw %}{{{% endraw %}",
    ];
    Ok(texts.map(|text| text.as_bytes().to_vec()).to_vec())
}

fn template(_folder: &Path, input: &[u8]) -> Result<()> {
    let messages = Value::from(&json!([
        {"role": "user", "content": "aloha kākou"},
        {"role": "assistant", "content": [{"type": "text", "text": "e komo mai"}], "y": [{"y": []}]},
    ]));
    let watch = Watch { items: messages.items().to_vec(), printed: messages.items().to_vec() };
    if let Ok(template) = Template::new(&String::from_utf8_lossy(input)) {
        let _ = template.render(vec![("messages".to_owned(), messages)], &watch, None);
    }
    Ok(())
}

fn tensor_files() -> Result<Vec<Vec<u8>>> {
    let header = |text: &str, data: usize| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    Ok(vec![
        header(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8),
        header(
            r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"U8","shape":[],"data_offsets":[12,13]}}"#,
            13,
        ),
    ])
}

fn safetensors(folder: &Path, input: &[u8]) -> Result<()> {
    let path = folder.join("model.safetensors");
    fs_err::write(&path, input)?;
    if TensorHeader::read(&path).is_ok() {
        let _ = tensors::find_not_finite(&path);
    }
    Ok(())
}

/// Makes a GGUF file of version 3 with a number, a text, a list and one tensor.
fn gguf_files() -> Result<Vec<Vec<u8>>> {
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.bytes());
    };
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(3_u64.to_le_bytes());
    text(&mut bytes, "general.architecture");
    bytes.extend(8_u32.to_le_bytes());
    text(&mut bytes, "llama");
    text(&mut bytes, "llama.block_count");
    bytes.extend(4_u32.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    text(&mut bytes, "tokenizer.ggml.tokens");
    bytes.extend(9_u32.to_le_bytes());
    bytes.extend(8_u32.to_le_bytes());
    bytes.extend(2_u64.to_le_bytes());
    text(&mut bytes, "a");
    text(&mut bytes, "b");
    text(&mut bytes, "token_embd.weight");
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(8_u64.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32) + 32, 0);
    Ok(vec![bytes])
}

fn gguf(folder: &Path, input: &[u8]) -> Result<()> {
    let path = folder.join("model.gguf");
    fs_err::write(&path, input)?;
    let _ = ::gguf::Header::read(&path);
    Ok(())
}

fn tokenizers() -> Result<Vec<Vec<u8>>> {
    let model = |normalizer: serde_json::Value, model: serde_json::Value| {
        json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": normalizer,
            "added_tokens": [{"id": 4, "content": "<eos>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s"}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
            "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {}},
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": model,
        })
        .to_string()
        .into_bytes()
    };
    let bpe = json!({"type": "BPE", "dropout": null, "unk_token": null, "vocab": {"a": 0, "l": 1, "al": 2, "o": 3}, "merges": [["a", "l"]]});
    let unigram = json!({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.5], ["▁a", -2.0]], "byte_fallback": false});
    let words = json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "a": 1}});
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    Ok(vec![
        model(serde_json::Value::Null, bpe),
        model(json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}, spaces]}), unigram),
        model(
            json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}),
            words,
        ),
    ])
}

fn tokenizer(folder: &Path, input: &[u8]) -> Result<()> {
    fs_err::write(folder.join("tokenizer.json"), input)?;
    fs_err::write(folder.join("tokenizer_config.json"), "{\"eos_token\":\"<eos>\"}")?;
    if let Ok(tokenizer) = TextTokenizer::open(folder) {
        for text in [
            "aloha kākou <eos>",
            "",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!",
            "\u{0}\u{10FFFF}é e\u{301} ﬁ ㎏",
        ] {
            if let Ok(tokens) = tokenizer.encode(text, true) {
                let _ = tokenizer.decode(&tokens, false);
            }
        }
    }
    Ok(())
}

fn configs() -> Result<Vec<Vec<u8>>> {
    let llama = json!({
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "vocab_size": 100, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    });
    let gemma = json!({"model_type": "gemma3", "text_config": {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 4, "head_dim": 16, "num_key_value_heads": 1, "vocab_size": 100, "sliding_window": 16, "query_pre_attn_scalar": 16}});
    let qwen = json!({"model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-6, "vocab_size": 100, "rope_theta": 1e6, "quantization": {"group_size": 64, "bits": 4}});
    Ok([llama, gemma, qwen].map(|config| config.to_string().into_bytes()).to_vec())
}

fn config(folder: &Path, input: &[u8]) -> Result<()> {
    let path = folder.join("config.json");
    fs_err::write(&path, input).context("writing the input")?;
    let _ = models::check_config(&path);
    let _ = models::context_length(&path);
    let _ = models::is_packed(folder);
    Ok(())
}
