//! The store: publishing, races, quarantine, locks, workspaces, refs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use artifact::{Artifact, Draft, Error, FileHash, Key, KeyMaterial, Level, Published, Store, Wait};
use serde_json::json;

fn draft(rank: u32) -> Draft {
    Draft::new(&format!("rank{rank}"), KeyMaterial::new("demo", 1, json!({"rank": rank})))
}

fn publish(store: &Store, rank: u32, text: &str) -> Result<Published, Error> {
    let staging = store.stage_new("demo")?;
    fs_err::write(staging.data().join("a.json"), text)?;
    staging.publish(&draft(rank), &mut || Ok(()))
}

fn empty_store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("artifacts")).unwrap();
    (dir, store)
}

/// Lists the folder of the stage, staging folders included.
fn entries(store: &Store) -> Vec<String> {
    let dir = fs_err::read_dir(store.root().join("demo")).unwrap();
    let mut names: Vec<_> = dir.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn make_writable(path: &Path) {
    assert!(std::process::Command::new("chmod").args(["-R", "u+w"]).arg(path).status().unwrap().success());
}

fn wait_not() -> Wait {
    Wait::AtMost(Duration::ZERO)
}

fn lock(store: &Store, key: &Key) -> Result<artifact::KeyLock, Error> {
    store.lock("demo", key, wait_not(), &mut |_| {}, &|| false)
}

#[test]
fn published_artifact_is_found_by_key_and_read_only() {
    let (_dir, store) = empty_store();
    let key = draft(8).key().unwrap();
    assert!(store.lookup_with("demo", &key, "", Level::Auto).unwrap().is_none());
    assert!(!store.root().exists(), "looking up must not create anything");
    let published = publish(&store, 8, "{}").unwrap();
    assert!(matches!(published, Published::New(_)));
    let found = store.lookup_with("demo", &key, "", Level::Auto).unwrap().unwrap();
    assert_eq!(found.path(), store.root().join(format!("demo/{}-rank8", key.short())));
    assert!(store.lookup_with("demo", &draft(9).key().unwrap(), "", Level::Auto).unwrap().is_none());
    let mode = |path: &Path| fs_err::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(found.path()), mode(&found.path().join("data/a.json"))), (0o555, 0o444));
    assert_eq!(entries(&store).len(), 1);
}

#[test]
fn artifact_with_another_slug_is_found() {
    let (_dir, store) = empty_store();
    publish(&store, 8, "{}").unwrap();
    let key = draft(8).key().unwrap();
    assert!(store.lookup_with("demo", &key, "new-slug", Level::Auto).unwrap().is_some());
}

#[test]
fn publishing_twice_keeps_the_first() {
    let (_dir, store) = empty_store();
    publish(&store, 8, "{}").unwrap();
    assert!(matches!(publish(&store, 8, "{}").unwrap(), Published::Same(_)));
    assert_eq!(entries(&store).len(), 1);
}

#[test]
fn other_bytes_for_the_same_key_go_to_quarantine() {
    let (_dir, store) = empty_store();
    let first = publish(&store, 8, "{}").unwrap().artifact().tree();
    let Published::Different { artifact, quarantined, tree } = publish(&store, 8, "[]").unwrap() else {
        panic!("the difference was not noticed")
    };
    assert_eq!(artifact.tree(), first);
    assert_eq!(Artifact::open(&quarantined).unwrap().tree(), tree);
    assert!(quarantined.to_string_lossy().ends_with("-nondeterministic"));
    assert_eq!(entries(&store).len(), 1);
}

#[test]
fn damaged_winner_is_replaced() {
    let (_dir, store) = empty_store();
    let path = publish(&store, 8, "{}").unwrap().artifact().path().to_owned();
    fs_err::remove_file(path.join("COMMIT")).unwrap();
    assert!(store.lookup_with("demo", &draft(8).key().unwrap(), "", Level::Auto).is_err());
    assert!(matches!(publish(&store, 8, "{}").unwrap(), Published::New(_)));
    assert!(store.lookup_with("demo", &draft(8).key().unwrap(), "", Level::Auto).unwrap().is_some());
    assert_eq!(fs_err::read_dir(store.root().join(".quarantine")).unwrap().count(), 1);
}

#[test]
fn missing_data_is_damage_and_heals() {
    for missing in ["data", "COMMIT", "manifest.json"] {
        let (_dir, store) = empty_store();
        let path = publish(&store, 8, "{}").unwrap().artifact().path().to_owned();
        make_writable(&path);
        if missing == "data" {
            fs_err::remove_dir_all(path.join(missing)).unwrap();
        } else {
            fs_err::remove_file(path.join(missing)).unwrap();
        }
        let error = store.lookup_with("demo", &draft(8).key().unwrap(), "", Level::Size).unwrap_err();
        assert!(error.is_damage(), "{error}");
        assert!(matches!(publish(&store, 8, "{}").unwrap(), Published::New(_)), "{missing}");
    }
}

#[test]
fn sound_artifact_is_not_quarantined() {
    let (_dir, store) = empty_store();
    let key = draft(8).key().unwrap();
    let path = publish(&store, 8, "{}").unwrap().artifact().path().to_owned();
    // As when another process has healed it since it was found damaged.
    assert_eq!(store.quarantine_damaged(&path, "demo", &key).unwrap(), None);
    Artifact::open_with(&path, Level::Hash).unwrap();
    fs_err::set_permissions(path.join("data/a.json"), PermissionsExt::from_mode(0o644)).unwrap();
    fs_err::write(path.join("data/a.json"), "[]").unwrap();
    let moved = store.quarantine_damaged(&path, "demo", &key).unwrap().unwrap();
    assert!(!path.exists() && moved.join("COMMIT").exists());
    assert_eq!(store.quarantine_damaged(&path, "demo", &key).unwrap(), None, "nothing is there");
}

#[test]
fn planted_links_are_neither_followed_nor_locked() {
    let (dir, store) = empty_store();
    publish(&store, 8, "{}").unwrap();
    let private = dir.path().join("private");
    fs_err::create_dir_all(private.join("sub")).unwrap();
    for folder in [&private, &private.join("sub")] {
        fs_err::set_permissions(folder, PermissionsExt::from_mode(0o700)).unwrap();
    }
    let stage = store.root().join("demo");
    symlink(&private, stage.join(".tmp-00000000-1-x")).unwrap();
    publish(&store, 9, "{}").unwrap();
    let mode = |path: &Path| fs_err::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&private), mode(&private.join("sub"))), (0o700, 0o700));
    // A lock file that is a link would be created elsewhere.
    let key = draft(10).key().unwrap();
    fs_err::create_dir_all(store.root().join(".locks")).unwrap();
    let target = dir.path().join("victim");
    symlink(&target, store.root().join(".locks").join(format!("demo.{}", key.short()))).unwrap();
    assert!(lock(&store, &key).is_err());
    assert!(!target.exists());
    // Nor is the mode of what a link in the place of an artifact names changed.
    let linked = stage.join("0000000000000000-x");
    symlink(&private, &linked).unwrap();
    store.quarantine(&linked, "demo", &key, "damaged").unwrap();
    assert_eq!(mode(&private), 0o700);
}

#[test]
fn staging_folders_of_many_threads_do_not_clear_each_other() {
    let (_dir, store) = empty_store();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..20 {
                    publish(store, thread * 100 + round, "{}").unwrap();
                }
            });
        }
    });
    assert_eq!(entries(&store).len(), 160);
}

#[test]
fn refused_data_is_not_published_and_leaves_nothing() {
    let (_dir, store) = empty_store();
    assert!(publish(&store, 8, "{").is_err());
    let staging = store.stage_new("demo").unwrap();
    assert!(staging.publish(&draft(8), &mut || Ok(())).is_err(), "no data at all");
    let staging = store.stage_new("demo").unwrap();
    fs_err::write(staging.data().join("a.json"), "{}").unwrap();
    let mut refuse = || Err(Error::Precondition(failure::Error::failed("the input changed")));
    assert!(staging.publish(&draft(8), &mut refuse).is_err());
    assert!(entries(&store).is_empty());
}

#[test]
fn telemetry_is_outside_the_tree_hash() {
    let (_dir, store) = empty_store();
    let plain = publish(&store, 8, "{}").unwrap().artifact().tree();
    let (_dir, store) = empty_store();
    let staging = store.stage_new("demo").unwrap();
    fs_err::write(staging.data().join("a.json"), "{}").unwrap();
    fs_err::write(staging.telemetry().join("timing.jsonl"), "{}\n").unwrap();
    let published = staging.publish(&draft(8), &mut || Ok(())).unwrap();
    let artifact = Artifact::open(published.artifact().path()).unwrap();
    assert_eq!(artifact.tree(), plain);
    let provenance = artifact.provenance().unwrap();
    assert_eq!(provenance["telemetry"], json!(["timing.jsonl"]));
    assert_eq!(provenance["telemetry_sha256"]["timing.jsonl"], FileHash::of(b"{}\n").to_string());
}

#[test]
fn staging_of_the_dead_is_cleared_and_of_the_living_kept() {
    let (_dir, store) = empty_store();
    let living = store.stage_new("demo").unwrap();
    let stage = store.root().join("demo");
    for name in [".tmp-00000000-1-abc", ".tmp-ffffffff-999999-abc"] {
        fs_err::create_dir_all(stage.join(name).join("data")).unwrap();
        fs_err::write(stage.join(name).join("data/half"), "x").unwrap();
    }
    publish(&store, 8, "{}").unwrap();
    assert!(living.data().is_dir());
    assert_eq!(entries(&store).iter().filter(|name| name.starts_with(".tmp-")).count(), 1);
    drop(living);
    assert_eq!(entries(&store).len(), 1);
}

#[test]
fn lock_excludes_others_and_its_file_stays() {
    let (_dir, store) = empty_store();
    let (key, other) = (draft(8).key().unwrap(), draft(9).key().unwrap());
    let held = lock(&store, &key).unwrap();
    let error = lock(&store, &key).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    let _second = lock(&store, &other).expect("another key is free");
    let stopped = store.lock("demo", &key, Wait::Forever, &mut |_| {}, &|| true);
    assert!(matches!(stopped, Err(Error::Stopped)));
    drop(held);
    lock(&store, &key).unwrap();
    assert!(store.root().join(".locks").join(format!("demo.{}", key.short())).exists());
}

#[test]
fn waiting_names_the_holder() {
    let (_dir, store) = empty_store();
    let key = draft(8).key().unwrap();
    let _held = lock(&store, &key).unwrap();
    store.workspace("demo", &key).unwrap().prepare(&store).unwrap();
    let error = lock(&store, &key).unwrap_err().to_string();
    assert!(error.contains(&format!("(process {} on ", std::process::id())), "{error}");
}

#[test]
fn workspace_survives_and_belongs_to_its_key() {
    let (_dir, store) = empty_store();
    let key = draft(8).key().unwrap();
    let workspace = store.workspace("demo", &key).unwrap();
    assert!(!workspace.has_state());
    workspace.prepare(&store).unwrap();
    assert!(!workspace.has_state(), "an empty folder is not a resume state");
    fs_err::write(workspace.state_dir().join("step-1"), "1").unwrap();
    workspace.prepare(&store).unwrap();
    assert!(store.workspace("demo", &key).unwrap().has_state());
    // Another key with the same first digits must not resume from it.
    let twin: Key = format!("{}{}", key.short(), "0".repeat(48)).parse().unwrap();
    let twin = store.workspace("demo", &twin).unwrap();
    assert!(!twin.has_state());
    twin.prepare(&store).unwrap();
    assert!(!twin.has_state());
    twin.remove().unwrap();
    twin.remove().unwrap();
}

#[test]
fn refs_name_artifacts() {
    let (_dir, store) = empty_store();
    assert!(store.open_ref("best", Level::Size).unwrap().is_none());
    let published = publish(&store, 8, "{}").unwrap();
    store.set_ref("best", published.artifact()).unwrap();
    store.set_ref("best", published.artifact()).unwrap();
    for name in ["best", "refs/best"] {
        assert_eq!(store.open_ref(name, Level::Auto).unwrap().unwrap().path(), published.artifact().path());
    }
    let text = fs_err::read_to_string(store.root().join("refs/best")).unwrap();
    let manifest = published.artifact().manifest();
    assert_eq!(text, format!("demo {} {}\n", manifest.key, manifest.tree));
    assert!(store.set_ref("../evil", published.artifact()).is_err());
    assert!(store.read_ref("../best").unwrap().is_none());
}

#[test]
fn a_malformed_ref_names_its_file_and_a_remedy() {
    let (_dir, store) = empty_store();
    store.set_ref("rel", publish(&store, 8, "{}").unwrap().artifact()).unwrap();
    let path = store.root().join("refs/rel");
    let good = fs_err::read_to_string(&path).unwrap();
    let long = "x".repeat(70_000);
    for text in
        ["", "demo 12 34\n", good.trim_end(), &good.replace("demo", "../demo"), &format!("{good}\n"), &long]
    {
        fs_err::write(&path, text).unwrap();
        let error = store.read_ref("rel").unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert!(failure::Failure::hint(&error).unwrap().contains("delete that file"), "{error}");
    }
    // What it should name is not known, as little as with a link that leads nowhere.
    fs_err::remove_file(&path).unwrap();
    symlink("nowhere", &path).unwrap();
    assert!(store.read_ref("rel").is_err());
}

#[test]
fn refs_that_differ_only_in_case_are_refused() {
    let (_dir, store) = empty_store();
    let published = publish(&store, 8, "{}").unwrap();
    store.set_ref("Prod", published.artifact()).unwrap();
    let error = store.set_ref("prod", published.artifact()).unwrap_err();
    assert!(error.to_string().contains("`Prod`"), "{error}");
    assert_eq!(failure::Failure::kind(&error), failure::Kind::Usage);
    store.set_ref("Prod", published.artifact()).unwrap();
    store.set_ref("prod2", published.artifact()).unwrap();
}

#[test]
fn a_store_file_that_says_nothing_has_a_remedy() {
    let (_dir, store) = empty_store();
    publish(&store, 8, "{}").unwrap();
    let path = store.root().join("STORE");
    fs_err::write(&path, "").unwrap();
    let error = Store::open(store.root()).unwrap_err();
    assert!(!error.is_damage() && error.to_string().contains("STORE"), "{error}");
    assert!(failure::Failure::hint(&error).unwrap().contains("delete that file"));
    fs_err::remove_file(&path).unwrap();
    Store::open(store.root()).unwrap().ensure().unwrap();
    assert!(lock(&Store::open(store.root()).unwrap(), &draft(8).key().unwrap()).is_ok());
}

#[test]
fn what_cannot_be_looked_at_is_not_quarantined() {
    let (_dir, store) = empty_store();
    let key = draft(8).key().unwrap();
    let path = publish(&store, 8, "{}").unwrap().artifact().path().to_owned();
    // An artifact of a later version is not damaged.
    let manifest = path.join("manifest.json");
    let later = fs_err::read_to_string(&manifest).unwrap().replace("manifest-v1", "manifest-v9");
    make_writable(&path);
    fs_err::write(&manifest, &later).unwrap();
    let commit = fs_err::read_to_string(path.join("COMMIT")).unwrap();
    let line = commit.lines().nth(1).unwrap();
    let new = format!("{}  manifest.json", FileHash::of(later.as_bytes()));
    fs_err::write(path.join("COMMIT"), commit.replace(line, &new)).unwrap();
    let error = store.quarantine_damaged(&path, "demo", &key).unwrap_err();
    assert!(matches!(error, Error::UnknownSchema { .. }), "{error}");
    assert!(path.exists());
}

#[test]
fn lookup_does_not_open_other_artifacts() {
    let (_dir, store) = empty_store();
    publish(&store, 8, "{}").unwrap();
    // Thousands of neighbours that could not be opened.
    for number in 0..3000 {
        fs_err::create_dir(store.root().join(format!("demo/{number:016x}-x"))).unwrap();
    }
    let begin = std::time::Instant::now();
    for _ in 0..10 {
        assert!(store.lookup_with("demo", &draft(8).key().unwrap(), "rank8", Level::Auto).unwrap().is_some());
    }
    assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
}

#[test]
fn store_of_a_later_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join("STORE"), "{\"format\":\"artifact-store-v2\",\"id\":\"x\"}\n").unwrap();
    assert!(Store::open(dir.path()).unwrap_err().to_string().contains("artifact-store-v2"));
}

#[test]
fn names_that_could_leave_the_store_are_refused() {
    let (_dir, store) = empty_store();
    let key = draft(8).key().unwrap();
    for name in ["", "..", "a/b", "refs", ".work", "A", "1a"] {
        assert!(store.lookup_with(name, &key, "", Level::Auto).is_err(), "{name}");
    }
    let mut bad = draft(8);
    bad.slug = "../x".to_owned();
    let staging = store.stage_new("demo").unwrap();
    fs_err::write(staging.data().join("a.json"), "{}").unwrap();
    assert!(staging.publish(&bad, &mut || Ok(())).is_err());
}
