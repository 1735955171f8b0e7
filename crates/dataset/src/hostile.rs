//! Tokenizers of strangers: what would panic, take all memory or differ from run to run is refused or contained.
//!
//! The crate `tokenizers` trusts `tokenizer.json`: it indexes tables by numbers of the file, expands text without a limit, and
//! drops merges at random if asked to. This module checks what can be checked before it reads the file, and turns a panic
//! during its work into an error.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer;

/// Most bytes that a normalizer may make of one byte of text. Published ones make 3, for a space.
const MAX_GROWTH: usize = 64;
/// Most steps of a tokenizer before and after its model. Published ones have about ten.
const MAX_STEPS: usize = 256;
/// Most pieces of the template around a text, and most tokens in it.
const MAX_PIECES: usize = 256;

/// The parts of a `tokenizer.json` that are checked; its vocabulary is not among them.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    model: Model,
}

#[derive(Default, Deserialize)]
struct Model {
    #[serde(default)]
    dropout: Value,
}

/// Reads a `tokenizer.json`.
///
/// # Errors
///
/// Fails with the reason when the crate `tokenizers` cannot read it, when it tokenizes at random, and when it would make a
/// text many times as long.
pub fn open_tokenizer(bytes: &[u8]) -> Result<Tokenizer, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if file.model.dropout.as_f64().is_some_and(|share| share != 0.0) {
        let share = &file.model.dropout;
        return Err(format!(
            "the model drops merges at random (`dropout` is {share}); set `model.dropout` to null"
        ));
    }
    let parts = [&file.normalizer, &file.pre_tokenizer, &file.post_processor];
    if parts.map(steps).iter().sum::<usize>() > MAX_STEPS {
        return Err(format!("it has more than {MAX_STEPS} steps before and after the model"));
    }
    for part in parts {
        growth(part, 1)?;
        check_template(part)?;
    }
    contained(|| Tokenizer::from_bytes(bytes).map_err(|error| error.to_string()))
}

/// Returns the parts of a sequence; none if `part` is none.
fn parts_of(part: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["normalizers", "pretokenizers", "processors"].map(|name| part.get(name));
    lists.into_iter().flatten().filter_map(Value::as_array).flatten()
}

/// Counts the steps of a part.
fn steps(part: &Value) -> usize {
    1 + parts_of(part).map(steps).sum::<usize>()
}

/// Checks that the template of a post-processor adds few tokens, and repeats the text a few times at most.
fn check_template(part: &Value) -> Result<(), String> {
    let pieces = |name: &str| part.get(name).and_then(Value::as_array).map_or(0, Vec::len);
    let special = part.get("special_tokens").and_then(Value::as_object).into_iter().flatten();
    let ids = special.filter_map(|(_, token)| Some(token.get("ids")?.as_array()?.len()));
    if pieces("single").max(pieces("pair")).max(ids.sum()) > MAX_PIECES {
        return Err(format!("its template has more than {MAX_PIECES} pieces"));
    }
    parts_of(part).try_for_each(check_template)
}

/// Returns how many bytes `part` makes of one byte of text that has grown `before` times already.
fn growth(part: &Value, before: usize) -> Result<usize, String> {
    let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
    // The library also accepts parts without a type, or of an unknown one, by their fields.
    let has = |name: &str| part.get(name).is_some();
    let mut parts = parts_of(part).peekable();
    if parts.peek().is_some() {
        return parts.try_fold(before, |so_far, part| growth(part, so_far));
    }
    let mut own = 1;
    if has("pattern") && has("content") {
        own = replacement(part)?;
    } else if kind == "Prepend" || has("prepend") {
        let added = part.get("prepend").and_then(Value::as_str).unwrap_or_default();
        if added.is_empty() {
            return Err("the normalizer `Prepend` adds an empty text".to_owned());
        }
        own = added.len() + 1;
    } else if kind == "Precompiled" || has("precompiled_charsmap") {
        own = check_precompiled(part)?;
    }
    let growth = before.saturating_mul(own.max(1));
    if growth > MAX_GROWTH {
        return Err(format!("`{kind}` makes a text more than {MAX_GROWTH} times as long"));
    }
    Ok(growth)
}

/// Returns the growth of a text by the normalizer `Replace`.
fn replacement(part: &Value) -> Result<usize, String> {
    let content = part.get("content").and_then(Value::as_str).unwrap_or_default();
    let pattern = part.get("pattern").unwrap_or(&Value::Null);
    let text = pattern.get("String").or_else(|| pattern.get("Regex")).and_then(Value::as_str);
    let Some(text) = text else { return Ok(1) };
    if text.is_empty() {
        return Err("the normalizer `Replace` looks for an empty text".to_owned());
    }
    // A regular expression may match a single byte, or the place between two.
    let matched = if pattern.get("String").is_some() { text.len() } else { 1 };
    Ok(content.len().div_ceil(matched) + usize::from(pattern.get("Regex").is_some()))
}

/// Checks the table of a precompiled normalizer: the length of its tree, the tree, and texts that end in NUL. Returns the growth of
/// a text, if the longest replacement is one of a character with three bytes.
fn check_precompiled(part: &Value) -> Result<usize, String> {
    let invalid = |what: &str| Err(format!("the table of the normalizer `Precompiled` {what}"));
    let Some(text) = part.get("precompiled_charsmap").and_then(Value::as_str) else {
        return invalid("is missing");
    };
    let Ok(bytes) = STANDARD.decode(text) else { return invalid("is not base64") };
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return invalid("is cut off") };
    let length = u32::from_le_bytes(*length) as usize;
    if length == 0 || !length.is_multiple_of(4) || length > rest.len() {
        return invalid("gives its tree a wrong length");
    }
    let (tree, texts) = rest.split_at(length);
    if std::str::from_utf8(texts).is_err() {
        return invalid("holds bytes that are not UTF-8");
    }
    let tree: Vec<u32> = tree.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
    if !is_sound(&tree, texts) {
        return invalid("points outside itself");
    }
    let longest = texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0);
    Ok(longest.div_ceil(3))
}

/// Returns whether all walks through a double array stay inside, and its values are places in `texts`.
fn is_sound(tree: &[u32], texts: &[u8]) -> bool {
    let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
    let text = std::str::from_utf8(texts).unwrap_or_default();
    let mut visited = vec![false; tree.len()];
    let mut open = vec![offset(tree[0])];
    while let Some(place) = open.pop() {
        // Bytes that never occur in UTF-8 are not looked up.
        for byte in (1..=0xF4_usize).filter(|byte| !matches!(byte, 0xC0 | 0xC1)) {
            let next = place ^ byte;
            let Some(&unit) = tree.get(next) else { return false };
            if (unit & ((1 << 31) | 0xFF)) as usize != byte || std::mem::replace(&mut visited[next], true) {
                continue;
            }
            let below = next ^ offset(unit);
            if (unit >> 8) & 1 == 1 {
                let Some(&leaf) = tree.get(below) else { return false };
                let value = (leaf & ((1 << 31) - 1)) as usize;
                if !text.is_char_boundary(value) || value >= text.len() {
                    return false;
                }
            }
            open.push(below);
        }
    }
    true
}

thread_local! {
    static IS_CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`, and makes an error of a panic in it, which is not printed.
pub(crate) fn contained<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_CONTAINED.with(Cell::get) {
                print(panic);
            }
        }));
    });
    let outer = IS_CONTAINED.with(|contained| contained.replace(true));
    let result = catch_unwind(AssertUnwindSafe(work));
    IS_CONTAINED.with(|contained| contained.set(outer));
    result.unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it gave up");
        let message: String = message.chars().take(200).collect();
        Err(format!("the tokenizer cannot handle this: {message}"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn opened(normalizer: &Value, dropout: &Value) -> Result<Tokenizer, String> {
        let file = json!({
            "version": "1.0", "added_tokens": [], "normalizer": normalizer,
            "model": {"type": "BPE", "dropout": dropout, "unk_token": null, "vocab": {"a": 0, "b": 1}, "merges": []},
        });
        open_tokenizer(file.to_string().as_bytes())
    }

    fn charsmap(tree: &[u32], texts: &str) -> Value {
        let mut bytes = (tree.len() as u32 * 4).to_le_bytes().to_vec();
        bytes.extend(tree.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend(texts.bytes());
        json!({"type": "Precompiled", "precompiled_charsmap": STANDARD.encode(bytes)})
    }

    #[test]
    fn what_would_break_is_refused_with_a_reason() {
        let replace = |pattern: &str, content: String| json!({"type": "Replace", "pattern": {"String": pattern}, "content": content});
        let eight: Vec<Value> = (0..8).map(|_| replace("a", "a".repeat(100))).collect();
        for (normalizer, reason) in [
            (replace("", "x".into()), "an empty text"),
            (replace("a", "x".repeat(1 << 20)), "times as long"),
            (json!({"type": "Sequence", "normalizers": eight}), "times as long"),
            (json!({"tqpe": "Sequence", "normalizers": eight}), "times as long"),
            (
                json!({"type": "Sequence", "normalizers": [replace("a", "aaaaaaaaa".into()), replace("a", "aaaaaaaaa".into())]}),
                "times as long",
            ),
            (
                json!({"type": "Replace", "pattern": {"Regex": "x*"}, "content": "y".repeat(99)}),
                "times as long",
            ),
            (json!({"type": "Prepend", "prepend": ""}), "adds an empty text"),
            (json!({"type": "Precompiled", "precompiled_charsmap": "!"}), "not base64"),
            (
                json!({"type": "Precompiled", "precompiled_charsmap": STANDARD.encode([255, 255, 255, 127])}),
                "wrong length",
            ),
            (charsmap(&[0; 8], ""), "points outside itself"),
            (charsmap(&[u32::MAX; 256], ""), "points outside itself"),
        ] {
            let error = opened(&normalizer, &Value::Null).map(|_| ()).unwrap_err();
            assert!(error.contains(reason), "{reason}: {error}");
        }
        let long = charsmap(&[0; 256], &("y".repeat(1000) + "\0"));
        let nested = |inner: Value| json!({"type": "Sequence", "normalizers": vec![inner; 20]});
        for (normalizer, reason) in
            [(long, "times as long"), (nested(nested(json!({"type": "NFKD"}))), "more than 256 steps")]
        {
            let error = opened(&normalizer, &Value::Null).map(|_| ()).unwrap_err();
            assert!(error.contains(reason), "{reason}: {error}");
        }
        let error = opened(&Value::Null, &json!(0.1)).map(|_| ()).unwrap_err();
        assert!(error.contains("at random"), "{error}");
    }

    #[test]
    fn templates_that_repeat_a_text_are_refused() {
        let piece = json!({"Sequence": {"id": "A", "type_id": 0}});
        let many = vec![piece.clone(); 1000];
        let pair = json!([piece, {"Sequence": {"id": "B", "type_id": 0}}]);
        let token = json!({"X": {"id": "X", "ids": vec![0; 1000], "tokens": vec!["X"; 1000]}});
        for template in [
            json!({"type": "TemplateProcessing", "single": many, "pair": pair, "special_tokens": {}}),
            json!({"type": "TemplateProcessing", "single": [], "pair": pair, "special_tokens": token}),
            json!({"type": "Sequence", "processors": [{"single": many, "pair": pair, "special_tokens": {}}]}),
        ] {
            let file = json!({
                "version": "1.0", "added_tokens": [], "post_processor": template,
                "model": {"type": "BPE", "unk_token": null, "vocab": {"a": 0}, "merges": []},
            });
            let error = open_tokenizer(file.to_string().as_bytes()).map(|_| ()).unwrap_err();
            assert!(error.contains("more than 256 pieces"), "{error}");
        }
    }

    #[test]
    fn what_is_common_is_opened() {
        let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let llama = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]});
        for normalizer in [Value::Null, json!({"type": "NFC"}), llama, charsmap(&[0; 256], "x\0")] {
            opened(&normalizer, &Value::Null).unwrap();
            opened(&normalizer, &json!(0.0)).unwrap();
        }
    }

    #[test]
    fn a_panic_becomes_an_error() {
        let error = contained(|| -> Result<(), String> { panic!("index 7 is out of range") }).unwrap_err();
        assert!(error.ends_with("index 7 is out of range"), "{error}");
        assert_eq!(contained(|| Ok(1)), Ok(1));
    }
}
