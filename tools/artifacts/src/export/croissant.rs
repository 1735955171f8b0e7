//! A dataset as Croissant 1.0: the rows of each split, with their hashes and fields.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use artifact::Artifact;
use serde_json::{Map, Value, json};

use super::{chain_name, copy, write as write_text};
use crate::error::{Result, bad_file};

/// Name of the file that describes the dataset.
const METADATA: &str = "croissant.json";
/// Maximum size of a row in bytes.
const ROW_BYTES: u64 = 64 << 20;

fn is_jsonl(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "jsonl")
}

/// Writes the rows of a dataset and their description.
pub(super) fn write(artifact: &Artifact, to: &Path) -> Result<()> {
    let rows: Vec<_> = artifact
        .manifest()
        .files
        .iter()
        .filter(|file| file.role == outputs::ROWS && is_jsonl(&file.path))
        .collect();
    if rows.is_empty() {
        return Err(bad_file(
            artifact.path(),
            format!("has no rows: its outputs do not contain `{}`", outputs::ROWS),
        ));
    }
    let (mut distribution, mut record_sets) = (Vec::new(), Vec::new());
    for file in rows {
        let name = file.path.rsplit('/').next().unwrap_or(&file.path).to_owned();
        let split = name.trim_end_matches(".jsonl");
        copy(&artifact.data_dir().join(&file.path), &to.join(&name))?;
        distribution.push(json!({
            "@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": name,
            "contentSize": format!("{} B", file.size), "encodingFormat": "application/jsonlines", "sha256": file.sha256,
        }));
        let columns = Columns::read(&to.join(&name))?;
        let fields = columns.fields(split, &name);
        if !fields.is_empty() {
            record_sets.push(json!({
                "@type": "cr:RecordSet", "@id": split, "name": split, "description": describe(split, &columns.left_out()),
                "field": fields,
            }));
        }
    }
    let provenance = artifact.provenance()?;
    let manifest = artifact.manifest();
    let mut dataset = json!({
        "@context": context(), "@type": "sc:Dataset", "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": format!("ashlar-{}", manifest.key.short()),
        "description": format!("Dataset `{}`, made by Ashlar; tree hash {}", chain_name(artifact), manifest.tree),
        "version": format!("{}.0.0", manifest.stage_version),
        "identifier": format!("urn:ashlar:artifact:{}:{}", manifest.stage, manifest.key),
        "distribution": distribution, "recordSet": record_sets,
    });
    if let Some(time) = provenance.get("end") {
        dataset["datePublished"] = time.clone();
    }
    write_text(&to.join(METADATA), &format!("{dataset:#}\n"))
}

/// Describes a split; names what its fields do not show.
fn describe(split: &str, left_out: &[String]) -> String {
    if left_out.is_empty() {
        return format!("Rows of the split `{split}`");
    }
    format!("Rows of the split `{split}`; only the file has {}", left_out.join(", "))
}

/// The columns of a file: for each name, the type of its values.
#[derive(Default)]
struct Columns(BTreeMap<String, Column>);

/// What the rows hold under one name.
#[derive(Default)]
struct Column {
    /// Type of the values, or of those in its lists.
    kind: Option<&'static str>,
    /// Whether there are lists of values.
    is_repeated: bool,
    /// Types of the fields of objects in its lists, with the number of objects that have each.
    parts: BTreeMap<String, (&'static str, u64)>,
    /// Number of objects in its lists.
    objects: u64,
    /// Whether there are other values: lists of lists, objects.
    is_nested: bool,
}

impl Columns {
    /// Reads all rows of a file.
    fn read(path: &Path) -> Result<Self> {
        let mut columns = Self::default();
        let mut reader = BufReader::new(fs_err::File::open(path)?);
        let mut line = String::new();
        while {
            line.clear();
            reader.by_ref().take(ROW_BYTES).read_line(&mut line)? > 0
        } {
            let row: Map<String, Value> = serde_json::from_str(&line)
                .map_err(|error| bad_file(path, format!("has no rows of JSON objects: {error}")))?;
            for (name, value) in row {
                columns.0.entry(name).or_default().add(&value);
            }
        }
        Ok(columns)
    }

    /// Describes the columns as fields of `split`.
    fn fields(&self, split: &str, file: &str) -> Vec<Value> {
        let mut fields = Vec::new();
        for (name, column) in &self.0 {
            if let Some(kind) = column.kind.filter(|_| !column.is_mixed()) {
                let mut field = field(split, file, name, name, kind);
                if column.is_repeated {
                    field["repeated"] = true.into();
                }
                fields.push(field);
            }
            // Parts of messages and the like: one field for each name, with a value for each object.
            for (part, kind) in column.parts() {
                let mut field = field(split, file, name, &format!("{name}.{part}"), kind);
                field["repeated"] = true.into();
                field["source"]["transform"] = json!({"jsonPath": format!("$[*].{part}")});
                fields.push(field);
            }
        }
        fields
    }

    /// Names the columns, and the parts of objects, that no field describes.
    fn left_out(&self) -> Vec<String> {
        let columns = self.0.iter().flat_map(|(name, column)| {
            let described: BTreeSet<&String> = column.parts().map(|(part, _)| part).collect();
            let parts = column.parts.keys().filter(move |part| !described.contains(part));
            let whole = (column.is_nested || column.is_mixed()).then(|| name.clone());
            whole.into_iter().chain(parts.map(move |part| format!("{name}.{part}")))
        });
        columns.collect()
    }
}

impl Column {
    fn add(&mut self, value: &Value) {
        match value {
            Value::Null => {}
            Value::Array(items) => {
                self.is_repeated = true;
                for item in items {
                    self.add_item(item);
                }
            }
            value => self.add_scalar(value),
        }
    }

    fn add_item(&mut self, item: &Value) {
        let Some(object) = item.as_object() else { return self.add_scalar(item) };
        self.objects += 1;
        for (part, value) in object {
            let (kind, count) = self.parts.entry(part.clone()).or_insert((NESTED, 0));
            *kind = if *count == 0 { kind_of(value) } else { common(kind, kind_of(value)) };
            *count += 1;
        }
    }

    fn add_scalar(&mut self, value: &Value) {
        match kind_of(value) {
            NESTED => self.is_nested = true,
            kind => self.kind = Some(self.kind.map_or(kind, |known| common(known, kind))),
        }
    }

    /// Returns whether no one description fits all values.
    fn is_mixed(&self) -> bool {
        self.is_nested || (self.kind.is_some() && self.objects > 0)
    }

    /// Returns the parts that every object has, so that the values of one object stand at one place in all of their lists.
    fn parts(&self) -> impl Iterator<Item = (&String, &'static str)> {
        let all = self.parts.iter().filter(|_| !self.is_mixed());
        all.filter(|(_, (kind, count))| *count == self.objects && *kind != NESTED)
            .map(|(part, (kind, _))| (part, *kind))
    }
}

/// Stands for a value that is no text, number or truth value.
const NESTED: &str = "";

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "sc:Boolean",
        Value::Number(number) if number.is_i64() || number.is_u64() => "sc:Integer",
        Value::Number(_) => "sc:Float",
        Value::String(_) => "sc:Text",
        _ => NESTED,
    }
}

/// Returns a type that holds values of both types.
fn common(one: &'static str, other: &'static str) -> &'static str {
    match (one, other) {
        _ if one == other => one,
        (NESTED, _) | (_, NESTED) => NESTED,
        ("sc:Integer", "sc:Float") | ("sc:Float", "sc:Integer") => "sc:Float",
        _ => "sc:Text",
    }
}

/// Describes a field that is read from a column.
fn field(split: &str, file: &str, column: &str, name: &str, kind: &str) -> Value {
    json!({
        "@type": "cr:Field", "@id": format!("{split}/{name}"), "name": name, "description": format!("Field `{name}` of a row"),
        "dataType": kind, "source": {"fileObject": {"@id": file}, "extract": {"column": column}},
    })
}

/// Returns the context that Croissant 1.0 prescribes.
fn context() -> Value {
    json!({
        "@language": "en", "@vocab": "https://schema.org/", "citeAs": "cr:citeAs", "column": "cr:column",
        "conformsTo": "dct:conformsTo", "cr": "http://mlcommons.org/croissant/", "data": {"@id": "cr:data", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "dct": "http://purl.org/dc/terms/",
        "equivalentProperty": "cr:equivalentProperty", "examples": {"@id": "cr:examples", "@type": "@json"}, "extract": "cr:extract", "field": "cr:field",
        "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty", "fileSet": "cr:fileSet", "format": "cr:format",
        "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath", "key": "cr:key",
        "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path", "rai": "http://mlcommons.org/croissant/RAI/",
        "recordSet": "cr:recordSet", "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated",
        "replace": "cr:replace", "samplingRate": "cr:samplingRate", "sc": "https://schema.org/", "separator": "cr:separator", "source": "cr:source",
        "subField": "cr:subField", "transform": "cr:transform",
    })
}
