//! The work and memory that one rendering may use. Every operation whose cost depends on a value asks here first.

use std::cell::Cell;

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::memory::{Held, OVERHEAD_BYTES, VALUE_BYTES, held};

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

/// Number of significant digits of the longest float; further digits are zeros.
const FLOAT_DIGITS: usize = 1100;
/// Work of printing the shortest form of a float, in steps.
const FLOAT_STEPS: usize = 8;

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

    /// Spends the work of printing the shortest form of a float.
    pub(crate) fn float(&self) -> Result<()> {
        self.steps(FLOAT_STEPS)
    }

    /// Spends the work of printing or parsing `digits` digits of a float. Each may take arithmetic on numbers of 1,000 bits.
    pub(crate) fn float_digits(&self, digits: usize) -> Result<()> {
        self.steps(2 * FLOAT_STEPS + digits.min(FLOAT_DIGITS))
    }

    /// Spends the work of searching `text` for `part`, which first preprocesses `part`. Returns whether `part` is short enough to occur.
    pub(crate) fn search(&self, text: &str, part: &str) -> Result<bool> {
        self.copies(text.len())?;
        if part.len() > text.len() {
            return Ok(false);
        }
        self.visits(part.len())?;
        Ok(true)
    }

    /// Reserves memory for `count` values until the result is dropped.
    pub(crate) fn hold_values(&self, count: usize) -> Result<Held> {
        let bytes = count.saturating_mul(VALUE_BYTES);
        self.fits(bytes)?;
        Ok(Held::new(bytes))
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

    /// Counts memory for spans and other records of the output, in bytes.
    pub(crate) fn record(&self, bytes: usize) -> Result<()> {
        // A list that grows holds up to twice its length.
        self.fits(bytes)?;
        self.written.set(self.written.get().saturating_add(bytes.saturating_mul(2)));
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

/// A text that grows within a budget. Its memory is counted while it grows.
pub(crate) struct Builder<'b> {
    budget: &'b Budget,
    text: String,
    held: Held,
}

impl<'b> Builder<'b> {
    pub(crate) fn new(budget: &'b Budget) -> Self {
        Self { budget, text: String::new(), held: Held::default() }
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

    /// Adds a backslash, `kind` and the `digits` last hexadecimal digits of `code`.
    pub(crate) fn escape(&mut self, kind: char, code: u32, digits: u32) -> Result<()> {
        self.extend(['\\', kind])?;
        let digit = |place| char::from_digit((code >> (4 * place)) & 15, 16).expect("four bits");
        self.extend((0..digits).rev().map(digit))
    }

    /// Adds `text` `count` times.
    pub(crate) fn repeat(&mut self, text: &str, count: usize) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let bytes = text.len().saturating_mul(count);
        self.budget.copies(bytes)?;
        self.grow(bytes)?;
        self.text.extend(std::iter::repeat_n(text, count));
        Ok(())
    }

    /// Reserves capacity for `bytes` more bytes.
    fn grow(&mut self, bytes: usize) -> Result<()> {
        let needed = self.text.len().saturating_add(bytes);
        if needed <= self.text.capacity() {
            return Ok(());
        }
        // The text moves, so that both places exist for a moment.
        self.budget.fits(needed)?;
        let roomy = needed.max(self.text.capacity().saturating_mul(2));
        let room = if self.budget.fits(roomy).is_ok() { roomy } else { needed };
        self.text.reserve_exact(room - self.text.len());
        self.held = Held::new(self.text.capacity());
        Ok(())
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }
}
