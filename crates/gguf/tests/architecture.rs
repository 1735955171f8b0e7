//! The keys and tensors of a file become `config.json`. Settings that it cannot express are refused.

use std::convert::Infallible;
use std::io::Cursor;

use gguf::{Architecture, Error, Factors, Header};
use serde_json::{Map, Value, json};

/// A file under construction.
#[derive(Clone)]
struct File {
    name: &'static str,
    entries: Vec<Vec<u8>>,
    tensors: Vec<String>,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl File {
    /// Starts a small model of an architecture.
    fn new(name: &'static str) -> Self {
        let empty = Self { name, entries: Vec::new(), tensors: vec!["token_embd.weight".to_owned()] };
        let sizes = [
            ("block_count", 2),
            ("context_length", 512),
            ("embedding_length", 32),
            ("feed_forward_length", 64),
            ("attention.head_count", 4),
        ];
        let file = empty.raw("general.architecture", 8, &text(name));
        let file = sizes.into_iter().fold(file, |file, (key, size)| file.size(key, size));
        file.number("attention.layer_norm_rms_epsilon", 1e-5)
    }

    fn raw(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.entries.push([&text(key)[..], &kind.to_le_bytes(), value].concat());
        self
    }

    fn below(self, key: &str, kind: u32, value: &[u8]) -> Self {
        let key = format!("{}.{key}", self.name);
        self.raw(&key, kind, value)
    }

    fn size(self, key: &str, value: u32) -> Self {
        self.below(key, 4, &value.to_le_bytes())
    }

    fn number(self, key: &str, value: f32) -> Self {
        self.below(key, 6, &value.to_le_bytes())
    }

    fn word(self, key: &str, value: &str) -> Self {
        self.below(key, 8, &text(value))
    }

    fn tensor(mut self, name: impl Into<String>) -> Self {
        self.tensors.push(name.into());
        self
    }

    fn header(&self) -> Header {
        let counts = [self.tensors.len() as u64, self.entries.len() as u64];
        let mut bytes = [&b"GGUF"[..], &3_u32.to_le_bytes()].concat();
        bytes.extend(counts.iter().flat_map(|count| count.to_le_bytes()));
        bytes.extend(self.entries.concat());
        for (index, name) in self.tensors.iter().enumerate() {
            let extents = [1_u32.to_le_bytes().to_vec(), 1_u64.to_le_bytes().to_vec()].concat();
            let place = (32 * index as u64).to_le_bytes();
            bytes.extend([&text(name)[..], &extents, &0_u32.to_le_bytes(), &place].concat());
        }
        bytes.resize(bytes.len().next_multiple_of(32) + 32 * self.tensors.len(), 0);
        Header::from_reader(Cursor::new(&bytes), bytes.len() as u64).expect("the header is well-formed")
    }

    /// Returns the settings; `factors` has the values of tensors.
    fn config(&self, factors: &[(&str, &[f32])]) -> Result<Map<String, Value>, Error> {
        let find = |name: &str| factors.iter().find(|(known, _)| *known == name);
        let factors = Factors::new(|name| Ok::<_, Infallible>(find(name).map(|(_, values)| values.to_vec())));
        Architecture::new(&self.header())?.config(factors.unwrap_or_default())
    }

    fn said(&self, factors: &[(&str, &[f32])]) -> String {
        self.config(factors).expect_err("it is refused").to_string()
    }
}

/// Returns the divisors of a Llama 3 with the heads of the file.
fn llama3() -> [f32; 4] {
    [0, 1, 2, 3].map(|index| {
        let wave = std::f64::consts::TAU * 10_000_f64.powf(f64::from(index) / 4.0);
        gguf::llama3_divisor(wave, 8192.0, 8.0, [1.0, 4.0]) as f32
    })
}

const FREQUENCIES: &str = "rope_freqs.weight";
const LONG: &str = "rope_factors_long.weight";
const SHORT: &str = "rope_factors_short.weight";

#[test]
fn a_factor_without_a_kind_is_linear_and_with_the_kind_none_it_is_nothing() {
    let scaling = |file: File| file.config(&[]).expect("it is read").get("rope_scaling").cloned();
    let file = || File::new("qwen2").number("rope.scaling.factor", 4.0);
    let linear = Some(json!({ "rope_type": "linear", "factor": 4.0 }));
    assert_eq!(scaling(file()), linear);
    assert_eq!(scaling(file().word("rope.scaling.type", "linear")), linear);
    assert_eq!(scaling(file().word("rope.scaling.type", "none")), None);
    // The older key counts only without the newer one.
    let old = || File::new("qwen2").number("rope.scale_linear", 4.0);
    assert_eq!(scaling(old()), linear);
    assert_eq!(scaling(old().number("rope.scaling.factor", 0.0)), None);
    assert_eq!(scaling(File::new("qwen2").word("rope.scaling.type", "linear")), None);
}

#[test]
fn two_scalings_at_once_are_refused_by_name() {
    let divisors: &[f32] = &llama3();
    let factor = |kind: Option<&str>| {
        let file = File::new("llama").number("rope.scaling.factor", 4.0);
        let file = file.size("rope.scaling.original_context_length", 64);
        kind.into_iter().fold(file, |file, kind| file.word("rope.scaling.type", kind))
    };
    for kind in [None, Some("linear")] {
        let said = factor(kind).said(&[(FREQUENCIES, divisors)]);
        assert!(
            said.contains("`llama.rope.scaling.factor` 4 beside the tensor `rope_freqs.weight`"),
            "{said}"
        );
        let said = factor(kind).said(&[(LONG, divisors), (SHORT, divisors)]);
        assert!(
            said.contains("`llama.rope.scaling.factor` 4 beside the tensor `rope_factors_long"),
            "{said}"
        );
    }
    for both in [&[(FREQUENCIES, divisors)][..], &[(LONG, divisors), (SHORT, divisors)]] {
        let said = factor(Some("yarn")).said(both);
        assert!(said.contains("`llama.rope.scaling.type` `yarn` beside the tensor `rope_f"), "{said}");
        // The factor does not count.
        let config = factor(Some("none")).config(both).expect("it is read");
        assert_eq!(config["rope_scaling"].get("long_factor").is_some(), both.len() == 2);
    }
    let said = File::new("llama").said(&[(FREQUENCIES, divisors), (LONG, divisors), (SHORT, divisors)]);
    assert!(said.contains("`rope_freqs.weight` and `rope_factors_long.weight` exclude"), "{said}");
}

#[test]
fn one_of_two_tensors_of_factors_is_refused() {
    let divisors: &[f32] = &[1.0; 4];
    let file = File::new("phi3").size("rope.scaling.original_context_length", 64);
    for (found, other) in [(LONG, SHORT), (SHORT, LONG)] {
        let said = file.said(&[(found, divisors)]);
        assert!(said.contains(&format!("the tensor `{found}`, but no tensor `{other}`")), "{said}");
    }
    let said = file.clone().word("rope.scaling.type", "longrope").said(&[]);
    assert!(said.contains("`phi3.rope.scaling.type` is `longrope`, but there is no tensor"), "{said}");
    for kind in ["none", "linear", "longrope"] {
        let config =
            file.clone().word("rope.scaling.type", kind).config(&[(LONG, divisors), (SHORT, divisors)]);
        assert_eq!(config.expect("it is read")["rope_scaling"]["type"], "longrope", "{kind}");
    }
}

#[test]
fn the_base_of_a_file_without_one_is_that_of_llama_cpp() {
    let gemma = File::new("gemma3").size("attention.sliding_window", 24);
    for file in [File::new("llama"), File::new("qwen3"), gemma] {
        assert_eq!(file.config(&[]).expect("it is read")["rope_theta"], 10_000.0, "{}", file.name);
    }
}

#[test]
fn a_part_of_a_model_is_named_before_its_missing_keys() {
    let empty = File { name: "llama", entries: Vec::new(), tensors: vec!["blk.1.ffn_up.weight".to_owned()] };
    let file = empty.raw("split.no", 2, &1_u16.to_le_bytes()).raw("split.count", 2, &3_u16.to_le_bytes());
    let error = Architecture::new(&file.header()).expect_err("it is refused");
    assert_eq!(error.to_string(), "the file is part 2 of 3 of a model");
    let hint = failure::Failure::hint(&error).expect("there is a hint");
    assert!(hint.contains("llama-gguf-split --merge"), "{hint}");
    let whole = File::new("llama").raw("split.count", 2, &1_u16.to_le_bytes());
    assert!(whole.config(&[]).is_ok());
}

/// Returns a file with biases of these layers in both blocks.
fn with_biases(name: &'static str, layers: &[&str]) -> File {
    let all = (0..2).flat_map(|block| layers.iter().map(move |layer| format!("blk.{block}.{layer}.bias")));
    all.fold(File::new(name), File::tensor)
}

#[test]
fn a_llama_has_biases_in_all_layers_of_a_kind_or_in_none() {
    let config = |layers: &[&str]| with_biases("llama", layers).config(&[]).expect("it is read");
    let all = ["attn_q", "attn_k", "attn_v", "attn_output"];
    assert_eq!((&config(&all)["attention_bias"], &config(&all)["mlp_bias"]), (&json!(true), &json!(false)));
    assert_eq!(config(&["ffn_gate", "ffn_up", "ffn_down"])["mlp_bias"], true);
    assert_eq!(config(&[])["attention_bias"], false);
    let said = with_biases("llama", &all[..3]).said(&[]);
    assert!(said.contains("no tensor `blk.0.attn_output.bias`"), "{said}");
    let said = with_biases("llama", &["ffn_up", "ffn_down"]).said(&[]);
    assert!(said.contains("no tensor `blk.0.ffn_gate.bias`"), "{said}");
    let one_block =
        all.iter().fold(File::new("llama"), |file, layer| file.tensor(format!("blk.0.{layer}.bias")));
    assert!(one_block.said(&[]).contains("no tensor `blk.1.attn_q.bias`"));
    // Qwen 2 has three of them.
    assert!(with_biases("qwen2", &all[..3]).config(&[]).is_ok());
    for file in
        [with_biases("mistral", &all), with_biases("llama", &all).size("attention.sliding_window", 24)]
    {
        let said = file.said(&[]);
        assert!(said.contains("`blk.0.attn_k.bias` is not supported: Mistral models"), "{said}");
    }
}

#[test]
fn a_key_that_the_models_of_the_architecture_do_not_follow_is_refused() {
    let said = File::new("qwen3").number("final_logit_softcapping", 30.0).said(&[]);
    assert!(said.contains("the key `qwen3.final_logit_softcapping` is not supported"), "{said}");
    let said = File::new("llama").size("expert_count", 8).said(&[]);
    assert!(said.contains("the key `llama.expert_count` is not supported"), "{said}");
    let neutral = File::new("llama").size("expert_count", 0).size("expert_used_count", 0);
    assert_eq!(neutral.config(&[]).expect("it is read")["model_type"], "llama");
    let neutral = File::new("qwen3").size("attention.sliding_window", 512);
    assert_eq!(neutral.config(&[]).expect("it is read")["use_sliding_window"], false);
}

#[test]
fn a_cap_of_zero_is_none_where_there_may_be_none() {
    let gemma3 =
        File::new("gemma3").size("attention.sliding_window", 24).number("final_logit_softcapping", 0.0);
    assert_eq!(gemma3.config(&[]).expect("it is read").get("final_logit_softcapping"), None);
    let gemma2 = File::new("gemma2").size("attention.sliding_window", 24);
    let gemma2 = gemma2.number("final_logit_softcapping", 30.0).number("attn_logit_softcapping", 0.0);
    let said = gemma2.said(&[]);
    assert!(said.contains("`gemma2.attn_logit_softcapping` is 0, expected a number above 0"), "{said}");
}
