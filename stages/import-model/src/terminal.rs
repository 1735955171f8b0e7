//! Progress of downloads on stderr.

use std::cell::{Cell, RefCell};

use hub::Watch;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use stage::StopFlag;

/// Smallest file whose progress is logged as lines.
const LARGE_BYTES: u64 = 1 << 26;

/// Shows downloads as a bar on a terminal, otherwise as a line per tenth of the file.
pub(crate) struct Terminal {
    stop: StopFlag,
    bar: RefCell<ProgressBar>,
    tenths: Cell<u64>,
}

impl Terminal {
    pub(crate) fn new(stop: StopFlag) -> Self {
        Self { stop, bar: RefCell::new(ProgressBar::hidden()), tenths: Cell::new(0) }
    }
}

impl Watch for Terminal {
    fn stop(&self) -> Option<i32> {
        self.stop.requested()
    }

    fn begin(&self, name: &str, total: Option<u64>, already: u64) {
        let size = total.map_or_else(|| "unknown size".into(), |bytes| HumanBytes(bytes).to_string());
        let resumed =
            if already > 0 { format!(", resuming at {}", HumanBytes(already)) } else { String::new() };
        tracing::info!("downloading `{name}`, {size}{resumed}");
        let bar = stage::progress_bar(total.unwrap_or(0));
        let template = "{msg} {percent:>3} % {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.set_message(name.to_owned());
        bar.set_position(already);
        bar.reset_eta();
        self.tenths.set(tenths(&bar));
        self.bar.replace(bar);
    }

    fn advance(&self, bytes: u64) {
        let bar = self.bar.borrow();
        bar.inc(bytes);
        let now = tenths(&bar);
        if bar.is_hidden() && now > self.tenths.replace(now) {
            tracing::info!("{now}0 % of {}", HumanBytes(bar.length().unwrap_or(0)));
        }
    }

    fn end(&self) {
        self.bar.borrow().finish_and_clear();
    }
}

/// Returns how many tenths of a large file are present; 0 for a small one.
fn tenths(bar: &ProgressBar) -> u64 {
    bar.length()
        .filter(|length| *length > LARGE_BYTES)
        .map_or(0, |length| bar.position().min(length) * 10 / length)
}
