//! The model card: `README.md` of the fused folder, made of nothing but inputs and settings.

use crate::{Config, Cost, Inputs};
use anyhow::{Context, Result};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

/// Writes the card into the fused model's `folder`; a card of the base model makes way for it.
pub(crate) fn write(inputs: &Inputs<'_>, config: &Config, cost: &Cost, folder: &Path) -> Result<()> {
    let read = |path: &Path| -> Result<Value> {
        let text = fs_err::read_to_string(path)?;
        serde_json::from_str(&text).with_context(|| format!("reading `{}`", path.display()))
    };
    let facts = Facts {
        model: read(&folder.join("config.json"))?,
        adapters: read(&inputs.adapters.join("adapter_config.json"))?,
        origin: inputs.origin.map(read).transpose()?,
        stats: inputs.stats.map(read).transpose()?,
        sources: inputs.rows.map(sources).transpose()?.unwrap_or_default(),
        license: models::card_license(inputs.model),
    };
    Ok(fs_err::write(folder.join("README.md"), card(&facts, config, cost))?)
}

struct Facts {
    model: Value,
    adapters: Value,
    origin: Option<Value>,
    stats: Option<Value>,
    /// Names of the files that the rows came from.
    sources: BTreeSet<String>,
    /// The licence that the base's own card names.
    license: Option<String>,
}

/// The most files that a card names.
const NAMED_FILES: usize = 20;

/// The files that rows came from, without the folders they lay in.
fn sources(rows: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for split in ["train", "validation", "test"] {
        let path = rows.join(format!("{split}.jsonl"));
        if !path.is_file() {
            continue;
        }
        for row in dataset::read_rows(&path)? {
            let source = row?.source;
            let file = source.rsplit_once(':').map_or(source.as_str(), |(file, _)| file);
            let name = file.rsplit('/').next().unwrap_or(file);
            if !names.contains(name) {
                names.insert(name.to_owned());
            }
        }
    }
    Ok(names)
}

fn card(facts: &Facts, config: &Config, cost: &Cost) -> String {
    let source = facts.origin.as_ref().map(|origin| &origin["source"]);
    let base = source.and_then(|source| Some((source["id"].as_str()?, source["commit"].as_str()?)));
    let mut out = String::from("---\n");
    if let Some((id, _)) = base {
        let _ = writeln!(out, "base_model: {id}");
    }
    let stated = facts.origin.as_ref().and_then(|origin| origin["license"].as_str());
    let license = stated.or(facts.license.as_deref()).filter(|name| models::is_license(name));
    if let Some(license) = license {
        let _ = writeln!(out, "license: {license}");
    }
    out += "library_name: transformers\npipeline_tag: text-generation\n---\n\n# Fused model\n\n";
    let kind = facts.model["model_type"].as_str().unwrap_or("language");
    let _ = match base {
        Some((id, commit)) => writeln!(
            out,
            "A `{kind}` model: [{id}](https://huggingface.co/{id}) at commit `{commit}`, with a trained adapter worked in."
        ),
        None => writeln!(out, "A `{kind}` model from a local folder, with a trained adapter worked in."),
    };
    let _ = match license {
        Some(name) => writeln!(
            out,
            "Its licence is that of the base model, `{name}`, together with the terms of the data."
        ),
        None => writeln!(out, "Its licence is that of the base model, together with the terms of the data."),
    };
    if let Some(stats) = &facts.stats {
        data(&mut out, stats, &facts.sources);
    }
    out += "\n## Adapter\n\n| setting | value |\n| --- | --- |\n";
    rows(&mut out, "", &facts.adapters);
    changed_settings(&mut out, config);
    let _ = write!(
        out,
        "\n## Scores\n\nOn the validation split, {} tokens:\n\n| | loss, nats a token | perplexity |\n| --- | --- | --- |\n\
         | adapter beside the base model | {:.4} | {:.2} |\n| fused | {:.4} | {:.2} |\n\n\
         Logits of the two differ by {:.1e} at most.\n",
        cost.tokens,
        cost.adapter_loss,
        cost.adapter_loss.exp(),
        cost.fused_loss,
        cost.fused_loss.exp(),
        cost.max_logit_difference
    );
    out
}

fn data(out: &mut String, stats: &Value, sources: &BTreeSet<String>) {
    *out += "\n## Data\n\nSources and terms are those of the files that the dataset was made from";
    let named: Vec<String> =
        sources.iter().take(NAMED_FILES).map(|name| format!("`{}`", plain(name))).collect();
    if !named.is_empty() {
        let _ = write!(out, ": {}", named.join(", "));
        if sources.len() > named.len() {
            let _ = write!(out, " and {} more", sources.len() - named.len());
        }
    }
    *out += ".\n\n\
             | split | rows | tokens | trained tokens |\n| --- | --- | --- | --- |\n";
    let splits = stats["splits"].as_object();
    for name in ["train", "validation", "test"] {
        if let Some(split) = splits.and_then(|splits| splits.get(name)) {
            let _ = writeln!(
                out,
                "| {name} | {} | {} | {} |",
                split["rows"], split["tokens"], split["trained_tokens"]
            );
        }
    }
}

/// A name without what would mean something in a card.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c == '`' || c == '|' || c.is_control() { '_' } else { c }).collect()
}

/// What differs from the defaults of `fuse`.
fn changed_settings(out: &mut String, config: &Config) {
    let table = |config: &Config| -> Map<String, Value> {
        let value = serde_json::to_value(config).expect("settings are plain data");
        value.as_object().cloned().unwrap_or_default()
    };
    let defaults = table(&Config::default());
    let mut changed = table(config);
    changed.retain(|name, value| defaults.get(name) != Some(value));
    if !changed.is_empty() {
        *out += "\n## Settings of `fuse` that are not the default\n\n| setting | value |\n| --- | --- |\n";
        rows(out, "", &Value::Object(changed));
    }
}

/// A row for every value; what tools of others wrote may be nested, empty, or name a folder.
fn rows(out: &mut String, prefix: &str, value: &Value) {
    let Some(table) = value.as_object() else { return };
    let mut names: Vec<&String> = table.keys().collect();
    names.sort();
    for name in names {
        let value = &table[name];
        match value {
            Value::Object(_) => rows(out, &format!("{prefix}{name}."), value),
            Value::Null => {}
            Value::String(text) if text.contains(['/', '\\', '\n', '|']) => {}
            Value::Array(items) if items.is_empty() => {}
            _ => {
                let _ = writeln!(out, "| `{prefix}{name}` | `{value}` |");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Gguf;
    use serde_json::json;

    fn shown(origin: Value, config: &Config) -> String {
        let facts = Facts {
            model: json!({"model_type": "llama"}),
            adapters: json!({"fine_tune_type": "lora", "lora_parameters": {"rank": 8, "keys": []}, "data": "/home/me/x"}),
            origin: Some(origin),
            stats: Some(json!({"splits": {"train": {"rows": 7, "tokens": 70, "trained_tokens": 40}}})),
            sources: ["a.jsonl".to_owned(), "b`|.csv".to_owned()].into(),
            license: Some("mit".to_owned()),
        };
        let cost = Cost { adapter_loss: 1.0, fused_loss: 1.001, max_logit_difference: 1e-5, tokens: 12 };
        card(&facts, config, &cost)
    }

    #[test]
    fn a_card_tells_base_data_adapter_settings_and_scores() {
        let origin =
            json!({"source": {"type": "hub", "id": "org/name", "commit": "c0ffee"}, "license": "apache-2.0"});
        let text = shown(origin, &Config { gguf: Gguf::F16, ..Config::default() });
        for part in [
            "---\nbase_model: org/name\nlicense: apache-2.0\n",
            "that of the base model, `apache-2.0`,",
            "was made from: `a.jsonl`, `b__.csv`.",
            "at commit `c0ffee`",
            "| train | 7 | 70 | 40 |",
            "| `lora_parameters.rank` | `8` |",
            "| `gguf` | `\"f16\"` |",
            "| fused | 1.0010 | 2.72 |",
        ] {
            assert!(text.contains(part), "no {part:?} in:\n{text}");
        }
    }

    #[test]
    fn a_card_names_no_folder_and_no_default() {
        let text = shown(json!({"source": {"type": "folder"}}), &Config::default());
        assert!(
            !text.contains("/home/me") && !text.contains("base_model") && !text.contains("not the default"),
            "{text}"
        );
        assert!(text.contains("from a local folder") && text.contains("license: mit\n"), "{text}");
    }
}
