//! A tiny real stage, used by the tests: counts the lines of its input, one checkpoint per line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stage::{CommonArgs, Error, Job, Kind, Result, Run};

#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    learning_rate: f64,
    title: String,
    milliseconds_per_line: u64,
    padding_bytes: usize,
    limit: Option<u64>,
    nested: Nested,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Nested {
    rank: u64,
}

impl Default for Nested {
    fn default() -> Self {
        Self { rank: 8 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            learning_rate: 1e-4,
            title: "plain".to_owned(),
            milliseconds_per_line: 0,
            padding_bytes: 0,
            limit: None,
            nested: Nested::default(),
        }
    }
}

impl stage::Config for Config {
    const STAGE: &'static str = "tally";
    const VERSION: u32 = 1;

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.learning_rate <= 0.0 {
            problems.push(format!("`learning_rate` is {}; it must be above 0", self.learning_rate));
        }
        if self.nested.rank == 0 {
            problems.push("`nested.rank` is 0; it must be at least 1".to_owned());
        }
        problems
    }

    fn slug(&self) -> String {
        format!("rank{}", self.nested.rank)
    }
}

/// Count the lines of a file
#[derive(clap::Parser)]
struct Args {
    /// File to count
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Artifact of this stage whose count is added
    #[arg(long, value_name = "ARTIFACT")]
    before: Option<PathBuf>,
    /// Write different bytes on every run
    #[arg(long)]
    random: bool,
    /// Write NaN into the results
    #[arg(long)]
    nan: bool,
    /// Announce a resume state of N bytes
    #[arg(long, value_name = "N", default_value_t = 0)]
    state_bytes: u64,
    #[command(flatten)]
    common: CommonArgs,
}

fn main() -> ExitCode {
    stage::main(
        |args: Args| {
            let mut run = Run::<Config>::new(&args.common)?;
            let data = args.data.as_ref().map(|path| run.input_folder("data", path)).transpose()?;
            let before = args.before.as_ref().map(|path| run.input("before", path, "tally")).transpose()?;
            run.note("memory: negligible".to_owned());
            run.expect_state_bytes(args.state_bytes);
            run.execute(|job, config| {
                let mut text = String::new();
                for input in data.iter().chain(&before) {
                    let path = if input.path().is_dir() {
                        input.path().join("count.json")
                    } else {
                        input.path().to_owned()
                    };
                    text +=
                        &fs_err::read_to_string(path).map_err(|error| Error::wrap(Kind::BadInput, error))?;
                }
                count(job, config, &text)?;
                if args.random {
                    let noise = format!("{:?}\n", std::time::Instant::now());
                    fs_err::write(job.out().join("noise.txt"), noise)?;
                }
                job.metric("lines", if args.nan { f64::NAN } else { text.lines().count() as f64 });
                job.summary(format!("{} lines", text.lines().count()));
                Ok(())
            })
        },
        |args| &args.common,
    )
}

/// Counts line by line; every line is a step that is saved and can be resumed from.
fn count(job: &mut Job, config: &Config, text: &str) -> Result<()> {
    let saved = job.resume_dir().join("done");
    let mut done: usize = fs_err::read_to_string(&saved).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    if done > 0 {
        job.resumed();
        tracing::info!("resuming after line {done} in {}", job.resume_dir().display());
    }
    for (index, line) in text.lines().enumerate().skip(done) {
        if line == "bad" {
            return Err(Error::bad_input(format!("line {} is bad", index + 1)).hinted("correct it"));
        }
        std::thread::sleep(Duration::from_millis(config.milliseconds_per_line));
        done = index + 1;
        artifact::atomic::write_file(&saved, done.to_string().as_bytes())?;
        tracing::debug!("line {done}");
        job.stop().check()?;
    }
    let unit = job.unit("tally-unit", 1, serde_json::json!({"lines": done}), |dir| {
        tracing::info!("computing a unit");
        Ok(fs_err::write(dir.join("unit.json"), format!("{done}\n"))?)
    })?;
    let out = job.out().join("tally");
    fs_err::create_dir(&out)?;
    fs_err::copy(unit.join("unit.json"), out.join("count.json"))?;
    fs_err::write(out.join("padding.bin"), vec![0; config.padding_bytes])?;
    fs_err::write(job.out().join("title.json"), format!("{:?}\n", config.title))?;
    fs_err::write(job.telemetry_dir().join("timing.jsonl"), "{}\n")?;
    Ok(())
}
