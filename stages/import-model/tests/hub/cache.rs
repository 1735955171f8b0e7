//! Models in the local cache of the hub, whole and in part.

use std::path::{Path, PathBuf};

use testutil::files::git_oid;

use super::*;

/// Fills a local cache in the way of the hub's tools and returns its folder.
fn cache(dir: &Path, names: &[&str]) -> PathBuf {
    let home = dir.join("models--org--tiny");
    let snapshot = home.join("snapshots").join(repo().commit());
    for folder in [&snapshot, &home.join("refs"), &home.join("blobs")] {
        fs_err::create_dir_all(folder).unwrap();
    }
    fs_err::write(home.join("refs/main"), repo().commit()).unwrap();
    for name in names {
        let large = ["model.safetensors", "tokenizer.json"].contains(name);
        let blob = if large { sha256_hex(&golden(name)) } else { git_oid(&golden(name)) };
        fs_err::write(home.join("blobs").join(&blob), golden(name)).unwrap();
        std::os::unix::fs::symlink(format!("../../blobs/{blob}"), snapshot.join(name)).unwrap();
    }
    dir.to_owned()
}

const ALL: [&str; 4] = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

#[test]
fn a_model_in_the_local_cache_is_not_downloaded() {
    let (hub, dir) = (HubServer::start(vec![repo()]), temp());
    let settings = Settings { cache: Some(cache(dir.path(), &ALL)), ..settings(&hub) };
    for offline in [true, false] {
        let import = Import::new();
        import.run(&Settings { offline, ..settings.clone() }).unwrap();
        import.assert_complete();
        let targets: Vec<_> = hub.requests().into_iter().map(|it| it.target).collect();
        assert!(!offline || targets.is_empty(), "{targets:?}");
        assert!(
            targets.iter().all(|target| target.contains("/tree/") || target.contains("/revision/")),
            "only the commit and the list are asked for: {targets:?}"
        );
    }
}

#[test]
fn a_branch_that_has_moved_since_it_was_cached_is_looked_up_on_the_hub() {
    let (hub, dir) = (HubServer::start(vec![repo()]), temp());
    let settings = Settings { cache: Some(cache(dir.path(), &ALL)), ..settings(&hub) };
    let old = "0123456789abcdef0123456789abcdef01234567";
    fs_err::write(dir.path().join("models--org--tiny/refs/main"), old).unwrap();
    let resolve = |settings: &Settings| Hub::new(settings, &Unwatched).resolve(ID, "main").unwrap();
    assert_eq!(resolve(&settings), repo().commit());
    assert_eq!(resolve(&Settings { offline: true, ..settings.clone() }), old);
    let gone = Settings { endpoint: HubServer::start(vec![]).endpoint(), attempts: 1, ..settings };
    assert_eq!(resolve(&gone), old);
}

#[test]
fn an_incomplete_cache_is_completed_or_refused() {
    // What `hf_hub_download` of three files leaves: without the file that holds the chat template.
    let names = ["config.json", "model.safetensors", "tokenizer.json"];
    let (hub, dir) = (HubServer::start(vec![repo()]), temp());
    let settings = Settings { cache: Some(cache(dir.path(), &names)), ..settings(&hub) };
    let import = Import::new();
    import.run(&settings).unwrap();
    import.assert_complete();
    let text = message(Import::new().run(&Settings { offline: true, ..settings }));
    assert!(text.contains("`tokenizer_config.json` is missing") && text.contains("HF_HUB_OFFLINE"), "{text}");
}

#[test]
fn cached_files_are_used_when_the_hub_is_gone() {
    let dir = temp();
    let gone = HubServer::start(vec![]).endpoint();
    let cache = Some(cache(dir.path(), &ALL));
    let settings = Settings { endpoint: gone, attempts: 1, cache, ..settings(&HubServer::start(vec![])) };
    let import = Import::new();
    import.run(&settings).unwrap();
    import.assert_complete();
}

#[test]
fn a_cache_without_links_is_checked_by_the_list_or_refused() {
    let (hub, dir) = (HubServer::start(vec![repo()]), temp());
    let cache = cache(dir.path(), &ALL);
    let snapshot = cache.join("models--org--tiny/snapshots").join(repo().commit());
    for name in ALL {
        fs_err::remove_file(snapshot.join(name)).unwrap();
        fs_err::write(snapshot.join(name), golden(name)).unwrap();
    }
    let settings = Settings { cache: Some(cache), ..settings(&hub) };
    let import = Import::new();
    import.run(&settings).unwrap();
    import.assert_complete();
    assert!(
        hub.requests().iter().all(|request| !request.target.contains("/resolve/")),
        "all are in the cache"
    );
    let text = message(Import::new().run(&Settings { offline: true, ..settings.clone() }));
    assert!(text.contains("does not say which bytes") && text.contains("--model-dir"), "{text}");
    let mut weights = golden("model.safetensors");
    *weights.last_mut().unwrap() ^= 1;
    fs_err::write(snapshot.join("model.safetensors"), weights).unwrap();
    let import = Import::new();
    import.run(&settings).unwrap();
    import.assert_complete();
}

#[test]
fn only_files_missing_in_the_cache_are_downloaded() {
    let (hub, dir) = (HubServer::start(vec![repo()]), temp());
    let cached = ["config.json", "tokenizer.json", "model.safetensors"];
    let settings = Settings { cache: Some(cache(dir.path(), &cached)), ..settings(&hub) };
    fs_err::remove_file(
        dir.path().join("models--org--tiny/snapshots").join(repo().commit()).join("tokenizer.json"),
    )
    .unwrap();
    let import = Import::new();
    import.run(&settings).unwrap();
    import.assert_complete();
    let resolved: Vec<_> =
        hub.requests().into_iter().filter(|it| it.target.contains("/resolve/")).map(|it| it.target).collect();
    assert_eq!(resolved.len(), 2, "{resolved:?}");
    assert!(resolved.iter().all(|target| target.contains("tokenizer")), "{resolved:?}");
}

#[test]
fn offline_without_the_model_is_explained() {
    let (hub, dir) = (HubServer::start(vec![repo()]), temp());
    let offline = Settings { offline: true, cache: Some(dir.path().into()), ..settings(&hub) };
    let text = message(Import::new().run(&offline));
    assert!(
        text.contains("HF_HUB_OFFLINE") && text.contains("--model-dir") && text.contains("`main`"),
        "{text}"
    );
    let pinned = Config { id: ID.into(), revision: repo().commit().into(), ..Config::default() };
    let text = message(Import::new().run_with(&offline, &pinned, &Unwatched));
    assert!(text.contains(repo().commit()), "{text}");
    cache(dir.path(), &["config.json"]);
    let text = message(Import::new().run(&offline));
    assert!(text.contains("not complete"), "{text}");
    assert!(hub.requests().is_empty());
}

#[test]
fn only_bytes_that_are_used_make_a_run_a_resumed_one() {
    let (hub, dir) = (HubServer::start(vec![repo()]), temp());
    let (online, weights) = (settings(&hub), golden("model.safetensors"));
    let cached = Settings { cache: Some(cache(dir.path(), &ALL)), offline: true, ..online.clone() };
    let config = Config { id: ID.into(), commit: repo().commit().to_owned(), ..Config::default() };
    for (settings, left, bytes, resumed) in [
        (&cached, "other.safetensors.part", &weights[..3000], false),
        (&cached, "model.safetensors.part", &weights[..3000], false),
        (&online, "other.safetensors.part", &weights[..3000], false),
        (&online, "model.safetensors.part", &weights[..3000], true),
        (&online, "model.safetensors.part", &[7; 3000], false),
        (&online, "model.safetensors", &weights[..], true),
    ] {
        let import = Import::new();
        let folder = import.resume.path().join("download");
        fs_err::create_dir_all(&folder).unwrap();
        fs_err::write(folder.join(left), bytes).unwrap();
        let found = import_model::run(&config, settings, &Unwatched, import.resume.path(), import.out.path())
            .unwrap();
        assert_eq!(found.resumed, resumed, "{left} {}", settings.offline);
        import.assert_complete();
    }
}

#[test]
fn a_damaged_cache_is_refused() {
    let (hub, dir) = (HubServer::start(vec![repo()]), temp());
    let cache = cache(dir.path(), &ALL);
    let blob = cache.join("models--org--tiny/blobs").join(sha256_hex(&golden("model.safetensors")));
    let mut bytes = golden("model.safetensors");
    *bytes.last_mut().unwrap() ^= 1;
    fs_err::write(blob, bytes).unwrap();
    let text = message(Import::new().run(&Settings { cache: Some(cache), ..settings(&hub) }));
    assert!(text.contains("model.safetensors") && text.contains("local hub cache"), "{text}");
}

#[test]
fn a_template_is_checked_wherever_its_file_is() {
    let dir = temp();
    // The template is downloaded, the other files are in the cache.
    let cache = cache(dir.path(), &ALL);
    let hub = HubServer::start(vec![repo().file("chat_template.jinja", b"{% if %}")]);
    let import = Import::new();
    let error = import.run(&Settings { cache: Some(cache), ..settings(&hub) });
    assert!(matches!(error, Err(Error::Template { .. })), "{error:?}");
    assert!(message(error).contains("chat_template.jinja"));
}

#[test]
fn small_files_are_checked_against_the_list() {
    let mut changed = golden("tokenizer_config.json");
    let at = changed.iter().position(|&byte| byte == b' ').unwrap();
    changed[at] = b'\n';
    // The list is that of the true file; a mirror serves other bytes of the same length.
    let hub = HubServer::start(vec![repo()]);
    hub.fail("/resolve-cache/", [Fault::WrongBytes]);
    let import = Import::new();
    let error = import.run(&settings(&hub)).expect_err("the bytes are wrong");
    assert_eq!(error.kind(), Kind::BadInput);
    assert!(
        error.to_string().contains("git's hash is") && error.to_string().contains("listed by the hub"),
        "{error}"
    );
    assert!(contents(import.out.path()).is_empty());
    // A changed file in the cache, under its true name.
    for offline in [true, false] {
        let dir = temp();
        let cache = cache(dir.path(), &ALL);
        let oid = git_oid(&golden("tokenizer_config.json"));
        fs_err::write(cache.join("models--org--tiny/blobs").join(oid), &changed).unwrap();
        let import = Import::new();
        let text = message(import.run(&Settings { offline, cache: Some(cache), ..settings(&hub) }));
        assert!(text.contains("tokenizer_config.json") && text.contains("git's hash is"), "{text}");
        assert!(contents(import.out.path()).is_empty());
    }
}
