//! Numbers of the metadata that no model has: zero heads, a billion blocks, a frequency base of zero.
//!
//! Shapes are computed from them, so they are checked before anything else reads them.

use crate::error::{Error, Result};
use crate::metadata::Metadata;

/// Sizes below the architecture's name, each with the largest value that is plausible; the smallest is 1.
const SIZES: [(&str, u64); 12] = [
    ("attention.head_count", 1 << 16),
    ("attention.head_count_kv", 1 << 16),
    ("attention.key_length", 1 << 16),
    ("attention.sliding_window_pattern", 1 << 14),
    ("attention.value_length", 1 << 16),
    // Several times those of the largest published models.
    ("block_count", 1000),
    ("context_length", 1 << 31),
    ("embedding_length", 1 << 20),
    ("feed_forward_length", 1 << 24),
    ("rope.dimension_count", 1 << 16),
    ("rope.scaling.original_context_length", 1 << 31),
    ("vocab_size", 1 << 24),
];
/// Sizes of which 0 means none.
const SIZES_OR_NONE: [(&str, u64); 1] = [("attention.sliding_window", 1 << 31)];
/// Numbers that divide, are raised to a power, or keep a root from zero.
const POSITIVE: [&str; 4] =
    ["attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.freq_base_swa", "rope.scaling.attn_factor"];
/// Divisors of which 0 means none.
const POSITIVE_OR_NONE: [&str; 4] =
    ["attn_logit_softcapping", "final_logit_softcapping", "rope.scale_linear", "rope.scaling.factor"];

/// Checks type and range of every number of the architecture `name`.
///
/// # Errors
///
/// Names the first key whose number no model has.
pub(crate) fn check(metadata: Metadata<'_>, name: &str) -> Result<()> {
    let sizes = SIZES.iter().map(|&(key, most)| (key, 1, most));
    let optional = SIZES_OR_NONE.iter().map(|&(key, most)| (key, 0, most));
    for (key, least, most) in sizes.chain(optional) {
        let key = format!("{name}.{key}");
        if let Some(number) = metadata.integer(&key)?.filter(|number| !(least..=most).contains(number)) {
            return Err(Error::Content(format!("`{key}` is {number}, expected {least} to {most}")));
        }
    }
    let positive = POSITIVE.iter().map(|&key| (key, false));
    for (key, may_be_zero) in positive.chain(POSITIVE_OR_NONE.iter().map(|&key| (key, true))) {
        let key = format!("{name}.{key}");
        let is_wrong = |number: &f64| *number < 0.0 || (*number == 0.0 && !may_be_zero);
        if let Some(number) = metadata.float(&key)?.filter(is_wrong) {
            return Err(Error::Content(format!("`{key}` is {number}, expected a number above 0")));
        }
    }
    heads(metadata, name)
}

/// Checks that the heads share the width of the model, and the key-value heads.
fn heads(metadata: Metadata<'_>, name: &str) -> Result<()> {
    let number = |key: &str| {
        let key = format!("{name}.{key}");
        Ok::<_, Error>(metadata.integer(&key)?.map(|number| (key, number)))
    };
    let Some((heads_key, heads)) = number("attention.head_count")? else { return Ok(()) };
    let has_own_width = number("attention.key_length")?.is_some();
    let shared = number("attention.head_count_kv")?.filter(|(_, shared)| heads % shared != 0);
    let width = number("embedding_length")?.filter(|(_, width)| !has_own_width && width % heads != 0);
    match (shared, width) {
        (Some((key, shared)), _) => Err(Error::Content(format!(
            "`{heads_key}` is {heads}, not a multiple of `{key}`, which is {shared}"
        ))),
        (_, Some((key, width))) => Err(Error::Content(format!(
            "`{key}` is {width}, not a multiple of `{heads_key}`, which is {heads}"
        ))),
        _ => Ok(()),
    }
}
