//! Memory that several runs share.

use std::sync::{Condvar, Mutex, PoisonError};

/// Bytes that runs may need together.
#[derive(Debug)]
pub(crate) struct Budget {
    total: u64,
    free: Mutex<u64>,
    returned: Condvar,
}

/// A part of a budget, returned when dropped.
#[derive(Debug)]
pub(crate) struct Share<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(total: u64) -> Self {
        Self { total, free: Mutex::new(total), returned: Condvar::new() }
    }

    /// Waits until `bytes` are free and takes them. A run that needs more than the whole budget waits for all of it, and so
    /// runs alone.
    pub(crate) fn take(&self, bytes: u64) -> Share<'_> {
        let bytes = bytes.min(self.total);
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free =
            self.returned.wait_while(free, |free| *free < bytes).unwrap_or_else(PoisonError::into_inner);
        *free -= bytes;
        Share { budget: self, bytes }
    }

    /// Returns how many runs that need `bytes` each fit at a time, at least one.
    pub(crate) fn fitting(&self, bytes: u64) -> u64 {
        self.total.checked_div(bytes).unwrap_or(u64::MAX).max(1)
    }

    /// Returns the whole budget in bytes.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        *self.budget.free.lock().unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.budget.returned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn runs_together_never_need_more_than_the_budget() {
        let budget = Budget::new(10);
        let (in_use, most) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let (budget, in_use, most) = (&budget, &in_use, &most);
                scope.spawn(move || {
                    for round in 0..50 {
                        // Some need more than there is.
                        let share = budget.take([3, 4, 5, 25][(thread + round) % 4]);
                        let now = in_use.fetch_add(share.bytes, Ordering::SeqCst) + share.bytes;
                        most.fetch_max(now, Ordering::SeqCst);
                        in_use.fetch_sub(share.bytes, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!((1..=10).contains(&most.into_inner()));
        assert_eq!([0, 3, 4, 11].map(|bytes| budget.fitting(bytes)), [u64::MAX, 3, 2, 1]);
    }
}
