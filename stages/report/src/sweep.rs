//! `report sweep`: a page about the runs of a sweep.

mod differences;
mod members;

use std::path::Path;

use artifact::Store;
use chart::markup::{Element, classed, element};
use outputs::{Document as _, SweepMember, SweepRecord};
use stage::{Error, Result};

use crate::args::SweepArgs;
use crate::compare::runs::{Run, Runs};
use crate::compare::{cost, plots, tables};
use crate::number;
use crate::page::Page;
use crate::parts::{Section, code};
use differences::Differences;

/// File with the best settings, beside the record.
const BEST: &str = "best.toml";
/// Page beside the record.
const PAGE: &str = "sweep.html";

/// A sweep with the reports of the runs that were trained to the full length.
struct Sweep {
    record: SweepRecord,
    runs: Runs,
    /// Index of the member of each run.
    member_of_run: Vec<usize>,
}

impl Sweep {
    fn read(args: &SweepArgs, store: Option<&Store>) -> Result<Self> {
        let record = SweepRecord::read(&args.record)?;
        let (mut reports, mut member_of_run) = (Vec::new(), Vec::new());
        for (at, member) in record.members.iter().enumerate() {
            for report in member.runs.iter().filter_map(|run| run.report.as_deref()) {
                reports.push(report);
                member_of_run.push(at);
            }
        }
        if reports.is_empty() {
            let message = format!("`{}`: no run of this sweep has a report", args.record.display());
            return Err(Error::bad_input(message).hinted("run the sweep until at least one run has finished"));
        }
        let runs = Runs::read(store, reports.into_iter())?;
        Ok(Self { record, runs, member_of_run })
    }

    /// Returns the runs of a member.
    fn runs_of(&self, member: usize) -> Vec<&Run> {
        let runs = self.runs.list.iter().zip(&self.member_of_run);
        runs.filter(|(_, of)| **of == member).map(|(run, _)| run).collect()
    }

    /// Returns the index of the best member on the validation split.
    fn best(&self) -> Option<usize> {
        let best = self.record.best()?;
        self.record.members.iter().position(|member| member.name == best.name)
    }
}

/// Returns the name of a member for readers: the settings that vary, without their stages.
fn title(member: &SweepMember) -> String {
    let short = |name: &str| name.rsplit('.').next().unwrap_or(name).replace('_', " ");
    let parts: Vec<String> =
        member.values.iter().map(|(name, value)| format!("{} {value}", short(name))).collect();
    if parts.is_empty() { member.name.clone() } else { parts.join(", ") }
}

/// Writes the page and prints its path.
///
/// # Errors
///
/// Fails when the record or a report cannot be read, and when no run has finished.
pub(crate) fn program(args: &SweepArgs) -> Result<()> {
    let store = Store::open(&args.store).ok();
    let sweep = Sweep::read(args, store.as_ref())?;
    let folder = args.record.parent().unwrap_or(Path::new(""));
    // A named pipe would wait for a writer.
    let preset = Some(folder.join(BEST)).filter(|file| file.is_file());
    let preset = preset.and_then(|file| fs_err::read_to_string(file).ok());
    let differences = Differences::new(&sweep, store.as_ref());
    let out = args.out.clone().unwrap_or_else(|| folder.join(PAGE));
    page(&sweep, differences.as_ref(), preset.as_deref()).write_to(&out)
}

fn page(sweep: &Sweep, differences: Option<&Differences>, preset: Option<&str>) -> Page {
    let title = format!("Sweep {}", sweep.record.name);
    let runs = &sweep.runs;
    let mut sections = vec![members::section(sweep)];
    sections.extend(differences.map(|differences| differences.section(sweep)));
    sections.extend(tables::scores(runs));
    sections.extend(tables::seeds(runs));
    sections.extend(plots::settings(runs));
    sections.extend(plots::curves(runs));
    sections.push(cost::section(runs));
    sections.extend(preset.map(best_settings));
    Page {
        header: header(sweep, differences, &title),
        title,
        sections,
        foot: "Made by Ashlar from the artifacts of report.".to_owned(),
    }
}

fn header(sweep: &Sweep, differences: Option<&Differences>, title: &str) -> Element {
    let mut header = classed("header", "head")
        .child(classed("p", "overline").text("Ashlar sweep"))
        .child(element("h1").text(title));
    if let Some(best) = sweep.record.best() {
        let record = &sweep.record;
        let result = record.result(best).map_or("–".to_owned(), |result| number::fixed(result, 3));
        let result = match record.metric() {
            Some((metric, _)) => format!("{} of {result}", members::title_of(metric)),
            None => format!("loss of {result} nats per token"),
        };
        let mut lead = format!("Best on the validation split: {}, with a {result}.", self::title(best));
        lead.extend(differences.map(|differences| format!(" {}", differences.sentence())));
        header = header.child(classed("p", "lead").text(lead));
    }
    for note in sweep.runs.notes() {
        header = header.child(classed("p", "about").text(note));
    }
    header
}

fn best_settings(preset: &str) -> Section {
    Section::new("best", "Best settings")
        .about("The preset of the model with the settings of the best member. It is the file best.toml beside this page.")
        .add(code("Best settings", preset))
}
