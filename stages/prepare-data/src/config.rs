//! The settings of `prepare-data`: which rows, what is made of them, and where they go.

use std::collections::{BTreeMap, BTreeSet};

use dataset::{Date, LossOn, OnTooLong, leak};
use serde::{Deserialize, Serialize};

use crate::mapping::Template;

/// Settings of the stage: the table `[prepare-data]` of a pipeline file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Files that are split by `split`, by name within the given data; none named means all of them.
    pub source: Vec<String>,
    /// Files of training rows, with `split.by = "files"`.
    pub train: Vec<String>,
    /// Files of validation rows, with `split.by = "files"`.
    pub validation: Vec<String>,
    /// Files of test rows, with `split.by = "files"`.
    pub test: Vec<String>,
    /// Named parts of the data, which `train` can mix by weight: their files are split by `split`, or are those of
    /// `train` with `split.by = "files"`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub mixture: BTreeMap<String, Part>,
    /// How rows are dealt out.
    pub split: SplitConfig,
    /// Fields that together name a row's group, in place of the field `group`.
    pub group_fields: Vec<String>,
    /// What the user says, with `{field}` for a row's fields; empty takes rows as they are.
    pub prompt: String,
    /// What the assistant should answer, with `{field}` for a row's fields.
    pub completion: String,
    /// Plain text, with `{field}` for a row's fields; not together with `prompt`.
    pub text: String,
    /// System message put in front of conversations that have none; empty for none.
    pub system: String,
    /// Conditions that a row must meet, all of them.
    #[serde(rename = "where")]
    pub conditions: Vec<Condition>,
    /// Rows that neither train nor validate.
    pub hold_out: HoldOut,
    /// Most rows of each split, a pinned sample; 0 takes all.
    pub max_rows: MaxRows,
    /// Most tokens of a row.
    pub max_tokens: usize,
    /// What happens to longer rows: `truncate`, `drop` or `error`.
    pub on_too_long: OnTooLong,
    /// Which tokens are targets: `completions` or `all`.
    pub loss_on: LossOn,
    /// What happens to a row that cannot be used: `error` or `skip`.
    pub on_bad_row: OnBadRow,
    /// What happens when validation, test or held-out rows occur in training rows: `error`, `drop` or `allow`.
    pub on_leak: OnLeak,
    /// How much text must agree to be a leak.
    pub leak: leak::Settings,
    /// The day that templates print as today, `YYYY-MM-DD`; empty for templates that print none.
    pub template_date: String,
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
            prompt: String::new(),
            completion: String::new(),
            text: String::new(),
            system: String::new(),
            conditions: Vec::new(),
            hold_out: HoldOut::default(),
            max_rows: MaxRows::default(),
            max_tokens: 2048,
            on_too_long: OnTooLong::default(),
            loss_on: LossOn::default(),
            on_bad_row: OnBadRow::default(),
            on_leak: OnLeak::default(),
            leak: leak::Settings::default(),
            template_date: String::new(),
        }
    }
}

/// A part of a mixture. What it does not say is as the settings of the same name say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Part {
    /// Its files, by name within the given data.
    pub files: Vec<String>,
    /// What the user says, with `{field}` for a row's fields.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub prompt: String,
    /// What the assistant should answer.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub completion: String,
    /// Plain text; not together with `prompt`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// System message put in front of conversations that have none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system: String,
    /// Fields that together name a row's group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub group_fields: Vec<String>,
}

impl Part {
    /// Tells whether it has templates of its own.
    pub(crate) fn has_texts(&self) -> bool {
        !(self.prompt.is_empty() && self.completion.is_empty() && self.text.is_empty())
    }
}

/// How rows are dealt out to the splits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitConfig {
    /// By whole groups, row by row, or as files say.
    pub by: SplitBy,
    /// Share of the rows for validation.
    pub validation: f64,
    /// Share of the rows for test.
    pub test: f64,
    /// Seed of the order in which rows or groups are dealt out, and of samples.
    pub seed: u64,
}

impl Default for SplitConfig {
    fn default() -> Self {
        Self { by: SplitBy::Ratio, validation: 0.1, test: 0.1, seed: 0 }
    }
}

/// What decides over a row's split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SplitBy {
    /// Its group; a group is never on two sides.
    Group,
    /// Chance, by a pinned order.
    Ratio,
    /// The file it is in.
    Files,
}

/// One condition on a field; without the field, or with null, a row fails unless `or_null`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Condition {
    /// Name of the field.
    pub field: String,
    /// The value is this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equals: Option<Scalar>,
    /// The value is one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub one_of: Vec<Scalar>,
    /// The value is a number not below this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// The value is a number not above this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// The value is a text of at least so many words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_words: Option<usize>,
    /// The value is a text of at most so many words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_words: Option<usize>,
    /// A row without a value passes.
    pub or_null: bool,
}

/// A value to compare with.
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

/// Rows that neither train nor validate. They are part of the leak check wherever they go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HoldOut {
    /// Rows with a value in this field; empty for none.
    pub field: String,
    /// Rows with these ids.
    pub ids: Vec<String>,
    /// Where they go: `drop`, or `test` (whatever `where` says; with their whole group, if groups are split).
    pub to: HoldOutTo,
}

/// Where held-out rows go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HoldOutTo {
    /// Nowhere.
    #[default]
    Drop,
    /// To the test split.
    Test,
}

/// Most rows of each split; 0 takes all.
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

/// What happens to a row that cannot be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadRow {
    /// It stops the work.
    #[default]
    Error,
    /// It is left out, counted and listed.
    Skip,
}

/// What happens when rows that must not be in training are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLeak {
    /// It stops the work.
    #[default]
    Error,
    /// The training rows in which they occur are left out, counted and listed.
    Drop,
    /// It is only reported.
    Allow,
}

impl Config {
    /// Returns every problem of the settings.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut refuse = |wrong: bool, problem: &str| {
            if wrong {
                problems.push(problem.to_owned());
            }
        };
        let files = self.split.by == SplitBy::Files;
        let lists = !(self.train.is_empty() && self.validation.is_empty() && self.test.is_empty());
        refuse(!files && lists, "`train`, `validation` and `test` need `split.by = \"files\"`");
        refuse(files && !self.source.is_empty(), "`source` does not go with `split.by = \"files\"`");
        refuse(files && lists && self.train.is_empty(), "`train` names no file");
        let share = |share: f64| (0.0..1.0).contains(&share);
        let shares = share(self.split.validation)
            && share(self.split.test)
            && self.split.validation + self.split.test < 1.0;
        refuse(
            !files && !shares,
            "`split.validation` and `split.test` are shares from 0 to 1 that leave some to train",
        );
        refuse(self.max_tokens < 2, "`max_tokens` is at least 2");
        refuse(self.leak.words == 0, "`leak.words` is at least 1");
        refuse(
            !(self.leak.overlap > 0.0 && self.leak.overlap <= 1.0),
            "`leak.overlap` is above 0 and at most 1",
        );
        refuse(!(0.0..=1.0).contains(&self.leak.common), "`leak.common` is from 0 to 1");
        let dated = self.template_date.is_empty() || Date::parse(&self.template_date).is_some();
        refuse(!dated, "`template_date` is not a day as `YYYY-MM-DD`");
        refuse(
            self.conditions.iter().any(|condition| condition.field.is_empty()),
            "a condition in `where` names no `field`",
        );
        refuse(
            self.conditions.iter().any(Condition::asks_nothing),
            "a condition in `where` asks for nothing",
        );
        problems.extend(text_problems("", [&self.prompt, &self.completion, &self.text, &self.system]));
        problems.extend(self.mixture_problems());
        problems
    }

    /// Returns the part of the mixture that a file belongs to, by the file's name in the settings.
    pub(crate) fn part_of(&self, file: &str) -> Option<String> {
        let part = self.mixture.iter().find(|(_, part)| part.files.iter().any(|name| name == file));
        part.map(|(name, _)| name.clone())
    }

    fn mixture_problems(&self) -> Vec<String> {
        if self.mixture.is_empty() {
            return Vec::new();
        }
        let mut problems = Vec::new();
        if self.split.by == SplitBy::Files && self.train.is_empty() {
            problems
                .push("`mixture` with `split.by = \"files\"` needs the files listed in `train`".to_owned());
        }
        if !self.source.is_empty() {
            problems.push("`source` does not go with `mixture`: its parts name the files".to_owned());
        }
        let mut files = BTreeSet::new();
        for (name, part) in &self.mixture {
            let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
            if name.is_empty() || !name.chars().all(plain) {
                problems.push(format!(
                    "`mixture.{name}`: a name may hold only ASCII letters, digits, `_` and `-`"
                ));
            }
            if part.files.is_empty() {
                problems.push(format!("`mixture.{name}` names no `files`"));
            }
            for file in part.files.iter().filter(|file| !files.insert(file.as_str())) {
                problems.push(format!("`mixture.{name}`: the file `{file}` is named twice"));
            }
            let prefix = format!("mixture.{name}.");
            problems
                .extend(text_problems(&prefix, [&part.prompt, &part.completion, &part.text, &part.system]));
        }
        let of_splits: BTreeSet<&str> =
            [&self.train, &self.validation, &self.test].into_iter().flatten().map(String::as_str).collect();
        if self.split.by == SplitBy::Files {
            for file in self.train.iter().filter(|file| !files.contains(file.as_str())) {
                problems.push(format!("the file `{file}` in `train` is in no part of `mixture`"));
            }
            for file in files.difference(&of_splits) {
                problems.push(format!("the file `{file}` in `mixture` is in no split"));
            }
        }
        problems
    }

    /// Returns a short name for the artifact's folder.
    pub fn slug(&self) -> String {
        let by = match self.split.by {
            SplitBy::Group => "group",
            SplitBy::Ratio => "ratio",
            SplitBy::Files => "files",
        };
        format!("{by}-{}t", self.max_tokens)
    }
}

/// What is wrong with templates and system message, whose names begin with `prefix`.
fn text_problems(prefix: &str, [prompt, completion, text, system]: [&String; 4]) -> Vec<String> {
    let mut problems = Vec::new();
    let name = |name: &str| format!("`{prefix}{name}`");
    if prompt.is_empty() != completion.is_empty() {
        problems.push(format!("{} and {} go together", name("prompt"), name("completion")));
    }
    let mut refuse = |wrong: bool, left: &str, right: &str| {
        if wrong {
            problems.push(format!("{} does not go with {}", name(left), name(right)));
        }
    };
    refuse(!text.is_empty() && !prompt.is_empty(), "text", "prompt");
    refuse(!text.is_empty() && !system.is_empty(), "system", "text");
    for (which, template) in [("prompt", prompt), ("completion", completion), ("text", text)] {
        if let Err(reason) = Template::parse(template) {
            problems.push(format!("{}: {reason}", name(which)));
        }
    }
    problems
}

impl Condition {
    fn asks_nothing(&self) -> bool {
        *self == Self { field: self.field.clone(), or_null: self.or_null, ..Self::default() }
    }
}

impl stage::Config for Config {
    const STAGE: &'static str = "prepare-data";
    const VERSION: u32 = 1;

    fn problems(&self) -> Vec<String> {
        self.problems()
    }

    fn slug(&self) -> String {
        self.slug()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_told_at_once() {
        assert_eq!(Config::default().problems(), [""; 0]);
        let config: Config = toml::from_str(
            "train = ['a']\nprompt = '{a'\nmax_tokens = 1\ntemplate_date = 'today'\nwhere = [{ field = 'x' }]\n\
             split = { validation = 0.6, test = 0.6 }",
        )
        .unwrap();
        let problems = config.problems().join("\n");
        for part in [
            "split.by",
            "shares",
            "go together",
            "max_tokens",
            "template_date",
            "asks for nothing",
            "`prompt`: ",
        ] {
            assert!(problems.contains(part), "{part}: {problems}");
        }
    }

    #[test]
    fn problems_of_a_mixture_name_the_part() {
        let problems = |settings: &str| toml::from_str::<Config>(settings).unwrap().problems().join("\n");
        let fine = "[mixture.news]\nfiles = ['a']\ntext = '{t}'\n[mixture.chat]\nfiles = ['b']";
        assert_eq!(problems(fine), "");
        for (settings, part) in [
            ("source = ['a']\nmixture.x.files = ['a']", "`source` does not go with `mixture`"),
            ("mixture.x.files = []", "`mixture.x` names no `files`"),
            ("mixture.'x.y'.files = ['a']", "`mixture.x.y`: a name may hold only"),
            ("mixture.x.files = ['a']\nmixture.y.files = ['a']", "`mixture.y`: the file `a` is named twice"),
            (
                "[mixture.x]\nfiles = ['a']\nprompt = 'p'",
                "`mixture.x.prompt` and `mixture.x.completion` go together",
            ),
            ("[mixture.x]\nfiles = ['a']\ntext = '{'", "`mixture.x.text`: "),
            ("train = ['a']\nsplit.by = 'files'\nmixture.x.files = ['b']", "`a` in `train` is in no part"),
            (
                "train = ['a']\nsplit.by = 'files'\nmixture.x.files = ['a', 'b']",
                "`b` in `mixture` is in no split",
            ),
            ("split.by = 'files'\nmixture.x.files = ['a']", "needs the files listed in `train`"),
        ] {
            let problems = problems(settings);
            assert!(problems.contains(part), "{part}: {problems}");
        }
    }

    #[test]
    fn settings_without_a_mixture_are_as_before_there_were_any() {
        let text = serde_json::to_string(&Config::default()).unwrap();
        assert!(!text.contains("mixture"), "{text}");
    }

    #[test]
    fn unknown_settings_are_refused() {
        assert!(toml::from_str::<Config>("max_token = 5").is_err());
        assert!(toml::from_str::<Config>("where = [{ field = 'a', above = 1 }]").is_err());
    }

    #[test]
    fn resolved_settings_hold_no_null() {
        let config: Config = toml::from_str("where = [{ field = 'a', at_least = 1 }]").unwrap();
        assert!(!serde_json::to_string(&config).unwrap().contains(":null"));
    }
}
