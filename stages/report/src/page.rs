//! The page as a whole.

use chart::markup::{classed, element};
use chart::{Chart, Size};

use crate::config::Config;
use crate::error::Error;
use crate::scores::Table;
use crate::source::Contents;
use crate::{curves, dataset, results, samples, stages};

/// Forbids the page to load anything, whatever the texts in it contain.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// Writes the page.
pub(crate) fn write(
    contents: &Contents,
    table: &Table,
    charts: &[(Chart, Size)],
    config: &Config,
) -> Result<String, Error> {
    let title = results::title(contents, config);
    let head = element("head")
        .child(element("meta").attribute("charset", "utf-8"))
        .child(
            element("meta")
                .attribute("name", "viewport")
                .attribute("content", "width=device-width, initial-scale=1"),
        )
        .child(
            element("meta").attribute("http-equiv", "Content-Security-Policy").attribute("content", POLICY),
        )
        .child(element("meta").attribute("name", "color-scheme").attribute("content", "light dark"))
        .child(element("title").text(title))
        .child(
            element("style").style(chart::PALETTE).style(include_str!("style/page.css")).style(chart::SHEET),
        );
    let main = element("main")
        .child(results::head(contents, table, config))
        .child(results::scores(contents, table, config))
        .children(curves::section(contents, charts, config)?)
        .children(samples::section(contents, table, config.samples as usize))
        .child(stages::section(contents))
        .children(contents.dataset.as_ref().map(dataset::section))
        .child(stages::reproduce(contents)?)
        .child(
            classed("footer", "foot")
                .text("Made by Ashlar. The same artifacts and settings produce an identical page."),
        );
    let page = element("html").attribute("lang", "en").child(head).child(element("body").child(main));
    Ok(format!("<!DOCTYPE html>\n{page}"))
}
