//! `tokenizer.json` and `tokenizer_config.json` from the tokens of GGUF.

use gguf::{Error, Metadata, Result, missing};
use serde_json::{Map, Value, json};

use super::merges::merges_of;
use super::special::Special;
use super::splits::{Split, split};
use super::templates;
use super::tokens::{Tokens, shortened, strips};

/// Character that represents a space in the tokens of `SentencePiece`.
const MARK: &str = "▁";

/// A tokenizer in the files of a model folder.
pub(super) struct Converted {
    /// Content of `tokenizer.json`.
    pub(super) tokenizer: Value,
    /// Content of `tokenizer_config.json`.
    pub(super) settings: Value,
    /// Ids of the special tokens, as in `config.json` and `generation_config.json`.
    pub(super) special_ids: Map<String, Value>,
}

/// Converts the tokenizer; the embedding has `rows` rows.
pub(super) fn convert(metadata: &Metadata<'_>, rows: usize) -> Result<Converted> {
    let mut tokens = Tokens::new(metadata, rows)?;
    let model = metadata.text("tokenizer.ggml.model")?.ok_or_else(|| missing("tokenizer.ggml.model"))?;
    let special = Special::new(metadata, &mut tokens, model == "llama")?;
    tokens.check_added()?;
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
    tokenizer["added_tokens"] = tokens.added(strips(metadata, model)?);
    if adds_bos {
        let begin = special.begin.ok_or_else(|| missing("tokenizer.ggml.bos_token_id"))?;
        tokenizer["post_processor"] = with_begin(begin, special.text(begin));
    }
    let mut settings = special.settings();
    settings["add_bos_token"] = adds_bos.into();
    if let Some(templates) = templates::read(*metadata)? {
        settings["chat_template"] = templates;
    }
    Ok(Converted { tokenizer, settings, special_ids: special.ids() })
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
    let vocabulary = tokens.vocabulary()?;
    check_merges(merges, &vocabulary)?;
    let tokenizer = json!({
        "normalizer": if known.is_nfc { json!({ "type": "NFC" }) } else { Value::Null },
        "pre_tokenizer": pre_tokenizer,
        "post_processor": byte_level(true),
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": known.is_llama3,
            "vocab": vocabulary, "merges": merges,
        },
    });
    Ok((tokenizer, known.is_llama3))
}

/// Checks that each merge makes a token from two others.
fn check_merges(merges: &[String], vocabulary: &Map<String, Value>) -> Result<()> {
    let is_token = |text: &str| vocabulary.contains_key(text);
    for (index, merge) in merges.iter().enumerate() {
        let pair = merge.split_once(' ').filter(|(_, right)| !right.contains(' '));
        let Some((left, right)) = pair else {
            return Err(Error::Content(format!("the merge {index}, {:?}, is not a pair", shortened(merge))));
        };
        if !is_token(left) || !is_token(right) || !is_token(&format!("{left}{right}")) {
            return Err(Error::Content(format!(
                "the merge {index}, {:?}, does not make a token from two others",
                shortened(merge)
            )));
        }
    }
    Ok(())
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
    // The merges first, which are limited.
    let merges = merges_of(tokens, scores)?;
    let tokenizer = json!({
        "normalizer": normalizer,
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": tokens.unknown(), "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": tokens.vocabulary()?, "merges": merges,
        },
    });
    Ok((tokenizer, true))
}

/// Returns a post-processor that puts the begin token in front.
fn with_begin(id: usize, text: &str) -> Value {
    let begin = json!({ "SpecialToken": { "id": text, "type_id": 0 } });
    let sequence = |name: &str, kind: u32| json!({ "Sequence": { "id": name, "type_id": kind } });
    json!({
        "type": "TemplateProcessing",
        "single": [begin, sequence("A", 0)],
        "pair": [begin, sequence("A", 0), sequence("B", 1)],
        "special_tokens": { text: { "id": text, "ids": [id], "tokens": [text] } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_that_makes_no_token_is_named_in_a_short_message() {
        let vocabulary =
            ["a", "b", "ab"].into_iter().zip(0..).map(|(text, id): (&str, u32)| (text.to_owned(), id.into()));
        let vocabulary: Map<String, Value> = vocabulary.collect();
        let check = |merge: &str| check_merges(&["a b".to_owned(), merge.to_owned()], &vocabulary);
        check("a b").unwrap();
        for (merge, reason) in [
            ("ab", "is not a pair"),
            ("a b c", "is not a pair"),
            ("b a", "does not make"),
            ("a c", "does not"),
        ] {
            let said = check(merge).unwrap_err().to_string();
            assert!(said.contains(&format!("the merge 1, {merge:?}, {reason}")), "{said}");
        }
        assert!(check(&format!("a {}", "b".repeat(1 << 20))).unwrap_err().to_string().len() < 200);
    }
}
