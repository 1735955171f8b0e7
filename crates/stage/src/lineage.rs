//! Whether the inputs of a run belong together: each was made from what the others are, not from another pipeline's artifacts.
//!
//! The manifest of an artifact records the tree hash of every output that its stage read. Wherever the producer of such an output
//! is an input too, the hashes must agree. Trees are compared, not keys: other settings may give the same bytes.

use std::collections::BTreeMap;
use std::path::Path;

use artifact::{InputRecord, Manifest, TreeHash};
use failure::{Error, Result};

use crate::input::Input;
use crate::lookup::read_manifest;

/// Stages that combine artifacts of several stages.
const CHECKED: [&str; 5] = ["validate", "select-best", "fuse", "evaluate", "report"];
/// The stage that trains, and the roles of its inputs with the stages and outputs that they come from.
const TRAIN: &str = "train";
const TRAINED_WITH: [(&str, &str, &str); 2] =
    [("model", "import-model", outputs::MODEL), ("tokens", "prepare-data", outputs::TOKENS)];

/// Role of an input that need not belong to the others, now or when an artifact that is given was made.
const ENCODER: &str = "encoder";

/// Fails if two inputs of `stage` contradict each other.
///
/// # Errors
///
/// Names the two artifacts (exit 65).
pub(crate) fn check(stage: &str, inputs: &BTreeMap<String, Input>) -> Result<()> {
    if !CHECKED.contains(&stage) {
        return Ok(());
    }
    // The encoder that compares texts is a model of its own.
    let related = inputs.iter().filter(|(role, input)| *role != ENCODER && input.artifact().is_some());
    let artifacts: Vec<&Input> = related.map(|(_, input)| input).collect();
    for input in &artifacts {
        let records = input.manifest().inputs.iter().filter(|(role, _)| *role != ENCODER);
        for (_, record) in records {
            check_record(input, record, &artifacts)?;
        }
        check_training(input, &artifacts)?;
    }
    Ok(())
}

/// Compares what an artifact was made from with the artifacts of the same stage that are given.
fn check_record(consumer: &Input, record: &InputRecord, given: &[&Input]) -> Result<()> {
    let Some(stage) = record.stage.as_deref().filter(|stage| is_upstream(stage, &consumer.manifest().stage))
    else {
        return Ok(());
    };
    let output = record.output.as_deref().unwrap_or_default();
    let producers: Vec<&&Input> = given.iter().filter(|input| input.manifest().stage == stage).collect();
    let matches = |input: &&&Input| tree_of(input.manifest(), output) == Some(record.tree);
    match producers.first() {
        Some(producer) if !producers.iter().any(matches) => {
            Err(mismatch(consumer.artifact_dir(), producer.artifact_dir(), output))
        }
        _ => Ok(()),
    }
}

/// Compares chosen adapters, which do not record what they were trained with, by means of the training runs beside them.
///
/// Several runs may have made the same checkpoints; one that fits is enough. Without any, nothing is known.
fn check_training(chosen: &Input, given: &[&Input]) -> Result<()> {
    let checkpoints = chosen.manifest().inputs.values().find(|record| record.stage.as_deref() == Some(TRAIN));
    let Some(record) = checkpoints.filter(|_| chosen.manifest().stage == "select-best") else {
        return Ok(());
    };
    let Some(folder) = chosen.artifact_dir().ancestors().nth(2).map(|store| store.join(TRAIN)) else {
        return Ok(());
    };
    let mut made = Vec::new();
    for entry in fs_err::read_dir(folder).into_iter().flatten().flatten() {
        let manifest = read_manifest(&entry.path());
        made.extend(manifest.filter(|it| tree_of(it, outputs::CHECKPOINTS) == Some(record.tree)));
    }
    let contradiction = |run: &Manifest| {
        TRAINED_WITH.iter().find_map(|&(role, stage, output)| {
            let read = run.inputs.get(role).filter(|read| read.stage.as_deref() == Some(stage))?.tree;
            let producers: Vec<&&Input> =
                given.iter().filter(|input| input.manifest().stage == stage).collect();
            let fits = producers.iter().any(|input| tree_of(input.manifest(), output) == Some(read));
            producers
                .first()
                .filter(|_| !fits)
                .map(|producer| mismatch(chosen.artifact_dir(), producer.artifact_dir(), output))
        })
    };
    let mut contradictions: Vec<Option<Error>> = made.iter().map(contradiction).collect();
    match contradictions.pop() {
        Some(Some(error)) if contradictions.iter().all(Option::is_some) => Err(error),
        _ => Ok(()),
    }
}

/// Returns whether `producer` comes before `consumer` in a pipeline. A stage may also read what a later stage of an earlier
/// pipeline made, such as losses that order the rows.
fn is_upstream(producer: &str, consumer: &str) -> bool {
    let position = |name: &str| outputs::STAGES.iter().position(|stage| stage.name == name);
    position(producer).zip(position(consumer)).is_some_and(|(producer, consumer)| producer < consumer)
}

/// Returns the tree hash of an output, or of all data if `output` is empty.
fn tree_of(manifest: &Manifest, output: &str) -> Option<TreeHash> {
    if output.is_empty() {
        Some(manifest.tree)
    } else {
        manifest.outputs.get(output).map(|output| output.tree)
    }
}

fn mismatch(consumer: &Path, producer: &Path, output: &str) -> Error {
    let what = if output.is_empty() { "data".to_owned() } else { format!("`{output}`") };
    Error::bad_input(format!(
        "the inputs do not belong together: `{}` was not made with the {what} of `{}`",
        consumer.display(),
        producer.display()
    ))
    .hinted("give artifacts of the same pipeline; a model of another one is compared as a plain folder, `ARTIFACT/data/model`")
}
