//! Section "Exports": what quantizing the fused model cost.

use chart::markup::Element;
use outputs::{ExportCost, FusionCost};

use crate::number;
use crate::parts::{Section, cell, number_cell, number_column, row_head, table, words_column};
use crate::source::Contents;

/// Columns of the table, each with whether it holds numbers.
const COLUMNS: [(&str, bool); 8] = [
    ("File", false),
    ("Format", false),
    ("Size", true),
    ("Validation loss", true),
    ("Change", true),
    ("KL divergence", true),
    ("Same top token", true),
    ("Test chrF", true),
];

/// Returns the section; `None` if fuse made no exports.
pub(crate) fn section(contents: &Contents) -> Option<Section> {
    let rows = rows(contents);
    if rows.is_empty() {
        return None;
    }
    let columns =
        COLUMNS.map(|(name, is_number)| if is_number { number_column(name) } else { words_column(name) });
    let rows = rows.into_iter().map(|cells| -> Vec<Element> {
        let kinds = COLUMNS.iter().map(|(_, is_number)| *is_number);
        let cells = cells.iter().zip(kinds).enumerate();
        cells
            .map(|(index, (text, is_number))| match (index, is_number) {
                (0, _) => row_head(text),
                (_, true) => number_cell(text),
                (_, false) => cell(text),
            })
            .collect()
    });
    let section = Section::new("exports", "Exports").about(
        "Forms of the fused model with smaller weights, measured on the written files: the loss and the divergence from the \
         fused model are means over the targets of the validation split, in nats.",
    );
    Some(section.add(table("Exports", &columns, rows)))
}

/// Returns the table in Markdown; empty if fuse made no exports.
pub(crate) fn markdown(contents: &Contents, escaped: impl Fn(&str) -> String) -> String {
    let rows = rows(contents);
    if rows.is_empty() {
        return String::new();
    }
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let head = line(COLUMNS.map(|(name, _)| name.to_lowercase()).to_vec());
    let rule = COLUMNS.map(|(_, is_number)| if is_number { "|--:" } else { "|---" }).concat();
    let rows: String =
        rows.into_iter().map(|cells| line(cells.iter().map(|cell| escaped(cell)).collect())).collect();
    format!("## Exports\n\n{head}{rule}|\n{rows}\n")
}

/// Returns the cells of the fused model and of each export.
fn rows(contents: &Contents) -> Vec<[String; 8]> {
    let Some(FusionCost { fused_loss, model_bytes, exports, .. }) = &contents.fusion else {
        return Vec::new();
    };
    if exports.is_empty() {
        return Vec::new();
    }
    let chrf = |model: &str| {
        let score = contents.scores.models.get(model).and_then(|scores| scores.text.get("chrf"));
        score.map_or("–".to_owned(), |score| number::fixed(*score, 1))
    };
    let none = || "–".to_owned();
    let mut rows = vec![[
        outputs::MODEL.to_owned(),
        none(),
        number::bytes(*model_bytes),
        number::fixed(*fused_loss, 4),
        none(),
        none(),
        none(),
        chrf("fused"),
    ]];
    for ExportCost { path, format, bytes, loss, kl_divergence, same_top_token } in exports {
        rows.push([
            path.clone(),
            format.clone(),
            number::bytes(*bytes),
            number::fixed(*loss, 4),
            number::signed(loss - fused_loss, 4),
            number::fixed(*kl_divergence, 4),
            format!("{}%", number::fixed(100.0 * same_top_token, 1)),
            chrf(if path == outputs::QUANTIZED { "fused_quantized" } else { "fused_gguf" }),
        ]);
    }
    rows
}
