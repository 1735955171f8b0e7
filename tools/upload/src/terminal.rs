//! Progress on the terminal, and the request to stop.

use std::cell::RefCell;

use hub::Watch;
use indicatif::{HumanBytes, ProgressBar};
use stage::StopFlag;

/// Shows uploads on stderr, as a bar on a terminal.
pub(crate) struct Terminal {
    stop: StopFlag,
    bar: RefCell<ProgressBar>,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        Self { stop: StopFlag::default(), bar: RefCell::new(ProgressBar::hidden()) }
    }
}

impl Watch for Terminal {
    fn stop(&self) -> Option<i32> {
        self.stop.requested()
    }

    fn begin(&self, name: &str, total: Option<u64>, _already: u64) {
        let total = total.unwrap_or(0);
        tracing::info!("uploading `{name}`, {}", HumanBytes(total));
        self.bar.replace(stage::progress_bar(total));
    }

    fn advance(&self, bytes: u64) {
        self.bar.borrow().inc(bytes);
    }

    fn end(&self) {
        self.bar.borrow().finish_and_clear();
    }
}
