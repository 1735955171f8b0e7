//! The files that stages hand over: the name, the type, the writer and the checked reader of each.
//!
//! No stage depends on another stage; what they share is here. A [`Document`] is one JSON value, a [`Line`] one line of a
//! file of JSON lines. Fields are written in the order of their declaration, so that order is part of the format.
//! [`STAGES`] lists every stage with the outputs it makes.
//!
//! ```
//! use outputs::{CheckpointLosses, Document, Losses, NamedRowLoss};
//!
//! let row = NamedRowLoss { id: "story-1".into(), loss: 6.0, tokens: 4, ..NamedRowLoss::default() };
//! let base = CheckpointLosses::new(0, vec![row]);
//! let losses = Losses { split: "validation".into(), rows: 1, tokens: 4, checkpoints: vec![base] };
//! let folder = tempfile::tempdir()?;
//! losses.write(folder.path())?;
//! assert_eq!(Losses::read(&folder.path().join(outputs::LOSSES))?, losses);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answers;
mod card;
mod changes;
mod chat;
mod checkpoints;
mod choice;
mod files;
mod finite;
mod fusion;
mod import;
mod losses;
mod run;
mod scores;
mod stages;
mod stats;
mod sweep;
mod timing;
mod training;

pub use answers::CheckpointAnswers;
pub use card::{is_hub_id, text_of_yaml, yaml_text};
pub use changes::{Changes, CheckpointChanges, RowChange};
pub use chat::ChatSettings;
pub use checkpoints::{checkpoint_adapters, checkpoint_name};
pub use choice::{Candidate, Choice};
pub use files::{Document, Error, Line, Result};
pub use fusion::{ExportCost, FusionCost};
pub use import::{GgufImport, Import, ImportSource, Quantization};
pub use losses::{CheckpointLosses, Losses, NamedRowLoss, RowLoss};
pub use run::{RunRecord, RunScore, RunValue};
pub use scores::{
    Comparison, Difference, Direction, FailedRow, Gate, Guard, MetricInfo, ModelScores, ModelSource,
    Prediction, Scores, Statistics, Subgroup, TokenLosses, Verdict,
};
pub use stages::*;
pub use stats::{Leak, LeakKind, LeakStats, Lengths, SplitStats, Stats, Tally, TurnEnd, ValidationLeaks};
pub use sweep::{SweepMember, SweepRecord, SweepRun, SweepScore};
pub use timing::{StageTimes, Times, TimingLine};
pub use training::{MetricsLine, Stop, Summary, TrainLine, ValidationLine};
