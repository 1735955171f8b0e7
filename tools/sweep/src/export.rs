//! The runs of a sweep for other tools: lines, a Nix attribute set, a Slurm script.

use std::fmt::Write as _;

use outputs::SweepRecord;
use toml::Value;

use crate::error::{Error, Result};
use crate::make::Make;
use crate::member::{Run, known};
use crate::spec::{Search, Sweep};
use crate::value::{self, nix, nix_text};

/// Returns all runs of a sweep that chooses none of its members by results.
///
/// # Errors
///
/// Fails for other sweeps.
pub(crate) fn all_runs(sweep: &Sweep) -> Result<Vec<Run>> {
    if matches!(sweep.search, Search::Halving { .. }) {
        return Err(Error::NotKnown { search: sweep.search.name() });
    }
    Ok(known(sweep)?.iter().flat_map(|member| member.runs(sweep, None)).collect())
}

/// Returns one line for each run: its name, a tab, and its `SET`.
pub(crate) fn lines(make: &Make, runs: &[Run]) -> Result<String> {
    runs.iter().map(|run| Ok(format!("{}\t{}\n", run.name, make.set(run)?))).collect()
}

/// Returns a Nix file: the names of pipeline and preset, and the settings of each run after those `common` to all, as
/// `nix/sweep.nix` reads them.
pub(crate) fn attribute_set(sweep: &Sweep, common: &[(String, Value)], runs: &[Run]) -> String {
    let mut text = format!(
        "# The runs of the sweep `{}`, written by `sweep --nix`; nix/sweep.nix builds them.\n",
        sweep.name
    );
    text += "{\n";
    for (name, value) in [("name", &sweep.name), ("pipeline", &sweep.pipeline), ("model", &sweep.model)] {
        let _ = writeln!(text, "  {name} = {};", nix_text(value));
    }
    text += "  runs = {\n";
    for run in runs {
        let _ = writeln!(text, "    {} = {{", nix_text(&run.name));
        let settings: Vec<(String, Value)> = common.iter().chain(&run.settings).cloned().collect();
        for (setting, value) in last_of_each(&settings) {
            let path: Vec<String> = setting.split('.').map(nix_text).collect();
            let _ = writeln!(text, "      {} = {};", path.join("."), nix(value));
        }
        text += "    };\n";
    }
    text + "  };\n}\n"
}

/// Returns settings without those that a later one replaces: Nix accepts no attribute twice.
fn last_of_each(settings: &[(String, Value)]) -> Vec<(&String, &Value)> {
    let is_last = |at: usize| settings[at + 1..].iter().all(|(later, _)| *later != settings[at].0);
    (0..settings.len()).filter(|at| is_last(*at)).map(|at| (&settings[at].0, &settings[at].1)).collect()
}

/// Resources of a task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resources {
    /// Number of tasks at the same time.
    pub(crate) jobs: usize,
    /// Memory of a task, if it is known, in bytes.
    pub(crate) memory: Option<u64>,
}

/// Returns a script for Slurm with one array task for each run.
pub(crate) fn slurm_script(sweep: &Sweep, make: &Make, runs: &[Run], resources: Resources) -> Result<String> {
    let folder = make.folder.display();
    let mut text = format!(
        "#!/bin/sh\n\
         #SBATCH --job-name=sweep-{}\n\
         #SBATCH --array=0-{}%{}\n\
         #SBATCH --output={folder}/slurm-%a.log\n",
        sweep.name,
        runs.len().saturating_sub(1),
        resources.jobs,
    );
    if let Some(bytes) = resources.memory {
        // A quarter more than the estimate, in MiB.
        let _ = writeln!(text, "#SBATCH --mem={}M", (bytes / 4 * 5).div_ceil(1 << 20));
    }
    let _ = write!(
        text,
        "# The runs of the sweep `{}`, one for each array task, written by `sweep --slurm`. Submit it in the folder with the\n\
         # Makefile, where the programs are built; all nodes need this folder. `make sweep` then only makes the page.\n\
         set -eu\n\
         [ -z \"${{SLURM_SUBMIT_DIR:-}}\" ] || cd \"$SLURM_SUBMIT_DIR\"\n\
         case ${{SLURM_ARRAY_TASK_ID:?}} in\n",
        sweep.name
    );
    for (at, run) in runs.iter().enumerate() {
        let words: Vec<String> = make.arguments(run, "pipeline")?.iter().map(|word| quoted(word)).collect();
        let _ = writeln!(text, "{at}) set -- {} ;;", words.join(" "));
    }
    text += "*)\n    echo \"error: there is no run $SLURM_ARRAY_TASK_ID\" >&2\n    exit 2\n    ;;\nesac\nexec make \"$@\"\n";
    Ok(text)
}

/// Returns a text as one word for a shell.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        let escaped: String =
            text.chars().flat_map(|c| "\\\"$`".contains(c).then_some('\\').into_iter().chain([c])).collect();
        format!("\"{escaped}\"")
    }
}

/// Returns the text `preset` of the model's preset with the settings `common` to all members and those of the best one, as a
/// settings file.
///
/// # Errors
///
/// Fails if the preset cannot be read.
pub(crate) fn best_preset(
    sweep: &Sweep,
    common: &[(String, Value)],
    record: &SweepRecord,
    preset: &str,
) -> Result<Option<String>> {
    let Some(best) = record.best() else { return Ok(None) };
    let mut document: toml_edit::DocumentMut =
        preset.parse().map_err(|error: toml_edit::TomlError| Error::Sweep {
            place: format!("pipelines/models/{}.toml", sweep.model),
            reason: error.message().to_owned(),
            hint: None,
        })?;
    let values = best.values.iter().map(|(name, text)| (name.clone(), value::parse(text)));
    let steps = match &sweep.search {
        Search::Halving { rungs, .. } => rungs.last().map(|steps| Value::Integer(*steps as i64)),
        _ => None,
    };
    let steps = steps.map(|steps| ("train.steps".to_owned(), steps));
    for (setting, value) in common.iter().chain(&sweep.fixed).cloned().chain(values).chain(steps) {
        insert(&mut document, &setting, &value);
    }
    let result = record.describe_best().unwrap_or_default();
    let head = format!(
        "# The best of {} members of the sweep `{}`, with {result}. To use it, copy it to\n\
         # pipelines/models/NAME.toml and run `make pipeline PIPELINE={} MODEL=NAME`.\n\n",
        record.members.len(),
        record.name,
        sweep.pipeline,
    );
    Ok(Some(head + &document.to_string()))
}

/// Sets a value in a settings file, in the table of its stage.
fn insert(document: &mut toml_edit::DocumentMut, setting: &str, value: &Value) {
    let mut item = document.as_item_mut();
    for name in setting.split('.') {
        if item.is_none() {
            *item = toml_edit::table();
        }
        item = &mut item[name];
    }
    let text = format!("value = {value}");
    if let Ok(parsed) = text.parse::<toml_edit::DocumentMut>() {
        *item = parsed["value"].clone();
    }
}

#[cfg(test)]
mod tests {
    use outputs::{SweepMember, SweepRun};

    use super::*;
    use crate::space::{Dimension, Domain};

    fn sweep() -> Sweep {
        let values = vec![Value::String("1e-3".to_owned()), Value::Float(0.002)];
        Sweep {
            name: "rates".to_owned(),
            pipeline: "haw-eng".to_owned(),
            model: "demo".to_owned(),
            search: Search::Grid,
            fixed: vec![("train.schedule".to_owned(), Value::String("constant".to_owned()))],
            space: vec![Dimension {
                setting: "train.learning_rate".to_owned(),
                domain: Domain::Choices(values),
            }],
            seeds: vec![7],
            seed_setting: "train.seed".to_owned(),
        }
    }

    #[test]
    fn a_nix_file_has_no_fraction_and_no_attribute_twice() {
        let mut sweep = sweep();
        sweep.fixed.push(("train.seed".to_owned(), Value::Integer(1)));
        let runs = all_runs(&sweep).expect("a grid");
        let common =
            [("train.seed".to_owned(), Value::Integer(3)), ("train.epochs".to_owned(), value::parse("0.5"))];
        insta::assert_snapshot!(attribute_set(&sweep, &common, &runs), @r#"
        # The runs of the sweep `rates`, written by `sweep --nix`; nix/sweep.nix builds them.
        {
          name = "rates";
          pipeline = "haw-eng";
          model = "demo";
          runs = {
            "learning-rate-1e-3_seed-7" = {
              "train"."epochs" = "0.5";
              "train"."schedule" = "constant";
              "train"."learning_rate" = "1e-3";
              "train"."seed" = 7;
            };
            "learning-rate-0.002_seed-7" = {
              "train"."epochs" = "0.5";
              "train"."schedule" = "constant";
              "train"."learning_rate" = "0.002";
              "train"."seed" = 7;
            };
          };
        }
        "#);
    }

    #[test]
    fn the_best_settings_are_a_preset_that_keeps_the_rest() {
        let sweep = sweep();
        let member = |rate: &str, loss: f64| SweepMember {
            name: format!("learning-rate-{rate}"),
            values: [("train.learning_rate".to_owned(), rate.to_owned())].into(),
            runs: vec![SweepRun { validation_loss: Some(loss), steps: Some(9), ..SweepRun::default() }],
        };
        let record = SweepRecord {
            name: sweep.name.clone(),
            members: vec![member("1e-3", 2.0), member("0.002", 1.5)],
            ..SweepRecord::default()
        };
        let preset = "# A model.\n[import-model]\nid = \"a/b\"\n\n[train]\nlearning_rate = \"5e-4\" # slow\n";
        let common = [("prepare-data.max_tokens".to_owned(), value::parse("256"))];
        let made = best_preset(&sweep, &common, &record, preset).expect("a preset").expect("a best member");
        insta::assert_snapshot!(made, @r#"
        # The best of 2 members of the sweep `rates`, with a validation loss of 1.5000. To use it, copy it to
        # pipelines/models/NAME.toml and run `make pipeline PIPELINE=haw-eng MODEL=NAME`.

        # A model.
        [import-model]
        id = "a/b"

        [train]
        learning_rate = "0.002"
        schedule = "constant"

        [prepare-data]
        max_tokens = 256
        "#);
        assert_eq!(best_preset(&sweep, &[], &SweepRecord::default(), preset).expect("a preset"), None);
    }

    #[test]
    fn words_of_a_shell_are_quoted() {
        assert_eq!(quoted("SET=train.rank=4"), "SET=train.rank=4");
        assert_eq!(quoted("SET=a b'c$"), "\"SET=a b'c\\$\"");
    }
}
