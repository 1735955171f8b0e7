//! Windows, caches and packed rows: all ways to run a model give the same logits.

mod common;

use mlx_rs::Array;
use models::{GenerationOptions, Input, Model, generate};
use serde_json::json;

use common::{FAMILIES, Result, WINDOW, config, load, logits_of, merge, row, some_tokens, write_folder};

/// Absolute tolerance for `f32` logits summed in another order.
const SAME_LOGITS: f32 = 1e-4;

/// Returns the largest absolute difference of two lists of logits.
fn worst(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len(), "numbers of tokens differ");
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Generates greedily, reading all tokens again for every new one.
fn continued_without_a_cache(model: &Model, prompt: &[u32], count: usize) -> Result<Vec<u32>> {
    let mut tokens = prompt.to_vec();
    for _ in 0..count {
        let logits = logits_of(model, Input::tokens(&row(&tokens)))?;
        let last = logits.last().expect("a prompt holds a token");
        let best = (0..last.len()).fold(0, |best, token| if last[token] > last[best] { token } else { best });
        tokens.push(best as u32);
    }
    Ok(tokens.split_off(prompt.len()))
}

#[test]
fn a_cache_changes_no_token_alone_or_in_a_batch() -> Result {
    let count = 12;
    for family in FAMILIES {
        let folder = write_folder(&config(family))?;
        let model = load(folder.path())?;
        // The longest is three windows long; the shorter ones are padded.
        let prompts: Vec<Vec<u32>> = [3 * WINDOW as usize, WINDOW as usize + 1, 3, 1].map(some_tokens).into();
        let run = |batch_size| {
            generate(&model, &prompts, &GenerationOptions { max_tokens: count, stop: Vec::new(), batch_size })
        };
        let (alone, together) = (run(1)?, run(prompts.len())?);
        for ((prompt, alone), together) in prompts.iter().zip(&alone).zip(&together) {
            let expected = continued_without_a_cache(&model, prompt, count)?;
            assert_eq!(alone.tokens, expected, "{family}: {} tokens, alone", prompt.len());
            assert_eq!(together.tokens, expected, "{family}: {} tokens, in a batch", prompt.len());
        }
    }
    Ok(())
}

#[test]
fn a_prompt_read_in_pieces_gives_the_same_tokens() -> Result {
    let prompt = some_tokens(530);
    for family in ["gemma2", "gemma3_text", "llama"] {
        let folder = write_folder(&config(family))?;
        let model = load(folder.path())?;
        let options = GenerationOptions { max_tokens: 3, stop: Vec::new(), batch_size: 1 };
        let found = generate(&model, std::slice::from_ref(&prompt), &options)?;
        assert_eq!(found[0].tokens, continued_without_a_cache(&model, &prompt, 3)?, "{family}");
    }
    Ok(())
}

#[test]
fn rows_that_pass_the_trained_context_are_read_again_in_pieces() -> Result {
    const TRAINED: usize = 1100;
    let mut config = config("phi3");
    merge(
        &mut config,
        json!({
            "sliding_window": null, "max_position_embeddings": 4 * TRAINED, "original_max_position_embeddings": TRAINED,
            "rope_scaling": {
                "type": "longrope", "short_factor": [1.0, 1.0, 1.0, 1.0], "long_factor": [1.5, 4.0, 9.0, 16.0],
            },
        }),
    );
    let folder = write_folder(&config)?;
    let model = load(folder.path())?;
    // The first row passes the trained context after two tokens, the second after five, the third in its prompt.
    let prompts = [TRAINED - 2, TRAINED - 5, TRAINED + 40].map(some_tokens);
    let options = GenerationOptions { max_tokens: 7, stop: Vec::new(), batch_size: prompts.len() };
    for (prompt, found) in prompts.iter().zip(generate(&model, &prompts, &options)?) {
        let in_one_pass = continued_without_a_cache(&model, prompt, options.max_tokens)?;
        assert_eq!(found.tokens, in_one_pass, "{} tokens", prompt.len());
    }
    Ok(())
}

#[test]
fn packed_rows_have_the_logits_of_the_rows_alone() -> Result {
    let tokens = some_tokens(24);
    let (first, second) = tokens.split_at(9);
    let segments = Array::from_slice(&[vec![0_i32; 9], vec![1; 15]].concat(), &[1, 24]);
    for family in FAMILIES {
        let folder = write_folder(&config(family))?;
        let model = load(folder.path())?;
        let all = row(&tokens);
        let packed =
            logits_of(&model, Input { tokens: &all, segments: Some(&segments), lengths: None, cache: None })?;
        let mut alone = logits_of(&model, Input::tokens(&row(first)))?;
        alone.extend(logits_of(&model, Input::tokens(&row(second)))?);
        assert!(worst(&packed, &alone) <= SAME_LOGITS, "{family}: off by {}", worst(&packed, &alone));
    }
    Ok(())
}

#[test]
fn a_window_matters_to_long_rows_only() -> Result {
    let long = some_tokens(20);
    for family in FAMILIES.into_iter().filter(|&family| family != "cohere") {
        let (narrow, wide) = (config(family), {
            let mut config = config(family);
            merge(&mut config, json!({"sliding_window": 512}));
            config
        });
        let (narrow_folder, wide_folder) = (write_folder(&narrow)?, write_folder(&wide)?);
        let (narrow, wide) = (load(narrow_folder.path())?, load(wide_folder.path())?);
        let off = |tokens: &[u32]| -> Result<f32> {
            let input = row(tokens);
            Ok(worst(&logits_of(&narrow, Input::tokens(&input))?, &logits_of(&wide, Input::tokens(&input))?))
        };
        let short = off(&long[..WINDOW as usize])?;
        assert!(short <= SAME_LOGITS, "{family}: a short row is off by {short}");
        assert!(off(&long)? > SAME_LOGITS, "{family}: the window has no effect");
    }
    Ok(())
}

#[test]
fn windows_limit_how_far_a_token_has_an_effect() -> Result {
    for family in ["mistral", "phi3"] {
        let folder = write_folder(&config(family))?;
        let model = load(folder.path())?;
        let mut tokens = some_tokens(24);
        let before = logits_of(&model, Input::tokens(&row(&tokens)))?;
        tokens[0] = 63;
        let after = logits_of(&model, Input::tokens(&row(&tokens)))?;
        // Three layers, each of which sees itself and WINDOW - 1 tokens before.
        let reach = 3 * (WINDOW as usize - 1);
        let changed = |position: usize| worst(&before[position..=position], &after[position..=position]);
        assert!(changed(reach) > 0.0, "{family}: the last position within reach did not change");
        for position in reach + 1..tokens.len() {
            assert!(changed(position) <= 0.0, "{family}: position {position} is out of reach but changed");
        }
    }
    Ok(())
}
