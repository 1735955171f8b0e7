//! Tokens of files that leave something to llama.cpp: ids without keys, ends known by their text, scores that are equal.
//!
//! The expected ids are those of llama.cpp (`llama-cpp-python` 0.3.36) for the same bytes.

use anyhow::Result;
use dataset::TextTokenizer;
use serde_json::{Value, json};
use testutil::{Sandbox, built_programs};

use crate::file::{File, Whole, with_entry};
use crate::{imported, json as read};

/// Returns a key of special tokens under another name, which nothing reads.
fn hidden(whole: &Whole, key: &str) -> Result<Whole> {
    let (last, other) = (format!("{key}\x04"), format!("{}\x04", key.to_uppercase()));
    Ok(Whole(whole.swap(last.as_bytes(), other.as_bytes())?))
}

/// Imports a file and returns its `config.json` and tokenizer.
fn opened(file: &[u8]) -> Result<(Value, TextTokenizer)> {
    let sandbox = Sandbox::new();
    let folder = imported(&sandbox, &sandbox.write("model.gguf", file)).join("data/model");
    Ok((read(&folder.join("config.json"))?, TextTokenizer::open(&folder)?))
}

#[track_caller]
fn refused(file: &[u8]) -> String {
    let sandbox = Sandbox::new();
    let file = sandbox.write("model.gguf", file);
    sandbox.program(built_programs().join("import-model")).arg("--model-dir").arg(file).run().failed(65)
}

#[test]
fn ends_of_answers_are_those_of_llama_cpp() -> Result<()> {
    let phi = hidden(&Whole::read("phi3")?, "eot_token_id")?;
    let (config, tokenizer) = opened(&phi.0)?;
    assert_eq!(config["eos_token_id"], json!([1, 4]));
    assert_eq!(tokenizer.eos(), [1, 4]);
    Ok(())
}

#[test]
fn a_file_without_ids_has_the_tokens_of_llama_cpp() -> Result<()> {
    let gemma = Whole::read("gemma3_text")?;
    let gemma = ["bos_token_id", "eos_token_id", "eot_token_id"]
        .iter()
        .try_fold(gemma, |file, key| hidden(&file, key))?;
    let gemma = gemma.swap(b"add_bos_token\x07", b"xdd_bos_token\x07")?;
    let (config, tokenizer) = opened(&gemma)?;
    assert_eq!((&config["bos_token_id"], &config["eos_token_id"]), (&json!(1), &json!([2, 1, 5])));
    assert_eq!(tokenizer.encode("king", true)?[0], 1);
    // A byte-level tokenizer has no such token.
    let qwen = hidden(&Whole::read("qwen2")?, "bos_token_id")?;
    let qwen = qwen.swap(b"add_bos_token\x07\0\0\0\0", b"add_bos_token\x07\0\0\0\x01")?;
    let said = refused(&qwen);
    assert!(said.contains("the key `tokenizer.ggml.bos_token_id` is missing"), "{said}");
    Ok(())
}

#[test]
fn control_tokens_of_phi_3_take_the_white_space_after_them() -> Result<()> {
    let gemma = Whole::read("gemma3_text")?;
    let text = "<start_of_turn>\nking<end_of_turn> \n\tthe<bos>\nking";
    let named = |name: &str| with_entry(&gemma.0, &File(Vec::new()).put_text("general.name", name).0);
    let (_, tokenizer) = opened(&named("Phi-3 Mini"))?;
    let together = tokenizer.encode("<start_of_turn>king<end_of_turn>the<bos>king", false)?;
    assert_eq!(tokenizer.encode(text, false)?, together);
    let (_, tokenizer) = opened(&named("Gemma 3"))?;
    assert!(tokenizer.encode(text, false)?.len() >= together.len() + 5);
    Ok(())
}

/// Returns the file with scores that `change` computes from the others.
fn rescored(whole: &Whole, change: impl Fn(usize, f32) -> f32) -> Result<Vec<u8>> {
    let start = whole.after(&File(Vec::new()).text("tokenizer.ggml.scores").u32(9).u32(6).0)?;
    let count = u64::from_le_bytes(whole.0[start..start + 8].try_into()?) as usize;
    let scores = whole.0[start + 8..][..4 * count].chunks_exact(4).enumerate();
    let scores =
        scores.map(|(id, bytes)| Ok(change(id, f32::from_le_bytes(bytes.try_into()?)).to_le_bytes()));
    let scores: Vec<[u8; 4]> = scores.collect::<Result<_>>()?;
    Ok(whole.replaced(start + 8, &scores.concat()))
}

#[test]
fn pieces_whose_order_is_not_known_are_refused() -> Result<()> {
    let gemma = Whole::read("gemma3_text")?;
    let said = refused(&rescored(&gemma, |_, _| 0.0)?);
    assert!(said.contains("have the same score, 0, so the order of their merges is not known"), "{said}");
    // Those that no merge makes have one score, whatever it is.
    let (_, others) = opened(&rescored(&gemma, |_, score| if score < -359.0 { -1e9 } else { score })?)?;
    let (_, tokenizer) = opened(&gemma.0)?;
    for text in ["The king of the king.", "E hele mai ʻoe i ka hale 123", "日本語 и русский"] {
        assert_eq!(others.encode(text, true)?, tokenizer.encode(text, true)?, "{text}");
    }
    Ok(())
}
