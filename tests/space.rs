//! Bytes that a stage will write are counted before it works: a disk that is too small is refused at once, one that is large enough
//! is not.
//!
//! Needs a mount namespace of its own for small file systems; says so and passes where there is none.

use anyhow::{Result, ensure};
use testutil::files::{golden_dir, sha256_hex};
use testutil::hub::{HubServer, Repo};
use testutil::{Program, Ran, SMALL_SETTINGS, Sandbox, built_programs, workspace_root};

/// Runs the rest of its arguments while `$2` is an empty file system of the size `$1`.
const SCRIPT: &str = r#"mount -t tmpfs -o size="$1" tmpfs "$2" || exit 99; shift 2; "$@""#;

/// A stage to run, with its arguments and variables.
struct Order<'a> {
    stage: &'a str,
    arguments: Vec<String>,
    variables: Vec<(&'a str, String)>,
}

impl<'a> Order<'a> {
    fn new(stage: &'a str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Self { stage, arguments, variables: Vec::new() }
    }

    fn variable(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// Runs the stage while the folder `disk` is a file system of this size; `None` if none can be mounted.
    fn run_on(&self, size: &str, sandbox: &Sandbox) -> Result<Option<Ran>> {
        let disk = sandbox.join("disk");
        fs_err::create_dir_all(&disk)?;
        let mut shell = Program::new("unshare");
        shell.args(["-rm", "sh", "-c", SCRIPT, "sh", size]).arg(&disk).arg(built_programs().join(self.stage));
        shell.args(&self.arguments).env("ASHLAR_MIN_FREE_BYTES", "0");
        for (name, value) in &self.variables {
            shell.env(name, value);
        }
        let ran = shell.run();
        Ok(if ran.code == Some(99) || ran.stderr.contains("unshare:") { None } else { Some(ran) })
    }

    /// Checks that the stage refuses the small disk before it writes, and works on the large one.
    #[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
    fn check(&self, sandbox: &Sandbox, small: &str, large: &str) -> Result<()> {
        let stage = self.stage;
        let Some(refused) = self.run_on(small, sandbox)? else {
            println!("skipped: cannot mount here");
            return Ok(());
        };
        ensure!(refused.code == Some(74), "{stage}: {:?} {}", refused.code, refused.stderr);
        ensure!(refused.stderr.contains("too little space at `"), "{stage}: {}", refused.stderr);
        ensure!(refused.stderr.contains("hint: free some space"), "{stage}: {}", refused.stderr);
        if let Some(ran) = self.run_on(large, sandbox)? {
            ensure!(ran.code == Some(0), "{stage}: {:?} {}", ran.code, ran.stderr);
        }
        Ok(())
    }
}

/// Returns a stage with small settings whose store is on the disk.
fn in_store<'a>(sandbox: &Sandbox, stage: &'a str, arguments: &[&str]) -> Order<'a> {
    let (settings, store) = (workspace_root().join(SMALL_SETTINGS), sandbox.join("disk/store"));
    let [settings, store] = [&settings, &store].map(|path| path.display().to_string());
    Order::new(stage, &[&["--config", &settings, "--store", &store], arguments].concat())
}

/// As [`Order::check`] of [`in_store`].
fn check(sandbox: &Sandbox, stage: &str, arguments: &[&str], small: &str, large: &str) -> Result<()> {
    in_store(sandbox, stage, arguments).check(sandbox, small, large)
}

#[test]
fn every_stage_that_writes_much_counts_it_first() -> Result<()> {
    let sandbox = Sandbox::new();
    let folder = "tests/golden/gemma3_text";
    check(&sandbox, "import-model", &["--model-dir", folder], "100k", "16m")?;

    let model = sandbox.model(folder);
    let data = ["--tokenizer", &model, "--data", "data/haw-eng"];
    check(&sandbox, "prepare-data", &data, "300k", "64m")?;

    let dataset = sandbox.dataset(&model);
    let inputs = ["--model", &model, "--dataset", &dataset];
    // Many resume states that are kept, and many checkpoints.
    let many = ["--keep-last", "100000", "--set", "steps=100000", "--set", "checkpoint_every=1"];
    let order = in_store(&sandbox, "train", &[&inputs[..], &many].concat());
    let Some(refused) = order.run_on("16m", &sandbox)? else { return Ok(()) };
    ensure!(refused.code == Some(74), "{:?} {}", refused.code, refused.stderr);
    ensure!(refused.stderr.contains("too little space at `"), "{}", refused.stderr);
    check(&sandbox, "train", &inputs, "40k", "16m")?;

    let run = sandbox.make("train", &inputs);
    let losses = sandbox.make("validate", &[&inputs[..], &["--train", &run]].concat());
    let chosen = ["--train", &run, "--validate", &losses];
    let out = sandbox.join("disk/best").display().to_string();
    let order = Order::new("select-best", &[&chosen[..], &["--out", &out]].concat());
    order.check(&sandbox, "20k", "16m")?;
    let best = sandbox.make("select-best", &chosen);
    check(&sandbox, "fuse", &[&inputs[..], &["--adapters", &best]].concat(), "100k", "16m")
}

/// Name of the repository.
const ID: &str = "org/tiny";

/// The golden model as a repository on a hub.
fn repository() -> Result<Repo> {
    let mut repository = Repo::new(ID);
    for name in ["config.json", "tokenizer_config.json"] {
        repository = repository.file(name, &fs_err::read(golden_dir().join("llama").join(name))?);
    }
    for name in ["model.safetensors", "tokenizer.json"] {
        repository = repository.lfs(name, &fs_err::read(golden_dir().join("llama").join(name))?);
    }
    Ok(repository)
}

#[test]
fn an_import_counts_the_bytes_for_each_disk() -> Result<()> {
    let sandbox = Sandbox::new();
    let hub = HubServer::start(vec![repository()?]);
    let path = |name: &str| sandbox.join(name).display().to_string();
    // The artifact alone, its downloads alone, then both on one disk.
    let (out, work) = (["--out", &path("disk/model")], ["--resume-dir", &path("disk/work")]);
    let (other_out, other_work) = (["--out", &path("model")], ["--resume-dir", &path("work")]);
    let store = ["--store", &path("disk/store")];
    for places in [[out, other_work].concat(), [other_out, work].concat(), store.to_vec()] {
        let arguments = [&["--id", ID][..], &places].concat();
        let order = Order::new("import-model", &arguments).variable("HF_ENDPOINT", hub.endpoint());
        order.check(&sandbox, "300k", "2m")?;
        // What is outside of the disk stays.
        for folder in ["model", "work"].map(|name| sandbox.join(name)).iter().filter(|folder| folder.exists())
        {
            fs_err::remove_dir_all(folder)?;
        }
    }
    Ok(())
}

#[test]
fn a_model_in_the_local_cache_is_counted_before_it_is_copied() -> Result<()> {
    let sandbox = Sandbox::new();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let home = sandbox.join("cache/models--org--tiny");
    let snapshot = home.join("snapshots").join(commit);
    [&snapshot, &home.join("blobs"), &home.join("refs")].into_iter().try_for_each(fs_err::create_dir_all)?;
    fs_err::write(home.join("refs/main"), commit)?;
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        let bytes = fs_err::read(golden_dir().join("llama").join(name))?;
        let blob = home.join("blobs").join(sha256_hex(&bytes));
        fs_err::write(&blob, bytes)?;
        fs_err::os::unix::fs::symlink(&blob, snapshot.join(name))?;
    }
    let order = in_store(&sandbox, "import-model", &["--id", ID]).variable("HF_HUB_OFFLINE", "1");
    order.variable("HF_HUB_CACHE", sandbox.join("cache").display().to_string()).check(&sandbox, "300k", "2m")
}

#[test]
fn weights_made_from_a_gguf_file_are_counted_beside_their_conversion() -> Result<()> {
    let sandbox = Sandbox::new();
    let file = golden_dir().join("gguf/qwen3.gguf").display().to_string();
    let arguments = ["--model-dir", &file, "--set", "quantize={ bits = 8, group_size = 32 }"];
    check(&sandbox, "import-model", &arguments, "600k", "4m")
}
