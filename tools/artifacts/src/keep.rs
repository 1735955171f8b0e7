//! `keep`: artifacts that gc keeps.

use serde_json::{Value, json};

use crate::args::Keep;
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::locate::digits;
use crate::roots::{self, Kept};
use crate::show::open;
use crate::text::{self, Align, Table};

/// Keeps an artifact, stops keeping it, or lists what is kept.
pub(crate) fn run(catalog: &Catalog, options: &Keep) -> Result<()> {
    let Some(name) = &options.artifact else { return list(catalog, options.format.json) };
    let message = if options.remove { release(catalog, name)? } else { keep(catalog, name, &options.note)? };
    if options.format.json {
        return list(catalog, true);
    }
    Ok(text::print(&format!("{message}\n"))?)
}

/// Keeps the artifact `name`, which stays open until that is written, so that gc does not remove it meanwhile.
fn keep(catalog: &Catalog, name: &str, note: &str) -> Result<String> {
    let artifact = open(catalog, name)?;
    let manifest = artifact.manifest();
    if catalog.store.find(&manifest.stage, &manifest.key, "")?.is_none() {
        return Err(Error::NotFound { name: name.to_owned(), store: catalog.store.root().to_owned() });
    }
    let kept = roots::keep(&catalog.store, &artifact, note)?;
    Ok(format!("{} and everything it was made from are kept", kept.name()))
}

/// Stops keeping the artifact `name`. One that is gone is found by its key among those that are kept.
fn release(catalog: &Catalog, name: &str) -> Result<String> {
    let (stage, key) = if let Some(kept) = kept_as(catalog, name)? {
        (kept.stage, kept.key)
    } else {
        let artifact = open(catalog, name)?;
        (artifact.manifest().stage.clone(), artifact.manifest().key)
    };
    let is_released = roots::release(&catalog.store, &stage, key)?;
    let end = if is_released { "may be removed by gc again" } else { "was not kept" };
    Ok(format!("{stage}/{} {end}", key.short()))
}

/// Finds the kept artifact that a word names: `STAGE/KEY` or the first digits of a key.
fn kept_as(catalog: &Catalog, word: &str) -> Result<Option<Kept>> {
    let (stage, rest) = match word.trim_end_matches('/').rsplit_once('/') {
        Some((stage, rest)) => (Some(stage.rsplit('/').next().unwrap_or(stage)), rest),
        None => (None, word),
    };
    let Some(digits) = digits(rest) else { return Ok(None) };
    let mut kept = roots::kept(&catalog.store)?;
    kept.sort_by_key(Kept::name);
    kept.retain(|kept| {
        stage.is_none_or(|stage| kept.stage == stage) && kept.key.to_string().starts_with(digits)
    });
    // Several files may keep the same artifact.
    kept.dedup_by(|a, b| a.is_same(b));
    if kept.len() > 1 {
        let found = kept.iter().map(Kept::name).collect();
        return Err(Error::Ambiguous { name: word.to_owned(), found });
    }
    Ok(kept.pop())
}

fn list(catalog: &Catalog, as_json: bool) -> Result<()> {
    let kept = roots::kept(&catalog.store)?;
    let mut rows = Vec::new();
    for kept in &kept {
        rows.push((kept, catalog.store.find(&kept.stage, &kept.key, "")?.is_some()));
    }
    if as_json {
        let list: Vec<Value> = rows
            .iter()
            .map(|(kept, exists)| {
                json!({"stage": kept.stage, "key": kept.key, "note": kept.note, "exists": exists})
            })
            .collect();
        return Ok(text::print_json(&json!(list))?);
    }
    let mut table = Table::new(&[("kept", Align::Left), ("note", Align::Left)]);
    for (kept, exists) in rows {
        let state = if exists { "" } else { " (missing)" };
        table.row([format!("{}{state}", kept.name()), kept.note.clone()]);
    }
    if table.is_empty() {
        return Ok(text::print("nothing is kept\n")?);
    }
    Ok(text::print(&table.text())?)
}
