//! `report compare`: a page with many runs side by side.

pub(crate) mod cost;
mod paired;
pub(crate) mod plots;
mod rows;
pub(crate) mod runs;
pub(crate) mod tables;

use artifact::Store;
use chart::markup::{Element, classed, element};
use outputs::{RunValue, Verdict};
use stage::Result;

use self::runs::{Run, Runs};
use crate::args::CompareArgs;
use crate::headline::printed;
use crate::number;
use crate::page::Page;
use crate::parts::Section;
use crate::statistics;
use paired::Pair;

/// Writes the page and prints its path.
pub(crate) fn program(args: &CompareArgs) -> Result<()> {
    let store = Store::open(&args.store).ok();
    let runs = Runs::read(store.as_ref(), args.runs.iter().map(String::as_str))?;
    let pairs = paired::pairs(&runs)?;
    page(&runs, &pairs).write_to(&args.out)
}

fn page(runs: &Runs, pairs: &[Pair]) -> Page {
    let title = format!("{} compared", number::counted(runs.list.len() as u64, "run"));
    let mut sections = vec![tables::overview(runs)];
    sections.extend(tables::scores(runs));
    sections.extend(paired::section(runs, pairs));
    sections.extend(tables::seeds(runs));
    sections.extend(plots::settings(runs));
    sections.extend(plots::curves(runs));
    sections.push(cost::section(runs));
    Page {
        header: header(runs, pairs, &title),
        title,
        sections,
        foot: "Made by Ashlar from the artifacts of report.".to_owned(),
    }
}

fn header(runs: &Runs, pairs: &[Pair], title: &str) -> Element {
    let mut header = classed("header", "head")
        .child(classed("p", "overline").text("Ashlar comparison"))
        .child(element("h1").text(title));
    if let Some(lead) = lead(runs, pairs) {
        header = header.child(classed("p", "lead").text(lead));
    }
    for note in runs.notes() {
        header = header.child(classed("p", "about").text(note));
    }
    header
}

/// Returns which run is best, and whether the next is within its interval.
fn lead(runs: &Runs, pairs: &[Pair]) -> Option<String> {
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
        if let Some((next, other)) = ranked.get(1) {
            let (next_value, relation) = (printed(&key, other.value), relation(pairs, &key, &ranked));
            part.extend(["; the next, ", &next.name, " with ", &next_value, &relation]);
        }
        parts.push(part);
    }
    (!parts.is_empty()).then(|| parts.join(". ") + ".")
}

/// Returns how the second of ranked runs relates to the best: by their difference on the same rows, or else by the interval.
fn relation(pairs: &[Pair], key: &str, ranked: &[(&Run, RunValue)]) -> String {
    let [(best, value), (next, other), ..] = ranked else { return String::new() };
    if let Some(difference) = Pair::find(pairs, key, next, best) {
        let verdict = match difference.verdict {
            Some(Verdict::Better | Verdict::Worse) => "beyond noise",
            _ => "within noise",
        };
        return format!(", differs by {}, {verdict}", statistics::printed(key, &difference));
    }
    match value.interval {
        Some([low, high]) if low <= other.value && other.value <= high => {
            ", is within its interval".to_owned()
        }
        Some(_) => ", is outside its interval".to_owned(),
        None => String::new(),
    }
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
