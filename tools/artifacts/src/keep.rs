//! `keep`: artifacts that gc keeps.

use serde_json::{Value, json};

use crate::args::Keep;
use crate::catalog::Catalog;
use crate::error::Result;
use crate::roots;
use crate::show::open;
use crate::text::{self, Align, Table};

/// Keeps an artifact, stops keeping it, or lists what is kept.
pub(crate) fn run(catalog: &Catalog, options: &Keep) -> Result<()> {
    let Some(name) = &options.artifact else { return list(catalog, options.format.json) };
    let artifact = open(catalog, name)?;
    let manifest = artifact.manifest();
    let target = format!("{}/{}", manifest.stage, manifest.key.short());
    let message = if options.remove {
        if roots::release(&catalog.store, &artifact)? {
            format!("{target} may be removed by gc again")
        } else {
            format!("{target} was not kept")
        }
    } else {
        if catalog.store.find(&manifest.stage, &manifest.key, "")?.is_none() {
            return Err(crate::error::Error::NotFound {
                name: name.clone(),
                store: catalog.store.root().to_owned(),
            });
        }
        roots::keep(&catalog.store, &artifact, &options.note)?;
        format!("{target} and everything it was made from are kept")
    };
    if options.format.json {
        return list(catalog, true);
    }
    Ok(text::print(&format!("{message}\n"))?)
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
