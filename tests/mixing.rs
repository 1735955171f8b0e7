//! Mixtures and curricula through the programs; the number of threads and of prefetched rows changes no byte.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use testutil::{Program, Ran, Sandbox, trees};

const TRAIN: &str = "batch_size = 2\naccumulation = 2\ndropout = 0.1\nwarmup_steps = 2\nsteps = 8\nreport_every = 1\n\
    num_layers = 1\nkeys = ['self_attn.q_proj']\ncheckpoint_every = 4";

/// A model, and a dataset of two mixture components: `short` with 30 rows, `long` with 10.
struct Fixture {
    sandbox: Sandbox,
    model: String,
    dataset: String,
}

impl Fixture {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let model = sandbox.model("tests/golden/gemma3_text");
        let line = |text: String| format!("{{\"text\":\"{text}\"}}\n");
        let short: String = (0..30).map(|row| line(format!("he kanaka {row}"))).collect();
        let long: String =
            (0..10).map(|row| line(format!("he mau kumu nui o ka aina {row} ").repeat(3))).collect();
        sandbox.write("short.jsonl", short);
        sandbox.write("long.jsonl", long);
        sandbox.write("validation.jsonl", line("he wahine".into()));
        let settings = "split.by = 'files'\ntrain = ['short.jsonl', 'long.jsonl']\nvalidation = ['validation.jsonl']\n\
            mixture = { short = { files = ['short.jsonl'] }, long = { files = ['long.jsonl'] } }";
        let dataset = prepared(&sandbox, &model, settings, sandbox.path());
        Self { sandbox, model, dataset }
    }

    fn train(&self, store: &str, settings: &str, more: &[&str], threads: &str) -> Ran {
        let config = self.sandbox.write(&format!("{store}.toml"), format!("[train]\n{TRAIN}\n{settings}\n"));
        let mut train = Program::built("train");
        train.arg("--config").arg(config).arg("--store").arg(self.sandbox.join(store)).args(more);
        train.env("RAYON_NUM_THREADS", threads).args(["--model", &self.model, "--dataset", &self.dataset]);
        train.run()
    }

    /// Trains in a separate store and returns the hashes of all bytes in it.
    fn trained(&self, store: &str, settings: &str, more: &[&str], threads: &str) -> Vec<String> {
        self.train(store, settings, more, threads).path();
        let trees = trees(&self.sandbox.join(store));
        trees.into_iter().map(|(name, tree)| format!("{name} {tree}")).collect()
    }

    /// Trains with settings that must be refused with `code` and a message that contains `words`.
    #[track_caller]
    fn refused(&self, settings: &str, more: &[&str], code: i32, words: &[&str]) {
        let ran = self.train("refused", settings, more, "2");
        ran.failed(code);
        ran.says(words);
    }

    /// Writes a loss for every training row but the last `lacking`.
    fn losses(&self, name: &str, lacking: usize) -> Result<String> {
        let rows = Path::new(&self.dataset).join("data/rows/train.jsonl");
        let ids = dataset::read_rows(&rows)?.map(|row| Ok(row?.id)).collect::<Result<Vec<String>>>()?;
        let lines = (0..).zip(&ids[..ids.len() - lacking]);
        let lines: Vec<String> =
            lines.map(|(row, id)| format!("{{\"id\":\"{id}\",\"loss\":{}}}", row * 7 % 40)).collect();
        let text = lines.join("\n") + "\n";
        Ok(self.sandbox.write(name, text).to_string_lossy().into_owned())
    }
}

/// Makes a dataset with settings of prepare-data and returns the artifact.
fn prepared(sandbox: &Sandbox, model: &str, settings: &str, data: &Path) -> String {
    let config = sandbox.write("prepare.toml", format!("[prepare-data]\n{settings}\n"));
    let mut prepare = Program::built("prepare-data");
    prepare.arg("--config").arg(config).arg("--store").arg(sandbox.store());
    prepare.args(["--tokenizer", model, "--data"]).arg(data).run().path_text()
}

#[test]
fn threads_and_prefetched_rows_change_no_byte() -> Result<()> {
    let fixture = Fixture::new();
    let losses = fixture.losses("losses.jsonl", 0)?;
    let all = "mixture = { short = 1, long = 3 }\npacking = true\ncurriculum = 'loss'\ncurriculum_epochs = 1";
    for (name, settings, more) in [("plain", "", &[][..]), ("all", all, &["--losses", &losses])] {
        let mut found = BTreeMap::new();
        for (threads, prefetch) in [("1", "0"), ("1", "0"), ("2", "1"), ("4", "4"), ("4", "0"), ("1", "4")] {
            let store = format!("{name}-{}", found.len());
            let more = [more, &["--prefetch", prefetch]].concat();
            let hashes = fixture.trained(&store, settings, &more, threads);
            ensure!(hashes.len() == 1, "one artifact: {hashes:?}");
            found.insert((found.len(), threads, prefetch), hashes);
        }
        let first = found.values().next().context("nothing ran")?;
        for (how, hashes) in &found {
            ensure!(hashes == first, "{name}: {how:?} (run, threads, prefetched) differs");
        }
    }
    Ok(())
}

#[test]
fn weights_and_orders_change_training_and_the_key() -> Result<()> {
    let fixture = Fixture::new();
    let (some, other) = (fixture.losses("a.jsonl", 0)?, fixture.losses("b.jsonl", 0)?);
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
        let path = fixture.train("one", settings, more, "2").path();
        let metrics = fs_err::read_to_string(path.join("data/metrics.jsonl"))?;
        found.insert(path, metrics);
    }
    ensure!(found.len() == orders.len(), "two orders share a key: {:?}", found.keys());
    // The same losses in another file give the same order.
    let different: BTreeSet<&String> = found.values().collect();
    ensure!(different.len() == orders.len() - 1, "{} trainings", different.len());
    let again = fixture.train("one", "mixture = { long = 2, short = 1.0 }", &[], "2").path();
    ensure!(found.contains_key(&again), "the order of the names changes the key");
    Ok(())
}

#[test]
fn mistakes_in_mixtures_and_curricula_are_named() -> Result<()> {
    let fixture = Fixture::new();
    let weight = |text: &str| format!("mixture = {{ {text} }}");
    fixture.refused(&weight("short = 1, long = 0"), &[], 2, &["`mixture.long`", "above 0"]);
    fixture.refused(&weight("short = -2, long = 1"), &[], 2, &["`mixture.short`", "-2"]);
    fixture.refused(&weight("short = 1"), &[], 2, &["weight", "`long`", "hint: "]);
    fixture.refused(&weight("short = 1, lang = 1"), &[], 2, &["`mixture.lang`", "`long`, `short`"]);
    fixture.refused("curriculum = 'loss'", &[], 2, &["--losses"]);
    fixture.refused("curriculum_epochs = 1", &[], 2, &["`curriculum_epochs` needs", "`curriculum`"]);
    let losses = fixture.losses("lacking.jsonl", 2)?;
    fixture.refused("", &["--losses", &losses], 2, &["curriculum = \"loss\""]);
    let with_losses = ["--losses", &losses];
    fixture.refused("curriculum = 'loss'", &with_losses, 65, &["lacking.jsonl", "2 training rows", "hint: "]);
    let double = fs_err::read_to_string(&losses)?.repeat(2);
    fs_err::write(&losses, double)?;
    fixture.refused("curriculum = 'loss'", &with_losses, 65, &["lacking.jsonl:39", "row 1"]);
    Ok(())
}

#[test]
fn a_dataset_without_components_cannot_be_mixed() {
    let mut fixture = Fixture::new();
    let data = fixture.sandbox.join("short.jsonl");
    let settings = "split = { validation = 0.1, test = 0.0 }";
    fixture.dataset = prepared(&fixture.sandbox, &fixture.model, settings, &data);
    fixture.refused("mixture = { short = 1 }", &[], 2, &["`mixture` needs a dataset with", "prepare-data"]);
}
