//! Word splitting of byte-level tokenizers, by the names in llama.cpp.

use failure::Result;
use serde_json::Value;

use super::steps;
use crate::gguf::{WITHOUT_GGUF, unsupported};

/// Rule for splitting a text into words. Its name in llama.cpp also implies `ignore_merges`.
#[derive(Clone, Copy)]
struct Split {
    /// Name without `ignore_merges`.
    merged: &'static str,
    /// Name with `ignore_merges`.
    whole: Option<&'static str>,
    /// Best-known tokenizer with this rule.
    of: &'static str,
}

const GPT2: Split = Split { merged: "gpt-2", whole: None, of: "GPT-2" };
const SMOLLM: Split = Split { merged: "smollm", whole: None, of: "SmolLM" };
const LLAMA3: Split = Split { merged: "smaug-bpe", whole: Some("llama-bpe"), of: "Llama 3" };
const QWEN2: Split = Split { merged: "qwen2", whole: None, of: "Qwen 2" };

/// Regular expressions that match words.
const EXPRESSIONS: [(&str, Split); 2] = [
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        LLAMA3,
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        QWEN2,
    ),
];

/// Returns the name in llama.cpp of the rule by which a tokenizer splits words.
///
/// # Errors
///
/// Fails when llama.cpp does not have the rule.
pub(super) fn name(tokenizer: &Value) -> Result<&'static str> {
    let steps = steps(&tokenizer["pre_tokenizer"], "pretokenizers");
    let adds_space = |step: &&Value| step["type"] == "ByteLevel" && step["add_prefix_space"] == true;
    if steps.iter().any(adds_space) {
        return Err(unsupported(
            "a tokenizer that puts a space before every text (`add_prefix_space` of `ByteLevel`)",
            &format!("llama.cpp does not add that space; {WITHOUT_GGUF}"),
        ));
    }
    let hint = "supported are the tokenizers of GPT-2, Llama 3, Qwen 2 and SmolLM";
    let split =
        split(&steps).ok_or_else(|| unsupported("a tokenizer that splits words in its own way", hint))?;
    if tokenizer["model"]["ignore_merges"] != true {
        return Ok(split.merged);
    }
    split.whole.ok_or_else(|| {
        unsupported(
            &format!("a tokenizer that splits words as {} does, with `ignore_merges`,", split.of),
            &format!("llama.cpp merges the pieces of all these words; {WITHOUT_GGUF}"),
        )
    })
}

fn split(steps: &[&Value]) -> Option<Split> {
    let kinds: Vec<&str> = steps.iter().map(|step| step["type"].as_str().unwrap_or_default()).collect();
    let has_expression = |step: &Value| step["use_regex"] != false;
    match kinds[..] {
        ["ByteLevel"] if has_expression(steps[0]) => Some(GPT2),
        ["Digits", "ByteLevel"] if steps[0]["individual_digits"] == true && has_expression(steps[1]) => {
            Some(SMOLLM)
        }
        ["Split", "ByteLevel"] if keeps_matches(steps[0]) && !has_expression(steps[1]) => {
            let pattern = steps[0]["pattern"]["Regex"].as_str()?;
            EXPRESSIONS.into_iter().find(|(known, _)| pattern == *known).map(|(_, split)| split)
        }
        _ => None,
    }
}

/// Returns whether the matches of an expression are the words. The known expressions match every character.
fn keeps_matches(step: &Value) -> bool {
    step["behavior"] == "Isolated" || (step["behavior"] == "Removed" && step["invert"] == true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(pre_tokenizer: &[Value], ignore_merges: bool) -> std::result::Result<&'static str, String> {
        let sequence = json!({ "type": "Sequence", "pretokenizers": pre_tokenizer });
        let tokenizer = json!({ "pre_tokenizer": sequence, "model": { "ignore_merges": ignore_merges } });
        name(&tokenizer).map_err(|error| error.report())
    }

    fn bytes(use_regex: bool) -> Value {
        json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": use_regex })
    }

    fn expression(index: usize, behavior: &str, invert: bool) -> Value {
        let pattern = json!({ "Regex": EXPRESSIONS[index].0 });
        json!({ "type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert })
    }

    #[test]
    fn a_name_is_that_of_tokenizers_that_merge_the_same_words() {
        let digits = json!({ "type": "Digits", "individual_digits": true });
        let llama3 = [expression(0, "Isolated", false), bytes(false)];
        let qwen2 = [expression(1, "Isolated", false), bytes(false)];
        let smollm = [digits, bytes(true)];
        assert_eq!(named(&llama3, true).unwrap(), "llama-bpe");
        assert_eq!(named(&llama3, false).unwrap(), "smaug-bpe");
        assert_eq!(named(&qwen2, false).unwrap(), "qwen2");
        assert_eq!(named(&smollm, false).unwrap(), "smollm");
        assert_eq!(named(&[bytes(true)], false).unwrap(), "gpt-2");
        for (steps, of) in [(&qwen2[..], "Qwen 2"), (&smollm, "SmolLM"), (&[bytes(true)], "GPT-2")] {
            let error = named(steps, true).unwrap_err();
            assert!(error.contains(&format!("as {of} does, with `ignore_merges`, cannot")), "{error}");
        }
    }

    #[test]
    fn words_that_are_split_twice_or_dropped_are_not_taken_for_known_ones() {
        let digits = json!({ "type": "Digits", "individual_digits": true });
        for steps in [
            vec![expression(0, "Isolated", false), bytes(true)],
            vec![expression(0, "Removed", false), bytes(false)],
            vec![expression(0, "MergedWithNext", false), bytes(false)],
            vec![digits, bytes(false)],
            vec![bytes(false)],
            vec![],
        ] {
            let error = named(&steps, false).unwrap_err();
            assert!(error.contains("splits words in its own way"), "{steps:?}: {error}");
        }
        assert_eq!(named(&[expression(0, "Removed", true), bytes(false)], true).unwrap(), "llama-bpe");
    }
}
