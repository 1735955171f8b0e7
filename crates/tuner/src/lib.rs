//! Fine-tuning on MLX: adapters, loss, optimizers, schedules, the training loop and scoring.
//!
//! Everything random is derived from (seed, purpose, step), so a resumed run produces the same bytes as an uninterrupted
//! one. Trainable parameters are lists of arrays in the order of their names, and are passed to the gradient as arguments.
//! Artifacts, progress bars and settings files are left to the stages.
//!
//! ```no_run
//! # fn main() -> tuner::Result<()> {
//! let mut model = models::Model::load("model".as_ref(), &models::LoadOptions::default())?;
//! let adapter = tuner::AdapterSettings::default();
//! let trainable = tuner::attach(&mut model, &adapter, 42)?;
//! let mut trainer = tuner::Trainer::new(model, trainable, tuner::OptimizerSettings::default(), 42)?;
//! # Ok(())
//! # }
//! ```

mod adapter;
mod answers;
mod batch;
mod batch_order;
mod distrust;
mod early_stopping;
mod error;
mod head;
mod loss;
mod mixture;
mod optimizer;
mod prefetch;
mod ranks;
mod resume_state;
mod schedule;
mod score;
mod seed;
mod sharding;
mod sharing;
mod similarity;
mod trainer;
mod training_loop;
mod vocabulary;

/// Files of which a folder has one if it is given as an adapter; a model in its place is then named as such.
pub const ADAPTER_FILES: &[&str] =
    &["adapter_config.json", "adapters.safetensors", "adapter_model.safetensors", "config.json"];

pub use adapter::{
    AdapterSettings, FineTuneType, Trainable, attach, load_adapters, save_adapters, save_peft,
};
pub use answers::{Answer, AnswerSettings, answers};
pub use batch::{Batch, Slice};
pub use batch_order::{BatchOrder, Curriculum, MicroBatch};
pub use distrust::{DISTRUST_ALPHAS, Distrust, DistrustMode, distrust_loss};
pub use early_stopping::EarlyStopping;
pub use error::{Error, Result};
pub use head::chunk_rows as head_chunk_rows;
pub use mixture::Mixture;
pub use optimizer::{Optimizer, OptimizerName, OptimizerSettings};
pub use ranks::{Ending, Ranks};
pub use resume_state::{ResumeState, RunCounters, check_outputs, has_resume_state, step_name};
pub use schedule::{ScheduleName, ScheduleSettings};
#[cfg(feature = "test-hooks")]
pub use score::score_batch;
pub use score::{Score, mean_loss, row_loss, score, score_states, token_losses};
pub use sharding::check_sharing;
pub use similarity::{TextEncoder, TextVectors};
pub use trainer::{Step, StepReport, Trainer};
pub use training_loop::{Observer, Splits, TrainingSettings, train};
pub use vocabulary::check_vocabulary;
