//! Fine-tuning on MLX: what trains, the loss, optimizers, schedules, checkpoints and the loop that ties them together.
//!
//! Plain arrays in, plain arrays out: parameters are a list in name order, passed to the gradient as arguments;
//! everything random comes from (seed, purpose, step), so a run that goes on from a checkpoint makes the same bytes as
//! one that was never stopped. Files of artifacts, progress bars and settings files are left to the stages.
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
mod batch;
mod checkpoint;
mod distrust;
mod early_stopping;
mod error;
mod head;
mod loss;
mod mixture;
mod optimizer;
mod plan;
mod prefetch;
mod run;
mod schedule;
mod score;
mod seed;
mod trainer;
mod vocabulary;

pub use adapter::{
    AdapterSettings, FineTuneType, Trainable, attach, load_adapters, save_adapters, save_peft,
};
pub use batch::{Batch, Part};
pub use checkpoint::{Checkpoint, RunState};
pub use distrust::{Distrust, DistrustMode, distrust_loss};
pub use early_stopping::EarlyStopping;
pub use error::{Error, Result, is_bad_input};
pub use mixture::{Mixture, Part as MixturePart};
pub use optimizer::{Optimizer, OptimizerName, OptimizerSettings};
pub use plan::{BatchPlan, Curriculum, MicroBatch};
pub use run::{Observer, RunSettings, Stop, Summary, run};
pub use schedule::{ScheduleName, ScheduleSettings};
pub use score::{RowScore, Score, score, score_batch, token_losses};
pub use trainer::{StepReport, Trainer};
pub use vocabulary::check_vocabulary;
