//! A slice whose parts are written by several threads.

use std::marker::PhantomData;

/// A mutable slice that is cut into parts at run time.
pub(super) struct Shared<'a> {
    data: *mut f32,
    length: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: parts are handed out under the promise that they do not overlap while they live.
unsafe impl Sync for Shared<'_> {}
// SAFETY: as above.
unsafe impl Send for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(super) fn new(slice: &'a mut [f32]) -> Self {
        Self { data: slice.as_mut_ptr(), length: slice.len(), lifetime: PhantomData }
    }

    /// Returns a part.
    ///
    /// # Safety
    ///
    /// No other part that is alive overlaps it.
    ///
    /// # Panics
    ///
    /// Panics if the part is outside the slice.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that parts do not overlap")]
    pub(super) unsafe fn part(&self, start: usize, length: usize) -> &mut [f32] {
        // SAFETY: inside the slice, and not aliased (the caller's promise).
        unsafe { std::slice::from_raw_parts_mut(self.address(start, length), length) }
    }

    /// Returns the address of a part, for writing.
    ///
    /// # Panics
    ///
    /// Panics if the part is outside the slice.
    pub(super) fn address(&self, start: usize, length: usize) -> *mut f32 {
        assert!(start <= self.length && length <= self.length - start, "a part of the slice");
        self.data.wrapping_add(start)
    }
}
