//! Signals that ask the program to stop.

use crate::error::{Error, Result};

/// Returns the number of the signal that asked the program to stop.
pub(crate) fn stopped() -> Option<i32> {
    stage::StopFlag::default().requested()
}

/// Fails if a signal asked the program to stop. Long loops call this before each step.
///
/// # Errors
///
/// As described.
pub(crate) fn check() -> Result<()> {
    stopped().map_or(Ok(()), |signal| Err(Error::Stopped { signal }))
}
