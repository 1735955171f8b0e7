//! Cards: scores in the metadata and the text, and the card of adapters.

use std::fmt::Write as _;

use outputs::{ModelScores, Scores};
use serde_json::{Value, json};

use crate::error::Error;
use crate::files::LocalFile;

/// Start and end of the metadata of a card.
const FENCE: &str = "---\n";

/// Returns the card of adapters in mlx-lm's format, from their settings and the names of the `datasets` on the hub.
pub(crate) fn of_adapters(files: &[LocalFile], datasets: &[String]) -> Result<String, Error> {
    let settings = files.iter().find(|file| file.name == "adapter_config.json");
    let settings: Value = match settings {
        Some(file) => serde_json::from_slice(&file.read()?).unwrap_or_default(),
        None => Value::Null,
    };
    let base = settings["base_model_name_or_path"].as_str().filter(|base| is_id(base));
    let mut card = FENCE.to_owned();
    if let Some(base) = base {
        let _ = writeln!(card, "base_model: {}\nbase_model_relation: adapter", outputs::yaml_text(base));
    }
    if !datasets.is_empty() {
        card += "datasets:\n";
        for id in datasets {
            let _ = writeln!(card, "- {}", outputs::yaml_text(id));
        }
    }
    card += "library_name: mlx\npipeline_tag: text-generation\ntags:\n- mlx\n- lora\n- ashlar\n---\n\n# Adapter\n\n";
    match (base, settings["revision"].as_str()) {
        (Some(base), Some(commit)) => {
            let _ = writeln!(
                card,
                "An adapter for [{base}](https://huggingface.co/{base}) at commit `{commit}`, in the format of mlx-lm."
            );
        }
        _ => card += "An adapter in the format of mlx-lm. Its base model is not known.\n",
    }
    card += "The licence of the base model applies, and so do the terms of the training data";
    if !datasets.is_empty() {
        let links = datasets.iter().map(|id| format!("[{id}](https://huggingface.co/datasets/{id})"));
        let _ = write!(card, ", from {}", links.collect::<Vec<_>>().join(", "));
    }
    card += ".\n\n\
             | setting | value |\n| --- | --- |\n";
    for name in ["fine_tune_type", "num_layers", "alpha", "lm_head", "embeddings", "norms"] {
        if !settings[name].is_null() {
            let _ = writeln!(card, "| `{name}` | `{}` |", settings[name]);
        }
    }
    for name in ["rank", "scale", "dropout"] {
        if !settings["lora_parameters"][name].is_null() {
            let _ = writeln!(card, "| `lora_parameters.{name}` | `{}` |", settings["lora_parameters"][name]);
        }
    }
    Ok(card)
}

fn is_id(base: &str) -> bool {
    base.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte))
}

/// Returns the card `text` with `model-index` in its metadata and a table of the scores of `subject` at its end. `name` is the
/// name of the model.
pub(crate) fn with_scores(text: &str, name: &str, subject: &str, scores: &Scores) -> String {
    let Some(found) = scores.models.get(subject) else { return text.to_owned() };
    let rows = rows(found);
    let (metadata, body) =
        match text.strip_prefix(FENCE).and_then(|rest| rest.split_once(&format!("\n{FENCE}"))) {
            Some((metadata, body)) => (format!("{metadata}\n"), body),
            None => (String::new(), text),
        };
    let index = model_index(name, dataset(&metadata).as_deref(), scores, &rows);
    format!("{FENCE}{metadata}{index}{FENCE}{}{}", body.trim_end_matches('\n'), table(subject, scores, &rows))
}

/// A score with its interval.
struct Row<'a> {
    metric: &'a str,
    value: f64,
    interval: Option<[f64; 2]>,
}

fn rows(scores: &ModelScores) -> Vec<Row<'_>> {
    let outer = [("loss", scores.loss), ("perplexity", scores.perplexity)];
    let outer = outer.into_iter().filter_map(|(metric, value)| Some((metric, value?)));
    let text = scores.text.iter().map(|(metric, &value)| (metric.as_str(), value));
    outer
        .chain(text)
        .map(|(metric, value)| Row { metric, value, interval: scores.intervals.get(metric).copied() })
        .collect()
}

/// Returns the first dataset that the metadata of a card names.
fn dataset(metadata: &str) -> Option<String> {
    let mut lines = metadata.lines().skip_while(|line| *line != "datasets:").skip(1);
    lines.next()?.strip_prefix("- ").map(outputs::text_of_yaml)
}

fn confidence(scores: &Scores) -> f64 {
    scores.statistics.as_ref().map_or(0.95, |statistics| statistics.confidence)
}

/// Returns the entry `model-index` of the metadata, as the hub defines it. Texts are JSON, which YAML includes.
fn model_index(name: &str, dataset: Option<&str>, scores: &Scores, rows: &[Row<'_>]) -> String {
    let dataset = dataset.unwrap_or("local");
    let mut yaml = format!(
        "model-index:\n- name: {}\n  results:\n  - task:\n      type: text-generation\n    dataset:\n      \
         name: {}\n      type: {}\n      split: {}\n    metrics:\n",
        json!(name),
        json!(dataset),
        json!(dataset),
        json!(scores.split)
    );
    for Row { metric, value, interval } in rows {
        let title = title(scores, metric);
        let label = match interval {
            Some([low, high]) => {
                format!("{title} ({:.0}% interval {low:.4} to {high:.4})", 100.0 * confidence(scores))
            }
            None => title,
        };
        let _ = write!(
            yaml,
            "    - type: {}\n      value: {}\n      name: {}\n",
            json!(metric),
            json!(value),
            json!(label)
        );
        if let Some([low, high]) = interval {
            let range = json!({ "confidence": confidence(scores), "high": high, "low": low });
            let _ = writeln!(yaml, "      args: {range}");
        }
    }
    yaml
}

/// Returns the name of a metric for people.
fn title(scores: &Scores, metric: &str) -> String {
    scores.metrics.get(metric).map_or_else(|| metric.replace('_', " "), |info| info.title.clone())
}

/// Returns the table of scores beside those of the model that they are compared with.
fn table(subject: &str, scores: &Scores, rows: &[Row<'_>]) -> String {
    let against = scores.models.iter().find(|(name, _)| *name != subject);
    let mut table =
        format!("\n\n## Scores on the {} split\n\n| score | this model | interval |", scores.split);
    let mut rule = "| --- | --- | --- |".to_owned();
    if let Some((name, _)) = against {
        let _ = write!(table, " {name} |");
        rule += " --- |";
    }
    let _ = writeln!(table, "\n{rule}");
    for Row { metric, value, interval } in rows {
        let range = interval.map_or("–".to_owned(), |[low, high]| format!("{low:.3} to {high:.3}"));
        let _ = write!(table, "| {} | {value:.3} | {range} |", title(scores, metric).replace('|', "\\|"));
        if let Some((_, other)) = against {
            let other = self::rows(other).into_iter().find(|row| row.metric == *metric);
            let _ = write!(table, " {} |", other.map_or("–".to_owned(), |row| format!("{:.3}", row.value)));
        }
        table.push('\n');
    }
    table
}
