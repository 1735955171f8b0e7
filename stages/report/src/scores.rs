//! The score table: every model beside the base, with intervals and floors.

use outputs::Prediction;

/// Scores of all models.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    /// Base first, if there is one.
    pub(crate) models: Vec<String>,
    /// Index of the model that the others are compared with.
    pub(crate) reference: Option<usize>,
    /// Index of the model that the run made.
    pub(crate) made: Option<usize>,
    pub(crate) scores: Vec<Score>,
    /// Number of rows with an answer, or a failure, of at least one model.
    pub(crate) generated: usize,
    /// Notes below the table.
    pub(crate) notes: Vec<String>,
    /// Models that equal the base in every loss and answer.
    pub(crate) unchanged: Vec<String>,
    /// Method of the intervals, such as `95% interval, 2,000 draws of rows`.
    pub(crate) intervals: String,
}

/// One score of every model.
#[derive(Debug, Clone)]
pub(crate) struct Score {
    /// Name in evaluate's output, such as `chrf`.
    pub(crate) key: String,
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) kind: Kind,
    pub(crate) better: Better,
    /// One per model, in the order of the table.
    pub(crate) cells: Vec<Cell>,
    /// Score of the references of other rows.
    pub(crate) floor: Option<f64>,
}

/// Direction of a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
    Neither,
}

/// Scale of a score, which decides how it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nats.
    Loss,
    /// Changes are printed in percent.
    Perplexity,
    /// From 0 to 100.
    Points,
    /// Edits per 100 words: 0 or more, without an upper limit.
    EditRate,
    /// Between -1 and 1.
    Unit,
    /// Unknown scale.
    Other,
}

/// Score of one model.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cell {
    pub(crate) value: Option<f64>,
    /// Ends of the score's own interval.
    pub(crate) interval: Option<[f64; 2]>,
    /// Change against the base.
    pub(crate) change: Option<Change>,
}

/// Change of a score against the base, on the score's own scale.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) value: f64,
    /// Ends of its interval; `None` without scores of rows.
    pub(crate) range: Option<(f64, f64)>,
    /// Ends of its interval as shares of the base's score; only for perplexity.
    pub(crate) shares: Option<(f64, f64)>,
    /// Rows in which the model is better, equal and worse.
    pub(crate) rows: Option<[u64; 3]>,
}

impl Cell {
    /// Returns the change against the base; nothing for the base itself.
    pub(crate) fn change(&self) -> Option<Change> {
        self.change
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
        match self.better {
            Better::Lower => Some(change < 0.0),
            Better::Higher => Some(change > 0.0),
            Better::Neither => None,
        }
    }

    /// Returns whether it scores the answers rather than the probabilities.
    pub(crate) fn is_of_text(&self) -> bool {
        !matches!(self.kind, Kind::Loss | Kind::Perplexity)
    }
}

impl Table {
    /// Returns the score with that key.
    pub(crate) fn score(&self, key: &str) -> Option<&Score> {
        self.scores.iter().find(|score| score.key == key)
    }

    /// Returns the score of the answers that matters most, if answers were scored.
    pub(crate) fn text_score(&self) -> Option<&Score> {
        ["similarity", "chrf"].iter().find_map(|key| self.score(key)).or_else(|| {
            self.scores.iter().find(|score| score.is_of_text() && score.better != Better::Neither)
        })
    }

    /// Returns the index of the model that the run made: the fused one, or else the first other than the base.
    pub(crate) fn tuned(&self) -> Option<usize> {
        self.made
    }

    /// Returns the index of the model that the others are compared with.
    pub(crate) fn base(&self) -> Option<usize> {
        self.reference
    }

    /// Sets which model the others are compared with, and finds the one that the run made.
    pub(crate) fn compare_with(&mut self, reference: Option<usize>) {
        let others = || (0..self.models.len()).filter(|&model| Some(model) != reference);
        self.made = others().find(|&model| self.models[model] == "fused").or_else(|| others().next());
        self.reference = reference;
    }

    /// Returns whether a model equals the base in every loss and answer.
    pub(crate) fn is_unchanged(&self, model: usize) -> bool {
        self.unchanged.contains(&self.models[model])
    }
}

/// Returns the answer of `model`; empty if it failed, which scores 0.
pub(crate) fn answer<'a>(row: &'a Prediction, model: &str) -> &'a str {
    metrics::text_or_empty(row.predictions.get(model).and_then(Option::as_deref))
}
