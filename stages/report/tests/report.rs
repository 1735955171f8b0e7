//! The report as a whole: its parts, its bytes, and what it refuses.

mod fixture;

use std::collections::BTreeSet;

use fixture::{Run, change_settings, model_scores, put, put_document, put_lines, read_document};
use outputs::{Choice, Losses, ModelScores, Prediction, RowLoss, Scores, Stop};
use report::{Config, Error, Inputs, Summary};

struct Made {
    page: String,
    summary: Summary,
}

fn small_config() -> Config {
    Config { resamples: 200, ..Config::default() }
}

fn make(inputs: &Inputs) -> Result<Made, Error> {
    let out = tempfile::tempdir()?;
    let summary = report::write(inputs, &small_config(), out.path(), None)?;
    let page = fs_err::read_to_string(out.path().join("report.html"))?;
    Ok(Made { page, summary })
}

/// Makes a report from the fixture after `change` has had its way with the artifacts.
fn make_changed(run: &Run, change: impl FnOnce(&mut Inputs)) -> Result<Made, Error> {
    let artifacts = tempfile::tempdir()?;
    let mut inputs = fixture::write(artifacts.path(), run);
    change(&mut inputs);
    make(&inputs)
}

/// Returns scores of models on the test split.
fn scores<const N: usize>(rows: u64, models: [(&str, ModelScores); N]) -> Scores {
    let models = models.map(|(name, scores)| (name.to_owned(), scores)).into();
    Scores { models, rows, split: "test".to_owned(), ..Scores::default() }
}

fn parse(text: &str) -> roxmltree::Document<'_> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    roxmltree::Document::parse_with_options(text, options).expect("well-formed markup")
}

/// Returns the text a reader sees, one block a line, without styles.
fn visible_text(page: &str) -> String {
    let document = parse(page);
    let mut text = String::new();
    for node in document.descendants().filter(roxmltree::Node::is_text) {
        let hidden = node.ancestors().any(|parent| {
            matches!(parent.tag_name().name(), "style" | "head" | "script")
                || parent.attribute("class") == Some("chart narrow")
        });
        let piece = node.text().unwrap_or_default().trim();
        if !hidden && !piece.is_empty() {
            text.push_str(piece);
            text.push('\n');
        }
    }
    text
}

fn source_chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.extend([": ", &cause.to_string()]);
        source = cause.source();
    }
    text
}

fn error_of(result: Result<Made, Error>) -> String {
    match result {
        Ok(_) => panic!("must be refused"),
        Err(error) => source_chain(&error),
    }
}

#[test]
fn a_small_report_reads_as_it_did() {
    let made = make_changed(&Run::default(), |_| {}).expect("report");
    insta::assert_snapshot!("small_report", visible_text(&made.page));
    insta::assert_snapshot!(format!("{}\n{}", made.summary.headline, made.summary.table), @"
    Fused model: test perplexity 12.2 vs 45.6 for the base, −73%; chrF 64.1 vs 17.0, +47.1 [15.1, 64.0]
                  base  fused  change
    Perplexity    45.6   12.2  −73%
    Loss         3.820  2.501  −1.319
    chrF          17.0   64.1  +47.1 [15.1, 64.0]
    chrF++        16.6   63.9  +47.2 [14.7, 65.0]
    BLEU           6.8   48.5  +41.7 [−5.4, 69.0]
    Exact match   20.0    0.0  −20.0 [−60.0, 0.0]
    ");
}

#[test]
fn the_markup_is_well_formed_and_ids_are_unique() {
    let made = make_changed(&Run::default(), |_| {}).expect("report");
    let document = parse(&made.page);
    let mut ids = BTreeSet::new();
    for id in document.descendants().filter_map(|node| node.attribute("id")) {
        assert!(ids.insert(id), "id `{id}` twice");
    }
    for node in document.descendants() {
        for id in node.attribute("aria-labelledby").into_iter().flat_map(str::split_whitespace) {
            assert!(ids.contains(id), "nothing has id `{id}`");
        }
        if let Some(id) = node.attribute("clip-path").and_then(|url| url.strip_prefix("url(#")) {
            assert!(ids.contains(id.trim_end_matches(')')), "nothing has id `{id}`");
        }
    }
}

#[test]
fn the_page_asks_nobody_for_anything() {
    let made = make_changed(&Run::default(), |_| {}).expect("report");
    let document = parse(&made.page);
    for node in document.descendants().filter(roxmltree::Node::is_element) {
        assert!(!matches!(node.tag_name().name(), "link" | "img" | "iframe" | "object"));
        for attribute in node.attributes() {
            let name = attribute.name();
            assert!(!matches!(name, "src" | "srcset") && !name.starts_with("on"), "attribute `{name}`");
            assert!(
                name != "href" || attribute.value().starts_with('#'),
                "a link to `{}`",
                attribute.value()
            );
        }
    }
    assert!(!made.page.contains("url(http") && !made.page.contains("@import"));
}

#[test]
fn the_same_artifacts_give_the_same_bytes_wherever_they_lie() {
    let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let run = Run::default();
    let outs = [left.path(), right.path()].map(|root| {
        let inputs = fixture::write(&root.join("store"), &run);
        let out = root.join("out");
        report::write(&inputs, &small_config(), &out, None).expect("report");
        out
    });
    for file in ["report.html", "plots/loss.svg", "plots/learning-rate.svg", "plots/gradient-norm.svg"] {
        let [left, right] = [&outs[0], &outs[1]].map(|out| fs_err::read(out.join(file)).expect(file));
        assert!(left == right, "`{file}` differs");
        assert!(
            !String::from_utf8_lossy(&left).contains(&*outs[0].to_string_lossy()),
            "`{file}` holds a path"
        );
    }
}

#[test]
fn plots_are_images_of_their_own() {
    let artifacts = tempfile::tempdir().unwrap();
    let inputs = fixture::write(artifacts.path(), &Run::default());
    let out = artifacts.path().join("out");
    report::write(&inputs, &small_config(), &out, None).expect("report");
    for file in ["loss", "learning-rate", "gradient-norm"] {
        let text = fs_err::read_to_string(out.join(format!("plots/{file}.svg"))).expect(file);
        let document = parse(&text);
        let root = document.root_element();
        assert_eq!(
            (root.tag_name().name(), root.tag_name().namespace()),
            ("svg", Some("http://www.w3.org/2000/svg"))
        );
        assert!(document.descendants().any(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "path"))));
    }
}

#[test]
fn markup_in_a_text_stays_text() {
    let attack = "</p><script>alert(1)</script><img src=x onerror='alert(2)'>\" onmouseover=\"alert(3)&lt;";
    let run = Run { rows: vec![[attack, attack, attack, attack, attack]], ..Run::default() };
    let made = make_changed(&run, |inputs| {
        change_settings(&inputs.train, |settings| settings["schedule"] = attack.into());
    })
    .expect("report");
    let document = parse(&made.page);
    assert_eq!(document.descendants().filter(|node| node.has_tag_name("script")).count(), 1);
    assert!(document.descendants().all(|node| !node.has_tag_name("img")));
    assert!(
        document
            .descendants()
            .all(|node| node.attributes().all(|attribute| !attribute.name().starts_with("on")))
    );
    assert!(visible_text(&made.page).contains(attack));
}

#[test]
fn strange_characters_keep_the_page_whole() {
    let texts = [
        "\u{0}\u{8}\u{1b}[31m\u{7f}\u{feff}\u{fffe}",
        "\u{202e}evil\u{202d}",
        "مرحبا بالعالم",
        "a\u{2028}b\r\nc",
        "👩‍👩‍👧",
    ];
    let run = Run { rows: vec![texts, texts], ..Run::default() };
    let made = make_changed(&run, |_| {}).expect("report");
    let document = parse(&made.page);
    let words = document.descendants().filter(|node| node.attribute("class") == Some("words"));
    assert!(!made.page.contains('\u{202e}') && made.page.contains("[U+202E]evil"));
    assert!(words.into_iter().all(|node| node.attribute("dir") == Some("auto")));
    assert!(visible_text(&made.page).contains("مرحبا بالعالم"));
}

#[test]
fn a_very_long_text_is_folded_but_not_lost() {
    let long: &'static str = Box::leak("he moolelo loihi loa no Hawaii ".repeat(400).into_boxed_str());
    let run = Run { rows: vec![["long", long, long, long, long]], ..Run::default() };
    let made = make_changed(&run, |_| {}).expect("report");
    assert_eq!(made.page.matches("moolelo").count(), 4 * 400);
    assert!(visible_text(&made.page).contains("more characters"));
}

#[test]
fn ten_thousand_steps_stay_a_small_page() {
    let run = Run { steps: 10_000, save_every: 500, ..Run::default() };
    let made = make_changed(&run, |_| {}).expect("report");
    assert!(made.page.len() < 300_000, "{} bytes", made.page.len());
    parse(&made.page);
}

#[test]
fn optional_artifacts_may_be_missing() {
    let made = make_changed(&Run::default(), |inputs| {
        (inputs.import_model, inputs.prepare_data, inputs.fuse) = (None, None, None);
    })
    .expect("report");
    let text = visible_text(&made.page);
    assert!(text.contains("Fine-tuning report\n") && !text.contains("\nData\n"));
    assert!(!text.contains("check fuse/"));
}

#[test]
fn nothing_generated_and_nothing_trained_is_still_a_report() {
    let run = Run { steps: 0, rows: vec![], ..Run::default() };
    let made = make_changed(&run, |inputs| {
        let losses: Losses = read_document(&inputs.validate);
        put_document(&inputs.validate, &Losses { checkpoints: vec![], ..losses });
    })
    .expect("report");
    let text = visible_text(&made.page);
    assert!(text.contains("No text was generated.") && !text.contains("\nExamples\n"));
    assert!(made.summary.headline.starts_with("Fused model: test perplexity"), "{}", made.summary.headline);
    assert!(!made.summary.table.contains("chrF"));
}

#[test]
fn an_early_end_gives_its_reason() {
    let made = make_changed(&Run::default(), |inputs| {
        let stop = Stop::Early("no new best validation loss <in> 3 checks".to_owned());
        let summary: outputs::Summary = read_document(&inputs.train);
        put_document(&inputs.train, &outputs::Summary { steps: 30, stop, ..summary });
    })
    .expect("report");
    let text = visible_text(&made.page);
    assert!(text.contains("Stopped early, at step 30\nNo new best validation loss <in> 3 checks."));
    assert!(text.contains("Trained parameters"));
    let headline = made.summary.headline;
    assert!(
        headline.ends_with("; training ended early, at step 30: no new best validation loss <in> 3 checks"),
        "{headline}"
    );
}

#[test]
fn a_failed_row_is_shown_and_counts_as_zero() {
    const RIGHT: Option<&str> = Some("the canoe landed");
    let row = |id: &str, answers: &[(&str, Option<&str>)]| Prediction {
        id: id.to_owned(),
        prompt: "p".to_owned(),
        reference: "the canoe landed".to_owned(),
        predictions: answers
            .iter()
            .map(|(model, answer)| ((*model).to_owned(), answer.map(str::to_owned)))
            .collect(),
        ..Prediction::default()
    };
    let made = make_changed(&Run::default(), |inputs| {
        let rows = [
            row("a", &[("base", RIGHT), ("fused", RIGHT)]),
            row("b", &[("base", RIGHT), ("fused", None)]),
            row("c", &[("base", RIGHT)]),
        ];
        put_lines(&inputs.evaluate, rows);
    })
    .expect("report");
    let text = visible_text(&made.page);
    assert!(text.matches("no answer, counted as 0").count() >= 2);
    assert!(made.summary.table.contains("Exact match  100.0   33.3"), "{}", made.summary.table);
}

#[test]
fn an_answer_without_the_text_to_score_is_a_failed_row() {
    const REASON: &str = "the answer does not have the text that `extract` looks for";
    let made = make_changed(&Run::default(), |inputs| {
        let answers = ["base", "fused"].map(|model| (model.to_owned(), Some("a canoe".to_owned())));
        put_lines(
            &inputs.evaluate,
            [Prediction {
                id: "a".to_owned(),
                reference: "the canoe landed".to_owned(),
                predictions: answers.into(),
                failures: [("fused".to_owned(), REASON.to_owned())].into(),
                ..Prediction::default()
            }],
        );
    })
    .expect("report");
    let text = visible_text(&made.page);
    assert_eq!(text.matches(&format!("counted as 0: {REASON}")).count(), 1, "{text}");
    let document = parse(&made.page);
    let is_example = |class: &str| class.split(' ').any(|name| name == "example");
    let classes = document.descendants().filter_map(|node| node.attribute("class"));
    let kinds: Vec<&str> = classes.filter(|class| is_example(class)).collect();
    assert!(!kinds.is_empty() && kinds.iter().all(|kinds| kinds.ends_with(" failed")), "{kinds:?}");
}

#[test]
fn a_change_by_rounding_alone_is_no_regression() {
    let made = make_changed(&Run::default(), |inputs| {
        let row = |id: &str, base: f64, fused: f64| {
            let answers = ["base", "fused"].map(|model| (model.to_owned(), Some("a canoe".to_owned())));
            let scores = [("base".to_owned(), base), ("fused".to_owned(), fused)].into();
            Prediction {
                id: id.to_owned(),
                reference: "a canoe".to_owned(),
                predictions: answers.into(),
                scores: [("chrf".to_owned(), scores)].into(),
                ..Prediction::default()
            }
        };
        put_lines(
            &inputs.evaluate,
            [row("a", 50.0 + 1e-12, 50.0), row("b", 50.0, 40.0), row("c", 50.0, 50.0 + 1e-12)],
        );
    })
    .expect("report");
    let text = visible_text(&made.page);
    assert!(text.contains("1 of the 3 answered rows got worse by chrF, 0 better"), "{text}");
}

#[test]
fn a_model_alone_and_many_models_have_a_table() {
    let alone = make_changed(&Run::default(), |inputs| {
        put_document(&inputs.evaluate, &scores(1, [("base", model_scores(2.0, 5))]));
        put(&inputs.evaluate, "data/predictions.jsonl", "");
    })
    .expect("report");
    assert_eq!(alone.summary.headline, "Base model: test perplexity 7.39");

    let many = make_changed(&Run::default(), |inputs| {
        let similar = |loss, similarity| ModelScores {
            text: [("similarity".to_owned(), similarity)].into(),
            ..model_scores(loss, 5)
        };
        let models =
            [("zeta", similar(1.5, 0.7)), ("fused", model_scores(2.0, 5)), ("base", similar(3.0, 0.5))];
        put_document(&inputs.evaluate, &scores(5, models));
    })
    .expect("report");
    let head = many.summary.table.lines().next().expect("a line").split_whitespace().collect::<Vec<_>>();
    assert_eq!(head, ["base", "fused", "zeta", "change"]);
    assert!(many.summary.table.contains("Similarity"));
}

#[test]
fn losses_of_every_row_give_perplexity_an_interval() {
    let rows: Vec<Prediction> = (0..20)
        .map(|row| {
            let loss = |mean: f64| RowLoss { loss: (mean + 0.01 * f64::from(row)) * 10.0, tokens: 10 };
            let losses = [("base", loss(3.0)), ("fused", loss(2.0 - 0.02 * f64::from(row)))];
            Prediction {
                id: format!("r{row}"),
                losses: losses.map(|(model, loss)| (model.to_owned(), loss)).into(),
                ..Prediction::default()
            }
        })
        .collect();
    let make = |tokens| {
        make_changed(&Run::default(), |inputs| {
            let models = [("base", model_scores(3.095, tokens)), ("fused", model_scores(1.905, tokens))];
            let copied = [("chrf".to_owned(), 19.31), ("bleu".to_owned(), 0.42)];
            let floors = [("copied_source".to_owned(), copied.into())].into();
            put_document(&inputs.evaluate, &Scores { floors, ..scores(20, models) });
            put_lines(&inputs.evaluate, rows.clone());
        })
        .expect("report")
    };
    let made = make(200);
    assert!(made.summary.table.contains("\u{2212}70% [\u{2212}7"), "{}", made.summary.table);
    assert!(made.summary.table.contains("\u{2212}1.190 [\u{2212}1.2"), "{}", made.summary.table);
    assert!(visible_text(&made.page).contains("Floor, copied source: BLEU 0.4, chrF 19.3."));
    // Rows that do not add up to what was scored say nothing about it.
    assert!(!make(300).summary.table.contains('['));
}

#[test]
fn evaluate_is_contradicted_aloud() {
    let made = make_changed(&Run::default(), |inputs| {
        let mut scores: Scores = read_document(&inputs.evaluate);
        for model in scores.models.values_mut() {
            model.text.insert("chrf".to_owned(), 12.5);
        }
        put_document(&inputs.evaluate, &scores);
    })
    .expect("report");
    assert!(visible_text(&made.page).contains("chrF of fused: evaluate gives 12.50, its predictions give"));
}

#[test]
fn numbers_that_are_not_finite_are_refused_with_their_line() {
    for number in ["NaN", "null", "1e999", "Infinity"] {
        let message = error_of(make_changed(&Run::default(), |inputs| {
            let path = inputs.train.join("data/metrics.jsonl");
            let lines = fs_err::read_to_string(path).expect("metrics");
            let second = lines.lines().nth(1).expect("two lines");
            let (before, after) = second.split_once("\"train_loss\":").expect("a training loss");
            let rest = after.split_once(',').expect("more fields").1;
            let broken = format!("{before}\"train_loss\":{number},{rest}");
            put(&inputs.train, "data/metrics.jsonl", &lines.replacen(second, &broken, 1));
        }));
        assert!(
            message.contains("metrics.jsonl` line 2 is not what `train` writes: "),
            "{number}: {message}"
        );
    }
}

#[test]
fn contradictions_and_wrong_artifacts_are_named() {
    let swapped = error_of(make_changed(&Run::default(), |inputs| inputs.train = inputs.validate.clone()));
    insta::assert_snapshot!(swapped, @"the `train` artifact was made by stage `validate`");

    let missing = error_of(make_changed(&Run::default(), |inputs| {
        fs_err::remove_file(inputs.select_best.join("data/choice.json")).unwrap();
    }));
    assert!(missing.contains("choice.json"), "{missing}");

    let unknown = error_of(make_changed(&Run::default(), |inputs| {
        let choice: Choice = read_document(&inputs.select_best);
        put_document(&inputs.select_best, &Choice { step: 7, ..choice });
    }));
    insta::assert_snapshot!(unknown, @"`choice.json` of the `select-best` artifact chose step `7`, which the `validate` artifact does not list");

    let none = error_of(make_changed(&Run::default(), |inputs| {
        put_document(&inputs.evaluate, &scores(5, []));
    }));
    assert!(none.ends_with("metrics.json`: it names no model"), "{none}");

    let stranger = error_of(make_changed(&Run::default(), |inputs| {
        let predictions = [("ghost".to_owned(), Some("x".to_owned()))].into();
        put_lines(
            &inputs.evaluate,
            [Prediction { id: "a".to_owned(), predictions, ..Prediction::default() }],
        );
    }));
    insta::assert_snapshot!(stranger, @"`predictions.jsonl` of the `evaluate` artifact has a prediction of `ghost`, which is not in `metrics.json`");
}

#[test]
fn settings_come_back_from_the_page_as_toml() {
    let made = make_changed(&Run::default(), |_| {}).expect("report");
    let document = parse(&made.page);
    let codes = document.descendants().filter(|node| node.has_tag_name("code"));
    let text = codes.filter_map(|node| node.text()).find(|text| text.contains("[train]")).expect("settings");
    let settings: toml::Table = toml::from_str(text).expect("valid TOML");
    assert_eq!(settings["train"]["lora"]["rank"].as_integer(), Some(16));
    assert_eq!(settings["prepare-data"]["prompt"].as_str(), Some("Translate to English: {haw}"));
}

#[test]
fn what_evaluate_measured_is_shown_as_it_is() {
    let make = |passed| {
        make_changed(&Run::default(), |inputs| fixture::add_statistics(inputs, passed)).expect("report")
    };
    let made = make(true);
    let text = visible_text(&made.page);
    for part in [
        "Gate passed",
        "Similarity 0.830 vs 0.410, +0.419 [0.389, 0.449]",
        // e to the ends of the change of the loss, minus one.
        "% [\u{2212}75, \u{2212}72]",
        "241 better, 7 equal, 41 worse",
        "up to 40 tokens",
        "the endpoint answered <503>",
        "10,000 draws of 289 rows",
    ] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let failed = visible_text(&make(false).page);
    assert!(failed.contains("Gate failed\nthe loss on the guard set rose by 0.31"), "{failed}");
}

#[test]
fn an_edit_rate_is_not_said_to_end_at_100() {
    let made = make_changed(&Run::default(), |inputs| {
        fixture::add_statistics(inputs, true);
        let mut scores: Scores = read_document(&inputs.evaluate);
        let info = scores.metrics["loss"].clone();
        scores.metrics.insert("ter".to_owned(), outputs::MetricInfo { title: "TER".to_owned(), ..info });
        for (model, ter) in [("base", 180.3), ("fused", 40.0)] {
            scores.models[model].text.insert("ter".to_owned(), ter);
        }
        put_document(&inputs.evaluate, &scores);
    });
    let text = visible_text(&made.expect("report").page);
    let scale = text.lines().find(|line| line.starts_with("On a scale from 0 to 100")).expect("a note");
    assert!(scale.contains("chrF") && !scale.contains("TER"), "{scale}");
    assert!(text.contains("TER: edits per 100 words of the reference"), "{text}");
    assert!(text.contains("180.3") && text.contains("\u{2212}140.3"), "{text}");
}

#[test]
fn scores_whose_names_differ_in_marks_have_charts_of_their_own() {
    let made = make_changed(&Run::default(), |inputs| {
        fixture::add_statistics(inputs, true);
        let mut scores: Scores = read_document(&inputs.evaluate);
        let info = scores.metrics["chrf"].clone();
        for name in ["a_b", "a.b", "a-b"] {
            scores.metrics.insert(name.to_owned(), info.clone());
            for model in ["base", "fused"] {
                scores.models[model].text.insert(name.to_owned(), 3.0);
            }
        }
        put_document(&inputs.evaluate, &scores);
    });
    let page = made.expect("report").page;
    let document = parse(&page);
    let mut ids = BTreeSet::new();
    for id in document.descendants().filter_map(|node| node.attribute("id")) {
        assert!(ids.insert(id), "id `{id}` twice");
    }
}

#[test]
fn rows_of_the_validation_split_that_got_worse_are_listed() {
    let made = make_changed(&Run::default(), |inputs| {
        let losses: Losses = read_document(&inputs.validate);
        put_document(&inputs.validate, &outputs::Changes::new(&losses));
    })
    .expect("report");
    let text = visible_text(&made.page);
    assert!(
        text.contains("Rows of the validation split at the chosen step: 12 improved, 0 got worse, 0 stayed"),
        "{text}"
    );
}

#[test]
fn a_run_that_changed_nothing_is_named() {
    let made = make_changed(&Run::default(), |inputs| {
        fixture::add_statistics(inputs, true);
        let mut scores: Scores = read_document(&inputs.evaluate);
        scores.gate = None;
        scores.comparisons[0].identical = true;
        put_document(&inputs.evaluate, &scores);
    });
    assert!(visible_text(&made.expect("report").page).contains("Training changed nothing"));
}

#[test]
fn times_are_on_the_page_that_no_hash_covers_and_only_there() {
    let artifacts = tempfile::tempdir().unwrap();
    let inputs = fixture::write(artifacts.path(), &Run::default());
    let [out, aside] = ["out", "aside"].map(|name| artifacts.path().join(name));
    let write = |since| {
        let aside = report::Aside { folder: &aside, since: Some(since) };
        report::write(&inputs, &small_config(), &out, Some(aside)).expect("report");
    };
    write("2026-01-02T00:00:00Z");
    let before = fs_err::read(out.join("report.html")).unwrap();
    assert!(!aside.exists(), "nothing was recorded, so nothing is written");

    fixture::add_telemetry(&inputs);
    write("2026-01-02T00:00:00Z");
    assert!(fs_err::read(out.join("report.html")).unwrap() == before, "times changed hashed bytes");
    let page = fs_err::read_to_string(aside.join("report.html")).unwrap();
    let text = visible_text(&page);
    assert_eq!(text.matches("cache hit\n").count(), 4, "{text}");
    for part in ["1\u{202f}h 2\u{202f}min", "resumed", "Speed and memory", "Example CPU, 8 threads"] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    assert!(!String::from_utf8_lossy(&before).contains("2026-01-0"));
    assert!(aside.join("times.json").exists());
}

#[test]
fn trained_tokens_and_rows_beyond_the_context_are_shown() {
    let run = Run::default();
    let made = make_changed(&run, |inputs| fixture::add_tokens(inputs, &run)).expect("report");
    let document = parse(&made.page);
    let trained: Vec<String> = document
        .descendants()
        .filter(|node| node.has_tag_name("mark"))
        .map(|mark| {
            mark.descendants().filter_map(|node| node.is_text().then(|| node.text()).flatten()).collect()
        })
        .collect();
    assert!(trained.iter().any(|text| text.contains("While they were living there")), "{trained:?}");
    assert!(!trained.iter().any(|text| text.contains("Translate to English")), "{trained:?}");
    let short =
        Run { rows: vec![["long", Box::leak("he ".repeat(200).into_boxed_str()), "a", "b", "c"]], ..run };
    let made = make_changed(&short, |inputs| fixture::add_tokens(inputs, &short)).expect("report");
    assert!(visible_text(&made.page).contains("are longer than the model's context of 120 tokens"));
}

#[test]
fn the_table_of_results_and_the_markdown_have_every_score() {
    let artifacts = tempfile::tempdir().unwrap();
    let inputs = fixture::write(artifacts.path(), &Run::default());
    let out = artifacts.path().join("out");
    report::write(&inputs, &small_config(), &out, None).expect("report");
    let table = fs_err::read_to_string(out.join("results.csv")).unwrap();
    let head = "metric,title,better,model,value,low,high,change_against_base,change_low,change_high,rows_better,\
                rows_equal,rows_worse,floor";
    assert_eq!(table.lines().next(), Some(head));
    for start in ["perplexity,Perplexity,lower,fused,12.1", "chrf,chrF,higher,fused,64."] {
        assert!(table.lines().any(|line| line.starts_with(start)), "`{start}` is not in:\n{table}");
    }
    let markdown = fs_err::read_to_string(out.join("report.md")).unwrap();
    assert!(markdown.contains("| chrF | 17.0 | 64.1 | +47.1 ["), "{markdown}");
}

#[test]
fn the_script_is_the_one_that_the_policy_allows() {
    let made = make_changed(&Run::default(), |_| {}).expect("report");
    let start = made.page.rfind("<script>").expect("a script") + "<script>".len();
    let script = &made.page[start..made.page.rfind("</script>").expect("its end")];
    let digest = testutil::files::sha256_hex(script.as_bytes());
    let bytes: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(&digest[2 * at..2 * at + 2], 16).unwrap()).collect();
    let hash = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    assert!(made.page.contains(&format!("script-src &#39;sha256-{hash}&#39;")));
}
