//! Leftovers of killed runs: which of them may be removed, and how to remove each kind without harming a running stage.

use std::time::{Duration, SystemTime};

use artifact::{CollectionLock, Discarded, Key, Store};

use crate::catalog::key_of_folder;
use crate::error::Result;
use crate::leftovers::{Kind, Leftover};

/// A temporary file that is still being written is younger than this, and so is an artifact that a running pipeline has just made.
const TEMPORARY: Duration = Duration::from_hours(1);

/// Returns whether a leftover is old enough to be removed.
pub(super) fn is_garbage(store: &Store, leftover: &Leftover, now: SystemTime, grace: Duration) -> bool {
    let age = now.duration_since(leftover.modified).unwrap_or_default();
    match leftover.kind {
        Kind::Trash => true,
        Kind::Temporary | Kind::Staging => age > TEMPORARY,
        Kind::Quarantined => age > grace,
        // Nothing resumes from the workspace of a finished run.
        Kind::Workspace => age > grace || age > TEMPORARY && is_finished(store, leftover),
    }
}

fn is_finished(store: &Store, workspace: &Leftover) -> bool {
    let Some((stage, key)) = workspace_key(workspace) else { return false };
    store.find(&stage, &key, "").is_ok_and(|found| found.is_some())
}

fn workspace_key(workspace: &Leftover) -> Option<(String, Key)> {
    let key = key_of_folder(workspace.path.file_name()?.to_str()?)?;
    Some((workspace.path.parent()?.file_name()?.to_str()?.to_owned(), key))
}

/// Removes a leftover, or returns the reason for keeping it.
pub(super) fn discard(
    store: &Store,
    lock: &CollectionLock,
    leftover: &Leftover,
) -> Result<Option<&'static str>> {
    let discarded = match leftover.kind {
        // [`Store::empty_trash`] deletes it.
        Kind::Trash => return Ok(None),
        Kind::Temporary | Kind::Quarantined => store.discard_leftover(lock, &leftover.path)?,
        Kind::Staging => store.discard_staging(lock, &leftover.path)?,
        Kind::Workspace => {
            let key = workspace_key(leftover).filter(|(stage, key)| store.workspace(stage, key).is_ok());
            let Some((stage, key)) = key else { return Ok(Some("not a workspace")) };
            store.discard_workspace(lock, &stage, &key)?
        }
    };
    Ok((discarded != Discarded::Moved).then(|| super::why_spared(discarded)))
}
