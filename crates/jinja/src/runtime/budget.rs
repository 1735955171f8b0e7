//! The work and memory that one rendering may use. Every operation whose cost depends on a value asks here first.

use std::cell::Cell;

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::memory::{OVERHEAD_BYTES, VALUE_BYTES, held};

/// Steps of a rendering without input; a long conversation takes some hundred thousand.
const STEPS: u64 = 3_000_000;
/// Additional steps per byte of input.
const STEPS_PER_BYTE: u64 = 8;
/// Memory of a rendering without input, in bytes.
const MEMORY_BYTES: usize = 64 << 20;
/// Additional memory per byte of input.
const MEMORY_PER_BYTE: usize = 8;
/// Deepest nesting of a value that is printed or compared.
pub(crate) const MAX_VALUE_DEPTH: usize = 200;

/// Work is counted in copied bytes: a step is worth 64 of them, a visited character 8.
const STEP: u64 = 64;
const VISIT: u64 = 8;

/// Work and memory that a rendering may still use.
#[derive(Debug)]
pub(crate) struct Budget {
    work: Cell<u64>,
    memory: usize,
    /// Bytes that the thread held before.
    base: usize,
    /// Bytes of texts that are being written.
    written: Cell<usize>,
}

impl Budget {
    /// Creates the budget of a rendering whose variables have `input` bytes.
    pub(crate) fn new(input: usize) -> Self {
        let steps = STEPS.saturating_add((input as u64).saturating_mul(STEPS_PER_BYTE));
        Self {
            work: Cell::new(steps.saturating_mul(STEP)),
            memory: MEMORY_BYTES.saturating_add(input.saturating_mul(MEMORY_PER_BYTE)),
            base: held(),
            written: Cell::new(0),
        }
    }

    fn work(&self, work: u64) -> Result<()> {
        let left = self.work.get().checked_sub(work);
        self.work.set(left.unwrap_or(0));
        left.map(|_| ()).ok_or_else(|| Error::new(ErrorKind::Limit, "it works too long"))
    }

    /// Spends `count` steps, each about the work of one simple expression.
    pub(crate) fn steps(&self, count: usize) -> Result<()> {
        self.work((count as u64).saturating_mul(STEP))?;
        self.fits(0)
    }

    /// Spends the work of copying or comparing `bytes`.
    pub(crate) fn copies(&self, bytes: usize) -> Result<()> {
        self.work(bytes as u64)
    }

    /// Spends the work of visiting the characters of a text, or the items of a list.
    pub(crate) fn visits(&self, count: usize) -> Result<()> {
        self.work((count as u64).saturating_mul(VISIT))
    }

    /// Fails unless `bytes` more fit into memory.
    pub(crate) fn fits(&self, bytes: usize) -> Result<()> {
        let used = held().saturating_sub(self.base).saturating_add(self.written.get());
        if used.saturating_add(bytes) > self.memory {
            let mebibytes = self.memory >> 20;
            return Err(Error::new(
                ErrorKind::Limit,
                format!("it needs more than {mebibytes} MiB of memory"),
            ));
        }
        Ok(())
    }

    /// Asks for a text of `bytes`.
    pub(crate) fn text(&self, bytes: usize) -> Result<()> {
        self.fits(bytes.saturating_add(OVERHEAD_BYTES))?;
        self.copies(bytes)
    }

    /// Asks for a list of `count` values.
    pub(crate) fn list(&self, count: usize) -> Result<()> {
        self.fits(count.saturating_mul(VALUE_BYTES))?;
        self.visits(count)
    }

    /// Asks for a list of `count` texts with `bytes` in all.
    pub(crate) fn texts(&self, count: usize, bytes: usize) -> Result<()> {
        self.fits(count.saturating_mul(VALUE_BYTES + OVERHEAD_BYTES).saturating_add(bytes))?;
        self.copies(bytes)?;
        self.work((count as u64).saturating_mul(STEP))
    }

    /// Counts `bytes` of the output or a captured text.
    pub(crate) fn write(&self, bytes: usize) -> Result<()> {
        self.text(bytes)?;
        self.written.set(self.written.get().saturating_add(bytes));
        Ok(())
    }

    /// Gives back the memory of a captured text.
    pub(crate) fn end_capture(&self, bytes: usize) {
        self.written.set(self.written.get().saturating_sub(bytes));
    }
}

/// Fails when a value is nested deeper than functions follow it.
pub(crate) fn check_depth(depth: usize) -> Result<()> {
    if depth > MAX_VALUE_DEPTH {
        return Err(Error::new(ErrorKind::Limit, "a value is nested too deeply"));
    }
    Ok(())
}

/// A text that grows within a budget.
pub(crate) struct Builder<'b> {
    budget: &'b Budget,
    text: String,
}

impl<'b> Builder<'b> {
    pub(crate) fn new(budget: &'b Budget) -> Self {
        Self { budget, text: String::new() }
    }

    pub(crate) fn budget(&self) -> &'b Budget {
        self.budget
    }

    pub(crate) fn push_str(&mut self, text: &str) -> Result<()> {
        self.budget.copies(text.len())?;
        self.grow(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    pub(crate) fn push(&mut self, letter: char) -> Result<()> {
        self.budget.visits(1)?;
        self.grow(letter.len_utf8())?;
        self.text.push(letter);
        Ok(())
    }

    pub(crate) fn extend(&mut self, letters: impl IntoIterator<Item = char>) -> Result<()> {
        letters.into_iter().try_for_each(|letter| self.push(letter))
    }

    /// Adds `text` `count` times.
    pub(crate) fn repeat(&mut self, text: &str, count: usize) -> Result<()> {
        let bytes = text.len().saturating_mul(count);
        self.budget.copies(bytes)?;
        self.grow(bytes)?;
        self.text.extend(std::iter::repeat_n(text, count));
        Ok(())
    }

    fn grow(&self, bytes: usize) -> Result<()> {
        // A string that grows holds up to twice its length.
        self.budget.fits(self.text.len().saturating_mul(2).saturating_add(bytes))
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }
}
