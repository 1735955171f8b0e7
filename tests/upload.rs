//! A fused model goes up to a hub and comes back down with the same bytes.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tests::{Place, command, programs, run};
use testutil::files::contents;
use testutil::hub::{Fault, HubServer, TOKEN};

const ID: &str = "jane/tuned";

#[test]
fn a_fused_model_comes_back_from_the_hub_as_it_went_up() -> Result<()> {
    let place = Place::new()?;
    let model = place.model("tests/golden/gemma3_text")?;
    let dataset = place.dataset(&model)?;
    let train = place.make("train", &["--model", &model, "--dataset", &dataset, "--set", "train.steps=2"])?;
    let last =
        fs_err::read_dir(Path::new(&train).join("data/checkpoints"))?.last().context("no checkpoint")??;
    let adapters = last.path().join("adapters").to_string_lossy().into_owned();
    let fused = place.make("fuse", &["--model", &model, "--adapters", &adapters, "--dataset", &dataset])?;

    let hub = HubServer::start(vec![]);
    hub.split_uploads(100_000);
    // The network is what it is.
    hub.fail("/part/", [Fault::CutRequest(5000)]);
    hub.fail("/commit/", [Fault::LoseAnswer]);
    let home = place.path().join("home");
    let online = |program: &str| {
        let mut command = command(programs().join(program));
        command.env("HF_ENDPOINT", hub.endpoint()).env("HF_TOKEN", TOKEN).env("HF_HOME", &home);
        command.env_remove("HF_HUB_CACHE").env_remove("HF_HUB_OFFLINE");
        command
    };
    let mut upload = online("upload");
    upload.args(["--model", &fused, "--id", ID, "--private"]);
    let address = run(&mut upload)?.path()?.to_string_lossy().into_owned();
    let commit = hub.repo(ID).context("no repository")?.commit().to_owned();
    ensure!(address == format!("{}/{ID}/tree/{commit}", hub.endpoint()), "{address}");
    ensure!(run(&mut upload)?.path()?.to_string_lossy() == address, "the second time, nothing happens");

    hub.fail("/blobs/", [Fault::DropAfter(5000)]);
    let mut import = online("import-model");
    import.args(["--id", ID, "--store"]).arg(place.path().join("elsewhere"));
    let imported = run(&mut import)?.path()?;
    let mut expected = contents(&Path::new(&fused).join("data/model"));
    let card = expected.remove("README.md").context("the fused folder has no card")?;
    ensure!(contents(&imported.join("data/model")) == expected, "other bytes came back");
    let there = hub.repo(ID).context("no repository")?.contents("main");
    ensure!(testutil::files::sha256_hex(&there["README.md"].0) == card, "the card is another");
    Ok(())
}
