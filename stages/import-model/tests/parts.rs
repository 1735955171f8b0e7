//! The parts of a model against each other: what a later stage would refuse is refused on import, with a remedy.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

mod common;

use std::path::Path;

use failure::{Failure as _, Kind};
use import_model::{Config, Error, Quantize, Unwatched, hub};
use serde_json::{Value, json};
use tempfile::TempDir;
use testutil::files::{contents, copy_files, golden_dir, workspace_root};

use common::{ONE, TWO, read, shard, write};

/// Copies a golden model.
fn copy_of(case: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_files(&golden_dir().join(case), folder.path());
    folder
}

/// Changes a JSON file of a folder.
fn edit(folder: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = folder.join(file);
    let mut json: Value = serde_json::from_str(&fs_err::read_to_string(&path).unwrap()).unwrap();
    change(&mut json);
    fs_err::write(path, json.to_string()).unwrap();
}

/// Sets keys of a JSON file of a folder.
fn set(folder: &Path, file: &str, values: &Value) {
    edit(folder, file, |json| {
        for (name, value) in values.as_object().unwrap() {
            json[name] = value.clone();
        }
    });
}

fn import_with(folder: &Path, quantize: Option<Quantize>) -> Result<TempDir, Error> {
    let config = Config { model_dir: folder.display().to_string(), quantize, ..Config::default() };
    let out = tempfile::tempdir().unwrap();
    let settings = hub::Settings::from(|_| None)?;
    mlx_ext::init(&mlx_ext::Options::default()).unwrap();
    import_model::run(&config, &settings, &Unwatched, out.path(), out.path()).map(|_| out)
}

fn import(folder: &Path) -> Result<TempDir, Error> {
    import_with(folder, None)
}

/// Imports a model that must be refused with a hint, and returns the report.
#[track_caller]
fn refusal(folder: &Path) -> String {
    let error = import(folder).map(drop).expect_err("this model must be refused");
    assert_eq!(error.kind(), Kind::BadInput, "{error}");
    let report = testutil::filtered(&failure::Error::from(error).report());
    assert!(report.contains("\nhint: "), "{report}");
    report
}

/// Returns the written `config.json`.
fn written_config(out: &TempDir) -> Value {
    serde_json::from_str(&fs_err::read_to_string(out.path().join("model/config.json")).unwrap()).unwrap()
}

#[test]
fn keys_that_are_followed_or_without_effect_are_imported() {
    let cases = [
        ("llama", json!({"head_dim": null, "rope_scaling": null, "sliding_window": null, "mlp_bias": false})),
        (
            "llama",
            json!({"hidden_act": "gelu", "temperature": 0.6, "unsloth_version": "2025.1", "auto_map": {}}),
        ),
        (
            "llama",
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "is_decoder": true, "is_causal": true}),
        ),
        ("llama", json!({"partial_rotary_factor": 1.0, "use_bidirectional_attention": false})),
        ("llama", json!({"architectures": ["LlamaForCausalLM"], "is_encoder_decoder": false})),
        ("mistral", json!({"sliding_window": 4096, "attention_dropout": 0.1})),
        (
            "phi3",
            json!({"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": false, "embd_pdrop": 0.0}),
        ),
        ("qwen2", json!({"use_mrope": false, "use_sliding_window": false, "max_window_layers": 2})),
        (
            "gemma2",
            json!({"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh", "cache_implementation": "hybrid"}),
        ),
        ("gemma3_text", json!({"final_logit_softcapping": 3.0, "_sliding_window_pattern": 6})),
        ("gemma3", json!({"mm_tokens_per_image": 256, "boi_token_index": 5})),
        ("cohere", json!({"use_parallel_block": true, "position_embedding_type": "rope_gptj"})),
    ];
    for (case, values) in cases {
        let folder = copy_of(case);
        set(folder.path(), "config.json", &values);
        import(folder.path()).unwrap_or_else(|error| panic!("{case} {values}: {error}"));
    }
}

#[test]
fn keys_that_would_change_the_model_are_refused_by_name() {
    let cases = [
        ("llama", json!({"hidden_act": "mish"}), "`hidden_act` is `mish`"),
        ("llama", json!({"hidden_act": 3}), "invalid type"),
        ("llama", json!({"residual_multiplier": 0.5}), "`residual_multiplier` is `0.5`"),
        ("llama", json!({"is_causal": false}), "`is_causal` is `false`; only true"),
        ("llama", json!({"partial_rotary_factor": 0.5}), "`partial_rotary_factor` is `0.5`; only 1.0"),
        ("llama", json!({"use_bidirectional_attention": true}), "`use_bidirectional_attention` is `true`"),
        ("llama", json!({"final_logit_softcapping": 30.0}), "`final_logit_softcapping`"),
        ("llama", json!({"architectures": ["LlamaForSequenceClassification"]}), "which is no language model"),
        ("llama", json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "rope scaling `dynamic`"),
        ("llama", json!({"rope_scaling": {"rope_type": "linear"}}), "rope scaling `linear` lacks `factor`"),
        ("llama", json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}), "lacks `low_freq_factor`"),
        (
            "llama",
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "ramp": 3}}),
            "`rope_scaling.ramp`",
        ),
        ("llama", json!({"rope_scaling": "yarn"}), "`rope_scaling` is `\"yarn\"`, expected a table"),
        (
            "llama",
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 7.0}}),
            "`rope_parameters`",
        ),
        ("llama", json!({"rope_parameters": {"full_attention": {"rope_theta": 7.0}}}), "`rope_parameters`"),
        (
            "llama",
            json!({"rope_scaling": {"rope_type": "longrope", "long_factor": [1.0]}}),
            "lacks `short_factor`",
        ),
        ("phi3", json!({"lm_head_bias": true}), "`lm_head_bias` is `true`"),
        ("qwen2", json!({"use_mrope": true}), "`use_mrope` is `true`"),
        ("gemma2", json!({"query_pre_attn_scalar": null}), "query_pre_attn_scalar"),
        (
            "gemma3_text",
            json!({"use_bidirectional_attention": true}),
            "`use_bidirectional_attention` is `true`",
        ),
        (
            "gemma3_text",
            json!({"attn_logit_softcapping": 3.0}),
            "`attn_logit_softcapping` is `3.0`; only null",
        ),
        ("phi3", json!({"partial_rotary_factor": 0.75}), "9 dimensions of each head are rotated"),
        ("gemma3", json!({"vision_language_fusion": "deep"}), "`vision_language_fusion`"),
        ("cohere", json!({"layer_norm_bias": true}), "`layer_norm_bias` is `true`"),
        ("cohere", json!({"rope_theta": null}), "`rope_theta` is missing"),
    ];
    for (case, values, says) in cases {
        let folder = copy_of(case);
        set(folder.path(), "config.json", &values);
        assert!(import(folder.path()).is_err(), "{case} with {values} must be refused");
        let report = refusal(folder.path());
        assert!(report.contains(says) && report.contains("config.json"), "{case} {values}: {report}");
    }
}

#[test]
fn sizes_that_do_not_fit_the_tensors_are_refused() {
    let cases = [
        (json!({"num_hidden_layers": 5}), "missing tensor `model.layers.4."),
        (json!({"num_hidden_layers": 2}), "unknown tensor `model.layers.2."),
        (json!({"num_key_value_heads": 4}), "self_attn.k_proj.weight` has shape"),
        (json!({"intermediate_size": 96}), "mlp.up_proj.weight` has shape"),
        (json!({"vocab_size": 512}), "embed_tokens.weight` has shape"),
        (json!({"head_dim": 6}), "self_attn.q_proj.weight` has shape"),
        (json!({"attention_bias": true}), "missing tensor `model.layers.0.self_attn.q_proj.bias`"),
        (json!({"tie_word_embeddings": true}), "with other numbers than the embedding"),
        (
            json!({"model_type": "qwen3", "head_dim": 12}),
            "missing tensor `model.layers.0.self_attn.q_norm.weight`",
        ),
    ];
    for (values, says) in cases {
        let folder = copy_of("llama");
        set(folder.path(), "config.json", &values);
        let report = refusal(folder.path());
        assert!(report.contains(says), "{values}: {report}");
    }
}

#[test]
fn foreign_prefixes_are_refused_and_named() {
    for prefix in ["_orig_mod.", "module.", "language_model.", "base_model.model."] {
        let folder = copy_of("llama");
        let path = folder.path().join("model.safetensors");
        let mut tensors = read(&path);
        for (layout, _) in &mut tensors {
            layout.name = format!("{prefix}{}", layout.name);
        }
        write(&path, &tensors);
        let report = refusal(folder.path());
        assert!(report.contains(&format!("unknown tensor `{prefix}")), "{report}");
    }
}

#[test]
fn a_stale_index_is_replaced_if_the_shards_are_complete() {
    let folder = copy_of("llama");
    shard(folder.path());
    let stale = |total: usize| json!({"weight_map": {"a": format!("model-00001-of-{total:05}.safetensors")}});
    edit(folder.path(), "model.safetensors.index.json", |index| *index = stale(5));
    let out = import(folder.path()).unwrap();
    let index = fs_err::read_to_string(out.path().join("model/model.safetensors.index.json")).unwrap();
    assert!(index.contains(ONE) && index.contains(TWO), "{index}");
    // Shards without any index get one too; an index is not left out when a shard is missing.
    fs_err::remove_file(folder.path().join("model.safetensors.index.json")).unwrap();
    let again = import(folder.path()).unwrap();
    assert!(again.path().join("model/model.safetensors.index.json").is_file());
    fs_err::write(folder.path().join("model.safetensors.index.json"), stale(5).to_string()).unwrap();
    fs_err::remove_file(folder.path().join(TWO)).unwrap();
    assert!(refusal(folder.path()).contains("are missing"));
}

#[test]
fn quantization_settings_of_plain_weights_are_left_out() {
    for table in [
        json!({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}}),
        json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}),
        json!({"quantization": {"bits": 4, "group_size": 64, "mode": "affine"}}),
    ] {
        let folder = copy_of("llama");
        set(folder.path(), "config.json", &table);
        let config = written_config(&import(folder.path()).unwrap());
        assert!(config.as_object().unwrap().keys().all(|name| !name.contains("quantization")), "{config}");
        assert_eq!(config["model_type"], "llama");
    }
}

#[test]
fn tokens_that_the_tokenizer_lacks_are_refused() {
    let token = |text: &str| json!({"content": text, "special": true});
    let cases = [
        (
            "tokenizer_config.json",
            json!({"added_tokens_decoder": {"384": token("<|im_end|>")}}),
            "`<|im_end|>` (number 384)",
        ),
        ("added_tokens.json", json!({"<|tool|>": 200}), "`<|tool|>` (number 200)"),
        ("added_tokens.json", json!({"<eos>": 77}), "the token `<eos>` has the number 77"),
        (
            "tokenizer_config.json",
            json!({"additional_special_tokens": ["<|end|>", "<tool>"]}),
            "names the special token `<tool>`",
        ),
        (
            "special_tokens_map.json",
            json!({"additional_special_tokens": [{"content": "<tool>", "lstrip": false}]}),
            "names the special token `<tool>`",
        ),
        (
            "tokenizer_config.json",
            json!({"extra_special_tokens": {"call_token": "<call>"}}),
            "names the special token `<call>`",
        ),
    ];
    for (file, values, says) in cases {
        let folder = copy_of("llama");
        if !folder.path().join(file).exists() {
            fs_err::write(folder.path().join(file), "{}").unwrap();
        }
        set(folder.path(), file, &values);
        let report = refusal(folder.path());
        assert!(report.contains(says) && report.contains("AutoTokenizer"), "{report}");
    }
}

#[test]
fn tokens_without_an_embedding_are_refused_unless_no_text_contains_them() {
    let add = |text: &str| {
        let folder = copy_of("llama");
        edit(folder.path(), "tokenizer.json", |json| {
            let token = json!({"id": 384, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true});
            json["added_tokens"].as_array_mut().unwrap().push(token);
        });
        folder
    };
    let report = refusal(add("<|im_end|>").path());
    assert!(report.contains("`<|im_end|>` (384)") && report.contains("resize_token_embeddings"), "{report}");
    for text in ["<image_soft_token>", "[PAD]", "<|video|>"] {
        import(add(text).path()).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}

#[test]
fn a_pointer_of_git_lfs_is_named_in_every_file() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00ff\nsize 1234\n";
    for file in ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"] {
        let folder = copy_of("llama");
        fs_err::write(folder.path().join(file), pointer).unwrap();
        let report = refusal(folder.path());
        assert!(report.contains("Git LFS pointer") && report.contains("lfs pull"), "{file}: {report}");
    }
}

#[test]
fn an_adapter_is_named_with_its_base() {
    let folder = tempfile::tempdir().unwrap();
    fs_err::write(folder.path().join("adapter_model.safetensors"), "x").unwrap();
    let config = json!({"peft_type": "LORA", "base_model_name_or_path": "org/base"});
    fs_err::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    let report = refusal(folder.path());
    assert!(report.contains("this is an adapter of the base model `org/base`"), "{report}");
    assert!(report.contains("--adapters"), "{report}");
}

#[test]
fn a_quantization_that_changes_nothing_is_refused_and_its_hint_works() {
    let table = |group_size| Quantize { mode: "affine".into(), bits: 4, group_size };
    let refusal = |folder: &Path, group_size| {
        let error = import_with(folder, Some(table(group_size))).map(drop).unwrap_err();
        failure::Error::from(error).report()
    };
    let narrow = copy_of("llama");
    let report = refusal(narrow.path(), 64);
    assert!(report.contains("nothing can be quantized") && report.contains("without `quantize`"), "{report}");
    import(narrow.path()).unwrap();
    // Widths of 64 and 96: the hint names the sizes that fit, and they do.
    let packed = copy_of("llama-q4");
    let report = refusal(packed.path(), 32);
    assert!(report.contains("quantized already") && report.contains("`dequantize = true`"), "{report}");
    let config =
        Config { model_dir: packed.path().display().to_string(), dequantize: true, ..Config::default() };
    let plain = tempfile::tempdir().unwrap();
    let settings = hub::Settings::from(|_| None).unwrap();
    import_model::run(&config, &settings, &Unwatched, plain.path(), plain.path()).unwrap();
    let plain = plain.path().join("model");
    let report = refusal(&plain, 128);
    assert!(report.contains("set `quantize.group_size` to 64 or 32"), "{report}");
    for group_size in [64, 32] {
        import_with(&plain, Some(table(group_size))).unwrap();
    }
}

#[test]
fn the_hint_for_an_unknown_key_works() {
    let folder = copy_of("llama");
    set(folder.path(), "config.json", &json!({"residual_multiplier": 0.5}));
    assert!(refusal(folder.path()).contains("remove them from a copy of config.json"));
    edit(folder.path(), "config.json", |config| {
        drop(config.as_object_mut().unwrap().remove("residual_multiplier"));
    });
    import(folder.path()).unwrap();
}

#[test]
fn the_hint_for_a_head_of_its_own_works() {
    let folder = copy_of("llama");
    set(folder.path(), "config.json", &json!({"tie_word_embeddings": true}));
    assert!(refusal(folder.path()).contains("set `tie_word_embeddings` to false"));
    set(folder.path(), "config.json", &json!({"tie_word_embeddings": false}));
    import(folder.path()).unwrap();
}

#[test]
fn what_was_imported_is_the_same_bytes() {
    let folder = copy_of("llama");
    let out = import(folder.path()).unwrap();
    let (source, written) = (contents(folder.path()), contents(&out.path().join("model")));
    assert!(written.iter().all(|(name, hash)| source.get(name) == Some(hash)));
}

#[test]
fn an_encoder_with_the_tokenizer_of_another_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = workspace_root().join("crates/models/tests/encoders/bert");
    copy_files(&encoder, folder.path());
    copy_files(&encoder.join("1_Pooling"), &folder.path().join("1_Pooling"));
    import(folder.path()).unwrap();
    edit(folder.path(), "tokenizer.json", |json| json["model"]["vocab"]["kahakai"] = json!(48));
    let report = refusal(folder.path());
    assert!(report.contains("no embedding, as the model has 48: `kahakai` (48)"), "{report}");
}
