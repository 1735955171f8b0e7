//! Writes pages of made-up runs, to look at while working on them, and for the browser tests:
//! `cargo run -p report --example sample OUT`.

#[path = "../tests/fixture/mod.rs"]
mod fixture;

use std::path::{Path, PathBuf};

use artifact::{Draft, InputContent, InputRecord, KeyMaterial, Manifest};
use clap::Parser as _;
use outputs::{Document as _, SweepMember, SweepRecord, SweepRun};
use report::{Args, Aside, Config};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let out = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "target/browser".to_owned()));
    fs_err::create_dir_all(&out)?;
    let artifacts = tempfile::tempdir()?;
    let strange = fixture::Run { steps: 600, save_every: 50, rows: strange_rows() };
    report_page(&artifacts.path().join("strange"), &strange, &out.join("report.html"))?;
    let many = fixture::Run { steps: 200, save_every: 50, rows: many_rows() };
    report_page(&artifacts.path().join("many"), &many, &out.join("many.html"))?;
    compare_page(artifacts.path(), &out.join("compare.html"))?;
    sweep_page(artifacts.path(), &out.join("sweep.html"))?;
    data_page(artifacts.path(), &strange, &out.join("data.html"))
}

/// Writes the page with times.
fn report_page(root: &Path, run: &fixture::Run, page: &Path) -> Outcome {
    let inputs = fixture::write(root, run);
    fixture::add_statistics(&inputs, true);
    fixture::add_tokens(&inputs, run);
    fixture::add_telemetry(&inputs);
    let aside = root.join("telemetry");
    let since = Some("2026-01-02T00:00:00Z");
    report::write(&inputs, &Config::default(), &root.join("report"), Some(Aside { folder: &aside, since }))?;
    fs_err::copy(aside.join("report.html"), page)?;
    Ok(())
}

/// Writes the page that compares runs with two learning rates and three seeds.
fn compare_page(root: &Path, page: &Path) -> Outcome {
    let mut runs = Vec::new();
    for (number, (rate, seed)) in
        [(2e-4, 1), (2e-4, 2), (2e-4, 3), (1e-3, 1), (1e-3, 2)].into_iter().enumerate()
    {
        let steps = if rate > 5e-4 { 360 } else { 300 };
        let made_up = Compared { folder: root.join(format!("compared-{number}")), steps, rate, seed, number };
        runs.push(made_up.write(&root.join("store"))?);
    }
    runs.extend(["--store".to_owned(), root.join("store").to_string_lossy().into_owned()]);
    page_of("compare", &runs, page)
}

/// A made-up run to compare.
struct Compared {
    folder: PathBuf,
    steps: u32,
    rate: f64,
    seed: i64,
    /// How much worse it is than the first.
    number: usize,
}

impl Compared {
    /// Writes the artifacts of the run, and that of evaluate to a store; returns that of report.
    fn write(&self, store: &Path) -> Result<String, Box<dyn std::error::Error>> {
        let run = fixture::Run { steps: self.steps, save_every: 60, ..fixture::Run::default() };
        let inputs = fixture::write(&self.folder, &run);
        fixture::change_settings(&inputs.train, |settings| {
            settings["learning_rate"] = self.rate.into();
            settings["seed"] = self.seed.to_string().into();
        });
        fixture::change_settings(&inputs.evaluate, |settings| settings["run"] = self.number.into());
        fixture::add_statistics(&inputs, true);
        fixture::add_telemetry(&inputs);
        let scores = self.score(&inputs, store)?;
        let mut material = KeyMaterial::new("report", 2, serde_json::json!({"run": self.number}));
        material.inputs.insert("evaluate".to_owned(), InputContent::Tree(scores.tree));
        let draft =
            Draft { inputs: [("evaluate".to_owned(), scores)].into(), ..Draft::new("report", material) };
        let out = self.folder.join("artifact");
        let aside = self.folder.join("aside");
        artifact::write_folder(&out, &draft, |data| {
            let aside = Aside { folder: &aside, since: None };
            report::write(&inputs, &Config::default(), data, Some(aside))
                .map_err(|error| std::io::Error::other(error.to_string()))?;
            Ok(())
        })?;
        fs_err::create_dir_all(out.join("telemetry"))?;
        fs_err::copy(aside.join("times.json"), out.join("telemetry/times.json"))?;
        Ok(out.to_string_lossy().into_owned())
    }

    /// Makes its scores and the losses of its rows worse, writes them to a store, and returns what is recorded of them.
    fn score(
        &self,
        inputs: &report::Inputs,
        store: &Path,
    ) -> Result<InputRecord, Box<dyn std::error::Error>> {
        let shift = 1.0 + 0.02 * self.number as f64;
        let mut scores: outputs::Scores = fixture::read_document(&inputs.evaluate);
        let model = scores.models.get_mut("fused").expect("the model");
        model.perplexity = model.perplexity.map(|value| value * shift);
        model.loss = model.perplexity.map(f64::ln);
        model.text.iter_mut().for_each(|(_, value)| *value /= shift);
        fixture::put_document(&inputs.evaluate, &scores);
        fixture::add_row_losses(inputs, shift);
        let path = inputs.evaluate.join("manifest.json");
        let manifest = Manifest::from_bytes(&path, &fs_err::read(&path)?)?;
        let key = manifest.key;
        let draft = Draft { inputs: manifest.inputs, ..Draft::new("made-up", manifest.key_material) };
        let out = store.join(format!("evaluate/{}-made-up", key.short()));
        let made = artifact::write_folder(&out, &draft, |data| {
            testutil::files::copy(&inputs.evaluate.join("data/."), data);
            Ok(())
        })?;
        let tree = made.manifest().tree;
        Ok(InputRecord { stage: Some(manifest.stage), key: Some(key), tree, output: None })
    }
}

/// Writes the page of a sweep over three learning rates with two seeds each, one of which failed, and a member that was left.
fn sweep_page(root: &Path, page: &Path) -> Outcome {
    let folder = root.join("sweep");
    let mut record = SweepRecord {
        name: "rates".to_owned(),
        search: "halving".to_owned(),
        varied: vec!["train.learning_rate".to_owned()],
        trained_steps: 1260,
        full_steps: Some(2400),
        members: Vec::new(),
    };
    for (at, rate) in [2e-4, 1e-3, 5e-3].into_iter().enumerate() {
        let mut runs = Vec::new();
        for seed in [1, 2] {
            let number = at * 8 + seed as usize;
            let made_up =
                Compared { folder: folder.join(number.to_string()), steps: 300, rate, seed, number };
            let report = Some(made_up.write(&folder.join("store"))?);
            let validation_loss = Some(2.0 + 0.05 * number as f64);
            runs.push(SweepRun {
                seed: Some(seed),
                steps: Some(300),
                validation_loss,
                report,
                ..SweepRun::default()
            });
        }
        record.members.push(member(rate, runs));
    }
    let left = SweepRun { steps: Some(60), validation_loss: Some(3.0), ..SweepRun::default() };
    record.members.push(member(1e-5, vec![left.clone(), left]));
    let failed = SweepRun { seed: Some(1), failed: true, ..SweepRun::default() };
    record.members.push(member(1.0, vec![failed.clone(), failed]));
    record.write(&folder)?;
    fs_err::write(folder.join("best.toml"), "# The best of 5 members.\n[train]\nlearning_rate = \"2e-4\"\n")?;
    let store = folder.join("store").to_string_lossy().into_owned();
    page_of(
        "sweep",
        &[folder.join("sweep.json").to_string_lossy().into_owned(), "--store".to_owned(), store],
        page,
    )
}

fn member(rate: f64, runs: Vec<SweepRun>) -> SweepMember {
    let values = [("train.learning_rate".to_owned(), format!("{rate:e}"))].into();
    SweepMember { name: format!("learning-rate-{rate:e}"), values, runs }
}

fn data_page(root: &Path, run: &fixture::Run, page: &Path) -> Outcome {
    let inputs = fixture::write(&root.join("data"), run);
    fixture::add_tokens(&inputs, run);
    let made_up = inputs.prepare_data.expect("a dataset").join("data");
    let out = root.join("dataset");
    let draft = Draft::new("test", KeyMaterial::new("prepare-data", 1, serde_json::json!({})));
    artifact::write_folder(&out, &draft, |data| {
        testutil::files::copy(&made_up.join("."), data);
        Ok(())
    })?;
    page_of("data", &[out.to_string_lossy().into_owned()], page)
}

fn page_of(command: &str, inputs: &[String], page: &Path) -> Outcome {
    let page = page.to_string_lossy();
    let words =
        ["report", command].into_iter().chain(inputs.iter().map(String::as_str)).chain(["--out", &page]);
    Ok(report::program(&Args::try_parse_from(words)?).map_err(|error| error.to_string())?)
}

/// Returns real rows, and rows that try to break the page.
fn strange_rows() -> Vec<[&'static str; 5]> {
    let mut rows = fixture::translations();
    let long = "He nui loa ka poe i hele mai e makaikai ia ia, no ka mea, ua kaulana kona ikaika ma na mokupuni a pau. ";
    let long: &'static str = long.repeat(14).leak();
    rows.push(["f6-1191", "Translate to English: He moolelo loihi.", long, "Ka Ka Ka Ka Ka Ka", long]);
    rows.push([
        "rtl-0001",
        "Translate to Arabic: Aloha kākou",
        "مرحبا بالعالم، كيف حالكم اليوم؟",
        "Aloha",
        "مرحبا بكم جميعا",
    ]);
    let attack =
        "</script></p><script>alert(1)</script><img src=x onerror='alert(2)'>]]>\" onmouseover=\"alert(3)";
    rows.push([attack, attack, attack, "<!-- --><b>", attack]);
    rows.push([
        "control",
        "\u{0}\u{8}\u{1b}[31m\u{7f}\u{feff}\u{fffe}",
        "\u{202e}evil\u{202d}",
        "a\u{2028}b\r\nc",
        "👩‍👩‍👧",
    ]);
    let japanese = "東京は夜の七時です。".repeat(8).leak();
    rows.push(["long-word", "Translate: 東京", "a".repeat(180).leak(), japanese, "aaaa"]);
    rows.push([
        "f4-0090",
        "Translate to English: Aloha oe, e ka wahine.",
        "Greetings to you, O woman.",
        "Oe, e",
        "Love to you, O woman.",
    ]);
    rows
}

/// Returns 5,000 rows.
fn many_rows() -> Vec<[&'static str; 5]> {
    let known = fixture::translations();
    let words = ["canoe", "chief", "harbor", "child", "ocean", "voyage", "mountain"];
    (0..5000usize)
        .map(|at| {
            let [_, prompt, reference, ..] = known[at % known.len()];
            let word = words[at * 7 % words.len()];
            let reference: &'static str = format!("{reference} Then the {word} number {at} came.").leak();
            let worse = at % 3 == 0;
            let near: &'static str = format!("{reference} And the {word} was seen no more.").leak();
            let far: &'static str = format!("The {word} the {word} {} of the sea", at * 31 % 97).leak();
            let (base, fused) = if worse { (near, far) } else { (far, near) };
            [format!("row-{at:04}").leak(), prompt, reference, base, fused]
        })
        .collect()
}
