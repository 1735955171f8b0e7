//! Hostile files: refused quickly, in little memory, by a message that names the fault.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use testutil::{Ran, Sandbox, built_programs};

use crate::file::{File, Whole};

/// Returns hostile files with a word that the message must contain.
fn hostile() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let whole = Whole::read("qwen2")?;
    let one = |shape: &[u64], storage, offset| File::new(1, 0).tensor("t", shape, storage, offset).data(64).0;
    let list = |kind: u32, count: u64| {
        File::new(0, 1).text("tokenizer.ggml.tokens").u32(9).u32(kind).u64(count).data(64).0
    };
    let many = File::new(0, 1).text("a").u32(9).u32(8).u64(10_000_000).data(80_000_000).0;
    Ok(vec![
        ("GGUF", b"GGML and more".to_vec()),
        ("truncated", b"GGUF".to_vec()),
        ("version is 9", [b"GGUF".as_slice(), &9_u32.to_le_bytes()].concat()),
        ("big-endian", [b"GGUF".as_slice(), &3_u32.to_be_bytes()].concat()),
        ("tensors", File::new(u64::MAX, 0).0),
        ("metadata entries", File::new(0, u64::MAX).0),
        ("claims 1000000000 values", list(8, 1_000_000_000)),
        ("claims 18446744073709551615 values", list(4, u64::MAX)),
        ("claims 4294967296 bytes", File::new(0, 1).text("a").u32(8).u64(1 << 32).data(64).0),
        ("lists of lists", list(9, 1)),
        ("unknown value type", File::new(0, 1).text("a").u32(99).data(64).0),
        ("occurs twice", File::new(0, 2).put_u32("a", 1).put_u32("a", 1).0),
        ("dimensions", one(&[1; 9], 0, 0)),
        ("too large", one(&[1 << 62, 1 << 62], 0, 0)),
        ("blocks of 32", one(&[31], 2, 0)),
        ("unknown type 4000", one(&[32], 4000, 0)),
        ("IQ2_XXS", one(&[256], 16, 0)),
        ("ends after the file", one(&[1 << 40], 0, 0)),
        ("ends after the file", one(&[4], 0, u64::MAX - 31)),
        ("multiple of 32", one(&[4], 0, 3)),
        ("overlap", File::new(2, 0).tensor("t", &[9], 0, 0).tensor("u", &[4], 0, 32).data(64).0),
        ("a power of two", File::new(0, 1).put_u32("general.alignment", 0).0),
        ("MiB allowed", many),
        ("claims 4294967296 bytes", list_of_texts(2).u64(1 << 32).data(64).0),
        ("not valid UTF-8", File::new(0, 1).u64(2).bytes(&[0xc0, 0xaf]).u32(4).u32(1).0),
        ("expected 1 to 256", File::new(0, 1).text(&"k".repeat(257)).u32(4).u32(1).0),
        ("expected 0 or 1", File::new(0, 1).text("a").u32(7).bytes(&[7]).0),
        ("`t` occurs twice", File::new(2, 0).tensor("t", &[4], 0, 0).tensor("t", &[4], 0, 32).data(64).0),
        ("0 dimensions", one(&[], 0, 0)),
        ("blocks of 1", one(&[0], 0, 0)),
        ("too large", one(&[1 << 32, 1 << 32, 1 << 32], 0, 0)),
        ("multiple of 32", one(&[4], 0, u64::MAX)),
        ("overlap", File::new(2, 0).tensor("t", &[4], 0, 0).tensor("u", &[4], 0, 0).data(64).0),
        ("a power of two", File::new(0, 1).put_u32("general.alignment", 1 << 31).0),
        ("a power of two", File::new(0, 1).put_text("general.alignment", "32").0),
        ("`general.architecture`", File::new(0, 1).put_u32("general.architecture", 5).0),
        ("ends after the file", whole.0[..whole.0.len() - 1000].to_vec()),
        ("`general.architecture` is missing", File::new(0, 1).put_u32("a", 1).0),
        ("is part 2 of 3", File::new(0, 2).put_u32("split.no", 1).put_u32("split.count", 3).0),
        ("`mamba`", File::new(0, 1).put_text("general.architecture", "mamba").0),
        ("`qwen9`", whole.swap(b"\x05\0\0\0\0\0\0\0qwen2", b"\x05\0\0\0\0\0\0\0qwen9")?),
        ("`bert`", whole.swap(b"\x04\0\0\0\0\0\0\0gpt2", b"\x04\0\0\0\0\0\0\0bert")?),
        ("`gpt-9`", whole.swap(b"\x05\0\0\0\0\0\0\0gpt-2", b"\x05\0\0\0\0\0\0\0gpt-9")?),
        ("blk.0.attn_x.weight", whole.swap(b"blk.0.attn_q.weight", b"blk.0.attn_x.weight")?),
        ("blk.7.attn_q.weight", whole.swap(b"blk.0.attn_q.weight", b"blk.7.attn_q.weight")?),
        ("qwen2.block_count", whole.swap(b"qwen2.block_count\x04\0\0\0", b"qwen2.block_count\x08\0\0\0")?),
        (
            "not the id of a token",
            whole.swap(b"bos_token_id\x04\0\0\0\x02\0\0\0", b"bos_token_id\x04\0\0\0\xff\xff\xff\x7f")?,
        ),
    ])
}

/// Returns files with numbers, types and templates that no model has.
fn hostile_metadata() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let whole = Whole::read("qwen2")?;
    Ok(vec![
        ("`qwen2.embedding_length` is 0, expected 1 to", whole.put("qwen2.embedding_length", 0)?),
        ("`qwen2.attention.head_count` is 0, expected 1 to", whole.put("qwen2.attention.head_count", 0)?),
        (
            "`qwen2.attention.head_count_kv` is 0, expected 1 to",
            whole.put("qwen2.attention.head_count_kv", 0)?,
        ),
        ("`qwen2.feed_forward_length` is 0, expected 1 to", whole.put("qwen2.feed_forward_length", 0)?),
        ("`qwen2.context_length` is 0, expected 1 to", whole.put("qwen2.context_length", 0)?),
        ("`qwen2.block_count` is 0, expected 1 to", whole.put("qwen2.block_count", 0)?),
        ("`qwen2.block_count` is 1000000000, expected", whole.put("qwen2.block_count", 1_000_000_000)?),
        ("`qwen2.attention.head_count` is 4294967295", whole.put("qwen2.attention.head_count", u32::MAX)?),
        ("`qwen2.attention.head_count` is 3, not a multiple", whole.put("qwen2.attention.head_count", 3)?),
        ("`qwen2.embedding_length` is 50, not a multiple", whole.put("qwen2.embedding_length", 50)?),
        ("layers.3", whole.put("qwen2.block_count", 4)?),
        ("`qwen2.embedding_length` is 4294967295", whole.put("qwen2.embedding_length", u32::MAX)?),
        ("`qwen2.feed_forward_length` is 4294967295", whole.put("qwen2.feed_forward_length", u32::MAX)?),
        ("`qwen2.context_length` is 4294967295", whole.put("qwen2.context_length", u32::MAX)?),
        (
            "`qwen2.attention.key_length` is 0, expected 1 to",
            whole.with("qwen2.attention.key_length", 4, &[0; 4]),
        ),
        ("`qwen2.rope.dimension_count` is 0", whole.with("qwen2.rope.dimension_count", 4, &[0; 4])),
        ("`qwen2.vocab_size` is 0", whole.with("qwen2.vocab_size", 4, &[0; 4])),
        ("`qwen2.vocab_size` is a float", whole.with("qwen2.vocab_size", 6, &[0; 4])),
        (
            "`qwen2.attention.key_length` is -12",
            whole.with("qwen2.attention.key_length", 5, &(-12_i32).to_le_bytes()),
        ),
        ("epsilon` is 0, expected a number above 0", whole.epsilon(6, 0.0)?),
        ("epsilon` is -1, expected a number above 0", whole.epsilon(6, -1.0)?),
        ("epsilon` is NaN", whole.epsilon(6, f32::NAN)?),
        ("epsilon` is an integer, expected a float", whole.epsilon(4, 0.0)?),
        (
            "`qwen2.rope.freq_base_swa` is inf",
            whole.with("qwen2.rope.freq_base_swa", 6, &f32::INFINITY.to_le_bytes()),
        ),
        (
            "`qwen2.rope.scaling.factor` is -2",
            whole.with("qwen2.rope.scaling.factor", 6, &(-2_f32).to_le_bytes()),
        ),
        (
            "the rope scaling is `su`",
            whole.with("qwen2.rope.scaling.type", 8, &File(Vec::new()).text("su").0),
        ),
        (
            "`qwen2.attention.sliding_window` is not supported",
            whole.with("qwen2.attention.sliding_window", 4, &24_u32.to_le_bytes()),
        ),
        ("of the token 5 is 99, expected 0 to 6", whole.token_kind(5, 99)?),
        (
            "`tokenizer.chat_template.tool_use` is not a usable chat template: line 2",
            whole.with("tokenizer.chat_template.tool_use", 8, &File(Vec::new()).text("a\n{% if %}").0),
        ),
        (
            "`tokenizer.chat_template` is not a usable chat template: line 1",
            whole.swap(b"{%- for m in", b"{%- fur m in")?,
        ),
    ])
}

/// Starts a file with one list of `count` texts.
fn list_of_texts(count: u64) -> File {
    File::new(0, 1).text("tokenizer.ggml.tokens").u32(9).u32(8).u64(count)
}

/// Returns the starts of files that are as long as they claim, with a word that the message must contain and their lengths.
fn sparse() -> Vec<(&'static str, Vec<u8>, u64)> {
    let text = File::new(0, 1).text("tokenizer.chat_template").u32(8).u64(1 << 32).0;
    vec![
        ("MiB allowed", list_of_texts(1_000_000_000).0, 9_000_000_000),
        ("MiB allowed", text, 5_000_000_000),
        ("MiB allowed", list_of_texts(2).u64(1 << 32).0, 5_000_000_000),
        ("MiB allowed", File::new(0, 1).text("a").u32(9).u32(0).u64(1 << 32).0, 5_000_000_000),
    ]
}

/// Runs a program to its end; returns its outcome, its peak resident memory in bytes, and its duration.
pub(crate) fn watched(program: &mut testutil::Program) -> Result<(Ran, u64, Duration)> {
    let begun = Instant::now();
    let mut child = program.spawn();
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let mut peak = 0;
    while child.try_wait()?.is_none() {
        let text = fs_err::read_to_string(&status).unwrap_or_default();
        let kibibytes = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = kibibytes.and_then(|number| number.trim().parse().ok()).unwrap_or(0).max(peak);
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok((child.wait_with_output()?.into(), peak << 10, begun.elapsed()))
}

/// Returns a small Llama with these `SentencePiece` tokens, of which the scores fall, or are all the same.
fn pieces(tokens: &[String], kind: u32, is_equal: bool) -> Vec<u8> {
    let list = |file: File, key: &str, kind: u32| file.text(key).u32(9).u32(kind).u64(tokens.len() as u64);
    let file = File::new(1, 8)
        .put_text("general.architecture", "llama")
        .put_u32("llama.embedding_length", 1)
        .put_u32("llama.attention.head_count", 1)
        .put_u32("llama.block_count", 1)
        .put_text("tokenizer.ggml.model", "llama");
    let file = tokens.iter().fold(list(file, "tokenizer.ggml.tokens", 8), |file, token| file.text(token));
    let file = tokens.iter().fold(list(file, "tokenizer.ggml.token_type", 5), |file, _| file.u32(kind));
    let file = list(file, "tokenizer.ggml.scores", 6);
    let score = |id: usize| if is_equal { 0.0 } else { -(id as f32) };
    let file = (0..tokens.len()).fold(file, |file, id| file.bytes(&score(id).to_le_bytes()));
    file.tensor("token_embd.weight", &[1, tokens.len() as u64], 0, 0).data(4 * tokens.len()).0
}

/// Returns runs of 1 to `longest` of some characters.
fn runs(characters: u32, longest: usize) -> Vec<String> {
    let characters = (0x4e00..0x4e00 + characters).filter_map(char::from_u32);
    characters.flat_map(|it| (1..=longest).map(move |length| it.to_string().repeat(length))).collect()
}

/// Returns files whose tokens take long to take apart, or can be made in very many ways.
fn hostile_tokens() -> Vec<(&'static str, Vec<u8>)> {
    const NORMAL: u32 = 1;
    const CONTROL: u32 = 3;
    let letters = ('a'..='z')
        .chain('A'..='D')
        .flat_map(|it| (1..=1024).map(move |length| it.to_string().repeat(length)));
    let long = |count: usize, width: usize| -> Vec<String> {
        (0..count).map(|id| format!("{id:0width$}")).collect()
    };
    vec![
        ("has 257 bytes; tokens of up to 256 bytes", pieces(&letters.collect::<Vec<_>>(), NORMAL, true)),
        ("has 1024 bytes; tokens of up to 256 bytes", pieces(&long(40_000, 1024), NORMAL, true)),
        ("the tokens are too long", pieces(&long(150_000, 250), NORMAL, true)),
        ("in too many ways", pieces(&runs(9000, 16), NORMAL, false)),
        ("in too many ways", pieces(&runs(95, 85), NORMAL, false)),
        ("have the same score", pieces(&["a", "b", "c", "ab", "bc"].map(str::to_owned), NORMAL, true)),
        ("user-defined tokens are 20000000 bytes", pieces(&long(20_000, 1000), CONTROL, true)),
        ("user-defined tokens are 400000 in number", pieces(&long(400_000, 6), CONTROL, true)),
    ]
}

#[test]
fn hostile_files_are_refused_quickly_and_in_little_memory() -> Result<()> {
    let sandbox = Sandbox::new();
    let whole = |(word, bytes): (&'static str, Vec<u8>)| {
        let length = bytes.len() as u64;
        (word, bytes, length)
    };
    let files: Vec<_> = hostile()?
        .into_iter()
        .chain(hostile_metadata()?)
        .chain(hostile_tokens())
        .map(whole)
        .chain(sparse())
        .collect();
    assert!(files.len() >= 40);
    for (word, bytes, length) in files {
        let path = sandbox.write("hostile.gguf", bytes);
        fs_err::OpenOptions::new().write(true).open(&path)?.set_len(length)?;
        let mut program = sandbox.program(built_programs().join("import-model"));
        let (ran, peak, elapsed) = watched(program.arg("--model-dir").arg(&path))?;
        let said = ran.failed(65);
        assert!(
            said.contains("hostile.gguf") && said.contains(word) && said.contains("hint: "),
            "{word}: {said}"
        );
        assert!(peak < 64 << 20, "{word}: {} MiB", peak >> 20);
        assert!(elapsed < Duration::from_secs(1), "{word}: {elapsed:?}");
        assert!(sandbox.trees().is_empty(), "{word}");
    }
    Ok(())
}
