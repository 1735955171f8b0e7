//! Tokens that are read again need no more memory than a prompt. The only test of its process, because memory is measured per
//! process.

use models::{GenerationOptions, Model, Result, generate};
use serde_json::json;

/// Trained context: several of the pieces in which prompts are read.
const TRAINED: usize = 2048;

/// Makes a model that rotates rows otherwise beyond the trained context. Its blocks are so wide that they, not the cache, decide how
/// much memory a pass needs.
fn wide() -> Result<Model> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("config.json");
    let config = json!({
        "model_type": "phi3", "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 4096,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "max_position_embeddings": 4 * TRAINED,
        "original_max_position_embeddings": TRAINED,
        "rope_scaling": {
            "type": "longrope", "short_factor": [1.0, 1.0, 1.0, 1.0], "long_factor": [1.5, 4.0, 9.0, 16.0],
        },
    });
    fs_err::write(&path, config.to_string())?;
    Model::random(&path, 3)
}

/// Returns the memory that a prompt as long as the trained context and `max_tokens` further tokens need, in bytes.
fn peak(model: &Model, max_tokens: usize) -> Result<usize> {
    let prompt: Vec<u32> = (0..TRAINED as u32).map(|at| at % 61).collect();
    let before = mlx_rs::memory::active_memory()?;
    mlx_rs::memory::reset_peak_memory()?;
    generate(model, &[prompt], &GenerationOptions { max_tokens, stop: Vec::new(), batch_size: 1 })?;
    Ok(mlx_rs::memory::peak_memory()? - before)
}

#[test]
fn reading_a_row_again_needs_no_more_memory_than_its_prompt() -> Result<()> {
    mlx_ext::init(&mlx_ext::Options::default())?;
    let model = wide()?;
    // The second token is beyond the trained context.
    let (read, read_again) = (peak(&model, 1)?, peak(&model, 2)?);
    assert!(read_again < read * 3 / 2, "{read} bytes, then {read_again}");
    Ok(())
}
