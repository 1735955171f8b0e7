//! Rules for splitting words in byte-level tokenizers, by their names in llama.cpp.

use gguf::{Error, Result};

/// A rule by which words are split.
pub(super) enum Split {
    /// The expression of GPT-2.
    Gpt2,
    /// Single digits, then the expression of GPT-2.
    DigitsGpt2,
    /// Another expression.
    Expression(&'static str),
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A way to split words by its name in llama.cpp.
pub(super) struct Known {
    name: &'static str,
    pub(super) split: Split,
    /// Whether words that are tokens are not split, and the begin token is added by default.
    pub(super) is_llama3: bool,
    /// Whether the original tokenizer normalizes to NFC, which llama.cpp leaves out.
    pub(super) is_nfc: bool,
}

const fn plain(name: &'static str, split: Split) -> Known {
    Known { name, split, is_llama3: false, is_nfc: false }
}

const fn llama3(name: &'static str, split: Split) -> Known {
    Known { name, split, is_llama3: true, is_nfc: false }
}

const fn nfc(name: &'static str, split: Split) -> Known {
    Known { name, split, is_llama3: false, is_nfc: true }
}

/// The ways to split words that can be read.
const SPLITS: [Known; 31] = [
    plain("gpt-2", Split::Gpt2),
    plain("phi-2", Split::Gpt2),
    plain("mpt", Split::Gpt2),
    plain("olmo", Split::Gpt2),
    plain("jais", Split::Gpt2),
    plain("trillion", Split::Gpt2),
    plain("granite-docling", Split::Gpt2),
    plain("smollm", Split::DigitsGpt2),
    plain("starcoder", Split::DigitsGpt2),
    plain("refact", Split::DigitsGpt2),
    plain("command-r", Split::DigitsGpt2),
    plain("codeshell", Split::DigitsGpt2),
    plain("exaone", Split::DigitsGpt2),
    plain("minerva-7b", Split::DigitsGpt2),
    llama3("llama-bpe", Split::Expression(LLAMA3)),
    llama3("llama3", Split::Expression(LLAMA3)),
    llama3("llama-v3", Split::Expression(LLAMA3)),
    llama3("falcon3", Split::Expression(LLAMA3)),
    llama3("falcon-h1", Split::Expression(LLAMA3)),
    llama3("pixtral", Split::Expression(LLAMA3)),
    llama3("midm-2.0", Split::Expression(LLAMA3)),
    llama3("lfm2", Split::Expression(LLAMA3)),
    plain("dbrx", Split::Expression(LLAMA3)),
    plain("smaug-bpe", Split::Expression(LLAMA3)),
    nfc("qwen2", Split::Expression(QWEN2)),
    nfc("deepseek-r1-qwen", Split::Expression(QWEN2)),
    nfc("megrez", Split::Expression(QWEN2)),
    plain("stablelm2", Split::Expression(QWEN2)),
    plain("hunyuan", Split::Expression(QWEN2)),
    plain("gpt-4o", Split::Expression(GPT4O)),
    llama3("tekken", Split::Expression(TEKKEN)),
];

/// Returns the rule with this name.
///
/// # Errors
///
/// Fails on a name that is not known, and lists those that are.
pub(super) fn split(name: &str) -> Result<&'static Known> {
    SPLITS.iter().find(|known| known.name == name).ok_or_else(|| {
        let known = SPLITS.iter().map(|known| format!("`{}`", known.name)).collect::<Vec<_>>().join(", ");
        Error::Unsupported(format!("`tokenizer.ggml.pre` is `{name}`; supported are {known}"))
    })
}
