//! Times and speeds, for `--verbose`.

use std::time::{Duration, Instant};

/// Logs how long loading took.
pub(crate) fn print_loaded(started: Instant) {
    tracing::info!("loaded in {:.2} s", started.elapsed().as_secs_f64());
}

/// Measures one answer, or the answers to a file of prompts.
pub(crate) struct Timing {
    started: Instant,
    /// Time until the first token.
    first: Option<Duration>,
    tokens: usize,
}

impl Timing {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), first: None, tokens: 0 }
    }

    pub(crate) fn count_token(&mut self) {
        self.first.get_or_insert_with(|| self.started.elapsed());
        self.tokens += 1;
    }

    /// Logs prompt and answer: `prompt 31 tokens in 0.10 s · 57 tokens at 23.1 tokens/s · peak 1.20 GB`.
    pub(crate) fn print_answer(&self, prompt_tokens: usize, cached_tokens: usize) {
        let first = self.first.unwrap_or_default();
        let rest = self.started.elapsed().saturating_sub(first).as_secs_f64();
        let speed = self.tokens.saturating_sub(1) as f64 / rest.max(1e-9);
        let cached = if cached_tokens > 0 { format!(" ({cached_tokens} cached)") } else { String::new() };
        tracing::info!(
            "prompt {prompt_tokens} tokens{cached} in {:.2} s · {} tokens at {speed:.1} tokens/s · {}",
            first.as_secs_f64(),
            self.tokens,
            peak_memory()
        );
    }

    /// Logs many rows: `8 rows · 412 tokens in 3.20 s, 128.8 tokens/s · peak 1.20 GB`.
    pub(crate) fn print_rows(&self, rows: usize) {
        let seconds = self.started.elapsed().as_secs_f64();
        let (tokens, speed) = (self.tokens, self.tokens as f64 / seconds.max(1e-9));
        tracing::info!(
            "{rows} rows · {tokens} tokens in {seconds:.2} s, {speed:.1} tokens/s · {}",
            peak_memory()
        );
    }
}

fn peak_memory() -> String {
    format!("peak {:.2} GB", mlx_rs::memory::peak_memory().unwrap_or(0) as f64 / 1e9)
}
