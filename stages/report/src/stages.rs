//! Section "What ran": the chain of stages with hashes and times, and the settings of each.

use artifact::Manifest;
use chart::markup::{Element, classed, element};
use outputs::FusionCost;

use crate::number;
use crate::parts::{self, Section, bare, hash, number_column, row_head, scrolling, words_column};
use crate::settings::{self, Setting};
use crate::source::Contents;
use crate::times::{self, Telemetry};

/// Returns the section.
pub(crate) fn section(contents: &Contents, telemetry: Option<&Telemetry>) -> Section {
    let mut section = Section::new("stages", "What ran").about(numerics(contents).unwrap_or_default());
    section = section.add(chain(contents, telemetry));
    if telemetry.is_none() {
        section = section.add(parts::notes([
            "Times, memory, speed and cache hits differ between runs, so no hash covers them: they are in the copy of this \
             page in the artifact's folder telemetry."
                .to_owned(),
        ]));
    }
    let emphasis = contents.stages.iter().any(settings::knows_defaults);
    section = section.heading("Settings");
    if emphasis {
        section = section.about("Settings that differ from their defaults are shown; the others are folded.");
    }
    section.extend(contents.stages.iter().map(|manifest| stage(manifest, outcome(contents, &manifest.stage))))
}

/// Returns the stages in their order, each with what it read, its hashes, and its times if they are known.
fn chain(contents: &Contents, telemetry: Option<&Telemetry>) -> Element {
    let mut columns =
        vec![words_column("Stage"), words_column("Reads"), words_column("Key"), words_column("Tree")];
    if telemetry.is_some() {
        columns.extend([number_column("Time"), number_column("Peak memory"), words_column("Made")]);
    }
    let rows = contents.stages.iter().map(|manifest| {
        let reads: Vec<&str> =
            manifest.inputs.values().map(|input| input.stage.as_deref().unwrap_or("files")).collect();
        let mut reads: Vec<&str> = reads;
        reads.sort_unstable();
        reads.dedup();
        let hashed = |value: String| element("td").child(hash(&value));
        let mut cells = vec![
            row_head(&manifest.stage),
            parts::cell(reads.join(", ")),
            hashed(manifest.key.to_string()),
            hashed(manifest.tree.to_string()),
        ];
        if let Some(telemetry) = telemetry {
            let times = telemetry.times.stages.get(&manifest.stage).cloned().unwrap_or_default();
            cells.extend(times::cells(&times));
        }
        cells
    });
    let table = parts::table("Stages", &columns, rows);
    classed("div", "chain").child(table)
}

fn stage(manifest: &Manifest, outcome: Option<String>) -> Element {
    let settings = settings::settings(manifest);
    let changed: Vec<&Setting> = settings.iter().filter(|setting| setting.default.is_some()).collect();
    let head = classed("header", "stage-head").child(element("h4").text(&manifest.stage)).child(
        classed("span", "hashes")
            .text("key ")
            .child(hash(&manifest.key.to_string()))
            .text(" · tree ")
            .child(hash(&manifest.tree.to_string())),
    );
    let mut article = classed("article", "stage").child(head);
    if !settings::knows_defaults(manifest) && !settings.is_empty() {
        let list = settings.iter().fold(classed("dl", "changed plainly"), |list, setting| {
            let value = element("dd").child(element("b").text(&setting.value));
            list.child(element("div").child(element("dt").text(&setting.name)).child(value))
        });
        article = article.child(list);
    } else if !changed.is_empty() {
        article = article.child(changed.iter().fold(classed("dl", "changed"), |list, setting| {
            let default = format!("default {}", setting.default.as_deref().unwrap_or_default());
            let value = element("dd")
                .child(element("b").text(&setting.value))
                .child(classed("span", "default").text(default));
            list.child(element("div").child(element("dt").text(&setting.name)).child(value))
        }));
    } else if settings::knows_defaults(manifest) {
        article = article.child(classed("p", "none").text("all settings at their defaults"));
    }
    if let Some(outcome) = outcome {
        article = article.child(classed("p", "outcome").text(outcome));
    }
    article.child(details(manifest, &settings))
}

/// Returns the losses that fuse measured, which appear nowhere else on the page.
fn outcome(contents: &Contents, stage: &str) -> Option<String> {
    if stage != "fuse" {
        return None;
    }
    let FusionCost { adapter_loss, fused_loss, max_logit_difference, tokens, .. } =
        *contents.fusion.as_ref()?;
    Some(format!(
        "adapter loss {}, fused loss {}, max logit difference {}, tokens {}",
        number::fixed(adapter_loss, 4),
        number::fixed(fused_loss, 4),
        number::three_digits(max_logit_difference),
        number::count(tokens)
    ))
}

fn details(manifest: &Manifest, settings: &[Setting]) -> Element {
    let summary = format!(
        "{}, {}, {}",
        number::counted(settings.len() as u64, "setting"),
        number::counted(manifest.inputs.len() as u64, "input"),
        number::counted(manifest.outputs.len() as u64, "output")
    );
    let mut details = element("details").child(element("summary").text(summary));
    if !settings.is_empty() {
        let rows = settings.iter().map(|setting| {
            let row = element("tr")
                .child(element("th").attribute("scope", "row").child(element("code").text(&setting.name)))
                .child(classed("td", "value").attribute("dir", "auto").text(&setting.value));
            if setting.default.is_some() { row.attribute("class", "picked") } else { row }
        });
        details = details.child(titled_table("Settings", rows));
    }
    let inputs = manifest.inputs.iter().map(|(role, origin)| {
        let from = match (&origin.stage, &origin.output) {
            (Some(stage), Some(output)) => format!("{role}: {output} of {stage}"),
            (Some(stage), None) => format!("{role}: {stage}"),
            (None, _) => format!("{role}: given from outside"),
        };
        hash_row(&from, &origin.tree.to_string(), "")
    });
    let outputs = manifest.outputs.iter().map(|(name, output)| {
        let size = format!("{}, {}", number::counted(output.files, "file"), number::bytes(output.bytes));
        hash_row(name, &output.tree.to_string(), &size)
    });
    let own = [("key", manifest.key.to_string()), ("tree", manifest.tree.to_string())];
    let version = format!("stage version {}", manifest.stage_version);
    let own = own.map(|(name, value)| hash_row(name, &value, if name == "key" { &version } else { "" }));
    if !manifest.inputs.is_empty() {
        details = details.child(titled_table("Inputs", inputs));
    }
    if !manifest.outputs.is_empty() {
        details = details.child(titled_table("Outputs", outputs));
    }
    details.child(titled_table("Artifact", own))
}

fn titled_table(title: &str, rows: impl IntoIterator<Item = Element>) -> Element {
    let caption = element("caption").text(title);
    let table = classed("table", "plain").child(caption).child(element("tbody").children(rows));
    scrolling(title, table)
}

fn hash_row(name: &str, hash: &str, detail: &str) -> Element {
    let mut cell = classed("td", "value").child(classed("code", "hash").text(bare(hash)));
    if !detail.is_empty() {
        cell = cell.child(classed("span", "detail").text(detail));
    }
    element("tr").child(element("th").attribute("scope", "row").text(name)).child(cell)
}

/// Returns a sentence with the MLX version, backend and device of the stages that compute in floating point.
fn numerics(contents: &Contents) -> Option<String> {
    let mut lines: Vec<(String, Vec<&str>)> = Vec::new();
    for manifest in &contents.stages {
        if manifest.key_material.numerics.is_empty() {
            continue;
        }
        let mut printed: Vec<String> = manifest
            .key_material
            .numerics
            .iter()
            .map(|(name, value)| {
                let name = if name == "mlx" { "MLX".to_owned() } else { name.replace('_', " ") };
                format!("{name} {value}")
            })
            .collect();
        printed.sort_by_key(|part| !part.starts_with("MLX"));
        let printed = printed.join(", ");
        match lines.iter_mut().find(|(line, _)| *line == printed) {
            Some((_, stages)) => stages.push(&manifest.stage),
            None => lines.push((printed, vec![&manifest.stage])),
        }
    }
    let lines: Vec<String> =
        lines.into_iter().map(|(line, stages)| format!("{line} ({})", stages.join(", "))).collect();
    (!lines.is_empty()).then(|| format!("Computed with {}.", lines.join("; ")))
}
