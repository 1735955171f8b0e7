//! Settings: defaults, then the stage's table of each file, then `--set`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use failure::{Error, Kind, Result};
use outputs::STAGES;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use crate::args::CommonArgs;
use crate::shape::{EXACT, Finding, Shape};

/// Names that a settings file may have at the top besides the tables of the stages.
const OTHER_NAMES: [&str; 4] = ["pipeline", "name", "description", INCLUDE];
/// Name of the settings file that another one starts from, relative to its folder.
const INCLUDE: &str = "include";

/// Settings of a stage: everything that changes the bytes it writes.
///
/// Derive serde's traits with `#[serde(default, deny_unknown_fields)]` on the struct and on every struct in it. Floats
/// are `f64`; the key leaves out an `Option` that is `None`.
pub trait Config: Default + Serialize + DeserializeOwned {
    /// Name of the stage, which is also its table in settings files.
    const STAGE: &'static str;
    /// Version of the stage, raised when the same settings produce outputs with another meaning.
    const VERSION: u32;

    /// Resets settings that have no effect, given the others, to their defaults, so that they do not change the key. Returns one
    /// message per setting.
    fn settle(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// Returns every problem of the values, before any work.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns whether the folder for the resume state has something that a run resumes from, for `--plan`.
    fn has_state(folder: &Path) -> bool {
        artifact::has_content(folder).unwrap_or(false)
    }

    /// Returns a short readable suffix of the artifact's name, made from settings: `[a-z0-9.-]{1,40}`.
    fn slug(&self) -> String;
}

/// Resolves the settings of a stage.
pub(crate) fn resolve<C: Config>(common: &CommonArgs) -> Result<C> {
    let mut table = Table::new();
    for path in &common.config {
        if let Some(included) = included(path)? {
            merge(&mut table, read_file::<C>(&included)?);
        }
        merge(&mut table, read_file::<C>(path)?);
    }
    let mut config = deserialize::<C>(&table, "the settings files")?;
    for set in &common.set {
        config = apply_set::<C>(&mut table, set)?.unwrap_or(config);
    }
    Ok(config)
}

/// Resets settings that have no effect, then fails with all problems of the settings.
pub(crate) fn check<C: Config>(config: &mut C) -> Result<()> {
    for left_out in config.settle() {
        tracing::warn!("{left_out}");
    }
    let problems = config.problems();
    match problems.as_slice() {
        [] => Ok(()),
        [one] => Err(Error::usage(one)),
        many => Err(Error::usage(format!("{} settings are wrong:\n{}", many.len(), many.join("\n")))),
    }
}

/// Returns the settings as the key holds them: defaults are written out, unset options are left out.
pub(crate) fn to_material<C: Config>(config: &C) -> Result<Json> {
    // TOML keeps NaN, which JSON would turn into null, and leaves out `None`.
    let table = Value::try_from(config)
        .map_err(|error| Error::usage(format!("settings of `{}`: {error}", C::STAGE)))?;
    to_json(table, "")
}

fn to_json(value: Value, pointer: &str) -> Result<Json> {
    let join = |part: &str| if pointer.is_empty() { part.to_owned() } else { format!("{pointer}.{part}") };
    Ok(match value {
        Value::String(text) => {
            if Path::new(&text).is_absolute()
                && !text.contains(char::is_whitespace)
                && Path::new(&text).exists()
            {
                return Err(Error::usage(format!(
                    "setting `{pointer}` holds the path `{text}`; settings hold no paths"
                )));
            }
            text.into()
        }
        Value::Integer(number) if number.unsigned_abs() >= EXACT => number.to_string().into(),
        Value::Integer(number) => number.into(),
        Value::Float(number) if number.is_finite() => number.into(),
        Value::Float(number) => {
            return Err(Error::usage(format!("setting `{pointer}` is {number}; it must be finite")));
        }
        Value::Boolean(flag) => flag.into(),
        Value::Datetime(time) => time.to_string().into(),
        Value::Array(items) => {
            let items = items.into_iter().enumerate();
            Json::Array(
                items.map(|(i, item)| to_json(item, &join(&i.to_string()))).collect::<Result<_, _>>()?,
            )
        }
        Value::Table(fields) => {
            let fields = fields.into_iter().map(|(name, field)| {
                let field = to_json(field, &join(&name))?;
                Ok::<_, Error>((name, field))
            });
            Json::Object(fields.collect::<Result<_, _>>()?)
        }
    })
}

/// Returns the settings file that `path` includes, which itself includes none.
fn included(path: &Path) -> Result<Option<PathBuf>> {
    let name = |path: &Path| -> Result<Option<PathBuf>> {
        let text = read_text(path)?;
        let all: Table = toml::from_str(&text).map_err(|error| wrong_toml(path, &text, &error))?;
        match all.get(INCLUDE) {
            None => Ok(None),
            Some(Value::String(name)) => Ok(Some(path.parent().unwrap_or(Path::new("")).join(name))),
            Some(_) => Err(Error::usage(format!(
                "`{}`: `{INCLUDE}` must be the path of a settings file in quotes",
                path.display()
            ))),
        }
    };
    let Some(included) = name(path)? else { return Ok(None) };
    let nested =
        name(&included).map_err(|error| error.context(format!("included by `{}`", path.display())))?;
    if nested.is_some() {
        let message = format!("`{}` is included and includes another file", included.display());
        return Err(Error::usage(message).hinted("merge the two files"));
    }
    Ok(Some(included))
}

fn read_text(path: &Path) -> Result<String> {
    files::read_text(path, files::MAX_JSON_BYTES)
        .map_err(|error| Error::wrap(Kind::Usage, error).context("reading settings"))
}

/// Reads the stage's table from one file; errors name the line.
fn read_file<C: Config>(path: &Path) -> Result<Table> {
    let mut text = read_text(path)?;
    let shape = Shape::of::<C>();
    let mut quoted = Vec::new();
    for finding in stage_table::<C>(path, &text)?.map(|table| shape.findings(&table)).unwrap_or_default() {
        match finding {
            Finding::Unknown { name, known, span } => {
                return Err(unknown_setting::<C>(&place(path, &text, Some(span)), &name, &known));
            }
            Finding::QuotedNumber { text, span } => quoted.push((span, text)),
        }
    }
    // Nix reads the same files and rounds fractions, so they may be written as strings (`learning_rate = "2e-3"`).
    // The settings, and therefore the key, are the same either way. Keys hold the largest integers as strings.
    for (span, number) in quoted.into_iter().rev() {
        text.replace_range(span, &number);
    }
    let Some(table) = stage_table::<C>(path, &text)? else { return Ok(Table::new()) };
    if !table.get_ref().is_table() {
        let place = place(path, &text, Some(table.span()));
        return Err(Error::usage(format!("{place}: `{}` must be a table", C::STAGE)));
    }
    C::deserialize(toml::de::ValueDeserializer::from(table))
        .map_err(|error| wrong_toml(path, &text, &error))?;
    let mut all: Table = toml::from_str(&text).map_err(|error| wrong_toml(path, &text, &error))?;
    match all.remove(C::STAGE) {
        Some(Value::Table(table)) => Ok(table),
        _ => unreachable!("it was found to be a table"),
    }
}

/// Parses a settings file and returns the stage's table; fails on tables of unknown stages.
fn stage_table<'a, C: Config>(path: &Path, text: &'a str) -> Result<Option<Spanned<DeValue<'a>>>> {
    let tables = DeTable::parse(text).map_err(|error| wrong_toml(path, text, &error))?.into_inner();
    let known: Vec<&str> = stage_names::<C>().into_iter().chain(OTHER_NAMES).collect();
    if let Some(name) = tables.keys().find(|name| !known.contains(&&**name.get_ref())) {
        let message = format!("{}: unknown table `{}`", place(path, text, Some(name.span())), name.get_ref());
        return Err(with_nearest(Error::usage(message), name.get_ref(), &known));
    }
    Ok(tables.into_iter().find(|(name, _)| name.get_ref() == C::STAGE).map(|(_, table)| table))
}

/// Returns the names of all stages, `C` included.
fn stage_names<C: Config>() -> Vec<&'static str> {
    STAGES.iter().map(|stage| stage.name).chain([C::STAGE]).collect()
}

/// Formats a position as `FILE:LINE`.
fn place(path: &Path, text: &str, span: Option<Range<usize>>) -> String {
    let line = span.map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
    format!("`{}:{line}`", path.display())
}

fn wrong_toml(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    Error::usage(format!("{}: {}", place(path, text, error.span()), one_line(error)))
}

fn one_line(error: &toml::de::Error) -> String {
    error.message().trim_end().replace('\n', " ")
}

fn merge(into: &mut Table, from: Table) {
    for (name, value) in from {
        match (into.get_mut(&name), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(name, value);
            }
        }
    }
}

/// Applies one `--set`; returns `None` if it is for another stage.
fn apply_set<C: Config>(table: &mut Table, set: &str) -> Result<Option<C>> {
    let Some((key, text)) = set.split_once('=') else {
        return Err(Error::usage(format!("`--set {set}`: expected KEY=VALUE")));
    };
    let shape = Shape::of::<C>();
    let Some(path) = own_path::<C>(&shape, set, key)? else { return Ok(None) };
    shape
        .follow(&path)
        .map_err(|(name, known)| unknown_setting::<C>(&format!("`--set {set}`"), name, &known))?;
    let text = text.trim();
    let parsed = format!("value = {text}").parse::<Table>().ok().filter(|parsed| parsed.len() == 1);
    let mut candidates: Vec<Value> =
        parsed.and_then(|mut parsed| parsed.remove("value")).into_iter().collect();
    candidates.push(Value::String(text.to_owned()));

    let mut first_error = None;
    for value in candidates {
        let mut changed = table.clone();
        insert(&mut changed, &path, value)
            .map_err(|reason| Error::usage(format!("`--set {set}`: {reason}")))?;
        match deserialize::<C>(&changed, &format!("`--set {set}`")) {
            Ok(config) => {
                *table = changed;
                return Ok(Some(config));
            }
            // The first reading is most likely the intended one.
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.expect("a value is always tried"))
}

/// Splits the key of a `--set` and removes the stage's name; returns `None` if it is for another stage.
fn own_path<'a, C: Config>(shape: &Shape, set: &str, key: &'a str) -> Result<Option<Vec<&'a str>>> {
    let mut path: Vec<&str> = key.trim().split('.').collect();
    if path.iter().any(|name| name.is_empty()) {
        return Err(Error::usage(format!("`--set {set}`: `{key}` is not a valid name of a setting")));
    }
    let (first, stages) = (path[0], stage_names::<C>());
    if path.len() == 1 {
        return Ok(Some(path));
    }
    if first == C::STAGE {
        path.remove(0);
        return Ok(Some(path));
    }
    if stages.contains(&first) {
        return Ok(None);
    }
    if !shape.names().contains(&first) {
        let error = Error::usage(format!("`--set {set}`: unknown stage `{first}`"));
        return Err(with_nearest(error, first, &stages));
    }
    Ok(Some(path))
}

fn insert(table: &mut Table, path: &[&str], value: Value) -> Result<(), String> {
    let (first, rest) = path.split_first().expect("a name has at least one part");
    if rest.is_empty() {
        table.insert((*first).to_owned(), value);
        return Ok(());
    }
    let below = table.entry((*first).to_owned()).or_insert_with(|| Value::Table(Table::new()));
    match below {
        Value::Table(below) => insert(below, rest, value),
        _ => Err(format!("`{first}` is not a table")),
    }
}

fn deserialize<C: Config>(table: &Table, place: &str) -> Result<C> {
    C::deserialize(table.clone()).map_err(|error| Error::usage(format!("{place}: {}", one_line(&error))))
}

fn unknown_setting<C: Config>(place: &str, name: &str, known: &[&str]) -> Error {
    let error = Error::usage(format!("{place}: unknown setting `{name}` (stage `{}`)", C::STAGE));
    with_nearest(error, name, known)
}

/// Adds the known name nearest to `name` as a hint, if one is near enough.
fn with_nearest(error: Error, name: &str, known: &[&str]) -> Error {
    let distance = |other: &str| strsim::damerau_levenshtein(&name.to_lowercase(), &other.to_lowercase());
    match known.iter().map(|&other| (distance(other), other)).min() {
        Some((distance, other)) if distance <= other.len().max(name.len()) * 2 / 3 => {
            error.hinted(format!("did you mean `{other}`?"))
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Settings {
        seed: u64,
        title: String,
    }

    impl Config for Settings {
        const STAGE: &'static str = "toy";
        const VERSION: u32 = 1;

        fn slug(&self) -> String {
            "toy".to_owned()
        }
    }

    fn material(text: &str) -> Result<Json> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("toy.toml");
        fs_err::write(&path, format!("[toy]\n{text}\n")).unwrap();
        let common = CommonArgs { config: vec![path], ..CommonArgs::default() };
        to_material(&resolve::<Settings>(&common)?)
    }

    #[test]
    fn integers_that_keys_hold_as_strings_are_read_back() {
        let number = "9007199254740993";
        let expected = serde_json::json!({ "seed": number, "title": number });
        let title = format!("title = \"{number}\"");
        assert_eq!(material(&format!("seed = {number}\n{title}")).unwrap(), expected);
        assert_eq!(material(&format!("seed = \"{number}\"\n{title}")).unwrap(), expected);
        material("seed = \"12\"").unwrap_err();
        material("seed = \"9007199254740993.5\"").unwrap_err();
    }
}
