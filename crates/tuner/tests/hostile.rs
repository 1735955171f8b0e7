//! Resume states with malformed files are set aside even if their checksums match.

use std::fmt::Write as _;
use std::path::Path;

use mlx_rs::Array;
use sha2::{Digest, Sha256};
use testutil::hostile;
use tuner::{Result, ResumeState, RunCounters};

fn state(step: usize) -> ResumeState {
    let array = || Array::from_slice(&[1.0_f32, 2.0], &[2]);
    ResumeState {
        parameters: vec![array()],
        moments: vec![vec![array()]],
        optimizer_steps: step,
        counters: RunCounters { step, ..RunCounters::default() },
    }
}

/// Writes matching checksums into the folder of a resume state.
fn seal(folder: &Path) -> Result<()> {
    let mut sums = String::new();
    for name in ["counters.json", "optimizer.safetensors", "weights.safetensors"] {
        let digest = Sha256::digest(fs_err::read(folder.join(name))?);
        let hex = digest.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        writeln!(sums, "{hex}  {name}").expect("writing to a string succeeds");
    }
    Ok(fs_err::write(folder.join("SHA256SUMS"), sums)?)
}

#[test]
fn a_malformed_state_with_matching_checksums_is_set_aside_for_the_older_one() -> Result<()> {
    mlx_ext::init(&mlx_ext::Options::default())?;
    let names = ["a.weight".to_owned()];
    for (number, case) in hostile::all().into_iter().enumerate() {
        let folder = tempfile::tempdir()?;
        for step in [5, 10] {
            state(step).save(folder.path(), &names, 2)?;
        }
        let newest = folder.path().join("0000010");
        let file = if number % 2 == 0 { "weights.safetensors" } else { "optimizer.safetensors" };
        fs_err::write(newest.join(file), &case.bytes)?;
        seal(&newest)?;
        let error =
            ResumeState::load(&newest, &names).err().map(|error| error.to_string()).unwrap_or_default();
        if case.name != "no tensors" {
            assert!(error.contains(case.mentions) && error.contains(file), "{}: {error}", case.name);
        }
        let loaded = ResumeState::load_newest(folder.path(), &names, |_| Ok(()))?.expect("the older state");
        assert!(loaded.counters.step == 5 || case.name == "no tensors", "{}", case.name);
    }
    Ok(())
}
