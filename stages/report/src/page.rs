//! The frame of every page: head, list of contents, sections, script, and what the page may load.

use std::path::Path;

use artifact::FileHash;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chart::markup::{Element, classed, element};
use stage::Context as _;

use crate::parts::Section;

/// Sorts, filters and pages the tables that are marked for it. Pages are complete without it.
const SCRIPT: &str = include_str!("style/page.js");
/// Sheets of all pages, after those of the charts.
const SHEETS: [&str; 3] =
    [include_str!("style/page.css"), include_str!("style/parts.css"), include_str!("style/media.css")];

/// A page.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) title: String,
    /// Heading and what matters most.
    pub(crate) header: Element,
    pub(crate) sections: Vec<Section>,
    /// Last line.
    pub(crate) foot: String,
}

impl Page {
    /// Writes the page to a file, with the folders above it, and prints its path. A page that is already there stays until the new
    /// one is complete.
    ///
    /// # Errors
    ///
    /// Fails when the file or stdout cannot be written.
    pub(crate) fn write_to(self, path: &Path) -> stage::Result<()> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            stage::make_folder("--out", folder).context("writing the page")?;
        }
        stage::write_file(path, self.write().as_bytes()).context("writing the page")?;
        // Behind a page on stdout, the path would be part of it.
        if stage::is_stdout(path) { Ok(()) } else { stage::print_path(path) }
    }

    /// Writes the page.
    pub(crate) fn write(self) -> String {
        let contents = classed("nav", "contents").attribute("aria-label", "Contents").child(
            element("ul").children(self.sections.iter().map(|section| {
                let link = element("a").attribute("href", format!("#{}", section.id)).text(section.title);
                element("li").child(link)
            })),
        );
        let main = element("main")
            .attribute("id", "main")
            .child(self.header)
            .child(contents)
            .children(self.sections.into_iter().map(Section::element));
        let body = element("body")
            .child(classed("a", "skip").attribute("href", "#main").text("Skip to the content"))
            .child(main)
            .child(classed("footer", "foot").child(element("p").text(self.foot)))
            .child(element("script").style(SCRIPT));
        let page = element("html").attribute("lang", "en").child(head(&self.title)).child(body);
        format!("<!DOCTYPE html>\n{page}")
    }
}

fn head(title: &str) -> Element {
    let meta =
        |name: &str, content: &str| element("meta").attribute("name", name).attribute("content", content);
    let mut style = element("style").style(chart::PALETTE);
    for sheet in SHEETS {
        style = style.style(sheet);
    }
    element("head")
        .child(element("meta").attribute("charset", "utf-8"))
        .child(meta("viewport", "width=device-width, initial-scale=1"))
        .child(
            element("meta").attribute("http-equiv", "Content-Security-Policy").attribute("content", policy()),
        )
        .child(meta("color-scheme", "light dark"))
        .child(element("title").text(title))
        .child(style.style(chart::SHEET))
}

/// Forbids the page to load anything and to run any script but ours, whatever the texts in it contain.
fn policy() -> String {
    let hash = STANDARD.encode(FileHash::of(SCRIPT.as_bytes()).as_bytes());
    format!("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hash}'")
}
