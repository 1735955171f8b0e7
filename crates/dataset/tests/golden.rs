//! Chats of every golden case have the same tokens as in the reference implementation.

#![expect(clippy::unwrap_used, reason = "a failing helper fails its test")]

use std::path::Path;

use dataset::{LossOn, Record, Shape, TextTokenizer};
use serde_json::Value;
use testutil::golden_dir;

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Calls `each` with every chat of every golden case that has a tokenizer.
fn for_each_chat(mut each: impl FnMut(&str, &TextTokenizer, &Value)) {
    let mut chats = 0;
    for entry in fs_err::read_dir(golden_dir()).unwrap() {
        let folder = entry.unwrap().path();
        let Ok(expected) = fs_err::read_to_string(folder.join("expected.json")) else { continue };
        let expected: Value = serde_json::from_str(&expected).unwrap();
        if folder.join("tokenizer.json").exists() {
            let tokenizer = TextTokenizer::open(&folder).unwrap();
            for chat in expected["chats"].as_array().into_iter().flatten() {
                chats += 1;
                each(&folder.file_name().unwrap().to_string_lossy(), &tokenizer, chat);
            }
        }
    }
    assert!(chats > 0, "no chat case below {}", golden_dir().display());
}

#[test]
fn chats_have_the_same_text_and_tokens() {
    for_each_chat(|case, tokenizer, chat| {
        let messages = chat["messages"].as_array().unwrap();
        let template = tokenizer.chat_template().unwrap();
        assert_eq!(template.render(messages, false).unwrap(), chat["text"].as_str().unwrap(), "{case}");
        assert_eq!(tokenizer.apply(messages, false).unwrap(), ids(&chat["ids"]), "{case}");
        let last = messages.iter().rposition(|message| message["role"] == "assistant").unwrap();
        assert_eq!(tokenizer.apply(&messages[..last], true).unwrap(), ids(&chat["prompt_ids"]), "{case}");
    });
}

#[test]
fn every_assistant_turn_is_trained_with_its_end_and_nothing_else() {
    for_each_chat(|case, tokenizer, chat| {
        let messages = chat["messages"].as_array().unwrap().clone();
        let turns: Vec<&Value> = messages.iter().filter(|message| message["role"] == "assistant").collect();
        let expected: Vec<&str> = turns.iter().map(|turn| turn["content"].as_str().unwrap()).collect();
        let row = dataset::RawRow {
            line: 1,
            fields: [("messages".to_owned(), Value::Array(messages.clone()))].into_iter().collect(),
        };
        let record = Record::from_row(row, Path::new("chat.jsonl")).unwrap();
        assert!(matches!(record.shape, Shape::Chat { .. }));
        let encoded = dataset::encode(tokenizer, &record, LossOn::Completions).unwrap();
        assert_eq!(encoded.tokens, ids(&chat["ids"]), "{case}");
        assert_eq!(encoded.prompt_length, ids(&chat["prompt_ids"]).len(), "{case}");
        assert!(encoded.prompt_is_prefix, "{case}");
        assert_eq!(encoded.reference.as_deref(), expected.last().copied(), "{case}");
        let mut found = Vec::new();
        let mut run: Vec<u32> = Vec::new();
        for (&token, &flag) in encoded.tokens.iter().zip(&encoded.trained) {
            if flag == 1 {
                run.push(token);
            } else if !run.is_empty() {
                found.push(std::mem::take(&mut run));
            }
        }
        assert_eq!(found.len(), expected.len(), "{case}: the line break after the last turn is not trained");
        for (tokens, content) in found.iter().zip(expected) {
            assert!(
                tokenizer.is_special(*tokens.last().unwrap()),
                "{case}: the turn ends with its end token"
            );
            assert_eq!(
                tokenizer.decode(&tokens[..tokens.len() - 1], false).unwrap().trim_end(),
                content.trim_end(),
                "{case}"
            );
        }
    });
}
