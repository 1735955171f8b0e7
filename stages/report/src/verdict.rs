//! The verdict: whether the tuned model is better beyond noise, and whether the gate let it pass.

use chart::markup::{Element, classed, element};
use outputs::Difference;

use crate::headline;
use crate::number;
use crate::scores::{Better, Change, Score, Table};
use crate::source::Contents;

/// Judgement of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The gate passed, or the model is better beyond noise.
    Good,
    /// The gate failed, or the model is worse beyond noise.
    Bad,
    /// No difference beyond noise, or differences in both directions.
    Open,
}

/// Comparison of a model's score with that of the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judged {
    Better,
    Worse,
    /// Within noise.
    Level,
}

/// The judgement with its reasons.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    pub(crate) title: String,
    pub(crate) reasons: Vec<String>,
}

/// Returns the verdict; `None` for a single model.
pub(crate) fn verdict(contents: &Contents, table: &Table) -> Option<Verdict> {
    if let Some(gate) = &contents.scores.gate {
        return Some(of_gate(gate));
    }
    let tuned = table.tuned()?;
    let base = table.base()?;
    let [tuned_name, base_name] = [tuned, base].map(|model| table.models[model].as_str());
    if table.is_unchanged(tuned) {
        return Some(Verdict {
            outcome: Outcome::Bad,
            title: "Training changed nothing".to_owned(),
            reasons: vec![format!("{tuned_name} gives the same losses and answers as {base_name}.")],
        });
    }
    let of = |wanted: Judged| -> Vec<&Score> {
        table.scores.iter().filter(|score| score.judged(tuned) == Some(wanted)).collect()
    };
    let (better, worse, level) = (of(Judged::Better), of(Judged::Worse), of(Judged::Level));
    let (outcome, title) = match (better.is_empty(), worse.is_empty()) {
        (false, true) => (Outcome::Good, "Better than the base, beyond noise"),
        (true, false) => (Outcome::Bad, "Worse than the base, beyond noise"),
        (false, false) => (Outcome::Open, "Better in some scores, worse in others"),
        (true, true) if level.is_empty() => return None,
        (true, true) => (Outcome::Open, "Within noise of the base"),
    };
    let lists = [("Better", better), ("Worse", worse), ("Within noise", level)];
    let reasons = lists.into_iter().filter(|(_, scores)| !scores.is_empty()).map(|(what, scores)| {
        let names: Vec<&str> = scores.iter().map(|score| score.name.as_str()).collect();
        format!("{what}: {}.", names.join(", "))
    });
    let below = table.scores.iter().filter_map(|score| below_floor(score, tuned));
    Some(Verdict { outcome, title: title.to_owned(), reasons: reasons.chain(below).collect() })
}

/// Returns a warning about a score that answers about other subjects reach too.
fn below_floor(score: &Score, model: usize) -> Option<String> {
    let (value, floor) = score.cells[model].value.zip(score.floor)?;
    let below = if score.better == Better::Lower { value > floor } else { value < floor };
    (below && score.better != Better::Neither).then(|| {
        format!(
            "{} is on the wrong side of its floor: {} against {} for the references of other rows.",
            score.name,
            headline::print(score, value),
            headline::print(score, floor)
        )
    })
}

fn of_gate(gate: &outputs::Gate) -> Verdict {
    let interval = |key: &str, difference: &Difference| {
        let [value, low, high] = [difference.value, difference.low, difference.high]
            .map(|value| headline::printed_change(key, value));
        format!("{value} [{low}, {high}]")
    };
    let mut reasons = gate.reasons.clone();
    reasons.push(format!(
        "{}: {} gains {} over {}; at least {} is required.",
        headline::metric_name(&gate.metric),
        gate.model,
        interval(&gate.metric, &gate.gain),
        gate.against,
        number::three_digits(gate.min_gain)
    ));
    if let Some(guard) = &gate.guard {
        reasons.push(format!(
            "Guard set {} ({}): loss {} against {}, a rise of {}; at most {} is allowed.",
            guard.name,
            number::counted(guard.rows, "row"),
            number::fixed(guard.loss, 3),
            number::fixed(guard.against_loss, 3),
            interval("loss", &guard.rise),
            number::three_digits(guard.max_loss)
        ));
    }
    let (outcome, title) =
        if gate.passed { (Outcome::Good, "Gate passed") } else { (Outcome::Bad, "Gate failed") };
    Verdict { outcome, title: title.to_owned(), reasons }
}

impl Verdict {
    /// Returns the verdict as a box.
    pub(crate) fn element(&self) -> Element {
        let (class, sign) = match self.outcome {
            Outcome::Good => ("good", "✓"),
            Outcome::Bad => ("bad", "✗"),
            Outcome::Open => ("open", "≈"),
        };
        let reasons = self.reasons.iter().map(|reason| element("li").text(reason));
        classed("div", &format!("verdict {class}"))
            .child(
                classed("p", "verdict-title")
                    .child(classed("span", "sign").attribute("aria-hidden", "true").text(sign))
                    .text(&self.title),
            )
            .child(element("ul").children(reasons))
    }
}

impl Score {
    /// Returns how `model` compares with the base; `None` if that is unknown.
    fn judged(&self, model: usize) -> Option<Judged> {
        let change: Change = self.cells[model].change()?;
        change.range?;
        if change.is_noise() {
            return Some(Judged::Level);
        }
        Some(if self.improves(change.value)? { Judged::Better } else { Judged::Worse })
    }
}
