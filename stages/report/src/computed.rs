//! The score table: every model beside the base, with intervals and floors.

use metrics::bootstrap::{Bootstrap, Interval, interval, paired_losses};
use metrics::{Bleu, BleuStatistics, Chrf, ChrfStatistics, LossSum, floor, is_exact_match, text_or_empty};
use outputs::{ModelScores, Prediction};

use crate::config::Config;
use crate::error::Error;
use crate::number;
use crate::source::Contents;

/// Scores of all models.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// Base first, if there is one.
    pub(crate) models: Vec<String>,
    pub(crate) scores: Vec<Score>,
    /// Number of rows with an answer, or a failure, of at least one model.
    pub(crate) generated: usize,
    /// Notes below the table.
    pub(crate) notes: Vec<String>,
}

/// One score of every model.
#[derive(Debug, Clone)]
pub(crate) struct Score {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) kind: Kind,
    /// One per model, in the order of the table.
    pub(crate) cells: Vec<Cell>,
    /// Score of the references of other rows.
    pub(crate) floor: Option<f64>,
}

/// Scale and direction of a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nats: lower is better.
    Loss,
    /// Lower is better; changes are printed in percent.
    Perplexity,
    /// From 0 to 100: higher is better.
    Points,
    /// Unknown scale and direction.
    Other,
}

/// Score of one model.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cell {
    pub(crate) value: Option<f64>,
    base: Option<f64>,
    interval: Option<Interval>,
}

/// Change of a score against the base, on the score's own scale.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) value: f64,
    /// Ends of its interval; `None` without scores of rows.
    pub(crate) range: Option<(f64, f64)>,
}

impl Cell {
    /// Returns the change against the base; nothing for the base itself.
    pub(crate) fn change(&self) -> Option<Change> {
        let range = self.interval.map(|interval| (interval.low, interval.high));
        Some(Change { value: self.value? - self.base?, range })
    }
}

impl Change {
    /// Returns whether the change could be noise.
    pub(crate) fn is_noise(&self) -> bool {
        self.range.is_some_and(|(low, high)| low <= 0.0 && 0.0 <= high)
    }
}

impl Score {
    /// Returns whether a change of this sign is an improvement; `None` if the direction is unknown.
    pub(crate) fn improves(&self, change: f64) -> Option<bool> {
        match self.kind {
            Kind::Loss | Kind::Perplexity => Some(change < 0.0),
            Kind::Points => Some(change > 0.0),
            Kind::Other => None,
        }
    }
}

impl Table {
    /// Computes the table from the predictions and from what evaluate measured.
    pub(crate) fn compute(contents: &Contents, config: &Config) -> Result<Self, Error> {
        let models: Vec<String> = contents.models().into_iter().map(str::to_owned).collect();
        let rows: Vec<&Prediction> =
            contents.predictions.iter().filter(|row| !row.predictions.is_empty()).collect();
        let settings = config.bootstrap();
        let mut table = Self { models, scores: Vec::new(), generated: rows.len(), notes: Vec::new() };
        table.add_losses(contents, &settings)?;
        if !rows.is_empty() {
            for (name, corpus) in corpora() {
                let score = table.text_score(name, corpus.as_ref(), &rows, &settings)?;
                table.compare_with_evaluate(contents, &score);
                table.scores.push(score);
            }
        }
        table.add_others(contents);
        table.add_floors(contents);
        Ok(table)
    }

    /// Returns the score of that name.
    pub(crate) fn score(&self, name: &str) -> Option<&Score> {
        self.scores.iter().find(|score| score.name == name)
    }

    /// Returns the index of the fused model, or else of the first model other than the base.
    pub(crate) fn tuned(&self) -> Option<usize> {
        let base = self.base();
        (0..self.models.len()).find(|&model| Some(model) != base)
    }

    /// Returns the index of the base model.
    pub(crate) fn base(&self) -> Option<usize> {
        self.models.iter().position(|model| model == "base")
    }

    fn add_losses(&mut self, contents: &Contents, settings: &Bootstrap) -> Result<(), Error> {
        let measured = |get: fn(&ModelScores) -> Option<f64>| -> Vec<Option<f64>> {
            self.models.iter().map(|model| get(&contents.scores.models[model])).collect()
        };
        let losses = measured(|scores| scores.loss);
        let perplexities = measured(|scores| scores.perplexity);
        let mut loss = self.plain("Loss", "nats per token", Kind::Loss, &losses);
        let mut perplexity = self.plain("Perplexity", "", Kind::Perplexity, &perplexities);
        if let Some(base) = self.base() {
            for model in (0..self.models.len()).filter(|&model| model != base) {
                let Some((left, right)) = row_losses(contents, &self.models[base], &self.models[model])
                else {
                    continue;
                };
                let change = paired_losses(&left, &right, settings)?;
                loss.cells[model].interval = Some(change);
                // A difference of mean losses is a ratio of perplexities, which gives the interval.
                let at = |change: f64| perplexities[base].map(|base| base * (change.exp() - 1.0));
                if let (Some(value), Some(low), Some(high)) =
                    (at(change.value), at(change.low), at(change.high))
                {
                    perplexity.cells[model].interval = Some(Interval { value, low, high });
                }
            }
        }
        self.scores.extend([perplexity, loss]);
        Ok(())
    }

    fn text_score(
        &self,
        name: &str,
        corpus: &dyn Corpus,
        rows: &[&Prediction],
        settings: &Bootstrap,
    ) -> Result<Score, Error> {
        let references: Vec<&str> = rows.iter().map(|row| row.reference.as_str()).collect();
        let counted: Vec<Counted> = self
            .models
            .iter()
            .map(|model| {
                corpus.count(&mut rows.iter().map(|row| (answer(row, model), row.reference.as_str())))
            })
            .collect();
        let everything: Vec<usize> = (0..rows.len()).collect();
        let values: Vec<Option<f64>> = counted.iter().map(|counted| Some(counted(&everything))).collect();
        let mut score = self.plain(name, "", Kind::Points, &values);
        if let Some(base) = self.base() {
            for model in (0..self.models.len()).filter(|&model| model != base) {
                let difference = |draw: &[usize]| counted[model](draw) - counted[base](draw);
                score.cells[model].interval = Some(interval(rows.len(), settings, difference)?);
            }
        }
        score.floor = floor::shuffled(&references, settings.seed).map(|answers| {
            corpus.count(&mut answers.into_iter().zip(references.iter().copied()))(&everything)
        });
        Ok(score)
    }

    /// Adds a note if the score of evaluate differs from that of its predictions.
    fn compare_with_evaluate(&mut self, contents: &Contents, score: &Score) {
        let key = match score.name.as_str() {
            "chrF" => "chrf",
            "BLEU" => "bleu",
            _ => return,
        };
        for (model, theirs) in self.measured(contents, key).into_iter().enumerate() {
            let (Some(ours), Some(theirs)) = (score.cells[model].value, theirs) else { continue };
            if (ours - theirs).abs() > 0.005 {
                self.notes.push(format!(
                    "{} of {}: evaluate gives {theirs:.2}, its predictions give {ours:.2}, which is shown.",
                    score.name, self.models[model]
                ));
            }
        }
    }

    /// Adds the scores of evaluate that are not known here, unchanged.
    fn add_others(&mut self, contents: &Contents) {
        const KNOWN: [&str; 4] = ["chrf", "chrf_plus_plus", "bleu", "exact_match"];
        let mut names: Vec<&String> =
            contents.scores.models.values().flat_map(|scores| scores.text.keys()).collect();
        names.sort();
        names.dedup();
        for name in names.into_iter().filter(|name| !KNOWN.contains(&name.as_str())) {
            let values = self.measured(contents, name);
            let score = self.plain(&number::words(name), "", Kind::Other, &values);
            self.scores.push(score);
        }
    }

    /// Adds notes with the floors that evaluate measured, except the one that has a column.
    fn add_floors(&mut self, contents: &Contents) {
        for (name, scores) in contents.scores.floors.iter().filter(|(name, _)| *name != "shuffled_reference")
        {
            let scores: Vec<String> =
                scores.iter().map(|(score, value)| format!("{} {value:.1}", printed_name(score))).collect();
            self.notes.push(format!("Floor, {}: {}.", name.replace('_', " "), scores.join(", ")));
        }
    }

    /// Returns the text score `name` of each model, as evaluate measured it.
    fn measured(&self, contents: &Contents, name: &str) -> Vec<Option<f64>> {
        self.models.iter().map(|model| contents.scores.models[model].text.get(name).copied()).collect()
    }

    fn plain(&self, name: &str, unit: &'static str, kind: Kind, values: &[Option<f64>]) -> Score {
        let base = self.base().and_then(|base| values[base]);
        let cell = |(model, &value): (usize, &Option<f64>)| Cell {
            value,
            base: base.filter(|_| Some(model) != self.base()),
            interval: None,
        };
        let cells = values.iter().enumerate().map(cell).collect();
        Score { name: name.to_owned(), unit, kind, cells, floor: None }
    }
}

/// Returns the usual spelling of a score's name.
fn printed_name(key: &str) -> String {
    match key {
        "bleu" => "BLEU".to_owned(),
        "chrf" => "chrF".to_owned(),
        "chrf_plus_plus" => "chrF++".to_owned(),
        other => other.replace('_', " "),
    }
}

/// Returns the losses of both models by row; `None` unless they cover all targets that were scored.
fn row_losses(contents: &Contents, base: &str, other: &str) -> Option<(Vec<LossSum>, Vec<LossSum>)> {
    let losses_of = |model: &str| -> Option<Vec<LossSum>> {
        let loss = |row: &Prediction| row.losses.get(model).map(|loss| LossSum::new(loss.loss, loss.tokens));
        let losses: Vec<LossSum> = contents.predictions.iter().map(loss).collect::<Option<_>>()?;
        let tokens = contents.scores.models[model].tokens;
        (losses.iter().map(|loss| loss.tokens).sum::<u64>() == tokens).then_some(losses)
    };
    Some((losses_of(base)?, losses_of(other)?))
}

/// Returns the answer of `model`; empty if it failed, which scores 0.
pub(crate) fn answer<'a>(row: &'a Prediction, model: &str) -> &'a str {
    text_or_empty(row.predictions.get(model).and_then(Option::as_deref))
}

/// Corpus score of the rows with these indices.
type Counted = Box<dyn Fn(&[usize]) -> f64>;

/// A corpus score that counts every row once, and adds counts for each draw of rows.
trait Corpus {
    fn count<'a>(&self, pairs: &mut dyn Iterator<Item = (&'a str, &'a str)>) -> Counted;
}

fn corpora() -> [(&'static str, Box<dyn Corpus>); 4] {
    [
        ("chrF", Box::new(Chrf::CHRF)),
        ("chrF++", Box::new(Chrf::CHRF_PLUS_PLUS)),
        ("BLEU", Box::new(Bleu::default())),
        ("Exact match", Box::new(ExactMatch)),
    ]
}

impl Corpus for Chrf {
    fn count<'a>(&self, pairs: &mut dyn Iterator<Item = (&'a str, &'a str)>) -> Counted {
        let metric = *self;
        let rows: Vec<ChrfStatistics> =
            pairs.map(|(answer, truth)| metric.statistics(answer, truth)).collect();
        Box::new(move |draw| {
            let mut total = ChrfStatistics::default();
            for &row in draw {
                total.add(&rows[row]);
            }
            metric.score(&total)
        })
    }
}

impl Corpus for Bleu {
    fn count<'a>(&self, pairs: &mut dyn Iterator<Item = (&'a str, &'a str)>) -> Counted {
        let metric = *self;
        let rows: Vec<BleuStatistics> =
            pairs.map(|(answer, truth)| metric.statistics(answer, truth)).collect();
        Box::new(move |draw| {
            let mut total = BleuStatistics::default();
            for &row in draw {
                total.add(&rows[row]);
            }
            metric.score(&total)
        })
    }
}

struct ExactMatch;

impl Corpus for ExactMatch {
    fn count<'a>(&self, pairs: &mut dyn Iterator<Item = (&'a str, &'a str)>) -> Counted {
        let rows: Vec<bool> = pairs.map(|(answer, truth)| is_exact_match(answer, truth)).collect();
        Box::new(move |draw| {
            let right = draw.iter().filter(|&&row| rows[row]).count();
            100.0 * right as f64 / draw.len().max(1) as f64
        })
    }
}
