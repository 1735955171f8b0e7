//! Segments: artifacts of runs that were stopped on purpose, from which a later run resumes.
//!
//! A segment is an artifact of the same stage with a single output, [`SEGMENT_OUTPUT`], so that no other stage takes it for
//! the finished artifact. Its key also records where it stops. A run resumed from a segment omits it from its own key,
//! because the bytes are the same either way.

/// Name of the only output of a segment.
pub const SEGMENT_OUTPUT: &str = "part";
