//! evaluate: statistics of scores made elsewhere, answers from files and endpoints, many models, and the gate.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use artifact::{Artifact, Claim, Draft, Store, Wait, write_folder};
use outputs::{
    Changes, CheckpointAnswers, Choice, Document as _, Line as _, ModelSource, Prediction, Scores, Verdict,
};
use serde_json::{Value, json};
use testutil::{Program, Sandbox};

const MODEL: &str = "tests/golden/gemma3_text";
const SIMILARITIES: &str = "crates/metrics/tests/fixtures/similarity/kumubot_eval10_similarity.csv";
const BASE: &str = "gemma-3-4b-it-mlx-4bit-maui";
const TWENTY_PAIRS: &str = "pmf-kumubotv1-gemma-3-4b-it-mlx-4bit-maui";
const ALL_PAIRS: &str = "pmf-all-fornander-gemma-3-4b-it-mlx-4bit-maui";
const LONGEST: &str = "pmf-train-1-8k-all-fornander-gemma-3-4b-it-mlx-4bit-maui";

/// Exit code of a failed gate.
const GATE_FAILED: i32 = 20;

fn scores(artifact: &str) -> Result<Scores> {
    Ok(Scores::read(&Path::new(artifact).join("data").join(Scores::FILE))?)
}

fn predictions(artifact: &str) -> Result<Vec<Prediction>> {
    let path = Path::new(artifact).join("data").join(Prediction::FILE);
    Ok(Prediction::read(&path)?.collect::<outputs::Result<_>>()?)
}

#[test]
fn published_similarities_get_their_intervals() -> Result<()> {
    let sandbox = Sandbox::new();
    let all = scores(&sandbox.make("evaluate", &["--scores", SIMILARITIES]))?;
    let printed = |name: &str| format!("{:.6}", all.models[name].text["similarity"]);
    ensure!([BASE, LONGEST].map(printed) == ["0.793648", "0.829584"], "other means");
    let pair = |a: &str, b: &str| {
        let names = [a, b];
        let found = all
            .comparisons
            .iter()
            .find(|pair| names.contains(&&*pair.model) && names.contains(&&*pair.against));
        found.map(|pair| (pair.model == a, pair.metrics["similarity"])).context("the pair is missing")
    };
    let (is_gain, gain) = pair(LONGEST, BASE)?;
    let sign = if is_gain { 1.0 } else { -1.0 };
    ensure!((gain.value * sign - 0.0359).abs() < 0.0005, "{gain:?}");
    let ends = if is_gain { [gain.low, gain.high] } else { [-gain.high, -gain.low] };
    ensure!((ends[0] - 0.004).abs() < 0.002 && (ends[1] - 0.072).abs() < 0.002, "{ends:?}");
    ensure!(gain.verdict == Some(if is_gain { Verdict::Better } else { Verdict::Worse }), "{gain:?}");
    let (_, noise) = pair(TWENTY_PAIRS, ALL_PAIRS)?;
    ensure!(noise.verdict == Some(Verdict::WithinNoise), "{noise:?}");
    ensure!([TWENTY_PAIRS, ALL_PAIRS].map(printed) == ["0.813051", "0.809543"], "other means");
    // 27 systems are 351 pairs.
    ensure!(all.comparisons.len() == 351, "{} pairs", all.comparisons.len());
    Ok(())
}

#[test]
fn a_missing_score_counts_as_zero_and_is_listed() -> Result<()> {
    let sandbox = Sandbox::new();
    let file = sandbox.write("scores.csv", "id,model,similarity\na,x,0.5\nb,x,0.7\na,y,0.9\n");
    let all = scores(&sandbox.make("evaluate", &["--scores", &file.to_string_lossy()]))?;
    ensure!((all.models["y"].text["similarity"] - 0.45).abs() < 1e-12, "{all:?}");
    ensure!(all.models["y"].failed_rows[0].id == "b" && all.models["x"].failed_rows.is_empty(), "{all:?}");
    let losses = sandbox.write("losses.csv", "id,model,loss\na,x,0.5\nb,x,0.7\na,y,0.9\n");
    let said = sandbox.refused(&mut sandbox.stage("evaluate", &["--scores", &losses.to_string_lossy()]), 65);
    ensure!(said.contains("lower is better"), "{said}");
    Ok(())
}

#[test]
fn unknown_scores_have_no_verdict_until_the_settings_name_the_better_direction() -> Result<()> {
    let sandbox = Sandbox::new();
    let lines = (0..12).flat_map(|row| [format!("{row},base,0.5{row}"), format!("{row},tuned,0.2{row}")]);
    let lines: Vec<String> = std::iter::once("id,model,wer".to_owned()).chain(lines).collect();
    let file = sandbox.write("scores.csv", lines.join("\n")).to_string_lossy().into_owned();
    let run = |more: &[&str]| sandbox.stage("evaluate", &[&["--scores", &file], more].concat()).run();
    let verdict = |more: &[&str]| -> Result<Option<Verdict>> {
        Ok(scores(run(more).succeeded().trim())?.comparisons[0].metrics["wer"].verdict)
    };
    ensure!(verdict(&[])?.is_none(), "a verdict without a direction");
    let (lower, higher) = (r#"lower_is_better=["wer"]"#, r#"higher_is_better=["wer"]"#);
    ensure!(verdict(&["--set", lower])? == Some(Verdict::Better), "lower is not better");
    ensure!(verdict(&["--set", higher])? == Some(Verdict::Worse), "higher is not better");
    let gate = ["--set", "gate.metric=wer"];
    let said = run(&gate).failed(2);
    ensure!(said.contains(r#"hint: say which one is: `--set 'evaluate.lower_is_better=["wer"]'`"#), "{said}");
    run(&[&gate[..], &["--set", lower]].concat()).succeeded();
    let worse = run(&[&gate[..], &["--set", higher]].concat());
    ensure!(worse.code == Some(GATE_FAILED) && worse.stderr.contains("wer is worse"), "{}", worse.stderr);
    let missing =
        sandbox.write("missing.csv", "id,model,wer\n0,a,0.5\n1,a,\n").to_string_lossy().into_owned();
    let said = sandbox.stage("evaluate", &["--scores", &missing]).run().failed(65);
    ensure!(said.contains("lacks `wer` on row `1`"), "{said}");
    Ok(())
}

#[test]
fn scores_refuse_what_needs_models_or_prompts() -> Result<()> {
    let sandbox = Sandbox::new();
    let file =
        sandbox.write("scores.csv", "id,model,similarity\na,x,0.5\na,y,0.6\n").to_string_lossy().into_owned();
    let gate = ["--scores", &file, "--set", "gate.metric=similarity"];
    let url = "endpoints.remote.base_url=http://127.0.0.1:9/v1";
    for (unused, more) in [
        ("--guard", &["--guard", "general-english"][..]),
        ("gate.guard", &["--set", "gate.guard=general-english"]),
        ("endpoints.remote", &["--set", url, "--set", "endpoints.remote.model=m"]),
    ] {
        let said = sandbox.refused(&mut sandbox.stage("evaluate", &[&gate[..], more].concat()), 2);
        ensure!(said.contains(unused), "{said}");
    }
    Ok(())
}

/// Scores all rows; the settings of the sandbox ask for two.
const ALL_ROWS: [&str; 2] = ["--set", "generated_rows=0"];

/// Files with answers of two systems to twenty rows in four stories.
fn answers(sandbox: &Sandbox, good: usize) -> [String; 2] {
    let line = |row: usize, answer: String| {
        let (story, reference) = (row % 4, format!("the chief of island {row} went to sea"));
        json!({"id": format!("r{row}"), "group": format!("g{}", row / 2), "story": format!("s{story}"), "prompt": "ka moku",
               "reference": reference, "prediction": answer}).to_string()
    };
    let write = |name: &str, good: usize| {
        let rows = (0..20).map(|row| {
            let right = format!("the chief of island {row} went to sea");
            line(row, if row < good { right } else { "a canoe".to_owned() })
        });
        let text = rows.collect::<Vec<_>>().join("\n");
        sandbox.write(name, text).to_string_lossy().into_owned()
    };
    [format!("base={}", write("base.jsonl", 2)), format!("fused={}", write("fused.jsonl", good))]
}

#[test]
fn answers_from_files_are_scored_compared_and_divided() -> Result<()> {
    let sandbox = Sandbox::new();
    let [base, fused] = answers(&sandbox, 15);
    let settings = [&ALL_ROWS[..], &["--set", r#"subgroups=["story", "length", "group"]"#]].concat();
    let inputs = ["--predictions", &base, "--predictions", &fused];
    let artifact = sandbox.make("evaluate", &[&inputs[..], &settings].concat());
    let all = scores(&artifact)?;
    ensure!(
        all.models["fused"].source == ModelSource::Predictions && all.models["fused"].loss.is_none(),
        "{all:?}"
    );
    ensure!((all.models["fused"].text["exact_match"] - 75.0).abs() < 1e-9, "{all:?}");
    let statistics = all.statistics.as_ref().context("no statistics")?;
    ensure!((statistics.unit.as_str(), statistics.units) == ("group", 10), "{statistics:?}");
    let gain = all.comparisons[0].metrics["chrf"];
    ensure!(gain.verdict == Some(Verdict::Better) && (gain.wins, gain.ties) == (13, 7), "{gain:?}");
    let ends = all.models["base"].intervals["chrf"];
    ensure!(
        ends[0] <= all.models["base"].text["chrf"] && all.models["base"].text["chrf"] <= ends[1],
        "{ends:?}"
    );
    ensure!(all.floor_intervals["shuffled_reference"].contains_key("chrf"), "{all:?}");
    let stories: Vec<_> = all.subgroups.iter().filter(|part| part.by == "story").collect();
    ensure!(stories.len() == 4 && stories.iter().all(|part| part.rows == 5), "{stories:?}");
    ensure!(all.subgroups.iter().any(|part| part.by == "length"), "no subgroups by length");
    ensure!(
        all.metrics["bleu"].signature.starts_with("nrefs:1|case:mixed|eff:no|tok:13a"),
        "{:?}",
        all.metrics
    );
    let rows = predictions(&artifact)?;
    ensure!((rows[0].scores["exact_match"]["fused"] - 100.0).abs() < 1e-9, "{:?}", rows[0]);

    // What evaluate writes can be scored again, by the names of the models.
    let again = format!("{artifact}/data/predictions.jsonl");
    let inputs = ["--predictions", &format!("base={again}"), "--predictions", &format!("fused={again}")];
    let inputs = [&inputs[..], &ALL_ROWS].concat();
    ensure!(scores(&sandbox.make("evaluate", &inputs))?.models == all.models, "other scores");
    Ok(())
}

#[test]
fn rules_extract_what_is_scored_and_failures_count_as_zero() -> Result<()> {
    let sandbox = Sandbox::new();
    let rows = [
        json!({"id": "a", "reference": "yes", "prediction": "<translation>no</translation> <translation> yes </translation>"}),
        json!({"id": "b", "reference": "no", "prediction": "no"}),
        json!({"id": "c", "reference": "yes", "prediction": null}),
    ];
    let file = sandbox.write("x.jsonl", rows.map(|row| row.to_string()).join("\n"));
    let named = format!("x={}", file.display());
    let metrics = r#"metrics=["exact_match", "label_accuracy", "label_f1"]"#;
    let common = ["--predictions", &named, "--set", metrics, "--set", "extract.tag=translation"];
    let common = [&common[..], &ALL_ROWS].concat();
    let artifact = sandbox.make("evaluate", &common);
    let (all, lines) = (scores(&artifact)?, predictions(&artifact)?);
    let model = &all.models["x"];
    ensure!((model.text["exact_match"] - 200.0 / 3.0).abs() < 1e-9, "{model:?}");
    ensure!((model.not_extracted, model.failed_rows.len()) == (1, 1), "{model:?}");
    ensure!(lines[0].extracted["x"] == "yes" && lines[2].failures.contains_key("x"), "{lines:?}");
    let strict = sandbox.make("evaluate", &[&common[..], &["--set", "extract.otherwise=fail"]].concat());
    let strict = scores(&strict)?;
    ensure!(strict.models["x"].failed_rows.len() == 2, "{strict:?}");
    ensure!((strict.models["x"].text["label_accuracy"] - 100.0 / 3.0).abs() < 1e-9, "{strict:?}");
    Ok(())
}

#[test]
fn the_gate_decides_the_exit_code() -> Result<()> {
    let sandbox = Sandbox::new();
    let gate = ["--set", "gate.metric=chrf", "--set", "gate.min_gain=5"];
    let run = |good: usize, more: &[&str]| {
        let [base, fused] = answers(&sandbox, good);
        sandbox
            .stage(
                "evaluate",
                &[&["--predictions", &base, "--predictions", &fused], &gate[..], &ALL_ROWS, more].concat(),
            )
            .run()
    };
    let passed = run(15, &[]);
    passed.succeeded();
    ensure!(passed.stderr.contains("gate: passed"), "{}", passed.stderr);

    // Twice: the artifact of a failed gate is published, and a hit has the same exit code.
    for _ in 0..2 {
        let same = run(2, &[]);
        ensure!(same.code == Some(GATE_FAILED), "{:?}: {}", same.code, same.stderr);
        ensure!(same.stderr.contains("training changed nothing"), "{}", same.stderr);
        let all = scores(same.stdout.trim())?;
        ensure!(all.gate.is_some_and(|gate| !gate.passed && !gate.changed), "no verdict");
    }
    let noted = run(2, &["--gate", "note"]);
    noted.succeeded();
    ensure!(noted.stderr.contains("gate: failed"), "{}", noted.stderr);
    let noise = run(3, &[]);
    ensure!(
        noise.code == Some(GATE_FAILED) && noise.stderr.contains("not better beyond noise"),
        "{}",
        noise.stderr
    );
    // A gate that cannot be applied is a wrong setting.
    run(15, &["--set", "gate.metric=loss"]).failed(2);
    run(15, &["--set", "gate.guard=general-english"]).failed(2);
    Ok(())
}

#[test]
fn a_verdict_that_another_process_published_meanwhile_decides_too() -> Result<()> {
    let sandbox = Sandbox::new();
    let [base, fused] = answers(&sandbox, 2);
    let inputs = ["--predictions", &base, "--predictions", &fused, "--set", "gate.metric=chrf"];
    let inputs = [&inputs[..], &ALL_ROWS].concat();
    let elsewhere = sandbox.stage_in(&sandbox.join("elsewhere"), "evaluate", &inputs).run();
    let artifact = Artifact::open(Path::new(elsewhere.stdout.trim()))?;

    let store = Store::open(&sandbox.store())?;
    let published = sandbox.store().join("evaluate").join(artifact.path().file_name().context("a name")?);
    fs_err::create_dir_all(sandbox.store().join("evaluate"))?;
    let key = artifact.manifest().key;
    let lock = store.lock("evaluate", &key, Wait::Forever, &mut |_| {}, &|| false)?;
    let mut child = sandbox.stage("evaluate", &inputs).spawn();
    let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
    let mut lines = stderr.lines().map(|line| line.expect("messages are text"));
    let waits = lines.any(|line| line.contains("waiting for another process"));
    testutil::files::copy(artifact.path(), &published);
    drop(lock);
    let said = lines.collect::<Vec<_>>().join("\n");
    let code = child.wait()?.code();
    ensure!(waits, "{said}");
    ensure!(code == Some(GATE_FAILED) && said.contains("does not pass the gate"), "{code:?}: {said}");
    Ok(())
}

#[test]
fn an_artifact_without_a_verdict_does_not_pass_the_gate() -> Result<()> {
    let sandbox = Sandbox::new();
    let [base, fused] = answers(&sandbox, 15);
    let inputs = ["--predictions", &base, "--predictions", &fused, "--set", "gate.metric=chrf"];
    let out = sandbox.join("out").to_string_lossy().into_owned();
    let run = || {
        let gate = ["--out", &out, "--gate", "fail"];
        sandbox.stage("evaluate", &[&inputs[..], &ALL_ROWS, &gate].concat()).run()
    };
    run().succeeded();
    // The same key, but metrics.json of an evaluation without a gate.
    let artifact = Artifact::open(Path::new(&out))?;
    let manifest = artifact.manifest().clone();
    let mut without = scores(&out)?;
    without.gate = None;
    testutil::files::remove(Path::new(&out));
    let draft = Draft::new("test", manifest.key_material);
    write_folder(Path::new(&out), &draft, |data| {
        fs_err::write(data.join(outputs::PREDICTIONS), "").expect("the folder can be written");
        without.write(data).expect("the folder can be written");
        Ok(())
    })?;
    let ran = run();
    ensure!(ran.code == Some(65) && ran.stderr.contains("has no verdict"), "{:?}: {}", ran.code, ran.stderr);
    Ok(())
}

/// Settings of a run that learns its rows.
const GOOD: [&str; 6] =
    ["--set", "train.steps=40", "--set", "train.checkpoint_every=40", "--set", "train.learning_rate=1e-2"];

/// A base model and a training run on it.
struct Trained {
    sandbox: Sandbox,
    model: String,
    dataset: String,
}

impl Trained {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let model = sandbox.model(MODEL);
        let dataset = sandbox.dataset(&model);
        Self { sandbox, model, dataset }
    }

    fn train(&self, settings: &[&str]) -> String {
        let inputs = ["--model", &self.model, "--dataset", &self.dataset];
        self.sandbox.make("train", &[&inputs[..], settings].concat())
    }
}

#[test]
fn the_gate_passes_a_good_run_and_fails_one_that_changed_nothing() -> Result<()> {
    let trained = Trained::new();
    let good = trained.train(&GOOD);
    let idle = trained.train(&[
        "--set",
        "train.steps=1",
        "--set",
        "train.checkpoint_every=1",
        "--set",
        "train.learning_rate=1e-12",
    ]);
    let run = |train: &str, more: &[&str]| {
        let (base, step) = (format!("base={}", trained.model), Path::new(train).join("data/checkpoints"));
        let step =
            fs_err::read_dir(step).expect("checkpoints").next().expect("one").expect("a folder").path();
        let adapters = format!("fused={}", step.join("adapters").display());
        let inputs = ["--model", &base, "--adapters", &adapters, "--dataset", &trained.dataset];
        let gate = ["--set", "gate.metric=loss", "--set", "gate.guard=general-english"];
        trained.sandbox.stage("evaluate", &[&inputs[..], &gate, more].concat()).run()
    };
    let passed = run(&good, &["--set", "gate.max_loss=100"]);
    passed.succeeded();
    let all = scores(passed.stdout.trim())?;
    let gate = all.gate.context("no verdict")?;
    let guard = gate.guard.clone().context("no guard")?;
    ensure!(gate.passed && gate.changed && guard.rows > 10 && guard.tokens > 1000, "{gate:?}");

    let by_dataset = run(&good, &["--guard", &trained.dataset, "--set", "gate.max_loss=100"]);
    let guard =
        scores(by_dataset.succeeded().trim())?.gate.context("no verdict")?.guard.context("no guard")?;
    ensure!((guard.name.as_str(), guard.rows) == ("test split", 8), "{guard:?}");

    let same = run(&idle, &["--set", "gate.max_loss=100"]);
    ensure!(
        same.code == Some(GATE_FAILED) && same.stderr.contains("training changed nothing"),
        "{}",
        same.stderr
    );
    Ok(())
}

#[test]
fn a_raised_guard_loss_fails_a_run_that_is_better_on_its_task() -> Result<()> {
    let trained = Trained::new();
    let good = trained.train(&GOOD);
    // Text without a word of the training rows: what the model learns makes it less likely.
    let guard = trained.sandbox.write("guard.txt", "~~~^^^{}{}[]###@@@\n\n%%%$$$|||<<<>>>___+++===\n");
    let adapters = format!("tuned={good}/data/checkpoints/0000040/adapters");
    let (base, guard) = (format!("base={}", trained.model), guard.to_string_lossy().into_owned());
    let inputs = ["--model", &base, "--adapters", &adapters, "--dataset", &trained.dataset];
    let gate = ["--guard", &guard, "--set", "gate.metric=loss", "--set", "gate.max_loss=0.1"];
    let ran = trained.sandbox.stage("evaluate", &[&inputs[..], &gate].concat()).run();
    let all = scores(ran.stdout.trim())?;
    let verdict = all.gate.context("no verdict")?;
    ensure!(verdict.gain.verdict == Some(Verdict::Better), "{verdict:?}");
    ensure!(verdict.guard.as_ref().is_some_and(|guard| guard.rise.value > 0.1), "{verdict:?}");
    ensure!(ran.code == Some(GATE_FAILED) && ran.stderr.contains("rises by"), "{}", ran.stderr);
    // Another guard set is another key, also if only its content differs.
    fs_err::write(&guard, "Aia i hea ka moku?\n")?;
    let other = trained.sandbox.stage("evaluate", &[&inputs[..], &gate].concat()).run();
    ensure!(other.stdout != ran.stdout, "the content of the guard set is not in the key");
    Ok(())
}

#[test]
fn a_dataset_is_divided_by_any_field_that_it_keeps() -> Result<()> {
    let sandbox = Sandbox::new();
    let model = sandbox.model(MODEL);
    let kept = r#"prepare-data.columns=["book", "len_ratio"]"#;
    let more = "prepare-data.max_rows.test=30";
    let inputs = ["--tokenizer", &model, "--data", "data/haw-eng", "--set", kept, "--set", more];
    let dataset = sandbox.make("prepare-data", &inputs);
    let base = format!("base={model}");
    let inputs = ["--model", &base, "--dataset", &dataset];
    let by = |columns: &str| format!("subgroups={columns}");
    let all = scores(
        &sandbox.make("evaluate", &[&inputs[..], &["--set", &by(r#"["book", "len_ratio"]"#)]].concat()),
    )?;
    let rows_by =
        |by: &str| all.subgroups.iter().filter(|part| part.by == by).map(|part| part.rows).sum::<u64>();
    // Many different numbers are divided into thirds.
    ensure!(rows_by("len_ratio") == all.rows && rows_by("book") == all.rows, "{:?}", all.subgroups);
    ensure!(all.subgroups.iter().filter(|part| part.by == "len_ratio").count() == 3, "{:?}", all.subgroups);
    let unknown = sandbox
        .refused(&mut sandbox.stage("evaluate", &[&inputs[..], &["--set", &by(r#"["story"]"#)]].concat()), 2);
    ensure!(unknown.contains("`story`") && unknown.contains("`columns`"), "{unknown}");
    Ok(())
}

#[test]
fn scores_made_elsewhere_are_divided_by_a_column_and_drawn_in_groups() -> Result<()> {
    let sandbox = Sandbox::new();
    // Twelve groups of five equal rows: sixty rows, but twelve independent values.
    let mut lines = vec!["id,group,kind,model,similarity".to_owned()];
    for row in 0..60 {
        let (group, kind) = (row / 5, if row % 2 == 0 { "prose" } else { "chant" });
        let score = f64::from(group * 7 % 12) / 12.0;
        lines.push(format!("{row},g{group},{kind},a,{score}"));
        lines.push(format!("{row},g{group},{kind},b,{}", 1.0 - score));
    }
    let file = sandbox.write("scores.csv", lines.join("\n"));
    let inputs = ["--scores", &file.to_string_lossy(), "--set", r#"subgroups=["kind", "group"]"#];
    let run = |unit: &str| scores(&sandbox.make("evaluate", &[&inputs[..], &["--set", unit]].concat()));
    let (by_group, by_row) = (run("unit=auto")?, run("unit=row")?);
    ensure!(
        by_group.statistics.as_ref().is_some_and(|it| (it.unit.as_str(), it.units) == ("group", 12)),
        "{by_group:?}"
    );
    let width = |scores: &Scores| {
        let [low, high] = scores.models["a"].intervals["similarity"];
        high - low
    };
    let ratio = width(&by_group) / width(&by_row);
    ensure!((ratio - 5f64.sqrt()).abs() < 0.3, "intervals of groups are {ratio} times as wide");
    let kinds: Vec<_> = by_group.subgroups.iter().filter(|part| part.by == "kind").collect();
    ensure!(kinds.len() == 2 && kinds.iter().all(|part| part.rows == 30), "{kinds:?}");
    ensure!(by_group.subgroups.iter().filter(|part| part.by == "group").count() == 12, "no groups");
    Ok(())
}

#[test]
fn every_checkpoint_can_be_scored_beside_the_base() -> Result<()> {
    let trained = Trained::new();
    let train = trained.train(&["--set", "train.steps=4", "--set", "train.checkpoint_every=2"]);
    let base = format!("base={}", trained.model);
    let inputs = ["--model", &base, "--checkpoints", &train, "--dataset", &trained.dataset];
    let all = scores(&trained.sandbox.make("evaluate", &inputs))?;
    let names: Vec<&str> = all.models.keys().map(String::as_str).collect();
    ensure!(names == ["base", "step_2", "step_4"], "{names:?}");
    ensure!(all.models["step_4"].source == ModelSource::Checkpoint, "{all:?}");
    ensure!(all.comparisons.len() == 3, "{:?}", all.comparisons);
    Ok(())
}

type Requests = Arc<Mutex<Vec<(Value, Option<String>)>>>;

/// A chat completions server on localhost.
struct Server {
    url: String,
    /// Bodies and authorization headers of the requests.
    requests: Requests,
}

impl Server {
    /// Starts a server that gives `respond` the number of the request, from 0, and its body, and sends status and body.
    fn start(respond: impl Fn(usize, &Value) -> (u16, Value) + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}/v1", listener.local_addr()?);
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, respond) = (Arc::clone(&requests), Arc::new(respond));
        let number = Arc::new(AtomicUsize::new(0));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, respond, number) = (Arc::clone(&seen), Arc::clone(&respond), Arc::clone(&number));
                std::thread::spawn(move || {
                    let _ =
                        serve(&stream, &seen, &|body| respond(number.fetch_add(1, Ordering::SeqCst), body));
                });
            }
        });
        Ok(Self { url, requests })
    }

    fn requests(&self) -> Vec<(Value, Option<String>)> {
        self.requests.lock().expect("no thread panicked").clone()
    }
}

/// Answers one request.
fn serve(
    stream: &TcpStream,
    seen: &Mutex<Vec<(Value, Option<String>)>>,
    respond: &dyn Fn(&Value) -> (u16, Value),
) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut length, mut key, mut line) = (0, None, String::new());
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            if line.trim_end().is_empty() {
                break;
            }
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse()?,
            "authorization" => key = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body: Value = serde_json::from_slice(&body)?;
    let (status, response) = respond(&body);
    seen.lock().expect("no thread panicked").push((body, key));
    let text = response.to_string();
    let head = format!(
        "HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        text.len()
    );
    let mut stream = stream;
    stream.write_all(head.as_bytes())?;
    stream.write_all(text.as_bytes())?;
    Ok(())
}

fn completion(text: &str, reason: &str) -> Value {
    json!({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": reason}]})
}

/// Runs evaluate on the demo rows with an endpoint beside a file of answers.
fn with_endpoint(trained: &Trained, url: &str, more: &[&str]) -> testutil::Ran {
    let endpoint = [
        format!("endpoints.remote.base_url={url}"),
        "endpoints.remote.model=some-model".to_owned(),
        "endpoints.remote.key_variable=EVALUATE_TEST_KEY".to_owned(),
        "endpoints.remote.retries=2".to_owned(),
    ];
    let base = format!("base={}", trained.model);
    let mut program = trained.sandbox.stage("evaluate", &["--model", &base, "--dataset", &trained.dataset]);
    for setting in &endpoint {
        program.arg("--set").arg(setting);
    }
    program.args(["--set", "generated_rows=6"]).args(more).env("EVALUATE_TEST_KEY", "secret").run()
}

#[test]
fn an_endpoint_is_asked_in_parallel_and_again_after_failures() -> Result<()> {
    let trained = Trained::new();
    let server = Server::start(|number, body| {
        let asked = body["messages"][0]["content"].as_str().unwrap_or_default().to_owned();
        match number {
            0 => (503, json!({"error": {"message": "loading"}})),
            1 => (429, json!({"error": {"message": "slow down"}})),
            _ => (
                200,
                completion(
                    &format!("about {}", asked.len()),
                    if number.is_multiple_of(2) { "length" } else { "stop" },
                ),
            ),
        }
    })?;
    let ran = with_endpoint(&trained, &server.url, &[]);
    let artifact = ran.path_text();
    let (all, rows) = (scores(&artifact)?, predictions(&artifact)?);
    let remote = &all.models["remote"];
    ensure!(remote.source == ModelSource::Endpoint && remote.failed_rows.is_empty(), "{remote:?}");
    ensure!(remote.unfinished_answers == 3 && remote.loss.is_none(), "{remote:?}");
    // Every answer is that of its row, whatever the order of the requests.
    for row in rows.iter().filter(|row| row.predictions.contains_key("remote")) {
        let answer = row.predictions["remote"].as_deref().context("no answer")?;
        ensure!(answer == format!("about {}", row.prompt.len()), "{row:?}");
    }
    let requests = server.requests();
    ensure!(requests.len() == 8, "{} requests", requests.len());
    let (body, key) = &requests[0];
    ensure!(key.as_deref() == Some("Bearer secret") && body["model"] == "some-model", "{body}");
    ensure!(body["temperature"] == 0 && body["max_tokens"] == 12, "{body}");
    let claim = Artifact::open(Path::new(&artifact))?.manifest().determinism.claim;
    ensure!(claim == Claim::None, "{claim:?}: a server may answer something else");
    // The key is nowhere in the artifact.
    let manifest = fs_err::read_to_string(Path::new(&artifact).join("manifest.json"))?;
    ensure!(!manifest.contains("secret") && !ran.stderr.contains("secret"), "the key leaked");
    Ok(())
}

#[test]
fn an_endpoint_never_sees_the_reference() -> Result<()> {
    let sandbox = Sandbox::new();
    let model = sandbox.model(MODEL);
    // The last turn of the model is excluded, so the first one is the reference.
    let chat = json!({"id": "a", "messages": [
        {"role": "user", "content": "Aloha?"}, {"role": "assistant", "content": "Hello.", "train": true},
        {"role": "user", "content": "Mahalo?"}, {"role": "assistant", "content": "Thanks.", "weight": 0},
    ]});
    let file = sandbox.write("chats/test.jsonl", format!("{chat}\n"));
    let other =
        r#"{"messages":[{"role":"user","content":"Pehea?"},{"role":"assistant","content":"Maikai."}]}"#;
    sandbox.write("chats/train.jsonl", format!("{other}\n"));
    let data = file.parent().context("a folder")?.to_string_lossy().into_owned();
    let mut prepare = Program::built("prepare-data");
    prepare.arg("--store").arg(sandbox.store()).args(["--tokenizer", &model, "--data", &data]);
    let dataset = prepare.args(["--set", "split={ by = 'files' }"]).run().path_text();
    let server = Server::start(|_, _| (200, completion("Hello.", "stop")))?;
    let trained = Trained { sandbox, model, dataset };
    let artifact = with_endpoint(&trained, &server.url, &[]).path_text();
    let (body, _) = &server.requests()[0];
    ensure!(body["messages"] == json!([{"role": "user", "content": "Aloha?"}]), "{body}");
    let row = &predictions(&artifact)?[0];
    ensure!((row.prompt.as_str(), row.reference.as_str()) == ("Aloha?", "Hello."), "{row:?}");
    Ok(())
}

#[test]
fn a_row_that_keeps_failing_counts_as_zero_and_a_refused_key_ends_the_run() -> Result<()> {
    let trained = Trained::new();
    let server = Server::start(|_, body| {
        let asked = body["messages"][0]["content"].as_str().unwrap_or_default();
        let is_even = asked.len().is_multiple_of(2);
        if is_even {
            (400, json!({"error": {"message": "too long"}}))
        } else {
            (200, completion("ok", "stop"))
        }
    })?;
    let artifact = with_endpoint(&trained, &server.url, &[]).path_text();
    let all = scores(&artifact)?;
    let failed = &all.models["remote"].failed_rows;
    let even =
        predictions(&artifact)?.iter().take(6).filter(|row| row.prompt.len().is_multiple_of(2)).count();
    ensure!(failed.len() == even && failed.iter().all(|row| row.reason.contains("too long")), "{failed:?}");

    let refusing = Server::start(|_, _| (401, json!({"error": {"message": "bad key"}})))?;
    let said = with_endpoint(&trained, &refusing.url, &[]).failed(1);
    ensure!(said.contains("bad key") && said.contains("EVALUATE_TEST_KEY"), "{said}");
    let dead = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let said =
        with_endpoint(&trained, &format!("http://{dead}/v1"), &["--set", "endpoints.remote.retries=0"])
            .failed(1);
    ensure!(said.contains("answered none of"), "{said}");
    Ok(())
}

#[test]
fn an_outage_fails_the_run_and_the_next_one_asks_only_for_the_missing_answers() -> Result<()> {
    let trained = Trained::new();
    let is_down = Arc::new(AtomicBool::new(true));
    let (down, lost) = (Arc::clone(&is_down), Mutex::new(None::<Value>));
    // While the server is down, it never answers the prompt that came first.
    let server = Server::start(move |_, body| {
        let mut lost = lost.lock().expect("no thread panicked");
        let lost = lost.get_or_insert_with(|| body["messages"].clone());
        if down.load(Ordering::SeqCst) && body["messages"] == *lost {
            (429, json!({"error": {"message": "slow down"}}))
        } else {
            (200, completion("ok", "stop"))
        }
    })?;
    let run = |more: &[&str]| with_endpoint(&trained, &server.url, more);
    let before = trained.sandbox.trees();
    let said = run(&["--set", "endpoints.remote.retries=0"]).failed(1);
    ensure!(said.contains("did not answer 1 of 6 prompts") && said.contains("allow_failed_rows"), "{said}");
    ensure!(trained.sandbox.trees() == before, "an evaluation without an answer was published");

    let allowed = run(&["--set", "endpoints.remote.allow_failed_rows=true"]).path_text();
    let failed = &scores(&allowed)?.models["remote"].failed_rows;
    ensure!(failed.len() == 1 && failed[0].reason.contains("slow down"), "{failed:?}");

    is_down.store(false, Ordering::SeqCst);
    let asked = server.requests().len();
    // Settings of the transport are not in the key, so this run has the answers of the first.
    let transport =
        ["--set", "endpoints.remote.concurrency=1", "--set", "endpoints.remote.timeout_seconds=9"];
    let artifact = run(&transport).path_text();
    ensure!(server.requests().len() == asked + 1, "answers were asked for again");
    ensure!(scores(&artifact)?.models["remote"].failed_rows.is_empty() && artifact != allowed, "{artifact}");
    ensure!(run(&["--set", "endpoints.remote.retries=1"]).path_text() == artifact, "retries are in the key");
    Ok(())
}

const ENCODER: &str = "crates/models/tests/encoders/bert";

#[test]
fn an_imported_encoder_scores_similarity_whatever_the_batch() -> Result<()> {
    let sandbox = Sandbox::new();
    let encoder = sandbox.make("import-model", &["--model-dir", ENCODER]);
    ensure!(
        Path::new(&encoder).join("data/model/1_Pooling/config.json").is_file(),
        "the pooling was left out"
    );
    let [base, fused] = answers(&sandbox, 15);
    let inputs = ["--predictions", &base, "--predictions", &fused];
    let run = |encoder: &str, batch: &str| {
        let batch = format!("encoder_batch_size={batch}");
        let settings = ["--encoder", encoder, "--set", &batch];
        scores(&sandbox.make("evaluate", &[&inputs[..], &ALL_ROWS, &settings].concat()))
    };
    let (one, many, folder) = (run(&encoder, "1")?, run(&encoder, "64")?, run(ENCODER, "3")?);
    ensure!(one == many && one == folder, "other scores");
    let of = |name: &str| one.models[name].text["similarity"];
    ensure!(of("fused") > of("base") && of("fused") <= 1.0, "{one:?}");
    ensure!(one.floors["shuffled_reference"].contains_key("similarity"), "{:?}", one.floors);
    ensure!(
        one.comparisons[0].metrics["similarity"].verdict == Some(Verdict::Better),
        "{:?}",
        one.comparisons
    );

    let converted = ["--model-dir", ENCODER, "--set", "import-model.dequantize=true"];
    let said = sandbox.refused(&mut sandbox.stage("import-model", &converted), 2);
    ensure!(said.contains("as they are"), "{said}");
    Ok(())
}

#[test]
fn checkpoints_can_be_chosen_by_their_answers() -> Result<()> {
    let trained = Trained::new();
    let train = trained.train(&["--set", "train.steps=6", "--set", "train.checkpoint_every=2"]);
    let sandbox = &trained.sandbox;
    let inputs = ["--model", &trained.model, "--dataset", &trained.dataset, "--train", &train];
    let plain = sandbox.make("validate", &inputs);
    let changes = Changes::read(&Path::new(&plain).join("data").join(Changes::FILE))?;
    ensure!(changes.checkpoints.len() == 3, "{changes:?}");
    for checkpoint in &changes.checkpoints {
        ensure!(checkpoint.improved + checkpoint.worsened + checkpoint.unchanged == 8, "{checkpoint:?}");
    }
    ensure!(
        !Path::new(&plain).join("data").join(CheckpointAnswers::FILE).exists(),
        "written without being asked for"
    );

    let asked = ["--set", "validate.answered_rows=4", "--set", "validate.max_tokens=6", "--encoder", ENCODER];
    let validated = sandbox.make("validate", &[&inputs[..], &asked].concat());
    let path = Path::new(&validated).join("data").join(CheckpointAnswers::FILE);
    let lines = CheckpointAnswers::read(&path)?;
    let lines = lines.collect::<outputs::Result<Vec<_>>>()?;
    let steps: Vec<u64> = lines[0].answers.keys().copied().collect();
    ensure!(lines.len() == 4 && steps == [0, 2, 4, 6] && lines[0].similarity.len() == 4, "{:?}", lines[0]);
    for (metric, set) in [("chrf", "metric=chrf"), ("ter", "metric=ter"), ("similarity", "metric=similarity")]
    {
        let best = sandbox.make("select-best", &["--train", &train, "--validate", &validated, "--set", set]);
        let choice = Choice::read(&Path::new(&best).join("data").join(Choice::FILE))?;
        let scores: Vec<f64> = choice.candidates.iter().filter_map(|candidate| candidate.score).collect();
        let sign = if metric == "ter" { -1.0 } else { 1.0 };
        let highest = scores.iter().map(|score| sign * score).fold(f64::NEG_INFINITY, f64::max);
        ensure!(scores.len() == 3 && choice.score == Some(sign * highest), "{choice:?}");
        ensure!(choice.gap.is_some_and(|gap| gap >= 0.0) && choice.reason.contains(metric), "{choice:?}");
    }
    let without = sandbox.refused(
        &mut sandbox.stage("select-best", &["--train", &train, "--validate", &plain, "--set", "metric=chrf"]),
        65,
    );
    ensure!(without.contains("answered_rows"), "{without}");
    Ok(())
}
