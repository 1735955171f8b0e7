//! Settings of `prepare-data`: which rows are used, how they are rendered, and which split they go to.

use std::collections::{BTreeMap, BTreeSet};

use dataset::text::{Normalize, Treatment};
use dataset::{Date, EncodeSettings, LossOn, OnRewrittenTurn, OnSpecial, OnTooLong, leak};
use serde::{Deserialize, Serialize};

use crate::template::Template;

/// Settings of the stage: the table `[prepare-data]` of a settings file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Names of the files to split, within the given data; all files if empty.
    pub source: Vec<String>,
    /// Files of training rows, with `split.by = "files"`.
    pub train: Vec<String>,
    /// Files of validation rows, with `split.by = "files"`.
    pub validation: Vec<String>,
    /// Files of test rows, with `split.by = "files"`.
    pub test: Vec<String>,
    /// Mixture components by name. `train` mixes them by weight. Their files are split by `split`; with
    /// `split.by = "files"` they are the files of `train`.
    #[serde(with = "stage::free_names", skip_serializing_if = "BTreeMap::is_empty")]
    pub mixture: BTreeMap<String, Component>,
    /// How rows are assigned to splits.
    pub split: SplitConfig,
    /// Fields that together name a row's group, instead of the field `group`.
    pub group_fields: Vec<String>,
    /// Fields that are kept in the rows, so that evaluate can divide its scores by them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Template of the user's message, with `{field}` for a row's fields; if empty, rows are used as they are.
    pub prompt: String,
    /// Template of the assistant's answer, with `{field}` for a row's fields.
    pub completion: String,
    /// Template of a plain text, with `{field}` for a row's fields; cannot be combined with `prompt`.
    pub text: String,
    /// System message for conversations that have none; empty for none.
    pub system: String,
    /// Conditions that a row must meet; all must hold.
    #[serde(rename = "where")]
    pub conditions: Vec<Condition>,
    /// Rows held out of training and validation.
    pub hold_out: HoldOut,
    /// Maximum number of rows per split, sampled with `split.seed`; 0 for all.
    pub max_rows: MaxRows,
    /// Unicode normalization of texts: `none` or `nfc`.
    pub normalize: Normalize,
    /// Remove white space at both ends of each text of a row.
    pub trim: bool,
    /// Treatment of control tokens that a row's text spells out, such as `<|im_end|>`: `allow`, `escape` or `error`.
    pub on_special: OnSpecial,
    /// Maximum number of tokens per row.
    pub max_tokens: usize,
    /// Treatment of longer rows: `truncate`, `drop` or `error`.
    pub on_too_long: OnTooLong,
    /// Which tokens are targets: `completions` or `all`.
    pub loss_on: LossOn,
    /// Treatment of assistant turns that the chat template renders differently from what the model must generate: `skip`
    /// (not targets), `train` or `error`.
    pub on_rewritten_turn: OnRewrittenTurn,
    /// Treatment of unusable rows: `error` or `skip`.
    pub on_bad_row: OnBadRow,
    /// Treatment of validation, test or held-out rows that occur in training rows: `error`, `drop` or `allow`.
    pub on_leak: OnLeak,
    /// How much text must match to be a leak.
    pub leak: leak::Settings,
    /// Date that chat templates print as today, `YYYY-MM-DD`; empty for templates that do not print it.
    pub template_date: String,
    /// Arguments of the chat template, such as `enable_thinking`.
    #[serde(with = "stage::free_names::json")]
    pub template_arguments: BTreeMap<String, serde_json::Value>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            source: Vec::new(),
            train: Vec::new(),
            validation: Vec::new(),
            test: Vec::new(),
            mixture: BTreeMap::new(),
            split: SplitConfig::default(),
            group_fields: Vec::new(),
            columns: Vec::new(),
            prompt: String::new(),
            completion: String::new(),
            text: String::new(),
            system: String::new(),
            conditions: Vec::new(),
            hold_out: HoldOut::default(),
            max_rows: MaxRows::default(),
            normalize: Normalize::default(),
            trim: false,
            on_special: OnSpecial::default(),
            max_tokens: 2048,
            on_too_long: OnTooLong::default(),
            loss_on: LossOn::default(),
            on_rewritten_turn: OnRewrittenTurn::default(),
            on_bad_row: OnBadRow::default(),
            on_leak: OnLeak::default(),
            leak: leak::Settings::default(),
            template_date: String::new(),
            template_arguments: BTreeMap::new(),
        }
    }
}

/// A mixture component. Fields left out are taken from the settings of the same name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Component {
    /// Names of its files, within the given data.
    pub files: Vec<String>,
    /// Template of the user's message.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub prompt: String,
    /// Template of the assistant's answer.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub completion: String,
    /// Template of a plain text; cannot be combined with `prompt`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// System message for conversations that have none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system: String,
    /// Fields that together name a row's group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub group_fields: Vec<String>,
}

/// The settings for the texts of a row, of all rows or of a mixture component.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Texts<'a> {
    prompt: &'a str,
    completion: &'a str,
    text: &'a str,
    system: &'a str,
}

impl<'a> Texts<'a> {
    pub(crate) fn of_config(config: &'a Config) -> Self {
        let Config { prompt, completion, text, system, .. } = config;
        Self { prompt, completion, text, system }
    }

    pub(crate) fn of_component(component: &'a Component) -> Self {
        let Component { prompt, completion, text, system, .. } = component;
        Self { prompt, completion, text, system }
    }

    /// Returns the templates with the names of their settings.
    pub(crate) fn templates(self) -> impl Iterator<Item = (&'static str, &'a str)> {
        [("prompt", self.prompt), ("completion", self.completion), ("text", self.text)].into_iter()
    }

    pub(crate) fn has_templates(&self) -> bool {
        self.templates().any(|(_, source)| !source.is_empty())
    }

    /// Returns the problems of these settings, whose names begin with `prefix`.
    fn problems(self, prefix: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let name = |name: &str| format!("`{prefix}{name}`");
        if self.prompt.is_empty() != self.completion.is_empty() {
            problems.push(format!("{} and {} must be set together", name("prompt"), name("completion")));
        }
        if !self.text.is_empty() && !self.prompt.is_empty() {
            problems.push(format!("{} cannot be combined with {}", name("text"), name("prompt")));
        }
        if !self.text.is_empty() && !self.system.is_empty() {
            problems.push(format!("{} cannot be combined with {}", name("system"), name("text")));
        }
        for (setting, source) in self.templates() {
            if let Err(reason) = Template::parse(source) {
                problems.push(format!("{}: {reason}", name(setting)));
            }
        }
        problems
    }
}

/// How rows are assigned to splits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitConfig {
    /// Criterion for a row's split.
    pub by: SplitBy,
    /// Share of the rows for validation, 0 to 1.
    pub validation: f64,
    /// Share of the rows for test, 0 to 1.
    pub test: f64,
    /// Seed of the order in which rows or groups are assigned, and of samples.
    pub seed: u64,
}

impl Default for SplitConfig {
    fn default() -> Self {
        Self { by: SplitBy::Auto, validation: 0.1, test: 0.1, seed: 0 }
    }
}

/// How a row's split is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SplitBy {
    /// By its file if the files are named like splits, otherwise at random.
    Auto,
    /// By its group: all rows of a group are in one split.
    Group,
    /// At random, in an order that `seed` determines.
    Ratio,
    /// By its file.
    Files,
}

/// A condition on a field. A row in which the field is absent or null fails unless `or_null` is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Condition {
    /// Name of the field.
    pub field: String,
    /// The value equals this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equals: Option<Scalar>,
    /// The value is one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub one_of: Vec<Scalar>,
    /// The value is a number and at least this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// The value is a number and at most this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// The value is a text with at least this number of words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_words: Option<usize>,
    /// The value is a text with at most this number of words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_words: Option<usize>,
    /// Rows without a value pass.
    pub or_null: bool,
}

/// A value in a condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
}

/// Rows held out of training and validation. The leak check always includes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HoldOut {
    /// Holds out the rows with a value in this field; empty for none.
    pub field: String,
    /// Holds out the rows with these ids.
    pub ids: Vec<String>,
    /// Where the rows go: `drop`, or `test`, even if they fail `where`. With `split.by = "group"` their whole groups go to
    /// the test split.
    pub to: HoldOutTo,
}

/// Destination of held-out rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HoldOutTo {
    /// Left out.
    #[default]
    Drop,
    /// The test split.
    Test,
}

/// Maximum number of rows per split; 0 for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaxRows {
    /// Training rows.
    pub train: usize,
    /// Validation rows.
    pub validation: usize,
    /// Test rows.
    pub test: usize,
}

/// Treatment of unusable rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadRow {
    /// Fail at the first one.
    #[default]
    Error,
    /// Leave them out, count them and list the first ones.
    Skip,
}

/// Treatment of validation, test or held-out rows that occur in training rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLeak {
    /// Fail.
    #[default]
    Error,
    /// Leave out those training rows, count them and list the first ones.
    Drop,
    /// Only report the leaks.
    Allow,
}

impl Config {
    /// Returns whether every file belongs to one split, as the settings say.
    pub(crate) fn lists_splits(&self) -> bool {
        let lists = !(self.train.is_empty() && self.validation.is_empty() && self.test.is_empty());
        self.split.by == SplitBy::Files || (self.split.by == SplitBy::Auto && lists)
    }

    /// Returns the changes to make to the texts of rows.
    pub(crate) fn treatment(&self) -> Treatment {
        Treatment { normalize: self.normalize, trim: self.trim }
    }

    /// Returns all problems of the settings.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut refuse = |wrong: bool, problem: &str| {
            if wrong {
                problems.push(problem.to_owned());
            }
        };
        let files = self.lists_splits();
        let lists = !(self.train.is_empty() && self.validation.is_empty() && self.test.is_empty());
        refuse(!files && lists, "`train`, `validation` and `test` require `split.by = \"files\"`");
        refuse(files && !self.source.is_empty(), "`source` cannot be combined with `split.by = \"files\"`");
        refuse(files && lists && self.train.is_empty(), "`train` names no file");
        let share = |share: f64| (0.0..1.0).contains(&share);
        let shares = share(self.split.validation)
            && share(self.split.test)
            && self.split.validation + self.split.test < 1.0;
        refuse(
            !files && !shares,
            "`split.validation` and `split.test` must be at least 0 and add up to less than 1",
        );
        refuse(self.max_tokens < 2, "`max_tokens` must be at least 2");
        refuse(self.leak.words == 0, "`leak.words` must be at least 1");
        refuse(
            !(self.leak.overlap > 0.0 && self.leak.overlap <= 1.0),
            "`leak.overlap` must be above 0 and at most 1",
        );
        refuse(!(0.0..=1.0).contains(&self.leak.common), "`leak.common` must be from 0 to 1");
        let dated = self.template_date.is_empty() || Date::parse(&self.template_date).is_some();
        refuse(!dated, "`template_date` is not a date in the form `YYYY-MM-DD`");
        let reserved = ["messages", "tools", "documents", "add_generation_prompt"];
        refuse(
            reserved.iter().any(|name| self.template_arguments.contains_key(*name)),
            "`template_arguments` cannot replace `messages`, `tools`, `documents` or `add_generation_prompt`",
        );
        let numberless = self.template_arguments.iter().find(|(_, value)| has_null(value));
        let numberless = numberless
            .map(|(name, _)| format!("`template_arguments.{name}` has a value that is not finite, or none"));
        refuse(
            self.conditions.iter().any(|condition| condition.field.is_empty()),
            "a condition in `where` has no `field`",
        );
        refuse(
            self.conditions.iter().any(Condition::is_empty),
            "a condition in `where` has only `field`: add `equals`, `one_of`, `at_least`, `at_most`, `min_words` or `max_words`",
        );
        problems.extend(numberless);
        problems.extend(Texts::of_config(self).problems(""));
        problems.extend(self.mixture_problems());
        problems
    }

    /// Returns the settings of the targets.
    pub(crate) fn encode_settings(&self) -> EncodeSettings {
        EncodeSettings { loss_on: self.loss_on, on_rewritten_turn: self.on_rewritten_turn }
    }

    /// Returns the mixture component of a file, by the file's name in the settings.
    pub(crate) fn component_of(&self, file: &str) -> Option<String> {
        let mut components = self.mixture.iter();
        let (name, _) = components.find(|(_, component)| component.files.iter().any(|name| name == file))?;
        Some(name.clone())
    }

    fn mixture_problems(&self) -> Vec<String> {
        if self.mixture.is_empty() {
            return Vec::new();
        }
        let mut problems = Vec::new();
        if self.lists_splits() && self.train.is_empty() {
            problems.push("`mixture` with `split.by = \"files\"` requires `train`".to_owned());
        }
        if !self.source.is_empty() {
            problems.push(
                "`source` cannot be combined with `mixture`, whose components name the files".to_owned(),
            );
        }
        let mut files = BTreeSet::new();
        for (name, component) in &self.mixture {
            let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
            if name.is_empty() || !name.chars().all(is_allowed) {
                problems.push(format!(
                    "`mixture.{name}`: a name may contain only ASCII letters, digits, `_` and `-`"
                ));
            }
            if component.files.is_empty() {
                problems.push(format!("`mixture.{name}` has no `files`"));
            }
            for file in component.files.iter().filter(|file| !files.insert(file.as_str())) {
                problems.push(format!("`mixture.{name}`: the file `{file}` is listed twice"));
            }
            problems.extend(Texts::of_component(component).problems(&format!("mixture.{name}.")));
        }
        let split_files: BTreeSet<&str> =
            [&self.train, &self.validation, &self.test].into_iter().flatten().map(String::as_str).collect();
        if self.lists_splits() {
            for file in self.train.iter().filter(|file| !files.contains(file.as_str())) {
                problems.push(format!("the file `{file}` in `train` is not in any component of `mixture`"));
            }
            for file in files.difference(&split_files) {
                problems.push(format!("the file `{file}` in `mixture` is not in any split"));
            }
        }
        problems
    }

    /// Returns a short name for the artifact's folder.
    pub fn slug(&self) -> String {
        let by = match self.split.by {
            _ if self.lists_splits() => "files",
            SplitBy::Auto => "auto",
            SplitBy::Group => "group",
            SplitBy::Ratio => "ratio",
            SplitBy::Files => "files",
        };
        format!("{by}-{}t", self.max_tokens)
    }
}

impl Condition {
    fn is_empty(&self) -> bool {
        *self == Self { field: self.field.clone(), or_null: self.or_null, ..Self::default() }
    }
}

/// Returns whether a value holds null, as which JSON has numbers that are not finite.
fn has_null(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Array(items) => items.iter().any(has_null),
        serde_json::Value::Object(fields) => fields.values().any(has_null),
        value => value.is_null(),
    }
}

impl stage::Config for Config {
    const STAGE: &'static str = "prepare-data";
    const VERSION: u32 = 5;

    fn problems(&self) -> Vec<String> {
        self.problems()
    }

    fn slug(&self) -> String {
        self.slug()
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    fn problems(settings: &str) -> String {
        toml::from_str::<Config>(settings).unwrap().problems().join("\n")
    }

    #[test]
    fn all_problems_are_reported_together() {
        assert_eq!(problems(""), "");
        let settings = "train = ['a']\nprompt = '{a'\nmax_tokens = 1\ntemplate_date = 'today'\n\
            where = [{ field = 'x' }]\nsplit = { by = 'ratio', validation = 0.6, test = 0.6 }\n\
            leak = { words = 0, overlap = 0.0, common = 2.0 }";
        assert_snapshot!(problems(settings), @r#"
        `train`, `validation` and `test` require `split.by = "files"`
        `split.validation` and `split.test` must be at least 0 and add up to less than 1
        `max_tokens` must be at least 2
        `leak.words` must be at least 1
        `leak.overlap` must be above 0 and at most 1
        `leak.common` must be from 0 to 1
        `template_date` is not a date in the form `YYYY-MM-DD`
        a condition in `where` has only `field`: add `equals`, `one_of`, `at_least`, `at_most`, `min_words` or `max_words`
        `prompt` and `completion` must be set together
        `prompt`: `{a` is not a field; write `{name}` for a field and `{{` for a brace
        "#);
    }

    #[test]
    fn problems_of_a_mixture_name_the_component() {
        assert_eq!(
            problems("[mixture.news]\nfiles = ['a']\ntext = '{t}'\n[mixture.chat]\nfiles = ['b']"),
            ""
        );
        let settings = [
            "source = ['a']\nmixture.x.files = ['a']",
            "mixture.x.files = []",
            "mixture.'x.y'.files = ['a']",
            "mixture.x.files = ['a']\nmixture.y.files = ['a']",
            "[mixture.x]\nfiles = ['a']\nprompt = 'p'",
            "[mixture.x]\nfiles = ['a']\ntext = '{'",
            "[mixture.x]\nfiles = ['a']\ntext = 't'\nsystem = 's'",
            "train = ['a']\nsplit.by = 'files'\nmixture.x.files = ['b']",
            "train = ['a']\nsplit.by = 'files'\nmixture.x.files = ['a', 'b']",
            "split.by = 'files'\nmixture.x.files = ['a']",
        ];
        assert_snapshot!(settings.map(problems).join("\n"), @r#"
        `source` cannot be combined with `mixture`, whose components name the files
        `mixture.x` has no `files`
        `mixture.x.y`: a name may contain only ASCII letters, digits, `_` and `-`
        `mixture.y`: the file `a` is listed twice
        `mixture.x.prompt` and `mixture.x.completion` must be set together
        `mixture.x.text`: `{` is not a field; write `{name}` for a field and `{{` for a brace
        `mixture.x.system` cannot be combined with `mixture.x.text`
        the file `a` in `train` is not in any component of `mixture`
        the file `b` in `mixture` is not in any split
        the file `b` in `mixture` is not in any split
        `mixture` with `split.by = "files"` requires `train`
        the file `a` in `mixture` is not in any split
        "#);
    }

    #[test]
    fn a_template_argument_that_is_not_finite_is_refused_by_name() {
        for value in ["nan", "-inf", "[1, { b = inf }]"] {
            let config: Config = toml::from_str(&format!("template_arguments = {{ a = {value} }}")).unwrap();
            assert_eq!(config.problems(), ["`template_arguments.a` has a value that is not finite, or none"]);
        }
    }

    #[test]
    fn settings_without_a_mixture_do_not_mention_it() {
        let text = serde_json::to_string(&Config::default()).unwrap();
        assert!(!text.contains("mixture"), "{text}");
    }

    #[test]
    fn unknown_settings_are_refused() {
        assert!(toml::from_str::<Config>("max_token = 5").is_err());
        assert!(toml::from_str::<Config>("where = [{ field = 'a', above = 1 }]").is_err());
    }

    #[test]
    fn resolved_settings_contain_no_null() {
        let config: Config = toml::from_str("where = [{ field = 'a', at_least = 1 }]").unwrap();
        assert!(!serde_json::to_string(&config).unwrap().contains(":null"));
    }
}
