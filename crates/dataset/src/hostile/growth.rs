//! Checks of the steps of a tokenizer: by what factor they lengthen a text, and whether they can panic.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Maximum factor by which one part may lengthen a text. Published ones reach about 44, for a rare character.
const MAX_GROWTH: usize = 64;
/// Maximum factor of all steps before the model. Published ones reach about 132.
const MAX_GROWTH_BEFORE_MODEL: usize = 256;
/// Factor of a second Unicode normalization, which may decompose characters that earlier steps composed.
const FORM_GROWTH: usize = 3;
const COMPATIBILITY_FORM_GROWTH: usize = 11;
/// Maximum number of pieces in a post-processor's template, and of tokens in it.
const MAX_PIECES: usize = 256;

/// Returns the parts of a sequence; none if `part` is none.
fn parts_of(part: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["normalizers", "pretokenizers", "processors", "decoders"].map(|name| part.get(name));
    lists.into_iter().flatten().filter_map(Value::as_array).flatten()
}

/// Counts the steps of a part.
pub(super) fn steps(part: &Value) -> usize {
    1 + parts_of(part).map(steps).sum::<usize>()
}

/// Fails unless `part` is an object or missing. The library would also read its fields from a list.
fn check_object(part: &Value) -> Result<(), String> {
    if part.is_object() || part.is_null() {
        return Ok(());
    }
    Err("a step before or after the model is not an object".to_owned())
}

/// Checks that the template of a post-processor adds few tokens and repeats the text at most a few times.
pub(super) fn check_template(part: &Value) -> Result<(), String> {
    let pieces = |name: &str| part.get(name).and_then(Value::as_array).map_or(0, Vec::len);
    let special = part.get("special_tokens").and_then(Value::as_object);
    let mut ids = 0;
    for token in special.into_iter().flat_map(|tokens| tokens.values()) {
        check_object(token)?;
        ids += token.get("ids").and_then(Value::as_array).map_or(0, Vec::len);
    }
    if pieces("single").max(pieces("pair")).max(ids) > MAX_PIECES {
        return Err(format!("its template has more than {MAX_PIECES} pieces"));
    }
    parts_of(part).try_for_each(check_template)
}

/// Checks that a decoder does not strip the ends of tokens, because the library panics on tokens shorter than the stripped part, and that
/// it does not replace the empty text, which matches everywhere.
pub(super) fn check_decoder(decoder: &Value) -> Result<(), String> {
    let strips = decoder.get("content").is_some() && decoder.get("start").is_some();
    if strips && decoder.get("stop").is_some_and(|stop| stop.as_u64() != Some(0)) {
        return Err(format!(
            "the decoder `Strip` panics on short tokens: `stop` is {}, not 0",
            decoder["stop"]
        ));
    }
    for name in ["suffix", "word_delimiter_token"] {
        if decoder.get(name).and_then(Value::as_str).is_some_and(str::is_empty) {
            return Err(format!("the decoder replaces an empty text: `{name}` is empty"));
        }
    }
    parts_of(decoder).try_for_each(check_decoder)
}

/// Factor by which a sequence of steps lengthens a text.
pub(super) struct Growth {
    times: usize,
    most: usize,
    /// Factor of the Unicode normalization forms that steps apply; 1 if there is none.
    form: usize,
}

impl Default for Growth {
    fn default() -> Self {
        Self { times: 1, most: MAX_GROWTH, form: 1 }
    }
}

impl Growth {
    /// Adds the steps of the pre-tokenizer, which follow those of the normalizer.
    pub(super) fn add_after(&mut self, part: &Value) -> Result<(), String> {
        self.most = MAX_GROWTH_BEFORE_MODEL;
        self.add(part)
    }

    /// Returns the factor with that of the first Unicode normalization form.
    pub(super) fn most_times(&self) -> usize {
        self.times.saturating_mul(self.form)
    }

    /// Adds the steps of `part`.
    pub(super) fn add(&mut self, part: &Value) -> Result<(), String> {
        check_object(part)?;
        let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
        self.times = self.times.saturating_mul(own_growth(part, kind)?);
        if let Some(growth) = form_growth(part, kind) {
            // Published normalizers have one beside `Precompiled`, which takes the same characters apart.
            if self.form > 1 {
                self.times = self.times.saturating_mul(growth);
            }
            self.form = self.form.max(growth);
        }
        if self.times > self.most {
            return Err(format!("`{kind}` makes a text more than {} times as long", self.most));
        }
        parts_of(part).try_for_each(|part| self.add(part))
    }
}

/// Returns the factor of one step, without its nested parts. The library also recognizes steps without a type, or with an unknown one,
/// by their fields, and ignores other fields.
fn own_growth(part: &Value, kind: &str) -> Result<usize, String> {
    let has = |name: &str| part.get(name).is_some();
    let mut growth: usize = 1;
    if has("pattern") && has("content") {
        growth = growth.saturating_mul(replacement(part)?.max(1));
    }
    if kind == "Prepend" || has("prepend") {
        let added = part.get("prepend").and_then(Value::as_str).unwrap_or_default();
        if added.is_empty() {
            return Err("the normalizer `Prepend` adds an empty text".to_owned());
        }
        growth = growth.saturating_mul(added.len() + 1);
    }
    if kind == "Precompiled" || has("precompiled_charsmap") {
        growth = growth.saturating_mul(check_precompiled(part)?.max(1));
    }
    if kind == "Metaspace" || has("replacement") {
        let replacement = part.get("replacement").and_then(Value::as_str).unwrap_or_default();
        growth = growth.saturating_mul(replacement.len().max(1));
    }
    // Bytes become letters of two bytes, and tokens words with a space.
    if kind == "ByteLevel" || has("trim_offsets") || kind == "WordPiece" || has("cleanup") {
        growth = growth.saturating_mul(2);
    }
    Ok(growth)
}

/// Returns the factor of a Unicode normalization that is not the first.
fn form_growth(part: &Value, kind: &str) -> Option<usize> {
    match kind {
        "NFKC" | "NFKD" => Some(COMPATIBILITY_FORM_GROWTH),
        "NFC" | "NFD" | "Bert" | "BertNormalizer" => Some(FORM_GROWTH),
        _ => part.get("strip_accents").map(|_| FORM_GROWTH),
    }
}

/// Returns the factor of the normalizer `Replace`.
fn replacement(part: &Value) -> Result<usize, String> {
    let content = part.get("content").and_then(Value::as_str).unwrap_or_default();
    let pattern = part.get("pattern").unwrap_or(&Value::Null);
    let text = pattern.get("String").or_else(|| pattern.get("Regex")).and_then(Value::as_str);
    let Some(text) = text else { return Ok(1) };
    if text.is_empty() {
        return Err("`Replace` looks for an empty text".to_owned());
    }
    // A regular expression may match a single byte, or the place between two.
    let matched = if pattern.get("String").is_some() { text.len() } else { 1 };
    Ok(content.len().div_ceil(matched) + usize::from(pattern.get("Regex").is_some()))
}

/// Checks the table of a precompiled normalizer: the length of its tree, the tree, and texts that end in NUL. Returns
/// its factor, assuming that the longest replacement is for a three-byte character.
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
