//! Progress of transfers.

/// Receives the progress of a transfer and can stop it.
pub trait Watch {
    /// Returns the signal that asked the program to stop, if any.
    fn stop(&self) -> Option<i32> {
        None
    }
    /// Called before the file `name` is transferred; `already` of its `total` bytes are present.
    fn begin(&self, name: &str, total: Option<u64>, already: u64) {
        let _ = (name, total, already);
    }
    /// Called after another `bytes` bytes were transferred.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }
    /// Called when the transfer of the file has ended, successful or not.
    fn end(&self) {}
}

/// Shows nothing and never stops.
pub struct Unwatched;

impl Watch for Unwatched {}
