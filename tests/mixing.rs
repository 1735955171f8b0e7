//! Mixtures and curricula through the programs, and what must not show in the bytes: threads, and rows made ahead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tests::{Place, Ran, command, programs, run, trees};

const TRAIN: &str = "batch_size = 2\naccumulation = 2\ndropout = 0.1\nwarmup_steps = 2\nsteps = 8\nreport_every = 1\n\
    num_layers = 1\nkeys = ['self_attn.q_proj']\ncheckpoint_every = 4";

/// A model, and a dataset of two parts: `short` has 30 rows, `long` has 10.
struct Bench {
    place: Place,
    model: String,
    dataset: String,
}

impl Bench {
    fn new() -> Result<Self> {
        let place = Place::new()?;
        let model = place.model("tests/golden/gemma3_text")?;
        let line = |text: String| format!("{{\"text\":\"{text}\"}}\n");
        let short: String = (0..30).map(|row| line(format!("he kanaka {row}"))).collect();
        let long: String =
            (0..10).map(|row| line(format!("he mau kumu nui o ka aina {row} ").repeat(3))).collect();
        fs_err::write(place.path().join("short.jsonl"), short)?;
        fs_err::write(place.path().join("long.jsonl"), long)?;
        fs_err::write(place.path().join("valid.jsonl"), line("he wahine".into()))?;
        let settings = "split.by = 'files'\ntrain = ['short.jsonl', 'long.jsonl']\nvalidation = ['valid.jsonl']\n\
            mixture = { short = { files = ['short.jsonl'] }, long = { files = ['long.jsonl'] } }";
        let config = write(&place, "prepare.toml", &format!("[prepare-data]\n{settings}\n"))?;
        let data = place.path().to_string_lossy().into_owned();
        let mut prepare = stage(&place, "prepare-data", &config);
        let dataset = run(prepare.args(["--tokenizer", &model, "--data", &data]))?.path()?;
        Ok(Self { dataset: dataset.to_string_lossy().into_owned(), place, model })
    }

    fn train(&self, store: &str, settings: &str, more: &[&str], threads: &str) -> Result<Ran> {
        let config =
            write(&self.place, &format!("{store}.toml"), &format!("[train]\n{TRAIN}\n{settings}\n"))?;
        let mut train = command(programs().join("train"));
        train.arg("--config").arg(config).arg("--store").arg(self.place.path().join(store)).args(more);
        train.env("RAYON_NUM_THREADS", threads).args(["--model", &self.model, "--dataset", &self.dataset]);
        run(&mut train)
    }

    /// Trains in a store of its own and returns every byte as hashes.
    fn trained(&self, store: &str, settings: &str, more: &[&str], threads: &str) -> Result<Vec<String>> {
        self.train(store, settings, more, threads)?.path()?;
        let trees = trees(&self.place.path().join(store))?;
        Ok(trees.into_iter().map(|(name, tree)| format!("{name} {tree}")).collect())
    }

    fn refused(&self, settings: &str, more: &[&str], code: i32, parts: &[&str]) -> Result<()> {
        let ran = self.train("refused", settings, more, "2")?;
        ensure!(
            ran.code == Some(code) && ran.stdout.is_empty(),
            "{settings}: {:?}:\n{}",
            ran.code,
            ran.stderr
        );
        for part in parts {
            ensure!(ran.stderr.contains(part), "`{part}` is not in:\n{}", ran.stderr);
        }
        Ok(())
    }

    /// Writes a loss for every training row but the last `lacking`.
    fn losses(&self, name: &str, lacking: usize) -> Result<String> {
        let rows = Path::new(&self.dataset).join("data/rows/train.jsonl");
        let ids = dataset::read_rows(&rows)?.map(|row| Ok(row?.id)).collect::<Result<Vec<String>>>()?;
        let lines = (0..).zip(&ids[..ids.len() - lacking]);
        let lines: Vec<String> =
            lines.map(|(row, id)| format!("{{\"id\":\"{id}\",\"loss\":{}}}", row * 7 % 40)).collect();
        let text = lines.join("\n") + "\n";
        Ok(write(&self.place, name, &text)?.to_string_lossy().into_owned())
    }
}

fn write(place: &Place, name: &str, text: &str) -> Result<PathBuf> {
    let path = place.path().join(name);
    fs_err::write(&path, text)?;
    Ok(path)
}

fn stage(place: &Place, stage: &str, config: &Path) -> std::process::Command {
    let mut command = command(programs().join(stage));
    command.arg("--config").arg(config).arg("--store").arg(place.store());
    command
}

#[test]
fn threads_and_rows_made_ahead_change_no_byte() -> Result<()> {
    let bench = Bench::new()?;
    let losses = bench.losses("losses.jsonl", 0)?;
    let all = "mixture = { short = 1, long = 3 }\npacking = true\ncurriculum = 'loss'\ncurriculum_epochs = 1";
    for (name, settings, more) in [("plain", "", &[][..]), ("all", all, &["--losses", &losses])] {
        let mut found = BTreeMap::new();
        for (threads, prefetch) in [("1", "0"), ("1", "0"), ("2", "1"), ("4", "4"), ("4", "0"), ("1", "4")] {
            let store = format!("{name}-{}", found.len());
            let more = [more, &["--prefetch", prefetch]].concat();
            let hashes = bench.trained(&store, settings, &more, threads)?;
            ensure!(hashes.len() == 1, "one artifact: {hashes:?}");
            found.insert((found.len(), threads, prefetch), hashes);
        }
        let first = found.values().next().context("there are runs")?;
        for (how, hashes) in &found {
            ensure!(hashes == first, "{name}: {how:?} (run, threads, ahead) differs");
        }
    }
    Ok(())
}

#[test]
fn weights_and_orders_change_what_is_trained_and_belong_to_the_key() -> Result<()> {
    let bench = Bench::new()?;
    let (some, other) = (bench.losses("a.jsonl", 0)?, bench.losses("b.jsonl", 0)?);
    let lines = fs_err::read_to_string(&other)?;
    fs_err::write(&other, lines.lines().rev().collect::<Vec<_>>().join("\n"))?;
    let mut found = BTreeMap::new();
    let orders: [(&str, &[&str]); 6] = [
        ("", &[]),
        ("mixture = { short = 1, long = 1 }", &[]),
        ("mixture = { short = 1, long = 2 }", &[]),
        ("curriculum = 'length'", &[]),
        ("curriculum = 'loss'", &["--losses", &some]),
        ("curriculum = 'loss'", &["--losses", &other]),
    ];
    for (settings, more) in orders {
        let path = bench.train("one", settings, more, "2")?.path()?;
        let metrics = fs_err::read_to_string(path.join("data/metrics.jsonl"))?;
        found.insert(path, metrics);
    }
    ensure!(found.len() == orders.len(), "every order has a key of its own: {:?}", found.keys());
    // The same losses in another file give the same order.
    let different: std::collections::BTreeSet<&String> = found.values().collect();
    ensure!(different.len() == orders.len() - 1, "{} trainings", different.len());
    let again = bench.train("one", "mixture = { long = 2, short = 1.0 }", &[], "2")?.path()?;
    ensure!(found.contains_key(&again), "the order of the names is none of the key");
    Ok(())
}

#[test]
fn what_is_wrong_with_mixtures_and_curricula_is_named() -> Result<()> {
    let bench = Bench::new()?;
    let weight = |text: &str| format!("mixture = {{ {text} }}");
    bench.refused(&weight("short = 1, long = 0"), &[], 2, &["`mixture.long` is 0", "above 0"])?;
    bench.refused(&weight("short = -2, long = 1"), &[], 2, &["`mixture.short` is -2"])?;
    bench.refused(&weight("short = 1"), &[], 2, &["no weight for the component `long`", "hint: "])?;
    bench.refused(
        &weight("short = 1, lang = 1"),
        &[],
        2,
        &["`mixture.lang` is not a component", "`long`, `short`"],
    )?;
    bench.refused("curriculum = 'loss'", &[], 2, &["needs the losses", "--losses"])?;
    bench.refused("curriculum_epochs = 1", &[], 2, &["`curriculum_epochs` needs a `curriculum`"])?;
    let losses = bench.losses("lacking.jsonl", 2)?;
    bench.refused("", &["--losses", &losses], 2, &["curriculum = \"loss\""])?;
    let parts = ["lacking.jsonl", "2 training rows have no loss in it: `", "hint: "];
    bench.refused("curriculum = 'loss'", &["--losses", &losses], 65, &parts)?;
    let double = fs_err::read_to_string(&losses)?.repeat(2);
    fs_err::write(&losses, double)?;
    bench.refused(
        "curriculum = 'loss'",
        &["--losses", &losses],
        65,
        &["lacking.jsonl:39", "the id of row 1"],
    )?;
    Ok(())
}

#[test]
fn a_dataset_without_parts_cannot_be_mixed() -> Result<()> {
    let mut bench = Bench::new()?;
    let config =
        write(&bench.place, "plain.toml", "[prepare-data]\nsplit = { validation = 0.1, test = 0.0 }\n")?;
    let data = bench.place.path().join("short.jsonl");
    let mut prepare = stage(&bench.place, "prepare-data", &config);
    let made = run(prepare.args(["--tokenizer", &bench.model, "--data"]).arg(data))?.path()?;
    bench.dataset = made.to_string_lossy().into_owned();
    bench.refused(
        "mixture = { short = 1 }",
        &[],
        2,
        &["`mixture` needs a dataset with parts", "prepare-data"],
    )
}
