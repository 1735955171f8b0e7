//! Five steps of every optimizer compared with MLX's own (`fixtures/optimizers`).

use anyhow::{Context, Result, ensure};
use mlx_rs::Array;
use serde_json::Value;
use testutil::tolerance;
use tuner::{Optimizer, OptimizerName, OptimizerSettings};

fn arrays(fixture: &Value, values: &Value) -> Result<Vec<Array>> {
    let shapes = fixture["shapes"].as_object().context("shapes")?;
    let array = |(name, shape): (&String, &Value)| {
        let shape: Vec<i32> = serde_json::from_value(shape.clone())?;
        let numbers: Vec<f32> = serde_json::from_value(values[name].clone())?;
        Ok(Array::from_slice(&numbers, &shape))
    };
    shapes.iter().map(array).collect()
}

fn settings(case: &str) -> Result<OptimizerSettings> {
    let name = serde_json::from_value::<OptimizerName>(case.split('-').next().into())?;
    let plain =
        OptimizerSettings { name, bias_correction: false, weight_decay: 0.0, ..OptimizerSettings::default() };
    let decay = OptimizerSettings { weight_decay: 0.1, ..plain.clone() };
    Ok(match case {
        "adam" | "sgd" | "adafactor" => plain,
        "adam-corrected" => OptimizerSettings { bias_correction: true, ..plain },
        "adamw" | "adafactor-decay" | "muon" => decay,
        "adamw-corrected" => OptimizerSettings { bias_correction: true, ..decay },
        "sgd-momentum-decay" => OptimizerSettings { momentum: 0.9, ..decay },
        "lion" => OptimizerSettings { beta2: 0.99, ..decay },
        other => anyhow::bail!("no settings for `{other}`"),
    })
}

#[test]
fn every_optimizer_takes_the_same_steps_as_mlx() -> Result<()> {
    mlx_ext::init(&mlx_ext::Options::default())?;
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/optimizers/optimizers.json");
    let fixture: Value = serde_json::from_str(&fs_err::read_to_string(path)?)?;
    let rate = fixture["rate"].as_f64().context("rate")?;
    for (case, wanted) in fixture["final"].as_object().context("final")? {
        let mut parameters = arrays(&fixture, &fixture["start"])?;
        let mut optimizer = Optimizer::new(settings(case)?, &parameters)?;
        for gradients in fixture["gradients"].as_array().context("gradients")? {
            optimizer.update(rate, &mut parameters, arrays(&fixture, gradients)?)?;
        }
        let allowed = if case == "muon" { tolerance::MUON } else { tolerance::OPTIMIZER };
        for (found, wanted) in parameters.iter().zip(arrays(&fixture, wanted)?) {
            let off = found.subtract(&wanted)?.abs()?.max(None)?.item_exact::<f32>();
            ensure!(off <= allowed, "{case}: a parameter of shape {:?} is off by {off}", found.shape());
        }
        let shapes: Vec<Vec<i32>> = parameters.iter().map(|parameter| parameter.shape().to_vec()).collect();
        let bytes: usize = optimizer.moments().iter().flatten().map(Array::nbytes).sum();
        assert_eq!(settings(case)?.state_bytes(shapes.iter().map(Vec::as_slice)), bytes, "{case}");
    }
    Ok(())
}
