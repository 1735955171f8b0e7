//! The score table of an artifact without statistics: scores and intervals are computed from its rows.

use metrics::bootstrap::{Bootstrap, Interval, interval};
use metrics::resample::Units;
use metrics::{Bleu, BleuStatistics, Chrf, ChrfStatistics, LossSum, floor, is_exact_match, paired_losses};
use outputs::{ModelScores, Prediction};

use crate::config::Config;
use crate::error::Error;
use crate::headline::metric_name;
use crate::number;
use crate::scores::{Better, Cell, Change, Kind, Score, Table, answer};
use crate::source::Contents;

/// Computes the table from the predictions and from what evaluate measured.
pub(crate) fn table(contents: &Contents, config: &Config) -> Result<Table, Error> {
    let models: Vec<String> = contents.models().into_iter().map(str::to_owned).collect();
    let rows: Vec<&Prediction> =
        contents.predictions.iter().filter(|row| !row.predictions.is_empty()).collect();
    let settings = config.bootstrap();
    let mut table = Table { models, generated: rows.len(), ..Table::default() };
    table.compare_with(table.models.iter().position(|model| model == "base"));
    table.intervals = format!(
        "{} interval, from a paired bootstrap over rows ({} draws, seed {})",
        config.confidence_label(),
        number::count(u64::from(config.resamples)),
        config.seed
    );
    let mut maker = Maker { contents, settings, table };
    maker.add_losses()?;
    if !rows.is_empty() {
        for (key, name, corpus) in corpora() {
            let score = maker.text_score(key, name, corpus.as_ref(), &rows)?;
            maker.compare_with_evaluate(&score);
            maker.table.scores.push(score);
        }
    }
    maker.add_others();
    maker.add_floors();
    Ok(maker.table)
}

/// A table in the making.
struct Maker<'a> {
    contents: &'a Contents,
    settings: Bootstrap,
    table: Table,
}

impl Maker<'_> {
    /// Returns the index of the base and of each other model.
    fn pairs(&self) -> Vec<(usize, usize)> {
        let Some(base) = self.table.base() else { return Vec::new() };
        (0..self.table.models.len()).filter(|&model| model != base).map(|model| (base, model)).collect()
    }

    fn add_losses(&mut self) -> Result<(), Error> {
        let measured = |get: fn(&ModelScores) -> Option<f64>| -> Vec<Option<f64>> {
            self.table.models.iter().map(|model| get(&self.contents.scores.models[model])).collect()
        };
        let losses = measured(|scores| scores.loss);
        let perplexities = measured(|scores| scores.perplexity);
        let mut loss = self.plain("loss", "Loss", Kind::Loss, &losses);
        let mut perplexity = self.plain("perplexity", "Perplexity", Kind::Perplexity, &perplexities);
        loss.unit = "nats per token";
        for (base, model) in self.pairs() {
            let [left, right] = [base, model].map(|model| self.table.models[model].as_str());
            let Some((left, right)) = row_losses(self.contents, left, right) else { continue };
            let change = paired_losses(&left, &right, &Units::rows(left.len()), &self.settings)?;
            set_range(&mut loss.cells[model], change);
            // A difference of mean losses is a ratio of perplexities, which gives the interval.
            if let Some(base) = perplexities[base] {
                let at = |change: f64| base * (change.exp() - 1.0);
                let range = Interval { value: at(change.value), low: at(change.low), high: at(change.high) };
                set_range(&mut perplexity.cells[model], range);
            }
        }
        self.table.scores.extend([perplexity, loss]);
        Ok(())
    }

    fn text_score(
        &self,
        key: &str,
        name: &str,
        corpus: &dyn Corpus,
        rows: &[&Prediction],
    ) -> Result<Score, Error> {
        let references: Vec<&str> = rows.iter().map(|row| row.reference.as_str()).collect();
        let counted: Vec<Counted> = self
            .table
            .models
            .iter()
            .map(|model| {
                corpus.count(&mut rows.iter().map(|row| (answer(row, model), row.reference.as_str())))
            })
            .collect();
        let everything: Vec<usize> = (0..rows.len()).collect();
        let values: Vec<Option<f64>> = counted.iter().map(|counted| Some(counted(&everything))).collect();
        let mut score = self.plain(key, name, Kind::Points, &values);
        for (base, model) in self.pairs() {
            let difference = |draw: &[usize]| counted[model](draw) - counted[base](draw);
            set_range(&mut score.cells[model], interval(rows.len(), &self.settings, difference)?);
        }
        for (cell, counted) in score.cells.iter_mut().zip(&counted) {
            let own = interval(rows.len(), &self.settings, counted)?;
            cell.interval = Some([own.low, own.high]);
        }
        score.floor = floor::shuffled(&references, self.settings.seed).map(|answers| {
            corpus.count(&mut answers.into_iter().zip(references.iter().copied()))(&everything)
        });
        Ok(score)
    }

    /// Adds a note if the score of evaluate differs from that of its predictions.
    fn compare_with_evaluate(&mut self, score: &Score) {
        if !["chrf", "bleu"].contains(&score.key.as_str()) {
            return;
        }
        for (model, theirs) in self.measured(&score.key).into_iter().enumerate() {
            let (Some(ours), Some(theirs)) = (score.cells[model].value, theirs) else { continue };
            if (ours - theirs).abs() > 0.005 {
                self.table.notes.push(format!(
                    "{} of {}: evaluate gives {theirs:.2}, its predictions give {ours:.2}, which is shown.",
                    score.name, self.table.models[model]
                ));
            }
        }
    }

    /// Adds the scores of evaluate that are not known here, unchanged.
    fn add_others(&mut self) {
        const KNOWN: [&str; 4] = ["chrf", "chrf_plus_plus", "bleu", "exact_match"];
        let mut names: Vec<&String> =
            self.contents.scores.models.values().flat_map(|scores| scores.text.keys()).collect();
        names.sort();
        names.dedup();
        for name in names.into_iter().filter(|name| !KNOWN.contains(&name.as_str())) {
            let values = self.measured(name);
            let score = self.plain(name, &number::words(name), Kind::Other, &values);
            self.table.scores.push(score);
        }
    }

    /// Adds notes with the floors that evaluate measured, except the one that has a column.
    fn add_floors(&mut self) {
        let floors = self.contents.scores.floors.iter();
        for (name, scores) in floors.filter(|(name, _)| *name != "shuffled_reference") {
            let scores: Vec<String> =
                scores.iter().map(|(score, value)| format!("{} {value:.1}", metric_name(score))).collect();
            self.table.notes.push(format!("Floor, {}: {}.", name.replace('_', " "), scores.join(", ")));
        }
    }

    /// Returns the text score `name` of each model, as evaluate measured it.
    fn measured(&self, name: &str) -> Vec<Option<f64>> {
        let models = self.table.models.iter();
        models.map(|model| self.contents.scores.models[model].text.get(name).copied()).collect()
    }

    fn plain(&self, key: &str, name: &str, kind: Kind, values: &[Option<f64>]) -> Score {
        let base = self.table.base();
        let base_value = base.and_then(|base| values[base]);
        let cell = |(model, &value): (usize, &Option<f64>)| {
            let from = base_value.filter(|_| Some(model) != base);
            let change = value.zip(from).map(|(value, base)| Change {
                value: value - base,
                range: None,
                shares: None,
                rows: None,
            });
            Cell { value, interval: None, change }
        };
        let better = match kind {
            Kind::Loss | Kind::Perplexity | Kind::EditRate => Better::Lower,
            Kind::Points => Better::Higher,
            Kind::Unit | Kind::Other => Better::Neither,
        };
        let cells = values.iter().enumerate().map(cell).collect();
        Score { key: key.to_owned(), name: name.to_owned(), unit: "", kind, better, cells, floor: None }
    }
}

fn set_range(cell: &mut Cell, interval: Interval) {
    if let Some(change) = &mut cell.change {
        change.range = Some((interval.low, interval.high));
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

/// Corpus score of the rows with these indices.
type Counted = Box<dyn Fn(&[usize]) -> f64>;

/// A corpus score that counts every row once, and adds counts for each draw of rows.
trait Corpus {
    fn count<'a>(&self, pairs: &mut dyn Iterator<Item = (&'a str, &'a str)>) -> Counted;
}

fn corpora() -> [(&'static str, &'static str, Box<dyn Corpus>); 4] {
    [
        ("chrf", "chrF", Box::new(Chrf::CHRF)),
        ("chrf_plus_plus", "chrF++", Box::new(Chrf::CHRF_PLUS_PLUS)),
        ("bleu", "BLEU", Box::new(Bleu::default())),
        ("exact_match", "Exact match", Box::new(ExactMatch)),
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
