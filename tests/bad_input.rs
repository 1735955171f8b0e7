//! Bad input to the stages that compute: each is refused by a message that names place and remedy, and nothing is
//! published. Bad model files, hubs and data files are tested where they are read, in `import-model` and
//! `prepare-data`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Result, ensure};
use artifact::{Draft, KeyMaterial, write_folder};
use serde_json::{Value, json};
use tests::{Place, Ran, command, copy, programs, root, run, trees};

const MODEL: &str = "tests/golden/gemma3_text";
const STEPS: [&str; 2] = ["--set", "train.steps=2"];
/// The inputs of each stage that computes, by their names in [`Bench::get`].
const STAGES: [(&str, &[(&str, &str)]); 4] = [
    ("train", &[("--model", "model"), ("--dataset", "dataset")]),
    ("validate", &[("--model", "model"), ("--dataset", "dataset"), ("--train", "train")]),
    ("fuse", &[("--model", "model"), ("--adapters", "best"), ("--dataset", "dataset")]),
    ("evaluate", &[("--model", "model"), ("--dataset", "dataset")]),
];

/// Good inputs for every stage.
struct Bench {
    place: Place,
    paths: BTreeMap<&'static str, String>,
}

impl Bench {
    /// Makes the inputs, once for all tests.
    fn get() -> Result<&'static Self> {
        static BENCH: OnceLock<Result<Bench, String>> = OnceLock::new();
        let bench = BENCH.get_or_init(|| Self::new().map_err(|error| format!("{error:#}")));
        bench.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    fn new() -> Result<Self> {
        let place = Place::at(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("bad_input"))?;
        let model = place.model(MODEL)?;
        let dataset = place.dataset(&model)?;
        let train =
            place.make("train", &[&["--model", &model, "--dataset", &dataset], &STEPS[..]].concat())?;
        let inputs = ["--model", &model, "--dataset", &dataset, "--train", &train];
        let losses = place.make("validate", &inputs)?;
        let best = place.make("select-best", &["--train", &train, "--validate", &losses])?;
        let paths = [("model", model), ("dataset", dataset), ("train", train), ("best", best)].into();
        Ok(Self { place, paths })
    }

    /// Prepares a run of a stage in which `role` (such as `dataset`) is something else.
    fn with(&self, stage: &str, role: &str, other: &Path) -> Command {
        let inputs = STAGES.iter().find(|(name, _)| *name == stage).map_or(&[][..], |(_, inputs)| inputs);
        // In a store where nothing is done yet: a hit would need no input.
        let mut command = self.place.stage_in(&self.store(), stage, &STEPS);
        for (flag, name) in inputs {
            let path =
                if *name == role { other.to_string_lossy().into_owned() } else { self.paths[name].clone() };
            command.arg(flag).arg(if stage == "evaluate" && *name == "model" {
                format!("base={path}")
            } else {
                path
            });
        }
        command
    }

    fn store(&self) -> PathBuf {
        self.place.path().join("fresh")
    }

    /// Runs what must be refused with `code` and these words, a remedy among them, and without publishing anything.
    fn refused(&self, command: &mut Command, code: i32, words: &[&str]) -> Result<Ran> {
        let ran = run(command)?;
        let said = || format!("{command:?}\n{}", ran.stderr);
        ensure!(ran.code == Some(code), "ended with {:?} instead of {code}: {}", ran.code, said());
        for word in words.iter().chain(&["error: ", "\nhint: "]) {
            ensure!(ran.stderr.contains(word), "`{word}` is not in: {}", said());
        }
        ensure!(!ran.stderr.contains("panicked"), "{}", said());
        ensure!(ran.stdout.is_empty(), "stdout holds `{}`: {}", ran.stdout, said());
        ensure!(trees(&self.store())?.is_empty(), "something was published: {}", said());
        Ok(ran)
    }

    /// A folder beside the store, gone if it was there.
    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.place.path().join(name);
        tests::remove(&folder)?;
        Ok(folder)
    }

    /// An artifact like one of `import-model`, with the files of a folder.
    fn model_artifact(&self, folder: &Path, name: &str) -> Result<PathBuf> {
        let draft = Draft::new(name, KeyMaterial::new("import-model", 1, json!({"name": name})));
        let out = self.folder(&format!("{name}-artifact"))?;
        write_folder(&out, &draft, |data| {
            for output in ["model", "tokenizer"] {
                fs_err::create_dir(data.join(output))?;
                for entry in fs_err::read_dir(folder)? {
                    let entry = entry?;
                    fs_err::copy(entry.path(), data.join(output).join(entry.file_name()))?;
                }
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// A copy of the model whose header and data are changed.
    fn changed_model(&self, name: &str, change: impl FnOnce(&mut Value, &mut Vec<u8>)) -> Result<PathBuf> {
        let folder = self.folder(name)?;
        copy(&root().join(MODEL), &folder)?;
        let weights = folder.join("model.safetensors");
        let bytes = fs_err::read(&weights)?;
        let length = u64::from_le_bytes(bytes[..8].try_into()?) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length])?;
        let mut data = bytes[8 + length..].to_vec();
        change(&mut header, &mut data);
        let header = header.to_string().into_bytes();
        let parts = [&(header.len() as u64).to_le_bytes()[..], &header, &data];
        fs_err::write(&weights, parts.concat())?;
        Ok(folder)
    }
}

#[test]
fn missing_artifacts_are_named() -> Result<()> {
    let bench = Bench::get()?;
    for (stage, inputs) in STAGES {
        for (_, role) in inputs {
            let mut command = bench.with(stage, role, Path::new("nowhere/at-all"));
            bench.refused(&mut command, 65, &["opening input", "no artifact `nowhere/at-all`"])?;
        }
        // A folder that is there, but nothing that a stage made.
        let mut command = bench.with(stage, "dataset", Path::new("docs"));
        bench.refused(&mut command, 65, &["`docs` is not an artifact"])?;
        // An artifact of another stage.
        let mut command = bench.with(stage, "dataset", bench.paths["train"].as_ref());
        bench.refused(&mut command, 65, &["made by `train`", "has no output `"])?;
    }
    Ok(())
}

#[test]
fn a_flipped_byte_in_the_tokens_is_noticed_before_any_work() -> Result<()> {
    let bench = Bench::get()?;
    let folder = bench.folder("flipped")?;
    copy(bench.paths["dataset"].as_ref(), &folder)?;
    for name in ["train", "validation", "test"] {
        let file = folder.join(format!("data/tokens/{name}.safetensors"));
        Command::new("chmod").arg("u+w").arg(&file).status()?;
        let mut bytes = fs_err::read(&file)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs_err::write(&file, bytes)?;
    }
    let place = folder.to_string_lossy().into_owned();
    for (stage, _) in STAGES {
        let mut command = bench.with(stage, "dataset", &folder);
        bench.refused(&mut command, 65, &[&place, "the bytes of `data/tokens/", "have changed"])?;
    }
    Ok(())
}

#[test]
fn weights_that_do_not_fit_their_config_are_named_tensor_by_tensor() -> Result<()> {
    const TENSOR: &str = "model.layers.0.self_attn.q_proj.weight";
    let bench = Bench::get()?;
    let renamed = bench.changed_model("renamed", |header, _| {
        let tensor = header[TENSOR].take();
        header.as_object_mut().map(|all| all.remove(TENSOR));
        header["model.layers.0.self_attn.strange.weight"] = tensor;
    })?;
    let reshaped = bench.changed_model("reshaped", |header, _| header[TENSOR]["shape"] = json!([96, 24]))?;
    let cases = [
        (
            "renamed",
            renamed,
            vec!["missing tensor `model.layers.0.self_attn.q_proj.weight`", "unknown tensor `"],
        ),
        ("reshaped", reshaped, vec![TENSOR, "has shape [96, 24], expected [48, 48]"]),
    ];
    for (name, folder, words) in cases {
        let artifact = bench.model_artifact(&folder, name)?;
        for (stage, _) in STAGES {
            bench.refused(&mut bench.with(stage, "model", &artifact), 65, &[&[name], &words[..]].concat())?;
        }
        bench.refused(&mut bench.with("train", "model", &folder), 65, &[&[name], &words[..]].concat())?;
    }
    Ok(())
}

#[test]
fn cut_and_hostile_weight_files_are_named() -> Result<()> {
    let bench = Bench::get()?;
    let cut = bench.changed_model("cut", |_, data| data.truncate(data.len() - 100))?;
    let beyond = bench.changed_model("beyond", |header, _| {
        header["model.norm.weight"]["data_offsets"] = json!([0, 1_u64 << 60]);
    })?;
    for (name, folder) in [("cut", cut), ("beyond", beyond)] {
        let words = [name, "model.safetensors`"];
        bench.refused(&mut bench.with("train", "model", &folder), 65, &words)?;
        let artifact = bench.model_artifact(&folder, name);
        // An artifact with such a file cannot even be made.
        ensure!(artifact.is_err(), "`{name}` was sealed");
    }
    Ok(())
}

#[test]
fn tokens_that_the_model_does_not_know_are_refused() -> Result<()> {
    let bench = Bench::get()?;
    // A tokenizer of 2048 tokens, and a model of 704.
    let foreign = bench.place.dataset(&bench.place.model("data/models/demo")?)?;
    for (stage, _) in STAGES {
        let words = ["row ", "has the token ", "tokens are 0 to 703"];
        bench.refused(&mut bench.with(stage, "dataset", foreign.as_ref()), 65, &words)?;
    }
    Ok(())
}

#[test]
fn adapters_of_another_model_are_refused() -> Result<()> {
    let bench = Bench::get()?;
    let model = bench.place.model("data/models/demo")?;
    let dataset = bench.place.dataset(&model)?;
    let inputs = ["--model", &model, "--dataset", &dataset];
    let other = bench.place.make("train", &[&inputs, &STEPS[..]].concat())?;
    let adapters = Path::new(&other).join("data/checkpoints/0000002/adapters");
    let ran = run(&mut bench.with("fuse", "best", &adapters))?;
    ensure!(ran.code == Some(65), "ended with {:?}: {}", ran.code, ran.stderr);
    ensure!(ran.stderr.contains("adapters") && ran.stderr.contains('`'), "{}", ran.stderr);
    Ok(())
}

#[test]
fn unknown_settings_name_the_nearest_and_the_line() -> Result<()> {
    let bench = Bench::get()?;
    let cases = [
        ("train", "learning_rat", "learning_rate"),
        ("validate", "batch_sise", "batch_size"),
        ("fuse", "max_loss_increas", "max_loss_increase"),
        ("evaluate", "max_token", "max_tokens"),
    ];
    for (stage, wrong, right) in cases {
        let mut command = bench.with(stage, "", Path::new(""));
        let hint = format!("did you mean `{right}`?");
        bench.refused(command.args(["--set", &format!("{stage}.{wrong}=1")]), 2, &[wrong, &hint])?;
        let file = bench.place.path().join("wrong.toml");
        fs_err::write(&file, format!("[{stage}]\n\n{wrong} = 1\n"))?;
        let mut command = bench.with(stage, "", Path::new(""));
        bench.refused(command.arg("--config").arg(&file), 2, &["wrong.toml:3", &hint])?;
    }
    Ok(())
}

#[test]
fn a_loss_that_is_no_number_names_the_step_and_its_rows() -> Result<()> {
    let bench = Bench::get()?;
    let wild =
        ["optimizer=\"sgd\"", "learning_rate=1e30", "warmup_steps=0", "max_gradient_norm=0", "steps=6"];
    let mut command = bench.with("train", "", Path::new(""));
    for setting in wild {
        command.args(["--set", &format!("train.{setting}")]);
    }
    let ran =
        bench.refused(&mut command, 1, &["step ", "diverged", "rows were [", "lower `learning_rate`"])?;
    let number = |after: &str| {
        let digits = ran.stderr.split(after).nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse::<u32>().ok()
    };
    ensure!(number("step ").is_some_and(|step| (1..=6).contains(&step)), "{}", ran.stderr);
    ensure!(number("rows were [").is_some_and(|row| row < 48), "{}", ran.stderr);
    Ok(())
}

/// Needs a user namespace to mount a small file system; says so and passes where there is none.
#[test]
fn a_full_disk_publishes_nothing_and_with_space_training_goes_on() -> Result<()> {
    let bench = Bench::get()?;
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
    let small = bench.folder("tmpfs")?;
    fs_err::create_dir(&small)?;
    let mut unshare = command("unshare");
    unshare.args(["-rm", "sh", "-c", script, "sh"]).arg(&small).arg(programs());
    let ran = run(unshare.args([&bench.paths["model"], &bench.paths["dataset"]]));
    let ran = match ran {
        Ok(ran) if ran.stdout.contains("code") => ran,
        other => {
            println!("skipped: no small file system can be mounted here: {other:?}");
            return Ok(());
        }
    };
    let inputs = ["--model", &bench.paths["model"], "--dataset", &bench.paths["dataset"]];
    let unbroken = bench.place.make("train", &inputs)?;
    let sums = fs_err::read(Path::new(&unbroken).join("SHA256SUMS"))?;
    let hash = artifact::FileHash::of(&sums);
    let expected = format!("code 74\ncode 0\n{hash}  -\n");
    ensure!(ran.stdout == expected, "{}\ninstead of\n{expected}\n{}", ran.stdout, ran.stderr);
    for part in ["os error 28", "hint: free some space", "`"] {
        ensure!(ran.stderr.contains(part), "`{part}` is not in:\n{}", ran.stderr);
    }
    Ok(())
}
