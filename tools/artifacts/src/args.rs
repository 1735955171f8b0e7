//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use artifact::Level;
use clap::builder::NonEmptyStringValueParser;
use clap::{Parser, Subcommand, ValueEnum};

/// Explains the names and exit codes below the help.
const AFTER_HELP: &str = "\
ARTIFACT is the folder of an artifact, a file with its path (build/…/train.path), a label (refs/NAME), STAGE/KEY, at least the \
first 4 digits of a key, or the name of a stage, which means its artifact that was made or used last.

Exit codes: 0 success · 1 failure · 2 wrong command line · 65 no such artifact or store, or a damaged one · 74 disk full or \
unreadable · 75 another gc is running. `verify`: the sum of 1 damaged, 2 missing, 4 unreadable. `reproduce --run`: 70 \
different bytes.";

/// Default age after which `verify --incremental` verifies an artifact again.
const MAX_AGE: &str = "30days";
/// Default time for which gc keeps what was used.
const GRACE: &str = "14days";

/// List, explain, compare, verify, clean and share the artifacts of a store
#[derive(Debug, Parser)]
#[command(after_help = AFTER_HELP, subcommand_required = true, arg_required_else_help = true)]
pub struct Args {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
    /// Folder of the store
    #[arg(long, global = true, value_name = "DIR", env = "ASHLAR_STORE", default_value = "artifacts")]
    pub store: PathBuf,
    /// How much to print.
    #[command(flatten)]
    pub verbosity: stage::Verbosity,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List artifacts: stage, key, size, last use, metrics and labels
    Ls(Ls),
    /// Show one artifact: settings, inputs, outputs, metrics, and how it was made
    Show(Show),
    /// Print the path of an artifact, for scripts
    Path(Path),
    /// Show what the store holds, what is left over in it, and what pipelines point at
    Status(Status),
    /// Explain a key: the nearest other artifact and what differs, followed into the stages that made the inputs
    Why(Why),
    /// Compare two artifacts: settings, metrics, inputs and files
    Diff(Diff),
    /// Show what an artifact was made from, and what was made from it
    Lineage(Lineage),
    /// Check every byte against the hashes made at publishing
    Verify(Verify),
    /// Remove artifacts that nothing needs, and what killed runs left; shows what it would remove unless told to delete
    Gc(Gc),
    /// Keep an artifact, and everything it was made from, from gc
    Keep(Keep),
    /// Copy artifacts to a folder or to S3-compatible storage
    Push(Push),
    /// Copy artifacts from a folder or from S3-compatible storage into the store; verifies every byte first
    Pull(Pull),
    /// Write an artifact in another format: a model, signed provenance, an RO-Crate, a Croissant dataset
    Export(Export),
    /// Print the commands that make an artifact again from its plain inputs; run them and compare on request
    Reproduce(Reproduce),
}

impl Command {
    /// Returns whether the command would report success for a store that does not exist, such as a mistyped one, as if it had
    /// done its work.
    pub(crate) fn needs_store(&self) -> bool {
        match self {
            // A folder that is named need not be in a store.
            Self::Verify(verify) => verify.artifacts.is_empty(),
            Self::Gc(gc) => gc.delete,
            Self::Keep(keep) => keep.artifact.is_some(),
            Self::Push(_) => true,
            _ => false,
        }
    }
}

/// Flag of the commands that can print JSON.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Json {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// List artifacts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  artifacts ls                    all artifacts
  artifacts ls train --sort time  training runs, the latest first
  artifacts ls --json | jq -r '.[] | select(.bytes > 1e9) | .path'")]
pub struct Ls {
    /// Only artifacts of these stages
    #[arg(value_name = "STAGE")]
    pub stages: Vec<String>,
    /// Also list cached pieces of stages, such as the losses of one checkpoint
    #[arg(long)]
    pub all: bool,
    /// Order of the list
    #[arg(long, value_name = "ORDER", value_enum, default_value_t = Sort::Stage)]
    pub sort: Sort,
    /// Output format.
    #[command(flatten)]
    pub format: Json,
}

/// Order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// In the order of the pipeline
    Stage,
    /// Last used first
    Time,
    /// Largest first
    Size,
}

/// Show an artifact.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// The artifact
    #[arg(value_name = "ARTIFACT")]
    pub artifact: String,
    /// Output format.
    #[command(flatten)]
    pub format: Json,
}

/// Print a path.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  artifacts path fuse --output model   folder of the latest fused model
  ls $(artifacts path 8c67)/data       files of the artifact whose key begins with 8c67")]
pub struct Path {
    /// The artifact
    #[arg(value_name = "ARTIFACT")]
    pub artifact: String,
    /// Print the path of this output instead of the artifact's
    #[arg(long, value_name = "NAME")]
    pub output: Option<String>,
}

/// Folders with pointers of pipelines.
#[derive(Debug, Clone, clap::Args)]
pub struct Pointers {
    /// Folder in which `make` keeps the paths of current artifacts (repeatable) [default: build]
    #[arg(long, value_name = "DIR")]
    pub pointers: Vec<PathBuf>,
}

/// Show the state of a store.
#[derive(Debug, clap::Args)]
pub struct Status {
    /// Where pipelines point from.
    #[command(flatten)]
    pub pointers: Pointers,
    /// Output format.
    #[command(flatten)]
    pub format: Json,
}

/// Explain a key.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With an artifact, explains how it differs from the most similar one. With FILE or `-`, reads what a stage prints with
`--plan --json` and explains the key that the stage would have; make runs this for a stage:
  make why STAGE=train SET=train.rank=4
  target/release/train … --plan --json | artifacts why -")]
pub struct Why {
    /// Artifact, or a file (`-`: stdin) with a plan
    #[arg(value_name = "ARTIFACT|FILE")]
    pub subject: String,
    /// Compare with this artifact instead of the nearest
    #[arg(long, value_name = "ARTIFACT")]
    pub from: Option<String>,
    /// Output format.
    #[command(flatten)]
    pub format: Json,
}

/// Compare two artifacts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  artifacts diff 1a5f 77ab                     two evaluations: settings, scores, inputs, files
  artifacts diff A B --format markdown         for a pull request")]
pub struct Diff {
    /// The artifact to compare with
    #[arg(value_name = "A")]
    pub old: String,
    /// The artifact that is compared
    #[arg(value_name = "B")]
    pub new: String,
    /// Output format
    #[arg(long, value_enum, default_value_t = DiffFormat::Text)]
    pub format: DiffFormat,
}

/// Output format of `diff`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DiffFormat {
    /// For a terminal
    Text,
    /// One object
    Json,
    /// Tables
    Markdown,
}

/// Show lineage.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  artifacts lineage report                               what the latest report was made from
  artifacts lineage --format dot | dot -Tsvg >store.svg  the whole store as a picture")]
pub struct Lineage {
    /// The artifact [default: all of the store]
    #[arg(value_name = "ARTIFACT")]
    pub artifact: Option<String>,
    /// Output format
    #[arg(long, value_enum, default_value_t = GraphFormat::Text)]
    pub format: GraphFormat,
    /// Which way to go from the artifact
    #[arg(long, value_enum, default_value_t = Direction::Up)]
    pub direction: Direction,
}

/// Output format of `lineage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    /// A tree
    Text,
    /// Graphviz
    Dot,
    /// A flowchart for Markdown
    Mermaid,
    /// Nodes and edges
    Json,
}

/// Way through the lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    /// To what it was made from
    Up,
    /// To what was made from it
    Down,
    /// Both
    Both,
}

/// Verify artifacts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The exit code is the sum of: 1 an artifact is damaged; 2 an input is missing or has other bytes than those that were \
read, a labelled or a kept artifact is missing, or something among the artifacts is none; 4 something could not be read. A damaged artifact is replaced when its stage runs again.")]
pub struct Verify {
    /// Artifacts to verify [default: the whole store, labels and kept runs included]
    #[arg(value_name = "ARTIFACT")]
    pub artifacts: Vec<String>,
    /// Data to compare
    #[arg(long, value_enum, default_value_t = VerifyLevel::Hash)]
    pub level: VerifyLevel,
    /// Begin with the artifacts whose last complete verification is oldest, and leave out recent ones
    #[arg(long, conflicts_with = "artifacts")]
    pub incremental: bool,
    /// With --incremental, verify again after this time
    #[arg(long, value_name = "DURATION", default_value = MAX_AGE, value_parser = parse_duration)]
    pub max_age: Duration,
    /// Stop after the artifact that is being verified at this time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub time_limit: Option<Duration>,
    /// Move damaged artifacts to `.quarantine/`
    #[arg(long)]
    pub quarantine: bool,
    /// Output format.
    #[command(flatten)]
    pub format: Json,
}

/// How thoroughly to verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VerifyLevel {
    /// Descriptions, names and sizes of all files
    Size,
    /// Also the bytes of all files; large ones that are unchanged since they were last read are not read again
    Auto,
    /// The bytes of all files
    Hash,
}

impl From<VerifyLevel> for Level {
    fn from(level: VerifyLevel) -> Self {
        match level {
            VerifyLevel::Size => Self::Size,
            VerifyLevel::Auto => Self::Auto,
            VerifyLevel::Hash => Self::Hash,
        }
    }
}

/// Collect garbage.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Kept are: artifacts with a label (--label of a stage), those that `make` points at (--pointers), those of `artifacts keep`, all \
that were made or used within the grace period, and everything that these were made from. An artifact that a running stage has \
open is never removed. Stages may run at the same time.

`make` keeps one folder of pointers for each combination of settings, `build/PIPELINE/MODEL/…/`, and all of them count: delete a \
folder to let its run go. When several checkouts share a store, name the pointer folder of each with --pointers, that of this \
checkout too: what only an unnamed folder points at is removed after the grace period. A named folder must exist.

Examples:
  artifacts gc                  show what would be removed
  artifacts gc --delete         remove it
  artifacts gc --grace 1h       also what has not been used for an hour
  artifacts gc --pointers build --pointers ../other/build
                                when another checkout uses the same store")]
pub struct Gc {
    /// Remove; without this flag, only show what would be removed
    #[arg(long)]
    pub delete: bool,
    /// Keep everything that was made or used within this time
    #[arg(long, value_name = "DURATION", default_value = GRACE, value_parser = parse_duration)]
    pub grace: Duration,
    /// Where pipelines point from.
    #[command(flatten)]
    pub pointers: Pointers,
    /// Keep nothing only because a pipeline points at it; --delete needs this where there is no folder `build`
    #[arg(long, conflicts_with = "pointers")]
    pub no_pointers: bool,
    /// Collect although the clock seems to be wrong
    #[arg(long)]
    pub trust_clock: bool,
    /// Output format.
    #[command(flatten)]
    pub format: Json,
}

/// Keep an artifact.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  artifacts keep report --note 'for the paper'   keep a whole run: its report and all that it was made from
  artifacts keep                                 list what is kept
  artifacts keep report --remove                 let gc remove it again
  artifacts keep train/0123456789 --remove       the same by its key, which works if it is gone")]
pub struct Keep {
    /// The artifact [default: list what is kept]
    #[arg(value_name = "ARTIFACT")]
    pub artifact: Option<String>,
    /// Why it is kept
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, requires = "artifact")]
    pub note: String,
    /// Keep it no longer
    #[arg(long, requires = "artifact", conflicts_with = "note")]
    pub remove: bool,
    /// Output format.
    #[command(flatten)]
    pub format: Json,
}

/// Explanation of places below the help of `push` and `pull`.
const REMOTES: &str = "\
REMOTE is a folder, or s3://BUCKET/PREFIX. S3 is set up by AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and \
AWS_REGION; AWS_ENDPOINT_URL selects another server, AWS_ALLOW_HTTP=true allows one without encryption. A folder is a store \
itself. Copies may be cut off at any moment: what is \
incomplete is never taken for an artifact, and the same command completes it.";

/// Push artifacts.
#[derive(Debug, clap::Args)]
#[command(after_help = REMOTES)]
pub struct Push {
    /// Where to copy them
    #[arg(value_name = "REMOTE", value_parser = NonEmptyStringValueParser::new())]
    pub remote: String,
    /// Artifacts to copy, each with everything it was made from [default: all]
    #[arg(value_name = "ARTIFACT")]
    pub artifacts: Vec<String>,
    /// Copy only the named artifacts
    #[arg(long)]
    pub no_lineage: bool,
    /// Output format.
    #[command(flatten)]
    pub format: Json,
}

/// Pull artifacts.
#[derive(Debug, clap::Args)]
#[command(after_help = REMOTES)]
pub struct Pull {
    /// Where to copy them from
    #[arg(value_name = "REMOTE", value_parser = NonEmptyStringValueParser::new())]
    pub remote: String,
    /// Artifacts to copy, as STAGE/KEY or at least the first 4 digits of a key, each with everything it was made from [default: all]
    #[arg(value_name = "KEY")]
    pub artifacts: Vec<String>,
    /// Copy only the named artifacts
    #[arg(long)]
    pub no_lineage: bool,
    /// Output format.
    #[command(flatten)]
    pub format: Json,
}

/// Export an artifact.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --key, a model gets a signature that `model_signing verify key` (PyPI: model-signing) checks, and statements are signed \
(DSSE). Make a key with
  openssl ecparam -name prime256v1 -genkey -noout -out key.pem && openssl ec -in key.pem -pubout -out public.pem

Examples:
  artifacts export fuse --to my-model --key key.pem      the fused model, its provenance and a signature
  model_signing verify key my-model --signature my-model/model.sig --public_key public.pem
  artifacts export report --to run                       the whole run as an RO-Crate
  artifacts export prepare-data --to dataset             the rows, described in Croissant")]
pub struct Export {
    /// The artifact
    #[arg(value_name = "ARTIFACT")]
    pub artifact: String,
    /// Folder to write, which must not exist
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Format [default: what suits the artifact]
    #[arg(long, value_enum)]
    pub format: Option<ExportFormat>,
    /// Output that the format `model` copies: model, adapters, peft, quantized or gguf [default: the first that there is]
    #[arg(long, value_name = "NAME", value_parser = MODEL_OUTPUTS)]
    pub output: Option<String>,
    /// Sign with this private key: PEM, curve P-256, no password
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
}

/// Outputs that can be exported as a model.
pub(crate) const MODEL_OUTPUTS: [&str; 5] =
    [outputs::MODEL, outputs::ADAPTERS, outputs::PEFT, outputs::QUANTIZED, outputs::GGUF];

/// Format of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// The model (or adapters), with statements about how it was made
    Model,
    /// in-toto statements with SLSA provenance, one per artifact of the lineage, as JSON lines
    InToto,
    /// An RO-Crate of the run: every stage with settings and times, and the artifact's data
    RoCrate,
    /// A dataset in Croissant
    Croissant,
}

/// Reproduce an artifact.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Plain files (a model folder, data) are found among --files by their content. Exit code 70: the bytes differ.

Examples:
  artifacts reproduce report --files data/haw-eng --files data/models/demo        print a shell script
  artifacts reproduce train --only --run                                          train again from the same inputs")]
pub struct Reproduce {
    /// The artifact
    #[arg(value_name = "ARTIFACT")]
    pub artifact: String,
    /// Run the commands, and compare the bytes of every artifact
    #[arg(long)]
    pub run: bool,
    /// Only this artifact, from the inputs that are in the store
    #[arg(long)]
    pub only: bool,
    /// Folder or file with plain inputs (repeatable)
    #[arg(long, value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// Folder for the new artifacts and their settings; every --run makes a new folder below it
    #[arg(long, value_name = "DIR", default_value = "build/reproduce")]
    pub into: PathBuf,
    /// Folder with the programs of the stages [default: that of this program]
    #[arg(long, value_name = "DIR")]
    pub bin: Option<PathBuf>,
}

/// Parses `14days`, `1h` or `0`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = |error| format!("expected a duration, such as `14days`, `1h` or `0`: {error}");
    humantime::parse_duration(text).map_err(expected)
}
