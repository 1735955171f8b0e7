//! A time limit for the tokenizer, whose regular expressions may take a time that grows with the square of a text.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::contained;

/// Longest text, in bytes, that is tokenized without a time limit; a thread for the limit takes some 20 microseconds.
pub(crate) const SHORT_BYTES: usize = 1024;
/// Minimum time limit.
const LEAST_SECONDS: u64 = 120;
/// Minimum speed. Tokenizers reach a million bytes per second.
const BYTES_PER_SECOND: u64 = 1 << 16;
/// The limit is waited for in parts, so that a program that is stopped for a while loses only one.
const PARTS: u32 = 100;

/// Why there is no result.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The reason that the work gives.
    Failed(String),
    /// The work takes longer than the limit.
    Endless(Duration),
}

/// Returns the time after which the tokenizer is given up on a text.
pub(crate) fn time_limit(bytes: usize) -> Duration {
    Duration::from_secs(LEAST_SECONDS + bytes as u64 / BYTES_PER_SECOND)
}

/// Does `work` as [`contained`] does, in a thread of its own, which is left behind when the time is up.
pub(crate) fn in_time<T: Send + 'static>(
    limit: Duration,
    work: impl Fn() -> Result<T, String> + Send + Sync + 'static,
) -> Result<T, Stop> {
    let work = Arc::new(move || contained(&work));
    let (sender, receiver) = channel();
    let same = Arc::clone(&work);
    // Nobody listens any more when the time is up.
    if thread::Builder::new().spawn(move || drop(sender.send(same()))).is_err() {
        return work().map_err(Stop::Failed);
    }
    for _ in 0..PARTS {
        match receiver.recv_timeout(limit / PARTS) {
            Ok(result) => return result.map_err(Stop::Failed),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Stop::Failed("the tokenizer gave up".to_owned()));
            }
        }
    }
    Err(Stop::Endless(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_ends_with_its_result_its_panic_or_the_limit() {
        let minute = Duration::from_mins(1);
        assert_eq!(in_time(minute, || Ok(1)), Ok(1));
        assert_eq!(in_time(minute, || Err::<(), _>("no".to_owned())), Err(Stop::Failed("no".to_owned())));
        let panicked = in_time(minute, || -> Result<(), String> { panic!("index 7") });
        assert!(matches!(panicked, Err(Stop::Failed(reason)) if reason.ends_with("index 7")));
        let moment = Duration::from_millis(100);
        let endless = in_time(moment, || {
            thread::sleep(Duration::from_mins(1));
            Ok(())
        });
        assert_eq!(endless, Err(Stop::Endless(moment)));
    }
}
