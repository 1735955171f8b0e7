//! gc sees through links: to folders of pointers, to pointers, and to the store itself.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use common::{Toy, age, name};

/// Makes a pipeline that was last used 100 days ago; returns the name of its evaluation.
fn aged(toy: &Toy, rank: u64) -> String {
    let made = toy.pipeline(rank, 64);
    for artifact in [&made.model, &made.data, &made.train, &made.evaluate] {
        age(artifact, 100);
    }
    name(&made.evaluate)
}

/// Writes a pointer to an artifact, as make does.
fn point(folder: &Path, artifact: &str) {
    fs_err::create_dir_all(folder).unwrap();
    fs_err::write(folder.join("evaluate.path"), format!("artifacts/{artifact}\n")).unwrap();
}

/// Puts a link to `elsewhere`, or to the pointer in it, where gc looks for pointers.
fn link(what: &str, toy: &Toy, elsewhere: &Path) {
    let build = toy.path().join("build");
    let (target, place) = match what {
        "build" => (elsewhere.to_owned(), build),
        "folder" => ("../elsewhere".into(), build.join("haw-eng")),
        _ => (elsewhere.join("evaluate.path"), build.join("haw-eng/demo/evaluate.path")),
    };
    fs_err::create_dir_all(place.parent().unwrap()).unwrap();
    let _ = fs_err::remove_dir(&place);
    symlink(target, place).unwrap();
}

#[test]
fn pointers_behind_links_count() {
    for what in ["build", "folder", "pointer"] {
        let toy = Toy::new();
        let evaluate = aged(&toy, 8);
        let elsewhere = toy.path().join("elsewhere");
        point(&elsewhere, &evaluate);
        link(what, &toy, &elsewhere);
        assert_eq!(toy.json("gc --delete")["removed"], 0, "{what}");
        assert_eq!(toy.names().len(), 4, "{what}");
        assert_eq!(toy.json("status")["pointers"].as_array().unwrap().len(), 1, "{what}");
    }
}

#[test]
fn links_in_a_circle_end() {
    let toy = Toy::new();
    let evaluate = aged(&toy, 8);
    let build = toy.path().join("build");
    point(&build.join("a"), &evaluate);
    fs_err::create_dir(build.join("b")).unwrap();
    for number in 0..20 {
        symlink("..", build.join(format!("a/up{number}"))).unwrap();
        symlink(".", build.join(format!("b/here{number}"))).unwrap();
    }
    assert_eq!(toy.json("gc")["remove"].as_array().unwrap().len(), 0);
    assert_eq!(toy.json("status")["pointers"].as_array().unwrap().len(), 1);
}

#[test]
fn a_link_that_leads_nowhere_stops_gc() {
    for link in ["build", "build/haw-eng", "build/haw-eng/evaluate.path"] {
        let toy = Toy::new();
        aged(&toy, 8);
        let path = toy.path().join(link);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs_err::remove_dir(&path);
        symlink("/nonexistent/disk", &path).unwrap();
        for command in ["gc", "gc --delete", "status"] {
            let error = toy.run(command).failed(65);
            let expected = format!("`{link}` is a link to `/nonexistent/disk`, which cannot be read");
            assert!(error.contains(&expected) && error.contains("delete the link"), "{command}: {error}");
        }
        assert_eq!(toy.names().len(), 4, "{link}");
        fs_err::remove_file(&path).unwrap();
        fs_err::create_dir_all(toy.path().join("build")).unwrap();
        assert_eq!(toy.json("gc --delete")["removed"], 4);
    }
}

#[test]
fn leftovers_of_a_store_behind_a_link_go() {
    let toy = Toy::new();
    let evaluate = aged(&toy, 8);
    let staging = toy.root().join("train/.tmp-00000000-1-x");
    fs_err::create_dir_all(&staging).unwrap();
    fs_err::write(toy.root().join(".STORE-x"), "").unwrap();
    let old = std::fs::FileTimes::new().set_modified(artifact::now() - Duration::from_hours(2));
    for path in [&staging, &toy.root().join(".STORE-x")] {
        fs_err::File::open(path).unwrap().file().set_times(old).unwrap();
    }
    symlink("artifacts", toy.path().join("link")).unwrap();
    point(&toy.path().join("build"), &evaluate);
    let report = toy.json("--store link gc --delete");
    let removed: Vec<&str> =
        report["remove"].as_array().unwrap().iter().map(|found| found["path"].as_str().unwrap()).collect();
    assert_eq!(removed, ["link/.STORE-x", "link/train/.tmp-00000000-1-x"]);
    assert!(!staging.exists() && !toy.root().join(".STORE-x").exists());
    assert_eq!(toy.names().len(), 4);
}

#[test]
fn a_link_named_like_a_staging_folder_goes_alone() {
    let toy = Toy::new();
    aged(&toy, 8);
    let private = toy.path().join("private");
    fs_err::create_dir(&private).unwrap();
    let link = toy.root().join("train/.tmp-00000000-1-x");
    symlink(&private, &link).unwrap();
    testutil::Program::new("touch").args(["-h", "-d", "2 hours ago"]).arg(&link).run().succeeded();
    toy.run("gc --delete").succeeded();
    assert!(link.symlink_metadata().is_err() && private.is_dir());
}

#[test]
fn checkouts_that_share_a_store_are_all_named() {
    let toy = Toy::new();
    for (checkout, rank) in [("a", 8), ("b", 16)] {
        let evaluate = aged(&toy, rank);
        point(&toy.path().join(checkout).join("build"), &evaluate);
    }
    let removed = |options: &str| toy.json(&format!("gc {options}"))["remove"].as_array().unwrap().len();
    assert_eq!(removed("--pointers b/build"), 2, "the training run and evaluation of the other checkout");
    assert_eq!(removed("--pointers a/build --pointers b/build"), 0);
    let help = toy.run("gc --help").succeeded().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        help.contains(
            "When several checkouts share a store, name the pointer folder of each with --pointers, that of this \
             checkout too: what only an unnamed folder points at is removed after the grace period."
        ),
        "{help}"
    );
}

#[test]
fn a_folder_of_pointers_that_is_not_there_is_an_error() {
    let toy = Toy::new();
    let evaluate = aged(&toy, 8);
    point(&toy.path().join("build"), &evaluate);
    fs_err::write(toy.path().join("file"), "").unwrap();
    for folder in ["bdl", "file", "build/evaluate.path"] {
        for command in ["gc --delete", "gc", "status"] {
            let ran = toy.run(&format!("{command} --pointers build --pointers {folder}"));
            ran.failed(2);
            ran.says(&[&format!("there is no folder `{folder}`"), "hint: name the folder with --pointers"]);
        }
    }
    assert_eq!(toy.json("gc --delete")["removed"], 0);
    toy.run("gc --delete --no-pointers --pointers build").failed(2);
    // As after `make clean`, or from another folder.
    fs_err::remove_dir_all(toy.path().join("build")).unwrap();
    toy.run("status").succeeded();
    let plan = toy.run("gc");
    assert!(
        plan.succeeded().contains("no pointers of pipelines: there is no folder `build`, so --delete needs")
    );
    toy.run("gc --delete").failed(2);
    assert_eq!(toy.names().len(), 4);
    fs_err::create_dir(toy.path().join("other")).unwrap();
    assert!(toy.run("gc --pointers other").succeeded().contains("no pointers of pipelines in `other`\n"));
    assert_eq!(toy.json("gc --delete --no-pointers")["removed"], 4);
}
