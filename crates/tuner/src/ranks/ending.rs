//! Why a process of a run over several ranks must end.

/// Why a process must end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Exit code.
    pub code: u8,
    /// What happened; empty if there is nothing to say.
    pub reason: String,
}
