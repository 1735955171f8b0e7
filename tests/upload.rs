//! A fused model is uploaded to a hub and imported again with the same bytes.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use testutil::files::{contents, sha256_hex};
use testutil::hub::{Fault, HubServer, TOKEN};
use testutil::{Program, Sandbox};

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
