//! Translations side by side.

use chart::markup::{Element, classed, element};
use metrics::Chrf;
use outputs::Prediction;

use crate::headline::model_name;
use crate::number;
use crate::scores::{Table, answer};
use crate::source::Contents;

/// Number of characters shown before the rest of a text is folded.
const SHOWN_CHARACTERS: usize = 600;

/// Returns the section with the chosen rows; `None` if no text was generated.
pub(crate) fn section(contents: &Contents, table: &Table, wanted: usize) -> Option<Element> {
    let rows: Vec<&Prediction> =
        contents.predictions.iter().filter(|row| !row.predictions.is_empty()).collect();
    let ranking = table.tuned().unwrap_or(0);
    let chosen = choose(&rows, &table.models[ranking], wanted);
    if chosen.is_empty() {
        return None;
    }
    let how = if chosen.len() == rows.len() {
        format!("All {}, from best to worst", number::counted(rows.len() as u64, "row"))
    } else {
        format!(
            "{} of {}: the best, the worst and evenly spaced ranks between them, ranked",
            number::count(chosen.len() as u64),
            number::counted(rows.len() as u64, "row")
        )
    };
    let about = format!(
        "{how} by the row chrF of the {}; equal scores keep the order of the split.",
        model_name(&table.models[ranking]).to_lowercase()
    );
    Some(
        element("section")
            .attribute("id", "samples")
            .child(element("h2").text("Translations"))
            .child(classed("p", "about").text(about))
            .children(chosen.iter().map(|&(rank, row)| sample(row, rank, rows.len(), table, ranking))),
    )
}

/// Returns (rank, row) of the best, the worst and evenly spaced rows between, best first; rank counts from 0.
pub(crate) fn choose<'a>(
    rows: &[&'a Prediction],
    model: &str,
    wanted: usize,
) -> Vec<(usize, &'a Prediction)> {
    let mut ranked: Vec<(f64, &Prediction)> = rows.iter().map(|&row| (row_chrf(row, model), row)).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    let wanted = wanted.min(ranked.len());
    let last = ranked.len().saturating_sub(1);
    let place = |sample: usize| if wanted < 2 { 0 } else { sample * last / (wanted - 1) };
    (0..wanted).map(place).map(|place| (place, ranked[place].1)).collect()
}

fn row_chrf(row: &Prediction, model: &str) -> f64 {
    Chrf::CHRF.sentence(answer(row, model), &row.reference)
}

fn sample(row: &Prediction, rank: usize, rows: usize, table: &Table, ranking: usize) -> Element {
    let place = match rank {
        0 if rows > 1 => "best".to_owned(),
        rank if rank + 1 == rows && rows > 1 => "worst".to_owned(),
        rank => format!("rank {} of {}", number::count(rank as u64 + 1), number::count(rows as u64)),
    };
    let head = classed("header", "sample-head")
        .child(element("h3").child(element("bdi").text(&row.id)))
        .child(classed("span", "rank").text(place));
    let answers = table.models.iter().enumerate().map(|(model, name)| {
        let class = if model == ranking { "text tuned" } else { "text" };
        let score = format!("chrF {}", number::fixed(row_chrf(row, name), 1));
        let failed = matches!(row.predictions.get(name), None | Some(None));
        passage(class, &model_name(name), Some(score), answer(row, name), failed)
    });
    classed("article", "sample")
        .child(head)
        .child(passage("text prompt", "Prompt", None, &row.prompt, false))
        .child(
            classed("div", "answers")
                .child(passage("text reference", "Reference", None, &row.reference, false))
                .children(answers),
        )
}

fn passage(class: &str, name: &str, score: Option<String>, text: &str, failed: bool) -> Element {
    let mut head = element("h4").text(name);
    if let Some(score) = score {
        head = head.child(classed("span", "score").text(score));
    }
    let block = classed("div", class).child(head);
    if failed {
        return block.child(classed("p", "none").text("no answer, counted as 0"));
    }
    if text.trim().is_empty() {
        return block.child(classed("p", "none").text("empty"));
    }
    let (shown, rest) = cut(text, SHOWN_CHARACTERS);
    let block = block.child(classed("p", "words").attribute("dir", "auto").text(shown));
    if rest.is_empty() {
        return block;
    }
    let more = format!("{} more characters", number::count(rest.chars().count() as u64));
    block.child(
        element("details")
            .child(element("summary").text(more))
            .child(classed("p", "words").attribute("dir", "auto").text(rest)),
    )
}

/// Cuts a long text at a word near the limit; a slightly longer text stays whole.
fn cut(text: &str, limit: usize) -> (&str, &str) {
    let Some((end, _)) = text.char_indices().nth(limit) else { return (text, "") };
    if text[end..].chars().count() < limit / 5 {
        return (text, "");
    }
    let end = text[..end].rfind(char::is_whitespace).filter(|&space| space > end / 2).unwrap_or(end);
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn row(id: usize, answer: &str) -> Prediction {
        Prediction {
            id: format!("r{id}"),
            prompt: String::new(),
            reference: "abcdefghij".to_owned(),
            predictions: BTreeMap::from([("fused".to_owned(), Some(answer.to_owned()))]),
            losses: BTreeMap::new(),
            ..Prediction::default()
        }
    }

    #[test]
    fn best_and_worst_are_always_shown() {
        let rows: Vec<Prediction> = (0..10).map(|id| row(id, &"abcdefghij"[..=id])).collect();
        let rows: Vec<&Prediction> = rows.iter().collect();
        let ids = |wanted| {
            choose(&rows, "fused", wanted)
                .into_iter()
                .map(|(rank, row)| (rank, row.id.clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(3), [(0, "r9".to_owned()), (4, "r5".to_owned()), (9, "r0".to_owned())]);
        assert_eq!(ids(99).len(), 10);
        assert_eq!(ids(1), [(0, "r9".to_owned())]);
        assert!(ids(0).is_empty());
        assert!(choose(&[], "fused", 8).is_empty());
    }

    #[test]
    fn equal_rows_keep_their_order() {
        let rows: Vec<Prediction> = (0..4).map(|id| row(id, "abc")).collect();
        let rows: Vec<&Prediction> = rows.iter().collect();
        let ids: Vec<&str> = choose(&rows, "fused", 4).iter().map(|(_, row)| row.id.as_str()).collect();
        assert_eq!(ids, ["r0", "r1", "r2", "r3"]);
    }

    #[test]
    fn long_texts_are_cut_between_words_and_characters() {
        let text = "ʻōlelo ".repeat(400);
        let (shown, rest) = cut(&text, 900);
        assert!(shown.ends_with("ʻōlelo") && rest.starts_with("ʻōlelo"));
        let (shown, rest) = cut("字字字字字字字字字字字字", 5);
        assert_eq!((shown.chars().count(), rest.chars().count()), (5, 7));
        assert_eq!(cut("short", 900), ("short", ""));
    }
}
