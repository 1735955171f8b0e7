//! Metrics by name: what settings ask for and what result files show.

use crate::bleu::Bleu;
use crate::chrf::{Chrf, ChrfStatistics};
use crate::counts::{Counts, Formula};
use crate::rows::text_or_empty;
use crate::tokenize::Tokenization;
use crate::{calls, rows, structured, tasks, ter, text};

/// A score of answers against references.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// BLEU with a rule that splits words.
    Bleu(Tokenization),
    /// chrF.
    Chrf,
    /// chrF++.
    ChrfPlusPlus,
    /// Translation edit rate: edits per 100 words of the references, which can exceed 100.
    Ter,
    /// Answers that equal their reference.
    ExactMatch,
    /// Labels that equal their reference without case.
    LabelAccuracy,
    /// Mean F1 over the labels of the references.
    LabelF1,
    /// F1 of the words, as for SQuAD.
    TokenF1,
    /// Answers that are JSON.
    JsonValid,
    /// F1 of the fields of JSON.
    JsonFields,
    /// Answers with the tool calls of their reference.
    ToolCalls,
    /// Characters of the answers divided by those of the references.
    LengthRatio,
    /// Share of word 4-grams that repeat one of the same answer.
    Repetition,
}

/// Better direction of a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Higher.
    Higher,
    /// Lower.
    Lower,
    /// Neither.
    Neither,
}

/// Every metric with its name in settings and files, its title, and its better direction.
const ALL: [(Metric, &str, &str, Better); 17] = [
    (Metric::Bleu(Tokenization::V13a), "bleu", "BLEU", Better::Higher),
    (Metric::Bleu(Tokenization::International), "bleu_intl", "BLEU (intl)", Better::Higher),
    (Metric::Bleu(Tokenization::Characters), "bleu_char", "BLEU (char)", Better::Higher),
    (Metric::Bleu(Tokenization::Chinese), "bleu_zh", "BLEU (zh)", Better::Higher),
    (Metric::Bleu(Tokenization::None), "bleu_none", "BLEU (none)", Better::Higher),
    (Metric::Chrf, "chrf", "chrF", Better::Higher),
    (Metric::ChrfPlusPlus, "chrf_plus_plus", "chrF++", Better::Higher),
    (Metric::Ter, "ter", "TER", Better::Lower),
    (Metric::ExactMatch, "exact_match", "Exact match", Better::Higher),
    (Metric::LabelAccuracy, "label_accuracy", "Label accuracy", Better::Higher),
    (Metric::LabelF1, "label_f1", "Label F1", Better::Higher),
    (Metric::TokenF1, "token_f1", "Token F1", Better::Higher),
    (Metric::JsonValid, "json_valid", "Valid JSON", Better::Higher),
    (Metric::JsonFields, "json_fields", "JSON fields", Better::Higher),
    (Metric::ToolCalls, "tool_calls", "Tool calls", Better::Higher),
    (Metric::LengthRatio, "length_ratio", "Length ratio", Better::Neither),
    (Metric::Repetition, "repetition", "Repetition", Better::Lower),
];

impl Metric {
    /// Returns all metrics in the order in which they are shown.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.iter().map(|(metric, ..)| *metric)
    }

    /// Returns the metric of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        ALL.iter().find(|(_, known, ..)| *known == name).map(|(metric, ..)| *metric)
    }

    fn entry(self) -> &'static (Self, &'static str, &'static str, Better) {
        ALL.iter().find(|(metric, ..)| *metric == self).expect("every metric is in the table")
    }

    /// Returns the name in settings and files.
    pub fn name(self) -> &'static str {
        self.entry().1
    }

    /// Returns the name for people.
    pub fn title(self) -> &'static str {
        self.entry().2
    }

    /// Returns which direction is better.
    pub fn better(self) -> Better {
        self.entry().3
    }

    /// Returns sacreBLEU's signature; empty for other metrics.
    pub fn signature(self) -> String {
        match self {
            Self::Bleu(tokenization) => bleu(tokenization).signature(),
            Self::Chrf => Chrf::CHRF.signature(),
            Self::ChrfPlusPlus => Chrf::CHRF_PLUS_PLUS.signature(),
            Self::Ter => ter::signature(),
            _ => String::new(),
        }
    }

    /// Counts (answer, reference) pairs. A row without an answer counts as 0, or as a bad answer where lower is better.
    pub fn counts(self, pairs: &[(Option<&str>, &str)]) -> Counts {
        match self {
            Self::Bleu(tokenization) => {
                let bleu = bleu(tokenization);
                let row = |(answer, truth): &Pair<'_>| bleu.statistics(text_or_empty(*answer), truth);
                let statistics: Vec<_> = pairs.iter().map(row).collect();
                let scores = statistics.iter().map(|row| bleu.sentence_score(row)).collect();
                let rows: Vec<Vec<f64>> = statistics.iter().map(|row| row.to_counts()).collect();
                Counts::new(Formula::Bleu(bleu), &rows, scores)
            }
            Self::Chrf => chrf(Chrf::CHRF, pairs),
            Self::ChrfPlusPlus => chrf(Chrf::CHRF_PLUS_PLUS, pairs),
            Self::Ter => {
                let formula = Formula::Ratio { factor: 100.0, empty: 100.0 };
                ratios(formula, pairs, edits)
            }
            Self::LabelF1 => {
                let right = |answer: &str, truth: &str| percent(tasks::label(answer) == tasks::label(truth));
                Counts::new(Formula::MacroF1, &tasks::label_counts(pairs), row_scores(pairs, right))
            }
            Self::LengthRatio => {
                let lengths = |answer: Option<&str>, truth: &str| [answer.map_or(0.0, length), length(truth)];
                ratios(Formula::MEAN, pairs, lengths)
            }
            Self::Repetition => ratios(Formula::PERCENT, pairs, repetition),
            _ => Counts::of_scores(&row_scores(pairs, |answer, truth| self.row(answer, truth))),
        }
    }

    /// Returns why a score against these references says little; `None` if it says what it should.
    pub fn doubt(self, references: &[&str]) -> Option<String> {
        if self == Self::ToolCalls { calls::doubt(references) } else { None }
    }

    /// Returns the score of one answer, for metrics that are a mean over rows.
    fn row(self, answer: &str, truth: &str) -> f64 {
        match self {
            Self::ExactMatch => percent(rows::is_exact_match(answer, truth)),
            Self::LabelAccuracy => percent(tasks::label(answer) == tasks::label(truth)),
            Self::TokenF1 => 100.0 * tasks::token_f1(answer, truth),
            Self::JsonValid => percent(structured::parse_json(answer).is_some()),
            Self::JsonFields => 100.0 * structured::json_fields(answer, truth),
            Self::ToolCalls => percent(calls::tool_calls_match(answer, truth)),
            other => unreachable!("{} is not a mean over rows", other.name()),
        }
    }
}

/// An answer, if there is one, and its reference.
type Pair<'a> = (Option<&'a str>, &'a str);

fn bleu(tokenization: Tokenization) -> Bleu {
    Bleu { tokenization, ..Bleu::default() }
}

fn chrf(metric: Chrf, pairs: &[Pair<'_>]) -> Counts {
    let row = |(answer, truth): &Pair<'_>| metric.statistics(text_or_empty(*answer), truth);
    let statistics: Vec<_> = pairs.iter().map(row).collect();
    let scores = statistics.iter().map(|row| metric.score(row)).collect();
    let rows: Vec<Vec<f64>> = statistics.iter().map(ChrfStatistics::to_counts).collect();
    Counts::new(Formula::Chrf(metric), &rows, scores)
}

fn ratios(formula: Formula, pairs: &[Pair<'_>], row: impl Fn(Option<&str>, &str) -> [f64; 2]) -> Counts {
    let rows: Vec<[f64; 2]> = pairs.iter().map(|(answer, truth)| row(*answer, truth)).collect();
    Counts::of_ratios(formula, &rows)
}

/// Returns the edits of an answer and the words of its reference. Without an answer, every word is missing, and at least one.
fn edits(answer: Option<&str>, truth: &str) -> [f64; 2] {
    let [edits, words] = ter::edits(text_or_empty(answer), truth).map(|count| count as f64);
    [if answer.is_none() { edits.max(1.0) } else { edits }, words]
}

/// Returns how many word 4-grams repeat an earlier one, and how many there are. A missing answer counts as one as long as its
/// reference that only repeats itself, so that a model does not gain by failing.
fn repetition(answer: Option<&str>, truth: &str) -> [f64; 2] {
    match answer {
        Some(answer) => repeated(answer),
        None => [repeated(truth)[1].max(1.0); 2],
    }
}

/// Returns the score of every row; 0 without an answer.
fn row_scores(pairs: &[Pair<'_>], score: impl Fn(&str, &str) -> f64) -> Vec<f64> {
    pairs.iter().map(|(answer, truth)| answer.map_or(0.0, |answer| score(answer, truth))).collect()
}

fn percent(is_right: bool) -> f64 {
    if is_right { 100.0 } else { 0.0 }
}

/// Returns the number of characters without white space.
fn length(text: &str) -> f64 {
    text.chars().filter(|character| !text::is_space(*character)).count() as f64
}

/// Returns how many word 4-grams repeat an earlier one, and how many there are.
fn repeated(text: &str) -> [f64; 2] {
    const ORDER: usize = 4;
    let words: Vec<&str> = text::words(text).collect();
    let total = words.windows(ORDER).count();
    let distinct: std::collections::BTreeSet<&[&str]> = words.windows(ORDER).collect();
    [(total - distinct.len()) as f64, total as f64]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_their_metric() {
        for metric in Metric::all() {
            assert_eq!(Metric::by_name(metric.name()), Some(metric));
        }
        assert_eq!(Metric::by_name("BLEU"), None);
    }

    #[test]
    fn a_corpus_scores_as_its_counts_do() {
        let pairs = [("the chief slept", "the chief slept"), ("a canoe", "the canoe came"), ("", "he went")];
        let answers = pairs.map(|(answer, truth)| ((!answer.is_empty()).then_some(answer), truth));
        assert!((Metric::Chrf.counts(&answers).score() - Chrf::CHRF.corpus(pairs)).abs() < 1e-12);
        let bleu = Metric::Bleu(Tokenization::V13a).counts(&answers);
        assert!((bleu.score() - Bleu::default().corpus(pairs)).abs() < 1e-12);
        assert!((bleu.row_scores()[0] - 100.0).abs() < 1e-9);
        assert!((Metric::ExactMatch.counts(&answers).score() - 100.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn a_failed_row_is_never_right() {
        for metric in [Metric::ExactMatch, Metric::LabelAccuracy, Metric::TokenF1, Metric::ToolCalls] {
            assert!(metric.counts(&[(None, "")]).score().abs() < f64::EPSILON, "{}", metric.name());
            assert!((metric.counts(&[(Some(""), "")]).score() - 100.0).abs() < 1e-9, "{}", metric.name());
        }
    }

    #[test]
    fn a_failed_row_never_helps_where_lower_is_better() {
        let (truth, other) = ("he went to the sea again", "he slept there");
        for metric in Metric::all().filter(|metric| metric.better() == Better::Lower) {
            for truth in [truth, ""] {
                let score = |answer| metric.counts(&[(answer, truth), (Some(other), other)]);
                let (failed, good) = (score(None), score(Some(truth)));
                let name = metric.name();
                assert!(failed.score() > good.score(), "{name}: {} and {}", failed.score(), good.score());
                assert!(failed.row_scores()[0] > good.row_scores()[0], "{name}");
            }
        }
    }

    #[test]
    fn edit_rates_of_empty_references_are_all_or_nothing() {
        assert!((Metric::Ter.counts(&[(Some("a"), "")]).score() - 100.0).abs() < 1e-12);
        assert!(Metric::Ter.counts(&[(Some(""), "")]).score().abs() < 1e-12);
    }

    #[test]
    fn a_repeating_answer_is_noticed() {
        let counts =
            Metric::Repetition.counts(&[(Some("a b c d a b c d a b c d"), ""), (Some("a b c d e"), "")]);
        assert!((counts.score() - 100.0 * 5.0 / 11.0).abs() < 1e-9);
    }
}
