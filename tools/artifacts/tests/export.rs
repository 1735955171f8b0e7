//! Export: a new folder that is whole or absent, beside which nothing changes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use common::{FAULTS, Recipe, Toy, files};
use serde_json::{Value, json};
use testutil::Program;

/// Lists everything directly in a folder, hidden entries included.
fn entries(folder: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A store, and a folder `out` in which hidden folders of the user lie.
fn prepared() -> (Toy, PathBuf) {
    let toy = Toy::new();
    toy.pipeline(8, 64);
    let out = toy.path().join("out");
    for folder in [".git", ".ssh"] {
        fs_err::create_dir_all(out.join(folder)).unwrap();
        fs_err::write(out.join(folder).join("file"), "precious").unwrap();
    }
    (toy, out)
}

fn assert_untouched(out: &Path) {
    for folder in [".git", ".ssh"] {
        assert_eq!(fs_err::read_to_string(out.join(folder).join("file")).unwrap(), "precious");
    }
}

#[test]
fn hidden_folders_beside_an_export_are_not_touched() {
    let (toy, out) = prepared();
    assert_eq!(toy.run("export import-model --to out/git").succeeded(), "out/git\n");
    assert_untouched(&out);
    assert_eq!(entries(&out.join("git")), ["config.json", "provenance.intoto.jsonl", "weights.bin"]);
    toy.program("export evaluate --to ./ssh")
        .current_dir(&out)
        .args(["--store", "../artifacts"])
        .run()
        .succeeded();
    assert_untouched(&out);
    // Refused, because there is a folder; and failed, because there is no model.
    let error = toy.run("export import-model --to out/git").failed(2);
    assert!(error.contains("`out/git` exists; choose another folder"), "{error}");
    for folder in ["git2", "a/b"] {
        toy.run(&format!("export evaluate --format model --to out/{folder}")).failed(65);
    }
    fs_err::remove_dir(out.join("a")).unwrap();
    assert_untouched(&out);
    assert_eq!(entries(&out), [".git", ".ssh", "git", "ssh"]);
}

#[test]
fn one_of_several_exports_to_a_folder_succeeds() {
    let (toy, out) = prepared();
    let running: Vec<_> = (0..6).map(|_| toy.program("export import-model --to out/git").spawn()).collect();
    let codes: Vec<Option<i32>> =
        running.into_iter().map(|child| child.wait_with_output().unwrap().status.code()).collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
    assert!(codes.iter().all(|code| [Some(0), Some(2)].contains(code)), "{codes:?}");
    assert_eq!(entries(&out), [".git", ".ssh", "git"]);
    assert_eq!(files(&out.join("git")).len(), 3);
    assert_untouched(&out);
}

#[test]
fn a_full_disk_is_noticed_before_anything_is_copied() {
    let (toy, out) = prepared();
    for format in ["model", "ro-crate"] {
        let mut export = toy.program(&format!("export import-model --to out/git --format {format}"));
        let error = export.env("ASHLAR_MIN_FREE_BYTES", (1_u64 << 62).to_string()).run().failed(74);
        assert!(error.contains("too little space at `out/git`"), "{error}");
        assert_eq!(entries(&out), [".git", ".ssh"]);
    }
    // Statements are small.
    let mut export = toy.program("export import-model --to out/git --format in-toto");
    export.env("ASHLAR_MIN_FREE_BYTES", (1_u64 << 62).to_string()).run().succeeded();
}

#[test]
fn an_export_that_fails_at_any_operation_leaves_nothing() {
    let (toy, out) = prepared();
    for (fault, code) in FAULTS {
        let mut failed = 0;
        for turn in 1..40 {
            let mut export = toy.program("export import-model --to out/git");
            let ran = export.env("ASHLAR_FAULT", format!("{fault}@{turn}")).run();
            assert_untouched(&out);
            if ran.code == Some(0) {
                assert_eq!(files(&out.join("git")).len(), 3, "{fault}@{turn}");
            } else {
                failed += 1;
                assert_eq!(ran.code, Some(code), "{fault}@{turn}: {}", ran.stderr);
                // Only the last flush can fail after the folder has its name.
                assert!(!out.join("git").exists() || files(&out.join("git")).len() == 3, "{fault}@{turn}");
            }
            testutil::files::remove(&out.join("git"));
            assert_eq!(entries(&out), [".git", ".ssh"], "{fault}@{turn}");
        }
        assert!(failed > 5, "only {failed} operations failed");
    }
}

#[test]
fn adapters_are_exported_as_a_model_and_any_output_by_name() {
    let toy = Toy::new();
    let key = toy.path().join("key.pem");
    let pem = Program::new("openssl")
        .args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"])
        .arg(&key)
        .run();
    pem.succeeded();
    toy.make(&Recipe {
        stage: "select-best",
        files: &[("adapters/adapter_config.json", b"{}\n"), ("choice.json", b"{}\n")],
        ..Recipe::default()
    });
    let fuse = [("model/config.json", "{}"), ("gguf/model.gguf", "GGUF"), ("quantized/config.json", "{}")];
    let fuse = fuse.map(|(path, text)| (path, text.as_bytes()));
    toy.make(&Recipe { stage: "fuse", files: &fuse, ..Recipe::default() });
    toy.run("export select-best --to adapters --key key.pem").succeeded();
    let names = |folder: &str| entries(&toy.path().join(folder));
    assert_eq!(names("adapters"), ["adapter_config.json", "model.sig", "provenance.intoto.jsonl"]);
    toy.run("export fuse --output gguf --to gguf").succeeded();
    assert_eq!(names("gguf"), ["model.gguf", "provenance.intoto.jsonl"]);
    let error = toy.run("export fuse --output peft --to peft").failed(65);
    assert!(error.contains("has no output `peft`"), "{error}");
    toy.run("export fuse --output gguf --format in-toto --to statements").failed(2);
}

#[test]
fn a_file_that_cannot_sign_is_refused_with_a_hint() {
    let toy = Toy::new();
    toy.pipeline(8, 64);
    fs_err::write(toy.path().join("public.pem"), "-----BEGIN PUBLIC KEY-----\n").unwrap();
    fs_err::write(toy.path().join("key.der"), [0xff; 40]).unwrap();
    let no_key = "holds no private key of the curve P-256 in PEM";
    for (key, problem) in
        [("missing", "does not exist"), ("public.pem", no_key), ("key.der", no_key), ("build", no_key)]
    {
        let ran = toy.run(&format!("export import-model --to out --key {key}"));
        ran.failed(65);
        ran.says(&[&format!("`{key}` {problem}"), "hint: give the private key as PEM; `openssl ecparam"]);
    }
    assert!(!toy.path().join("out").exists());
}

#[test]
fn a_dataset_describes_what_all_rows_hold() {
    let toy = Toy::new();
    let rows = concat!(
        r#"{"id":"1","messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","name":"x"}],"weight":1}"#,
        "\n",
        r#"{"id":"2","text":"plain","weight":0.5,"tools":[{"type":"function","function":{}}],"odd":1}"#,
        "\n",
        r#"{"id":"3","prompt":"p","completion":"c","odd":"one"}"#,
        "\n",
    );
    toy.make(&Recipe {
        stage: "prepare-data",
        files: &[("rows/train.jsonl", rows.as_bytes())],
        ..Recipe::default()
    });
    toy.run("export prepare-data --to out").succeeded();
    let text = fs_err::read_to_string(toy.path().join("out/croissant.json")).unwrap();
    let found: Value = serde_json::from_str(&text).unwrap();
    let set = &found["recordSet"][0];
    let fields = set["field"].as_array().unwrap();
    let fields: Vec<String> = fields
        .iter()
        .map(|field| format!("{} {}", field["name"], field["dataType"]).replace('"', "").replace("sc:", ""))
        .collect();
    assert_eq!(
        fields,
        [
            "completion Text",
            "id Text",
            "messages.content Text",
            "messages.role Text",
            "odd Text",
            "prompt Text",
            "text Text",
            "tools.type Text",
            "weight Float"
        ]
    );
    // One of two messages has a name, and a function is an object.
    let description = set["description"].as_str().unwrap();
    assert!(description.contains("only the file has messages.name, tools.function"), "{description}");
}

#[test]
fn a_crate_describes_everything_once_and_says_what_was_made_from_what() {
    let toy = Toy::new();
    toy.pipeline(8, 64);
    toy.run("export evaluate --to out --format ro-crate").succeeded();
    let text = fs_err::read_to_string(toy.path().join("out/ro-crate-metadata.json")).unwrap();
    let found: Value = serde_json::from_str(&text).unwrap();
    let graph = found["@graph"].as_array().unwrap();
    let ids: BTreeSet<&str> = graph.iter().map(|entity| entity["@id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), graph.len(), "an entity is described twice");
    let of = |kind: &str| {
        let actions = graph.iter().filter(|entity| entity["@type"] == "CreateAction");
        let named = actions.flat_map(|action| action[kind].as_array().unwrap());
        named.map(|entity| entity["@id"].as_str().unwrap()).collect::<BTreeSet<_>>()
    };
    let (used, made) = (of("object"), of("result"));
    assert!(used.is_subset(&ids) && made.is_subset(&ids));
    // All but the last artifact are used by a later stage.
    assert_eq!((made.len(), used.intersection(&made).count()), (4, 3));
}

#[test]
fn statements_name_the_segment_that_a_run_resumed_from() {
    let toy = Toy::new();
    let segment = toy.make(&Recipe { stage: "train", files: &[("state/a", b"1")], ..Recipe::default() });
    let run = toy.make(&Recipe {
        stage: "train",
        config: json!({"steps": 2}),
        files: &[("adapters.bin", b"2")],
        resumed_from: Some(&segment),
        ..Recipe::default()
    });
    let (name, manifest) = (common::name(&run), segment.manifest());
    toy.run(&format!("export {name} --format in-toto --to out")).succeeded();
    let text = fs_err::read_to_string(toy.path().join("out/provenance.intoto.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "the segment has a statement, too");
    let used = &lines[1]["predicate"]["buildDefinition"]["resolvedDependencies"][0];
    assert_eq!(used["uri"], format!("urn:ashlar:artifact:train:{}", manifest.key));
    assert_eq!(used["digest"]["sha256"], manifest.tree.to_string());
}
