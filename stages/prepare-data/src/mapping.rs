//! Turning a row's fields into a record: conditions, templates, groups, held-out rows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dataset::{RawRow, Record, RowProblem, Shape, as_messages};
use serde_json::{Map, Value, json};

use crate::config::{Condition, Config, Scalar, SplitBy, Texts};
use crate::template::Template;

fn problem(line: u64, reason: String, hint: impl Into<String>) -> RowProblem {
    RowProblem { line, column: None, reason, hint: hint.into() }
}

/// Outcome for a row.
#[derive(Debug)]
pub(crate) enum Mapped {
    /// The row goes to a split.
    Row(Box<Record>),
    /// The row is held out.
    HeldOut(Box<Record>),
    /// The row fails a condition.
    Filtered,
}

/// The settings for single rows, parsed.
#[derive(Debug)]
pub(crate) struct Mapping<'a> {
    config: &'a Config,
    group_fields: &'a [String],
    system: &'a str,
    /// Templates of the fields `prompt` and `completion`, or `text`.
    templates: Vec<(&'static str, Template)>,
    /// The ids to hold out, treated as those of rows are.
    ids: BTreeSet<String>,
}

impl<'a> Mapping<'a> {
    /// Parses valid settings for the rows of a mixture component, or for rows without one.
    pub(crate) fn new(config: &'a Config, component: Option<&str>) -> Self {
        let component = component.and_then(|name| config.mixture.get(name));
        let texts = component.map(Texts::of_component).filter(Texts::has_templates);
        let templates = texts
            .unwrap_or(Texts::of_config(config))
            .templates()
            .filter(|(_, source)| !source.is_empty())
            .map(|(name, source)| {
                (name, Template::parse(source).expect("`Config::problems` checks templates"))
            })
            .collect();
        let groups = component.map(|component| &component.group_fields).filter(|fields| !fields.is_empty());
        let system = component.map(|component| &component.system).filter(|system| !system.is_empty());
        Self {
            config,
            group_fields: groups.unwrap_or(&config.group_fields),
            system: system.unwrap_or(&config.system),
            templates,
            ids: Self::held_out_ids(config),
        }
    }

    /// Returns the fields that the settings name. Each must occur in some row.
    pub(crate) fn fields(config: &'a Config) -> impl Iterator<Item = &'a str> {
        let conditions = config.conditions.iter().map(|condition| condition.field.as_str());
        let hold_out = Some(config.hold_out.field.as_str()).filter(|field| !field.is_empty());
        let groups =
            config.mixture.values().flat_map(|component| &component.group_fields).chain(&config.group_fields);
        conditions.chain(hold_out).chain(groups.chain(&config.columns).map(String::as_str))
    }

    /// Returns the outcome for `row`, which is from `file`.
    pub(crate) fn map(&self, row: RawRow, file: &Path) -> Result<Mapped, RowProblem> {
        let held_field = &self.config.hold_out.field;
        let held = !held_field.is_empty() && row.fields.get(held_field).is_some_and(|value| !value.is_null())
            || self.held_out_id(&row).is_some();
        if !held && !self.config.conditions.iter().all(|condition| meets(condition, &row.fields)) {
            return Ok(Mapped::Filtered);
        }
        let record = Box::new(self.record(row, file)?);
        Ok(if held { Mapped::HeldOut(record) } else { Mapped::Row(record) })
    }

    /// Returns the id of the row if the settings hold it out. It is compared as it is written, normalized and trimmed.
    pub(crate) fn held_out_id(&self, row: &RawRow) -> Option<&str> {
        if self.ids.is_empty() {
            return None;
        }
        let id = match row.fields.get("id")? {
            Value::String(id) => self.config.treatment().applied(id),
            id => id.to_string(),
        };
        self.ids.get(&id).map(String::as_str)
    }

    /// Returns the ids that the settings hold out. Each must occur in some row.
    pub(crate) fn held_out_ids(config: &Config) -> BTreeSet<String> {
        config.hold_out.ids.iter().map(|id| config.treatment().applied(id)).collect()
    }

    fn record(&self, mut row: RawRow, file: &Path) -> Result<Record, RowProblem> {
        let line = row.line;
        let treatment = self.config.treatment();
        let changes = treatment.apply(&mut row.fields);
        let group = self.group(&row)?;
        let columns = self.columns(&row);
        let mut input = None;
        if !self.templates.is_empty() {
            let mut fields = Map::new();
            for (name, template) in &self.templates {
                let filled = template.fill(&row)?;
                if *name == "prompt" {
                    input = Some(filled.fields).filter(|fields| !fields.is_empty());
                }
                fields.insert((*name).to_owned(), Value::String(treatment.normalized(&filled.text)));
            }
            for name in ["id", "group", "weight", "auth_weight", "prov_entropy"] {
                fields.extend(row.fields.remove(name).map(|value| (name.to_owned(), value)));
            }
            row = RawRow { line, fields };
        }
        let mut record = Record::from_row(row, file)?;
        record.group = group.or(record.group);
        record.input = input.or(record.input);
        record.changes = changes;
        record.columns = columns;
        if self.config.split.by == SplitBy::Group && record.group.is_none() {
            let hint = "name the fields of a group with `group_fields`, or set `split.by = \"ratio\"`";
            return Err(problem(line, "the row has no group".to_owned(), hint));
        }
        self.add_system(&mut record);
        Ok(record)
    }

    /// Returns the values of the columns to keep; a row may lack some.
    fn columns(&self, row: &RawRow) -> BTreeMap<String, String> {
        let value = |name: &String| {
            let text = match row.fields.get(name)? {
                Value::Null => return None,
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            Some((name.clone(), text))
        };
        self.config.columns.iter().filter_map(value).collect()
    }

    fn group(&self, row: &RawRow) -> Result<Option<String>, RowProblem> {
        let mut values = Vec::new();
        for name in self.group_fields {
            values.push(match row.fields.get(name) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Null) | None => {
                    let hint = "fill in every field of `group_fields`, or set `on_bad_row = \"skip\"` to leave such rows out";
                    return Err(problem(row.line, format!("the field `{name}` has no value"), hint));
                }
                Some(value) => value.to_string(),
            });
        }
        Ok((!values.is_empty()).then(|| dataset::text::normalize(&values.join(" / "))))
    }

    fn add_system(&self, record: &mut Record) {
        if self.system.is_empty() {
            return;
        }
        let system = json!({"role": "system", "content": self.config.treatment().normalized(self.system)});
        match &mut record.shape {
            Shape::Chat { messages, .. }
                if !["system", "developer"].iter().any(|role| messages[0]["role"] == *role) =>
            {
                messages.insert(0, system);
            }
            Shape::Completion { prompt, completion } => {
                let mut messages = as_messages(prompt, completion);
                messages.insert(0, system);
                record.shape = Shape::Chat { messages, tools: None };
            }
            Shape::Chat { .. } | Shape::Text(_) => {}
        }
    }
}

fn meets(condition: &Condition, fields: &Map<String, Value>) -> bool {
    let Some(value) = fields.get(&condition.field).filter(|value| !value.is_null()) else {
        return condition.or_null;
    };
    let number = || value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|n| n.is_finite());
    let words = || value.as_str().map(|text| text.split_whitespace().count());
    let equals = |scalar: &Scalar| match scalar {
        Scalar::Bool(expected) => value.as_bool() == Some(*expected),
        Scalar::Number(expected) => number() == Some(*expected),
        Scalar::Text(expected) => value.as_str() == Some(expected),
    };
    condition.equals.as_ref().is_none_or(equals)
        && (condition.one_of.is_empty() || condition.one_of.iter().any(equals))
        && condition.at_least.is_none_or(|least| number().is_some_and(|number| number >= least))
        && condition.at_most.is_none_or(|most| number().is_some_and(|number| number <= most))
        && condition.min_words.is_none_or(|least| words().is_some_and(|words| words >= least))
        && condition.max_words.is_none_or(|most| words().is_some_and(|words| words <= most))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: &Value) -> RawRow {
        RawRow { line: 3, fields: value.as_object().unwrap().clone() }
    }

    fn map(config: &str, fields: &Value) -> Result<Mapped, RowProblem> {
        let config: Config = toml::from_str(config).unwrap();
        assert_eq!(config.problems(), [""; 0]);
        Mapping::new(&config, None).map(row(fields), Path::new("a.jsonl"))
    }

    #[test]
    fn fields_fill_the_templates() {
        let config = "prompt = '{{x}} {haw}'\ncompletion = '{n}'\nsystem = 'Be brief.'\ngroup_fields = ['book', 'story']";
        let fields = json!({"haw": " aloha ", "n": 1.5, "id": 7, "book": 1, "story": "S"});
        let Mapped::Row(record) = map(config, &fields).unwrap() else { panic!() };
        assert_eq!((record.id.as_str(), record.group.as_deref()), ("7", Some("1 / S")));
        let Shape::Chat { messages, .. } = record.shape else { panic!() };
        let contents: Vec<_> = messages.iter().map(|message| message["content"].as_str().unwrap()).collect();
        assert_eq!(contents, ["Be brief.", "{x}  aloha ", "1.5"]);
    }

    #[test]
    fn columns_are_kept_as_text_beside_templates() {
        let config = "text = '{haw}'\ncolumns = ['kind', 'year', 'note']";
        let fields = json!({"haw": "aloha", "kind": "prose", "year": 1916, "note": null});
        let Mapped::Row(record) = map(config, &fields).unwrap() else { panic!() };
        let columns: Vec<_> = record.columns.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(columns, ["kind=prose", "year=1916"]);
        assert!(Mapping::fields(&toml::from_str(config).unwrap()).any(|name| name == "note"));
    }

    #[test]
    fn a_missing_field_is_named() {
        let problem = map("text = '{haw}'", &json!({"eng": "a", "haw": null})).unwrap_err();
        assert_eq!(problem.reason, "the field `haw` has no value");
        let problem = map("text = '{hawaiian}'", &json!({"eng": "a", "haw": "b"})).unwrap_err();
        assert_eq!(problem.reason, "the field `hawaiian` has no value");
        assert!(problem.hint.contains("`eng`, `haw`"));
    }

    #[test]
    fn conditions_hold_for_numbers_words_and_missing_values() {
        let passes = |condition: &str, fields: Value| {
            matches!(map(&format!("text = 't'\nwhere = [{condition}]"), &fields).unwrap(), Mapped::Row(_))
        };
        assert!(passes("{ field = 'a', equals = 'x' }", json!({"a": "x"})));
        assert!(!passes("{ field = 'a', equals = 'x' }", json!({"a": 1})));
        assert!(passes("{ field = 'a', equals = 1 }", json!({"a": 1.0})));
        assert!(passes("{ field = 'a', one_of = [1, 'b', true] }", json!({"a": true})));
        assert!(passes("{ field = 'a', at_least = 0.5, at_most = 2 }", json!({"a": "0.5"})));
        assert!(!passes("{ field = 'a', at_least = 0.5 }", json!({"a": null})));
        assert!(passes("{ field = 'a', at_least = 0.5, or_null = true }", json!({})));
        assert!(!passes("{ field = 'a', at_least = 0.5, or_null = true }", json!({"a": 0.4})));
        assert!(passes("{ field = 'a', min_words = 2, max_words = 3 }", json!({"a": "b c\nd"})));
        assert!(!passes("{ field = 'a', max_words = 3 }", json!({"a": "b c d e"})));
    }

    #[test]
    fn ids_are_compared_as_they_are_written() {
        let config = "text = 't'\ntrim = true\nnormalize = 'nfc'\nhold_out.ids = [' ha\u{304} ', 'b ']";
        for id in ["h\u{101}", " ha\u{304}", "b", " b "] {
            assert!(matches!(map(config, &json!({"id": id})).unwrap(), Mapped::HeldOut(_)), "{id}");
        }
        let spaced = map("text = 't'\nhold_out.ids = ['b ']", &json!({"id": "b"})).unwrap();
        assert!(matches!(spaced, Mapped::Row(_)), "without `trim` the space counts");
    }

    #[test]
    fn without_a_field_to_hold_out_no_key_holds_a_row_out() {
        let fields = json!({"": "x", "id": "a"});
        assert!(matches!(map("text = 't'", &fields).unwrap(), Mapped::Row(_)));
        assert!(matches!(map("text = 't'\nhold_out.ids = ['a']", &fields).unwrap(), Mapped::HeldOut(_)));
    }

    #[test]
    fn rows_are_held_out_by_field_or_id_before_conditions_apply() {
        let config =
            "text = 't'\nwhere = [{ field = 'k', equals = 1 }]\nhold_out = { field = 'h', ids = ['x', '5'] }";
        for fields in [json!({"h": 0}), json!({"id": "x"}), json!({"id": 5})] {
            assert!(matches!(map(config, &fields).unwrap(), Mapped::HeldOut(_)), "{fields}");
        }
        assert!(matches!(map(config, &json!({"h": null})).unwrap(), Mapped::Filtered));
    }
}
