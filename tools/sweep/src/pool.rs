//! Several runs at a time: bounded by memory and cores, retried, and stopped together.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use outputs::Choice;
use stage::StopFlag;

use crate::args::Args;
use crate::error::{Error, Result};
use crate::make::Make;
use crate::member::Run;
use crate::memory::Budget;

/// Pause between two looks at a running child.
const POLL: Duration = Duration::from_millis(30);
/// Variables that set the number of threads of a stage; results do not depend on it.
const THREADS: [&str; 2] = ["RAYON_NUM_THREADS", "OMP_NUM_THREADS"];

/// Runs of the pipeline at the same time.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) make: Make,
    /// Number of runs at a time.
    jobs: usize,
    /// Number of further attempts.
    retries: usize,
    /// Memory for all runs, if it was given.
    max_memory: Option<u64>,
    stop: StopFlag,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Finished,
    Failed,
    /// The program was asked to stop.
    Stopped,
}

impl Pool {
    /// Returns a pool of no more runs at a time than there are cores.
    pub(crate) fn new(args: &Args, make: Make) -> Self {
        Self {
            make,
            jobs: args.jobs.clamp(1, cores()),
            retries: args.retries,
            max_memory: args.max_memory.map(|gigabytes| (gigabytes.max(0.0) * 1e9) as u64),
            stop: StopFlag::default(),
        }
    }

    /// Returns the number of runs at a time.
    pub(crate) fn jobs(&self) -> usize {
        self.jobs
    }

    /// Returns the memory for all runs, given the limit that a stage found.
    pub(crate) fn budget(&self, found: Option<u64>) -> Option<Budget> {
        self.max_memory.or(found).map(Budget::new)
    }

    /// Makes `target` for every run, and continues past those that fail.
    ///
    /// # Errors
    ///
    /// Fails if the program was asked to stop; then all runs have stopped.
    pub(crate) fn run(&self, runs: &[Run], target: &str) -> failure::Result<Vec<Ending>> {
        let done = AtomicUsize::new(0);
        // The limit is that of the first plan: later ones would count the memory of runs as taken.
        let budget = OnceLock::new();
        let endings = parallel(self.jobs, runs, |run| {
            let begun = Instant::now();
            let ending = self.attempt(run, target, &budget)?;
            let (done, of) = (done.fetch_add(1, Ordering::SeqCst) + 1, runs.len());
            if ending == Ending::Finished {
                let result = self.make.choice(run)?.map_or(String::new(), |choice| describe(&choice));
                let seconds = begun.elapsed().as_secs_f64();
                tracing::info!("{done} of {of}: {} in {seconds:.1} s{result}", run.name);
            }
            Ok(ending)
        });
        self.stop.check()?;
        Ok(endings.into_iter().collect::<Result<_>>()?)
    }

    fn attempt(&self, run: &Run, target: &str, budget: &OnceLock<Option<Budget>>) -> Result<Ending> {
        let needed = if self.jobs > 1 { self.needed_memory(run, budget)? } else { None };
        let attempts = self.retries + 1;
        for attempt in 1..=attempts {
            if self.stop.requested().is_some() {
                return Ok(Ending::Stopped);
            }
            let share =
                budget.get().and_then(Option::as_ref).zip(needed).map(|(budget, bytes)| budget.take(bytes));
            let succeeded = self.start(run, target)?;
            drop(share);
            if succeeded {
                return Ok(Ending::Finished);
            }
            if self.stop.requested().is_none() {
                let log = self.make.folder_of(run).join("log");
                let cause = last_error(&log).map_or(String::new(), |cause| format!(": {cause}"));
                tracing::warn!(
                    "{} failed (attempt {attempt} of {attempts}), see {}{cause}",
                    run.name,
                    log.display()
                );
            }
        }
        Ok(if self.stop.requested().is_some() { Ending::Stopped } else { Ending::Failed })
    }

    /// Returns the memory that a run will need; `None` if it is not known, or if nothing would run.
    ///
    /// The estimate is that of train, so its inputs are made first.
    fn needed_memory(&self, run: &Run, budget: &OnceLock<Option<Budget>>) -> Result<Option<u64>> {
        let of_train = || -> Result<_> {
            // A run that cannot be planned fails when it is made, which is reported there.
            let plan = self.make.plan(run).unwrap_or_default();
            Ok(plan.into_iter().find(|stage| stage.stage == "train"))
        };
        let mut train = of_train()?;
        if train.is_none() && self.start(run, "prepare-data")? {
            train = of_train()?;
        }
        let Some(train) = train else { return Ok(None) };
        budget.get_or_init(|| self.budget(train.memory_limit));
        Ok(train.memory.filter(|_| !train.is_up_to_date()))
    }

    /// Makes `target`, with all output in the log of the run; returns whether it succeeded.
    fn start(&self, run: &Run, target: &str) -> Result<bool> {
        let folder = self.make.folder_of(run);
        fs_err::create_dir_all(&folder)?;
        let log = fs_err::OpenOptions::new().create(true).append(true).open(folder.join("log"))?;
        let log = log.into_parts().0;
        let mut command = self.make.supervised(run, target)?;
        command.process_group(0).stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        for variable in THREADS {
            if self.jobs > 1 && std::env::var_os(variable).is_none() {
                command.env(variable, (cores() / self.jobs).max(1).to_string());
            }
        }
        let child = command.spawn().map_err(|source| Error::Start { program: "sh", source })?;
        self.wait(child)
    }

    fn wait(&self, mut child: Child) -> Result<bool> {
        // The script in between ends the run when this is closed.
        let mut stdin = child.stdin.take();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.success());
            }
            if self.stop.requested().is_some() {
                drop(stdin.take());
            }
            thread::sleep(POLL);
        }
    }
}

/// Returns the number of cores.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Applies `work` to all items on `jobs` threads; results are in the order of the items.
pub(crate) fn parallel<T: Sync, R: Send>(jobs: usize, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut made = Vec::new();
        while let Some((at, item)) =
            Some(next.fetch_add(1, Ordering::SeqCst)).and_then(|at| Some((at, items.get(at)?)))
        {
            made.push((at, work(item)));
        }
        made
    };
    let mut made: Vec<(usize, R)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.min(items.len())).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a worker does not panic")).collect()
    });
    made.sort_by_key(|(at, _)| *at);
    made.into_iter().map(|(_, result)| result).collect()
}

/// Returns the last error in a log, on one line.
fn last_error(log: &Path) -> Option<String> {
    let text = files::read_text(log, files::MAX_JSON_BYTES).ok()?;
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.iter().rposition(|line| line.starts_with("error: "))?;
    let said = lines[last..].iter().take_while(|line| !line.starts_with("make")).take(4);
    Some(said.map(|line| line.trim()).collect::<Vec<_>>().join("; "))
}

/// Describes what select-best chose by.
fn describe(choice: &Choice) -> String {
    match (&choice.metric, choice.score) {
        (Some(metric), Some(score)) => format!(", validation {metric} {score:.4}"),
        _ => format!(", validation loss {:.4}", choice.loss),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_the_items() {
        let items: Vec<u64> = (0..40).collect();
        let squares = parallel(4, &items, |item| {
            thread::sleep(Duration::from_millis(40 - item));
            item * item
        });
        assert_eq!(squares, items.iter().map(|item| item * item).collect::<Vec<_>>());
    }

    #[test]
    fn the_last_error_of_a_log_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let text = "train: ran\nerror: old\nmake: *** x\ntrain: again\nerror: no rows\n  caused by: none\nhint: add\nmake: *** [x] Error 1\n";
        fs_err::write(&log, text).expect("written");
        assert_eq!(last_error(&log).as_deref(), Some("error: no rows; caused by: none; hint: add"));
        fs_err::write(&log, "fine\n").expect("written");
        assert_eq!(last_error(&log), None);
    }
}
