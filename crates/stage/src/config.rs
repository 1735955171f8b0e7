//! Settings: defaults, then the stage's table of each file, then `--set`.

use std::ops::Range;
use std::path::Path;

use failure::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use toml::de::DeTable;
use toml::{Table, Value};

use crate::args::CommonArgs;

/// The stages of this project; a settings file has one table for each.
const STAGES: [&str; 8] =
    ["import-model", "prepare-data", "train", "validate", "select-best", "fuse", "evaluate", "report"];
/// What else may stand at the top of a settings file, for people and for the wiring.
const OTHERS: [&str; 3] = ["pipeline", "name", "description"];

/// The settings of a stage: all that changes the bytes it writes.
///
/// Derive serde's traits with `#[serde(default, deny_unknown_fields)]` on the struct and every struct in it. Floats
/// are `f64`; an `Option` that is `None` is left out of the key.
pub trait Config: Default + Serialize + DeserializeOwned {
    /// The stage's name, which is also its table in settings files.
    const STAGE: &'static str;
    /// The stage's version, raised whenever the same settings give outputs of another meaning.
    const VERSION: u32;

    /// Lists everything that is wrong with the values, before any work.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns a short readable addition to the artifact's name, made from settings: `[a-z0-9.-]{1,40}`.
    fn slug(&self) -> String;
}

/// Resolves the settings of a stage.
pub(crate) fn resolve<C: Config>(common: &CommonArgs) -> Result<C> {
    let mut table = Table::new();
    for path in &common.config {
        merge(&mut table, read_file::<C>(path)?);
    }
    let mut config = deserialize::<C>(&table, "the settings files")?;
    for set in &common.set {
        config = apply_set::<C>(&mut table, set)?.unwrap_or(config);
    }
    Ok(config)
}

/// Reports all that is wrong with the values of a configuration.
pub(crate) fn check<C: Config>(config: &C) -> Result<()> {
    let problems = config.problems();
    match problems.as_slice() {
        [] => Ok(()),
        [one] => Err(Error::usage(one)),
        many => Err(Error::usage(format!("{} settings are wrong:\n{}", many.len(), many.join("\n")))),
    }
}

/// Returns the settings as they enter the key: every default written out, unset options left out.
pub(crate) fn to_material<C: Config>(config: &C) -> Result<Json> {
    // TOML keeps NaN (JSON would turn it into null) and leaves out what is None.
    let table = Value::try_from(config)
        .map_err(|error| Error::usage(format!("settings of `{}`: {error}", C::STAGE)))?;
    to_json(table, "")
}

fn to_json(value: Value, pointer: &str) -> Result<Json> {
    const EXACT: u64 = 1 << 53;
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

/// Reads the stage's table from one file; errors name the line.
fn read_file<C: Config>(path: &Path) -> Result<Table> {
    let text = fs_err::read_to_string(path).map_err(|error| Error::usage(format!("settings: {error}")))?;
    let text = unquote_numbers::<C>(text);
    let place = |span: Option<Range<usize>>| {
        let line = span.map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        format!("`{}:{line}`", path.display())
    };
    let fail = |error: &toml::de::Error| {
        Error::usage(format!("{}: {}", place(error.span()), explain(error.message(), C::STAGE)))
    };
    let tables = DeTable::parse(&text).map_err(|error| fail(&error))?.into_inner();
    for name in tables.keys() {
        let known = || STAGES.iter().chain(&OTHERS).copied().chain([C::STAGE]);
        if !known().any(|other| other == name.get_ref().as_ref()) {
            let message = unknown(name.get_ref(), known());
            return Err(Error::usage(format!("{}: unknown table {message}", place(Some(name.span())))));
        }
    }
    let mine = tables.into_iter().find(|(name, _)| name.get_ref().as_ref() == C::STAGE);
    if let Some((_, value)) = mine {
        C::deserialize(toml::de::ValueDeserializer::from(value)).map_err(|error| fail(&error))?;
    }
    let mut all: Table = toml::from_str(&text).map_err(|error| fail(&error))?;
    match all.remove(C::STAGE) {
        Some(Value::Table(table)) => Ok(table),
        Some(_) => Err(Error::usage(format!("`{}`: `{}` must be a table", path.display(), C::STAGE))),
        None => Ok(Table::new()),
    }
}

/// Takes the quotes off numbers in the stage's table. Nix reads the same files and rounds fractions, so they may be
/// written as strings (`learning_rate = "2e-3"`); the settings, and so the key, are the same either way.
fn unquote_numbers<C: Config>(mut text: String) -> String {
    while let Some((place, number)) = quoted_number::<C>(&text) {
        text.replace_range(place, &format!("{number:?}"));
    }
    text
}

/// Finds the first string that stands where a setting wants a fraction, and reads as one.
fn quoted_number<C: Config>(text: &str) -> Option<(Range<usize>, f64)> {
    let tables = DeTable::parse(text).ok()?.into_inner();
    let (_, mine) = tables.into_iter().find(|(name, _)| name.get_ref().as_ref() == C::STAGE)?;
    let error = C::deserialize(toml::de::ValueDeserializer::from(mine)).err()?;
    let message = error.message();
    if !message.starts_with("invalid type: string ") || !message.ends_with(" expected f64") {
        return None;
    }
    let place = error.span()?;
    let quoted = text.get(place.clone())?;
    let inner = ['"', '\''].iter().find_map(|&mark| quoted.strip_prefix(mark)?.strip_suffix(mark))?;
    let number = inner.parse::<f64>().ok().filter(|number| number.is_finite())?;
    Some((place, number))
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

/// Applies one `--set`; `None` when it is for another stage.
fn apply_set<C: Config>(table: &mut Table, set: &str) -> Result<Option<C>> {
    let Some((key, text)) = set.split_once('=') else {
        return Err(Error::usage(format!("`--set {set}`: expected KEY=VALUE")));
    };
    let mut path: Vec<&str> = key.trim().split('.').collect();
    if path.iter().any(|part| part.is_empty()) {
        return Err(Error::usage(format!("`--set {set}`: `{key}` is not a setting's name")));
    }
    let first = path[0];
    if path.len() > 1 && (first == C::STAGE || STAGES.contains(&first)) {
        if first != C::STAGE {
            return Ok(None);
        }
        path.remove(0);
    } else if path.len() > 1 && !is_own_table::<C>(first) {
        let known = STAGES.iter().copied().chain([C::STAGE]);
        return Err(Error::usage(format!("`--set {set}`: unknown stage {}", unknown(first, known))));
    }
    let text = text.trim();
    let parsed = format!("value = {text}").parse::<Table>().ok().filter(|parsed| parsed.len() == 1);
    let mut candidates: Vec<Value> =
        parsed.and_then(|mut parsed| parsed.remove("value")).into_iter().collect();
    candidates.push(Value::String(text.to_owned()));

    let mut problem = None;
    for value in candidates {
        let mut changed = table.clone();
        insert(&mut changed, &path, value)
            .map_err(|reason| Error::usage(format!("`--set {set}`: {reason}")))?;
        match deserialize::<C>(&changed, &format!("`--set {set}`")) {
            Ok(config) => {
                *table = changed;
                return Ok(Some(config));
            }
            // The first reading is what the user most likely meant.
            Err(error) => problem = problem.or(Some(error)),
        }
    }
    Err(problem.expect("a value is always tried"))
}

/// Tells whether the settings have a table of this name: an unknown one would be the only name serde complains about.
fn is_own_table<C: Config>(name: &str) -> bool {
    let probe = Table::from_iter([(name.to_owned(), Value::Table(Table::new()))]);
    match C::deserialize(probe) {
        Ok(_) => true,
        Err(error) => !error.message().starts_with("unknown field"),
    }
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
    C::deserialize(table.clone())
        .map_err(|error| Error::usage(format!("{place}: {}", explain(error.message(), C::STAGE))))
}

/// Rewrites serde's words for an unknown field: all choices shrink to the nearest one.
fn explain(message: &str, stage: &str) -> String {
    let rewritten = (|| {
        let rest = message.strip_prefix("unknown field `")?;
        let (field, rest) = rest.split_once('`')?;
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        Some(format!("unknown setting {} (stage `{stage}`)", unknown(field, known.into_iter())))
    })();
    rewritten.unwrap_or_else(|| message.trim_end().replace('\n', " "))
}

/// Formats an unknown name with the nearest known one.
fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let nearest = known
        .map(|other| (strsim::damerau_levenshtein(&name.to_lowercase(), &other.to_lowercase()), other))
        .min();
    match nearest {
        Some((distance, other)) if distance <= other.len().max(name.len()) * 2 / 3 => {
            format!("`{name}`\nhint: did you mean `{other}`?")
        }
        _ => format!("`{name}`"),
    }
}
