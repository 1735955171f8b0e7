//! chrF, chrF++ and BLEU against sacreBLEU's own numbers.

use std::collections::BTreeMap;

use metrics::{Bleu, Chrf, Smoothing, Tokenization};
use serde::Deserialize;

/// Sums of the same terms in the same order: only `exp` and `ln` may differ, by a unit in the last place.
const TOLERANCE: f64 = 1e-9;

#[derive(Deserialize)]
#[serde(untagged)]
enum Record {
    Row { hypothesis: String, reference: String, scores: BTreeMap<String, f64> },
    Corpus { rows: Vec<usize>, scores: BTreeMap<String, f64> },
}

fn records() -> Vec<Record> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sacrebleu/scores.jsonl");
    let text = fs_err::read_to_string(path).expect("fixture");
    text.lines().map(|line| serde_json::from_str(line).expect("record")).collect()
}

fn bleu(name: &str) -> Option<Bleu> {
    let smoothing = |smoothing| Bleu { smoothing, ..Bleu::default() };
    Some(match name {
        "bleu" => Bleu::default(),
        "bleu_none" => Bleu { tokenization: Tokenization::None, ..Bleu::default() },
        "bleu_unsmoothed" => smoothing(Smoothing::None),
        "bleu_floor" => smoothing(Smoothing::Floor(0.1)),
        "bleu_add_k" => smoothing(Smoothing::AddK(1.0)),
        _ => return None,
    })
}

fn chrf(name: &str) -> Chrf {
    if name == "chrf" { Chrf::CHRF } else { Chrf::CHRF_PLUS_PLUS }
}

fn assert_equal(name: &str, ours: f64, theirs: f64, place: &str) {
    assert!((ours - theirs).abs() <= TOLERANCE, "{name} of {place}: {ours} against {theirs}");
    assert_eq!(format!("{ours:.2}"), format!("{theirs:.2}"), "{name} of {place}");
}

#[test]
fn every_row_and_every_corpus_equals_sacrebleu() {
    let records = records();
    let mut pairs = Vec::new();
    let mut compared = 0;
    for record in &records {
        match record {
            Record::Row { hypothesis, reference, scores } => {
                for (name, &theirs) in scores {
                    let ours = match bleu(name) {
                        Some(bleu) => bleu.sentence(hypothesis, reference),
                        None => chrf(name).sentence(hypothesis, reference),
                    };
                    assert_equal(name, ours, theirs, &format!("{hypothesis:?} / {reference:?}"));
                    compared += 1;
                }
                pairs.push((hypothesis.as_str(), reference.as_str()));
            }
            Record::Corpus { rows, scores } => {
                for (name, &theirs) in scores {
                    let chosen = rows.iter().map(|&row| pairs[row]);
                    let ours = match bleu(name) {
                        Some(bleu) => bleu.corpus(chosen),
                        None => chrf(name).corpus(chosen),
                    };
                    assert_equal(name, ours, theirs, &format!("{} rows", rows.len()));
                    compared += 1;
                }
            }
        }
    }
    assert!(pairs.len() >= 300 && compared > 7 * 300, "{} pairs, {compared} scores", pairs.len());
}
