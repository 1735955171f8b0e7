//! A long run cut into parts, each going on from the artifact of the one before, ends in the bytes of the whole run.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tests::{Place, Ran, command, programs, root, run};

/// A model, a dataset, and the whole run.
struct Bench {
    place: Place,
    model: String,
    dataset: String,
}

impl Bench {
    fn new() -> Result<Self> {
        let place = Place::new()?;
        let model = place.model("tests/golden/gemma3_text")?;
        let dataset = place.dataset(&model)?;
        Ok(Self { place, model, dataset })
    }

    /// Trains into the folder `out`.
    fn train(&self, out: &str, more: &[&str]) -> Result<Ran> {
        let inputs = ["--model", &self.model, "--dataset", &self.dataset, "--out", out];
        let mut command = command(programs().join("train"));
        command.current_dir(self.place.path()).arg("--config").arg(root().join("tests/fixtures/small.toml"));
        run(command.args(inputs).args(more))
    }

    fn read(&self, path: &str) -> Result<String> {
        Ok(fs_err::read_to_string(self.place.path().join(path))?)
    }

    /// Trains in `of` parts and compares the last with the artifact `whole`.
    fn compare(&self, whole: &str, of: usize, more: &[&str]) -> Result<()> {
        let name = |part: usize| format!("{whole}-{part}-of-{of}");
        for part in 1..=of {
            let (end, before) = (format!("{part}/{of}"), name(part - 1));
            let mut arguments = more.to_vec();
            if part < of {
                arguments.extend(["--stop-at", &end]);
            }
            if part > 1 {
                arguments.extend(["--resume-from", &before]);
            }
            self.train(&name(part), &arguments)?.path().with_context(|| format!("part {end}"))?;
        }
        for file in ["SHA256SUMS", "manifest.json"] {
            let (expected, found) = (format!("{whole}/{file}"), format!("{}/{file}", name(of)));
            ensure!(self.read(&expected)? == self.read(&found)?, "`{found}` is not that of the whole run");
        }
        Ok(())
    }
}

#[test]
fn parts_come_to_the_bytes_of_the_whole() -> Result<()> {
    let bench = Bench::new()?;
    let dropout = ["--set", "dropout=0.1", "--set", "report_every=5"];
    bench.train("whole", &dropout)?.path()?;
    // 12 steps; parts that end between reports and checkpoints, and more parts than steps.
    for of in [2, 5, 13] {
        bench.compare("whole", of, &dropout)?;
    }
    bench.train("short", &["--set", "steps=1"])?.path()?;
    bench.compare("short", 3, &["--set", "steps=1"])?;
    Ok(())
}

#[test]
fn a_run_that_stopped_early_stays_stopped_in_the_next_part() -> Result<()> {
    let bench = Bench::new()?;
    // The loss counts as no gain, however low it is.
    let early = ["--set", "validation_every=2", "--set", "patience=1", "--set", "min_delta=100.0"];
    bench.train("early", &early)?.path()?;
    ensure!(bench.read("early/data/summary.json")?.contains("\"early\""), "it did not stop early");
    bench.compare("early", 2, &early)?;
    bench.compare("early", 4, &early)
}

#[test]
fn a_part_is_taken_for_nothing_else() -> Result<()> {
    let bench = Bench::new()?;
    bench.train("whole", &[])?.path()?;
    bench.train("part", &["--stop-at", "5"])?.path()?;
    ensure!(bench.read("part/data/part/summary.json")?.contains("\"steps\": 5,"), "it ends elsewhere");
    ensure!(!bench.place.path().join("part/data/checkpoints").exists(), "it has what others read");
    let refused = |ran: Ran, code: i32, words: &[&str]| {
        ensure!(ran.code == Some(code) && ran.stdout.is_empty(), "{:?}: {}", ran.code, ran.stderr);
        let missing = words.iter().find(|word| !ran.stderr.contains(*word));
        ensure!(missing.is_none(), "`{}` is not in: {}", missing.unwrap_or(&""), ran.stderr);
        Ok(())
    };
    let folder = bench.place.path().join("part").display().to_string();
    let validate = ["--model", &bench.model, "--dataset", &bench.dataset, "--train", &folder];
    refused(
        run(&mut bench.place.stage("validate", &validate))?,
        65,
        &["`checkpoints`", "only a part of a run"],
    )?;
    let select = ["--train", &folder, "--validate", &folder];
    refused(run(&mut bench.place.stage("select-best", &select))?, 65, &["only a part of a run"])?;

    let from = |part: &str, more: &[&str]| bench.train("other", &[&["--resume-from", part], more].concat());
    let other = ["--set", "learning_rate=1e-3"];
    refused(
        from("part", &other)?,
        65,
        &["a part of another run", "config/learning_rate 0.002 → 0.001", "hint:"],
    )?;
    refused(from("whole", &[])?, 65, &["no part of a run", "hint:"])?;
    refused(from(&bench.dataset, &[])?, 65, &["no part of a run", "`prepare-data`"])?;
    refused(from("nowhere", &[])?, 65, &["nowhere"])?;
    refused(bench.train("other", &["--stop-at", "5/4"])?, 2, &["--stop-at"])?;
    damage(&bench.place.path().join("part/data/part/state/weights.safetensors"))?;
    refused(from("part", &[])?, 65, &["part", "hint:"])
}

/// Flips the last bit of a published file.
fn damage(path: &Path) -> Result<()> {
    let mut bytes = fs_err::read(path)?;
    *bytes.last_mut().context("the file is empty")? ^= 1;
    fs_err::remove_file(path)?;
    Ok(fs_err::write(path, bytes)?)
}

#[test]
fn parts_go_through_a_store_as_well() -> Result<()> {
    let bench = Bench::new()?;
    let inputs = ["--model", bench.model.as_str(), "--dataset", &bench.dataset];
    let train = |more: &[&str]| bench.place.make("train", &[&inputs, more].concat());
    let part = train(&["--stop-at", "1/2"])?;
    ensure!(train(&["--stop-at", "1/2"])? == part, "a part is found again");
    let whole = train(&["--resume-from", &part])?;
    ensure!(whole != part && train(&[])? == whole, "the last part is the whole run");
    bench.train("alone", &[])?.path()?;
    let stored = fs_err::read_to_string(Path::new(&whole).join("SHA256SUMS"))?;
    ensure!(bench.read("alone/SHA256SUMS")? == stored, "the bytes differ");
    Ok(())
}
