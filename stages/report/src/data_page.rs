//! `report data`: a page about a dataset.

mod rows;
mod scripts;

use std::path::Path;

use artifact::Store;
use chart::markup::{Element, classed, element};
use outputs::{Document as _, SPLITS, Stats};
use stage::{Error, Result};

use crate::args::DataArgs;
use crate::context::Context;
use crate::data;
use crate::error;
use crate::number;
use crate::page::Page;
use crate::parts::Section;

/// Writes the page and prints its path.
pub(crate) fn program(args: &DataArgs) -> Result<()> {
    let store = Store::open(&args.store).ok();
    let artifact = stage::locate(store.as_ref(), &args.dataset)?;
    let manifest = artifact.manifest();
    if manifest.stage != "prepare-data" {
        let message = format!(
            "`{}` was made by stage `{}`, not by prepare-data",
            args.dataset.display(),
            manifest.stage
        );
        return Err(Error::bad_input(message).hinted("give an artifact of prepare-data"));
    }
    let model = args.model.as_deref().map(|model| stage::locate(store.as_ref(), model)).transpose()?;
    let context = match &model {
        Some(model) => Context::read(model.path(), artifact.path())?,
        None => None,
    };
    let key = manifest.key.to_string();
    page(artifact.path(), &key, context.as_ref(), args.rows)?.write_to(&args.out)
}

/// Makes the page of the dataset in the folder of an artifact.
fn page(folder: &Path, key: &str, context: Option<&Context>, count: usize) -> Result<Page, error::Error> {
    let stats = Stats::read(&folder.join("data").join(Stats::FILE))?;
    let splits = data::splits(&stats);
    let mut sections = vec![
        Section::new("splits", "Splits")
            .about(data::about(&stats))
            .add(data::table(&splits, context))
            .extend(context.and_then(Context::callout)),
    ];
    sections.extend(rows::lengths(folder, &stats, context)?);
    sections.push(
        Section::new("dropped", "Rows left out")
            .extend(data::left_out(&stats, &splits))
            .extend(data::left_out_lists(&stats, &splits)),
    );
    sections.push(duplicates(&stats));
    sections.push(
        Section::new("leaks", "Leaks").about(data::leaks_found(&stats)).extend(data::leak_lists(&stats)),
    );
    sections.extend(scripts::section(folder)?);
    sections.extend(rows::notices(&stats));
    sections.push(rows::section(folder, count)?);
    let title = "Dataset".to_owned();
    Ok(Page {
        header: header(&stats, key, &title),
        title,
        sections,
        foot: "Made by Ashlar from an artifact of prepare-data.".to_owned(),
    })
}

fn header(stats: &Stats, key: &str, title: &str) -> Element {
    let sum = |get: fn(&outputs::SplitStats) -> u64| stats.splits.values().map(get).sum::<u64>();
    let (rows, tokens, trained) =
        (sum(|split| split.rows), sum(|split| split.tokens), sum(|split| split.trained_tokens));
    let share = 100.0 * trained as f64 / tokens.max(1) as f64;
    let figure = |name: &str, value: String, detail: String| {
        element("div")
            .child(element("dt").text(name))
            .child(classed("dd", "value").text(value))
            .child(classed("dd", "detail").text(detail))
    };
    let split_rows: Vec<String> = SPLITS
        .iter()
        .filter_map(|name| Some(format!("{} {name}", number::count(stats.splits.get(*name)?.rows))))
        .collect();
    let leaks = match (stats.leaks.checked_rows, stats.leaks.count) {
        (0, _) => "not checked".to_owned(),
        (checked, _) => format!("of {} checked", number::counted(checked, "row")),
    };
    let figures = classed("dl", "figures")
        .child(figure("Rows", number::count(rows), format!("of {} read", number::count(stats.rows_read))))
        .child(figure(
            "Tokens",
            number::count(tokens),
            format!("{} per row", number::count(tokens / rows.max(1))),
        ))
        .child(figure("Trained tokens", format!("{}%", number::fixed(share, 0)), number::count(trained)))
        .child(figure("Leaks", number::count(stats.leaks.count), leaks));
    classed("header", "head")
        .child(classed("p", "overline").text("Ashlar data report"))
        .child(element("h1").text(title))
        .child(classed("p", "lead").text(format!(
            "{}: {}.",
            number::counted(rows, "row"),
            split_rows.join(", ")
        )))
        .child(classed("p", "about").text("prepare-data, key ").child(crate::parts::hash(key)))
        .child(figures)
}

fn duplicates(stats: &Stats) -> Section {
    let mut section = Section::new("duplicates", "Duplicates");
    let lists: Vec<Element> = data::splits(stats)
        .iter()
        .filter_map(|(name, split)| {
            data::tally_list(&format!("Rows of {name} with the text of an earlier row"), &split.duplicates)
        })
        .chain(data::tally_list("Rows with the id of an earlier row", &stats.duplicate_ids))
        .collect();
    section = section.about(if lists.is_empty() {
        "No row has the text or the id of an earlier row of its split."
    } else {
        "Rows that repeat an earlier one are kept; they weigh more in training, and make a score look surer than it is."
    });
    section.extend(lists)
}
