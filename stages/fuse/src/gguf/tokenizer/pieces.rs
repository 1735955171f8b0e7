//! Exports byte-fallback tokenizers as `SentencePiece` tokenizers of llama.cpp, with scores instead of merges.

use std::collections::HashMap;

use failure::Result;
use gguf::kind;
use serde_json::Value;

use super::{MARK, Tokens, marks_spaces, steps};
use crate::gguf::{WITHOUT_GGUF, unsupported};

/// Fails on pre-tokenizers that llama.cpp does not have: it replaces spaces with `▁` and does not split the text.
pub(super) fn check_splitting(tokenizer: &Value) -> Result<()> {
    let is_marked = steps(&tokenizer["normalizer"], "normalizers").into_iter().any(marks_spaces);
    let splits = steps(&tokenizer["pre_tokenizer"], "pretokenizers");
    let is_metaspace = |step: &Value| step["type"] == "Metaspace" && step["replacement"] == MARK;
    // There are no spaces left to split at after a normalizer that replaces them.
    let is_idle = |step: &Value| is_marked && step["type"] == "Split" && step["pattern"]["String"] == " ";
    let is_known = |step: &Value| is_idle(step) || (is_metaspace(step) && step["split"] == false);
    if let Some(step) = splits.iter().find(|step| !is_known(step)) {
        let kind = step["type"].as_str().unwrap_or("?");
        return Err(unsupported(
            &format!("a tokenizer with byte fallback and the pre-tokenizer `{kind}`"),
            "supported are those that only mark spaces, as in Llama 2, Mistral and Gemma",
        ));
    }
    if is_marked || splits.into_iter().any(is_metaspace) {
        return Ok(());
    }
    Err(unsupported(
        "a tokenizer with byte fallback that does not mark spaces",
        &format!("llama.cpp replaces spaces by `{MARK}`; {WITHOUT_GGUF}"),
    ))
}

/// Returns the score of every token. Pieces whose merge is listed earlier have higher scores, and all scores are distinct.
///
/// # Errors
///
/// Fails on a piece without a merge that llama.cpp would merge.
pub(super) fn scores(tokens: &Tokens, merges: &[(String, String)]) -> Result<Vec<f32>> {
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (left, right) in merges {
        let next = ranks.len();
        ranks.entry(format!("{left}{right}")).or_insert(next);
    }
    check_unmerged(tokens, &ranks)?;
    let mut last = ranks.len();
    let mut rank = |text: &String| {
        ranks.get(text).copied().unwrap_or_else(|| {
            last += 1;
            last
        })
    };
    Ok(tokens.texts.iter().map(|text| -(rank(text) as f32) - 1.0).collect())
}

/// Fails on a token without a merge if it can be split into two pieces that are characters or have merges: llama.cpp joins any two pieces
/// that form a token. Other tokens without a merge are harmless.
fn check_unmerged(tokens: &Tokens, ranks: &HashMap<String, usize>) -> Result<()> {
    let is_made = |text: &str| text.chars().nth(1).is_none() || ranks.contains_key(text);
    for (text, kind) in tokens.texts.iter().zip(&tokens.kinds) {
        // These tokens are cut out of a text before spaces are replaced and pieces are merged.
        let is_cut_out = [kind::CONTROL, kind::USER_DEFINED, kind::UNKNOWN].contains(kind);
        if ranks.contains_key(text) || (is_cut_out && !text.contains(MARK)) {
            continue;
        }
        let mut halves = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        if let Some((left, right)) = halves.find(|(left, right)| is_made(left) && is_made(right)) {
            return Err(unsupported(
                &format!("a tokenizer with the token {text:?}, which no merge makes,"),
                &format!("llama.cpp would merge {left:?} and {right:?} to it; {WITHOUT_GGUF}"),
            ));
        }
    }
    Ok(())
}

/// Returns whether a space is put before texts.
pub(super) fn has_prefix_space(tokenizer: &Value) -> bool {
    let text = tokenizer["normalizer"].to_string() + &tokenizer["pre_tokenizer"].to_string();
    text.contains("\"Prepend\"")
        || text.contains("\"prepend_scheme\":\"first\"")
        || text.contains("\"prepend_scheme\":\"always\"")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    fn scores_of(texts: &[&str], kinds: &[i64], merges: &[(&str, &str)]) -> Result<Vec<f32>> {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        let merges: Vec<_> = merges.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect();
        scores(&Tokens { texts, kinds: kinds.to_vec() }, &merges)
    }

    fn refusal(texts: &[&str], kinds: &[i64], merges: &[(&str, &str)]) -> String {
        scores_of(texts, kinds, merges).expect_err("a piece without a merge is refused").report()
    }

    #[test]
    fn pieces_that_are_merged_first_have_higher_scores_and_no_two_have_the_same() {
        let texts = ["<s>", "a", "b", "c", "ab", "abc", "bc", "<0x00>"];
        let merges = [("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc")];
        let kinds = [3, 1, 1, 1, 1, 1, 1, 6];
        let scores = scores_of(&texts, &kinds, &merges).unwrap();
        assert_eq!(scores[4..7], [-2.0, -3.0, -1.0]);
        assert!([0, 1, 2, 3, 7].iter().all(|&id| scores[id] < -3.0), "{scores:?}");
        let distinct: BTreeSet<u32> = scores.iter().map(|score| score.to_bits()).collect();
        assert_eq!(distinct.len(), texts.len(), "{scores:?}");
    }

    #[test]
    fn a_piece_that_only_llama_cpp_would_merge_is_refused_by_name() {
        let error = refusal(&["a", "b", "ab"], &[1, 1, 1], &[]);
        assert!(error.contains(r#"the token "ab", which no merge makes"#), "{error}");
        assert!(error.contains(r#"merge "a" and "b" to it"#), "{error}");
        // Characters are symbols of llama.cpp even if they are no tokens.
        assert!(refusal(&["xy"], &[1], &[]).contains(r#""xy""#));
        assert!(refusal(&["a", "b", "ab", "abc"], &[1; 4], &[("a", "b")]).contains(r#""ab" and "c""#));
        // Two spaces become two marks, which are no longer the text that was cut out.
        assert!(refusal(&["▁", "▁▁"], &[1, kind::USER_DEFINED], &[]).contains(r#""▁▁""#));
    }

    #[test]
    fn a_piece_whose_halves_are_never_made_is_harmless() {
        scores_of(&["a", "zqzq", "<0x00>", "[PAD3]"], &[1, 1, 6, 5], &[]).unwrap();
        // Cut out of the text before anything is merged.
        for kind in [kind::CONTROL, kind::USER_DEFINED, kind::UNKNOWN] {
            scores_of(&["a", "b", "ab"], &[1, 1, kind], &[]).unwrap();
        }
    }

    #[test]
    fn pieces_are_not_split_before_they_are_merged() {
        let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": MARK });
        let metaspace = |split: bool| json!({ "type": "Metaspace", "replacement": MARK, "prepend_scheme": "never", "split": split });
        let at_spaces =
            json!({ "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious" });
        let digits = json!({ "type": "Digits", "individual_digits": true });
        let check = |normalizer: &Value, pre_tokenizer: &Value| {
            check_splitting(&json!({ "normalizer": normalizer, "pre_tokenizer": pre_tokenizer }))
                .map_err(|error| error.report())
        };
        check(&replace, &Value::Null).unwrap();
        check(&replace, &at_spaces).unwrap();
        check(&Value::Null, &metaspace(false)).unwrap();
        for (pre_tokenizer, word) in [
            (&at_spaces, "`Split`"),
            (&metaspace(true), "`Metaspace`"),
            (&Value::Null, "does not mark spaces"),
        ] {
            let error = check(&Value::Null, pre_tokenizer).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        assert!(check(&replace, &digits).unwrap_err().contains("`Digits`"));
    }
}
