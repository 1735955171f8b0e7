//! Pushes a fused model, an export of it, or adapters with a card to a repository of the Hugging Face hub.
//!
//! Uploads one output of an artifact, after verifying every byte, and nothing else. Files that the hub has with the
//! same hash are not sent again, so an interrupted upload resumes and a finished one does nothing. All files appear in one
//! commit; large ones are sent before it. Talking HTTP, retrying and reading settings is the job of `hub`.

mod args;
mod card;
mod contents;
mod destination;
mod error;
mod files;
mod objects;
mod part;
mod post;
mod push;
mod refusal;
mod terminal;

pub use args::Args;
pub use contents::{Contents, contents};
pub use destination::Destination;
pub use error::Error;
pub use files::LocalFile;
pub use part::Part;
pub use push::{Outcome, push};

use std::io::Write as _;

use artifact::Store;
use hub::Settings;
use indicatif::HumanBytes;
use stage::{Context as _, Result};

use crate::terminal::Terminal;

/// Uploads what the command line names and prints the address of the commit.
///
/// # Errors
///
/// Fails if the model cannot be used, or if the hub refuses or cannot be reached.
pub fn run(args: &Args) -> Result<()> {
    check_datasets(args)?;
    let settings = Settings::from_env()?;
    let store = Store::open(&args.store).ok();
    let artifact = stage::locate(store.as_ref(), &args.model)?;
    let scores = args.scores.as_ref().map(|scores| stage::locate(store.as_ref(), scores)).transpose()?;
    let name = args.id.rsplit('/').next().unwrap_or(&args.id);
    let scores = scores.as_ref().map(artifact::Artifact::path);
    let Contents { files, .. } = &contents(artifact.path(), args.output, &args.datasets, scores, name)?;
    let outcome = push(files, &args.destination(), &settings, &Terminal::new())?;
    match (outcome.changed.len(), outcome.removed.len()) {
        (0, 0) => tracing::info!("upload: up to date"),
        (changed, removed) => tracing::info!(
            "upload: {changed} of {} files changed, {removed} removed, {} of large files sent",
            files.len(),
            HumanBytes(outcome.sent_bytes)
        ),
    }
    let address = format!("{}/{}/tree/{}", settings.endpoint, args.id, outcome.commit);
    writeln!(std::io::stdout(), "{address}").context("printing the address")
}

fn check_datasets(args: &Args) -> Result<()> {
    let Some(first) = args.datasets.first() else { return Ok(()) };
    if args.output != Part::Adapters {
        let reason = format!("`--dataset {first}` is for the card of `adapters`");
        return Err(
            stage::Error::usage(reason).hinted("set `fuse.datasets`; the card that `fuse` writes names them")
        );
    }
    match args.datasets.iter().find(|id| !outputs::is_hub_id(id)) {
        None => Ok(()),
        Some(id) => Err(stage::Error::usage(format!("`{id}` is not the name of a dataset"))
            .hinted("the form is `OWNER/NAME`, such as `jane/stories`")),
    }
}
