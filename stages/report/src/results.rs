//! The top of the page, the score table and the score bars.

use chart::markup::{Element, classed, element};
use chart::{Bar, Bars};

use crate::config::Config;
use crate::headline::{self, model_name, print};
use crate::number;
use crate::parts::{HALF, NARROW_HALF, Section, figure, id_of, notes, scrolling, side_by_side};
use crate::scores::{Better, Cell, Kind, Score, Table};
use crate::source::Contents;
use crate::verdict::Verdict;

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

/// Returns the heading, the result in a sentence, the verdict, and the main figures.
pub(crate) fn head(
    contents: &Contents,
    table: &Table,
    verdict: Option<&Verdict>,
    config: &Config,
) -> Element {
    let sentence = headline::sentence(contents, table);
    classed("header", "head")
        .child(classed("p", "overline").text("Ashlar report"))
        .child(element("h1").text(title(contents, config)))
        .child(classed("p", "lead").text(format!("{sentence}.")))
        .children(verdict.map(Verdict::element))
        .child(figures(contents, table))
}

fn figures(contents: &Contents, table: &Table) -> Element {
    let mut list = classed("dl", "figures");
    let main = ["perplexity"].into_iter().chain(table.text_score().map(|score| score.key.as_str()));
    for score in main.filter_map(|key| table.score(key)) {
        let Some((tuned, value)) = table.tuned().and_then(|model| Some((model, score.cells[model].value?)))
        else {
            continue;
        };
        let base = table.base().and_then(|base| score.cells[base].value);
        let detail = match base.zip(score.cells[tuned].change()) {
            Some((base, change)) => {
                let range = headline::print_range(score, value, &change).unwrap_or_default();
                format!(
                    "from {}, {} {range}",
                    print(score, base),
                    headline::print_change(score, value, &change)
                )
            }
            None => model_name(&table.models[tuned]),
        };
        list = list.child(
            main_figure(&score.name, &print(score, value), detail.trim_end()).attribute("class", "tuned"),
        );
    }
    let choice = &contents.choice;
    let last = contents.losses.checkpoints.last().map_or(choice.step, |checkpoint| checkpoint.step);
    list = list.child(main_figure(
        "Chosen step",
        &number::count(choice.step),
        &format!("of {}; validation loss {}", number::count(last), number::fixed(choice.loss, 3)),
    ));
    let (trained, frozen) = (contents.summary.trainable_parameters, contents.summary.frozen_parameters);
    let share = trained as f64 / (trained + frozen).max(1) as f64;
    let total = number::three_digits((trained + frozen) as f64 / 1e6);
    let detail = format!("of {total}\u{a0}M, {}%", number::three_digits(share * 100.0));
    let trained = format!("{}\u{a0}M", number::three_digits(trained as f64 / 1e6));
    list.child(main_figure("Trained parameters", &trained, &detail))
}

fn main_figure(name: &str, value: &str, detail: &str) -> Element {
    element("div")
        .child(element("dt").text(name))
        .child(classed("dd", "value").text(value))
        .child(classed("dd", "detail").text(detail))
}

/// Returns the section with the score table and its bars.
pub(crate) fn scores(contents: &Contents, table: &Table) -> Section {
    let with_floor = table.scores.iter().any(|score| score.floor.is_some());
    let mut heads = element("tr").child(element("th").attribute("scope", "col").text("Score"));
    for model in &table.models {
        heads = heads.child(
            classed("th", "number").attribute("scope", "col").child(element("bdi").text(model_name(model))),
        );
    }
    if with_floor {
        heads = heads.child(classed("th", "number floor").attribute("scope", "col").text("Floor"));
    }
    let rows = table.scores.iter().map(|score| row(table, score, with_floor));
    let grid = classed("table", "scores")
        .child(element("thead").child(heads))
        .child(element("tbody").children(rows));
    Section::new("scores", "Scores")
        .about(about(contents, table))
        .add(scrolling("Scores", grid))
        .add(notes(explanations(table, with_floor)))
        .add(side_by_side(bars(table).iter().map(|bars| figure(bars, HALF, NARROW_HALF))))
}

fn row(table: &Table, score: &Score, with_floor: bool) -> Element {
    let mut name = element("th").attribute("scope", "row").text(&score.name);
    let direction = match score.better {
        Better::Lower => "lower is better",
        Better::Higher | Better::Neither => "",
    };
    let unit: Vec<&str> = [score.unit, direction].into_iter().filter(|text| !text.is_empty()).collect();
    if !unit.is_empty() {
        name = name.child(classed("span", "unit").text(unit.join(", ")));
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
    let verdict = match if change.is_noise() { None } else { score.improves(change.value) } {
        Some(true) => "better",
        Some(false) => "worse",
        None => "level",
    };
    let mut note = classed("span", &format!("change {verdict}"))
        .child(element("b").text(headline::print_change(score, value, &change)));
    if let Some(range) = headline::print_range(score, value, &change) {
        note = note.text(" ").child(classed("span", "range").text(range));
    }
    let mut printed = printed.child(note);
    if let Some([better, level, worse]) = change.rows {
        let rows = format!(
            "{} better, {} equal, {} worse",
            number::count(better),
            number::count(level),
            number::count(worse)
        );
        printed = printed.child(classed("span", "rows").text(rows));
    }
    printed
}

/// Returns one chart of bars per score with a scale of its own.
pub(crate) fn bars(table: &Table) -> Vec<Bars> {
    let shown = table.scores.iter().filter(|score| score.key != "loss");
    shown.filter_map(|score| bars_of(table, score)).collect()
}

fn bars_of(table: &Table, score: &Score) -> Option<Bars> {
    let models = table.models.iter().zip(&score.cells).enumerate();
    let bars: Vec<Bar> = models
        .filter_map(|(model, (name, cell))| {
            let value = cell.value.filter(|value| *value >= 0.0)?;
            Some(Bar {
                name: model_name(name),
                value,
                interval: cell.interval,
                printed: print(score, value),
                strong: Some(model) == table.tuned(),
            })
        })
        .collect();
    let described: Vec<String> = bars
        .iter()
        .map(|bar| match bar.interval {
            Some([low, high]) => {
                format!(
                    "{} {}, interval {} to {}",
                    bar.name,
                    bar.printed,
                    print(score, low),
                    print(score, high)
                )
            }
            None => format!("{} {}", bar.name, bar.printed),
        })
        .collect();
    bars.iter().any(|bar| bar.value > 0.0).then(|| Bars {
        name: format!("score-{}", id_of(&score.key)),
        title: score.name.clone(),
        description: format!("{}.", described.join("; ")),
        bars,
        floor: score
            .floor
            .filter(|floor| *floor >= 0.0)
            .map(|floor| (floor, format!("floor {}", print(score, floor)))),
    })
}

fn about(contents: &Contents, table: &Table) -> String {
    let split = headline::split(contents);
    let tokens = contents.scores.models.values().map(|scores| scores.tokens).find(|tokens| *tokens > 0);
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

fn explanations(table: &Table, with_floor: bool) -> Vec<String> {
    let mut notes = Vec::new();
    let changes = table.scores.iter().flat_map(|score| &score.cells).filter_map(Cell::change);
    if changes.into_iter().any(|change| change.range.is_some()) {
        notes.push(format!(
            "Brackets: change against the base, {}. A change whose interval includes 0 is grey, because it could be noise.",
            table.intervals
        ));
    }
    let points = table.scores.iter().filter(|score| score.kind == Kind::Points);
    let points: Vec<&str> = points.map(|score| score.name.as_str()).collect();
    if !points.is_empty() {
        notes.push(format!(
            "On a scale from 0 to 100: {}. Those that sacreBLEU has are equal to its own.",
            points.join(", ")
        ));
    }
    notes.extend(table.scores.iter().filter(|score| score.kind == Kind::EditRate).map(|score| {
        format!(
            "{}: edits per 100 words of the reference, as sacreBLEU counts them. 0 is a perfect answer, and it can exceed 100.",
            score.name
        )
    }));
    if with_floor {
        notes.push(
            "Floor: the score of the references of other rows, that is, of fluent text about the wrong subject."
                .to_owned(),
        );
    }
    notes.extend(table.notes.iter().cloned());
    notes
}
