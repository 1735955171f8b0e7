//! Bad input to the stages that compute: each error names the place and a remedy, and nothing is published.
//!
//! Bad model files, hubs and data files are tested where they are read, in `import-model` and `prepare-data`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Result, ensure};
use artifact::{Draft, KeyMaterial, write_folder};
use serde_json::{Value, json};
use testutil::{Program, Sandbox, built_programs, files, trees, workspace_root};

const MODEL: &str = "tests/golden/gemma3_text";
const STEPS: [&str; 2] = ["--set", "train.steps=2"];
/// The inputs of each stage that computes, by their names in [`Fixture::paths`].
const STAGES: [(&str, &[(&str, &str)]); 4] = [
    ("train", &[("--model", "model"), ("--dataset", "dataset")]),
    ("validate", &[("--model", "model"), ("--dataset", "dataset"), ("--train", "train")]),
    ("fuse", &[("--model", "model"), ("--adapters", "best"), ("--dataset", "dataset")]),
    ("evaluate", &[("--model", "model"), ("--dataset", "dataset")]),
];

/// Message of a stage about inputs that were not made from each other.
const BOUND: &str = "do not belong together";

/// Returns whether a stage first compares what its inputs record about the model and the dataset that they were made from.
fn is_bound(stage: &str) -> bool {
    stage != "train"
}

/// Good inputs for every stage.
struct Fixture {
    sandbox: Sandbox,
    paths: BTreeMap<&'static str, String>,
}

impl Fixture {
    /// Returns the inputs; the first call makes them.
    fn get() -> &'static Self {
        static FIXTURE: OnceLock<Fixture> = OnceLock::new();
        FIXTURE.get_or_init(Self::new)
    }

    fn new() -> Self {
        let sandbox = Sandbox::at(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("bad_input"));
        let model = sandbox.model(MODEL);
        let dataset = sandbox.dataset(&model);
        let inputs = ["--model", &model, "--dataset", &dataset];
        let train = sandbox.make("train", &[&inputs, &STEPS[..]].concat());
        let losses = sandbox.make("validate", &[&inputs[..], &["--train", &train]].concat());
        let best = sandbox.make("select-best", &["--train", &train, "--validate", &losses]);
        let paths = [("model", model), ("dataset", dataset), ("train", train), ("best", best)].into();
        Self { sandbox, paths }
    }

    /// Returns a run of a stage in which `other` replaces the input `role` (such as `dataset`).
    fn with(&self, stage: &str, role: &str, other: &Path) -> Program {
        let inputs = STAGES.iter().find(|(name, _)| *name == stage).map_or(&[][..], |(_, inputs)| inputs);
        // An empty store: a stage with a hit does not read its inputs.
        let mut program = self.sandbox.stage_in(&self.store(), stage, &STEPS);
        for (flag, name) in inputs {
            let path =
                if *name == role { other.to_string_lossy().into_owned() } else { self.paths[name].clone() };
            let is_named = stage == "evaluate" && *name == "model";
            program.arg(flag).arg(if is_named { format!("base={path}") } else { path });
        }
        program
    }

    fn store(&self) -> PathBuf {
        self.sandbox.join("fresh")
    }

    /// Runs a program that must fail with `code`, say `words` and a hint, and publish nothing; returns its stderr.
    #[track_caller]
    fn refused(&self, program: &mut Program, code: i32, words: &[&str]) -> String {
        let ran = program.run();
        ran.failed(code);
        ran.says(words);
        ran.says(&["error: ", "\nhint: "]);
        assert!(trees(&self.store()).is_empty(), "something was published: {}", ran.stderr);
        ran.stderr
    }

    /// Returns a path beside the store at which nothing exists.
    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.sandbox.join(name);
        files::remove(&folder);
        folder
    }

    /// Makes an artifact like those of `import-model` from the files of a folder.
    fn model_artifact(&self, folder: &Path, name: &str) -> Result<PathBuf> {
        // Files are checked as stages check them.
        let key_material = KeyMaterial::new("import-model", 1, json!({"name": name}));
        let draft = Draft { check_file: tensors::refusal, ..Draft::new(name, key_material) };
        let out = self.folder(&format!("{name}-artifact"));
        write_folder(&out, &draft, |data| {
            for output in ["model", "tokenizer"] {
                files::copy_files(folder, &data.join(output));
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// Copies the model and changes the header and the data of its weights.
    fn changed_model(&self, name: &str, change: impl FnOnce(&mut Value, &mut Vec<u8>)) -> Result<PathBuf> {
        let folder = self.folder(name);
        files::copy(&workspace_root().join(MODEL), &folder);
        let weights = folder.join("model.safetensors");
        let bytes = fs_err::read(&weights)?;
        let length = u64::from_le_bytes(bytes[..8].try_into()?) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length])?;
        let mut data = bytes[8 + length..].to_vec();
        change(&mut header, &mut data);
        fs_err::write(&weights, testutil::hostile::with_header(&header.to_string(), &data))?;
        Ok(folder)
    }
}

#[test]
fn missing_artifacts_are_named() {
    let fixture = Fixture::get();
    for (stage, inputs) in STAGES {
        for (_, role) in inputs {
            let mut program = fixture.with(stage, role, Path::new("nowhere/at-all"));
            fixture.refused(&mut program, 65, &["opening input", "`nowhere/at-all`"]);
        }
        // A folder that exists but is not an artifact.
        let mut program = fixture.with(stage, "dataset", Path::new("docs"));
        fixture.refused(&mut program, 65, &["`docs` is not an artifact"]);
        // An artifact of another stage.
        let mut program = fixture.with(stage, "dataset", fixture.paths["train"].as_ref());
        fixture.refused(&mut program, 65, &["(made by `train`) has no output `"]);
    }
}

#[test]
fn a_flipped_byte_in_the_tokens_is_noticed_before_any_work() -> Result<()> {
    let fixture = Fixture::get();
    let folder = fixture.folder("flipped");
    files::copy(fixture.paths["dataset"].as_ref(), &folder);
    for name in outputs::SPLITS {
        let file = folder.join(format!("data/tokens/{name}.safetensors"));
        Command::new("chmod").arg("u+w").arg(&file).status()?;
        let mut bytes = fs_err::read(&file)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs_err::write(&file, bytes)?;
    }
    let place = folder.to_string_lossy().into_owned();
    for (stage, _) in STAGES {
        let mut program = fixture.with(stage, "dataset", &folder);
        fixture.refused(&mut program, 65, &[&place, "`data/tokens/", "changed"]);
    }
    Ok(())
}

#[test]
fn weights_that_do_not_fit_their_config_are_named_tensor_by_tensor() -> Result<()> {
    const TENSOR: &str = "model.layers.0.self_attn.q_proj.weight";
    let fixture = Fixture::get();
    let renamed = fixture.changed_model("renamed", |header, _| {
        let tensor = header[TENSOR].take();
        header.as_object_mut().map(|all| all.remove(TENSOR));
        header["model.layers.0.self_attn.strange.weight"] = tensor;
    })?;
    let reshaped =
        fixture.changed_model("reshaped", |header, _| header[TENSOR]["shape"] = json!([96, 24]))?;
    let unknown = "model.layers.0.self_attn.strange.weight";
    let cases = [
        ("renamed", renamed, [TENSOR, unknown]),
        ("reshaped", reshaped, [TENSOR, "has shape [96, 24], expected [48, 48]"]),
    ];
    for (name, folder, words) in cases {
        let artifact = fixture.model_artifact(&folder, name)?;
        let words = [&[name], &words[..]].concat();
        for (stage, _) in STAGES {
            let words = if is_bound(stage) { &[BOUND, name] } else { &words[..] };
            fixture.refused(&mut fixture.with(stage, "model", &artifact), 65, words);
        }
        fixture.refused(&mut fixture.with("train", "model", &folder), 65, &words);
    }
    Ok(())
}

#[test]
fn truncated_and_hostile_weight_files_are_named() -> Result<()> {
    let fixture = Fixture::get();
    let cut = fixture.changed_model("cut", |_, data| data.truncate(data.len() - 100))?;
    let beyond = fixture.changed_model("beyond", |header, _| {
        header["model.norm.weight"]["data_offsets"] = json!([0, 1_u64 << 60]);
    })?;
    for (name, folder) in [("cut", cut), ("beyond", beyond)] {
        fixture.refused(&mut fixture.with("train", "model", &folder), 65, &[name, "model.safetensors`"]);
        let artifact = fixture.model_artifact(&folder, name);
        ensure!(artifact.is_err(), "`{name}` was published as an artifact");
    }
    Ok(())
}

#[test]
fn tokens_outside_the_vocabulary_are_refused() {
    let fixture = Fixture::get();
    // The tokenizer has 2048 tokens, the model 704.
    let foreign = fixture.sandbox.dataset(&fixture.sandbox.model("data/models/demo"));
    for (stage, _) in STAGES {
        let words = if is_bound(stage) { &[BOUND][..] } else { &["row ", "token ", "703"] };
        fixture.refused(&mut fixture.with(stage, "dataset", foreign.as_ref()), 65, words);
    }
}

#[test]
fn adapters_of_another_model_are_refused() {
    let fixture = Fixture::get();
    let model = fixture.sandbox.model("data/models/demo");
    let dataset = fixture.sandbox.dataset(&model);
    let inputs = ["--model", &model, "--dataset", &dataset];
    let other = fixture.sandbox.make("train", &[&inputs, &STEPS[..]].concat());
    let adapters = Path::new(&other).join("data/checkpoints/0000002/adapters");
    let ran = fixture.with("fuse", "best", &adapters).run();
    ran.failed(65);
    ran.says(&["adapters", "`"]);
}

#[test]
fn unknown_settings_name_the_nearest_and_the_line() {
    let fixture = Fixture::get();
    let cases = [
        ("train", "learning_rat", "learning_rate"),
        ("validate", "batch_sise", "batch_size"),
        ("fuse", "max_loss_increas", "max_loss_increase"),
        ("evaluate", "max_token", "max_tokens"),
    ];
    for (stage, wrong, right) in cases {
        let mut program = fixture.with(stage, "", Path::new(""));
        let hint = format!("did you mean `{right}`?");
        fixture.refused(program.args(["--set", &format!("{stage}.{wrong}=1")]), 2, &[wrong, &hint]);
        let file = fixture.sandbox.write("wrong.toml", format!("[{stage}]\n\n{wrong} = 1\n"));
        let mut program = fixture.with(stage, "", Path::new(""));
        fixture.refused(program.arg("--config").arg(&file), 2, &["wrong.toml:3", &hint]);
    }
}

#[test]
fn a_loss_that_is_not_finite_names_the_step_and_its_rows() -> Result<()> {
    let fixture = Fixture::get();
    let wild =
        ["optimizer=\"sgd\"", "learning_rate=1e30", "warmup_steps=0", "max_gradient_norm=0", "steps=6"];
    let mut program = fixture.with("train", "", Path::new(""));
    for setting in wild {
        program.args(["--set", &format!("train.{setting}")]);
    }
    let said = fixture.refused(&mut program, 1, &["step ", "diverged", "rows were [", "`learning_rate`"]);
    let number = |after: &str| {
        let digits = said.split(after).nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse::<u32>().ok()
    };
    ensure!(number("step ").is_some_and(|step| (1..=6).contains(&step)), "{said}");
    ensure!(number("rows were [").is_some_and(|row| row < 48), "{said}");
    Ok(())
}

/// Needs a user namespace to mount a small file system; prints that it was skipped and passes where there is none.
#[test]
fn a_full_disk_publishes_nothing_and_with_space_training_resumes() -> Result<()> {
    let fixture = Fixture::get();
    let script = r#"
        mount -t tmpfs -o size=500k tmpfs "$1" || exit 99
        export ASHLAR_MIN_FREE_BYTES=0
        train() {
            "$2/train" --config tests/fixtures/small.toml --store "$1/s" --model "$3" --dataset "$4" --save-every 2
            echo "code $?"
        }
        train "$@"
        find "$1/s/train" -mindepth 1 -maxdepth 1 -not -name '.*'
        mount -o remount,size=100m "$1" || exit 99
        path=$(train "$@") || exit 98
        echo "$path" | tail -n 1
        sha256sum < "$(echo "$path" | head -n 1)/SHA256SUMS"
    "#;
    let small = fixture.folder("tmpfs");
    fs_err::create_dir(&small)?;
    let mut unshare = Program::new("unshare");
    unshare.args(["-rm", "sh", "-c", script, "sh"]).arg(&small).arg(built_programs());
    unshare.args([&fixture.paths["model"], &fixture.paths["dataset"]]);
    let Ok(output) = unshare.command().output() else {
        println!("skipped: there is no `unshare`");
        return Ok(());
    };
    let ran = testutil::Ran::from(output);
    if !ran.stdout.contains("code") {
        println!("skipped: no small file system can be mounted here: {}", ran.stderr);
        return Ok(());
    }
    let inputs = ["--model", &fixture.paths["model"], "--dataset", &fixture.paths["dataset"]];
    let unbroken = fixture.sandbox.make("train", &inputs);
    let sums = fs_err::read(Path::new(&unbroken).join("SHA256SUMS"))?;
    let expected = format!("code 74\ncode 0\n{}  -\n", artifact::FileHash::of(&sums));
    ensure!(ran.stdout == expected, "{}\ninstead of\n{expected}\n{}", ran.stdout, ran.stderr);
    ran.says(&["too little space", "hint: free some space", "`"]);
    Ok(())
}
