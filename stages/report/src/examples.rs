//! The answers side by side: a table that sorts and filters, and the rows that got worst.

use std::cmp::Ordering;

use chart::markup::{Element, classed, element};
use metrics::Chrf;
use outputs::Prediction;

use crate::diff::{Side, marked};
use crate::headline::{metric_name, model_name};
use crate::number;
use crate::parts::{Section, scrolling};
use crate::scores::{Better, Table, answer};
use crate::source::Contents;

/// Rows that a page of the table shows.
const PAGE_ROWS: usize = 20;
/// Characters shown before the rest of a text is folded.
const SHOWN_CHARACTERS: usize = 600;
/// Bytes of text after which no more rows are shown.
const MOST_BYTES: usize = 24 << 20;
/// Smallest change of a score that is not rounding.
const SMALLEST_CHANGE: f64 = 1e-9;
/// Scores of rows that fit beside each other.
const SHOWN_METRICS: usize = 2;

/// Scores of rows by one metric.
struct Metric {
    key: String,
    name: String,
    better: Better,
    /// Digits after the point.
    digits: usize,
}

/// A row with its scores by metric and model.
struct Example<'a> {
    row: &'a Prediction,
    scores: Vec<Vec<Option<f64>>>,
}

/// Inputs of the tables.
struct View<'a> {
    table: &'a Table,
    metrics: Vec<Metric>,
    tuned: usize,
    base: Option<usize>,
}

/// Returns the sections with the rows that got worst and with all rows; none if no text was generated.
pub(crate) fn sections(contents: &Contents, table: &Table, most: usize, regressions: usize) -> Vec<Section> {
    let rows: Vec<&Prediction> =
        contents.predictions.iter().filter(|row| !row.predictions.is_empty()).collect();
    if rows.is_empty() || most == 0 {
        return Vec::new();
    }
    let view = View {
        table,
        metrics: metrics_of(contents, table, &rows),
        tuned: table.tuned().unwrap_or(0),
        base: table.base().filter(|_| table.tuned().is_some()),
    };
    let mut ranked: Vec<Example<'_>> = rows.iter().map(|row| view.example(row)).collect();
    ranked.sort_by(|a, b| view.rank(b).total_cmp(&view.rank(a)));
    let mut sections = Vec::new();
    sections.extend(view.regressions(&ranked, regressions));
    sections.push(view.all(&spread(ranked, most), rows.len()));
    sections
}

/// Keeps the best, the worst and evenly spaced rows between them, at most `most`.
fn spread(ranked: Vec<Example<'_>>, most: usize) -> Vec<Example<'_>> {
    let (rows, last) = (ranked.len(), ranked.len().saturating_sub(1));
    if rows <= most {
        return ranked;
    }
    let places: Vec<usize> = (0..most).map(|at| if most < 2 { 0 } else { at * last / (most - 1) }).collect();
    ranked
        .into_iter()
        .enumerate()
        .filter(|(at, _)| places.binary_search(at).is_ok())
        .map(|(_, row)| row)
        .collect()
}

fn metrics_of(contents: &Contents, table: &Table, rows: &[&Prediction]) -> Vec<Metric> {
    let main = table.text_score().map(|score| score.key.clone());
    let mut keys: Vec<String> = Vec::new();
    for key in main.into_iter().chain(["chrf".to_owned()]).chain(contents.scores.metrics.keys().cloned()) {
        let has_rows = rows.iter().any(|row| row.scores.contains_key(&key));
        if !keys.contains(&key) && has_rows {
            keys.push(key);
        }
    }
    keys.truncate(SHOWN_METRICS);
    if keys.is_empty() {
        keys.push("chrf".to_owned());
    }
    let metric = |key: String| {
        let score = table.score(&key);
        let digits = if key == "similarity" { 3 } else { 1 };
        let name = score.map_or_else(|| metric_name(&key), |score| score.name.clone());
        Metric { name, better: score.map_or(Better::Higher, |score| score.better), digits, key }
    };
    keys.into_iter().map(metric).collect()
}

/// Returns whether a change of a score is a gain, a loss or rounding.
fn sign(change: f64) -> Ordering {
    if change.abs() < SMALLEST_CHANGE { Ordering::Equal } else { change.total_cmp(&0.0) }
}

impl View<'_> {
    fn example<'a>(&self, row: &'a Prediction) -> Example<'a> {
        let score = |metric: &Metric, model: &String| match row.scores.get(&metric.key) {
            Some(scores) => scores.get(model).copied(),
            None if metric.key == "chrf" => Some(Chrf::CHRF.sentence(answer(row, model), &row.reference)),
            None => None,
        };
        let of = |metric| self.table.models.iter().map(|model| score(metric, model)).collect();
        Example { row, scores: self.metrics.iter().map(of).collect() }
    }

    /// Returns the first score of the tuned model, higher for better rows.
    fn rank(&self, example: &Example<'_>) -> f64 {
        let score = example.scores[0][self.tuned].unwrap_or(f64::MIN);
        if self.metrics[0].better == Better::Lower { -score } else { score }
    }

    /// Returns by how much the tuned model is better than the base, by the first metric.
    fn gain(&self, example: &Example<'_>) -> Option<f64> {
        let scores = &example.scores[0];
        let gain = scores[self.tuned]? - scores[self.base?]?;
        Some(if self.metrics[0].better == Better::Lower { -gain } else { gain })
    }

    fn regressions(&self, ranked: &[Example<'_>], most: usize) -> Option<Section> {
        let mut worse: Vec<(f64, &Example<'_>)> = ranked
            .iter()
            .filter_map(|example| Some((self.gain(example).filter(|gain| sign(*gain).is_lt())?, example)))
            .collect();
        worse.sort_by(|a, b| a.0.total_cmp(&b.0));
        let better =
            ranked.iter().filter(|example| self.gain(example).is_some_and(|gain| sign(gain).is_gt())).count();
        self.base?;
        let about = format!(
            "{} of the {} got worse by {}, {} better. The largest losses first.",
            number::count(worse.len() as u64),
            number::counted(ranked.len() as u64, "answered row"),
            self.metrics[0].name,
            number::count(better as u64)
        );
        let section = Section::new("regressions", "What got worse");
        if worse.is_empty() {
            return Some(section.about(format!("No row got worse by {}.", self.metrics[0].name)));
        }
        let shown = worse.iter().take(most).map(|(_, example)| self.body(example));
        let table = classed("table", "examples").child(self.head(false)).children(shown);
        Some(section.about(about).add(scrolling("Rows that got worse", table)))
    }

    fn all(&self, examples: &[Example<'_>], rows: usize) -> Section {
        let mut bytes = 0;
        let mut bodies = Vec::new();
        for example in examples {
            let body = self.body(example);
            bytes += body.to_string().len();
            if bytes > MOST_BYTES {
                break;
            }
            bodies.push(body);
        }
        let how = if bodies.len() == rows {
            format!("All {}", number::counted(rows as u64, "row"))
        } else {
            format!(
                "{} of {}: the best, the worst and evenly spaced ranks between them",
                number::count(bodies.len() as u64),
                number::counted(rows as u64, "row")
            )
        };
        let about = format!(
            "{how}, from best to worst by {} of the {}. Words that only one of the two answers has are marked.",
            self.metrics[0].name,
            model_name(&self.table.models[self.tuned]).to_lowercase()
        );
        let mut table =
            classed("table", "examples").attribute("data-page", PAGE_ROWS).attribute("data-noun", "example");
        if self.base.is_some() {
            table = table.attribute("data-kinds", "better|worse|level|same-answer|failed");
        }
        let switch = element("label").attribute("class", "switch").child(
            element("input")
                .attribute("type", "checkbox")
                .attribute("id", "marks")
                .attribute("checked", "checked"),
        );
        Section::new("examples", "Examples")
            .about(about)
            .add(switch.text(" Mark the words that differ"))
            .add(scrolling("Examples", table.child(self.head(true)).children(bodies)))
    }

    fn head(&self, sorts: bool) -> Element {
        let mut column = 0;
        let mut next = |name: &str, first: &str| {
            let cell = classed("th", "number").attribute("scope", "col").text(name);
            column += 1;
            if sorts { cell.attribute("data-sort", column - 1).attribute("data-first", first) } else { cell }
        };
        let mut cells = Vec::new();
        for metric in &self.metrics {
            let first = if metric.better == Better::Lower { "rising" } else { "falling" };
            for model in &self.table.models {
                cells.push(next(&format!("{}, {}", metric.name, model_name(model).to_lowercase()), first));
            }
            if self.base.is_some() {
                cells.push(next("Change", "rising"));
            }
        }
        cells.push(next("Words", "falling"));
        let row = element("tr").child(element("th").attribute("scope", "col").text("Row"));
        element("thead").child(row.children(cells))
    }

    /// Returns a row: its scores, and below them its texts.
    fn body(&self, example: &Example<'_>) -> Element {
        let row = example.row;
        let mut keys: Vec<String> = Vec::new();
        let mut scores = element("tr").child(name_of(row));
        for (metric, scored) in self.metrics.iter().zip(&example.scores) {
            for (model, score) in scored.iter().enumerate() {
                let class = if model == self.tuned { "number tuned" } else { "number" };
                let printed = score.map_or("–".to_owned(), |score| number::fixed(score, metric.digits));
                keys.push(score.map_or(String::new(), |score| format!("{score:.4}")));
                scores = scores.child(classed("td", class).text(printed));
            }
            if let Some(base) = self.base {
                let change = scored[self.tuned].zip(scored[base]).map(|(tuned, base)| tuned - base);
                let printed = change.map_or("–".to_owned(), |change| number::signed(change, metric.digits));
                keys.push(change.map_or(String::new(), |change| format!("{change:.4}")));
                let class = match (change.map(sign), metric.better) {
                    (Some(Ordering::Equal), _) | (_, Better::Neither) => "number",
                    (Some(Ordering::Greater), Better::Higher) | (Some(Ordering::Less), Better::Lower) => {
                        "number up"
                    }
                    _ => "number down",
                };
                scores = scores.child(classed("td", class).text(printed));
            }
        }
        let words = row.reference.split_whitespace().count() as u64;
        keys.push(words.to_string());
        scores = scores.child(classed("td", "number").text(number::count(words)));
        let texts = classed("td", "texts").attribute("colspan", keys.len() + 1).child(self.texts(row));
        classed("tbody", &format!("example {}", self.kinds(example)))
            .attribute("data-keys", keys.join(" "))
            .child(scores)
            .child(element("tr").child(texts))
    }

    /// Returns the classes by which rows are filtered.
    fn kinds(&self, example: &Example<'_>) -> String {
        let mut kinds = Vec::new();
        kinds.extend(self.gain(example).map(|gain| match sign(gain) {
            Ordering::Greater => "better",
            Ordering::Less => "worse",
            Ordering::Equal => "level",
        }));
        let row = example.row;
        let [base, tuned] =
            [self.base.unwrap_or(self.tuned), self.tuned].map(|model| &self.table.models[model]);
        if self.base.is_some() && answer(row, base) == answer(row, tuned) {
            kinds.push("same-answer");
        }
        let has_failed = |model: &String| {
            row.failures.contains_key(model) || !matches!(row.predictions.get(model), Some(Some(_)))
        };
        if self.table.models.iter().any(has_failed) {
            kinds.push("failed");
        }
        kinds.join(" ")
    }

    fn texts(&self, row: &Prediction) -> Element {
        let mut answers =
            classed("div", "answers").child(passage("text prompt", "Prompt", long(&row.prompt)));
        answers = answers.child(passage("text reference", "Reference", long(&row.reference)));
        let base = self.base.map(|base| answer(row, &self.table.models[base]));
        for (model, name) in self.table.models.iter().enumerate() {
            let class = if model == self.tuned { "text tuned" } else { "text" };
            let own = answer(row, name);
            let why = row.failures.get(name);
            let has_answer = matches!(row.predictions.get(name), Some(Some(_)));
            let content = match row.predictions.get(name) {
                None | Some(None) => {
                    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
                    vec![classed("p", "none").text(format!("no answer, counted as 0{why}"))]
                }
                Some(Some(text)) if text.is_empty() => vec![classed("p", "none").text("empty answer")],
                Some(Some(_)) => match base {
                    Some(base) if Some(model) != self.base => compared(base, own, Side::New),
                    Some(base) => compared(base, answer(row, &self.table.models[self.tuned]), Side::Old),
                    None => long(own),
                },
            };
            let mut passage = passage(class, &model_name(name), content);
            if let Some(why) = why.filter(|_| has_answer) {
                passage = passage.child(classed("p", "none").text(format!("counted as 0: {why}")));
            }
            if row.unfinished.contains(name) {
                passage = passage.child(classed("p", "none").text("cut at the length limit"));
            }
            if let Some(extracted) = row.extracted.get(name) {
                passage = passage
                    .child(label("Scored part"))
                    .child(classed("p", "words").attribute("dir", "auto").text(extracted));
            }
            answers = answers.child(passage);
        }
        answers
    }
}

/// Returns the heading cell of a row.
fn name_of(row: &Prediction) -> Element {
    let mut name = element("th").attribute("scope", "row").child(element("bdi").text(&row.id));
    if let Some(group) = &row.group {
        name = name.child(classed("span", "group").child(element("bdi").text(group)));
    }
    name
}

/// Returns one of two answers with marks; long ones are folded without.
fn compared(old: &str, new: &str, side: Side) -> Vec<Element> {
    let own = if side == Side::New { new } else { old };
    if cut(own, SHOWN_CHARACTERS).1.is_empty() { vec![marked(old, new, side)] } else { long(own) }
}

fn passage(class: &str, name: &str, content: Vec<Element>) -> Element {
    classed("div", class).child(label(name)).children(content)
}

fn label(name: &str) -> Element {
    classed("p", "label").child(element("bdi").text(name))
}

/// Returns a text; the end of a long one is folded.
fn long(text: &str) -> Vec<Element> {
    let words = |text: &str| classed("p", "words").attribute("dir", "auto").text(text);
    let (shown, rest) = cut(text, SHOWN_CHARACTERS);
    if rest.is_empty() {
        return vec![words(shown)];
    }
    let more = number::counted(rest.chars().count() as u64, "more character");
    vec![words(shown), element("details").child(element("summary").text(more)).child(words(rest))]
}

/// Cuts a text into a beginning of at most `most` characters and the rest, between words if there are any.
fn cut(text: &str, most: usize) -> (&str, &str) {
    let Some((end, _)) = text.char_indices().nth(most) else { return (text, "") };
    let end = text[..end].rfind(char::is_whitespace).filter(|&space| space > 0).unwrap_or(end);
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_words_and_characters() {
        let text = "ʻōlelo ".repeat(400);
        let (shown, rest) = cut(&text, 900);
        assert!(shown.ends_with("ʻōlelo") && rest.starts_with("ʻōlelo"));
        let (shown, rest) = cut("字字字字字字字字字字字字", 5);
        assert_eq!((shown.chars().count(), rest.chars().count()), (5, 7));
        assert_eq!(cut("short", 900), ("short", ""));
    }

    #[test]
    fn the_best_and_the_worst_are_always_kept() {
        let rows: Vec<Prediction> =
            (0..10).map(|id| Prediction { id: format!("r{id}"), ..Prediction::default() }).collect();
        let ids = |most| -> Vec<String> {
            let ranked = rows.iter().map(|row| Example { row, scores: vec![] }).collect();
            spread(ranked, most).iter().map(|example| example.row.id.clone()).collect()
        };
        assert_eq!(ids(3), ["r0", "r4", "r9"]);
        assert_eq!(ids(1), ["r0"]);
        assert_eq!(ids(99).len(), 10);
    }
}
