//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::destination::Destination;
use crate::part::Part;

/// Push a fused model, an export of it, or adapters to the Hugging Face hub, with a card
///
/// Takes the token from `HF_TOKEN`, or from the file that `hf auth login` writes; `HF_ENDPOINT` selects another hub. Files
/// that the hub has with the same hash are not sent again. Prints the address of the commit.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Artifact of `fuse`, or of `select-best` for its adapters, or its label in the store
    #[arg(long, value_name = "ARTIFACT")]
    pub model: PathBuf,
    /// Output to push: `model`, `quantized`, `gguf`, `peft` or `adapters`
    #[arg(long, value_name = "NAME", default_value = "model", hide_possible_values = true)]
    pub output: Part,
    /// Artifact of `evaluate` that scored it; the card then lists scores and intervals (`model-index`)
    #[arg(long, value_name = "ARTIFACT")]
    pub scores: Option<PathBuf>,
    /// Dataset on the hub for the card of `adapters` (repeatable)
    #[arg(long = "dataset", value_name = "ID")]
    pub datasets: Vec<String>,
    /// Repository on the hub; created if missing
    #[arg(long, value_name = "OWNER/NAME")]
    pub id: String,
    /// Branch on the hub; created if missing
    #[arg(long, value_name = "BRANCH", default_value = "main")]
    pub revision: String,
    /// Make a new repository private; an existing one is not changed
    #[arg(long)]
    pub private: bool,
    /// Remove weights of other models, which would be loaded together with the new ones, from the branch
    #[arg(long)]
    pub replace_weights: bool,
    /// First line of the commit message [default: names the output]
    #[arg(long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Look up labels of artifacts in DIR
    #[arg(long, value_name = "DIR", env = "ASHLAR_STORE", default_value = "artifacts")]
    pub store: PathBuf,
    /// How much to print.
    #[command(flatten)]
    pub verbosity: stage::Verbosity,
}

impl Args {
    /// Returns the destination of the upload.
    pub(crate) fn destination(&self) -> Destination<'_> {
        let Self { id, revision, private, replace_weights, message, output, .. } = self;
        let message = message.as_deref().unwrap_or(output.message());
        Destination { id, revision, private: *private, replace_weights: *replace_weights, message }
    }
}
