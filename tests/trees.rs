//! The bytes of every stage, pinned: the tree hash of its artifact on small data, by stage, version and numerics.
//!
//! A stage whose bytes change for unchanged settings must raise its `VERSION`. Then, or for a new kind of machine, run
//! `ASHLAR_BLESS=1 cargo test -p tests --test trees`, which adds the missing hashes to `tests/golden/trees.json` and never
//! replaces one. A version that was never released may be pinned anew: delete its entry first.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use artifact::{Artifact, Level};
use outputs::STAGES;
use testutil::{Program, SMALL_SETTINGS, Sandbox, built_programs, workspace_root};

/// Stage, with its version → numerics → tree hash.
type Trees = BTreeMap<String, BTreeMap<String, String>>;

const CHAIN: &str = r#"
    model=$(import-model $settings --model-dir "$root/data/models/demo")
    data=$(prepare-data $settings --tokenizer "$model" --data "$root/data/haw-eng")
    run=$(train $settings --model "$model" --dataset "$data")
    losses=$(validate $settings --model "$model" --dataset "$data" --train "$run")
    best=$(select-best $settings --train "$run" --validate "$losses")
    fused=$(fuse $settings --model "$model" --adapters "$best" --dataset "$data")
    scores=$(evaluate $settings --model base="$model" --model fused="$fused" --dataset "$data")
    report=$(report $settings --import-model "$model" --prepare-data "$data" --train "$run" --validate "$losses" \
        --select-best "$best" --fuse "$fused" --evaluate "$scores")
    printf '%s\n' "$model" "$data" "$run" "$losses" "$best" "$fused" "$scores" "$report"
"#;

/// Numerics of the stages that compute without floats, and before any that does.
const EVERY_MACHINE: &str = "every machine";

fn golden() -> PathBuf {
    workspace_root().join("tests/golden/trees.json")
}

/// Describes what floating-point results of the chain depend on: that of `train`, since later stages read its bytes.
fn numerics_of(artifact: &Artifact) -> String {
    let facts = &artifact.manifest().key_material.numerics;
    facts.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn stages_make_the_bytes_of_their_version() -> Result<()> {
    let sandbox = Sandbox::new();
    let path = format!("{}:{}", built_programs().display(), std::env::var("PATH")?);
    let settings = format!("--config {}", workspace_root().join(SMALL_SETTINGS).display());
    let mut shell: Program = sandbox.program("/bin/sh");
    shell.env("PATH", path).env("root", workspace_root()).env("settings", settings);
    let ran = shell.arg("-euc").arg(CHAIN).run();
    let mut known: Trees = serde_json::from_str(&fs_err::read_to_string(golden())?)?;
    let pinned = known.clone();
    let (mut missing, mut changed, mut numerics) = (Vec::new(), Vec::new(), EVERY_MACHINE.to_owned());
    for (path, stage) in ran.succeeded().lines().zip(STAGES) {
        let artifact = Artifact::open_with(&sandbox.path().join(path), Level::Hash)?;
        let manifest = artifact.manifest();
        if manifest.stage == "train" {
            numerics = numerics_of(&artifact);
        }
        let name = format!("{} {}", stage.name, manifest.stage_version);
        let tree = manifest.tree.to_string();
        match known.entry(name.clone()).or_default().insert(numerics.clone(), tree.clone()) {
            None => missing.push((name, numerics.clone())),
            Some(old) if old != tree => changed.push(format!("{name}: {tree}, pinned is {old}")),
            Some(_) => {}
        }
    }
    ensure!(
        changed.is_empty(),
        "the bytes changed, but not the version; raise `VERSION` of the first stage here: {changed:#?}"
    );
    if std::env::var_os("ASHLAR_BLESS").is_some() {
        let text = serde_json::to_string_pretty(&known).context("hashes are JSON")?;
        fs_err::write(golden(), text + "\n")?;
    } else if !missing.is_empty() {
        // A machine of a kind that was never pinned proves nothing; a new version on a known one must be pinned.
        let is_known =
            |(_, numerics): &(String, String)| pinned.values().any(|trees| trees.contains_key(numerics));
        let message = format!("no tree is pinned for {missing:?}; see the head of this test");
        ensure!(!missing.iter().any(is_known), message);
        eprintln!("skipped: {message}");
    }
    Ok(())
}
