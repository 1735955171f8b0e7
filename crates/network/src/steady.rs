//! Readers of answers that time out if the bytes come too slowly, not only if none come.

use std::io::{Error, ErrorKind, Read, Result};
use std::time::{Duration, Instant};

/// Slowest answer that is not taken for silence.
const SLOWEST_BYTES_PER_SECOND: f64 = 1024.0;

/// Returns the number of bytes that the slowest answer has after `time`.
pub fn least_bytes(time: Duration) -> u64 {
    (time.as_secs_f64() * SLOWEST_BYTES_PER_SECOND) as u64
}

/// Reader that fails once it has waited for `silence` and got fewer bytes than [`least_bytes`] in that time, or has waited for
/// `limit` in all. Only time inside of the inner reader counts.
#[derive(Debug)]
pub struct Steady<R> {
    inner: R,
    silence: Duration,
    limit: Duration,
    /// Time waited since the last look at the speed, and the bytes that came in it.
    window: (Duration, u64),
    /// Time waited in all.
    waited: Duration,
}

impl<R> Steady<R> {
    /// Wraps a reader; see [`Steady`] for the times.
    pub fn new(inner: R, silence: Duration, limit: Duration) -> Self {
        Self { inner, silence, limit, window: (Duration::ZERO, 0), waited: Duration::ZERO }
    }

    fn check(&mut self) -> Result<()> {
        if self.waited > self.limit {
            let reason = format!("the answer took more than {} s", self.limit.as_secs());
            return Err(Error::new(ErrorKind::TimedOut, reason));
        }
        let (time, bytes) = self.window;
        if time < self.silence {
            return Ok(());
        }
        if bytes < least_bytes(self.silence) {
            let reason = format!("only {bytes} bytes in {:.1} s", time.as_secs_f32());
            return Err(Error::new(ErrorKind::TimedOut, reason));
        }
        self.window = (Duration::ZERO, 0);
        Ok(())
    }
}

impl<R: Read> Read for Steady<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let begun = Instant::now();
        let bytes = self.inner.read(buffer)?;
        let time = begun.elapsed();
        self.waited += time;
        self.window = (self.window.0 + time, self.window.1 + bytes as u64);
        // At the end there is nothing left to wait for.
        if bytes > 0 {
            self.check()?;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_millis(40);

    /// Gives this number of bytes every 5 ms.
    struct Drip(usize);

    impl Read for Drip {
        fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
            std::thread::sleep(Duration::from_millis(5));
            let bytes = self.0.min(buffer.len());
            buffer[..bytes].fill(b' ');
            Ok(bytes)
        }
    }

    fn read(bytes_at_once: usize, limit: Duration) -> (Result<usize>, usize) {
        let mut read = Vec::new();
        let result = Steady::new(Drip(bytes_at_once), SILENCE, limit).take(100_000).read_to_end(&mut read);
        (result, read.len())
    }

    #[test]
    fn a_dripped_answer_times_out_and_a_steady_one_does_not() {
        let (result, bytes) = read(1, Duration::MAX);
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(bytes <= 10 && error.to_string().starts_with("only "), "{bytes}: {error}");
        assert_eq!(read(1024, Duration::MAX).1, 100_000);
    }

    #[test]
    fn an_answer_has_a_limit_in_all() {
        let (result, bytes) = read(1024, SILENCE * 2);
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(bytes < 100_000, "{bytes}");
    }

    #[test]
    fn time_between_the_reads_does_not_count() {
        let mut reader = Steady::new(&b"ab"[..], Duration::from_millis(5), Duration::MAX);
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        reader.read_exact(&mut byte).unwrap();
    }
}
