//! The rows that a run was scored on, which its artifact of evaluate has.

use artifact::{Artifact, Level, Store};
use metrics::bootstrap::Bootstrap;
use metrics::resample::Units;
use outputs::{Document as _, Line as _, Prediction, Scores, Statistics};
use stage::Result;

/// Rows of a run with the losses and answers of the model that it made.
#[derive(Debug, Clone)]
pub(crate) struct RunRows {
    pub(crate) model: String,
    pub(crate) rows: Vec<Prediction>,
    pub(crate) statistics: Statistics,
}

impl RunRows {
    /// Reads the rows of a report's run; `None` if its artifact of evaluate is in neither store.
    ///
    /// The stores are the one in which the report lies, and `store`.
    ///
    /// # Errors
    ///
    /// Fails when the artifact is damaged.
    pub(crate) fn read(
        report: &Artifact,
        model: Option<&String>,
        store: Option<&Store>,
    ) -> Result<Option<Self>> {
        let input = report.manifest().inputs.get("evaluate");
        let (Some(model), Some(key)) = (model, input.and_then(|input| input.key.as_ref())) else {
            return Ok(None);
        };
        let own = report.path().parent().and_then(std::path::Path::parent);
        let own = own.and_then(|root| Store::open(root).ok());
        for store in own.iter().chain(store) {
            if let Some(found) = store.lookup_with(Scores::STAGE, key, "", Level::Auto)? {
                return Self::of(&found, model).map(Some);
            }
        }
        Ok(None)
    }

    fn of(evaluate: &Artifact, model: &str) -> Result<Self> {
        let data = evaluate.data_dir();
        let scores = Scores::read(&data.join(Scores::FILE))?;
        let rows = Prediction::read(&data.join(Prediction::FILE))?.collect::<outputs::Result<Vec<_>>>()?;
        Ok(Self { model: model.to_owned(), rows, statistics: scores.statistics.unwrap_or_default() })
    }

    /// Returns the settings of the draws, those of evaluate if it drew any.
    pub(crate) fn bootstrap(&self) -> Bootstrap {
        match &self.statistics {
            Statistics { resamples: 0, .. } => Bootstrap::default(),
            drawn => Bootstrap {
                resamples: drawn.resamples as usize,
                confidence: drawn.confidence,
                seed: drawn.seed,
            },
        }
    }

    /// Returns whether two runs have the same rows: ids and references, in the same order.
    pub(crate) fn are_those_of(&self, other: &Self) -> bool {
        let name = |row: &Prediction| (row.id.clone(), row.reference.clone());
        !self.rows.is_empty() && self.rows.iter().map(name).eq(other.rows.iter().map(name))
    }

    /// Returns the indices of all rows.
    pub(crate) fn indices(&self) -> Vec<usize> {
        (0..self.rows.len()).collect()
    }

    /// Returns the indices of the rows that every run has answered, or failed on.
    pub(crate) fn answered_by_all(runs: &[&Self]) -> Vec<usize> {
        let answered =
            |row: &usize| runs.iter().all(|run| run.rows[*row].predictions.contains_key(&run.model));
        runs.first().map_or_else(Vec::new, |run| run.indices().into_iter().filter(answered).collect())
    }

    /// Returns what is drawn: groups of rows if evaluate drew groups.
    pub(crate) fn units(&self, rows: &[usize]) -> Units {
        if self.statistics.unit == "group" {
            Units::groups(rows.iter().map(|&row| self.rows[row].group.as_deref()))
        } else {
            Units::rows(rows.len())
        }
    }

    /// Returns the loss and the number of targets of every row; `None` if the model has no loss on a row.
    pub(crate) fn losses(&self) -> Option<Vec<[f64; 2]>> {
        let loss = |row: &Prediction| row.losses.get(&self.model).map(|loss| [loss.loss, loss.tokens as f64]);
        self.rows.iter().map(loss).collect()
    }

    /// Returns the scored answers to some rows with their references; no answer where the model failed.
    pub(crate) fn answers(&self, rows: &[usize]) -> Vec<(Option<&str>, &str)> {
        let answer = |&row: &usize| {
            let row = &self.rows[row];
            let whole = row.predictions.get(&self.model).and_then(Option::as_deref);
            let text = row.extracted.get(&self.model).map(String::as_str).or(whole);
            (text.filter(|_| !row.failures.contains_key(&self.model)), row.reference.as_str())
        };
        rows.iter().map(answer).collect()
    }

    /// Returns the scores of some rows, as evaluate measured them; `None` if a row has none.
    pub(crate) fn row_scores(&self, metric: &str, rows: &[usize]) -> Option<Vec<f64>> {
        rows.iter().map(|&row| self.rows[row].scores.get(metric)?.get(&self.model).copied()).collect()
    }
}
