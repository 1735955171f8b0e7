//! Datasets made from real and invented rows, through the library.

#![expect(clippy::unwrap_used, reason = "a failing helper fails its test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use dataset::{MixtureComponent, MixtureComponents, Split, StoredRow, read_rows};
use failure::Result;
use insta::assert_snapshot;
use outputs::{ChatSettings, Document as _, Stats};
use prepare_data::{Config, find_files, run};
use testutil::{golden, workspace_root};

fn make(data: &Path, settings: &str, out: &Path) -> Result<Stats> {
    let config: Config = toml::from_str(settings).unwrap();
    assert_eq!(config.problems(), [""; 0]);
    let files = find_files(&[data.to_owned()], &config)?;
    run(&golden("gemma3_text"), &files, &config, out)
}

/// The table `[prepare-data]` of the default pipeline.
fn pipeline() -> String {
    let text = fs_err::read_to_string(workspace_root().join("pipelines/haw-eng.toml")).unwrap();
    let mut table: toml::Table = toml::from_str(&text).unwrap();
    unquote(&mut table["prepare-data"]);
    toml::to_string(&table["prepare-data"]).unwrap()
}

/// Turns quoted numbers into numbers, as the crate `stage` does.
fn unquote(value: &mut toml::Value) {
    match value {
        toml::Value::String(text) => {
            if let Ok(number) = text.parse() {
                *value = toml::Value::Float(number);
            }
        }
        toml::Value::Array(items) => items.iter_mut().for_each(unquote),
        toml::Value::Table(fields) => fields.iter_mut().for_each(|(_, field)| unquote(field)),
        _ => {}
    }
}

fn rows(out: &Path, split: &str) -> Vec<StoredRow> {
    read_rows(&out.join(format!("rows/{split}.jsonl"))).unwrap().collect::<dataset::Result<_>>().unwrap()
}

fn bytes_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(
                bytes_of(&path)
                    .into_iter()
                    .map(|(name, bytes)| (Path::new(path.file_name().unwrap()).join(name), bytes)),
            );
        } else {
            files.insert(path.file_name().unwrap().into(), fs_err::read(&path).unwrap());
        }
    }
    files
}

#[test]
fn the_default_pipeline_gives_small_splits_that_share_no_story_and_no_benchmark_passage() -> Result<()> {
    let out = tempfile::tempdir()?;
    let stats = make(&workspace_root().join("data/haw-eng"), &pipeline(), out.path())?;
    assert_eq!((stats.rows_read, stats.bad_rows.count, stats.held_out_rows), (4741, 0, 10));
    assert_eq!(stats.leaks.remaining, 0);
    let mut groups = BTreeMap::new();
    for split in ["train", "validation", "test"] {
        let rows = rows(out.path(), split);
        let tokens = Split::open(&out.path().join(format!("tokens/{split}.safetensors")))?;
        let found = &stats.splits[split];
        let targets: usize = (0..tokens.len()).map(|row| tokens.row(row).target_count()).sum();
        assert_eq!((tokens.len(), targets as u64), (rows.len(), found.trained_tokens));
        assert!(found.length.max <= 512 && found.prompt_not_prefix.count == 0);
        for (index, row) in rows.iter().enumerate() {
            let tokens = tokens.row(index);
            assert!(tokens.trained[..tokens.prompt_length].iter().all(|&flag| flag == 0));
            assert_eq!(tokens.trained[tokens.prompt_length], 1);
            let group = row.group.clone().unwrap();
            assert_eq!(*groups.entry(group).or_insert(split), split, "a story is in one split");
            assert!(row.prompt.as_ref().unwrap().contains("Translate the Hawaiian text to English: "));
        }
    }
    let sizes = ["train", "validation", "test"].map(|split| stats.splits[split].rows);
    assert!((550..=600).contains(&sizes[0]) && sizes[1] == 60 && sizes[2] == 60, "{sizes:?}");
    let passages = fs_err::read_to_string(workspace_root().join("data/haw-eng/fornander_aligned.jsonl"))?;
    let held_out: BTreeSet<String> = passages
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|row| !row["eval10_row"].is_null())
        .map(|row| row["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(held_out.len(), 10);
    assert!(rows(out.path(), "train").iter().all(|row| !held_out.contains(&row.id)));
    Ok(())
}

#[test]
fn the_clean_subset_is_the_one_described() -> Result<()> {
    let settings = "source = ['fornander_aligned.jsonl']\nprompt = '{haw}'\ncompletion = '{eng}'\ngroup_fields = ['book', 'story']\n\
        where = [{ field = 'kind', equals = 'prose' }, { field = 'len_ratio', at_least = 0.5, at_most = 2.0 },\n\
        { field = 'name_overlap', at_least = 0.5, or_null = true }, { field = 'haw', min_words = 5, max_words = 300 }]\n\
        split = { by = 'group', validation = 0.0, test = 0.0 }\nmax_tokens = 100000";
    let out = tempfile::tempdir()?;
    let stats = make(&workspace_root().join("data/haw-eng"), settings, out.path())?;
    assert_eq!((stats.splits["train"].rows, stats.splits["train"].groups), (2938, 74));
    Ok(())
}

#[test]
fn held_out_rows_can_be_the_test_split_and_take_their_stories_along() -> Result<()> {
    let settings = "source = ['fornander_aligned.jsonl']\nprompt = '{haw}'\ncompletion = '{eng}'\ngroup_fields = ['book', 'story']\n\
        where = [{ field = 'haw', max_words = 30 }]\nsplit = { by = 'group', validation = 0.1, test = 0.0 }\non_leak = 'allow'\n\
        hold_out = { field = 'eval10_row', to = 'test' }\nmax_rows = { train = 100, validation = 50, test = 10 }";
    let out = tempfile::tempdir()?;
    let stats = make(&workspace_root().join("data/haw-eng"), settings, out.path())?;
    let test = rows(out.path(), "test");
    assert_eq!(test.len() as u64 + stats.splits["test"].too_long.count, 10);
    assert!(test.iter().any(|row| row.id == "f1-1183"), "passage 7 is verse of 60 words, yet held out");
    let stories: BTreeSet<_> = test.iter().map(|row| row.group.clone()).collect();
    assert!(rows(out.path(), "train").iter().all(|row| !stories.contains(&row.group)));
    Ok(())
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let files_made_with = |threads: usize| {
        let out = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| make(&workspace_root().join("data/haw-eng"), &pipeline(), out.path())).unwrap();
        bytes_of(out.path())
    };
    let one = files_made_with(1);
    assert!(
        one.contains_key(Path::new("tokens/train.safetensors")) && one.contains_key(Path::new("stats.json"))
    );
    assert!(!one.contains_key(Path::new("tokenizer/model.safetensors")));
    assert_eq!(one, files_made_with(4));
}

#[test]
fn files_can_be_the_splits_and_too_long_rows_follow_the_setting() -> Result<()> {
    let data = tempfile::tempdir()?;
    let line = |text: &str| format!("{{\"text\":\"{text}\"}}\n");
    fs_err::write(data.path().join("train.jsonl"), line("he kanaka") + &line(&"maikai loa ".repeat(40)))?;
    fs_err::write(data.path().join("valid.jsonl"), line("he wahine") + "\n\n" + &line("he keiki"))?;
    let make_with = |more: &str| {
        let out = tempfile::tempdir().unwrap();
        let settings = format!("max_tokens = 30\n{more}\nsplit = {{ by = 'files' }}");
        make(data.path(), &settings, out.path()).map(|stats| (stats, rows(out.path(), "train").len()))
    };
    let (stats, kept) = make_with("on_too_long = 'drop'")?;
    assert_eq!((kept, stats.splits["train"].too_long.count, stats.splits["validation"].rows), (1, 1, 2));
    assert!(stats.splits["train"].too_long.examples[0].starts_with("train.jsonl:2 (train.jsonl:2): "));
    let (stats, kept) = make_with("on_too_long = 'truncate'")?;
    assert_eq!((kept, stats.splits["train"].truncated.count, stats.splits["train"].length.max), (2, 1, 30));
    let error = make_with("on_too_long = 'error'").unwrap_err().report();
    assert_snapshot!(testutil::filtered(&error), @"
    error: [SANDBOX]/train.jsonl:2: the row has 201 tokens, but `max_tokens` is 30
    hint: raise `max_tokens`, or set `on_too_long` to `truncate` or `drop`
    ");
    Ok(())
}

#[test]
fn a_row_without_targets_is_dropped_and_counted() -> Result<()> {
    let data = tempfile::tempdir()?;
    let file = data.path().join("pairs.csv");
    fs_err::write(&file, format!("prompt,completion,weight\nshort,yes,0.5\n{},no,\n", "long ".repeat(50)))?;
    let out = tempfile::tempdir()?;
    let settings = "max_tokens = 40\non_too_long = 'truncate'\nsplit = { validation = 0.0, test = 0.0 }";
    let stats = make(&file, settings, out.path())?;
    assert_eq!((stats.splits["train"].rows, stats.splits["train"].no_target.count), (1, 1));
    assert_eq!(
        Split::open(&out.path().join("tokens/train.safetensors"))?.row(0).weight.to_bits(),
        0.5f32.to_bits()
    );
    let row = &rows(out.path(), "train")[0];
    assert_eq!((row.weight, row.asked_message, row.asking_messages().len()), (Some(0.5), Some(1), 1));
    Ok(())
}

#[test]
fn bad_rows_can_be_skipped_and_are_counted_and_listed() -> Result<()> {
    let data = tempfile::tempdir()?;
    let file = data.path().join("rows");
    let refused_row = r#"{"messages":[{"role":"assistant","content":"first"}]}"#;
    fs_err::write(
        &file,
        format!("{{\"text\":\"one\"}}\n{{\"text\":\n{{\"x\":1}}\n{refused_row}\n{{\"text\":\"two\"}}\n"),
    )?;
    let out = tempfile::tempdir()?;
    let settings = "split = { validation = 0.0, test = 0.0 }\non_bad_row = 'skip'";
    let stats = make(&file, settings, out.path())?;
    assert_eq!((stats.rows_read, stats.splits["train"].rows, stats.bad_rows.count), (5, 2, 3));
    let expected = [
        "rows:2:8: not JSON: EOF while parsing a value",
        "rows:3: no known shape; the fields are `x`",
        "rows:4: chat template `tokenizer_config.json` line 3: roles must alternate user/assistant",
    ];
    assert_eq!(stats.bad_rows.examples, expected);
    Ok(())
}

/// Writes files of different columns for two components; every tenth row of `texts.jsonl` is also in `pairs.csv`.
fn two_components(folder: &Path) {
    let shared = |row: usize| format!("he kanaka {row} ma ka hale o na akua nui {row}");
    let pair = |row: usize| format!("{},a man {row},s{}\n", shared(row), row % 12);
    let text = |row: usize| {
        let own = format!("he kumu okoa {row} keia e ku nei ma ka mauna {row}");
        let text = if row.is_multiple_of(10) { shared(row) } else { own };
        format!("{{\"text\":\"{text}\",\"group\":\"t{}\"}}\n", row % 12)
    };
    let a = format!("haw,eng,story\n{}", (0..60).map(pair).collect::<String>());
    let b: String = (0..60).map(text).collect();
    fs_err::write(folder.join("pairs.csv"), a).unwrap();
    fs_err::write(folder.join("texts.jsonl"), b).unwrap();
}

#[test]
fn mixture_components_keep_their_rows_together_whatever_is_dropped() -> Result<()> {
    let data = tempfile::tempdir()?;
    two_components(data.path());
    for split in ["by = 'ratio'", "by = 'group'"] {
        let settings = format!(
            "on_leak = 'drop'\n[mixture.texts]\nfiles = ['texts.jsonl']\n[mixture.pairs]\nfiles = ['pairs.csv']\n\
             prompt = '{{haw}}'\ncompletion = '{{eng}}'\ngroup_fields = ['story']\n[split]\n{split}\n\
             validation = 0.2\ntest = 0.2"
        );
        let out = tempfile::tempdir()?;
        let stats = make(data.path(), &settings, out.path())?;
        let train = rows(out.path(), "train");
        let mixture = MixtureComponents::read(&out.path().join("tokens"), train.len())?.unwrap();
        let [pairs, texts] = &mixture.components[..] else { panic!("{mixture:?}") };
        assert_eq!((pairs.name.as_str(), texts.name.as_str()), ("pairs", "texts"));
        for (index, row) in train.iter().enumerate() {
            let file = if index < pairs.rows { "pairs.csv:" } else { "texts.jsonl:" };
            assert!(row.source.starts_with(file), "row {index} of {mixture:?} is from {}", row.source);
            assert_eq!(row.text.is_some(), file == "texts.jsonl:");
        }
        assert!(stats.leaks.dropped_train_rows.count > 0, "some rows were dropped");
        let counted: Vec<u64> = stats.splits["train"].part_rows.values().copied().collect();
        assert_eq!(counted, [pairs.rows as u64, texts.rows as u64]);
    }
    Ok(())
}

#[test]
fn a_mixture_component_without_training_rows_is_named() {
    let data = tempfile::tempdir().unwrap();
    two_components(data.path());
    let settings = "where = [{ field = 'eng', min_words = 1 }]\n[mixture.texts]\nfiles = ['texts.jsonl']\n\
        [mixture.pairs]\nfiles = ['pairs.csv']\nprompt = '{haw}'\ncompletion = '{eng}'";
    let out = tempfile::tempdir().unwrap();
    let error = make(data.path(), settings, out.path()).unwrap_err();
    assert_snapshot!(error.report(), @"
    error: the mixture component `texts` has no training rows
    hint: give it more rows, loosen `where` or `max_tokens`, or remove it from `mixture`
    ");
}

#[test]
fn splits_given_as_files_can_be_a_mixture() -> Result<()> {
    let data = tempfile::tempdir()?;
    for name in ["a1", "b1", "a2", "v"] {
        fs_err::write(data.path().join(name), format!("{{\"text\":\"he kanaka {name}\"}}\n"))?;
    }
    let settings = "train = ['a1', 'b1', 'a2']\nvalidation = ['v']\nsplit.by = 'files'\n\
        mixture = { b = { files = ['b1'] }, a = { files = ['a1', 'a2'] } }";
    let out = tempfile::tempdir()?;
    make(data.path(), settings, out.path())?;
    let sources: Vec<String> = rows(out.path(), "train").into_iter().map(|row| row.source).collect();
    assert_eq!(sources, ["a1:1", "a2:1", "b1:1"]);
    let mixture = MixtureComponents::read(&out.path().join("tokens"), 3)?.unwrap();
    let component = |name: &str, rows| MixtureComponent { name: name.into(), rows };
    assert_eq!(mixture.components, [component("a", 2), component("b", 1)]);
    Ok(())
}

#[test]
fn an_id_to_hold_out_that_no_row_has_is_named() {
    let data = tempfile::tempdir().unwrap();
    fs_err::write(data.path().join("rows.jsonl"), "{\"id\":\"a\",\"text\":\"x\"}\n").unwrap();
    let settings = "split = { validation = 0.0, test = 0.0 }\nhold_out.ids = ['a', 'typo']";
    let error = make(data.path(), settings, data.path()).unwrap_err();
    assert!(error.to_string().contains("hold out the id `typo`, which no row has"), "{error}");
}

/// Copies the golden tokenizer into `folder`, without its chat template.
fn tokenizer_without_template(folder: &Path) {
    let golden = golden("gemma3_text");
    for name in ["tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"] {
        if golden.join(name).exists() {
            fs_err::copy(golden.join(name), folder.join(name)).unwrap();
        }
    }
    let path = folder.join("tokenizer_config.json");
    let mut config: serde_json::Value = fs_err::read_to_string(&path)
        .map_or(serde_json::json!({}), |text| serde_json::from_str(&text).unwrap());
    config.as_object_mut().unwrap().remove("chat_template");
    fs_err::write(path, config.to_string()).unwrap();
}

const TEMPLATE: &str = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}";

fn make_with(tokenizer: &Path, rows: &str, settings: &str, out: &Path) -> Result<Stats> {
    let data = tempfile::tempdir()?;
    fs_err::write(data.path().join("rows.jsonl"), rows)?;
    let config: Config = toml::from_str(settings).unwrap();
    let files = find_files(&[data.path().to_owned()], &config)?;
    run(tokenizer, &files, &config, out)
}

const PAIR: &str = "{\"prompt\":\"a\",\"completion\":\"b\"}\n";
const ALL_TRAIN: &str = "split = { validation = 0.0, test = 0.0 }\n";

#[test]
fn every_chat_template_that_is_read_is_handed_on_and_nothing_else() -> Result<()> {
    let (folder, out) = (tempfile::tempdir()?, tempfile::tempdir()?);
    tokenizer_without_template(folder.path());
    let json = serde_json::json!({"chat_template": TEMPLATE}).to_string();
    fs_err::write(folder.path().join("chat_template.json"), json)?;
    let named = folder.path().join("additional_chat_templates");
    fs_err::create_dir_all(named.join("folder.jinja"))?;
    for name in ["._tool_use.jinja", ".DS_Store", "notes.txt"] {
        fs_err::write(named.join(name), b"\xFF")?;
    }
    make_with(folder.path(), PAIR, ALL_TRAIN, out.path())?;
    let copied = out.path().join("tokenizer");
    assert!(dataset::TextTokenizer::open(&copied)?.chat_template().is_some());
    assert!(!copied.join("additional_chat_templates").exists());
    // A template with a name leaves out the JSON file, so it comes last.
    fs_err::write(named.join("tool_use.jinja"), TEMPLATE)?;
    fs_err::write(folder.path().join("chat_template.jinja"), TEMPLATE)?;
    let out = tempfile::tempdir()?;
    make_with(folder.path(), PAIR, ALL_TRAIN, out.path())?;
    let names = fs_err::read_dir(out.path().join("tokenizer/additional_chat_templates"))?;
    assert_eq!(names.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), ["tool_use.jinja"]);
    Ok(())
}

#[test]
fn chat_settings_of_the_tokenizer_are_handed_on_with_those_of_the_settings() -> Result<()> {
    let (folder, out) = (tempfile::tempdir()?, tempfile::tempdir()?);
    tokenizer_without_template(folder.path());
    let template = "{{ date_string }}{{ style }}{{ tone }}{{ strftime_now('%Y') }}".to_owned() + TEMPLATE;
    fs_err::write(folder.path().join("chat_template.jinja"), template)?;
    let settled = ChatSettings {
        end_tokens: vec![5],
        template_arguments: serde_json::from_str(r#"{"style":"old","tone":"old"}"#).unwrap(),
        template_date: "2024-01-02".to_owned(),
    };
    settled.write(folder.path())?;
    let settings = format!("{ALL_TRAIN}template_arguments = {{ tone = 'new' }}");
    make_with(folder.path(), PAIR, &settings, out.path())?;
    let prompt = rows(out.path(), "train").remove(0).prompt.unwrap();
    assert!(prompt.starts_with("oldnew2024user: a"), "{prompt}");
    for place in ["tokenizer", "tokens"] {
        let found = ChatSettings::read(&out.path().join(place).join(ChatSettings::FILE))?;
        assert!(found.end_tokens.contains(&5), "{place}: {:?}", found.end_tokens);
        assert_eq!(
            serde_json::to_string(&found.template_arguments).unwrap(),
            r#"{"style":"old","tone":"new"}"#
        );
        assert_eq!(found.template_date, "2024-01-02");
    }
    Ok(())
}

#[test]
fn a_row_dropped_from_validation_drops_no_training_row() -> Result<()> {
    let data = tempfile::tempdir()?;
    let row =
        |prompt: &str, answer: &str| format!("{{\"prompt\":\"{prompt}\",\"completion\":\"{answer}\"}}\n");
    let (question, answer) =
        ("Where did the canoe land that night?", "It landed on the beach of Hilo before dawn.");
    let other = |word: &str| {
        row(&format!("Who lives in the {word} house now?"), &format!("The chief of {word} and his men."))
    };
    let write = |name: &str, text: String| fs_err::write(data.path().join(name), text);
    write("train.jsonl", row("What happened after the storm?", answer) + &other("red") + &other("green"))?;
    write("valid.jsonl", row(question, answer) + &other("white"))?;
    write("test.jsonl", row(question, "Nobody in the village could say.") + &other("black"))?;
    let out = tempfile::tempdir()?;
    let stats = make(data.path(), "on_leak = 'drop'", out.path())?;
    assert_eq!(stats.leaks.in_validation.dropped_rows.count, 1);
    assert_eq!(
        (stats.leaks.dropped_train_rows.count, stats.leaks.count, stats.leaks.checked_rows),
        (0, 0, 3)
    );
    assert_eq!(["train", "validation", "test"].map(|split| stats.splits[split].rows), [3, 1, 2]);
    Ok(())
}
