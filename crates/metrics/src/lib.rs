//! Scores of a language model as pure functions: perplexity, chrF, chrF++, BLEU, exact match, and what is
//! needed to read a difference between two models with care.
//!
//! Every score is on the scale its field prints: BLEU, chrF and exact match run from 0 to 100, perplexity from 1
//! up. chrF and BLEU equal sacreBLEU 2.6.0 with one reference a row; the reference table is in
//! `tests/fixtures/`. A floating-point identity may end a few units in the last place above 100, as it does
//! there.
//!
//! Three habits are built in, since their absence flatters a model:
//!
//! - a **failed row counts as 0** ([`row_scores`], [`text_or_empty`]) and is never dropped from a mean;
//! - a difference comes with its **paired bootstrap interval** ([`bootstrap`]);
//! - a score stands beside its **floors** ([`floor`]): what copying the source gets, and what the reference of
//!   another row gets.
//!
//! Not here: files, models, tokenizers of a model, embeddings. Random draws come from a pinned ChaCha8 stream with
//! the seed in the arguments, so a number printed today is printed again in a year.
//!
//! ```
//! use metrics::{Bleu, Chrf, LossSum, bootstrap::{Bootstrap, paired_means}};
//!
//! let loss: LossSum = [LossSum::new(6.0, 3), LossSum::new(2.0, 1)].into_iter().sum();
//! assert_eq!(loss.mean(), Some(2.0)); // weighted by tokens
//!
//! let pairs = [("the chief slept", "the chief slept"), ("a canoe", "the canoe came")];
//! assert!(Chrf::CHRF.corpus(pairs) > 50.0);
//! assert!(Bleu::default().corpus(pairs) < 100.0);
//!
//! let comparison = paired_means(&[0.1, 0.2, 0.3], &[0.2, 0.4, 0.5], &Bootstrap::default())?;
//! assert!(comparison.difference.low > 0.0);
//! # Ok::<(), metrics::Error>(())
//! ```

mod bleu;
pub mod bootstrap;
mod chrf;
mod error;
pub mod floor;
mod ngrams;
mod perplexity;
pub mod random;
mod rows;
mod text;
mod tokenize;

pub use bleu::{Bleu, BleuStatistics, MAX_ORDER, Smoothing};
pub use chrf::{Chrf, ChrfStatistics};
pub use error::Error;
pub use perplexity::LossSum;
pub use rows::{exact_match, is_exact_match, row_scores, text_or_empty};
pub use tokenize::Tokenization;
