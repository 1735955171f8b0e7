//! Presets through Make: one is pinned to the commit and the files of a hub, and an unknown name is answered with the nearest.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use testutil::files::{copy, remove, sha256_hex};
use testutil::hub::{HubServer, Repo};
use testutil::{Program, built_programs, golden_dir, workspace_root};

const ID: &str = "org/tiny";
const PRESET: &str = "# A model for tests.\n[import-model]\nid = \"org/tiny\"\nlicense = \"mit\"\n";
const FILES: [&str; 4] = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

fn golden(name: &str) -> Result<Vec<u8>> {
    Ok(fs_err::read(golden_dir().join("llama").join(name))?)
}

/// Returns a run of make in a copy of what it reads, with the preset `tiny`.
fn checkout(name: &str) -> Result<impl Fn(&str, &str) -> Program> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("presets").join(name);
    remove(&folder);
    fs_err::create_dir_all(&folder)?;
    for name in ["Makefile", "pipelines"] {
        copy(&workspace_root().join(name), &folder.join(name));
    }
    fs_err::write(folder.join("pipelines/models/tiny.toml"), PRESET)?;
    Ok(move |target: &str, model: &str| {
        let mut make = Program::new("make");
        make.current_dir(&folder).env("HF_HOME", folder.join("home"));
        make.args([target, &format!("MODEL={model}"), &format!("BIN={}", built_programs().display())]);
        make
    })
}

#[test]
fn a_pinned_preset_names_commit_and_hashes_and_needs_no_network() -> Result<()> {
    let mut repo = Repo::new(ID);
    for name in FILES {
        repo = if name == "model.safetensors" {
            repo.lfs(name, &golden(name)?)
        } else {
            repo.file(name, &golden(name)?)
        };
    }
    let commit = repo.commit().to_owned();
    let hub = HubServer::start(vec![repo]);
    let make = checkout("pin")?;
    let preset = Path::new(env!("CARGO_TARGET_TMPDIR")).join("presets/pin/pipelines/models/tiny.toml");
    make("pin", "tiny").env("HF_ENDPOINT", hub.endpoint()).run().succeeded();
    let pinned = fs_err::read_to_string(&preset)?;
    ensure!(pinned.starts_with("# A model for tests.\n") && pinned.contains("license = \"mit\""), "{pinned}");
    ensure!(pinned.contains(&format!("revision = \"{commit}\"")), "{pinned}");
    for name in FILES {
        let hash = sha256_hex(&golden(name)?);
        ensure!(pinned.contains(&format!("\"{name}\" = \"{hash}\"")), "{name}: {pinned}");
    }
    // A second time changes nothing, and the pinned model comes from the store.
    make("pin", "tiny").env("HF_ENDPOINT", hub.endpoint()).run().succeeded();
    ensure!(fs_err::read_to_string(&preset)? == pinned);
    hub.forget();
    make("import-model", "tiny")
        .env("HF_ENDPOINT", hub.endpoint())
        .env("HF_HUB_OFFLINE", "1")
        .run()
        .succeeded();
    ensure!(hub.requests().is_empty(), "a pinned model was requested");
    Ok(())
}

#[test]
fn an_unknown_preset_is_answered_with_the_list_and_the_nearest_name() -> Result<()> {
    let make = checkout("unknown")?;
    for (model, nearest) in
        [("nope", None), ("smollm2-135", Some("smollm2-135m")), ("gemma3-4b", Some("gemma-3-4b"))]
    {
        let said = make("pipeline", model).run().failed(2);
        ensure!(said.contains(&format!("error: there is no model preset `{model}`")), "{said}");
        let hint = said.lines().find_map(|line| line.strip_prefix("hint: the nearest name is `MODEL="));
        let hint = hint.with_context(|| said.clone())?.trim_end_matches('`');
        ensure!(nearest.is_none_or(|nearest| nearest == hint), "{model}: {hint}");
        for entry in fs_err::read_dir(workspace_root().join("pipelines/models"))? {
            let path = entry?.path();
            let name = path.file_stem().and_then(|name| name.to_str()).context("not text")?;
            ensure!(said.lines().any(|line| line.trim() == name), "`{name}` is not listed:\n{said}");
        }
    }
    Ok(())
}
