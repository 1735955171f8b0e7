//! `report compare`: a page with many runs side by side.

pub(crate) mod cost;
pub(crate) mod plots;
pub(crate) mod runs;
pub(crate) mod tables;

use artifact::Store;
use chart::markup::{Element, classed, element};
use stage::Result;

use self::runs::{Run, Runs};
use crate::args::CompareArgs;
use crate::headline::printed;
use crate::number;
use crate::page::Page;
use crate::parts::Section;

/// Writes the page and prints its path.
pub(crate) fn program(args: &CompareArgs) -> Result<()> {
    let store = Store::open(&args.store).ok();
    let runs = Runs::read(store.as_ref(), args.runs.iter().map(String::as_str))?;
    page(&runs).write_to(&args.out)
}

fn page(runs: &Runs) -> Page {
    let title = format!("{} compared", number::counted(runs.list.len() as u64, "run"));
    let mut sections = vec![tables::overview(runs)];
    sections.extend(tables::scores(runs));
    sections.extend(tables::seeds(runs));
    sections.extend(plots::settings(runs));
    sections.extend(plots::curves(runs));
    sections.push(cost::section(runs));
    Page {
        header: header(runs, &title),
        title,
        sections,
        foot: "Made by Ashlar from the artifacts of report.".to_owned(),
    }
}

fn header(runs: &Runs, title: &str) -> Element {
    let mut header = classed("header", "head")
        .child(classed("p", "overline").text("Ashlar comparison"))
        .child(element("h1").text(title));
    if let Some(lead) = lead(runs) {
        header = header.child(classed("p", "lead").text(lead));
    }
    for note in runs.notes() {
        header = header.child(classed("p", "about").text(note));
    }
    header
}

/// Returns which run is best, and whether the next is within its interval.
fn lead(runs: &Runs) -> Option<String> {
    let mut parts = Vec::new();
    for key in runs.main_scores() {
        let ranked = runs.ranked(&key);
        let (best, value) = ranked.first()?;
        let title = runs.title(&key);
        let interval = value.interval.map_or(String::new(), |[low, high]| {
            format!(" [{}, {}]", printed(&key, low), printed(&key, high))
        });
        let mut part =
            format!("{title}: {} is best with {}{interval}", best.name, printed(&key, value.value));
        if let (Some((next, other)), Some([low, high])) = (ranked.get(1), value.interval) {
            let inside = low <= other.value && other.value <= high;
            let relation = if inside { "within its interval" } else { "outside its interval" };
            let value = printed(&key, other.value);
            part.extend(["; the next, ", &next.name, " with ", &value, ", is ", relation]);
        }
        parts.push(part);
    }
    (!parts.is_empty()).then(|| parts.join(". ") + ".")
}

/// Returns the mark of a run in tables, which has the colour and the dashes of its curves.
fn swatch(run: &Run) -> Element {
    classed("span", &format!("swatch s{}", run.hue % chart::HUES)).attribute("aria-hidden", "true")
}

/// Returns the heading cell of a run.
fn run_head(run: &Run) -> Element {
    element("th").attribute("scope", "row").child(swatch(run)).child(element("bdi").text(&run.name))
}

/// Returns a section, if it has content.
fn filled(section: Section) -> Option<Section> {
    (!section.content.is_empty()).then_some(section)
}
