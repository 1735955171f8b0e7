//! Command line of `upload`.

use std::cell::RefCell;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use hub::{Settings, Watch};
use indicatif::{HumanBytes, ProgressBar};
use upload::{Error, Target, local_files, push};

/// Push a fused model and its card to the Hugging Face hub
///
/// The token is taken from `HF_TOKEN`, or from where `hf auth login` keeps it; `HF_ENDPOINT` names another hub. What is
/// there with the same hash is not sent again. Prints the address of the commit.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Artifact with the model (or its name in the store)
    #[arg(long, value_name = "ARTIFACT")]
    model: PathBuf,
    /// Repository on the hub; made if it is missing
    #[arg(long, value_name = "OWNER/NAME")]
    id: String,
    /// Branch on the hub; made if it is missing
    #[arg(long, value_name = "BRANCH", default_value = "main")]
    revision: String,
    /// Make a new repository private; one that exists stays as it is
    #[arg(long)]
    private: bool,
    /// First line of the commit
    #[arg(long, value_name = "TEXT", default_value = "Upload a fused model")]
    message: String,
    /// Look up names of artifacts in DIR
    #[arg(long, value_name = "DIR", env = "ASHLAR_STORE", default_value = "artifacts")]
    store: PathBuf,
    #[arg(skip)]
    common: stage::CommonArgs,
}

fn main() -> ExitCode {
    stage::main(|args: Args| body(&args), |args| &args.common)
}

fn body(args: &Args) -> anyhow::Result<()> {
    let settings = Settings::from_env().map_err(|error| explain(error.into()))?;
    let model = find(&args.store, &args.model);
    let target =
        Target { id: &args.id, revision: &args.revision, private: args.private, message: &args.message };
    let terminal = Terminal { stop: stage::StopFlag::default(), bar: RefCell::new(ProgressBar::hidden()) };
    let files = local_files(&model).map_err(explain)?;
    let outcome = push(&files, &target, &settings, &terminal).map_err(|error| match error {
        Error::Hub(hub::Error::Interrupted { .. }) => stage::StopFlag::default().interrupted().into(),
        error => explain(error),
    })?;
    match (&outcome.changed[..], &outcome.removed[..]) {
        ([], []) => tracing::info!("everything is there already"),
        (changed, removed) => tracing::info!(
            "{} of {} files changed, {} taken away; {} of large files sent",
            changed.len(),
            files.len(),
            removed.len(),
            HumanBytes(outcome.sent_bytes)
        ),
    }
    let address = format!("{}/{}/tree/{}", settings.endpoint, args.id, outcome.commit);
    writeln!(std::io::stdout(), "{address}").context("printing the address")
}

/// A path, or the name of a ref in the store.
fn find(store: &Path, model: &Path) -> PathBuf {
    let named = || {
        let store = artifact::Store::open(store).ok()?;
        let found = store.open_ref(model.to_str()?, artifact::Level::Size).ok()??;
        Some(found.path().to_owned())
    };
    if model.exists() { model.to_owned() } else { named().unwrap_or_else(|| model.to_owned()) }
}

fn explain(error: Error) -> anyhow::Error {
    match error {
        Error::Io(error) | Error::Hub(hub::Error::Io(error)) => error.into(),
        error if error.is_bad_input() => stage::bad_input(error),
        error if error.is_usage() => stage::usage(error),
        error => error.into(),
    }
}

/// Shows on stderr what travels, as a bar on a terminal.
struct Terminal {
    stop: stage::StopFlag,
    bar: RefCell<ProgressBar>,
}

impl Watch for Terminal {
    fn stop(&self) -> Option<i32> {
        self.stop.requested()
    }

    fn begin(&self, name: &str, total: Option<u64>, _already: u64) {
        let total = total.unwrap_or(0);
        tracing::info!("uploading `{name}`, {}", HumanBytes(total));
        self.bar.replace(stage::progress_bar(total));
    }

    fn advance(&self, bytes: u64) {
        self.bar.borrow().inc(bytes);
    }

    fn end(&self) {
        self.bar.borrow().finish_and_clear();
    }
}
