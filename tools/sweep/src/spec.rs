//! The description of a sweep, `pipelines/sweeps/NAME.toml`.

use std::path::{Path, PathBuf};

use outputs::STAGES;
use serde::Deserialize;
use toml::{Table, Value};

use crate::error::{Error, Result};
use crate::space::{Dimension, Domain, Range};
use crate::value::number;

/// Folder of the sweeps, from the root of the checkout.
const FOLDER: &str = "pipelines/sweeps";
/// Fields of an interval.
const RANGE_FIELDS: [&str; 5] = ["low", "high", "scale", "integer", "points"];

/// A sweep.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sweep {
    /// Name, which is that of its file.
    pub(crate) name: String,
    /// Name of the pipeline's settings.
    pub(crate) pipeline: String,
    /// Name of the model's preset.
    pub(crate) model: String,
    /// How members are chosen.
    pub(crate) search: Search,
    /// Settings that all members share.
    pub(crate) fixed: Vec<(String, Value)>,
    /// Settings that vary, by name.
    pub(crate) space: Vec<Dimension>,
    /// Seeds of the runs of each member; none for the seed of the pipeline.
    pub(crate) seeds: Vec<i64>,
    /// Setting that has the seed.
    pub(crate) seed_setting: String,
}

/// How members are chosen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Search {
    /// Every combination of values.
    Grid,
    /// Values drawn at random.
    Random(Draws),
    /// Short runs of all members, longer ones of the best.
    Halving {
        /// The members: drawn, or every combination.
        draws: Option<Draws>,
        /// Length of the runs of each round, in steps.
        rungs: Vec<u64>,
        /// The best of `1 / keep_one_in` advance to the next round.
        keep_one_in: usize,
    },
    /// Members proposed by a model of the results so far: tree-structured Parzen estimators.
    Tpe {
        /// Number of members.
        draws: Draws,
        /// Number of members drawn before the model is used.
        startup: usize,
        /// Number of members proposed at a time.
        batch: usize,
    },
}

/// A number of random draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Draws {
    pub(crate) members: usize,
    pub(crate) seed: u64,
}

impl Search {
    /// Returns the name in the file.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Grid => "grid",
            Self::Random(_) => "random",
            Self::Halving { .. } => "halving",
            Self::Tpe { .. } => "tpe",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    pipeline: Option<String>,
    model: Option<String>,
    #[serde(default)]
    search: SearchName,
    members: Option<usize>,
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    seeds: Vec<i64>,
    seed_setting: Option<String>,
    rungs: Option<Vec<u64>>,
    keep_one_in: Option<usize>,
    startup: Option<usize>,
    batch: Option<usize>,
    #[serde(default)]
    settings: Table,
    #[serde(default)]
    vary: Table,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SearchName {
    #[default]
    Grid,
    Random,
    Halving,
    Tpe,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RangeFields {
    low: Value,
    high: Value,
    #[serde(default)]
    scale: Scale,
    #[serde(default)]
    integer: bool,
    points: Option<usize>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scale {
    #[default]
    Linear,
    Log,
}

/// Returns the file of a sweep, given its name or its path.
pub(crate) fn locate(given: &str) -> Result<PathBuf> {
    let is_path = given.contains('/') || Path::new(given).extension().is_some_and(|kind| kind == "toml");
    let path = if is_path { given.into() } else { Path::new(FOLDER).join(format!("{given}.toml")) };
    if path.is_file() {
        return Ok(path);
    }
    let names = fs_err::read_dir(FOLDER).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        names.filter_map(|entry| Some(entry.path().file_stem()?.to_string_lossy().into_owned())).collect();
    names.sort();
    let hint = (!names.is_empty()).then(|| format!("`{FOLDER}` has {}", names.join(", ")));
    Err(Error::Sweep { place: path.display().to_string(), reason: "there is no such sweep".to_owned(), hint })
}

/// Reads a sweep.
///
/// # Errors
///
/// Fails when the file cannot be read, has another form, or contradicts itself.
pub(crate) fn read(path: &Path) -> Result<Sweep> {
    let text = files::read_text(path, files::MAX_JSON_BYTES)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    parse(&name, &text).map_err(|problem| {
        let line = problem.line.map_or(String::new(), |line| format!(":{line}"));
        problem.at(format!("{}{line}", path.display()))
    })
}

/// Problem of a file, or of a setting.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Problem {
    line: Option<usize>,
    reason: String,
    hint: Option<String>,
}

impl Problem {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..Self::default() }
    }

    fn hinted(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Returns the error of a problem at `place`.
    pub(crate) fn at(self, place: impl Into<String>) -> Error {
        Error::Sweep { place: place.into(), reason: self.reason, hint: self.hint }
    }
}

fn parse(name: &str, text: &str) -> Result<Sweep, Problem> {
    let file: File = toml::from_str(text).map_err(|error| Problem {
        line: error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count()),
        reason: error.message().trim_end().replace('\n', " "),
        hint: None,
    })?;
    let mut space = Vec::new();
    varying("", &file.vary, &mut space)?;
    space.sort_by(|a, b| a.setting.cmp(&b.setting));
    let mut fixed = Vec::new();
    flatten("", &file.settings, &mut fixed);
    fixed.sort_by(|a, b| a.0.cmp(&b.0));
    if space.is_empty() {
        return Err(
            Problem::new("nothing varies").hinted("add a table `[vary]`, such as `\"train.rank\" = [4, 8]`")
        );
    }
    let seed_setting = file.seed_setting.clone().unwrap_or_else(|| "train.seed".to_owned());
    let names = space.iter().map(|dimension| &dimension.setting);
    for setting in names.chain(fixed.iter().map(|(setting, _)| setting)).chain([&seed_setting]) {
        check_stage(setting)?;
    }
    let search = search(&file, &space)?;
    let mut taken = vec![seed_setting.as_str()];
    if matches!(search, Search::Halving { .. }) {
        taken.extend(["train.steps", "train.epochs"]);
    }
    if file.seeds.is_empty() {
        taken.remove(0);
    }
    taken.extend(space.iter().map(|dimension| dimension.setting.as_str()));
    taken.extend(fixed.iter().map(|(setting, _)| setting.as_str()));
    if let Some(twice) =
        taken.iter().enumerate().find_map(|(at, name)| taken[..at].contains(name).then_some(name))
    {
        return Err(Problem::new(format!("`{twice}` is set twice"))
            .hinted("keep one of `[vary]`, `[settings]`, `seeds` and `rungs` that sets it"));
    }
    let sweep = Sweep {
        name: name.to_owned(),
        pipeline: file.pipeline.unwrap_or_else(|| "haw-eng".to_owned()),
        model: file.model.unwrap_or_else(|| "demo".to_owned()),
        search,
        fixed,
        space,
        seeds: file.seeds,
        seed_setting,
    };
    check_halving(&sweep)?;
    Ok(sweep)
}

/// Checks that a setting begins with the name of a stage.
pub(crate) fn check_stage(setting: &str) -> Result<(), Problem> {
    let stage = setting.split('.').next().unwrap_or_default();
    if setting.contains('.') && STAGES.iter().any(|known| known.name == stage) {
        return Ok(());
    }
    let distance = |name: &str| strsim::damerau_levenshtein(name, stage);
    let nearest = STAGES.iter().map(|known| known.name).min_by_key(|name| distance(name));
    let problem = Problem::new(format!("`{setting}` does not begin with the name of a stage"));
    Err(match nearest {
        Some(nearest) if distance(nearest) <= nearest.len() / 2 => {
            problem.hinted(format!("did you mean `{}`?", setting.replacen(stage, nearest, 1)))
        }
        _ => problem.hinted("write the stage before the setting, such as `train.rank`"),
    })
}

/// Collects settings that vary; tables without an interval are parts of names.
fn varying(prefix: &str, table: &Table, found: &mut Vec<Dimension>) -> Result<(), Problem> {
    for (name, value) in table {
        let setting = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let domain = match value {
            Value::Array(values) if !values.is_empty() => Domain::Choices(distinct(&setting, values)?),
            Value::Table(fields) if fields.contains_key("low") || fields.contains_key("high") => {
                Domain::Range(range(&setting, fields)?)
            }
            Value::Table(below) => {
                varying(&setting, below, found)?;
                continue;
            }
            _ => {
                return Err(Problem::new(format!("`{setting}` must be a list of values or an interval"))
                    .hinted("write `[4, 8]` or `{ low = 1, high = 64, scale = \"log\" }`"));
            }
        };
        found.push(Dimension { setting, domain });
    }
    Ok(())
}

fn distinct(setting: &str, values: &[Value]) -> Result<Vec<Value>, Problem> {
    for (at, value) in values.iter().enumerate() {
        if values[..at].contains(value) {
            return Err(Problem::new(format!("`{setting}` lists {value} twice")));
        }
    }
    Ok(values.to_vec())
}

fn range(setting: &str, fields: &Table) -> Result<Range, Problem> {
    if let Some(unknown) = fields.keys().find(|name| !RANGE_FIELDS.contains(&name.as_str())) {
        return Err(Problem::new(format!("`{setting}`: unknown field `{unknown}`"))
            .hinted(format!("an interval has {}", RANGE_FIELDS.join(", "))));
    }
    let parsed: RangeFields = Value::Table(fields.clone())
        .try_into()
        .map_err(|error: toml::de::Error| Problem::new(format!("`{setting}`: {}", error.message())))?;
    let end = |name: &str, value: &Value| {
        number(value).ok_or_else(|| Problem::new(format!("`{setting}`: `{name}` must be a number")))
    };
    let (low, high) = (end("low", &parsed.low)?, end("high", &parsed.high)?);
    let logarithmic = parsed.scale == Scale::Log;
    let problem = if low >= high {
        Some("`low` must be below `high`")
    } else if logarithmic && low <= 0.0 {
        Some("`low` must be above 0 on a logarithmic scale")
    } else if parsed.integer && (low.fract() != 0.0 || high.fract() != 0.0) {
        Some("`low` and `high` must be whole numbers")
    } else if parsed.points.is_some_and(|points| points < 2) {
        Some("`points` must be at least 2")
    } else {
        None
    };
    match problem {
        Some(problem) => Err(Problem::new(format!("`{setting}`: {problem}"))),
        None => Ok(Range { low, high, logarithmic, integer: parsed.integer, points: parsed.points }),
    }
}

/// Collects settings by their whole names.
fn flatten(prefix: &str, table: &Table, found: &mut Vec<(String, Value)>) {
    for (name, value) in table {
        let setting = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(below) if !below.is_empty() || prefix.is_empty() => flatten(&setting, below, found),
            value => found.push((setting, value.clone())),
        }
    }
}

fn search(file: &File, space: &[Dimension]) -> Result<Search, Problem> {
    let draws = file.members.map(|members| Draws { members, seed: file.seed });
    if draws.is_some_and(|draws| draws.members == 0) {
        return Err(Problem::new("`members` must be at least 1"));
    }
    let counted = || draws.ok_or_else(|| Problem::new("`members`, the number of members, is missing"));
    let kind = file.search;
    let foreign = [
        ("members", file.members.is_some() && kind == SearchName::Grid),
        ("rungs", file.rungs.is_some() && kind != SearchName::Halving),
        ("keep_one_in", file.keep_one_in.is_some() && kind != SearchName::Halving),
        ("startup", file.startup.is_some() && kind != SearchName::Tpe),
        ("batch", file.batch.is_some() && kind != SearchName::Tpe),
    ];
    if let Some((name, _)) = foreign.iter().find(|(_, is_foreign)| *is_foreign) {
        return Err(Problem::new(format!("`{name}` does not belong to this `search`")));
    }
    let needs_grid = kind == SearchName::Grid || (kind == SearchName::Halving && draws.is_none());
    if let Some(open) = space.iter().find(|dimension| needs_grid && dimension.domain.grid().is_none()) {
        return Err(Problem::new(format!("`{}` is an interval without `points`", open.setting))
            .hinted("add `points = N`, or draw values with `search = \"random\"` and `members = N`"));
    }
    Ok(match kind {
        SearchName::Grid => Search::Grid,
        SearchName::Random => Search::Random(counted()?),
        SearchName::Halving => {
            let rungs = file.rungs.clone().unwrap_or_default();
            if rungs.len() < 2 || rungs[0] == 0 || rungs.windows(2).any(|pair| pair[0] >= pair[1]) {
                return Err(Problem::new("`rungs` must be two or more rising numbers of steps")
                    .hinted("such as `rungs = [20, 60, 180]`"));
            }
            let keep_one_in = file.keep_one_in.unwrap_or(3);
            if keep_one_in < 2 {
                return Err(Problem::new("`keep_one_in` must be at least 2"));
            }
            Search::Halving { draws, rungs, keep_one_in }
        }
        SearchName::Tpe => {
            let (startup, batch) = (file.startup.unwrap_or(8), file.batch.unwrap_or(1));
            if startup == 0 || batch == 0 {
                return Err(Problem::new("`startup` and `batch` must be at least 1"));
            }
            Search::Tpe { draws: counted()?, startup, batch }
        }
    })
}

/// Checks that longer runs can resume from shorter ones, as far as the sweep decides it.
fn check_halving(sweep: &Sweep) -> Result<(), Problem> {
    let Search::Halving { rungs, .. } = &sweep.search else { return Ok(()) };
    let fixed = |name: &str| sweep.fixed.iter().find(|(setting, _)| setting == name).map(|(_, value)| value);
    let schedule = fixed("train.schedule").and_then(Value::as_str);
    if schedule.is_none_or(|schedule| ["linear", "cosine"].contains(&schedule)) {
        return Err(Problem::new(
            "with `rungs`, `train.schedule` must not depend on the length of a run, so that longer runs resume from shorter ones",
        )
        .hinted("set `\"train.schedule\" = \"constant\"` in `[settings]`"));
    }
    for name in ["train.checkpoint_every", "train.report_every"] {
        let every = fixed(name).and_then(Value::as_integer).and_then(|every| u64::try_from(every).ok());
        if every.is_none_or(|every| every == 0 || rungs.iter().any(|rung| rung % every != 0)) {
            let every = rungs.iter().copied().reduce(greatest_common_divisor).unwrap_or(1);
            return Err(Problem::new(format!("every rung must be a multiple of `{name}`"))
                .hinted(format!("set `\"{name}\" = {every}` in `[settings]`")));
        }
    }
    let warmup = fixed("train.warmup_steps").and_then(Value::as_integer);
    if warmup.is_none_or(|warmup| warmup < 0 || warmup as u64 >= rungs[0]) {
        return Err(Problem::new("`train.warmup_steps` must be below the first rung")
            .hinted("set `\"train.warmup_steps\" = 0` in `[settings]`"));
    }
    Ok(())
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        let problem = parse("test", text).expect_err("it is wrong");
        let line = problem.line.map_or(String::new(), |line| format!("line {line}: "));
        format!("{line}{} ({})", problem.reason, problem.hint.unwrap_or_default())
    }

    #[test]
    fn dotted_names_and_tables_are_the_same_settings() {
        let quoted = "[vary]\n\"train.rank\" = [4, 8]\n\"train.learning_rate\" = { low = \"1e-4\", high = 1e-2, scale = \"log\", points = 3 }";
        let nested = "[vary.train]\nrank = [4, 8]\nlearning_rate = { low = 1e-4, high = \"1e-2\", scale = \"log\", points = 3 }";
        let sweep = parse("test", quoted).expect("a sweep");
        assert_eq!(sweep, parse("test", nested).expect("a sweep"));
        let names: Vec<&str> = sweep.space.iter().map(|dimension| dimension.setting.as_str()).collect();
        assert_eq!(names, ["train.learning_rate", "train.rank"]);
        assert_eq!((sweep.pipeline.as_str(), sweep.model.as_str()), ("haw-eng", "demo"));
    }

    #[test]
    fn what_is_wrong_is_named_with_a_remedy() {
        insta::assert_snapshot!(problem("search = \"gird\"\n[vary]\ntrain.rank = [1]"), @"line 1: unknown variant `gird`, expected one of `grid`, `random`, `halving`, `tpe` ()");
        insta::assert_snapshot!(problem("[vary]\ntrian.rank = [1, 2]"), @"`trian.rank` does not begin with the name of a stage (did you mean `train.rank`?)");
        insta::assert_snapshot!(problem("[vary]\nrank = [1, 2]"), @"`rank` does not begin with the name of a stage (write the stage before the setting, such as `train.rank`)");
        insta::assert_snapshot!(problem("[vary]\ntrain.rank = 4"), @r#"`train.rank` must be a list of values or an interval (write `[4, 8]` or `{ low = 1, high = 64, scale = "log" }`)"#);
        insta::assert_snapshot!(problem("[vary]\ntrain.rank = [4, 4]"), @"`train.rank` lists 4 twice ()");
        insta::assert_snapshot!(problem("[vary]\ntrain.rank = { low = 4, high = 2 }"), @"`train.rank`: `low` must be below `high` ()");
        insta::assert_snapshot!(problem("[vary]\ntrain.rank = { low = 1, high = 2 }"), @r#"`train.rank` is an interval without `points` (add `points = N`, or draw values with `search = "random"` and `members = N`)"#);
        insta::assert_snapshot!(problem("search = \"random\"\n[vary]\ntrain.rank = [1]"), @"`members`, the number of members, is missing ()");
        insta::assert_snapshot!(problem("rungs = [1, 2]\n[vary]\ntrain.rank = [1]"), @"`rungs` does not belong to this `search` ()");
        insta::assert_snapshot!(problem("seeds = [1]\n[vary]\ntrain.seed = [1]"), @"`train.seed` is set twice (keep one of `[vary]`, `[settings]`, `seeds` and `rungs` that sets it)");
        insta::assert_snapshot!(problem("seeds = [1]\n[settings]\ntrain.seed = 5\n[vary]\ntrain.rank = [1]"), @"`train.seed` is set twice (keep one of `[vary]`, `[settings]`, `seeds` and `rungs` that sets it)");
        insta::assert_snapshot!(problem("search = \"halving\"\nrungs = [1, 2]\n[settings]\ntrain.steps = 5\n[vary]\ntrain.rank = [1, 2]"), @"`train.steps` is set twice (keep one of `[vary]`, `[settings]`, `seeds` and `rungs` that sets it)");
        insta::assert_snapshot!(problem("pipeline = \"haw-eng\""), @r#"nothing varies (add a table `[vary]`, such as `"train.rank" = [4, 8]`)"#);
    }

    #[test]
    fn rungs_must_allow_longer_runs_to_resume() {
        let halving = |settings: &str| {
            format!(
                "search = \"halving\"\nrungs = [10, 20]\n[settings.train]\n{settings}\n[vary]\ntrain.rank = [1, 2]"
            )
        };
        insta::assert_snapshot!(problem(&halving("")), @r#"with `rungs`, `train.schedule` must not depend on the length of a run, so that longer runs resume from shorter ones (set `"train.schedule" = "constant"` in `[settings]`)"#);
        insta::assert_snapshot!(problem(&halving("schedule = \"constant\"\nreport_every = 5")), @r#"every rung must be a multiple of `train.checkpoint_every` (set `"train.checkpoint_every" = 10` in `[settings]`)"#);
        let most = "schedule = \"constant\"\nreport_every = 5\ncheckpoint_every = 10";
        insta::assert_snapshot!(problem(&halving(most)), @r#"`train.warmup_steps` must be below the first rung (set `"train.warmup_steps" = 0` in `[settings]`)"#);
        parse("test", &halving(&format!("{most}\nwarmup_steps = 0"))).expect("a sweep");
    }
}
