//! Properties that hold for every text.

use metrics::bootstrap::{Bootstrap, interval};
use metrics::paired_losses;
use metrics::random::derangement;
use metrics::resample::Units;
use metrics::{Bleu, Chrf, LossSum, Smoothing, Tokenization, exact_match};
use proptest::collection::vec;
use proptest::prelude::*;

/// A score of equal texts may end a few units in the last place above 100.
const ROUNDING: f64 = 1e-9;

const METRICS: [Chrf; 2] = [Chrf::CHRF, Chrf::CHRF_PLUS_PLUS];

fn bleus() -> Vec<Bleu> {
    let mut settings = Vec::new();
    for tokenization in [Tokenization::V13a, Tokenization::None] {
        for smoothing in [Smoothing::None, Smoothing::Exp, Smoothing::Floor(0.1), Smoothing::AddK(1.0)] {
            settings.push(Bleu { tokenization, smoothing });
        }
    }
    settings
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[aeiouāēīōūʻhklmnpw .,!?'&;0-9-]{0,40}",
        "\\PC{0,20}",
        vec(prop_oneof!["ka", "ke", "aliʻi", "nui", "o", "i", "."], 0..12).prop_map(|words| words.join(" ")),
    ]
}

fn in_range(score: f64) -> bool {
    (0.0..=100.0 + ROUNDING).contains(&score)
}

fn borrowed(rows: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    rows.iter().map(|(hypothesis, reference)| (hypothesis.as_str(), reference.as_str()))
}

proptest! {
    #[test]
    fn scores_stay_between_0_and_100(hypothesis in text(), reference in text()) {
        for chrf in METRICS {
            prop_assert!(in_range(chrf.sentence(&hypothesis, &reference)));
        }
        for bleu in bleus() {
            prop_assert!(in_range(bleu.sentence(&hypothesis, &reference)));
            prop_assert!(in_range(bleu.corpus([(hypothesis.as_str(), reference.as_str())])));
        }
    }

    #[test]
    fn a_text_against_itself_scores_100(text in text()) {
        prop_assume!(text.chars().any(char::is_alphanumeric));
        for chrf in METRICS {
            prop_assert!((chrf.sentence(&text, &text) - 100.0).abs() < ROUNDING);
        }
        for bleu in bleus() {
            prop_assert!((bleu.sentence(&text, &text) - 100.0).abs() < ROUNDING);
        }
        prop_assert!((exact_match([(text.as_str(), text.as_str())]) - 100.0).abs() < ROUNDING);
    }

    #[test]
    fn the_order_of_rows_does_not_change_a_corpus(rows in vec((text(), text()), 0..8)) {
        let mut turned = rows.clone();
        turned.reverse();
        for chrf in METRICS {
            prop_assert!(chrf.corpus(borrowed(&rows)).total_cmp(&chrf.corpus(borrowed(&turned))).is_eq());
        }
        for bleu in bleus() {
            prop_assert!(bleu.corpus(borrowed(&rows)).total_cmp(&bleu.corpus(borrowed(&turned))).is_eq());
        }
    }

    #[test]
    fn repeating_every_row_keeps_unsmoothed_corpus_scores(rows in vec((text(), text()), 1..6)) {
        let twice: Vec<_> = rows.iter().chain(&rows).cloned().collect();
        for chrf in METRICS {
            prop_assert!((chrf.corpus(borrowed(&rows)) - chrf.corpus(borrowed(&twice))).abs() < ROUNDING);
        }
        let bleu = Bleu { smoothing: Smoothing::None, ..Bleu::default() };
        prop_assert!((bleu.corpus(borrowed(&rows)) - bleu.corpus(borrowed(&twice))).abs() < ROUNDING);
    }

    #[test]
    fn a_failed_row_never_helps(rows in vec((text(), text()), 1..6), failed in text()) {
        let mut with: Vec<_> = rows.clone();
        with.push((String::new(), failed));
        prop_assert!(Chrf::CHRF.corpus(borrowed(&with)) <= Chrf::CHRF.corpus(borrowed(&rows)) + ROUNDING);
        prop_assert!(Bleu::default().corpus(borrowed(&with)) <= Bleu::default().corpus(borrowed(&rows)) + ROUNDING);
    }

    #[test]
    fn the_mean_loss_does_not_depend_on_how_rows_are_cut(rows in vec((0.0..20.0f64, 1u64..50), 2..20), cut in 1usize..19) {
        let rows: Vec<LossSum> = rows.into_iter().map(|(mean, tokens)| LossSum::new(mean * tokens as f64, tokens)).collect();
        let (left, right) = rows.split_at(cut.min(rows.len() - 1));
        let whole: LossSum = rows.iter().copied().sum();
        let parts = left.iter().copied().sum::<LossSum>() + right.iter().copied().sum();
        prop_assert_eq!(whole.tokens, parts.tokens);
        prop_assert!((whole.mean().unwrap() - parts.mean().unwrap()).abs() < 1e-9);
        let (least, most) = rows.iter().fold((f64::MAX, f64::MIN), |(least, most), row| {
            (least.min(row.mean().unwrap()), most.max(row.mean().unwrap()))
        });
        let perplexity = whole.perplexity().unwrap();
        prop_assert!(perplexity >= least.exp() * (1.0 - 1e-9) && perplexity <= most.exp() * (1.0 + 1e-9));
    }

    #[test]
    fn a_derangement_moves_every_row_once(rows in 2usize..200, seed: u64) {
        let order = derangement(rows, seed).unwrap();
        prop_assert!(order.iter().enumerate().all(|(place, &row)| place != row));
        let mut sorted = order.clone();
        sorted.sort_unstable();
        prop_assert!(sorted.into_iter().eq(0..rows));
        prop_assert_eq!(Some(order), derangement(rows, seed));
    }

    #[test]
    fn intervals_are_ordered_repeatable_and_antisymmetric(
        rows in vec((-1.0..1.0f64, -1.0..1.0f64), 1..12), seed: u64, confidence in 0.5..0.99f64,
    ) {
        let losses = |nats: Vec<f64>| nats.into_iter().map(|nats| LossSum::new(nats, 1)).collect::<Vec<_>>();
        let (base, other): (Vec<f64>, Vec<f64>) = rows.into_iter().unzip();
        let (base, other) = (losses(base), losses(other));
        let settings = Bootstrap { resamples: 200, confidence, seed };
        let units = Units::rows(base.len());
        let there = paired_losses(&base, &other, &units, &settings).unwrap();
        let back = paired_losses(&other, &base, &units, &settings).unwrap();
        prop_assert!(there.low <= there.high);
        prop_assert_eq!(there, paired_losses(&base, &other, &units, &settings).unwrap());
        prop_assert!((there.low + back.high).abs() < 1e-12);
        let least = base.iter().zip(&other).map(|(a, b)| b.nats - a.nats).fold(f64::MAX, f64::min);
        prop_assert!(there.low >= least - 1e-12);
    }

    #[test]
    fn draws_stay_inside_the_rows(rows in 1usize..30, seed: u64) {
        let settings = Bootstrap { resamples: 20, seed, ..Bootstrap::default() };
        let seen = interval(rows, &settings, |draw| {
            assert!(draw.len() == rows && draw.iter().all(|&row| row < rows));
            0.0
        });
        prop_assert!(seen.is_ok());
    }
}
