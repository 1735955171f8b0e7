//! Keys of `config.json`: an allow-list for each architecture.
//!
//! A key either is read by the architecture, or is known to change nothing, or has only one value that this program can
//! follow. Any other key is refused by name, because a model computed without it may be another model.

use serde_json::{Map, Value};

use crate::sizes;

/// Keys that describe files, tokens, other programs or training, and do not change what a model computes.
const WITHOUT_EFFECT: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_flash_attn_2_enabled",
    "_name_or_path",
    "attention_dropout",
    "attn_implementation",
    "attn_pdrop",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "custom_pipelines",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "label2id",
    "length_penalty",
    "max_length",
    "max_position_embeddings",
    "max_sequence_length",
    "min_length",
    "model_max_length",
    "model_name",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "original_max_position_embeddings",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "quantization",
    "quantization_config",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "router_aux_loss_coef",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "tokenizer_model_max_length",
    "tokenizer_padding_side",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_flash_attention_2",
];

/// Keys that every architecture reads.
const SHARED: &[&str] = &[
    "architectures",
    // Only the tensors decide whether there are biases where the architecture does not say so itself.
    "attention_bias",
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "mlp_bias",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
];

/// Keys of the table around a multimodal model's `text_config`.
const AROUND_TEXT: &[&str] = &[
    "audio_config",
    "boa_token_index",
    "boi_token_index",
    "eoa_token_index",
    "eoi_token_index",
    "image_token_id",
    "image_token_index",
    "mm_tokens_per_image",
    "text_config",
    "vision_config",
];

/// Keys of `rope_scaling` and of each table in `rope_parameters`.
const ROPE: &[&str] = &[
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "finetuned",
    "high_freq_factor",
    "long_factor",
    "low_freq_factor",
    "max_position_embeddings",
    "mrope_interleaved",
    "mrope_section",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "short_factor",
    "truncate",
    "type",
];

/// Supported values of `rope_type`; mrope differs from the default only for image tokens.
pub(crate) const KINDS: [&str; 7] = ["default", "linear", "llama3", "longrope", "mrope", "su", "yarn"];

/// The keys that one architecture reads, apart from those that all read.
pub(crate) struct Keys {
    /// Followed, whatever their value.
    pub(crate) followed: &'static [&'static str],
    /// Read by other programs; only the value that changes nothing is supported.
    pub(crate) off: &'static [Off],
}

/// A key that must be off.
pub(crate) struct Off {
    /// The key.
    name: &'static str,
    /// The value that changes nothing, in JSON; null and absence are fine too.
    value: &'static str,
}

impl Off {
    pub(crate) const fn no(name: &'static str) -> Self {
        Self { name, value: "false" }
    }

    pub(crate) const fn only(name: &'static str, value: &'static str) -> Self {
        Self { name, value }
    }

    fn allows(&self, found: &Value) -> bool {
        let expected: Value = serde_json::from_str(self.value).unwrap_or_default();
        match (found.as_f64(), expected.as_f64()) {
            (Some(found), Some(expected)) => (found - expected).abs() < f64::EPSILON,
            _ => *found == expected,
        }
    }
}

/// Keys that must be off in every architecture.
const OFF: &[Off] = &[
    Off::no("add_cross_attention"),
    Off::no("cross_attention_hidden_size"),
    Off::no("is_encoder_decoder"),
    Off::only("is_causal", "true"),
    Off::no("tie_encoder_decoder"),
    Off::only("partial_rotary_factor", "1.0"),
    Off::only("pruned_heads", "{}"),
    Off::no("rope_traditional"),
    Off::no("use_bidirectional_attention"),
    Off::no("use_mrope"),
    Off::no("use_qk_norm"),
];

impl Keys {
    /// Returns the problems of the table that describes a text model, which has no nulls and the names of transformers 4.
    pub(crate) fn problems(&self, table: &Map<String, Value>) -> Vec<String> {
        let mut problems = self.unknown(table);
        problems.extend(rope_problems(table));
        problems.extend(sizes::problems(table));
        problems.extend(class_problem(table));
        problems
    }

    /// Returns the problems of the `config.json` of an encoder.
    pub(crate) fn encoder_problems(&self, table: &Map<String, Value>) -> Vec<String> {
        let mut problems = self.unknown(table);
        problems.extend(sizes::problems(table));
        let reads_ahead = table.get("is_decoder").and_then(Value::as_bool) != Some(true);
        problems.extend(
            (!reads_ahead).then(|| "`is_decoder` is `true`; an encoder reads in both directions".to_owned()),
        );
        problems
    }

    /// Returns the keys that are neither followed nor without effect.
    fn unknown(&self, table: &Map<String, Value>) -> Vec<String> {
        let known =
            |name: &str| [WITHOUT_EFFECT, SHARED, self.followed].iter().any(|names| names.contains(&name));
        let mut problems = Vec::new();
        for (name, value) in table {
            if known(name) || name == "is_decoder" || name == "text_config" {
                continue;
            }
            match self.off.iter().chain(OFF).find(|off| off.name == name) {
                Some(off) if off.allows(value) => {}
                Some(off) => {
                    problems.push(format!("`{name}` is {}; only {} is supported", shown(value), off.value));
                }
                None => problems.push(format!("`{name}` is {}, which is not known here", shown(value))),
            }
        }
        problems
    }
}

/// Returns the problems of the table around a multimodal model's `text_config`.
pub(crate) fn outer_problems(table: &Map<String, Value>) -> Vec<String> {
    let known = |name: &str| [WITHOUT_EFFECT, SHARED, AROUND_TEXT].iter().any(|names| names.contains(&name));
    let off = |name: &str, value: &Value| OFF.iter().any(|off| off.name == name && off.allows(value));
    let unknown = table.iter().filter(|(name, value)| {
        !value.is_null() && !known(name) && *name != "is_decoder" && !off(name, value)
    });
    let mut problems: Vec<String> = unknown
        .map(|(name, value)| format!("`{name}` is {}, which is not known here", shown(value)))
        .collect();
    problems.extend(class_problem(table));
    problems
}

/// Returns the problems of `rope_scaling` and of the tables in `rope_parameters`.
fn rope_problems(table: &Map<String, Value>) -> Vec<String> {
    let mut tables: Vec<(String, &Value)> = Vec::new();
    tables.extend(table.get("rope_scaling").map(|rope| ("rope_scaling".to_owned(), rope)));
    if let Some(Value::Object(kinds)) = table.get("rope_parameters") {
        tables.extend(kinds.iter().map(|(kind, rope)| (format!("rope_parameters.{kind}"), rope)));
    }
    let mut problems = Vec::new();
    for (place, rope) in tables {
        let Value::Object(rope) = rope else {
            problems.push(format!("`{place}` is {}, expected a table", shown(rope)));
            continue;
        };
        let kind = rope.get("rope_type").or(rope.get("type")).and_then(Value::as_str).unwrap_or("default");
        if !KINDS.contains(&kind) {
            let known = KINDS.join(", ");
            problems.push(format!("rope scaling `{kind}` is not supported (supported: {known})"));
        }
        for (name, value) in rope.iter().filter(|(name, _)| !ROPE.contains(&name.as_str())) {
            problems.push(format!("`{place}.{name}` is {}, which is not known here", shown(value)));
        }
    }
    problems
}

/// Returns the problem of `architectures` if it names something else than a language model.
fn class_problem(table: &Map<String, Value>) -> Option<String> {
    const HEADS: [&str; 3] = ["ForCausalLM", "ForConditionalGeneration", "LMHeadModel"];
    let classes = table.get("architectures")?.as_array()?;
    let names: Vec<&str> = classes.iter().filter_map(Value::as_str).collect();
    let is_language_model = |name: &&str| HEADS.iter().any(|head| name.ends_with(head));
    (!names.is_empty() && !names.iter().any(is_language_model))
        .then(|| format!("`architectures` is `{}`, which is no language model", names.join("`, `")))
}

/// Returns a value as JSON, shortened.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        return format!("`{text}`");
    }
    format!("`{}…`", text.chars().take(60).collect::<String>())
}
