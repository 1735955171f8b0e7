//! BLEU, chrF, chrF++ and TER against sacreBLEU's own numbers.

use std::collections::BTreeMap;

use metrics::{Bleu, Metric, Smoothing};
use serde::Deserialize;

/// Sums of the same terms in the same order: only `exp` and `ln` may differ, by a unit in the last place.
const TOLERANCE: f64 = 1e-9;

#[derive(Deserialize)]
#[serde(untagged)]
enum Record {
    Row { hypothesis: String, reference: String, scores: BTreeMap<String, f64> },
    Corpus { rows: Vec<usize>, scores: BTreeMap<String, f64> },
    Signatures { signatures: BTreeMap<String, String> },
}

fn records() -> Vec<Record> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sacrebleu/scores.jsonl");
    let text = fs_err::read_to_string(path).expect("fixture");
    text.lines().map(|line| serde_json::from_str(line).expect("record")).collect()
}

/// BLEU with a smoothing that is not the default.
fn smoothed(name: &str) -> Option<Bleu> {
    let smoothing = match name {
        "bleu_unsmoothed" => Smoothing::None,
        "bleu_floor" => Smoothing::Floor(0.1),
        "bleu_add_k" => Smoothing::AddK(1.0),
        _ => return None,
    };
    Some(Bleu { smoothing, ..Bleu::default() })
}

fn metric(name: &str) -> Metric {
    Metric::by_name(name).unwrap_or_else(|| panic!("no metric `{name}`"))
}

fn assert_equal(name: &str, ours: f64, theirs: f64, place: &str) {
    assert!((ours - theirs).abs() <= TOLERANCE, "{name} of {place}: {ours} against {theirs}");
    assert_eq!(format!("{ours:.2}"), format!("{theirs:.2}"), "{name} of {place}");
}

#[test]
fn every_row_and_every_corpus_equals_sacrebleu() {
    let records = records();
    let mut pairs = Vec::new();
    let (mut compared, mut corpora) = (0, 0);
    for record in &records {
        match record {
            Record::Row { hypothesis, reference, scores } => {
                let (hypothesis, reference) = (hypothesis.as_str(), reference.as_str());
                for (name, &theirs) in scores {
                    let ours = match smoothed(name) {
                        Some(bleu) => bleu.sentence(hypothesis, reference),
                        None => metric(name).counts(&[(Some(hypothesis), reference)]).row_scores()[0],
                    };
                    assert_equal(name, ours, theirs, &format!("{hypothesis:?} / {reference:?}"));
                    compared += 1;
                }
                pairs.push((hypothesis, reference));
            }
            Record::Corpus { rows, scores } => {
                corpora += 1;
                let chosen: Vec<(&str, &str)> = rows.iter().map(|&row| pairs[row]).collect();
                let answers: Vec<_> = chosen.iter().map(|&(answer, truth)| (Some(answer), truth)).collect();
                for (name, &theirs) in scores {
                    let ours = match smoothed(name) {
                        Some(bleu) => bleu.corpus(chosen.iter().copied()),
                        None => metric(name).counts(&answers).score(),
                    };
                    assert_equal(name, ours, theirs, &format!("{} rows", rows.len()));
                    compared += 1;
                }
            }
            Record::Signatures { signatures } => {
                for (name, theirs) in signatures {
                    assert_eq!(&metric(name).signature(), theirs);
                }
            }
        }
    }
    assert!(
        pairs.len() >= 400 && corpora >= 200 && compared > 11 * 600,
        "{} pairs, {compared} scores",
        pairs.len()
    );
}
