//! Section "Stages": settings and hashes of every stage, and how to verify and repeat the run.

use artifact::Manifest;
use chart::markup::{Element, classed, element};
use outputs::FusionCost;

use crate::error::Error;
use crate::number;
use crate::settings::{self, Setting};
use crate::source::Contents;

/// Digits of a hash that are shown; a tooltip has all of them.
const SHORT: usize = 12;

/// Returns the section.
pub(crate) fn section(contents: &Contents) -> Element {
    let mut section = element("section").attribute("id", "stages").child(element("h2").text("What ran"));
    if let Some(line) = numerics(contents) {
        section = section.child(classed("p", "about").text(line));
    }
    let emphasis = contents.stages.iter().any(settings::knows_defaults);
    if emphasis {
        section =
            section.child(classed("p", "about").text("Settings that differ from their defaults are shown."));
    }
    section
        .children(contents.stages.iter().map(|manifest| stage(manifest, outcome(contents, &manifest.stage))))
}

fn stage(manifest: &Manifest, outcome: Option<String>) -> Element {
    let settings = settings::settings(manifest);
    let changed: Vec<&Setting> = settings.iter().filter(|setting| setting.default.is_some()).collect();
    let head = classed("header", "stage-head").child(element("h3").text(&manifest.stage)).child(
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
    let FusionCost { adapter_loss, fused_loss, max_logit_difference, tokens } = contents.fusion?;
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
    let table = classed("table", "plain").child(element("tbody").children(rows));
    classed("div", "scroll").child(element("h4").text(title)).child(table)
}

fn hash_row(name: &str, hash: &str, detail: &str) -> Element {
    let mut cell = classed("td", "value").child(classed("code", "hash").text(bare(hash)));
    if !detail.is_empty() {
        cell = cell.child(classed("span", "detail").text(detail));
    }
    element("tr").child(element("th").attribute("scope", "row").text(name)).child(cell)
}

/// Shows the start of a hash, with all of it as tooltip.
fn hash(value: &str) -> Element {
    let value = bare(value);
    element("code").attribute("title", value).text(value.get(..SHORT).unwrap_or(value))
}

/// Removes the type tag of a hash.
fn bare(hash: &str) -> &str {
    hash.split_once(':').map_or(hash, |(_, digits)| digits)
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

/// Returns the section that says how to verify the artifacts and repeat the run.
pub(crate) fn reproduce(contents: &Contents) -> Result<Element, Error> {
    let check = |manifest: &Manifest| {
        format!("check {}/{}-* {}\n", manifest.stage, manifest.key.short(), bare(&manifest.tree.to_string()))
    };
    let commands: String = contents.stages.iter().map(check).collect();
    let function = "# $1: an artifact's folder, $2: the tree hash it must have\n\
        check() (\n  cd \"$1\" && sha256sum --quiet -c COMMIT &&\n  \
        echo \"$2  SHA256SUMS\" | sha256sum --quiet -c &&\n  \
        cd data && sha256sum --quiet -c ../SHA256SUMS && echo \"$1 is whole\"\n)\n";
    let settings = settings::toml(&contents.stages)?;
    let mut section = element("section")
        .attribute("id", "reproduce")
        .child(element("h2").text("Check and repeat"))
        .child(classed("p", "about").text(
            "Every artifact carries the hashes of its files. These commands check each one a number on this page came \
             from; on macOS, sha256sum is shasum -a 256.",
        ))
        .child(code(&format!("{function}\ncd artifacts   # the store, or wherever the folders lie\n{commands}")));
    if !settings.is_empty() {
        section = section
            .child(classed("p", "about").text(
                "With these settings in a file, STAGE --config FILE run in the order above gives the same keys, and with \
                 the same inputs the same trees.",
            ))
            .child(
                element("details").child(element("summary").text("All settings as TOML")).child(code(&settings)),
            );
    }
    Ok(section)
}

fn code(text: &str) -> Element {
    element("pre").child(element("code").text(text))
}
