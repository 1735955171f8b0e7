//! Reads numbers and texts from a file of known length, within a budget of memory.

use std::io::{self, Read};

use crate::error::{Error, Result};

/// Bytes of memory that the metadata may take: several times what the largest vocabularies of published models need.
const MEMORY_BUDGET: u64 = 48 << 20;

/// Returns the bytes that a text of `length` bytes takes in memory: allocators round up, and small texts are many.
fn allocated(length: u64) -> u64 {
    if length == 0 { 0 } else { (length + 8).next_multiple_of(16).max(32) }
}

/// A source of bytes that never reads past the end of the file or allocates more than the budget.
pub(crate) struct Reader<R> {
    source: R,
    position: u64,
    length: u64,
    budget: u64,
}

impl<R: Read> Reader<R> {
    /// Reads a file of `length` bytes from its start.
    pub(crate) fn new(source: R, length: u64) -> Self {
        Self { source, position: 0, length, budget: MEMORY_BUDGET }
    }

    /// Returns the number of bytes read.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Returns the number of bytes that follow.
    pub(crate) fn remaining(&self) -> u64 {
        self.length - self.position
    }

    /// Reads `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Reads a little-endian integer of `bytes` bytes.
    pub(crate) fn integer(&mut self, bytes: usize, is_signed: bool) -> Result<i128> {
        let mut wide = [0; 8];
        self.fill(&mut wide[..bytes])?;
        let unused = 64 - 8 * bytes as u32;
        let value = u64::from_le_bytes(wide) << unused;
        Ok(if is_signed { i128::from(value as i64 >> unused) } else { i128::from(value >> unused) })
    }

    /// Reads a float of `bytes` bytes.
    pub(crate) fn float(&mut self, bytes: usize) -> Result<f64> {
        match bytes {
            4 => Ok(f64::from(f32::from_le_bytes(self.array()?))),
            _ => Ok(f64::from_le_bytes(self.array()?)),
        }
    }

    /// Reads a truth value.
    pub(crate) fn bool(&mut self) -> Result<bool> {
        match self.array::<1>()?[0] {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Error::Content(format!("a truth value is {other}, expected 0 or 1"))),
        }
    }

    /// Reads a text: its length in bytes as `u64`, then its bytes.
    pub(crate) fn text(&mut self) -> Result<String> {
        let length = self.u64()?;
        if length > self.remaining() {
            let follow = self.remaining();
            return Err(Error::Content(format!("truncated: a text claims {length} bytes, {follow} follow")));
        }
        self.spend(allocated(length))?;
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| Error::Content("a text is not valid UTF-8".to_owned()))
    }

    /// Takes `bytes` of memory from the budget.
    pub(crate) fn spend(&mut self, bytes: u64) -> Result<()> {
        if let Some(rest) = self.budget.checked_sub(bytes) {
            self.budget = rest;
            return Ok(());
        }
        let most = MEMORY_BUDGET >> 20;
        Err(Error::Content(format!("the metadata needs more than the {most} MiB allowed")))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        let wanted = bytes.len() as u64;
        if wanted > self.remaining() {
            return Err(Error::Content(format!("truncated: the file ends at {} bytes", self.length)));
        }
        self.source.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Error::Content("the file became shorter during the reading".to_owned())
            }
            _ => Error::Io(error),
        })?;
        self.position += wanted;
        Ok(())
    }
}
