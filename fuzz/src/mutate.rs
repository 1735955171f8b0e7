//! Inputs: those of the corpus, and mutations of them.

use std::path::Path;

use failure::{Result, ensure};
use fastrand::Rng;

use crate::targets::Target;

/// Longest input, in bytes.
const MAX_BYTES: usize = 256 << 10;
/// Most mutations of one input.
const MAX_MUTATIONS: usize = 8;
/// Numbers at which parsers break.
const NUMBERS: [&str; 14] = [
    "0",
    "-1",
    "1e400",
    "NaN",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "1e-400",
    "0.1",
    "2147483648",
    "99999999999999999999999999999999",
];
const BYTES: [u8; 8] = [0, 0xFF, 0x7F, 0x80, b'"', b'{', b'\n', 0xC3];

/// All inputs of a target, by number.
pub(crate) struct Inputs {
    corpus: Vec<Vec<u8>>,
    tokens: &'static [&'static str],
    pub(crate) seed: u64,
}

impl Inputs {
    /// Reads the corpus of `target` from its folder in `corpus`, sorted by name, after the inputs that the target makes.
    pub(crate) fn read(target: &Target, corpus: &Path, seed: u64) -> Result<Self> {
        let mut inputs = (target.first)()?;
        let folder = corpus.join(target.name);
        if folder.is_dir() {
            let mut paths: Vec<_> =
                fs_err::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
            paths.sort();
            for path in paths {
                inputs.push(fs_err::read(path)?);
            }
        }
        ensure!(!inputs.is_empty(), "`{}` has no inputs", target.name);
        Ok(Self { corpus: inputs, tokens: target.tokens, seed })
    }

    /// Returns input `number`: first the corpus as it is, then mutations.
    pub(crate) fn get(&self, number: u64) -> Vec<u8> {
        if let Some(input) = usize::try_from(number).ok().and_then(|number| self.corpus.get(number)) {
            return input.clone();
        }
        let mut rng = Rng::with_seed(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number);
        let mut input = rng.choice(&self.corpus).expect("there are inputs").clone();
        for _ in 0..rng.usize(1..=MAX_MUTATIONS) {
            self.mutate(&mut input, &mut rng);
            input.truncate(MAX_BYTES);
        }
        input
    }

    fn mutate(&self, input: &mut Vec<u8>, rng: &mut Rng) {
        let at = rng.usize(0..=input.len());
        let end = (at + rng.usize(0..=16.max(input.len() / 4))).min(input.len());
        match rng.u8(0..11) {
            0 if at < input.len() => input[at] ^= 1 << rng.u8(0..8),
            1 if at < input.len() => input[at] = rng.u8(..),
            2 if at < input.len() => input[at] = BYTES[rng.usize(0..BYTES.len())],
            3 => drop(input.drain(at..end)),
            4 => {
                let copy = input[at..end].to_vec();
                let to = rng.usize(0..=input.len());
                input.splice(to..to, copy.repeat(rng.usize(1..=64)).into_iter().take(MAX_BYTES));
            }
            5 => {
                let other = rng.choice(&self.corpus).expect("there are inputs");
                let from = rng.usize(0..=other.len());
                let to = (from + rng.usize(0..=1024)).min(other.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
            6 | 7 if !self.tokens.is_empty() => {
                let token = self.tokens[rng.usize(0..self.tokens.len())];
                let count = if rng.u8(0..8) == 0 { rng.usize(1..2000) } else { 1 };
                input.splice(at..at, token.bytes().cycle().take(token.len() * count));
            }
            8 => replace_number(input, at, rng),
            9 => input.truncate(at),
            _ => drop(input.splice(at..at, (0..rng.usize(1..8)).map(|_| rng.u8(..)).collect::<Vec<_>>())),
        }
    }
}

/// Replaces the first number from `at` on: digits of a text, or eight bytes.
fn replace_number(input: &mut Vec<u8>, at: usize, rng: &mut Rng) {
    if let Some(start) = input[at..].iter().position(u8::is_ascii_digit).map(|found| at + found) {
        let length = input[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        input.splice(start..start + length, NUMBERS[rng.usize(0..NUMBERS.len())].bytes());
    } else if input.len() >= at + 8 {
        let number = [0, 1, u64::MAX, 1 << 31, 1 << 32, 1 << 62, 8 << 20][rng.usize(0..7)];
        input[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::TARGETS;

    #[test]
    fn inputs_follow_from_seed_and_number() -> Result<()> {
        for target in TARGETS {
            let inputs = |seed| Inputs::read(target, Path::new("corpus"), seed);
            let (one, other) = (inputs(1)?, inputs(2)?);
            let numbers = || 0..200_u64;
            assert!(numbers().all(|number| one.get(number) == one.get(number)));
            assert!(numbers().any(|number| one.get(number) != other.get(number)));
        }
        Ok(())
    }

    #[test]
    fn no_target_finds_a_fault_in_its_first_inputs() -> Result<()> {
        for target in TARGETS {
            let inputs = Inputs::read(target, Path::new("corpus"), 1)?;
            let folder = tempfile::tempdir()?;
            for number in 0..300 {
                (target.run)(folder.path(), &inputs.get(number))?;
            }
        }
        Ok(())
    }
}
