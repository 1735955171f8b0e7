//! The top of the page: heading, result in a sentence, and the score table.

use chart::markup::{Element, classed, element};

use crate::config::Config;
use crate::headline::{self, model_name, print};
use crate::number;
use crate::scores::{Cell, Kind, Score, Table};
use crate::source::Contents;

/// Returns the page's heading.
pub(crate) fn title(contents: &Contents, config: &Config) -> String {
    if !config.title.is_empty() {
        return config.title.clone();
    }
    let settings = contents.manifest("import-model").map(|manifest| &manifest.key_material.config);
    let named = settings.and_then(|settings| {
        let names = ["id", "name"];
        names.iter().find_map(|name| settings.get(name)?.as_str().filter(|name| !name.is_empty()))
    });
    // A hub id is `owner/name`; the heading shows the name.
    let named = named.map(|name| name.rsplit('/').next().unwrap_or(name));
    named.map_or("Fine-tuning report".to_owned(), |name| format!("{name}, fine-tuned"))
}

/// Returns the heading, the result in a sentence, and the main figures.
pub(crate) fn head(contents: &Contents, table: &Table, config: &Config) -> Element {
    let sentence = headline::sentence(contents, table);
    classed("header", "head")
        .child(classed("p", "overline").text("Ashlar"))
        .child(element("h1").text(title(contents, config)))
        .child(classed("p", "lead").text(format!("{sentence}.")))
        .child(figures(contents, table))
}

fn figures(contents: &Contents, table: &Table) -> Element {
    let mut list = classed("dl", "figures");
    for name in ["Perplexity", "chrF"] {
        let Some(score) = table.score(name) else { continue };
        let Some((tuned, value)) = table.tuned().and_then(|model| Some((model, score.cells[model].value?)))
        else {
            continue;
        };
        let base = table.base().and_then(|base| score.cells[base].value);
        let detail = match base.zip(score.cells[tuned].change()) {
            Some((base, change)) => {
                format!("from {}, {}", print(score, base), headline::print_change(score, value, &change))
            }
            None => model_name(&table.models[tuned]),
        };
        list = list.child(figure(name, &print(score, value), &detail).attribute("class", "tuned"));
    }
    let choice = &contents.choice;
    let last = contents.losses.checkpoints.last().map_or(choice.step, |checkpoint| checkpoint.step);
    list = list.child(figure(
        "Chosen step",
        &number::count(choice.step),
        &format!("of {}; validation loss {}", number::count(last), number::fixed(choice.loss, 3)),
    ));
    let (trained, frozen) = (contents.summary.trainable_parameters, contents.summary.frozen_parameters);
    let share = trained as f64 / (trained + frozen).max(1) as f64;
    let total = number::three_digits((trained + frozen) as f64 / 1e6);
    let detail = format!("of {total}\u{a0}M, {}\u{202f}%", number::three_digits(share * 100.0));
    let trained = format!("{}\u{a0}M", number::three_digits(trained as f64 / 1e6));
    list.child(figure("Trained parameters", &trained, &detail))
}

fn figure(name: &str, value: &str, detail: &str) -> Element {
    element("div")
        .child(element("dt").text(name))
        .child(classed("dd", "value").text(value))
        .child(classed("dd", "detail").text(detail))
}

/// Returns the section with the score table.
pub(crate) fn scores(contents: &Contents, table: &Table, config: &Config) -> Element {
    let with_floor = table.scores.iter().any(|score| score.floor.is_some());
    let mut heads = element("tr").child(element("th").attribute("scope", "col").text("Score"));
    for model in &table.models {
        heads = heads.child(classed("th", "number").attribute("scope", "col").text(model_name(model)));
    }
    if with_floor {
        heads = heads.child(classed("th", "number floor").attribute("scope", "col").text("Floor"));
    }
    let rows = table.scores.iter().map(|score| row(table, score, with_floor));
    let grid = classed("table", "scores")
        .child(element("thead").child(heads))
        .child(element("tbody").children(rows));
    element("section")
        .attribute("id", "scores")
        .child(element("h2").text("Scores"))
        .child(classed("p", "about").text(about(contents, table)))
        .child(classed("div", "scroll").child(grid))
        .child(notes(table, config, with_floor))
}

fn row(table: &Table, score: &Score, with_floor: bool) -> Element {
    let mut name = element("th").attribute("scope", "row").text(&score.name);
    if !score.unit.is_empty() {
        name = name.child(classed("span", "unit").text(score.unit));
    }
    let mut row = element("tr").child(name);
    for (model, cell) in score.cells.iter().enumerate() {
        row = row.child(value(score, cell, Some(model) == table.tuned()));
    }
    if with_floor {
        let floor = score.floor.map_or(String::new(), |floor| print(score, floor));
        row = row.child(classed("td", "number floor").text(floor));
    }
    row
}

fn value(score: &Score, cell: &Cell, tuned: bool) -> Element {
    let class = if tuned { "number tuned" } else { "number" };
    let Some(value) = cell.value else {
        return classed("td", class).text("–");
    };
    let printed = classed("td", class).child(classed("span", "figure").text(print(score, value)));
    let Some(change) = cell.change() else { return printed };
    let verdict = verdict_class(if change.is_noise() { None } else { score.improves(change.value) });
    let mut note = classed("span", &format!("change {verdict}"))
        .child(element("b").text(headline::print_change(score, value, &change)));
    if let Some(range) = headline::print_range(score, value, &change) {
        note = note.text(" ").child(classed("span", "range").text(range));
    }
    printed.child(note)
}

fn verdict_class(better: Option<bool>) -> &'static str {
    match better {
        Some(true) => "better",
        Some(false) => "worse",
        None => "level",
    }
}

fn about(contents: &Contents, table: &Table) -> String {
    let split = &contents.scores.split;
    let tokens = contents.scores.models.values().next().map(|scores| scores.tokens);
    let mut text = format!("On the {split} split, {}", number::counted(contents.scores.rows, "row"));
    if let Some(tokens) = tokens {
        text.push_str(" and ");
        text.push_str(&number::counted(tokens, "predicted token"));
    }
    match table.generated {
        0 => text.push_str(". No text was generated."),
        rows => {
            text.push_str(". Text scores are over ");
            text.push_str(&number::counted(rows as u64, "generated row"));
            text.push_str("; a row without an answer counts as 0.");
        }
    }
    text
}

fn notes(table: &Table, config: &Config, with_floor: bool) -> Element {
    let mut list = classed("ul", "notes");
    if table
        .scores
        .iter()
        .flat_map(|score| &score.cells)
        .filter_map(Cell::change)
        .any(|change| change.range.is_some())
    {
        list = list.child(element("li").text(format!(
            "Brackets: {} interval of the change against the base, from a paired bootstrap over rows ({} draws, seed {}). \
             A change whose interval includes 0 is grey, because it could be noise.",
            config.confidence_label(),
            number::count(u64::from(config.resamples)),
            config.seed
        )));
    }
    if table.scores.iter().any(|score| score.kind == Kind::Points) {
        list =
            list.child(element("li").text(
                "chrF, chrF++, BLEU and exact match are on a scale from 0 to 100; chrF and BLEU equal those of sacreBLEU.",
            ));
    }
    if with_floor {
        list = list.child(element("li").text(
            "Floor: the score of the references of other rows, that is, of fluent text about the wrong subject.",
        ));
    }
    list.children(table.notes.iter().map(|note| element("li").text(note)))
}
