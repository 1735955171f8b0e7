//! Similarity of meaning: the cosine of the vectors that a sentence encoder gives two texts.

use std::collections::BTreeMap;
use std::path::Path;

use dataset::TextTokenizer;
use models::{Encoder, LoadOptions};

use crate::error::Result;

/// A sentence encoder with its tokenizer.
pub struct TextEncoder {
    encoder: Encoder,
    tokenizer: TextTokenizer,
}

/// Vectors of texts.
#[derive(Debug, Default)]
pub struct TextVectors<'a> {
    by_text: BTreeMap<&'a str, Vec<f32>>,
}

impl TextEncoder {
    /// Opens the folder of an encoder: network, pooling and tokenizer.
    ///
    /// # Errors
    ///
    /// Fails when the network is not supported, or when a file is missing or damaged.
    pub fn open(folder: &Path, options: &LoadOptions) -> Result<Self> {
        Ok(Self { encoder: Encoder::load(folder, options)?, tokenizer: TextTokenizer::open(folder)? })
    }

    /// Returns the vectors of all different texts. They do not depend on `batch_size`, nor on the other texts.
    ///
    /// # Errors
    ///
    /// Fails when a text cannot be tokenized or has a token without an embedding, and when MLX fails.
    pub fn vectors<'a>(
        &self,
        texts: impl IntoIterator<Item = &'a str>,
        batch_size: usize,
    ) -> Result<TextVectors<'a>> {
        let mut by_text: BTreeMap<&str, Vec<f32>> =
            texts.into_iter().map(|text| (text, Vec::new())).collect();
        let tokens = by_text.keys().map(|text| {
            let tokens = self.tokenizer.encode(&self.encoder.prepared(text), true)?;
            Ok(self.encoder.truncated(tokens))
        });
        let tokens = tokens.collect::<Result<Vec<_>>>()?;
        let vectors = self.encoder.encode(&tokens, batch_size)?;
        by_text.values_mut().zip(vectors).for_each(|(slot, vector)| *slot = vector);
        Ok(TextVectors { by_text })
    }
}

impl TextVectors<'_> {
    /// Returns the cosine of two texts, -1 to 1; 0 if a text has no vector, or one without length.
    pub fn cosine(&self, a: &str, b: &str) -> f64 {
        match (self.by_text.get(a), self.by_text.get(b)) {
            (Some(a), Some(b)) => cosine(a, b),
            _ => 0.0,
        }
    }

    /// Returns the cosine of each answer to its reference; 0 without an answer.
    pub fn cosines<'t>(&self, pairs: impl IntoIterator<Item = (Option<&'t str>, &'t str)>) -> Vec<f64> {
        let cosine =
            |(answer, reference): (Option<&str>, &str)| answer.map_or(0.0, |it| self.cosine(it, reference));
        pairs.into_iter().map(cosine).collect()
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_do_not_depend_on_length() {
        assert!((cosine(&[1.0, 1.0], &[3.0, 0.0]) - 0.5f64.sqrt()).abs() < 1e-12);
        assert!(cosine(&[0.0, 0.0], &[1.0, 0.0]).abs() < f64::EPSILON);
    }

    #[test]
    fn a_row_without_an_answer_scores_zero() {
        let vectors = TextVectors { by_text: [("a", vec![1.0]), ("b", vec![-1.0])].into() };
        assert_eq!(
            vectors.cosines([(Some("a"), "a"), (Some("b"), "a"), (None, "a"), (Some("c"), "a")]),
            [1.0, -1.0, 0.0, 0.0]
        );
    }
}
