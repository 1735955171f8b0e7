//! Checking the tokens of a dataset against the vocabulary of a model.

use dataset::Split;
use models::Model;

use crate::error::{Error, Result};

/// Checks that `model` has an embedding for every token of `split`, called `name` in errors.
///
/// MLX does not check indices: it would read memory past the end of the table.
///
/// # Errors
///
/// Fails at the first token without an embedding, and names its row.
pub fn check_vocabulary(model: &Model, split: &Split, name: &str) -> Result<()> {
    let vocabulary = model.vocabulary() as u32;
    for row in 0..split.len() {
        let outside = split.row(row).tokens.iter().find(|&&token| token >= vocabulary);
        if let Some(&token) = outside {
            return Err(Error::UnknownToken { split: name.to_owned(), row, token, vocabulary });
        }
    }
    Ok(())
}
