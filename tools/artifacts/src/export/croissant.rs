//! A dataset as Croissant 1.0: the rows of each split, with their hashes and fields.

use std::io::{BufRead as _, BufReader};
use std::path::Path;

use artifact::Artifact;
use serde_json::{Map, Value, json};

use super::{chain_name, copy, write as write_text};
use crate::error::{Result, bad_file};

/// Name of the file that describes the dataset.
const METADATA: &str = "croissant.json";
/// Longest row that is read to learn the fields.
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
        let fields = fields(&to.join(&name), split, &name)?;
        if !fields.is_empty() {
            record_sets.push(json!({
                "@type": "cr:RecordSet", "@id": split, "name": split, "description": format!("Rows of the split `{split}`"),
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

/// Describes the fields of the first row, and of the objects in its lists.
fn fields(path: &Path, split: &str, file: &str) -> Result<Vec<Value>> {
    use std::io::Read as _;
    let mut line = String::new();
    BufReader::new(fs_err::File::open(path)?).take(ROW_BYTES).read_line(&mut line)?;
    if line.is_empty() {
        return Ok(Vec::new());
    }
    let row: Map<String, Value> = serde_json::from_str(&line)
        .map_err(|error| bad_file(path, format!("has no rows of JSON objects: {error}")))?;
    let mut fields = Vec::new();
    for (name, value) in &row {
        match value {
            // Parts of messages and the like: one field for each name, with a value for each object.
            Value::Array(items) if items.first().is_some_and(Value::is_object) => {
                for (part, value) in
                    items[0].as_object().into_iter().flatten().filter(|(_, value)| is_scalar(value))
                {
                    let mut field = field(split, file, name, &format!("{name}.{part}"), value);
                    field["repeated"] = true.into();
                    field["source"]["transform"] = json!({"jsonPath": format!("$[*].{part}")});
                    fields.push(field);
                }
            }
            Value::Array(items) if items.first().is_some_and(is_scalar) => {
                let mut field = field(split, file, name, name, &items[0]);
                field["repeated"] = true.into();
                fields.push(field);
            }
            value if is_scalar(value) => fields.push(field(split, file, name, name, value)),
            _ => {}
        }
    }
    Ok(fields)
}

fn is_scalar(value: &Value) -> bool {
    value.is_boolean() || value.is_number() || value.is_string()
}

/// Describes a field that is read from a column.
fn field(split: &str, file: &str, column: &str, name: &str, value: &Value) -> Value {
    let kind = match value {
        Value::Bool(_) => "sc:Boolean",
        Value::Number(number) if number.is_i64() || number.is_u64() => "sc:Integer",
        Value::Number(_) => "sc:Float",
        _ => "sc:Text",
    };
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
