//! Chooses the checkpoint with the lowest loss on the validation split, and says how certain the choice is.
//!
//! Reads the checkpoints of `train` and the losses of `validate`; writes the chosen adapter and `choice.json`. The base
//! model (step 0) is reported but never chosen. Of two equal losses the earlier step is chosen.
//!
//! With another `metric`, the answers that `validate` collected decide instead.
//!
//! A paired bootstrap over the rows of the split, or over their groups if there are at least five, gives an interval for the gap
//! to the runner-up. If the interval includes 0, the choice is within noise.
//!
//! ```no_run
//! use std::path::Path;
//!
//! let config = select_best::Config::default();
//! let inputs = select_best::Inputs { checkpoints: "checkpoints".as_ref(), losses: "losses.json".as_ref(), answers: None, origin: None };
//! let choice = select_best::run(inputs, &config, Path::new("out"))?;
//! println!("step {}: {}", choice.step, choice.reason);
//! # Ok::<(), select_best::Error>(())
//! ```

mod by_answers;
mod checkpoints;
mod choose;
mod config;
mod error;
mod inputs;

use std::path::Path;

use outputs::{Choice, Document, Import, Losses};

pub use choose::choose;
pub use config::Config;
pub use error::Error;
pub use inputs::{expected_bytes, open_answers, open_origin};

/// Inputs of a choice.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Folder of the checkpoints.
    pub checkpoints: &'a Path,
    /// `losses.json`.
    pub losses: &'a Path,
    /// `answers.jsonl`, unless the loss decides.
    pub answers: Option<&'a Path>,
    /// `import.json` of the base model, if it is known.
    pub origin: Option<&'a Path>,
}

/// Chooses a checkpoint, and writes `adapters/` and `choice.json` to `out`.
///
/// # Errors
///
/// Fails on answers that do not decide, on losses that are not finite, that contradict each other or that belong to other checkpoints, and when a file
/// cannot be read or written.
pub fn run(inputs: Inputs<'_>, config: &Config, out: &Path) -> Result<Choice, Error> {
    let measured = Losses::read(inputs.losses)?;
    checkpoints::check_steps(&checkpoints::trained_steps(inputs.checkpoints)?, &measured)?;
    let mut choice = choose(&measured, inputs.losses, config)?;
    if let Some(answers) = inputs.answers {
        choice = by_answers::choose(&choice, answers, config)?;
    }
    let chosen = checkpoints::adapters(inputs.checkpoints, choice.step);
    let adapters = out.join(outputs::ADAPTERS);
    checkpoints::copy_adapters(&chosen, &adapters)?;
    if let Some(origin) = inputs.origin {
        checkpoints::name_base(&Import::read(origin)?, &adapters)?;
    }
    choice.write(out)?;
    Ok(choice)
}
