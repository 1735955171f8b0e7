//! Log lines on stderr, above the progress bar if one is shown.

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, WeakProgressBar};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::args::Verbosity;

static BAR: Mutex<Option<WeakProgressBar>> = Mutex::new(None);
/// Number of this process among several that share a run; 0 for the one that speaks for all.
static RANK: AtomicUsize = AtomicUsize::new(0);

/// Makes this process print only warnings and errors, with its number in front.
pub(crate) fn speak_as_rank(rank: usize) {
    RANK.store(rank, Ordering::Relaxed);
}

/// Returns what lines of this process begin with.
fn speaker() -> String {
    match RANK.load(Ordering::Relaxed) {
        0 => String::new(),
        rank => format!("rank {rank}: "),
    }
}

/// Starts logging to stderr: only errors with `-q`, debug messages with `-v`, traces with `-vv`.
pub(crate) fn start(verbosity: Verbosity) {
    let level = match (verbosity.quiet, verbosity.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::INFO,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    let subscriber = tracing_subscriber::fmt()
        .event_format(Plain { colour: colour() })
        .with_max_level(level)
        .with_writer(|| Lines)
        .finish();
    // A second call, as in tests, changes nothing.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Returns whether to use colour on stderr: it is a terminal, and `NO_COLOR` is not set.
pub fn colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && io::stderr().is_terminal()
}

/// Returns a progress bar on stderr that shares the terminal with log lines.
///
/// Hidden with `-q`, if stderr is not a terminal, and with `ASHLAR_PROGRESS=lines` (terminal recorders). If
/// [`ProgressBar::is_hidden`], log periodic lines instead.
pub fn progress_bar(length: u64) -> ProgressBar {
    let lines = std::env::var_os("ASHLAR_PROGRESS").is_some_and(|value| value == "lines");
    let is_first = RANK.load(Ordering::Relaxed) == 0;
    let shown = io::stderr().is_terminal() && !lines && is_first && tracing::enabled!(Level::INFO);
    let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(length), target);
    if let Ok(mut slot) = BAR.lock() {
        *slot = Some(bar.downgrade());
    }
    bar
}

/// Writes a line to stderr, above the progress bar. Ignores a closed stderr.
pub(crate) fn print_error_line(text: &str) {
    let write = || {
        let _ = io::stderr().lock().write_all(format!("{}{text}\n", speaker()).as_bytes());
    };
    let bar = BAR.lock().ok().and_then(|slot| slot.as_ref()?.upgrade());
    match bar {
        Some(bar) if !bar.is_finished() => bar.suspend(write),
        _ => write(),
    }
}

struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        print_error_line(String::from_utf8_lossy(bytes).trim_end_matches('\n'));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Formats an event as `warning: text field=value`; informational events have no prefix.
struct Plain {
    colour: bool,
}

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if RANK.load(Ordering::Relaxed) > 0 && *event.metadata().level() > Level::WARN {
            return Ok(());
        }
        let (lead, code) = match *event.metadata().level() {
            Level::ERROR => ("error: ", "31"),
            Level::WARN => ("warning: ", "33"),
            Level::INFO => ("", ""),
            Level::DEBUG => ("debug: ", "2"),
            Level::TRACE => ("trace: ", "2"),
        };
        if self.colour && !code.is_empty() {
            write!(writer, "\x1b[{code}m{lead}\x1b[0m")?;
        } else {
            writer.write_str(lead)?;
        }
        let mut text = String::new();
        context.field_format().format_fields(Writer::new(&mut text), event)?;
        writeln!(writer, "{}", failure::message(&text))
    }
}
