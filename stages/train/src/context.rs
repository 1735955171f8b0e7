//! Rows that are longer than the model's context.

use std::path::Path;

use dataset::Split;
use failure::Result;

/// Warns for each split with rows of more tokens than the model's context; `folder` is the model.
///
/// # Errors
///
/// Fails when `config.json` cannot be read.
pub(crate) fn warn_about_long_rows(folder: &Path, splits: &[(&str, &Split)]) -> Result<()> {
    let Some(context) = models::context_length(&folder.join("config.json"))? else { return Ok(()) };
    for (name, split) in splits {
        if let Some(warning) = warning(name, (0..split.len()).map(|row| split.row_length(row)), context) {
            tracing::warn!("{warning}");
        }
    }
    Ok(())
}

/// Describes the rows that are too long; `None` if there are none.
fn warning(split: &str, lengths: impl ExactSizeIterator<Item = usize>, context: usize) -> Option<String> {
    let rows = lengths.len();
    let (mut count, mut longest) = (0, 0);
    for length in lengths.filter(|&length| length > context) {
        count += 1;
        longest = longest.max(length);
    }
    (count > 0).then(|| {
        format!(
            "{count} of {rows} rows of the {split} split are longer than the model's context of {context} tokens (the \
             longest has {longest}); set `max_tokens = {context}` in prepare-data to leave out or truncate them"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_beyond_the_context_are_counted() {
        let told = warning("train", [3, 512, 513, 700].into_iter(), 512).expect("two rows are longer");
        assert!(
            told.starts_with("2 of 4 rows of the train split") && told.contains("the longest has 700"),
            "{told}"
        );
        assert_eq!(warning("train", [3, 512].into_iter(), 512), None);
    }
}
