//! `tokenizer.json` and `tokenizer_config.json` from the tokens of GGUF.

use std::collections::HashMap;

use gguf::{Error, Metadata, Result, missing};
use serde_json::{Map, Value, json};

use super::templates;

/// Character that represents a space in the tokens of `SentencePiece`.
const MARK: &str = "▁";
/// Longest piece that is made from others, in bytes: the time to find its merges grows with the square of its length.
const MAX_PIECE_BYTES: usize = 1024;

/// Kinds of tokens, with their numbers in llama.cpp.
mod kind {
    pub(super) const ALL: std::ops::RangeInclusive<i64> = 0..=6;
    pub(super) const UNKNOWN: i64 = 2;
    pub(super) const CONTROL: i64 = 3;
    pub(super) const USER_DEFINED: i64 = 4;
    pub(super) const UNUSED: i64 = 5;
    pub(super) const BYTE: i64 = 6;
}

/// Rules by which byte-level tokenizers split words, by their names in llama.cpp.
enum Split {
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
struct Known {
    name: &'static str,
    split: Split,
    /// Whether words that are tokens are not split, and the begin token is added by default.
    is_llama3: bool,
    /// Whether the original tokenizer normalizes to NFC, which llama.cpp leaves out.
    is_nfc: bool,
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

fn split(name: &str) -> Result<&'static Known> {
    SPLITS.iter().find(|known| known.name == name).ok_or_else(|| {
        let known = SPLITS.iter().map(|known| format!("`{}`", known.name)).collect::<Vec<_>>().join(", ");
        Error::Unsupported(format!("`tokenizer.ggml.pre` is `{name}`; supported are {known}"))
    })
}

/// A tokenizer in the files of a model folder.
pub(super) struct Converted {
    /// Content of `tokenizer.json`.
    pub(super) tokenizer: Value,
    /// Content of `tokenizer_config.json`.
    pub(super) settings: Value,
    /// Ids of the special tokens, as in `config.json` and `generation_config.json`.
    pub(super) special_ids: Map<String, Value>,
}

/// The tokens of a file by id.
struct Tokens<'a> {
    texts: &'a [String],
    kinds: &'a [i64],
}

/// Converts the tokenizer; the embedding has `rows` rows.
pub(super) fn convert(metadata: &Metadata<'_>, rows: usize) -> Result<Converted> {
    let texts = metadata.texts("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
    let kinds = metadata.integers("tokenizer.ggml.token_type")?;
    let kinds = kinds.ok_or_else(|| missing("tokenizer.ggml.token_type"))?;
    if kinds.len() != texts.len() || texts.len() > rows {
        return Err(Error::Content(format!(
            "there are {} tokens, {} types of tokens and {rows} rows of the embedding",
            texts.len(),
            kinds.len()
        )));
    }
    if let Some(id) = kinds.iter().position(|kind| !kind::ALL.contains(kind)) {
        let (first, last, found) = (kind::ALL.start(), kind::ALL.end(), kinds[id]);
        return Err(Error::Content(format!(
            "`tokenizer.ggml.token_type` of the token {id} is {found}, expected {first} to {last}"
        )));
    }
    let tokens = Tokens { texts, kinds };
    let special = Special::new(metadata, &tokens)?;
    let model = metadata.text("tokenizer.ggml.model")?.ok_or_else(|| missing("tokenizer.ggml.model"))?;
    let (mut tokenizer, adds_bos) = match model {
        "gpt2" => byte_level(metadata, &tokens)?,
        "llama" => pieces(metadata, &tokens)?,
        other => {
            let reason = format!("`tokenizer.ggml.model` is `{other}`; supported are `gpt2` and `llama`");
            return Err(Error::Unsupported(reason));
        }
    };
    let adds_bos = metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos);
    if metadata.bool("tokenizer.ggml.add_eos_token")? == Some(true) {
        return Err(Error::Unsupported(
            "`tokenizer.ggml.add_eos_token` is true, which is not supported".to_owned(),
        ));
    }
    tokenizer["version"] = "1.0".into();
    tokenizer["added_tokens"] = tokens.added();
    if let Some((id, text)) = special.begin.filter(|_| adds_bos) {
        tokenizer["post_processor"] = with_begin(id, text);
    }
    let mut settings = special.settings();
    settings["add_bos_token"] = adds_bos.into();
    if let Some(templates) = templates::read(*metadata)? {
        settings["chat_template"] = templates;
    }
    Ok(Converted { tokenizer, settings, special_ids: special.ids() })
}

impl Tokens<'_> {
    /// Returns the tokens with their ids, without those that only fill rows of the embedding.
    fn vocabulary(&self) -> Result<Map<String, Value>> {
        let mut vocabulary = Map::new();
        for (id, (text, &kind)) in self.texts.iter().zip(self.kinds).enumerate() {
            if kind == kind::UNUSED && *text == format!("[PAD{id}]") {
                continue;
            }
            if vocabulary.insert(text.clone(), id.into()).is_some() {
                return Err(Error::Content(format!("the token {id}, {text:?}, occurs twice")));
            }
        }
        Ok(vocabulary)
    }

    /// Returns the tokens that are matched before the text is split.
    fn added(&self) -> Value {
        let entries = self.texts.iter().zip(self.kinds).enumerate();
        let added = entries
            .filter(|(_, (_, kind))| [kind::CONTROL, kind::USER_DEFINED, kind::UNKNOWN].contains(kind));
        added
            .map(|(id, (text, &kind))| {
                json!({
                    "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": kind != kind::USER_DEFINED,
                })
            })
            .collect()
    }

    fn unknown(&self) -> Option<&str> {
        let at = self.kinds.iter().position(|&kind| kind == kind::UNKNOWN)?;
        Some(&self.texts[at])
    }
}

/// Returns a byte-level tokenizer, and whether it adds the begin token by default.
fn byte_level(metadata: &Metadata<'_>, tokens: &Tokens<'_>) -> Result<(Value, bool)> {
    let key = "tokenizer.ggml.pre";
    let name = metadata.text(key)?.ok_or_else(|| missing(key))?;
    let byte_level = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
    let sequence = |steps: &[Value]| json!({ "type": "Sequence", "pretokenizers": steps });
    let known = split(name)?;
    let pre_tokenizer = match known.split {
        Split::Gpt2 => byte_level(true),
        Split::DigitsGpt2 => {
            sequence(&[json!({ "type": "Digits", "individual_digits": true }), byte_level(true)])
        }
        Split::Expression(expression) => sequence(&[
            json!({
                "type": "Split", "pattern": { "Regex": expression }, "behavior": "Isolated", "invert": false,
            }),
            byte_level(false),
        ]),
    };
    let merges = metadata.texts("tokenizer.ggml.merges")?.ok_or_else(|| missing("tokenizer.ggml.merges"))?;
    if let Some(merge) = merges.iter().find(|merge| merge.split(' ').count() != 2) {
        return Err(Error::Content(format!("the merge {merge:?} is not a pair")));
    }
    let tokenizer = json!({
        "normalizer": if known.is_nfc { json!({ "type": "NFC" }) } else { Value::Null },
        "pre_tokenizer": pre_tokenizer,
        "post_processor": byte_level(true),
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": known.is_llama3,
            "vocab": tokens.vocabulary()?, "merges": merges,
        },
    });
    Ok((tokenizer, known.is_llama3))
}

/// Returns a tokenizer of `SentencePiece` pieces with scores, and that it adds the begin token by default.
fn pieces(metadata: &Metadata<'_>, tokens: &Tokens<'_>) -> Result<(Value, bool)> {
    let scores = metadata.floats("tokenizer.ggml.scores")?.ok_or_else(|| missing("tokenizer.ggml.scores"))?;
    if scores.len() != tokens.texts.len() {
        return Err(Error::Content(format!(
            "there are {} tokens and {} scores",
            tokens.texts.len(),
            scores.len()
        )));
    }
    if let Some(id) = scores.iter().position(|score| !score.is_finite()) {
        let reason = format!("`tokenizer.ggml.scores` of the token {id} is {}", scores[id]);
        return Err(Error::Content(reason));
    }
    let has_prefix = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mark_spaces = json!({ "type": "Replace", "pattern": { "String": " " }, "content": MARK });
    let normalizer = if has_prefix {
        json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": MARK }, mark_spaces] })
    } else {
        mark_spaces
    };
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": MARK }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if has_prefix {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let tokenizer = json!({
        "normalizer": normalizer,
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": tokens.unknown(), "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": tokens.vocabulary()?, "merges": merges_of(tokens, scores)?,
        },
    });
    Ok((tokenizer, true))
}

/// Returns the merges that make each piece from two others, those of pieces with higher scores first.
///
/// `SentencePiece` merges the pair whose piece has the highest score; among pairs for one piece the order of ids decides.
///
/// Tokens for bytes and control tokens are never made from text.
fn merges_of<'a>(tokens: &Tokens<'a>, scores: &[f32]) -> Result<Vec<Value>> {
    let is_piece = |kind: i64| ![kind::BYTE, kind::CONTROL, kind::UNKNOWN, kind::UNUSED].contains(&kind);
    let pieces = || {
        let all = tokens.texts.iter().zip(tokens.kinds).enumerate();
        all.filter(|(_, (_, kind))| is_piece(**kind)).map(|(id, (text, _))| (id, text.as_str()))
    };
    if let Some((id, text)) = pieces().find(|(_, text)| text.len() > MAX_PIECE_BYTES) {
        return Err(Error::Unsupported(format!(
            "the token {id} has {} bytes; tokens of up to {MAX_PIECE_BYTES} bytes are supported",
            text.len()
        )));
    }
    let ids: HashMap<&str, usize> = pieces().map(|(id, text)| (text, id)).collect();
    let mut merges: Vec<(f32, &'a str, &'a str)> = Vec::new();
    for (id, text) in pieces() {
        let score = scores[id];
        let mut pairs: Vec<(usize, usize, usize)> = Vec::new();
        for (at, _) in text.char_indices().skip(1) {
            if let (Some(&left), Some(&right)) = (ids.get(&text[..at]), ids.get(&text[at..])) {
                pairs.push((left, right, at));
            }
        }
        pairs.sort_unstable();
        merges.extend(pairs.into_iter().map(|(.., at)| (score, &text[..at], &text[at..])));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    Ok(merges.iter().map(|(_, left, right)| json!([left, right])).collect())
}

/// Returns a post-processor that puts the begin token in front.
fn with_begin(id: u64, text: &str) -> Value {
    let begin = json!({ "SpecialToken": { "id": text, "type_id": 0 } });
    let sequence = |name: &str, kind: u32| json!({ "Sequence": { "id": name, "type_id": kind } });
    json!({
        "type": "TemplateProcessing",
        "single": [begin, sequence("A", 0)],
        "pair": [begin, sequence("A", 0), sequence("B", 1)],
        "special_tokens": { text: { "id": text, "ids": [id], "tokens": [text] } },
    })
}

/// Special tokens: ids and texts.
struct Special<'a> {
    begin: Option<(u64, &'a str)>,
    ends: Vec<(u64, &'a str)>,
    unknown: Option<(u64, &'a str)>,
    padding: Option<(u64, &'a str)>,
}

impl<'a> Special<'a> {
    fn new(metadata: &Metadata<'_>, tokens: &Tokens<'a>) -> Result<Self> {
        let find = |name: &str| -> Result<Option<(u64, &'a str)>> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let Some(id) = metadata.integer(&key)? else { return Ok(None) };
            let text = usize::try_from(id).ok().and_then(|id| tokens.texts.get(id));
            let text =
                text.ok_or_else(|| Error::Content(format!("`{key}` is {id}, not the id of a token")))?;
            Ok(Some((id, text)))
        };
        let mut ends: Vec<(u64, &str)> = Vec::new();
        for name in ["eos", "eot", "eom"] {
            ends.extend(find(name)?.filter(|end| !ends.contains(end)));
        }
        Ok(Self { begin: find("bos")?, ends, unknown: find("unknown")?, padding: find("padding")? })
    }

    fn ids(&self) -> Map<String, Value> {
        let mut ids = Map::new();
        ids.extend(self.begin.map(|(id, _)| ("bos_token_id".to_owned(), id.into())));
        let ends: Vec<u64> = self.ends.iter().map(|(id, _)| *id).collect();
        match ends[..] {
            [] => {}
            [end] => drop(ids.insert("eos_token_id".to_owned(), end.into())),
            _ => drop(ids.insert("eos_token_id".to_owned(), ends.into())),
        }
        ids.extend(self.padding.map(|(id, _)| ("pad_token_id".to_owned(), id.into())));
        ids
    }

    fn settings(&self) -> Value {
        let mut settings = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
        });
        let tokens = [
            ("bos_token", self.begin),
            ("eos_token", self.ends.first().copied()),
            ("unk_token", self.unknown),
            ("pad_token", self.padding),
        ];
        for (name, token) in tokens {
            if let Some((_, text)) = token {
                settings[name] = text.into();
            }
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merges(texts: &[&str], kinds: &[i64]) -> Result<Vec<Value>> {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        merges_of(&Tokens { texts: &texts, kinds }, &vec![0.0; texts.len()])
    }

    #[test]
    fn merges_are_the_pairs_that_make_a_piece() {
        assert_eq!(merges(&["a", "b", "ab"], &[1, 1, 1]).unwrap(), [json!(["a", "b"])]);
    }

    #[test]
    fn a_piece_of_any_length_does_not_take_forever() {
        let (longest, longer) = ("a".repeat(MAX_PIECE_BYTES), "a".repeat(MAX_PIECE_BYTES + 1));
        merges(&["a", &longest], &[1, 1]).unwrap();
        let error = merges(&["a", &longer], &[1, 1]).unwrap_err().to_string();
        assert!(error.contains("the token 1 has 1025 bytes; tokens of up to 1024 bytes"), "{error}");
        // It is matched as a whole.
        merges(&["a", &longer], &[1, kind::CONTROL]).unwrap();
    }
}
