//! The commands that only read: what they print, and which artifact a word names.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::{Recipe, Toy, name};
use serde_json::{Value, json};

#[test]
fn list_has_stages_in_order_labels_and_counts_cached_pieces() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    toy.make(&Recipe { stage: "validate-checkpoint", ..Recipe::default() });
    toy.store.set_ref("best", &made.train).unwrap();
    let ran = toy.run("ls");
    let stages: Vec<&str> =
        ran.succeeded().lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(stages, ["stage", "import-model", "prepare-data", "train", "evaluate", "and"]);
    ran.succeeded();
    assert!(
        ran.stdout.contains("steps 4  [best]") && ran.stdout.contains("and 1 cached piece of stages (3 B;")
    );
    assert!(toy.run("ls --all").succeeded().contains("validate-checkpoint"));
    assert_eq!(toy.run("ls train").succeeded().lines().count(), 2);
    let list = toy.json("ls train");
    assert_eq!(list[0]["labels"], json!(["best"]));
    assert_eq!(list[0]["key"], json!(made.train.manifest().key));
    assert_eq!(Toy::new().run("ls").succeeded(), "no artifacts in `artifacts`\n");
}

#[test]
fn an_artifact_is_found_by_every_kind_of_name() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    let other = toy.pipeline(16, 64);
    common::age(&made.train, 1);
    toy.store.set_ref("best", &made.train).unwrap();
    let path = format!("artifacts/{}", name(&made.train));
    fs_err::create_dir_all(toy.path().join("build")).unwrap();
    fs_err::write(toy.path().join("build/train.path"), format!("{path}\n")).unwrap();
    let key = made.train.manifest().key.to_string();
    let short = made.train.manifest().key.short();
    for word in [&path, "build/train.path", "best", "refs/best", &key, &short[..9], &format!("train/{short}")]
    {
        let found = toy.run(&format!("path {word}")).succeeded().trim_end().to_owned();
        assert_eq!(
            toy.path().join(found).canonicalize().unwrap(),
            made.train.path().canonicalize().unwrap(),
            "{word}"
        );
    }
    let newest = toy.run("path train").succeeded().trim_end().to_owned();
    assert_eq!(newest, format!("artifacts/{}", name(&other.train)));
    let output = toy.run("path train --output adapters.bin");
    assert!(output.succeeded().ends_with("-toy/data/adapters.bin\n"));
    toy.run("path train --output nothing").failed(65);
    let error = toy.run("path nothing").failed(65);
    assert!(error.contains("no artifact `nothing` in the store `artifacts`"), "{error}");
}

#[test]
fn a_short_key_of_several_artifacts_is_ambiguous() {
    let toy = Toy::new();
    let mut keys = Vec::new();
    // The same first four digits are found soon.
    let shared = (0..).find_map(|seed| {
        let made = toy.make(&Recipe { config: json!({"seed": seed}), ..Recipe::default() });
        let digits = made.manifest().key.short()[..4].to_owned();
        let twice = keys.contains(&digits);
        keys.push(digits.clone());
        twice.then_some(digits)
    });
    let error = toy.run(&format!("path {}", shared.unwrap())).failed(65);
    assert!(error.contains("names 2 artifacts: train/"), "{error}");
}

#[test]
fn show_names_settings_inputs_users_and_the_run() {
    let toy = Toy::new();
    let made = toy.pipeline(16, 64);
    let ran = toy.run("show train");
    for part in [
        "rank = 16  (default 8)",
        "at their defaults: seed",
        "adapters.bin",
        "steps 4",
        &format!("model ← import-model/{} model", made.model.manifest().key.short()),
        &format!("used by\n  {}", name(&made.evaluate)),
        "started   2026-01-01T00:00:00Z",
    ] {
        assert!(ran.succeeded().contains(part), "`{part}` is not in\n{}", ran.stdout);
    }
    assert_eq!(toy.json("show train")["manifest"]["key"], json!(made.train.manifest().key));
}

#[test]
fn text_of_an_artifact_cannot_move_the_cursor() {
    let toy = Toy::new();
    toy.make(&Recipe { config: json!({"name": "a\u{1b}[2J\u{7}"}), ..Recipe::default() });
    for command in ["show train", "ls", "status", "lineage", "why train"] {
        let ran = toy.run(command);
        assert!(!ran.succeeded().contains(['\u{1b}', '\u{7}']), "{command}: {:?}", ran.stdout);
    }
}

#[test]
fn lineage_is_a_tree_a_picture_or_a_graph() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    let (model, data, train, evaluate) =
        (name(&made.model), name(&made.data), name(&made.train), name(&made.evaluate));
    let expected = format!(
        "{evaluate}\n\
         ├─ {data} (rows)\n\
         │  └─ {model} (tokenizer)\n\
         └─ {train} (model_0_fused)\n   \
            ├─ {data} (rows) …\n   \
            └─ {model} (model)\n"
    );
    // Inputs are in the order of their keys, which differs: compare sets of lines.
    let sorted = |text: &str| {
        let mut lines: Vec<String> =
            text.lines().map(|line| line.trim_start_matches(['│', '├', '└', '─', ' ']).to_owned()).collect();
        lines.sort();
        lines
    };
    let ran = toy.run("lineage evaluate");
    assert_eq!(sorted(&ran.succeeded().replace(" …", "")), sorted(&expected.replace(" …", "")));
    let down = toy.run(&format!("lineage {model} --direction down"));
    assert!([&data, &train, &evaluate].iter().all(|name| down.succeeded().contains(*name)));
    let dot = toy.run("lineage evaluate --format dot");
    assert_eq!(dot.succeeded().matches(" -> ").count(), 5);
    let mermaid = toy.run("lineage --format mermaid");
    assert!(mermaid.succeeded().starts_with("flowchart LR\n") && mermaid.stdout.matches("-->").count() == 5);
    let graph: Value = serde_json::from_str(toy.run("lineage evaluate --format json").succeeded()).unwrap();
    assert_eq!((graph["nodes"].as_array().unwrap().len(), graph["edges"].as_array().unwrap().len()), (4, 5));
}

#[test]
fn why_names_the_nearest_artifact_and_follows_inputs_to_the_setting() {
    let toy = Toy::new();
    let first = toy.pipeline(8, 64);
    let far = toy.pipeline(32, 128);
    let ran = toy.run("why evaluate");
    assert!(ran.succeeded().contains("nearest: evaluate/"));
    let other = toy.pipeline(8, 128);
    let ran = toy.run(&format!("why {} --from {}", name(&far.train), name(&other.train)));
    assert_eq!(ran.succeeded().lines().nth(2), Some("  config/rank 8 → 32"));
    // The evaluation of the same dataset is nearer than that of the same rank on another one.
    let nearest = toy.json(&format!("why {}", other.evaluate.manifest().key));
    assert_eq!(nearest["nearest"], json!(format!("artifacts/{}", name(&far.evaluate))));
    let why = format!("why {} --from {}", name(&other.evaluate), name(&first.evaluate));
    let ran = toy.run(&why);
    let text = ran.succeeded();
    assert!(text.contains("config/max_length 64 → 128"), "{text}");
    let value = toy.json(&why);
    assert!(
        value["reasons"].as_array().unwrap().iter().any(|reason| reason["because"].is_array()),
        "{value:#}"
    );
}

#[test]
fn why_explains_the_key_of_a_plan() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    let mut material = made.train.manifest().key_material.to_value();
    material["config"]["rank"] = 64.into();
    let plan = json!({"stage": "train", "action": "run", "key_material": material}).to_string();
    let ran = toy.program("why -").run_with_stdin(&plan);
    let text = ran.succeeded();
    assert!(
        text.contains("(not in the store: the stage would run)") && text.contains("config/rank 8 → 64"),
        "{text}"
    );
    let error = toy.program("why -").run_with_stdin("{}").failed(65);
    assert!(error.contains("`stdin` is not what a stage prints"), "{error}");
}

#[test]
fn diff_shows_settings_metrics_inputs_and_files() {
    let toy = Toy::new();
    let (old, new) = (toy.pipeline(8, 64), toy.pipeline(16, 64));
    let pair = |old: &artifact::Artifact, new: &artifact::Artifact| {
        format!("diff {} {}", old.manifest().key, new.manifest().key)
    };
    let text = toy.run(&pair(&old.train, &new.train));
    for part in ["rank  8  16", "steps  4  4      0", "adapters.bin  changed"] {
        assert!(text.succeeded().contains(part), "`{part}` is not in\n{}", text.stdout);
    }
    let markdown = toy.run(&(pair(&old.evaluate, &new.evaluate) + " --format markdown"));
    for part in [
        "### Metrics",
        "| 90% interval |",
        "| fused_loss | 3.92 | 3.84 | -0.08 | [",
        "### Inputs",
        "| model_0_fused |",
    ] {
        assert!(markdown.succeeded().contains(part), "`{part}` is not in\n{}", markdown.stdout);
    }
    let ran = toy.run(&(pair(&old.evaluate, &new.evaluate) + " --format json"));
    let value: Value = serde_json::from_str(ran.succeeded()).unwrap();
    let metric = |name: &str| {
        let metrics = value["metrics"].as_array().unwrap();
        metrics.iter().find(|metric| metric["name"] == name).unwrap().clone()
    };
    for (name, sign) in [("fused_loss", -1.0), ("fused_chrf", 1.0)] {
        let metric = metric(name);
        let ends = [0, 1].map(|end| metric["interval"][end].as_f64().unwrap());
        // Both rows get better, so that every draw does.
        assert!(ends.iter().all(|end| sign * end >= 0.0) && ends[0] < ends[1], "{metric}");
        assert_eq!((&metric["paired"], &metric["confidence"]), (&json!(true), &json!(0.9)));
    }
    assert_eq!(value["files"][0]["path"], "metrics.json");
    // Over other rows, the intervals of both scores are combined.
    let other = toy.pipeline(24, 64);
    let path = other.evaluate.path().join("data/predictions.jsonl");
    testutil::Program::new("chmod").args(["-R", "u+w"]).arg(other.evaluate.path()).run().succeeded();
    let size = fs_err::metadata(&path).unwrap().len() as usize;
    fs_err::write(&path, " ".repeat(size)).unwrap();
    let ran = toy.run(&(pair(&old.evaluate, &other.evaluate) + " --format json"));
    let value: Value = serde_json::from_str(ran.succeeded()).unwrap();
    let chrf =
        value["metrics"].as_array().unwrap().iter().find(|metric| metric["name"] == "fused_chrf").unwrap();
    let ends = [0, 1].map(|end| chrf["interval"][end].as_f64().unwrap());
    // 24 − 8, from −(3² + 4²)^½ to +(4² + 3²)^½.
    assert!((ends[0] - 11.0).abs() < 1e-9 && (ends[1] - 21.0).abs() < 1e-9, "{chrf}");
    assert_eq!(chrf["paired"], false);
    let same = toy.run(&pair(&old.train, &old.train));
    assert!(same.succeeded().contains("the data is identical"));
}

#[test]
fn status_counts_what_is_there_and_what_is_left_over() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    let root = toy.root();
    for folder in [".work/train/0123456789abcdef/ckpt", "train/.tmp-0-1-x", ".quarantine/old"] {
        fs_err::create_dir_all(root.join(folder)).unwrap();
    }
    fs_err::write(root.join(".work/train/0123456789abcdef/ckpt/state"), "12345").unwrap();
    fs_err::create_dir_all(toy.path().join("build/p/m")).unwrap();
    fs_err::write(toy.path().join("build/p/m/train.path"), format!("artifacts/{}\n", name(&made.train)))
        .unwrap();
    fs_err::write(toy.path().join("build/p/m/fuse.path"), "artifacts/fuse/gone\n").unwrap();
    let status = toy.json("status");
    let leftovers: Vec<&str> =
        status["leftovers"].as_array().unwrap().iter().map(|found| found["kind"].as_str().unwrap()).collect();
    assert_eq!(leftovers, ["workspace", "quarantine", "staging"]);
    let exist: Vec<&Value> =
        status["pointers"].as_array().unwrap().iter().map(|found| &found["exists"]).collect();
    assert_eq!(exist, [&json!(false), &json!(true)]);
    assert_eq!(status["stages"].as_array().unwrap().len(), 4);
    toy.run("status").succeeded();
}

/// Copies an artifact many times under other keys, which are right, and links its data.
fn thousand(toy: &Toy) {
    let made = toy.pipeline(8, 64);
    let mut bytes = fs_err::read(made.train.path().join("manifest.json")).unwrap();
    for seed in 0..1000_u64 {
        let mut value: Value = serde_json::from_slice(&bytes).unwrap();
        value["key_material"]["config"]["seed"] = (seed + 10).into();
        // Real settings and lists of files are longer.
        for number in 0..40 {
            value["key_material"]["config"][format!("setting_{number}")] = json!(number);
        }
        let material: artifact::KeyMaterial = serde_json::from_value(value["key_material"].clone()).unwrap();
        let key = material.key().unwrap();
        value["key"] = json!(key);
        bytes = artifact::canonical(&value);
        let folder = toy.root().join("train").join(format!("{}-toy", key.short()));
        fs_err::create_dir(&folder).unwrap();
        fs_err::write(folder.join("manifest.json"), &bytes).unwrap();
        for file in ["SHA256SUMS", "provenance.json"] {
            fs_err::hard_link(made.train.path().join(file), folder.join(file)).unwrap();
        }
        let hash = |file: &str| testutil::files::sha256_hex(&fs_err::read(folder.join(file)).unwrap());
        let line = |file: &str| format!("{}  {file}\n", hash(file));
        let commit = line("SHA256SUMS") + &line("manifest.json") + &line("provenance.json");
        fs_err::write(folder.join("COMMIT"), commit).unwrap();
        fs_err::create_dir(folder.join("data")).unwrap();
        for file in ["adapters.bin", "summary.json"] {
            fs_err::hard_link(made.train.data_dir().join(file), folder.join("data").join(file)).unwrap();
        }
    }
}

#[test]
fn a_thousand_artifacts_are_listed_in_a_moment() {
    let toy = Toy::new();
    thousand(&toy);
    assert_eq!(toy.json("ls train").as_array().unwrap().len(), 1001);
    for command in ["ls", "show train", "path train", "status", "why train", "lineage evaluate"] {
        let fastest = (0..5).map(|_| {
            let began = Instant::now();
            toy.run(command).succeeded();
            began.elapsed()
        });
        let fastest = fastest.min().unwrap();
        assert!(fastest < Duration::from_millis(300), "`{command}` took {fastest:?}");
    }
}
