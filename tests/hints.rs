//! Hints of the programs, each in the situation that prints it, and the same command after its advice was followed.
//!
//! Hints about the rows of data files are in `crates/dataset/tests/hints.rs`; those of other crates beside their code.

use serde_json::json;
use testutil::Sandbox;

/// Runs a stage that must be refused with a hint.
#[track_caller]
fn refused(sandbox: &Sandbox, stage: &str, arguments: &[&str], code: i32, hint: &str) {
    let said = sandbox.refused(&mut sandbox.stage(stage, arguments), code);
    let hints: Vec<&str> = said.lines().filter(|line| line.starts_with("hint: ")).collect();
    assert!(hints.iter().any(|line| line.contains(hint)), "`{hint}` is not among the hints of:\n{said}");
}

fn borrowed(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// A model with its dataset.
struct Fixture {
    sandbox: Sandbox,
    model: String,
    dataset: String,
}

impl Fixture {
    fn new(case: &str) -> Self {
        let sandbox = Sandbox::new();
        let model = sandbox.model(&format!("tests/golden/{case}"));
        let dataset = sandbox.dataset(&model);
        Self { sandbox, model, dataset }
    }

    /// Trains with settings that must be refused, then with those that the hint asks for.
    #[track_caller]
    fn train(&self, settings: &[&str], code: i32, hint: &str, remedied: &[&str]) {
        let arguments = |settings: &[&str]| -> Vec<String> {
            let inputs = ["--model", &self.model, "--dataset", &self.dataset, "--set", "train.steps=3"];
            let settings = settings.iter().flat_map(|&setting| ["--set", setting]);
            inputs.into_iter().chain(settings).map(str::to_owned).collect()
        };
        refused(&self.sandbox, "train", &borrowed(&arguments(settings)), code, hint);
        self.sandbox.make("train", &borrowed(&arguments(remedied)));
    }
}

#[test]
fn hints_of_settings_of_train() {
    let fixture = Fixture::new("gemma3_text");
    fixture.train(&["num_layers=9"], 2, "set num_layers = 0 to train all of them", &["num_layers=0"]);
    fixture.train(
        &["keys=[\"q_proj\"]"],
        2,
        "names are relative to a block, such as `self_attn.q_proj`",
        &["keys=[\"self_attn.q_proj\"]"],
    );
    let head = "set lm_head = false, or fine_tune_type = \"full\" and embeddings = true";
    fixture.train(&["lm_head=true"], 2, head, &["lm_head=false"]);
    fixture.train(&["lm_head=true"], 2, head, &["lm_head=true", "fine_tune_type=full", "embeddings=true"]);
    fixture.train(&["distrust=reweight"], 2, "set distrust = \"off\"", &["distrust=off"]);
    fixture.train(&["curriculum=loss"], 2, "name their file with `--losses`", &["curriculum=length"]);
    fixture.train(
        &["learning_rate=1e30", "warmup_steps=0", "steps=9"],
        1,
        "lower `learning_rate`",
        &["learning_rate=1e-3"],
    );
}

#[test]
fn the_hint_about_losses_works() {
    let fixture = Fixture::new("llama");
    let Fixture { sandbox, model, dataset } = &fixture;
    let rows = fs_err::read_to_string(std::path::Path::new(dataset).join("data/rows/train.jsonl")).unwrap();
    let ids = rows.lines().map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap()["id"].clone());
    let ids: Vec<serde_json::Value> = ids.collect();
    let write = |lines: Vec<String>| sandbox.write("losses.jsonl", lines.join("\n") + "\n");
    let losses = |count: usize| -> Vec<String> {
        ids[..count].iter().map(|id| json!({"id": id, "loss": 1.5}).to_string()).collect()
    };
    let path = write(losses(ids.len())).to_string_lossy().into_owned();
    let inputs =
        ["--model", model, "--dataset", dataset, "--set", "train.steps=1", "--set", "curriculum=loss"];
    let with_losses = [&inputs[..], &["--losses", &path]].concat();
    sandbox.make("train", &with_losses);
    write([losses(ids.len()), losses(1)].concat());
    refused(sandbox, "train", &with_losses, 65, "write one loss per id");
    write(losses(ids.len() - 1));
    refused(
        sandbox,
        "train",
        &with_losses,
        65,
        "score the training rows of this dataset, or choose another `curriculum`",
    );
    write([losses(ids.len() - 1), vec!["{\"loss\": 1}".to_owned()]].concat());
    refused(sandbox, "train", &with_losses, 65, "write each row as `{\"id\": \"…\", \"loss\": 1.5}`");
}

#[test]
fn hints_about_datasets() {
    let fixture = Fixture::new("llama");
    let sandbox = &fixture.sandbox;
    let other = sandbox.model("tests/golden/gemma3_text");
    let foreign = sandbox.dataset(&other);
    let model = &fixture.model;
    let train = |dataset: &str, settings: &[&str]| -> Vec<String> {
        let inputs = ["--model", model, "--dataset", dataset, "--set", "train.steps=1"];
        let settings = settings.iter().flat_map(|&setting| ["--set", setting]);
        inputs.into_iter().chain(settings).map(str::to_owned).collect()
    };
    let refuse = |dataset: &str, settings: &[&str], code: i32, hint: &str| {
        refused(sandbox, "train", &borrowed(&train(dataset, settings)), code, hint);
    };
    let succeed =
        |dataset: &str, settings: &[&str]| sandbox.make("train", &borrowed(&train(dataset, settings)));
    refuse(
        &foreign,
        &[],
        65,
        "make the dataset with this model's own tokenizer (`prepare-data --tokenizer`)",
    );
    let prepare = |split: &str| {
        let split = format!("split={{ by = \"ratio\", validation = {split}, test = 0.2, seed = 0 }}");
        sandbox.make(
            "prepare-data",
            &["--tokenizer", model, "--data", "data/haw-eng", "--set", &split, "--set", "on_leak=allow"],
        )
    };
    let without = prepare("0.0");
    refuse(&without, &["validation_every=1"], 65, "with `split.validation` above 0");
    let with = prepare("0.2");
    succeed(&with, &["validation_every=1"]);
    refuse(&with, &["mixture.a=1"], 2, "name them with the setting `mixture` of prepare-data");
    let rows = (0..12).map(|row| format!("{{\"text\": \"row {row}\"}}\n")).collect::<Vec<_>>().concat();
    sandbox.write("mix/a.jsonl", &rows);
    sandbox.write("mix/b.jsonl", rows.replace("row", "line"));
    let data = sandbox.join("mix").to_string_lossy().into_owned();
    let component = |name: &str| format!("mixture.{name}={{ files = [\"{name}.jsonl\"] }}");
    let mut prepare = testutil::Program::built("prepare-data");
    prepare.args(["--tokenizer", model, "--data", &data, "--store"]).arg(sandbox.store());
    prepare.args(["--set", &component("a"), "--set", &component("b"), "--set", "on_leak=allow"]);
    let mixture = prepare.run().path_text();
    refuse(&mixture, &["mixture.a=1"], 2, "give every component of the dataset a weight");
    refuse(&mixture, &["mixture.a=1", "mixture.c=1"], 2, "use the names in prepare-data's `mixture`");
    succeed(&mixture, &["mixture.a=1", "mixture.b=2"]);
}

/// Files with rows for evaluate, each written anew.
struct Rows {
    sandbox: Sandbox,
}

impl Rows {
    fn write(&self, name: &str, rows: &[serde_json::Value]) -> String {
        let text = rows.iter().map(|row| format!("{row}\n")).collect::<Vec<_>>().concat();
        self.sandbox.write(name, text).to_string_lossy().into_owned()
    }

    /// Evaluates answers that must be refused, then those that the hint asks for.
    #[track_caller]
    fn answers(&self, bad: &[serde_json::Value], hint: &str, good: &[serde_json::Value], more: &[&str]) {
        let arguments = |rows: &[serde_json::Value]| format!("x={}", self.write("answers.jsonl", rows));
        let given = arguments(bad);
        refused(&self.sandbox, "evaluate", &[&["--predictions", given.as_str()], more].concat(), 65, hint);
        let given = arguments(good);
        self.sandbox.make("evaluate", &[&["--predictions", given.as_str()], more].concat());
    }
}

#[test]
fn hints_about_answers_and_scores_made_elsewhere() {
    let rows = Rows { sandbox: Sandbox::new() };
    let row = |id: &str| json!({"id": id, "prediction": "a", "reference": "a"});
    let right = [row("1"), row("2")];
    let ids = "give every row the id of its row in the dataset";
    rows.answers(&[row("1"), row("1")], ids, &right, &[]);
    rows.answers(&[row("1"), json!({"prediction": "a", "reference": "a"})], ids, &right, &[]);
    rows.answers(
        &[json!({"id": "1", "prediction": "a"})],
        "add the expected answers, or give the dataset with `--dataset`",
        &right,
        &[],
    );
    let sandbox = &rows.sandbox;
    let answers = format!("x={}", rows.write("answers.jsonl", &right));
    let columns = ["--predictions", &answers, "--set", "subgroups=[\"story\"]"];
    refused(
        sandbox,
        "evaluate",
        &columns,
        2,
        "use `length`, `group`, a field that prepare-data keeps (`columns`), or a column of the first predictions file",
    );
    sandbox.make("evaluate", &["--predictions", &answers, "--set", "subgroups=[\"length\"]"]);
    let gate = ["--predictions", &answers, "--set", "gate.metric=exact_match"];
    refused(sandbox, "evaluate", &gate, 2, "give the base model first");
    let other = format!("y={}", rows.write("other.jsonl", &right));
    let two = ["--predictions", &answers, "--predictions", &other, "--gate", "note", "--set"];
    refused(sandbox, "evaluate", &[&two[..], &["gate.metric=beauty"]].concat(), 2, "choose one of ");
    sandbox.make("evaluate", &[&two[..], &["gate.metric=exact_match"]].concat());

    let layout = "write one row per model and row: `model`, `id` and one column per score";
    let scores = |rows_of: &[serde_json::Value]| rows.write("scores.jsonl", rows_of);
    let score =
        |model: &str, id: &str, score: serde_json::Value| json!({"model": model, "id": id, "chrf": score});
    for bad in [
        vec![json!({"id": "1", "chrf": 1})],
        vec![json!({"model": "x", "chrf": 1})],
        vec![score("x", "1", json!("high"))],
        vec![score("x", "1", json!(1)), score("x", "1", json!(2))],
    ] {
        refused(sandbox, "evaluate", &["--scores", &scores(&bad)], 65, layout);
    }
    sandbox.make("evaluate", &["--scores", &scores(&[score("x", "1", json!(1)), score("x", "2", json!(2))])]);
    let loss = |id: &str, model: &str| json!({"model": model, "id": id, "loss": 1});
    let missing = scores(&[loss("1", "x"), loss("2", "x"), loss("1", "y")]);
    refused(
        sandbox,
        "evaluate",
        &["--scores", &missing],
        65,
        "give every row a score; a missing one cannot count as 0",
    );
    sandbox.make("evaluate", &["--scores", &scores(&[loss("1", "x"), loss("1", "y")])]);
}

#[test]
fn hints_about_answers_to_a_dataset_and_its_guard() {
    let fixture = Fixture::new("gemma3_text");
    let Fixture { sandbox, model, dataset } = &fixture;
    let rows = Rows { sandbox: Sandbox::new() };
    let stored = fs_err::read_to_string(std::path::Path::new(dataset).join("data/rows/test.jsonl")).unwrap();
    let ids = stored.lines().map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap()["id"].clone());
    let good: Vec<serde_json::Value> = ids.map(|id| json!({"id": id, "prediction": "a"})).collect();
    rows.answers(
        &[json!({"id": "of another dataset", "prediction": "a"})],
        "give answers to the rows of this dataset's test split",
        &good,
        &["--dataset", dataset],
    );
    rows.answers(
        &[json!({"prediction": "a"})],
        "give every row the id of its row in the dataset",
        &good,
        &["--dataset", dataset],
    );
    let named = ["base", "other"].map(|name| format!("{name}={model}"));
    let models = ["--model", &named[0], "--model", &named[1], "--dataset", dataset, "--gate", "note"];
    let inputs =
        [&models[..], &["--set", "gate.metric=loss", "--set", "generated_rows=0", "--guard"]].concat();
    let guarded = |guard: &str, hint: Option<&str>| {
        let arguments = [&inputs[..], &[guard]].concat();
        match hint {
            Some(hint) => refused(sandbox, "evaluate", &arguments, 65, hint),
            None => drop(sandbox.make("evaluate", &arguments)),
        }
    };
    let empty = sandbox.write("empty.txt", "\n\n").to_string_lossy().into_owned();
    guarded(&empty, Some("write paragraphs with an empty line between them, or rows"));
    let text = sandbox.write("text.txt", "One paragraph.\n\nAnother.\n").to_string_lossy().into_owned();
    guarded(&text, None);
    guarded("nowhere", Some("give a file, an artifact of `prepare-data`, or `general-english`"));
    guarded("general-english", None);
    let other = sandbox.model("tests/golden/llama");
    let foreign = sandbox.dataset(&other);
    guarded(&foreign, Some("prepare it with the tokenizer of the models, or give it as a text file"));
    guarded(dataset, None);
}
