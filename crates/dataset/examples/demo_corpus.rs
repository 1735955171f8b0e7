//! Makes the inputs for training the demo model: a corpus, a tokenizer and a model folder without weights.
//!
//! usage: `demo_corpus FORNANDER.jsonl ROWS_FOLDER CONFIG.json OUT`
//!
//! Uses every passage of the Fornander text that is not in the translation benchmark and whose story is in neither the
//! validation nor the test split of the dataset in `ROWS_FOLDER`. Writes `OUT/corpus.jsonl`, with the Hawaiian and the
//! English text of a passage as separate rows, so that the model never sees which translates which;
//! `OUT/seed/tokenizer.json` with its configuration; and `OUT/seed/config.json`. `make demo-base` runs it.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{AddedToken, Tokenizer};

/// Chat template of the demo model, with Gemma's turns.
const TEMPLATE: &str = "{{ bos_token }}{%- for m in messages -%}\
{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}\
{{ '<start_of_turn>' + role + '\\n' + (m['content'] | trim) + '<end_of_turn>\\n' }}\
{%- endfor -%}{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}";

const SPECIAL: [&str; 5] = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"];

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [fornander, rows, config, out] = &arguments[..] else {
        return Err("usage: demo_corpus FORNANDER.jsonl ROWS_FOLDER CONFIG.json OUT".into());
    };
    let seed = Path::new(out).join("seed");
    fs_err::create_dir_all(&seed)?;
    let texts = corpus(Path::new(fornander), &held_out_groups(Path::new(rows))?)?;
    let lines: String = texts.iter().map(|text| json!({"text": text}).to_string() + "\n").collect();
    fs_err::write(Path::new(out).join("corpus.jsonl"), lines)?;
    let config_text = fs_err::read_to_string(config)?;
    let config: Value = serde_json::from_str(&config_text)?;
    let vocabulary = config["vocab_size"].as_u64().ok_or("config.json has no `vocab_size`")?;
    tokenizer(&texts, vocabulary as usize)?.save(seed.join("tokenizer.json"), true)?;
    fs_err::write(seed.join("config.json"), config_text)?;
    let tokenizer_config = json!({
        "bos_token": "<bos>",
        "chat_template": TEMPLATE,
        "eos_token": "<eos>",
        "model_max_length": config["max_position_embeddings"],
        "pad_token": "<pad>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    fs_err::write(
        seed.join("tokenizer_config.json"),
        serde_json::to_string_pretty(&tokenizer_config)? + "\n",
    )?;
    Ok(())
}

/// Returns the groups in the validation and test splits.
fn held_out_groups(rows: &Path) -> Result<BTreeSet<String>, Box<dyn Error + Send + Sync>> {
    let mut groups = BTreeSet::new();
    for split in ["validation", "test"] {
        for row in dataset::read_rows(&rows.join(format!("{split}.jsonl")))? {
            groups.extend(row?.group);
        }
    }
    Ok(groups)
}

fn corpus(path: &Path, held_out: &BTreeSet<String>) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
    let mut texts = Vec::new();
    let mut skipped = 0;
    for line in fs_err::read_to_string(path)?.lines() {
        let row: Value = serde_json::from_str(line)?;
        let group = format!("{} / {}", row["book"], row["story"].as_str().unwrap_or_default());
        if held_out.contains(&group) || !row["eval10_row"].is_null() {
            skipped += 1;
            continue;
        }
        texts.extend(
            ["haw", "eng"].iter().filter_map(|side| row[*side].as_str()).map(dataset::text::normalize),
        );
    }
    if skipped == 0 {
        return Err("no passage was left out: the groups in ROWS_FOLDER are not `book / story`".into());
    }
    Ok(texts)
}

fn tokenizer(texts: &[String], vocabulary: usize) -> Result<Tokenizer, Box<dyn Error + Send + Sync>> {
    let mut tokenizer = Tokenizer::new(BPE::default());
    let pieces = tokenizers::pre_tokenizers::byte_level::ByteLevel::new(false, true, true);
    tokenizer.with_pre_tokenizer(Some(pieces));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let special = SPECIAL.iter().map(|text| AddedToken::from(*text, true)).collect();
    let trainer = BpeTrainer::builder()
        .vocab_size(vocabulary)
        .initial_alphabet(tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special)
        .show_progress(false)
        .build();
    tokenizer.train(&mut TrainerWrapper::BpeTrainer(trainer), texts.iter().map(String::as_str))?;
    Ok(tokenizer)
}
