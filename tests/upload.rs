//! Models, exports and adapters are uploaded to a hub: a fused model returns with the same bytes, cards name base and scores.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testutil::files::{contents, sha256_hex};
use testutil::hub::{Fault, HubServer, Repo, TOKEN};
use testutil::{Program, Sandbox, workspace_root};

const ID: &str = "jane/tuned";

#[test]
fn a_fused_model_returns_from_the_hub_unchanged() -> Result<()> {
    let sandbox = Sandbox::new();
    let model = sandbox.model("tests/golden/gemma3_text");
    let dataset = sandbox.dataset(&model);
    let train = sandbox.make("train", &["--model", &model, "--dataset", &dataset, "--set", "train.steps=2"]);
    let last =
        fs_err::read_dir(Path::new(&train).join("data/checkpoints"))?.last().context("no checkpoint")??;
    let adapters = last.path().join("adapters").to_string_lossy().into_owned();
    let fused = sandbox.make("fuse", &["--model", &model, "--adapters", &adapters, "--dataset", &dataset]);

    let hub = HubServer::start(vec![]);
    hub.split_uploads(100_000);
    // An unreliable network.
    hub.fail("/part/", [Fault::CutRequest(5000)]);
    hub.fail("/commit/", [Fault::LoseAnswer]);
    let online = |name: &str| {
        let mut program = Program::built(name);
        program
            .env("HF_ENDPOINT", hub.endpoint())
            .env("HF_TOKEN", TOKEN)
            .env("HF_HOME", sandbox.join("home"));
        program
    };
    let mut upload = online("upload");
    upload.args(["--model", &fused, "--id", ID, "--private"]);
    let address = upload.run().path_text();
    let commit = hub.repo(ID).context("no repository")?.commit().to_owned();
    ensure!(address == format!("{}/{ID}/tree/{commit}", hub.endpoint()), "{address}");
    ensure!(upload.run().path_text() == address, "a second upload changed something");

    hub.fail("/blobs/", [Fault::DropAfter(5000)]);
    let mut import = online("import-model");
    let imported = import.args(["--id", ID, "--store"]).arg(sandbox.join("elsewhere")).run().path();
    let mut expected = contents(&Path::new(&fused).join("data/model"));
    let card = expected.remove("README.md").context("the fused folder has no card")?;
    ensure!(contents(&imported.join("data/model")) == expected, "other bytes came back");
    let uploaded = hub.repo(ID).context("no repository")?.contents("main");
    ensure!(sha256_hex(&uploaded["README.md"].0) == card, "the uploaded card differs");
    Ok(())
}

/// A pipeline whose base model comes from the hub `org/demo`, with every export.
struct Exported {
    fused: String,
    best: String,
    scores: String,
}

impl Exported {
    fn new(sandbox: &Sandbox, hub: &HubServer) -> Self {
        let mut import = sandbox.stage("import-model", &["--id", BASE]);
        let model =
            import.env("HF_ENDPOINT", hub.endpoint()).env("HF_HOME", sandbox.join("home")).run().path_text();
        let dataset = sandbox.dataset(&model);
        let given = ["--model", &model, "--dataset", &dataset];
        let train = sandbox.make("train", &[&given[..], &["--set", "train.steps=2"]].concat());
        let losses = sandbox.make("validate", &[&given[..], &["--train", &train]].concat());
        let best =
            sandbox.make("select-best", &["--model", &model, "--train", &train, "--validate", &losses]);
        let exports = [
            "fuse.datasets=[\"jane/stories\"]",
            "fuse.peft=true",
            "fuse.gguf=\"q8_0\"",
            "fuse.quantize={ bits = 8, group_size = 32 }",
        ];
        let exports = exports.map(|setting| ["--set", setting]).concat();
        let fused = sandbox.make("fuse", &[&given[..], &["--adapters", &best], &exports].concat());
        let (base, tuned) = (format!("base={model}"), format!("fused={fused}"));
        let scores = sandbox.make("evaluate", &["--model", &base, "--model", &tuned, "--dataset", &dataset]);
        Self { fused, best, scores }
    }
}

const BASE: &str = "org/demo";

#[test]
fn exports_and_adapters_arrive_with_cards_that_name_base_data_and_scores() -> Result<()> {
    let sandbox = Sandbox::new();
    let mut repo = Repo::new(BASE);
    for entry in fs_err::read_dir(workspace_root().join("data/models/demo"))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("not text")?;
        repo = repo.file(name, &fs_err::read(&path)?);
    }
    let commit = repo.commit().to_owned();
    let hub = HubServer::start(vec![repo]);
    let made = Exported::new(&sandbox, &hub);
    let push = |artifact: &str, output: &str, more: &[&str]| -> Result<_> {
        let id = format!("jane/{output}");
        let mut upload = Program::built("upload");
        upload.env("HF_ENDPOINT", hub.endpoint()).env("HF_TOKEN", TOKEN).env("HF_HOME", sandbox.join("home"));
        upload.args(["--model", artifact, "--id", &id, "--output", output]).args(more).run().path_text();
        let mut there = hub.repo(&id).context("no repository")?.contents("main");
        let (card, _) = there.remove("README.md").context("no card")?;
        Ok((String::from_utf8(card)?, there))
    };
    let scored = ["--scores", &made.scores];
    for (artifact, output, more, relation, file) in [
        (&made.fused, "model", &scored[..], "finetune", "model.safetensors"),
        (&made.fused, "quantized", &scored[..], "quantized", "model.safetensors"),
        (&made.fused, "gguf", &[], "quantized", "model-q8_0.gguf"),
        (&made.fused, "peft", &scored[..], "adapter", "adapter_model.safetensors"),
        (&made.best, "adapters", &["--dataset", "jane/stories"], "adapter", "adapters.safetensors"),
    ] {
        let (card, files) = push(artifact, output, more)?;
        ensure!(files.contains_key(file), "{output}: {:?}", files.keys());
        let head = format!("base_model: {BASE}\nbase_model_relation: {relation}\n");
        ensure!(card.contains(&head) && card.contains(&commit), "{output}:\n{card}");
        ensure!(card.contains("\ndatasets:\n- jane/stories\n"), "{output}:\n{card}");
        ensure!(card.contains("(https://huggingface.co/datasets/jane/stories)"), "{output}:\n{card}");
        let has_scores = card.contains("\nmodel-index:\n- name: \"") && card.contains("interval");
        ensure!(has_scores == more.contains(&"--scores"), "{output}:\n{card}");
        ensure!(has_scores == card.contains("\n      type: \"jane/stories\"\n"), "{output}:\n{card}");
        if let Some((settings, _)) = files.get("adapter_config.json") {
            let settings: Value = serde_json::from_slice(settings)?;
            ensure!(
                settings["base_model_name_or_path"] == BASE && settings["revision"] == *commit,
                "{settings}"
            );
        }
    }
    ensure!(
        fs_err::read_to_string(Path::new(&made.scores).join("data/metrics.json"))?
            .contains("\"fused_quantized\"")
    );

    let mut refused = Program::built("upload");
    refused.env("HF_ENDPOINT", hub.endpoint()).env("HF_TOKEN", TOKEN);
    refused.args(["--model", &made.fused, "--id", ID, "--output", "gguf", "--scores", &made.scores]);
    let said = refused.run().failed(65);
    ensure!(said.contains("has no scores of `gguf`") && said.contains("hint: "), "{said}");
    Ok(())
}
