//! One group of up to 16 rows while it is unpacked.

/// A group of 16 rows, and where it goes.
pub(super) struct Group<'a> {
    /// Words of the group, one lane per row.
    pub(super) words: &'a [[u32; 16]],
    /// Count of numbers of a row.
    pub(super) count: usize,
    pub(super) scales: &'a [f32; 16],
    /// Only in affine mode.
    pub(super) biases: Option<&'a [f32; 16]>,
    /// The panel from the group's first lane on, one row per number.
    pub(super) panel: &'a mut [f32],
    /// Distance between rows of the panel.
    pub(super) width: usize,
}
