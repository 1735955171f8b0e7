//! Answers and scores that were made elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dataset::RowReader;
use failure::{Error, Result};
use indexmap::IndexMap;
use serde_json::{Map, Value};

use crate::answers::Answer;
use crate::rows::{Row, Rows};

/// Fields that name a row, the first one present counts.
const IDS: [&str; 3] = ["id", "row_id", "row"];
/// Fields with an answer, the first one present counts.
const ANSWERS: [&str; 4] = ["prediction", "answer", "output", "hypothesis"];
/// Fields of a row that are not columns for subgroups.
const OTHERS: [&str; 9] =
    ["prompt", "input", "source", "reference", "group", "losses", "predictions", "scores", "failures"];
/// Name of the split of rows that a file describes.
const EXTERNAL: &str = "external";
/// Rows that an error lists.
const LISTED: usize = 5;

/// Reads all rows of a file in any format that `prepare-data` reads.
fn read(path: &Path) -> Result<Vec<Map<String, Value>>> {
    let mut reader = RowReader::open(path)?;
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row()? {
        rows.push(row.map_err(|problem| problem.in_file(path))?.fields);
    }
    Ok(rows)
}

/// Returns a value as text; nothing for null and missing values.
fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// Returns a text without what preparing data may change: white space at its ends, and how letters are composed.
fn plain(text: &str) -> String {
    dataset::text::normalize(text.trim())
}

fn first(fields: &Map<String, Value>, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| text(fields.get(*name)))
}

/// A file with answers.
#[derive(Debug)]
pub(crate) struct PredictionsFile {
    rows: Vec<Map<String, Value>>,
    place: String,
    name: String,
}

impl PredictionsFile {
    /// Reads the answers of the subject `name`.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be read, or when a row names itself twice or not at all while others do.
    pub(crate) fn read(path: &Path, name: &str) -> Result<Self> {
        let rows = read(path)?;
        let place = path.display().to_string();
        if rows.is_empty() {
            return Err(Error::bad_input(format!("`{place}` has no rows")).hinted("write one row per answer"));
        }
        refuse_without_answers(&rows, &place, name)?;
        let ids: Vec<Option<String>> = rows.iter().map(|row| first(row, &IDS)).collect();
        let mut known = BTreeSet::new();
        for (number, id) in (1..).zip(&ids) {
            let problem = match id {
                None if ids.iter().all(Option::is_none) => continue,
                None => format!("`{place}`: row {number} has no `id`, although others do"),
                Some(id) if !known.insert(id.as_str()) => format!("`{place}`: the id `{id}` occurs twice"),
                Some(_) => continue,
            };
            return Err(Error::bad_input(problem).hinted("give every row the id of its row in the dataset"));
        }
        Ok(Self { rows, place, name: name.to_owned() })
    }

    /// Returns the rows that the file itself describes, for an evaluation without a dataset.
    ///
    /// # Errors
    ///
    /// Fails when a row has no `reference`.
    pub(crate) fn described_rows(&self) -> Result<Rows> {
        let rows = (1..).zip(&self.rows).map(|(number, fields)| {
            let reference = text(fields.get("reference")).ok_or_else(|| {
                let message = format!("`{}`: row {number} has no `reference`", self.place);
                Error::bad_input(message)
                    .hinted("add the expected answers, or give the dataset with `--dataset`")
            })?;
            let prompt = text(fields.get("prompt")).unwrap_or_default();
            let is_column =
                |name: &str| !IDS.contains(&name) && !ANSWERS.contains(&name) && !OTHERS.contains(&name);
            let columns = fields.iter().filter(|(name, _)| is_column(name));
            let columns = columns.filter_map(|(name, value)| Some((name.clone(), text(Some(value))?)));
            Ok(Row {
                id: first(fields, &IDS).unwrap_or_else(|| format!("row-{number}")),
                group: text(fields.get("group")),
                columns: columns.collect(),
                source: first(fields, &["input", "source"]).unwrap_or_else(|| prompt.clone()),
                prompt,
                has_reference: true,
                reference,
                ..Row::default()
            })
        });
        let all = rows.collect::<Result<Vec<Row>>>()?;
        let asked = (0..all.len()).collect();
        Ok(Rows { split: EXTERNAL.to_owned(), all, asked })
    }

    /// Returns the answers by index of the row; a row of `asked` that the file lacks has failed.
    ///
    /// Rows are matched by id. A file without ids must have one row per row of the split, in the same order.
    ///
    /// # Errors
    ///
    /// Fails when the file has other rows.
    pub(crate) fn answers(&self, rows: &Rows) -> Result<BTreeMap<usize, Answer>> {
        let has_ids = self.rows.first().is_some_and(|row| first(row, &IDS).is_some());
        if !has_ids && self.rows.len() != rows.all.len() {
            let (here, there) = (self.rows.len(), rows.all.len());
            let message = format!("`{}` has {here} rows without ids, but the split has {there}", self.place);
            return Err(Error::bad_input(message).hinted("give every row the id of its row in the dataset"));
        }
        let ids: Vec<String> = if has_ids {
            self.rows.iter().filter_map(|row| first(row, &IDS)).collect()
        } else {
            rows.all.iter().map(|row| row.id.clone()).collect()
        };
        let known: BTreeSet<&str> = rows.ids().into_iter().collect();
        let unknown: Vec<_> = ids.iter().filter(|id| !known.contains(id.as_str())).collect();
        if !unknown.is_empty() {
            let listed: Vec<_> = unknown.iter().take(LISTED).map(|id| format!("`{id}`")).collect();
            let message = format!(
                "`{}` answers {} rows that the split does not have, such as {}",
                self.place,
                unknown.len(),
                listed.join(", ")
            );
            return Err(
                Error::bad_input(message).hinted("give answers to the rows of this dataset's test split")
            );
        }
        let by_id: BTreeMap<&str, &Map<String, Value>> =
            ids.iter().map(String::as_str).zip(&self.rows).collect();
        let differs = |row: &&Row| {
            let given = by_id.get(row.id.as_str()).and_then(|fields| text(fields.get("reference")));
            rows.split == EXTERNAL && given.is_some_and(|given| plain(&given) != plain(&row.reference))
        };
        if let Some(row) = rows.all.iter().find(differs) {
            let message =
                format!("`{}`: row `{}` has another `reference` than the row it answers", self.place, row.id);
            return Err(Error::bad_input(message)
                .hinted("give answers to the same rows, or leave `reference` out of this file"));
        }
        let answer = |&index: &usize| {
            let fields = by_id.get(rows.all[index].id.as_str());
            (index, fields.map_or_else(|| self.missing(), |fields| self.answer(fields)))
        };
        Ok(rows.asked.iter().map(answer).collect())
    }

    fn answer(&self, fields: &Map<String, Value>) -> Answer {
        // A file that evaluate wrote has the answers of all models.
        let own = fields.get("predictions").and_then(|all| text(all.get(&self.name)));
        own.or_else(|| first(fields, &ANSWERS)).map_or_else(|| self.missing(), Answer::new)
    }

    fn missing(&self) -> Answer {
        let file = Path::new(&self.place).file_name().unwrap_or_default().to_string_lossy();
        Answer::failed(format!("`{file}` has no answer"))
    }
}

/// Refuses a file of which no row can have an answer, so that a wrong name does not score 0.
///
/// # Errors
///
/// Names the fields of the first row, or the models that a file of evaluate has.
fn refuse_without_answers(rows: &[Map<String, Value>], place: &str, name: &str) -> Result<()> {
    if rows.iter().any(|row| ANSWERS.iter().any(|field| row.contains_key(*field))) {
        return Ok(());
    }
    let models: BTreeSet<&str> = rows
        .iter()
        .filter_map(|row| row.get("predictions")?.as_object())
        .flat_map(|all| all.keys())
        .map(String::as_str)
        .collect();
    if models.contains(name) {
        return Ok(());
    }
    let listed = |names: Vec<&str>| names.into_iter().take(LISTED).collect::<Vec<_>>().join("`, `");
    if models.is_empty() {
        let fields = listed(rows[0].keys().map(String::as_str).collect());
        return Err(Error::bad_input(format!("`{place}` has no answers; its fields are `{fields}`"))
            .hinted(format!("name the field of the answer `{}`", ANSWERS[0])));
    }
    let models = listed(models.into_iter().collect());
    Err(Error::bad_input(format!("`{place}` has no answers of `{name}`, only of `{models}`"))
        .hinted("give the file under the name of one of its models: `--predictions MODEL=FILE`"))
}

/// Scores of many systems on the same rows.
#[derive(Debug, Default)]
pub(crate) struct ScoresFile {
    /// Ids of the rows, in the order in which they occur.
    pub(crate) rows: Vec<String>,
    /// Groups of the rows.
    pub(crate) groups: Vec<Option<String>>,
    /// Values of the columns that divide the rows into subgroups.
    pub(crate) columns: BTreeMap<String, Vec<Option<String>>>,
    /// Scores by system and metric, one per row; `None` where the file has none.
    pub(crate) systems: IndexMap<String, IndexMap<String, Vec<Option<f64>>>>,
}

/// Fields of a file of scores that name the system.
const SYSTEMS: [&str; 2] = ["model", "system"];
/// Remedy for a file of scores of another form.
const SCORES_HINT: &str = "write one row per model and row: `model`, `id` and one column per score";

impl ScoresFile {
    /// Reads a file with one row per system and row: `model` (or `system`), `id` (or `row_id`), perhaps `group`, and numbers. The
    /// columns `labels` may have any text.
    ///
    /// # Errors
    ///
    /// Fails when a row lacks its model or id, when a score is not a number, when one is given twice, and when no row has one of
    /// the labels.
    pub(crate) fn read(path: &Path, labels: &[&str]) -> Result<Self> {
        let place = path.display();
        let mut cells = Cells::default();
        for (number, fields) in (1..).zip(&read(path)?) {
            cells.add(fields, labels).map_err(|reason| {
                Error::bad_input(format!("`{place}`: row {number} {reason}")).hinted(SCORES_HINT)
            })?;
        }
        if cells.metrics.is_empty() {
            let missing = if cells.rows.is_empty() { "rows" } else { "scores" };
            return Err(Error::bad_input(format!("`{place}` has no {missing}")).hinted(SCORES_HINT));
        }
        if let Some(unknown) = labels.iter().find(|label| !cells.labels.contains_key(**label)) {
            let message = format!("`subgroups` has `{unknown}`, a column that no row of `{place}` has");
            return Err(Error::usage(message).hinted("use `group` or a column of the file"));
        }
        Ok(cells.into_file())
    }
}

/// A file of scores while it is read: what every row gives, by index of the row that was scored.
#[derive(Default)]
struct Cells {
    /// Groups by id of the row.
    rows: IndexMap<String, Option<String>>,
    /// Names of the scores, in the order in which they occur.
    metrics: Vec<String>,
    /// Scores by system and name.
    systems: IndexMap<String, IndexMap<String, BTreeMap<usize, Option<f64>>>>,
    /// Texts by name of the column.
    labels: BTreeMap<String, BTreeMap<usize, String>>,
}

impl Cells {
    /// Adds a row of the file.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with it.
    fn add(&mut self, fields: &Map<String, Value>, labels: &[&str]) -> Result<(), String> {
        let system = first(fields, &SYSTEMS).ok_or("has no `model`")?;
        let id = first(fields, &IDS).ok_or("has no `id`")?;
        let row = self.rows.insert_full(id, text(fields.get("group"))).0;
        let scores = self.systems.entry(system).or_default();
        for (name, value) in fields {
            if name == "group" || SYSTEMS.contains(&name.as_str()) || IDS.contains(&name.as_str()) {
                continue;
            }
            if labels.contains(&name.as_str()) {
                if let Some(value) = text(Some(value)) {
                    self.labels.entry(name.clone()).or_default().entry(row).or_insert(value);
                }
                continue;
            }
            let score = number_of(value).map_err(|text| format!("has `{text}` as `{name}`"))?;
            if !self.metrics.contains(name) {
                self.metrics.push(name.clone());
            }
            if scores.entry(name.clone()).or_default().insert(row, score).is_some() {
                return Err(format!("gives `{name}` of the same model and row again"));
            }
        }
        Ok(())
    }

    /// Fills in what no row gives.
    fn into_file(self) -> ScoresFile {
        let count = self.rows.len();
        let systems = self.systems.into_iter().map(|(system, mut scores)| {
            let column = |name: &String| {
                let found = scores.swap_remove(name).unwrap_or_default();
                (name.clone(), (0..count).map(|row| found.get(&row).copied().flatten()).collect())
            };
            (system, self.metrics.iter().map(column).collect())
        });
        let columns = self.labels.into_iter().map(|(name, mut values)| {
            let values = (0..count).map(|row| values.remove(&row));
            (name, values.collect())
        });
        let (systems, columns) = (systems.collect(), columns.collect());
        let (rows, groups) = self.rows.into_iter().unzip();
        ScoresFile { rows, groups, columns, systems }
    }
}

/// Returns a score; nothing for an empty cell.
fn number_of(value: &Value) -> Result<Option<f64>, String> {
    let number = match value {
        Value::Null => return Ok(None),
        Value::Number(number) => number.as_f64(),
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    match number.filter(|number| number.is_finite()) {
        Some(number) => Ok(Some(number)),
        None => Err(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), content).unwrap();
        file
    }

    fn rows(ids: &[&str]) -> Rows {
        let all = ids.iter().map(|id| Row { id: (*id).to_owned(), ..Row::default() }).collect();
        Rows { split: "test".to_owned(), all, asked: (0..ids.len()).collect() }
    }

    #[test]
    fn answers_are_matched_by_id_and_missing_ones_have_failed() {
        let file = file("{\"id\":\"b\",\"prediction\":\"B\"}\n{\"id\":\"a\",\"prediction\":null}\n");
        let answers =
            PredictionsFile::read(file.path(), "x").unwrap().answers(&rows(&["a", "b", "c"])).unwrap();
        assert_eq!(answers[&1], Answer::new("B"));
        assert!(answers[&0].text.is_err() && answers[&2].text.is_err());
    }

    #[test]
    fn rows_of_another_split_are_refused() {
        let file = file("id,prediction\na,1\nz,2\n");
        let error = PredictionsFile::read(file.path(), "x").unwrap().answers(&rows(&["a"])).unwrap_err();
        assert!(error.to_string().contains("`z`"), "{error}");
        let twice = self::file("id,prediction\na,1\na,2\n");
        assert!(PredictionsFile::read(twice.path(), "x").is_err());
        let short = self::file("prediction\n1\n");
        assert!(PredictionsFile::read(short.path(), "x").unwrap().answers(&rows(&["a", "b"])).is_err());
    }

    #[test]
    fn answers_to_other_references_are_refused() {
        let first = file("{\"id\":\"a\",\"reference\":\"ō\",\"prediction\":\"x\"}\n");
        let rows = PredictionsFile::read(first.path(), "x").unwrap().described_rows().unwrap();
        let answers =
            |content: &str| PredictionsFile::read(file(content).path(), "y").unwrap().answers(&rows);
        assert!(answers("{\"id\":\"a\",\"reference\":\" o\u{304}\",\"prediction\":\"x\"}\n").is_ok());
        let other = answers("{\"id\":\"a\",\"reference\":\"u\",\"prediction\":\"x\"}\n").unwrap_err();
        assert!(other.to_string().contains("row `a` has another `reference`"), "{other}");
    }

    #[test]
    fn a_file_of_evaluate_is_read_by_the_name_of_the_model() {
        let file =
            file("{\"id\":\"a\",\"reference\":\"R\",\"predictions\":{\"base\":\"B\",\"fused\":null}}\n");
        let read = |name| PredictionsFile::read(file.path(), name).unwrap();
        let described = read("base").described_rows().unwrap();
        assert_eq!((described.all[0].reference.as_str(), described.all[0].columns.len()), ("R", 0));
        assert_eq!(read("base").answers(&described).unwrap()[&0], Answer::new("B"));
        assert!(read("fused").answers(&described).unwrap()[&0].text.is_err());
    }

    #[test]
    fn files_without_answers_are_refused_and_named() {
        let said = |content: &str, name| {
            PredictionsFile::read(file(content).path(), name).expect_err("a refusal").to_string()
        };
        assert!(
            said("{\"id\":\"a\",\"text\":\"x\",\"reference\":\"y\"}\n", "x")
                .contains("`id`, `text`, `reference`")
        );
        assert!(
            said("{\"id\":\"a\",\"predictions\":{\"base\":\"B\"}}\n", "tuned").contains("only of `base`")
        );
        assert!(said("id,prediction\n", "x").contains("no rows"));
        // A file in which every answer is missing is an honest zero.
        assert!(PredictionsFile::read(file("{\"id\":\"a\",\"prediction\":null}\n").path(), "x").is_ok());
    }

    #[test]
    fn scores_are_a_table_of_systems_rows_and_metrics() {
        let file = file("row_id,model,similarity\n0,a,0.5\n1,a,\n0,b,0.25\n");
        let scores = ScoresFile::read(file.path(), &[]).unwrap();
        assert_eq!(scores.rows, ["0", "1"]);
        assert_eq!(scores.systems["a"]["similarity"], [Some(0.5), None]);
        assert_eq!(scores.systems["b"]["similarity"], [Some(0.25), None]);
        for wrong in ["model,id,x\na,0,nan\n", "model,id,x\na,0,1\na,0,2\n", "model,x\na,1\n", "id,x\na,1\n"]
        {
            assert!(ScoresFile::read(self::file(wrong).path(), &[]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_of_scores_may_be_text() {
        let file = file("id,model,kind,similarity\n0,a,prose,0.5\n1,a,chant,0.2\n0,b,prose,0.25\n1,b,,0.1\n");
        let scores = ScoresFile::read(file.path(), &["kind"]).unwrap();
        assert_eq!(scores.columns["kind"], [Some("prose".to_owned()), Some("chant".to_owned())]);
        assert_eq!(scores.systems["b"].keys().collect::<Vec<_>>(), ["similarity"]);
        assert!(ScoresFile::read(file.path(), &["kind", "year"]).unwrap_err().to_string().contains("`year`"));
    }
}
