//! Signals that ask the program to stop.

/// Returns the number of the signal that asked the program to stop.
pub(crate) fn stopped() -> Option<i32> {
    stage::StopFlag::default().requested()
}
