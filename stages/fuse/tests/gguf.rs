//! Models that are written as GGUF and those that are refused. `make interop-full` checks that llama.cpp reads the files.

use std::path::Path;

use ::gguf::{Header, Metadata};
use anyhow::{Context as _, Result};
use failure::Kind;
use fuse::gguf::{self, Gguf};
use serde_json::{Value, json};
use tempfile::TempDir;
use testutil::golden;

/// A copy of a golden model with another `file`.
fn changed(name: &str, file: &str, change: impl FnOnce(&mut Value)) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    for entry in fs_err::read_dir(golden(name))? {
        let entry = entry?;
        fs_err::copy(entry.path(), folder.path().join(entry.file_name()))?;
    }
    let path = folder.path().join(file);
    let mut json: Value = serde_json::from_str(&fs_err::read_to_string(&path)?)?;
    change(&mut json);
    fs_err::write(&path, json.to_string())?;
    Ok(folder)
}

fn refused(folder: &Path, word: &str) {
    let error =
        gguf::check(folder).err().unwrap_or_else(|| panic!("{word}: `{}` was accepted", folder.display()));
    let text = error.report();
    assert!(text.contains(word) && text.contains("cannot be written as GGUF"), "{word}: {text}");
    assert!(text.contains("hint: ") && error.kind() == Kind::BadInput, "{word}: {text}");
}

#[test]
fn supported_models_pass_even_if_they_are_quantized() -> Result<()> {
    for name in ["llama", "llama3-rope", "llama-q4", "mistral", "qwen2", "qwen3", "gemma3", "gemma3_text"] {
        gguf::check(&golden(name)).context(name)?;
    }
    Ok(())
}

#[test]
fn models_that_llama_cpp_would_misread_are_refused_with_a_hint() -> Result<()> {
    for name in ["phi3", "gemma2", "cohere"] {
        refused(&golden(name), name);
    }
    let tokenizer = |change: fn(&mut Value)| changed("llama", "tokenizer.json", change);
    refused(tokenizer(|it| it["model"]["type"] = json!("Unigram"))?.path(), "`Unigram`");
    refused(tokenizer(|it| it["normalizer"] = json!({"type": "Lowercase"}))?.path(), "`Lowercase`");
    let marks = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let both = json!({"type": "Sequence", "normalizers": [marks, {"type": "NFKC"}]});
    let folder = changed("gemma3_text", "tokenizer.json", |it| it["normalizer"] = both)?;
    refused(folder.path(), "`NFKC`");
    let split = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+"}, "behavior": "Isolated"},
        {"type": "ByteLevel", "use_regex": false},
    ]});
    let folder = changed("llama", "tokenizer.json", |it| it["pre_tokenizer"] = split)?;
    refused(folder.path(), "splits words");
    let factors = [1.0; 6];
    let longrope = json!({
        "type": "su", "short_factor": factors, "long_factor": factors, "original_max_position_embeddings": 256,
    });
    let folder = changed("llama", "config.json", |it| it["rope_scaling"] = longrope)?;
    refused(folder.path(), "`su`");
    let kinds = json!(["full_attention", "full_attention", "sliding_attention"]);
    let folder = changed("gemma3_text", "config.json", |it| it["layer_types"] = kinds)?;
    refused(folder.path(), "layer_types");
    Ok(())
}

#[test]
fn a_window_that_llama_cpp_does_not_support_limits_the_context() -> Result<()> {
    let context = |window: Value| -> Result<u32> {
        let folder = changed("mistral", "config.json", |it| it["sliding_window"] = window)?;
        let out = folder.path().join("model.gguf");
        gguf::export(folder.path(), Gguf::Q8_0, &out)?;
        let bytes = fs_err::read(&out)?;
        let key = b"llama.context_length";
        let at =
            bytes.windows(key.len()).position(|part| part == key).context("no such key")? + key.len() + 4;
        Ok(u32::from_le_bytes(bytes[at..at + 4].try_into()?))
    };
    assert_eq!((context(json!(48))?, context(Value::Null)?), (48, 512));
    Ok(())
}

/// Returns the header of the file that the model in `folder` becomes.
fn exported(folder: &Path) -> Result<Header> {
    let out = folder.join("model.gguf");
    gguf::export(folder, Gguf::F16, &out)?;
    Ok(Header::read(&out)?)
}

/// Returns a golden model with another `tokenizer.json`.
fn tokenizer(name: &str, change: impl FnOnce(&mut Value)) -> Result<TempDir> {
    changed(name, "tokenizer.json", change)
}

/// Returns a post-processor that adds special tokens, given by texts and ids.
fn adding(before: &[(&str, u32)], after: &[(&str, u32)]) -> Value {
    let piece = |(text, _): &(&str, u32)| json!({"SpecialToken": {"id": text, "type_id": 0}});
    let sequence = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
    let single: Vec<Value> =
        before.iter().map(piece).chain([sequence("A", 0)]).chain(after.iter().map(piece)).collect();
    let tokens = before.iter().chain(after);
    let tokens: serde_json::Map<String, Value> = tokens
        .map(|(text, id)| ((*text).to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})))
        .collect();
    let pair = [sequence("A", 0), sequence("B", 1)];
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
}

/// Pre-tokenizer of Llama 3.
fn llama3() -> Value {
    let expression = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let split = json!({
        "type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false,
    });
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    json!({"type": "Sequence", "pretokenizers": [split, bytes]})
}

#[test]
fn tokenizers_that_llama_cpp_would_not_follow_are_refused_by_name() -> Result<()> {
    let folder = tokenizer("llama", |it| it["pre_tokenizer"]["add_prefix_space"] = json!(true))?;
    refused(folder.path(), "`add_prefix_space` of `ByteLevel`");
    let folder = tokenizer("llama", |it| it["post_processor"] = adding(&[("<bos>", 2)], &[("<eos>", 1)]))?;
    refused(folder.path(), "adds `<eos>` after every text");
    let folder = tokenizer("llama", |it| it["post_processor"] = adding(&[("<|start|>", 3)], &[]))?;
    refused(folder.path(), "adds `<|start|>` before every text");
    let folder = tokenizer("llama", |it| it["model"]["ignore_merges"] = json!(true))?;
    refused(folder.path(), "`ignore_merges`");
    for flag in ["lstrip", "rstrip", "single_word"] {
        let folder = tokenizer("llama", |it| it["added_tokens"][4][flag] = json!(true))?;
        refused(folder.path(), &format!("(`{flag}`)"));
        refused(folder.path(), "`<|end|>`");
    }
    let digits = json!({"type": "Digits", "individual_digits": true});
    let folder = tokenizer("gemma3_text", |it| it["pre_tokenizer"] = digits)?;
    refused(folder.path(), "`Digits`");
    let folder = tokenizer("llama", |it| it["model"]["end_of_word_suffix"] = json!("</w>"))?;
    refused(folder.path(), "`end_of_word_suffix`");
    Ok(())
}

#[test]
fn a_piece_that_no_merge_makes_is_refused_if_llama_cpp_would_make_it() -> Result<()> {
    let without = |it: &mut Value| {
        let merges = it["model"]["merges"].as_array_mut().expect("a list");
        let piece = |merge: &Value| match merge {
            Value::Array(pair) => pair.iter().filter_map(Value::as_str).collect::<String>(),
            text => text.as_str().unwrap_or_default().replacen(' ', "", 1),
        };
        let count = merges.len();
        merges.retain(|merge| piece(merge) != "la");
        assert!(merges.len() < count);
    };
    refused(tokenizer("gemma3_text", without)?.path(), r#"the token "la", which no merge makes,"#);
    // The file has a score for each token, so that no two merges are equal.
    let folder = tokenizer("gemma3_text", |_| ())?;
    let header = exported(folder.path())?;
    let scores = Metadata::new(header.metadata()).floats("tokenizer.ggml.scores")?.context("no scores")?;
    let mut bits: Vec<u32> = scores.iter().map(|score| score.to_bits()).collect();
    bits.sort_unstable();
    bits.dedup();
    assert_eq!(bits.len(), scores.len());
    Ok(())
}

#[test]
fn the_begin_token_is_added_if_tokenizer_json_adds_it() -> Result<()> {
    let adds = |folder: &TempDir| -> Result<Vec<Option<bool>>> {
        let header = exported(folder.path())?;
        let metadata = Metadata::new(header.metadata());
        let keys = ["tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"];
        keys.iter().map(|key| Ok(metadata.bool(key)?)).collect()
    };
    let claimed = |it: &mut Value| {
        it["add_bos_token"] = json!(true);
        it["add_eos_token"] = json!(true);
    };
    let neither = [Some(false), Some(false)];
    assert_eq!(adds(&changed("llama", "tokenizer_config.json", claimed)?)?, neither);
    let added = tokenizer("llama", |it| it["post_processor"] = adding(&[("<bos>", 2)], &[]))?;
    assert_eq!(adds(&added)?, [Some(true), Some(false)]);
    let denied = json!({"bos_token": "<bos>", "eos_token": "<eos>", "add_bos_token": false});
    fs_err::write(added.path().join("tokenizer_config.json"), denied.to_string())?;
    assert_eq!(adds(&added)?, [Some(true), Some(false)]);
    Ok(())
}

#[test]
fn words_that_are_tokens_stay_whole_if_the_tokenizer_ignores_their_merges() -> Result<()> {
    for (ignores, expected) in
        [(json!(true), "llama-bpe"), (json!(false), "smaug-bpe"), (Value::Null, "smaug-bpe")]
    {
        let folder = tokenizer("llama", |it| {
            it["pre_tokenizer"] = llama3();
            it["model"]["ignore_merges"] = ignores;
        })?;
        let header = exported(folder.path())?;
        assert_eq!(Metadata::new(header.metadata()).text("tokenizer.ggml.pre")?, Some(expected));
    }
    Ok(())
}

#[test]
fn chat_templates_of_a_list_and_of_files_are_written_by_their_names() -> Result<()> {
    let list = json!([{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]);
    let folder = changed("llama", "tokenizer_config.json", |it| it["chat_template"] = list)?;
    let templates = |folder: &Path| -> Result<Vec<(String, String)>> {
        let header = exported(folder)?;
        let metadata = Metadata::new(header.metadata());
        let keys = header.metadata().keys().filter(|key| key.starts_with("tokenizer.chat_template"));
        let texts = keys.filter(|key| *key != "tokenizer.chat_templates");
        let names = metadata.texts("tokenizer.chat_templates")?.unwrap_or_default();
        let named = texts.map(|key| {
            let text = metadata.text(key)?.context("no text")?;
            Ok((key.replacen("tokenizer.chat_template", "", 1), text.to_owned()))
        });
        let named: Vec<_> = named.collect::<Result<_>>()?;
        assert_eq!(names.len() + 1, named.len(), "{names:?}");
        Ok(named)
    };
    let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    assert_eq!(templates(folder.path())?, [pair("", "d"), pair(".tool_use", "t")]);
    fs_err::write(folder.path().join("chat_template.jinja"), "j")?;
    fs_err::create_dir(folder.path().join("additional_chat_templates"))?;
    fs_err::write(folder.path().join("additional_chat_templates/rag.jinja"), "r")?;
    assert_eq!(templates(folder.path())?, [pair("", "j"), pair(".rag", "r")]);
    Ok(())
}

#[test]
fn every_end_token_is_written_or_the_model_is_refused() -> Result<()> {
    let ended = |ids: Value| changed("llama", "config.json", |it| it["eos_token_id"] = ids);
    let folder = ended(json!([1, 4, 3]))?;
    let header = exported(folder.path())?;
    let metadata = Metadata::new(header.metadata());
    for (key, id) in [("eos", 1), ("eot", 4), ("eom", 3)] {
        assert_eq!(metadata.integer(&format!("tokenizer.ggml.{key}_token_id"))?, Some(id), "{key}");
    }
    refused(ended(json!([1, 3, 10, 11, 4]))?.path(), "answers also end with");
    // The turn that ends with a token of `chat.json`, as in a model that was fused here.
    let folder = ended(json!(1))?;
    fs_err::write(folder.path().join("chat.json"), json!({"end_tokens": [3]}).to_string())?;
    let header = exported(folder.path())?;
    assert_eq!(Metadata::new(header.metadata()).integer("tokenizer.ggml.eot_token_id")?, Some(3));
    Ok(())
}
