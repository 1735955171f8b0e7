//! Whether a model knows all tokens of a dataset.

use crate::error::{Error, Result};
use dataset::Split;
use models::Model;

/// Fails at the first row of `split` with a token that `model` has no embedding for.
///
/// MLX takes indices on trust: it would compute with whatever lies behind the table.
///
/// # Errors
///
/// Names the row and the token.
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
