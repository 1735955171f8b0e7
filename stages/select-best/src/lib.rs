//! Chooses the checkpoint with the lowest loss on the validation split, and says how certain the choice is.
//!
//! Reads the checkpoints of `train` and the losses of `validate`; writes the chosen adapter and `choice.json`. The base
//! model (step 0) is reported but never chosen. Of two equal losses the earlier step is chosen.
//!
//! A paired bootstrap over the rows of the split gives an interval for the gap to the runner-up. If the interval
//! includes 0, the choice is within noise.
//!
//! ```no_run
//! use std::path::Path;
//!
//! let config = select_best::Config::default();
//! let choice = select_best::run(Path::new("checkpoints"), Path::new("losses.json"), &config, Path::new("out"))?;
//! println!("step {}: {}", choice.step, choice.reason);
//! # Ok::<(), select_best::Error>(())
//! ```

mod checkpoints;
mod choose;
mod config;
mod error;

use std::path::Path;

use outputs::{Choice, Document, Losses};

pub use choose::choose;
pub use config::Config;
pub use error::Error;

/// Chooses among the folders in `checkpoints` by the file `losses`, and writes `adapters/` and `choice.json` to `out`.
///
/// # Errors
///
/// Fails on losses that are not finite, that contradict each other or that belong to other checkpoints, and when a file
/// cannot be read or written.
pub fn run(checkpoints: &Path, losses: &Path, config: &Config, out: &Path) -> Result<Choice, Error> {
    let measured = Losses::read(losses)?;
    checkpoints::check_steps(&checkpoints::trained_steps(checkpoints)?, &measured)?;
    let choice = choose(&measured, losses, config)?;
    let chosen = checkpoints::adapters(checkpoints, choice.step);
    checkpoints::copy_adapters(&chosen, &out.join(outputs::ADAPTERS))?;
    choice.write(out)?;
    Ok(choice)
}
