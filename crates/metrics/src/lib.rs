//! Scores of a language model as pure functions, with intervals and floors: perplexity; BLEU, chrF, chrF++ and TER; exact match;
//! labels, short answers, JSON and tool calls.
//!
//! [`Metric`] names them all. Most are on a scale from 0 to 100. Perplexity starts at 1; TER is 0 for a perfect answer and has
//! no upper limit, because an answer can need more edits than its reference has words. BLEU, chrF and TER equal those of
//! sacreBLEU 2.6.0 with one reference per row, signatures included; the reference tables are in `tests/fixtures/`. As in
//! sacreBLEU, rounding may put a perfect score a few units in the last place above 100.
//!
//! Four rules keep scores from flattering a model:
//!
//! - a row without an answer counts as 0 ([`text_or_empty`]), or as a bad answer where lower is better; it is never left out of
//!   a mean;
//! - a difference comes with its paired bootstrap interval ([`bootstrap`]);
//! - many differences are corrected for their number ([`significance`]);
//! - a score comes with its floors ([`floor`]): the score of the copied source, and of the references of other rows.
//!
//! Reading files and running models are left to the callers. Random draws come from a ChaCha8 stream with the seed in the
//! arguments, so the same call gives the same number on every machine.
//!
//! ```
//! use metrics::{Bleu, Chrf, LossSum, bootstrap::Bootstrap, paired_losses, resample::Units};
//!
//! let base = [LossSum::new(6.0, 3), LossSum::new(2.0, 1)];
//! let total: LossSum = base.into_iter().sum();
//! assert_eq!(total.mean(), Some(2.0)); // weighted by targets
//!
//! let pairs = [("the chief slept", "the chief slept"), ("a canoe", "the canoe came")];
//! assert!(Chrf::CHRF.corpus(pairs) > 50.0);
//! assert!(Bleu::default().corpus(pairs) < 100.0);
//!
//! let tuned = [LossSum::new(3.0, 3), LossSum::new(1.0, 1)];
//! let change = paired_losses(&base, &tuned, &Units::rows(2), &Bootstrap::default())?;
//! assert!(change.value == -1.0 && change.high < 0.0);
//! # Ok::<(), metrics::Error>(())
//! ```

mod bleu;
pub mod bootstrap;
mod calls;
mod chrf;
mod counts;
mod error;
mod extract;
pub mod floor;
mod metric;
mod ngrams;
mod paired;
mod perplexity;
pub mod random;
pub mod resample;
mod rows;
pub mod significance;
mod structured;
mod tasks;
mod ter;
mod text;
mod tokenize;

pub use bleu::{Bleu, BleuStatistics, MAX_ORDER, Smoothing};
pub use calls::{tool_call_count, tool_calls_match};
pub use chrf::{Chrf, ChrfStatistics};
pub use counts::{Counts, Formula};
pub use error::Error;
pub use extract::Extraction;
pub use metric::{Better, Metric};
pub use paired::paired_losses;
pub use perplexity::LossSum;
pub use rows::{exact_match, is_exact_match, text_or_empty};
pub use structured::{json_fields, parse_json};
pub use tasks::token_f1;
pub use tokenize::Tokenization;
