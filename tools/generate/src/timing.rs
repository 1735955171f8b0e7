//! Times and speeds, for `--verbose`.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

/// Writes a line for people.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Tells how long loading took.
pub(crate) fn loaded(started: Instant) {
    tell(&format!("loaded in {:.2} s", started.elapsed().as_secs_f64()));
}

/// Follows one answer, or the answers of a file.
pub(crate) struct Timing {
    started: Instant,
    first: Option<Duration>,
    tokens: usize,
}

impl Timing {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), first: None, tokens: 0 }
    }

    /// Counts a token.
    pub(crate) fn token(&mut self) {
        self.first.get_or_insert_with(|| self.started.elapsed());
        self.tokens += 1;
    }

    /// Tells of prompt and answer: `prompt 31 tokens in 0.10 s · 57 tokens at 23.1 tokens/s · peak 1.20 GB`.
    pub(crate) fn tell(&self, prompt_tokens: usize, known: usize) {
        let first = self.first.unwrap_or_default();
        let rest = self.started.elapsed().saturating_sub(first).as_secs_f64();
        let speed = self.tokens.saturating_sub(1) as f64 / rest.max(1e-9);
        let known = if known > 0 { format!(" ({known} known)") } else { String::new() };
        tell(&format!(
            "prompt {prompt_tokens} tokens{known} in {:.2} s · {} tokens at {speed:.1} tokens/s · {}",
            first.as_secs_f64(),
            self.tokens,
            peak()
        ));
    }

    /// Tells of many rows: `8 rows · 412 tokens in 3.20 s, 128.8 tokens/s · peak 1.20 GB`.
    pub(crate) fn tell_rows(&self, rows: usize) {
        let seconds = self.started.elapsed().as_secs_f64();
        let (tokens, speed) = (self.tokens, self.tokens as f64 / seconds.max(1e-9));
        tell(&format!("{rows} rows · {tokens} tokens in {seconds:.2} s, {speed:.1} tokens/s · {}", peak()));
    }
}

fn peak() -> String {
    format!("peak {:.2} GB", mlx_rs::memory::peak_memory().unwrap_or(0) as f64 / 1e9)
}
